"""`serinus data`: what is on record of the data. `serinus data plan` is in plan_command.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import BaseModel

from cluster import config
from cluster.command_line import JsonOption, RecipeOption, storage_of
from cluster.storage import open_storage

if TYPE_CHECKING:
    from pipelines.config import LifecycleConfig

Found = TypeVar("Found", bound=BaseModel)

VersionOption = Annotated[str | None, typer.Option(help="key or digest of a version, or the beginning of one")]
VersionArgument = Annotated[
    str | None, typer.Argument(help="key or digest, or the beginning of one; default: the newest")
]
ReadRecipe = Callable[[Path | None], "LifecycleConfig"]
"""None: that of the last `serinus deploy`."""


def register(app: typer.Typer, read_recipe: ReadRecipe) -> None:
    """Put the commands among those of `app`."""

    _versions(app)
    _compared(app)
    _reported(app, read_recipe)
    _documents(app)


def _versions(app: typer.Typer) -> None:
    @app.command("log")
    def data_log(
        recipe: RecipeOption = None,
        last: Annotated[int | None, typer.Option(min=1, help="only so many versions")] = None,
        as_json: JsonOption = False,
    ) -> None:
        """The versions of the dataset, newest first, each with what it changed."""
        from pipelines.data import history, tell

        found = history.versions(storage_of(recipe))
        if as_json:
            newest = found.found[::-1][:last]
            print(json.dumps([{"digest": made.digest, **made.model_dump(mode="json")} for made in newest], indent=1))
            return
        say(tell.log_lines(found, last) if any(found) else ["no dataset yet: serinus run RECIPE"])

    @app.command("show")
    def data_show(version: VersionArgument = None, recipe: RecipeOption = None, as_json: JsonOption = False) -> None:
        """One version's figures, and what was made of it."""
        from cluster.descent import descent
        from pipelines.data import history, record, tell

        storage = storage_of(recipe)
        found = history.version(storage, version)
        made = descent(storage, found.location)
        if as_json:
            both = {"digest": found.digest, **found.model_dump(mode="json"), "made_of_it": made.model_dump(mode="json")}
            print(json.dumps(both, indent=1))
            return
        say(tell.show_lines(found, made, recorded=record.is_recorded(storage, found)))


def _compared(app: typer.Typer) -> None:
    @app.command("diff")
    def data_diff(
        old: Annotated[str | None, typer.Argument(help="default: the one before the newest")] = None,
        new: VersionArgument = None,
        recipe: RecipeOption = None,
        examples: Annotated[int, typer.Option(min=0, help="documents to name for each kind of change")] = 10,
        as_json: JsonOption = False,
    ) -> None:
        """What changed from one version to another: rules, input, and what became of which documents, and why."""
        from pipelines.data import history, tell

        storage = storage_of(recipe)
        before, after = history.version(storage, old, back=1), history.version(storage, new)
        found = history.difference(storage, before, after, examples)
        _show(found, tell.diff_lines, as_json)


def _reported(app: typer.Typer, read_recipe: ReadRecipe) -> None:
    @app.command("report")
    def data_report(
        version: VersionArgument = None,
        recipe: RecipeOption = None,
        folder: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path(),
    ) -> None:
        """Write how clean, comprehensive and consistent a version is, as an HTML page and as JSON. Exit code 1 when a
        check fails."""
        from pipelines.data import history
        from pipelines.data.report.page import write
        from pipelines.data.report.report import report

        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        found = report(storage, history.version(storage, version), loaded.data)
        say(str(path) for path in write(found, folder))
        failed = [check.what for check in found.checks if check.ok is False]
        say(f"does not hold: {what}" for what in failed)
        raise typer.Exit(1 if failed else 0)


def _documents(app: typer.Typer) -> None:
    @app.command("trace")
    def data_trace(
        document: Annotated[str, typer.Argument(metavar="ID", help="id of a document, or the beginning of one")],
        version: VersionOption = None,
        recipe: RecipeOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Where a document came from, what became of it in each version, and which models have seen it."""
        from pipelines.data import history, tell
        from pipelines.data.trace import trace

        storage = storage_of(recipe)
        found = trace(storage, document, history.version(storage, version) if version else None)
        _show(found, tell.trace_lines, as_json)

    @app.command("forget")
    def data_forget(
        document: Annotated[str, typer.Argument(metavar="ID", help="whole id of a document")],
        version: VersionOption = None,
        recipe: RecipeOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Make a version without a document, keep it out of those to come, and name the models to retrain."""
        from datetime import UTC, datetime

        from pipelines.data import history, tell
        from pipelines.data.forget import forget

        storage = storage_of(recipe)
        chosen = history.version(storage, version) if version else None
        done = forget(storage, document, chosen, config.user_name(), datetime.now(UTC))
        _show(done, tell.forget_lines, as_json)


def _show(found: Found, lines: Callable[[Found], Iterable[str]], as_json: bool) -> None:
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    say(lines(found))


def say(lines: Iterable[str]) -> None:
    """What documents bring along (ids, field names) must not move a terminal's cursor."""
    for line in lines:
        print("".join(character if character.isprintable() else "\ufffd" for character in line))

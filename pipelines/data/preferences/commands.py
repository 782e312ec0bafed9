"""`serinus data preferences run|list|show`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.command_line import JsonOption, RecipeOption, storage_of
from cluster.storage import open_storage

if TYPE_CHECKING:
    from cluster.artifacts import Preferences
    from cluster.storage import Storage
    from pipelines.config import LifecycleConfig

Wanted = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="key, or the beginning of one; default: the newest")
]
ReadRecipe = Callable[[Path | None], "LifecycleConfig"]
Say = Callable[[Iterable[str]], None]


def register(app: typer.Typer, read_recipe: ReadRecipe, say: Say) -> None:
    """Put the commands among those of `app`."""
    group = typer.Typer(help="Pairs of answers for training, from users' votes and corrections.")
    app.add_typer(group, name="preferences")
    _making(group, read_recipe, say)
    _looking(group, say)


def _making(group: typer.Typer, read_recipe: ReadRecipe, say: Say) -> None:
    @group.command("run")
    def run(recipe: RecipeOption = None) -> None:
        """Make a version of all votes on the recipe's model, under the recipe's rules on personal data."""
        from pipelines.data.preferences.make import preferences

        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        say(_lines(preferences(loaded.name, loaded.data, storage), storage))


def _looking(group: typer.Typer, say: Say) -> None:
    @group.command("list")
    def listed(recipe: RecipeOption = None) -> None:
        """The versions, newest last."""
        from cluster.artifacts import Preferences
        from cluster.versions import every

        for one in every(storage_of(recipe), Preferences)[0]:
            say([f"{one.key}  {one.made_at:%Y-%m-%d %H:%M}  {one.name}  {one.summary}"])

    @group.command("show")
    def show(
        version: Wanted = None,
        recipe: RecipeOption = None,
        examples: Annotated[int, typer.Option(min=0, help="excluded votes to show")] = 10,
        as_json: JsonOption = False,
    ) -> None:
        """One version: its figures, where the file is, what was excluded and why, and the models that learnt from it."""
        from cluster.descent import descent
        from pipelines.data.preferences.make import find, read_excluded

        storage = storage_of(recipe)
        found = find(storage, version)
        if as_json:
            print(found.model_dump_json(indent=1))
            return
        say(_lines(found, storage))
        left = read_excluded(storage, found)
        say(f"  {one.where}  {one.reason}{f': {one.detail}' if one.detail else ''}" for one in left[:examples])
        for model in descent(storage, found.location).models:
            say([f"  {model.kind} {model.revision or model.key}  {model.how}"])


def _lines(made: Preferences, storage: Storage) -> Iterable[str]:
    yield f"preferences {made.key} of {made.name}: {made.num_pairs} pairs of {made.num_votes} votes"
    for how, num in made.num_pairs_by_how.items():
        yield f"  pairs by {how:<24} {num}"
    for reason, num in made.num_excluded_by_reason.items():
        yield f"  excluded  {reason:<23} {num}"
    for kind, num in made.num_protected_by_kind.items():
        yield f"  replaced  {kind:<23} {num}"
    yield f"  train.method: {{kind: dpo, path: {storage.uri}/{made.location}/pairs.jsonl}}"

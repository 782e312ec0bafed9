"""`serinus doctor`, and how its findings are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from cluster.doctor.finding import Finding
from cluster.storage_config import StorageConfig
from cluster.telemetry import printable

COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


class Named(NamedTuple):
    """What a recipe names that can be looked at; without a recipe, what holds by default."""

    storage: StorageConfig | None
    keys: list[Path]
    port: int


def register(app: typer.Typer, named: Callable[[Path | None], Named]) -> None:
    """Add the command to the command line, which knows recipes."""

    @app.command()
    def doctor(
        recipe: Annotated[
            Path | None, typer.Argument(metavar="[RECIPE]", help="also its storage, keys and port")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    ) -> None:
        """Check this machine, the environment, the cluster, storage, keys and Kubernetes, and say what to do. Exit code 0 or 2."""
        from cluster.doctor import examine

        found = examine.examine(examine.groups(*named(recipe)))
        show(found, as_json=as_json)
        raise typer.Exit(2 if any(finding.state == "failed" for finding in found) else 0)


def show(found: Sequence[Finding], *, as_json: bool) -> None:
    """One line each, and a remedy below what is wrong."""
    if as_json:
        print(json.dumps([finding.model_dump() for finding in found], indent=1))
        return
    out = Console(highlight=False, soft_wrap=True, markup=False)
    for finding in found:
        out.print(f"{finding.state:<9}", style=COLOURS[finding.state], end="")
        out.print(f"{finding.check:<18}{printable(finding.found)}")
        if finding.remedy:
            out.print(f"{'':<9}-> {printable(finding.remedy)}")
    wrong = {state: sum(finding.state == state for finding in found) for state in ("failed", "warning")}
    out.print(f"{len(found)} checks: {wrong['failed']} failed, {wrong['warning']} warning(s)")

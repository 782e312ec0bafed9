"""`serinus gate`: the verdict on a model that was made, in words."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cluster.command_line import RecipeOption
from cluster.recipe import read_named
from cluster.storage import open_storage


def register(app: typer.Typer, out: Console) -> None:
    """Put the command among those of `app`."""

    @app.command("explain")
    def gate_explain(
        report: Annotated[
            str | None, typer.Argument(help="a gate's key, digest or manifest.json; default: the recipe's last")
        ] = None,
        recipe: RecipeOption = None,
    ) -> None:
        """Say in words what a gate compared, what it found, and what more items would settle."""
        from pipelines.evaluation import explain, judged, verdict
        from pipelines.quantization.search import lines

        if report is not None and report.endswith(".json"):
            found, storage = verdict.read_report(report), verdict.storage_of(report)
        else:
            loaded = read_named(recipe)
            storage = open_storage(loaded.storage)
            found = (
                verdict.find_report(storage, report) if report is not None else judged.last_gate(storage, loaded.name)
            )
        searched = judged.find_search(storage, found) if storage else None
        for line in [*explain.lines(found), *(["", *lines(searched)] if searched else [])]:
            out.print(line, markup=False)

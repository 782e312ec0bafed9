"""`serinus eval-compare`: two evaluations of the same items."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.evaluation.agreement import Agreement, Different, TaskAgreement

SHOWN = 60
"""Characters of an answer."""


def register(app: typer.Typer, out: Console) -> None:
    """Add the command."""

    @app.command("eval-compare")
    def compare(
        first: Annotated[Path, typer.Argument(help="folder that `serinus eval --out` wrote")],
        second: Annotated[Path, typer.Argument(help="another one, of the same tasks")],
        task: Annotated[list[str] | None, typer.Option(help="this task alone; may be given several times")] = None,
        written: Annotated[Path | None, typer.Option("--out", help="also write what is found, as JSON")] = None,
    ) -> None:
        """Hold two evaluations of the same items against each other; exit code 1 where an item comes out differently."""
        from cluster.errors import ConfigError
        from pipelines.evaluation.agreement import agreement, read

        found = agreement(read(first), read(second), task or ())
        if written is not None:
            try:
                written.write_text(found.model_dump_json(indent=1), encoding="utf-8")
            except OSError as error:
                remedy = "name a file that you may write to"
                raise ConfigError(f"--out: {written}", f"cannot be written to: {error.strerror}", remedy) from None
        out.print(f"first: {found.first}\nsecond: {found.second}", markup=False)
        out.print(_table(found))
        for one in (one for task in found.tasks for one in task.different):
            out.print(_line(one), markup=False)
        raise typer.Exit(1 if found.num_different else 0)


def _table(found: Agreement) -> Table:
    names = ("task", "metric", "items", "differ", "other texts", "first", "second", "mean distance", "largest")
    table = Table(*names, box=None, header_style="bold", caption="distance: of log-likelihoods, in nats per byte")
    for task in found.tasks:
        table.add_row(*_cells(task))
    return table


def _cells(task: TaskAgreement) -> tuple[str, ...]:
    distances = ("" if one is None else f"{one:.2g}" for one in (task.mean_distance, task.largest_distance))
    counts = (str(task.num_items), str(len(task.different)), str(task.num_other_texts))
    return (task.task, task.metric, *counts, f"{task.first:.6g}", f"{task.second:.6g}", *distances)


def _line(one: Different) -> str:
    first, second = (
        f"{text.strip()[:SHOWN]!r}" + ("" if gap is None else f" by {gap:.3g}")
        for text, gap in ((one.first, one.first_gap), (one.second, one.second_gap))
    )
    return f"{one.task} {one.id}: first {first}, second {second}"

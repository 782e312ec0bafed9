"""What a person sees while a stage works: a bar on a terminal, a line now and then in a log. Prometheus is told of it too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.progress import console, say
from pipelines import measures

__all__ = ["Bar", "bar", "say"]

LOG_EVERY_S = 10.0


class Bar:
    """Counts work done. `update` sets the count; figures stand beside it."""

    def __init__(self, stage: str, total: int | None, unit: str, progress: Progress | None) -> None:
        self._stage, self._total, self._unit, self._progress = stage, total, unit, progress
        self._task = progress.add_task(f"{stage:>9}", total=total, figures="") if progress else None
        self._said_at = time.monotonic()
        self._measures = measures.current()

    def update(self, completed: int, figures: str = "") -> None:
        if self._measures is not None:
            self._measures.progress(completed, self._total, self._unit)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed, figures=figures)
        elif time.monotonic() - self._said_at >= LOG_EVERY_S:
            self._said_at = time.monotonic()
            of = f" of {self._total}" if self._total else ""
            say(self._stage, f"{completed}{of} {self._unit} {figures}".rstrip())


@contextmanager
def bar(stage: str, total: int | None, unit: str) -> Iterator[Bar]:
    """Show progress over `total` units (None: unknown) while the block runs."""
    if not console.is_terminal:
        yield Bar(stage, total, unit, None)
        return
    columns = (
        TextColumn("[bold cyan]{task.description}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(stage, total, unit, progress)

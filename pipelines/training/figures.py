"""How a run goes, from rank 0 to the driver's screen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines import progress

POLL_S = 0.5


class Figures:
    """Where rank 0 leaves its figures for the driver (a Ray actor); reports to Ray Train would make every rank wait."""

    def __init__(self) -> None:
        self._last = (0, 0.0, 0.0)

    def update(self, step: int, loss: float, tokens_per_s: float) -> None:
        self._last = (step, loss, tokens_per_s)

    def last(self) -> tuple[int, float, float]:
        """Steps done, loss, tokens/s."""
        return self._last


@contextmanager
def shown(figures: Any, num_steps: int) -> Iterator[None]:
    """Draw the bar from a thread while the block, which is Ray's, keeps the main one."""
    done = threading.Event()
    with progress.bar("train", num_steps, "steps") as bar:
        watcher = threading.Thread(target=_watch, args=(figures, bar, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join(timeout=2 * POLL_S)


def _watch(figures: Any, bar: progress.Bar, done: threading.Event) -> None:
    import ray

    step, loss, speed = 0, 0.0, 0.0
    while not done.wait(POLL_S):
        try:
            step, loss, speed = ray.get(figures.last.remote(), timeout=5.0)
        except ray.exceptions.GetTimeoutError:
            pass  # a busy machine: show what is known
        except ray.exceptions.RayError:
            return
        bar.update(step, f"loss {loss:.3f}  {speed:.0f} tokens/s" if step else "starting the workers")

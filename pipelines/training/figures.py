"""How a run goes, from rank 0 to the driver's screen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.artifacts import LossPoint
from pipelines import progress
from pipelines.training.trackers import Guarded, Values

POLL_S = 0.5


class Figures:
    """Where rank 0 leaves its figures for the driver (a Ray actor); reports to Ray Train would make every rank wait."""

    def __init__(self) -> None:
        self._new: list[tuple[int, Values]] = []
        self._doing = "starting the workers"

    def update(self, step: int, values: Values) -> None:
        self._new.append((step, values))
        self._doing = ""

    def tell(self, doing: str) -> None:
        """What the ranks do between steps, where it takes long."""
        self._doing = doing

    def take(self) -> tuple[list[tuple[int, Values]], str]:
        """(steps done, figures) of each step since the last call; what is done now that is no step."""
        taken, self._new = self._new, []
        return taken, self._doing


def figures_of(point: LossPoint, tokens_per_s: float) -> Values:
    """Of one step, by name."""
    epsilon = {} if point.epsilon is None else {"epsilon": point.epsilon}
    return {
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "num_tokens": float(point.num_tokens),
        "tokens_per_s": tokens_per_s,
        **epsilon,
    }


@contextmanager
def shown(figures: Any, num_steps: int, tracker: Guarded) -> Iterator[None]:
    """Draw the bar and feed the trackers from a thread while the block, which is Ray's, keeps the main one."""
    done = threading.Event()
    with progress.bar("train", num_steps, "steps") as bar:
        watcher = threading.Thread(target=_watch, args=(figures, bar, tracker, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join(timeout=10 * POLL_S)
            tracker.close()


def _watch(figures: Any, bar: progress.Bar, tracker: Guarded, done: threading.Event) -> None:
    import ray

    step, told, doing = 0, "", ""
    ended = False
    while not ended:
        ended = done.wait(POLL_S)  # once more after the end: for the last steps
        try:
            taken, doing = ray.get(figures.take.remote(), timeout=5.0)
        except ray.exceptions.GetTimeoutError:
            taken = []  # a busy machine: show what is known
        except ray.exceptions.RayError:
            return
        for step, values in taken:
            tracker.log(step, values)
            name = "reward" if "reward" in values else "loss"
            told = f"{name} {values[name]:.3f}  {values['tokens_per_s']:.0f} tokens/s"
        bar.update(step, doing or told)

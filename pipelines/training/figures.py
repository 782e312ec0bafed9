"""How a run goes, from rank 0 to the driver's screen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from cluster.artifacts import LossPoint
from pipelines import measures, progress
from pipelines.training.trackers import Guarded, Values
from pipelines.training.watch import Places

POLL_S = 0.5
STARTING = "starting the workers"
Steps = Sequence[tuple[int, Values]]
"""Steps done, each with its figures."""


class Figures(Places):
    """Where rank 0 leaves its figures for the driver, and all ranks where they are (a Ray actor); reports to Ray Train would make
    every rank wait."""

    def __init__(self) -> None:
        super().__init__()
        self._new: list[tuple[int, Values]] = []
        self._doing = STARTING
        self._resumed: Values = {}
        self._utilization: float | None = None

    def update(self, step: int, values: Values) -> None:
        used = {} if self._utilization is None else {"mfu": self._utilization * values["tokens_per_s"]}
        self._new.append((step, values | used | self._resumed))
        self._doing = ""

    def resumed(self, times: int) -> None:
        """Workers have taken the run up again, so often in all."""
        self._resumed = {"resumes": float(times)}

    def used(self, utilization: float) -> None:
        """What one token/s is of what all devices could do at most (MFU, 0 to 1)."""
        self._utilization = utilization

    def tell(self, doing: str) -> None:
        """What the ranks do between steps, where it takes long."""
        self._doing = doing

    def take(self) -> tuple[list[tuple[int, Values]], str]:
        """(steps done, figures) of each step since the last call; what is done now that is no step."""
        taken, self._new = self._new, []
        return taken, self._doing


def figures_of(point: LossPoint, tokens_per_s: float, **more: float | None) -> Values:
    """Of one step, by name. What is None is not known."""
    epsilon = {} if point.epsilon is None else {"epsilon": point.epsilon}
    return {
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "num_tokens": float(point.num_tokens),
        "tokens_per_s": tokens_per_s,
        **epsilon,
        **{name: value for name, value in more.items() if value is not None},
    }


def gradient_norm(engine: Any) -> float | None:
    """Of the newest step, before it was cut; None where DeepSpeed does not know it."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


@contextmanager
def shown(figures: Any, num_steps: int, tracker: Guarded) -> Iterator[None]:
    """Draw the bar and feed the trackers from a thread while the block, which is Ray's, keeps the main one."""
    done = threading.Event()
    with progress.bar("train", num_steps, "steps") as bar, _awaited() as told:
        # In this context, so that lines of the log are about the same run.
        watch = partial(copy_context().run, _watch, figures, bar, tracker, done, partial(told, num_steps))
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join(timeout=10 * POLL_S)
            tracker.close()


@contextmanager
def _awaited() -> Iterator[Callable[[int, Steps, str], None]]:
    """What tells the stage's metrics of steps: of how many, those that are new, and what is done now that is no step."""
    if (stage := measures.current()) is None:
        yield lambda num_steps, taken, doing: None
        return

    def told(num_steps: int, taken: Steps, doing: str) -> None:
        for _, values in taken:
            stage.step(values)
        if taken or doing not in ("", STARTING):
            stage.awaits_step(doing in ("", STARTING) and taken[-1][0] < num_steps)

    stage.awaits_step(True)
    try:
        yield told
    finally:
        stage.awaits_step(False)


def _line(values: Values) -> str:
    """Of a step, beside the bar."""
    name = "reward" if "reward" in values else "loss"
    told = f"{name} {values[name]:.3f}  {values['tokens_per_s']:.0f} tokens/s"
    return told + (f"  MFU {values['mfu']:.1%}" if "mfu" in values else "")


def _watch(
    figures: Any, bar: progress.Bar, tracker: Guarded, done: threading.Event, tell: Callable[[Steps, str], None]
) -> None:
    import ray

    step, told, doing = 0, "", ""
    ended, asked = False, None
    while not ended or asked is not None:
        ended = done.wait(POLL_S) and asked is None  # once more after the end: for the last steps
        asked = figures.take.remote() if asked is None else asked
        try:
            taken, doing = ray.get(asked, timeout=5.0)
            asked = None
        except ray.exceptions.GetTimeoutError:
            taken = []  # a busy machine: show what is known; the answer, which nobody gives twice, is still to come
        except ray.exceptions.RayError:
            return
        for step, values in taken:
            tracker.log(step, values)
            told = _line(values)
        tell(taken, doing)
        bar.update(step, doing or told)

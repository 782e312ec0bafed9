"""What Prometheus is told of a recipe's stages, by the driver.

Three places tell: the lifecycle, of each artifact (`watched`); the bars, how far they are; the trainer, of each step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Protocol

from cluster import telemetry
from cluster import telemetry as names
from cluster.artifacts import Manifest
from pipelines.config import Stage
from pipelines.outcomes import Told, outcomes

OF_STEPS = {
    "loss": names.TRAIN_LOSS,
    "reward": names.TRAIN_REWARD,
    "learning_rate": names.TRAIN_LEARNING_RATE,
    "num_tokens": names.TRAIN_TOKENS,
    "tokens_per_s": names.TRAIN_SPEED,
    "gradient_norm": names.TRAIN_GRADIENT_NORM,
    "epsilon": names.TRAIN_EPSILON,
    "rollbacks": names.TRAIN_ROLLBACKS,
    "resumes": names.TRAIN_RESUMES,
}
"""Figure of a step (pipelines/training/figures.py) -> metric. Others are for trackers alone."""


class Meters(Protocol):
    """Who is told."""

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None: ...

    def add(self, name: str, number: float, labels: Mapping[str, str]) -> None: ...


class StageMeasures:
    """Of one stage of one recipe while it makes one artifact."""

    def __init__(self, meters: Meters, model: str, stage: Stage, artifact: str) -> None:
        self._meters, self._model, self._stage, self._artifact = meters, model, stage, artifact
        self._labels = {"model": model, "stage": stage}
        self._began_at, self._began = datetime.now(UTC), time.monotonic()
        self._outcome, self._told = "failed", Told()

    def begin(self) -> None:
        self._meters.set(names.STAGE_RUNNING, 1, self._labels)
        self._meters.set(names.STAGE_BEGAN, self._began_at.timestamp(), self._labels)

    def made(self, artifact: Manifest) -> None:
        """What it is; `cached` when it was there before."""
        is_new = artifact.made_at >= self._began_at
        self._outcome, self._told = "made" if is_new else "cached", outcomes(artifact, self._artifact, is_new=is_new)

    def interrupted(self) -> None:
        self._outcome = "interrupted"

    def end(self) -> None:
        labels = {**self._labels, "artifact": self._artifact, "outcome": self._outcome}
        self._meters.set(names.STAGE_RUNNING, 0, self._labels)
        self._meters.add(names.STAGE_ENDED, 1, labels)
        self._meters.add(names.STAGE_SECONDS, time.monotonic() - self._began, labels)
        for name, value, more in self._told.gauges:
            self._meters.set(name, value, {"model": self._model, **more})
        for name, value, more in self._told.counts:
            self._meters.add(name, value, {"model": self._model, **more})

    def progress(self, completed: int, total: int | None, unit: str) -> None:
        labels = {**self._labels, "unit": unit}
        self._meters.set(names.STAGE_DONE, completed, labels)
        if total is not None:
            self._meters.set(names.STAGE_PLANNED, total, labels)

    def step(self, values: Mapping[str, float]) -> None:
        """Figures of one of the trainer's steps."""
        of_model = {"model": self._model}
        for name, value in values.items():
            if name in OF_STEPS:
                self._meters.set(OF_STEPS[name], value, of_model)
        if "checkpoint_s" in values:
            self._meters.add(names.TRAIN_CHECKPOINTS, 1, of_model)
            self._meters.add(names.TRAIN_CHECKPOINT_SECONDS, values["checkpoint_s"], of_model)

    def awaits_step(self, is_awaited: bool) -> None:
        """A step has ended, and whether another one is to come."""
        self._meters.set(names.TRAIN_STEP_AT, time.time() if is_awaited else 0, {"model": self._model})


_current: ContextVar[StageMeasures | None] = ContextVar("serinus_stage_measures", default=None)


def current() -> StageMeasures | None:
    """Of the stage that this task or thread works for; None outside of recipes and of clusters."""
    return _current.get()


@contextmanager
def watched(model: str, stage: Stage, artifact: str, meters: Meters) -> Iterator[StageMeasures]:
    """Tell of the stage while the block makes an artifact of it, and that the log's lines are about it.

    Args:
        model: public name, as the gateway's metrics have it.
        artifact: its role in the recipe.
    """
    told = StageMeasures(meters, model, stage, artifact)
    telemetry.bind(stage=stage)
    before = _current.set(told)
    told.begin()
    try:
        yield told
    except KeyboardInterrupt:
        told.interrupted()
        raise
    finally:
        told.end()
        _current.reset(before)
        telemetry.bind(stage=None)

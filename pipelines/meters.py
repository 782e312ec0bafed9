"""The stages' metrics as Ray's own, which Ray exports on the driver's node.

Counters stay as long as the node, gauges for 20 s (twice Ray's `metrics_report_interval_ms`) after they were last sent. Ray sends
what is new when a driver ends, however soon that is: what it ended with can be scraped.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cluster import telemetry as names
from cluster.progress import say
from pipelines.measures import Meters

DESCRIPTIONS = {
    names.STAGE_RUNNING: "1 while the stage is at work, 0 once it has ended",
    names.STAGE_BEGAN: "When the stage began what it does now, in Unix seconds",
    names.STAGE_ENDED: "Artifacts that stages ended with: made, cached, failed, interrupted",
    names.STAGE_SECONDS: "Seconds that these took",
    names.STAGE_DONE: "Work that is done, by its unit",
    names.STAGE_PLANNED: "Work that there is to do, by its unit, where that is known",
    names.CLEAN_DOCUMENTS: "Documents that were read, by what became of them: train, heldout, excluded",
    names.CLEAN_EXCLUDED: "Documents excluded, by reason",
    names.CLEAN_BYTES: "Bytes read, as stored",
    names.CLEAN_CHARACTERS: "Characters: in, and kept",
    names.CLEAN_SPEED: "Bytes read, as stored, for each second that the last cleaning took",
    names.TRAIN_STEP_AT: "When the newest step ended, in Unix seconds; 0 while no step is awaited",
    names.TRAIN_LOSS: "Mean loss of the newest step",
    names.TRAIN_REWARD: "Mean reward of the newest step's answers",
    names.TRAIN_LEARNING_RATE: "Learning rate of the newest step",
    names.TRAIN_TOKENS: "Tokens trained on so far, over all ranks",
    names.TRAIN_SPEED: "Tokens for each second inside steps, over all ranks",
    names.TRAIN_GRADIENT_NORM: "Norm of the newest step's gradient, before it is cut",
    names.TRAIN_EPSILON: "What the steps of a private run have spent so far",
    names.TRAIN_ROLLBACKS: "Steps that did not stand so far: a spike, or a loss that is no number",
    names.TRAIN_RESUMES: "How often the run was taken up again so far",
    names.TRAIN_CHECKPOINTS: "Checkpoints written",
    names.TRAIN_CHECKPOINT_SECONDS: "Seconds that steps stood still for these",
    names.TRAIN_MFU: "Model FLOPs utilization of the whole run, 0 to 1, where the device's peak is known",
    names.TRAIN_BUDGET_SPENT: "Share of the data's privacy budget that all runs on it have spent, 0 to 1",
    names.EVALUATE_SCORE: "Score of one model on one task",
    names.QUANTIZE_SCHEME: "1 for what the newest search said of a scheme: passed, refused, skipped",
    names.QUANTIZE_BYTES: "Size of the quantized weights",
    names.GATE_VERDICTS: "Verdicts of gates: passed, failed, inconclusive",
}
"""Of each metric, what Prometheus shows."""


REFRESH_S = 5.0
"""Ray sends, every 10 s, the gauges that were set since it last sent: one that holds must be set again."""


class RayMeters:
    """Ray's own metrics. In a process that has joined a cluster; a call takes a few microseconds."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._newest: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        from ray.util.metrics import Gauge

        self._metric(Gauge, name, labels).set(value, dict(labels))
        self._newest[name, tuple(labels.items())] = value

    def add(self, name: str, number: float, labels: Mapping[str, str]) -> None:
        from ray.util.metrics import Counter

        if number > 0:  # Ray refuses 0
            self._metric(Counter, name, labels).inc(number, dict(labels))

    def refresh(self) -> None:
        """Set all gauges once more: what has not changed holds."""
        for (name, labels), value in tuple(self._newest.items()):
            self._made[name].set(value, dict(labels))

    def _metric(self, kind: Any, name: str, labels: Mapping[str, str]) -> Any:
        if name not in self._made:
            self._made[name] = kind(name, DESCRIPTIONS[name], tuple(labels))
        return self._made[name]


class Guarded:
    """Meters that are told no more once they have failed: a stage does not end with its metrics. None: nobody is told."""

    def __init__(self, meters: Meters | None) -> None:
        self._meters = meters
        self._lock = threading.Lock()

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._tell("set", name, value, labels)

    def add(self, name: str, number: float, labels: Mapping[str, str]) -> None:
        self._tell("add", name, number, labels)

    def refresh(self) -> None:
        self._tell("refresh")

    def _tell(self, how: str, *given: Any) -> None:
        with self._lock:
            if self._meters is None:
                return
            try:
                getattr(self._meters, how)(*given)
            except Exception as error:  # whatever Ray raises
                self._meters = None
                say("metrics", f"warning: they failed ({type(error).__name__}) and are left out from here on")


@contextmanager
def exported() -> Iterator[Guarded]:
    """Meters of the cluster that this process has joined, if it has; their gauges hold while the block runs."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        yield Guarded(None)
        return
    meters, done = Guarded(RayMeters()), threading.Event()
    refresher = threading.Thread(target=_refresh, args=(meters, done), daemon=True)
    refresher.start()
    try:
        yield meters
    finally:
        done.set()
        refresher.join()  # it must not be in Ray's hands when that is shut down
        meters.refresh()


def _refresh(meters: Guarded, done: threading.Event) -> None:
    while not done.wait(REFRESH_S):
        meters.refresh()

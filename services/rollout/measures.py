"""The controller's metrics for Prometheus: that it lives, what is in force, and whether a promoted model has decayed."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, get_args

from services.rollout.decay_watch import WatchPhase, WatchStatus
from services.rollout.status import RolloutStatus


class Figures(NamedTuple):
    """What Prometheus is told after a turn."""

    turn_at: float
    """Unix time of the turn."""
    weight_percent: float
    """The canary's; 0 when no rollout is under way."""
    waits_s: float
    """Since the newest decision, while not all gateways apply it: it waits for replicas or for a gateway."""
    decay: WatchPhase | None
    """Of the watch over stable."""


def figures(status: RolloutStatus | None, watch: WatchStatus | None, now: datetime) -> Figures:
    """Where a model's rollout and watch stand."""
    under_way = status if status is not None and not status.ended else None
    waits_s = 0.0
    if under_way is not None and under_way.weight_applied_at is None and under_way.decisions:
        waits_s = max(0.0, (now - under_way.decisions[-1].at).total_seconds())
    weight = under_way.weight_percent if under_way is not None else 0.0
    return Figures(now.timestamp(), weight, waits_s, watch.phase if watch is not None else None)


class Measures:
    """Gauges of one public name; made in a process that has joined Ray."""

    def __init__(self, name: str) -> None:
        from ray.util.metrics import Gauge

        from cluster import telemetry as names

        self._labels = {"model": name}
        self._turn = Gauge(names.ROLLOUT_TURN, "When the controller last took its turn, in Unix seconds", ("model",))
        self._weight = Gauge(names.ROLLOUT_WEIGHT, "The canary's share of users in percent", ("model",))
        self._waits = Gauge(names.ROLLOUT_WAITS, "How long the newest decision is not in force everywhere", ("model",))
        self._decay = Gauge(names.DECAY_PHASE, "1 for the phase that the watch over stable is in", ("model", "phase"))

    def tell(self, found: Figures) -> None:
        self._turn.set(found.turn_at, self._labels)
        self._weight.set(found.weight_percent, self._labels)
        self._waits.set(found.waits_s, self._labels)
        for phase in get_args(WatchPhase):
            self._decay.set(float(phase == found.decay), {**self._labels, "phase": phase})

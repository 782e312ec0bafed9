"""The controller's metrics for Prometheus: that it lives, what is in force, and whether a promoted model has decayed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, get_args

from services.contract import Role
from services.rollout.decay_status import WatchPhase, WatchStatus
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
    votes: Mapping[str, float]
    """Users' votes that count as evidence in the rollout under way, by role; none where they are no part of its verdict."""
    votes_down: Mapping[str, float]
    """The share of thumbs down among them."""


def figures(status: RolloutStatus | None, watch: WatchStatus | None, now: datetime) -> Figures:
    """Where a model's rollout and watch stand."""
    under_way = status if status is not None and not status.ended else None
    waits_s = 0.0
    if under_way is not None and under_way.weight_applied_at is None and under_way.decisions:
        waits_s = max(0.0, (now - under_way.decisions[-1].at).total_seconds())
    weight = under_way.weight_percent if under_way is not None else 0.0
    numbers = _newest(under_way)
    votes, down = ({role: numbers[name] for role in get_args(Role) if (name := f"feedback_{role}_{kind}") in numbers}
                   for kind in ("counted", "down"))  # fmt: skip
    return Figures(now.timestamp(), weight, waits_s, watch.phase if watch is not None else None, votes, down)


def _newest(status: RolloutStatus | None) -> Mapping[str, float]:
    """What the newest look rested on."""
    return status.last_look.numbers if status is not None and status.last_look is not None else {}


class Measures:
    """Gauges of one public name; made in a process that has joined Ray."""

    def __init__(self, name: str) -> None:
        from ray.util.metrics import Gauge

        from cluster import telemetry as names

        self._labels = {"model": name}
        self._turn = Gauge(names.ROLLOUT_TURN, "When the controller last took its turn, in Unix seconds", ("model",))
        self._weight = Gauge(names.ROLLOUT_WEIGHT, "The canary's share of users in percent", ("model",))
        self._waits = Gauge(names.ROLLOUT_WAITS, "How long the newest decision is not in force everywhere", ("model",))
        of_role = ("model", "role")
        self._votes = Gauge(
            names.ROLLOUT_VOTES, "Users' votes that count as evidence in the rollout under way", of_role
        )
        self._down = Gauge(names.ROLLOUT_VOTES_DOWN, "Share of thumbs down among them", of_role)
        self._decay = Gauge(names.DECAY_PHASE, "1 for the phase that the watch over stable is in", ("model", "phase"))

    def tell(self, found: Figures) -> None:
        self._turn.set(found.turn_at, self._labels)
        self._weight.set(found.weight_percent, self._labels)
        self._waits.set(found.waits_s, self._labels)
        for role in get_args(Role):
            self._votes.set(found.votes.get(role, 0.0), {**self._labels, "role": role})
            self._down.set(found.votes_down.get(role, 0.0), {**self._labels, "role": role})
        for phase in get_args(WatchPhase):
            self._decay.set(float(phase == found.decay), {**self._labels, "phase": phase})

"""How many replicas a revision needs, from the requests in flight and from vLLM's own queue and cache. Pure.

Serve pickles this module by value and calls `Policy` in its controller: it imports nothing of ours. Serve's own delays come after
it (ReplicasConfig), and its averages over the look-back before.

Each signal is a demand that is the same however many replicas share it: a replica more does not change what is asked for, and so
cannot make the answer swing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SLACK = 0.8
"""Replicas are given up when the demand fits into this share of those that stay: a demand that moves by a fifth changes nothing."""
TINY = 1e-9
"""Below it a demand is rounding."""


@dataclass(frozen=True)
class Load:
    """One replica's engine, averaged over the look-back."""

    running: float = 0.0
    """Sequences being decoded."""
    waiting: float = 0.0
    """Sequences that vLLM has queued, for want of slots or cache."""
    cache: float = 0.0
    """Share of the KV cache in use by them, 0 to 1."""


@dataclass(frozen=True)
class Capacity:
    """What one replica is to carry."""

    ongoing: float
    """Requests."""
    slots: float
    """Sequences decoded at once."""
    cache: float
    """Share of its KV cache."""


def needed(num_ongoing: float, loads: Iterable[Load], capacity: Capacity) -> float:
    """Replicas that carry the load, as a fraction: of requests, decoding slots and cache the one that is shortest.

    What waits is taken to need as much cache as what runs.
    """
    engines = list(loads)
    slots = sum(load.running + load.waiting for load in engines)
    cache = sum(load.cache * (1 + load.waiting / max(1.0, load.running)) for load in engines)
    return max(num_ongoing / capacity.ongoing, slots / capacity.slots, cache / capacity.cache)


def replicas(demand: float, present: int, lowest: int, highest: int) -> int:
    """Replicas to have: at once more when the demand exceeds the present ones, fewer only with SLACK to spare."""
    enough = math.ceil(demand - TINY)
    spare = math.ceil(demand / SLACK - TINY)
    wanted = min(max(present, enough), spare)
    return min(max(wanted, lowest), highest)


class Policy:
    """What Serve asks. Replicas report their engine's load and its order, which may raise the floor or send it to rest."""

    def __init__(self, **settings: float) -> None:
        self._lowest, self._highest = int(settings["lowest"]), int(settings["highest"])
        self._capacity = Capacity(settings["ongoing"], settings["slots"], settings["cache"])

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        rest = _newest(context.raw_metrics, "rest")
        if rest > 0:
            return int(rest), {}
        floor = max(self._lowest, int(_newest(context.raw_metrics, "floor")))
        demand = needed(context.total_num_requests, _loads(context.aggregated_metrics), self._capacity)
        return replicas(demand, context.target_num_replicas, min(floor, self._highest), self._highest), {}


def _loads(metrics: Mapping[str, Mapping[Any, float]] | None) -> list[Load]:
    told = metrics or {}
    names = ("running", "waiting", "cache")
    reporting = {replica for name in names for replica in told.get(name, {})}
    return [Load(*(told.get(name, {}).get(replica, 0.0) for name in names)) for replica in reporting]


def _newest(metrics: Mapping[str, Mapping[Any, Any]] | None, name: str) -> float:
    """The largest of what the replicas reported last; an average would only come near an order after the look-back."""
    reported = [series[-1].value for series in (metrics or {}).get(name, {}).values() if series]
    return max(reported, default=0.0)

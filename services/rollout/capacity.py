"""Replicas where they are needed before they are needed, and engines at rest where nobody is: orders, and waiting for them.

Every act looks at what is there and changes only what differs, so doing it again after a crash changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cluster import registry
from cluster.errors import UserError
from cluster.storage import Storage
from services.contract import Traffic
from services.engines import change_order, claim_stop, read_engines, reserve
from services.rollout.room import replicas_needed

if TYPE_CHECKING:
    from services.rollout.acts import Applications

WAKE_PATIENCE_S, WAKE_POLL_S = 30.0, 0.2


def make_room(
    storage: Storage, traffic: Traffic, candidate: str, weight_percent: float, applications: Applications
) -> bool:
    """Ask for the replicas that the candidate's new weight needs; whether they run. An adapter has stable's own."""
    stable, engine = _engines(storage, traffic, candidate)
    if stable == engine:
        return True
    before = traffic.weight_percent if traffic.canary == candidate else 0.0
    floor = replicas_needed(applications.replicas(stable), before, weight_percent)
    change_order(storage, traffic.name, engine, lambda order: order.replace(floor=floor, resting_since=None))
    most = applications.tell(engine)
    return most > 0 and applications.replicas(engine) >= min(floor, most)


def hold_stable(storage: Storage, traffic: Traffic, candidate: str, applications: Applications) -> None:
    """Everybody comes back to stable, which may have given replicas up meanwhile: ask for as many as both have, at once."""
    stable, engine = _engines(storage, traffic, candidate)
    if stable != engine:
        floor = applications.replicas(stable) + applications.replicas(engine)
        _change(storage, traffic.name, stable, applications, floor=floor)


def release(storage: Storage, name: str, revisions: Iterable[str], applications: Applications) -> None:
    """From here on the load alone says how many replicas are needed."""
    for revision in revisions:
        _change(storage, name, registry.engine_of(storage, name, revision), applications, floor=0)


def put_to_rest(
    storage: Storage, traffic: Traffic, kept: Iterable[str], applications: Applications, now: datetime
) -> None:
    """Keep the engines of those revisions warm with as little as possible, where nobody is on them."""
    running = applications.running()
    in_use, warm = (
        {registry.engine_of(storage, traffic.name, revision) for revision in revisions if revision}
        for revisions in ((traffic.stable, traffic.canary), kept)
    )
    for engine in warm - in_use:
        if engine in running and read_engines(storage, traffic.name).order(engine).resting_since is None:
            _change(storage, traffic.name, engine, applications, floor=0, resting_since=now)


def stop_rested(storage: Storage, name: str, applications: Applications, keep_warm_s: float, now: datetime) -> None:
    """Stop the engines that have rested long enough. Each is looked at again when its turn comes: stopping the one before it may
    have taken a minute, in which a person went back to it."""
    rested_since = now - timedelta(seconds=keep_warm_s)
    for engine, order in read_engines(storage, name).orders.items():
        if order.resting_since is not None and claim_stop(storage, name, engine, rested_since):
            applications.remove(engine)


def wake(storage: Storage, traffic: Traffic, previous: str, applications: Applications) -> str:
    """Let a revision at rest work again and wait until it has stable's number of replicas, or WAKE_PATIENCE_S are over and it has
    what it has: with users on a bad revision, a queue in front of a good one is the lesser harm. Returns what it took, for people.

    Raises:
        UserError: its engine is gone, or is being stopped.
    """
    stable, engine = _engines(storage, traffic, previous)
    rested = read_engines(storage, traffic.name).order(engine).resting_since is not None
    began_s, floor = time.monotonic(), applications.replicas(stable) if rested else 0
    # Reserved first and looked at then: after that nobody begins to stop it.
    if not reserve(storage, traffic.name, engine, floor) or previous not in applications.running():
        raise gone(previous)
    if not rested:
        return ""
    most = applications.tell(engine)
    while time.monotonic() - began_s < WAKE_PATIENCE_S:
        if most and applications.replicas(engine) >= min(floor, most):
            break
        time.sleep(WAKE_POLL_S)
        most = most or applications.tell(engine)  # not reached: its replica died, or is just starting
    found, wanted = applications.replicas(engine), min(floor, most or floor)
    return f", woken in {time.monotonic() - began_s:.1f} s with {found} of {max(1, wanted)} replicas"


def gone(previous: str) -> UserError:
    """Nobody can go back to it at once."""
    remedy = f"begin a rollout of it: serinus canary start --revision {previous}"
    return UserError(f"revision {previous}", "was stable before, but is no longer loaded", remedy)


def _engines(storage: Storage, traffic: Traffic, other: str) -> tuple[str, str]:
    """The engine of stable, and that of `other`."""
    stable, engine = (registry.engine_of(storage, traffic.name, revision) for revision in (traffic.stable, other))
    return stable, engine


def _change(storage: Storage, name: str, engine: str, applications: Applications, **changes: Any) -> None:
    """Change an engine's order and tell it, if that is a change and the engine is there."""
    before = read_engines(storage, name).order(engine)
    if before.replace(**changes) != before and engine in applications.running():
        change_order(storage, name, engine, lambda order: order.replace(**changes))
        applications.tell(engine)

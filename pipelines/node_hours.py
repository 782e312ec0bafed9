"""Counts the nodes that a stage holds while it works, and keeps the lifecycle's account of them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from cluster.errors import SerinusError
from cluster.storage import Storage
from cluster.topology import HEAD
from pipelines import spending
from pipelines.config import LifecycleConfig, Stage
from pipelines.demand import demands
from pipelines.progress import say
from pipelines.spending import Spent

LOOK_EVERY_S, WRITE_EVERY_S = 10.0, 60.0
"""A driver that is killed leaves at most the last minute out of the account."""
MIN_NODE_S = 1.0
"""Finding out that something is made already is not worth a line."""


def nodes_of(pools: Collection[str]) -> int:
    """Living nodes that belong to the pools, or where a pool has none, to the cluster, the head aside; without a cluster this
    machine."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 1
    from cluster.session import POOL_LABEL, node_hosts, on_pool

    hosts = {host for pool in pools for host in node_hosts(on_pool(pool))}
    return len(hosts.difference(node_hosts({POOL_LABEL: HEAD}))) or len(hosts)


class Held:
    """Node seconds so far: between two looks as many nodes count as there were at the first of them.

    Args:
        count: how many nodes there are.
        now: a clock in seconds.
    """

    def __init__(self, count: Callable[[], int], now: Callable[[], float]) -> None:
        self._count, self._now = count, now
        self._at, self._nodes = now(), 1
        self.node_s, self.most = 0.0, 0
        self.look()

    def look(self) -> None:
        """Count anew. Where that fails, what was last seen holds: an account is no reason for a stage to end."""
        at = self._now()
        self.node_s += self._nodes * (at - self._at)
        self._at = at
        try:
            self._nodes = self._count()
        except Exception as error:  # whatever Ray raises
            say("budget", f"warning: nodes cannot be counted ({type(error).__name__}); {self._nodes} are assumed")
        self.most = max(self.most, self._nodes)


class NodeHours:
    """The account of one lifecycle while it runs.

    Raises:
        InputError: an earlier run's account is damaged.
    """

    def __init__(
        self,
        recipe: LifecycleConfig,
        storage: Storage,
        count: Callable[[Collection[str]], int] = nodes_of,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recipe, self._storage, self._count, self._now = recipe, storage, count, now
        self._pools: dict[str, set[str]] = {}
        for demand in demands(recipe):
            self._pools.setdefault(demand.stage, set()).add(demand.pool)
        self.account = spending.opened(storage, recipe, datetime.now(UTC))
        if self.account.spent:
            self._say(" by earlier runs of this lifecycle")

    @contextmanager
    def held(self, stage: Stage, role: str) -> Iterator[None]:
        """Count while the block makes an artifact.

        Raises:
            BudgetExceeded: nothing is left for it. Gate and publication hold no pool and are never refused.
        """
        if not (pools := self._pools.get(stage)):
            yield
            return
        spending.check(self.account, self._recipe, stage, role)
        before, began_at, held = self.account, datetime.now(UTC), Held(lambda: self._count(pools), self._now)

        def write() -> None:
            held.look()
            if held.node_s >= MIN_NODE_S:
                one = Spent(stage=stage, role=role, node_s=held.node_s, num_nodes=held.most, began_at=began_at)
                self.account = before.replace(spent=(*before.spent, one))
                spending.write(self._storage, self.account)

        with _now_and_then(held.look, write):
            yield
        if self.account is not before:
            self._say(f", {stage} ({role}) {held.node_s / 3600:.3g} of them")

    def close(self, gate: str) -> None:
        """The lifecycle has its verdict: what runs after it has another account."""
        if self.account.spent:
            self.account = self.account.replace(gate=gate)
            spending.write(self._storage, self.account)

    def _say(self, more: str) -> None:
        if self._recipe.budget is not None:
            say("budget", f"{self.account.words} of {self._recipe.budget.node_hours:g} node hours are spent{more}")


@contextmanager
def _now_and_then(look: Callable[[], None], write: Callable[[], None]) -> Iterator[None]:
    """In a thread, while the block runs; `write` once more at its end, however it ends."""
    done, written_at = threading.Event(), time.monotonic()

    def watch() -> None:
        nonlocal written_at
        while not done.wait(LOOK_EVERY_S):
            if time.monotonic() - written_at < WRITE_EVERY_S:
                look()
                continue
            written_at = time.monotonic()
            try:
                write()
            except SerinusError as error:  # storage may answer again in a minute, and has to at the end
                say("budget", f"warning: the account is not written ({error})")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()  # it must not be in Ray's hands when that is shut down
        write()

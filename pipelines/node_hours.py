"""Counts the nodes that a stage holds while it works, and keeps the lifecycle's account of them."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import get_args

from cluster.artifacts import Ledger
from cluster.errors import SerinusError
from cluster.storage import Storage
from cluster.topology import HEAD
from pipelines import spending
from pipelines.bill import reckon
from pipelines.config import LifecycleConfig, Pool, Stage
from pipelines.demand import demands
from pipelines.progress import say
from pipelines.spending import Spent

LOOK_EVERY_S, WRITE_EVERY_S = 10.0, 60.0
"""A driver that is killed leaves at most the last minute out of the account."""
MIN_NODE_S = 1.0
"""Finding out that something is made already is not worth a line."""


def nodes_of(pools: Sequence[str]) -> dict[str, int]:
    """Living nodes that may work for one of the pools, which in a cluster that lacks one of them are all, the head aside; without a
    cluster this machine. A machine counts once, for the pool that it belongs to; one of no pool for the first of these."""
    first, names = pools[0], sorted(pools)
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {first: 1}
    from cluster.pools import node_hosts, on_pool
    from cluster.topology import POOL_LABEL

    heads = {*node_hosts({POOL_LABEL: HEAD})}
    others = [pool for pool in get_args(Pool) if pool not in names and pool != HEAD]
    own = {host: pool for pool in reversed([*names, *others]) for host in node_hosts({POOL_LABEL: pool})}
    hosts = dict.fromkeys(host for pool in names for host in node_hosts(on_pool(pool)))
    return Counter(own.get(host, first) for host in [host for host in hosts if host not in heads] or hosts)


class Held:
    """Node seconds so far: between two looks as many nodes count as there were at the first of them.

    Args:
        count: how many nodes of each pool there are.
        now: a clock in seconds.
        pools: those that are counted, the stage's own first.
    """

    def __init__(self, count: Callable[[], dict[str, int]], now: Callable[[], float], pools: Sequence[str]) -> None:
        self._count, self._now = count, now
        self._at, self._nodes = now(), {pools[0]: 1}
        self.node_s_by_pool, self.most = dict[str, float](), 0
        self._see()

    @property
    def node_s(self) -> float:
        return sum(self.node_s_by_pool.values())

    def look(self) -> None:
        """Count anew. Where that fails, what was last seen holds: an account is no reason for a stage to end."""
        at = self._now()
        for pool, nodes in self._nodes.items():
            self.node_s_by_pool[pool] = self.node_s_by_pool.get(pool, 0.0) + nodes * (at - self._at)
        self._at = at
        self._see()

    def _see(self) -> None:
        try:
            self._nodes = self._count()
        except Exception as error:  # whatever Ray raises
            say(
                "budget",
                f"warning: nodes cannot be counted ({type(error).__name__}); {sum(self._nodes.values())} are assumed",
            )
        self.most = max(self.most, sum(self._nodes.values()))


class NodeHours:
    """The account of one lifecycle while it runs.

    Raises:
        InputError: an earlier run's account is damaged.
    """

    def __init__(
        self,
        recipe: LifecycleConfig,
        storage: Storage,
        count: Callable[[Sequence[str]], dict[str, int]] = nodes_of,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recipe, self._storage, self._count, self._now = recipe, storage, count, now
        self._pools: dict[str, tuple[str, ...]] = {}
        for demand in demands(recipe):
            before = self._pools.get(demand.stage, ())
            self._pools[demand.stage] = tuple(dict.fromkeys((*before, demand.pool)))
        self.account = spending.opened(storage, recipe, datetime.now(UTC))
        if self.account.spent:
            self._say(" by earlier runs of this lifecycle")

    @contextmanager
    def held(self, stage: Stage, role: str) -> Iterator[None]:
        """Count while the block makes an artifact.

        Raises:
            BudgetExceeded: nothing is left for it. Gate and publication hold no pool and are never refused.
        """
        if not (pools := self._pools.get(stage, ())):
            yield
            return
        spending.check(self.account, self._recipe, stage, role)
        before, began_at, held = self.account, datetime.now(UTC), Held(lambda: self._count(pools), self._now, pools)

        def write() -> None:
            held.look()
            if held.node_s >= MIN_NODE_S:
                one = Spent(
                    stage=stage,
                    role=role,
                    node_s=held.node_s,
                    node_s_by_pool=held.node_s_by_pool,
                    num_nodes=held.most,
                    began_at=began_at,
                )
                self.account = before.replace(spent=(*before.spent, one))
                spending.write(self._storage, self.account)

        with _now_and_then(held.look, write):
            yield
        if self.account is not before:
            self._say(f", {stage} ({role}) {held.node_s / 3600:.3g} of them")

    def close(self, gate: str, trained: Sequence[Ledger]) -> None:
        """The lifecycle has its verdict: what runs after it has another account.

        Args:
            trained: of all training since the account began.
        """
        if self.account.spent:
            held = self._recipe.last_train.consolidation
            known = () if held and len(held.weights) > 1 else trained  # the runs with other weights drew as well
            bill = reckon(self.account.by_pool, self._recipe.ledger, known)
            self.account = self.account.replace(gate=gate, bill=bill)
            spending.write(self._storage, self.account)
            say("ledger", bill.words)

    def _say(self, more: str) -> None:
        if self._recipe.budget is not None:
            say("budget", f"{self.account.words} of {self._recipe.budget.node_hours:g} node hours are spent{more}")


@contextmanager
def _now_and_then(look: Callable[[], None], write: Callable[[], None]) -> Iterator[None]:
    """In a thread, while the block runs; `write` once more at its end, however it ends. Of a block that broke off that is told, not
    that its account could not be written either."""
    done, written_at = threading.Event(), time.monotonic()

    def watch() -> None:
        nonlocal written_at
        while not done.wait(LOOK_EVERY_S):
            if time.monotonic() - written_at < WRITE_EVERY_S:
                look()
                continue
            written_at = time.monotonic()
            write_or_warn(write)  # storage may answer again in a minute

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        _joined(thread, done)
        write_or_warn(write)
        raise
    _joined(thread, done)
    write()


def _joined(thread: threading.Thread, done: threading.Event) -> None:
    done.set()
    thread.join()  # it must not be in Ray's hands when that is shut down


def write_or_warn(write: Callable[[], None]) -> None:
    """Write the account where something else is to be told of, whatever becomes of it."""
    try:
        write()
    except SerinusError as error:
        say("budget", f"warning: the account is not written ({error})")

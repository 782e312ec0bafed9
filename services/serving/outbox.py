"""The way of the evidence out of a gateway: batches to the rollout's actor, never in the way of a request."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from cluster.telemetry import logger
from services.contract import NAMESPACE as ACTOR_NAMESPACE
from services.contract import RequestRecord, actor_name

__all__ = ["ACTOR_NAMESPACE", "Delivery", "Outbox", "Send", "actor_name", "to_actor"]

log = logger("gateway")

FLUSH_S = 0.5
HEARTBEAT_S = 1.0
"""So often at least the actor hears which traffic version this gateway applies."""
MAX_KEPT = 10_000
MAX_BATCH = 2_000
"""Records a call, so that a long queue does not become one huge message."""
GIVE_UP_S = 30.0
"""A call without an answer for so long is taken as lost."""


class Delivery(Protocol):
    """One call under way."""

    def result(self) -> bool | None:
        """True: delivered. False: lost. None: not known yet. Does not wait."""
        ...


Send = Callable[[int, list[dict[str, Any]]], "Delivery | None"]
"""Starts a call with (traffic version, records); None when there is nobody to call."""


class Outbox:
    """Keeps records until they are delivered; when nobody takes them, the newest MAX_KEPT."""

    def __init__(
        self, send: Send, version: Callable[[], int], lost: Callable[[int], None] = lambda number: None
    ) -> None:
        """`lost` is told how many records went because nobody took them: a verdict without them rests on less."""
        self._send, self._version, self._lost = send, version, lost
        self._kept: deque[RequestRecord] = deque(maxlen=MAX_KEPT)
        self._under_way: tuple[Delivery, list[RequestRecord], float] | None = None
        self._last_s, self._told = float("-inf"), -1
        self._stopped, self._woken = False, threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="evidence", daemon=True).start()

    def add(self, record: RequestRecord) -> None:
        if len(self._kept) == MAX_KEPT:
            self._lost(1)
        self._kept.append(record)  # a bounded deque drops its oldest by itself, atomically

    def wake(self) -> None:
        """Tell at once what is new: the rollout waits for all gateways to apply a weight."""
        self._woken.set()

    def close(self) -> None:
        """Send what is left, as far as that goes without waiting."""
        self._stopped = True
        self.wake()
        self.tick(float("inf"))

    def tick(self, now_s: float) -> None:
        """Settle the call under way and start the next one, when there is something to say."""
        version = self._version()
        due = self._kept or version != self._told or now_s - self._last_s >= HEARTBEAT_S
        if not self._settled(now_s) or not due:
            return
        batch = [self._kept.popleft() for _ in range(min(MAX_BATCH, len(self._kept)))]
        delivery = self._send(version, [record.model_dump(mode="json") for record in batch])
        if delivery is None:
            self._put_back(batch)
        else:
            self._under_way, self._last_s, self._told = (delivery, batch, now_s), now_s, version

    def _settled(self, now_s: float) -> bool:
        if self._under_way is None:
            return True
        delivery, batch, since_s = self._under_way
        delivered = delivery.result()
        if delivered is None and now_s - since_s < GIVE_UP_S:
            return False
        if not delivered:
            self._put_back(batch)
        self._under_way = None
        return True

    def _put_back(self, batch: list[RequestRecord]) -> None:
        room = MAX_KEPT - len(self._kept)
        if len(batch) > room:
            self._lost(len(batch) - room)
        self._kept.extendleft(reversed(batch[max(0, len(batch) - room) :]))

    def _run(self) -> None:
        import time

        while not self._stopped:
            if self._woken.wait(FLUSH_S):
                self._woken.clear()
            try:
                self.tick(time.monotonic())
            except Exception:  # this thread's outermost loop: evidence must not end because one call did
                log.exception("evidence could not be sent; trying again")


class _RayDelivery:
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self) -> bool | None:
        import ray

        ready, _ = ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            ray.get(self._reference)
        except ray.exceptions.RayError as error:
            log.warning("the rollout controller did not take the evidence (%s)", str(error).splitlines()[0])
            return False
        return True


def to_actor(name: str, gateway_id: str) -> Send:
    """Sends to the rollout's detached actor; looked up anew for each call, since it comes and goes with rollouts."""

    def send(version: int, records: list[dict[str, Any]]) -> Delivery | None:
        import ray

        try:
            actor = ray.get_actor(actor_name(name), namespace=ACTOR_NAMESPACE)
        except ValueError:  # Ray's way to say that there is none
            return None
        return _RayDelivery(actor.record.remote(gateway_id, version, records))

    return send

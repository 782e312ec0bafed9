"""The way of the evidence out of a gateway: batches to the rollout's actor, never in the way of a request."""

from __future__ import annotations

import threading
import time
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
CLOSE_S = 2.0
"""A gateway that ends waits so long for what is left to be taken: MAX_KEPT records are five calls."""
POLL_S = 0.01
SAY_EVERY_S = 60.0
"""So often at most the log says how many records were let go; the metric counts them at once."""


class Delivery(Protocol):
    """One call under way."""

    def result(self) -> bool | None:
        """True: delivered. False: lost. None: not known yet. Does not wait."""
        ...


Send = Callable[[int, list[dict[str, Any]]], "Delivery | None"]
"""Starts a call with (traffic version, records); None when there is nobody to call."""


class Outbox:
    """Keeps records until they are delivered; when nobody takes them, the newest MAX_KEPT. What is let go is counted and said.

    Records are added by the requests' thread and sent by one of its own.
    """

    def __init__(
        self, send: Send, version: Callable[[], int], lost: Callable[[int], None] = lambda number: None
    ) -> None:
        """`lost` is told how many records went because nobody took them: a verdict without them rests on less."""
        self._send, self._version, self._lost = send, version, lost
        self._kept: deque[RequestRecord] = deque()
        self._lock = threading.Lock()
        self._under_way: tuple[Delivery, list[RequestRecord], float] | None = None
        self._last_s, self._told = float("-inf"), -1
        self._num_unsaid, self._said_s = 0, float("-inf")
        self._thread: threading.Thread | None = None
        self._stopped, self._closed, self._woken = False, False, threading.Event()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    def add(self, record: RequestRecord) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._kept.append(record)
            let_go = 1 if closed else len(self._kept) - MAX_KEPT
            if not closed and let_go > 0:
                self._kept.popleft()
        self._let_go(let_go)
        if closed:
            self._say_lost()

    def wake(self) -> None:
        """Tell at once what is new: the rollout waits for all gateways to apply a weight."""
        self._woken.set()

    def close(self, patience_s: float = CLOSE_S) -> None:
        """Send what is left. What nobody has taken after `patience_s`, or comes later, is let go: its process ends."""
        deadline_s = time.monotonic() + patience_s
        self._stopped = True
        self.wake()
        if self._thread is not None:
            self._thread.join(patience_s)
        try:
            self._send_rest(deadline_s)
        except Exception:  # Ray may be gone already; what is left is told below all the same
            log.exception("evidence could not be sent")
        with self._lock:
            self._closed = True
            left = len(self._kept) + (len(self._under_way[1]) if self._under_way else 0)
            self._kept.clear()
            self._under_way = None
        self._let_go(left)
        self._say_lost()

    def _send_rest(self, deadline_s: float) -> None:
        while (self._kept or self._under_way) and time.monotonic() < deadline_s:
            self.tick(time.monotonic())
            if self._under_way is None:  # nobody to call, or all is delivered
                return
            time.sleep(POLL_S)

    def tick(self, now_s: float) -> None:
        """Settle the call under way and start the next one, when there is something to say."""
        if now_s - self._said_s >= SAY_EVERY_S and self._num_unsaid:
            self._said_s = now_s
            self._say_lost()
        version = self._version()
        due = self._kept or version != self._told or now_s - self._last_s >= HEARTBEAT_S
        if not self._settled(now_s) or not due:
            return
        with self._lock:
            batch = [self._kept.popleft() for _ in range(min(MAX_BATCH, len(self._kept)))]
        try:
            delivery = self._send(version, [record.model_dump(mode="json") for record in batch])
        except Exception:
            self._put_back(batch)
            raise
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
        with self._lock:
            let_go = max(0, len(batch) - (MAX_KEPT - len(self._kept)))
            self._kept.extendleft(reversed(batch[let_go:]))
        self._let_go(let_go)

    def _let_go(self, number: int) -> None:
        if number <= 0:
            return
        with self._lock:
            self._num_unsaid += number
        self._lost(number)

    def _say_lost(self) -> None:
        with self._lock:
            number, self._num_unsaid = self._num_unsaid, 0
        if number:
            log.warning("%d record(s) of requests are lost: the rollout's controller did not take them in time", number)

    def _run(self) -> None:
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

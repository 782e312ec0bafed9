"""The threads that write the audit record and bring it to the webhooks, beside the controller and never in its way.

One thread records and looks which webhooks there are; each webhook has one of its own, so that a slow one delays no other.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import datetime

from cluster.errors import InputError
from cluster.storage import Storage
from cluster.telemetry import logger
from services import audit
from services.rollout import scribe
from services.rollout.courier import Courier, Post, Reply
from services.rollout.receivers import Receiver, read_receivers
from services.rollout.status import read_status

log = logger("notify")

BUSY_S = 1.0
"""Between two looks at what is to be recorded while a rollout is under way."""
IDLE_S = 10.0
"""And while none is: what the command line writes (deployments, keys) needs no haste."""
AGAIN_S = 5.0
"""After storage failed."""


class Notifier:
    """Of one public name. Nothing of it is called by the controller's turn."""

    def __init__(self, storage: Storage, name: str, clock: Callable[[], datetime], post: Post | None = None) -> None:
        self._storage, self._name, self._clock, self._post = storage, name, clock, post or http_post
        self._wake, self._ended = threading.Event(), threading.Event()
        self._position: scribe.Position | None = None
        self._last = 0
        self._rounds: dict[str, _Round] = {}

    def start(self) -> None:
        for name in ("httpx", "httpcore"):  # at INFO they log addresses, and those of some receivers are secrets
            logging.getLogger(name).setLevel(logging.WARNING)
        threading.Thread(target=self._run, name="scribe", daemon=True).start()

    def wake(self) -> None:
        """Something was done: look soon. Returns at once."""
        self._wake.set()

    def end(self) -> None:
        """Tell the threads to end; one that waits for a receiver does so after its timeout."""
        self._ended.set()
        self._wake.set()
        for round_ in self._rounds.values():
            round_.end()

    def turn(self) -> float:
        """Record what is new and see that each webhook is served; returns the seconds until the next turn is due."""
        self._position = scribe.record(self._storage, self._name, self._position)
        last = audit.end(self._storage, self._name, self._last)
        self._last = last.entry.number if last else 0
        self._serve(read_receivers(self._storage, self._name))
        return BUSY_S if self._busy() else IDLE_S

    def _busy(self) -> bool:
        with contextlib.suppress(InputError):
            found = read_status(self._storage, self._name)
            return found is not None and not found[0].ended
        return False

    def _serve(self, receivers: tuple[Receiver, ...]) -> None:
        wanted = {receiver.id: receiver for receiver in receivers}
        for known, round_ in list(self._rounds.items()):
            if wanted.get(known) != round_.receiver:
                round_.end()
                del self._rounds[known]
        for new in wanted.keys() - self._rounds.keys():
            courier = Courier(self._storage, self._name, wanted[new], self._post, clock=self._clock)
            self._rounds[new] = _Round(courier)
        for round_ in self._rounds.values():
            round_.go(self._last)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()  # before the turn: what is done during it gets a turn of its own
            try:
                pause_s = self.turn()
            except Exception:  # this thread's outermost loop: storage may be away for a while
                log.exception("the audit record could not be written; trying again")
                pause_s = AGAIN_S
            self._wake.wait(pause_s)


class _Round:
    """A courier and its thread, which ends when it is told to."""

    def __init__(self, courier: Courier) -> None:
        self.receiver = courier.receiver
        self._courier, self._last = courier, 0
        self._wake, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name=f"webhook-{self.receiver.id}", daemon=True).start()

    def go(self, last: int) -> None:
        if last > self._last:
            self._last = last
            self._wake.set()

    def end(self) -> None:
        self._ended.set()
        self._wake.set()

    def _run(self) -> None:
        pause_s: float | None = None
        while True:
            self._wake.wait(pause_s)
            if self._ended.is_set():
                return
            self._wake.clear()
            try:
                pause_s = self._courier.turn(self._last)
            except Exception:  # this thread's outermost loop
                log.exception("webhook %s: its round failed; trying again", self.receiver.id)
                pause_s = AGAIN_S


def http_post(url: str, headers: dict[str, str], body: bytes, timeout_s: float) -> Reply:
    """One POST. The answer's body is not read: nothing a receiver says is of interest, nor how much."""
    import httpx

    # Redirects are not followed: a receiver must not be able to send us, with our signature, to another address.
    try:
        with (
            httpx.Client(follow_redirects=False, timeout=timeout_s) as client,
            client.stream("POST", url, headers=headers, content=body) as answer,
        ):
            moved = "redirects are not followed" if answer.is_redirect else ""
            return Reply(
                answer.status_code,
                moved and f"status {answer.status_code}: {moved}",
                _asked_s(answer.headers.get("retry-after")),
            )
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # its text may hold the address
        return Reply(None, type(error).__name__)


def _asked_s(retry_after: str | None) -> float | None:
    """Only the form in seconds: a date would need the receiver's clock."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None

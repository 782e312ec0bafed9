"""What becomes of calls to a bucket: who waits for one that is not answered hears of it, and a bucket that left one without an
answer is not waited for as long again.

boto3 tries a call again, with pauses, for up to minutes and without a word. It tells of each attempt by its events, here counted.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cluster.progress import say

ATTEMPTS: Final = 10
"""Of boto3, for a call that fails or is not answered; pyarrow's are in cluster/patient_s3.py."""
SILENCE_S: Final = 20.0
"""After so long without a byte boto3 tries again; its own number is 60."""
BRIEF_ATTEMPTS: Final = 2
BRIEF_SILENCE_S: Final = 5.0
"""Of a bucket for which a call was given up and none has been answered since: what a run that ends has still to tell it."""
PAUSE_S: Final = 20.0
"""The longest that boto3 makes (botocore/retries/standard.py)."""
WORD_AFTER_S: Final = 8.0
SAY_EVERY_S: Final = 30.0
LOOK_EVERY_S: Final = 1.0
LARGE_BYTES: Final = 1 << 20
SERVER_ERRORS: Final = range(500, 600)
"""Of HTTP, which boto3 tries again."""


@dataclass
class _Call:
    """One that is not answered yet."""

    told: str
    is_large: bool
    """Sending takes its time: a silence tells nothing."""
    began: float
    seen_at: float
    failed: int = 0
    why: str = ""
    is_under_way: bool = True
    """Else boto3 pauses before the next attempt."""

    def is_waited_for(self, now: float) -> bool:
        """Whoever asked by other ways than ours has given up without a word once no attempt followed."""
        return self.is_under_way or now - self.seen_at <= PAUSE_S + LOOK_EVERY_S


class Attempts:
    """At one bucket, by all clients of this process; a thread makes one call at a time."""

    def __init__(self, bucket: str) -> None:
        self._bucket, self._lock = bucket, threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._said_at = 0.0
        self.given_up = False
        """A call failed for the last time, and none was answered since."""

    @property
    def num(self) -> int:
        """Of a call that begins now."""
        return BRIEF_ATTEMPTS if self.given_up else ATTEMPTS

    def follow(self, client: Any) -> None:
        """Count the attempts of a boto3 client."""
        client.meta.events.register("before-send.s3", self._sent)
        client.meta.events.register("needs-retry.s3", self._ended)

    def left(self) -> None:
        """The calling thread has no call under way: one that Ctrl-C broke off tells of no end."""
        with self._lock:
            self._calls.pop(threading.get_ident(), None)

    def give_up(self) -> None:
        """The calling thread's call has failed for the last time."""
        with self._lock:
            self.given_up = True

    def word(self, now: float) -> str | None:
        """What whoever waits is to hear now, if anything: of the call that is waited for longest."""
        with self._lock:
            late = [
                call for call in self._calls.values() if call.is_waited_for(now) and (call.failed or not call.is_large)
            ]
            oldest = min(late, key=lambda call: call.began, default=None)
            if oldest is None or now - oldest.began < WORD_AFTER_S or now - self._said_at < SAY_EVERY_S:
                return None
            self._said_at = now
            left = max(1, self.num - oldest.failed)
        failed = f" (failed attempts: {oldest.failed}, the last with: {oldest.why})" if oldest.failed else ""
        at_most = f"attempts left: {left}, for {left * (SILENCE_S + PAUSE_S) / 60:.0f} min at most"
        return f"{self._bucket} does not answer {oldest.told} for {now - oldest.began:.0f} s{failed}; {at_most}"

    def is_waited_for(self, now: float) -> bool:
        """Whether a call is under way, or about to be tried again."""
        with self._lock:
            return any(call.is_waited_for(now) for call in self._calls.values())

    def _sent(self, request: Any, **_: Any) -> None:
        told, now = f"{request.method} {urlsplit(request.url).path}", time.monotonic()
        is_large = int(request.headers.get("Content-Length") or 0) > LARGE_BYTES
        with self._lock:
            before = self._calls.get(threading.get_ident())
            if before and before.told == told and before.is_waited_for(now):
                before.is_under_way = True
            else:
                self._calls[threading.get_ident()] = _Call(told, is_large, now, now)
        _watcher.look_at(self)

    def _ended(self, response: Any, caught_exception: Exception | None, **_: Any) -> None:
        """After each attempt, before boto3's pause; what it returned would decide over the next one."""
        now = time.monotonic()
        with self._lock:
            call = self._calls.get(threading.get_ident())
            if response is None or response[0].status_code in SERVER_ERRORS:
                if call:
                    call.is_under_way, call.seen_at, call.failed = False, now, call.failed + 1
                    call.why = str(caught_exception) if response is None else f"HTTP {response[0].status_code}"
                return
            self._calls.pop(threading.get_ident(), None)
            said, self._said_at, self.given_up = self._said_at, 0.0, False
        if said and call:
            say("storage", f"{self._bucket} answers again, after {now - call.began:.0f} s")


class _Watcher:
    """One thread of the process, which looks while a call is under way."""

    def __init__(self) -> None:
        self._lock, self._wake, self._looked_at = threading.Lock(), threading.Event(), set[Attempts]()
        self._thread: threading.Thread | None = None

    def look_at(self, attempts: Attempts) -> None:
        with self._lock:
            self._looked_at.add(attempts)
            if self._thread is None or not self._thread.is_alive():  # a process that was forked has no threads
                self._thread = threading.Thread(target=self._look, name="storage", daemon=True)
                self._thread.start()
        self._wake.set()

    def _look(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(LOOK_EVERY_S)
            with self._lock:
                looked_at = list(self._looked_at)
            for attempts in looked_at:
                if said := attempts.word(time.monotonic()):
                    say("storage", said)
            with self._lock:
                self._looked_at = {one for one in self._looked_at if one.is_waited_for(time.monotonic())}
                if not self._looked_at:
                    self._wake.clear()


_watcher = _Watcher()
_all: dict[tuple[str | None, str], Attempts] = {}


def attempts_at(endpoint: str | None, bucket: str) -> Attempts:
    """Those of this process at that bucket."""
    return _all.setdefault((endpoint, bucket), Attempts(f"s3://{bucket}"))

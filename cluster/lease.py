"""Who may work where, alone: a lock that goes with its process in a folder, a lease with a heartbeat in a bucket.

A bucket has no locks. There the holder writes `.locks/<name>` by compare-and-set, and writes it again every `BEAT_S`; one that
has been silent for `SILENCE_S` by the server's own clock has lost it to whoever asks next. So no two machines' clocks are compared.
A holder that was away for so long (a machine that slept, a bucket out of reach) learns of it at its next beat and ends its work;
until that beat two may be at work, which is why results are committed by compare-and-set as well.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from cluster.config import user_name
from cluster.disk_errors import writing
from cluster.errors import Conflict, ResourceError, SerinusError, StageFailed, UserError
from cluster.processes import began
from cluster.s3 import S3Storage
from cluster.storage import ABSENT, Blob, LocalStorage, Storage

BEAT_S: Final = 15.0
SILENCE_S: Final = 90.0
"""Six beats: a bucket that is slow or fails for a minute costs nobody the lease."""
FREE: Final = b"{}"


@contextmanager
def exclusive(storage: Storage, name: str) -> Iterator[None]:
    """One holder of `name` at a time, on whatever machine.

    Raises:
        ResourceError: another process holds it.
        StageFailed: it was lost to another one meanwhile.
    """
    if isinstance(storage, LocalStorage):
        with _locked(storage, name):
            yield
        return
    assert isinstance(storage, S3Storage)
    with _Lease(storage, name).held():
        yield


@contextmanager
def _locked(storage: LocalStorage, name: str) -> Iterator[None]:
    locks = storage.root / ".locks"
    with writing(locks):
        locks.mkdir(parents=True, exist_ok=True)
        (locks / name).touch()
    with open(locks / name, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it (a job goes on after Ctrl-C: serinus jobs list), or end it"
            raise ResourceError(f"{storage.uri} ({name})", "another run is at work there", remedy) from None
        yield


class _Lease:
    def __init__(self, storage: S3Storage, name: str) -> None:
        self._storage, self._name, self._key = storage, name, f".locks/{name}"
        self._id, self._beats, self._version = uuid.uuid4().hex, 0, ABSENT
        self._over, self._lost = threading.Event(), False

    @contextmanager
    def held(self) -> Iterator[None]:
        from botocore.exceptions import ClientError

        self._version = self._taken()
        thread = threading.Thread(target=self._beat, name=f"lease {self._name}", daemon=True)
        thread.start()
        try:
            with self._interruptible():
                try:
                    yield
                finally:
                    self._over.set()
                    thread.join()
        except KeyboardInterrupt:
            if not self._lost:
                raise
            found = "another run took its place there, for this one was not heard of in time"
            raise StageFailed(
                f"{self._where}: {found}\n  -> look at that one; run this one again when it has ended"
            ) from None
        finally:
            if not self._lost:
                with suppress(SerinusError, ClientError):  # out of reach, or refused by now: it ends by itself
                    self._storage.write(self._key, FREE, expect=self._version)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """What a shell's script starts with `&` ignores Ctrl-C, and would not hear that it lost its place."""
        is_main, before = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGINT)
        if not is_main or not (before is signal.SIG_IGN or isinstance(before, _Heard)):
            yield
            return
        signal.signal(signal.SIGINT, _Heard(self, before))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def _where(self) -> str:
        return f"{self._storage.uri} ({self._name})"

    def _taken(self) -> str:
        """The version of our own writing.

        Raises:
            ResourceError: somebody else has it.
        """
        there = self._storage.read(self._key)
        if there is not None and (holder := _holder(there)) and not self._is_over(there, holder):
            raise self._refusal(holder)
        try:
            return self._write(there.version if there else ABSENT)
        except Conflict:
            raise self._refusal({}) from None

    def _is_over(self, there: Blob, holder: dict[str, Any]) -> bool:
        if holder.get("machine") == _machine():  # we can see whether it lives
            return not _lives(holder)
        found = self._storage.age(self._key)
        return found is not None and found[0] == there.version and found[1] > SILENCE_S

    def _refusal(self, holder: dict[str, Any]) -> ResourceError:
        who = f" ({holder['who']} on {holder['host']}, process {holder['pid']})" if holder else ""
        remedy = f"wait for it, or end it: {SILENCE_S:.0f} s after its last sign of life the place is free"
        return ResourceError(self._where, f"another run is at work there{who}", remedy)

    def _write(self, expect: str) -> str:
        self._beats += 1
        told = {**_ourselves(), "id": self._id, "beats": self._beats}
        return self._storage.write(self._key, json.dumps(told).encode(), expect=expect)

    def _beat(self) -> None:
        from botocore.exceptions import ClientError

        while not self._over.wait(BEAT_S):
            with suppress(UserError, ClientError):  # out of reach for now, or refused: the next beat asks again
                if not self._renewed():
                    self._lost = True
                    # As Ctrl-C would: what is under way ends in order. The kernel gives it to the main thread, and wakes that.
                    os.kill(os.getpid(), signal.SIGINT)
                    return

    def _renewed(self) -> bool:
        try:
            self._version = self._write(self._version)
        except Conflict:
            there = self._storage.read(self._key)
            if there is None or _holder(there).get("id") != self._id:
                return False
            self._version = there.version  # ours, whose answer did not reach us
        return True


class _Heard:
    """In the place of an ignored Ctrl-C: what ends the work of a lease that is lost, or of one that is held around it."""

    def __init__(self, lease: _Lease, around: Any) -> None:
        self._lease, self._around = lease, around

    def __call__(self, *given: Any) -> None:
        if self._lease._lost:
            raise KeyboardInterrupt
        if isinstance(self._around, _Heard):
            self._around(*given)


def _holder(there: Blob) -> dict[str, Any]:
    """Who holds it; empty where nobody does. What nobody of ours has written holds nothing."""
    try:
        found = json.loads(there.content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"who", "host", "pid"} <= found.keys() else {}


def _ourselves() -> dict[str, Any]:
    pid = os.getpid()
    return {"who": user_name(), "host": socket.gethostname(), "machine": _machine(), "pid": pid, "began": began(pid)}


def _machine() -> str:
    """Same for two processes that see each other's process ids: this boot, and this namespace of processes."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _lives(holder: dict[str, Any]) -> bool:
    """Ids are used again, so the moment at which it began counts too."""
    at = began(holder["pid"])
    return at is not None and at == holder.get("began")

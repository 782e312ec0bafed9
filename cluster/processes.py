"""Processes of ours: what a new one gets, and those of a folder: they write files in it, or descend from ones that do.

Command lines do not tell (Ray and vLLM rename their processes), nor do process ids on file (they are used again). Who
only reads there, such as `tail -f` on a log, does not belong.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cluster.errors import UserError

GRACE_S = 4.0
"""Between SIGTERM and SIGKILL. A raylet ends its workers within about 3 s; the dashboard's modules never listen."""

DRIVER_LOG = "python-core-driver"
"""Drivers from outside, such as a person's `serinus run`, log beside the node they joined but are not the cluster's."""


def inherited(*names: str) -> dict[str, str]:
    """These variables of our environment, where they are set: for processes that are to get nothing else of it."""
    return {name: os.environ[name] for name in names if name in os.environ}


def writing_in(folder: Path) -> list[psutil.Process]:
    """Processes of ours that write files in `folder`, with their descendants; never this one or its ancestors."""
    if not folder.exists():
        return []
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid not in ours and process.pid not in found and _writes(process.pid, f"{folder}/"):
            with suppress(psutil.Error):
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    return [process for pid, process in found.items() if pid not in ours]


def _writes(pid: int, prefix: str) -> bool:
    targets: dict[str, str] = {}
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # it ended, or is someone else's
        return False
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile: that tells nothing about the others
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            if target.startswith(prefix) and _is_open_for_writing(pid, descriptor):
                targets[descriptor] = target
    if any(DRIVER_LOG in target for target in targets.values()):
        return any(descriptor in targets for descriptor in ("1", "2"))  # a submitted job's driver prints there, too
    return bool(targets)


def _is_open_for_writing(pid: int, descriptor: str) -> bool:
    info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text(encoding="ascii")
    flags = next(line for line in info.splitlines() if line.startswith("flags:"))
    return bool(int(flags.split()[1], 8) & (os.O_WRONLY | os.O_RDWR))


def end(folder: Path) -> int:
    """End every process of `folder`, first asking, after GRACE_S by force; returns how many there were."""
    seen: set[int] = set()
    deadline = time.monotonic() + GRACE_S
    while processes := writing_in(folder):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in seen:
                    process.terminate()
        seen |= {process.pid for process in processes}
        psutil.wait_procs(processes, timeout=1)
    return len(seen)


@contextmanager
def within(timeout_s: float, folder: Path, error: UserError) -> Iterator[None]:
    """For calls into compiled code that may wait for good, where no exception and no Ctrl-C reaches them: after `timeout_s` the
    processes of `folder` are ended and `error` is printed, and this process ends with its exit code."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(timeout_s):
            end(folder)
            if not done.wait(GRACE_S):  # with what it waited for gone it may have come back by itself
                print(f"error: {error}", file=sys.stderr, flush=True)
                os._exit(error.exit_code)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def began(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine's boot, which no setting of its clock moves (proc(5), `stat`); None of
    what has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])  # one whose parent has not asked after it has ended too

"""CPU seconds of a command and of all processes that it starts, on Linux, macOS and the like."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

SAMPLED_EVERY_S = 0.1


class Used(NamedTuple):
    """What a command took, and what it printed."""

    cpu_s: float
    """Of every process below it, too: Ray's workers are waited for by a parent that does not count them. What a process takes
    after it was looked at last, a tenth of a second at most, is missing."""
    wall_s: float
    output: str
    peaks: dict[str, int]
    """The most memory of its own, in bytes, that each process had when it was looked at, by its number and title (Linux)."""


def run(command: Sequence[str]) -> Used:
    """Raises CalledProcessError: the command failed; what it printed is in the message."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        seen, peaks = dict[tuple[int, float], float](), dict[str, int]()
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), seen, peaks, ended))
        watcher.start()
        status = _wait(process)
        wall_s = time.monotonic() - began
        ended.set()
        watcher.join()
        printed.seek(0)
        output = printed.read()
    if status:
        raise subprocess.CalledProcessError(status, command, output)
    return Used(sum(seen.values()), wall_s, output, peaks)


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        raise


def _watch(
    root: psutil.Process, seen: dict[tuple[int, float], float], peaks: dict[str, int], ended: threading.Event
) -> None:
    """Note the CPU time of each process of the tree, by its number and when it began, until the command has ended."""
    while not ended.wait(SAMPLED_EVERY_S):
        try:
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            try:
                with process.oneshot():
                    times, name = process.cpu_times(), f"{process.pid} {process.name()}"
                    seen[process.pid, process.create_time()] = times.user + times.system
                    peaks[name] = max(peaks.get(name, 0), _own_memory(process.pid))
            except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
                continue


def _own_memory(pid: int) -> int:
    """In bytes: anonymous pages, without files and what is shared (Ray's object store is)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields.get("RssAnon", "0 kB").split()[0]) * 1024

"""Work on files from outside in a process of its own: what is wrong with one takes that process along, and no worker.

For parsers in C++, where damage may end the process, never end, or ask for all memory there is. Each request has so much
processor time (the kernel ends the process when that is used up) and the process so much address space, whatever the parser does.
A process answers one request after the other, and ends with the one that started it.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from cluster.errors import StageFailed
from cluster.processes import inherited

SIZE = struct.Struct("<Q")
"""Stands before each request and each answer."""
READY = b"ready"
"""The first answer, to nothing: the function is there."""
FAILED = "failed"
"""Key of an answer that is none: the function raised."""
BEGIN = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from pipelines.data.apart import serve; serve(*sys.argv[2:])"


class Ended(Exception):
    """No answer came: the error's text says why, in words for people."""


class OutOfTime(Ended):
    """The processor time was used up."""


class NotStarted(StageFailed):
    """The process cannot work on this machine, or the machine ended it: of no fault of what it should read."""


class Apart:
    """A function `module:name` that runs in another process: bytes and settings in, something that JSON holds out."""

    def __init__(self, function: str, memory_bytes: int, cpu_s: float) -> None:
        self._limits = (function, str(memory_bytes), str(cpu_s))
        self._memory_bytes, self._cpu_s = memory_bytes, cpu_s
        self._process: subprocess.Popen[bytes] | None = None
        self.used_cpu_s = 0.0
        """Processor time of the answers so far, which no clock of this process counts."""

    def __call__(self, content: bytes, **settings: Any) -> Any:
        """What the function answers, whatever was asked before: what fails in a process that is not new is tried in a new one.

        Raises:
            Ended: it raised, was out of time or memory, or took its process along.
            NotStarted: the function cannot be had on this machine, or the machine ended the process (its memory was short, say).
        """
        is_new = self._process is None
        try:
            return self._asked(content, settings)
        except OutOfTime:
            raise
        except Ended:
            if is_new:
                raise
        self.close()
        return self._asked(content, settings)

    def _asked(self, content: bytes, settings: dict[str, Any]) -> Any:
        process = self._process = self._process or self._started()
        try:
            answer = _exchanged(process, json.dumps(settings).encode(), content)
        except BaseException:  # Ray cancels so: the next one must not get this one's answer
            process.kill()
            self.close()
            raise
        if answer is None:
            raise self._end()
        used, value = json.loads(answer)
        self.used_cpu_s += used
        if isinstance(value, dict) and FAILED in value:
            raise Ended(value[FAILED])
        return value

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-s", "-c", BEGIN, json.dumps(sys.path), *self._limits],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=-1,
            # BLAS would take address space for each core
            env=inherited("LD_LIBRARY_PATH") | {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        if (ready := _read(process.stdout)) != READY:
            process.kill()
            process.communicate()
            told = (ready or b"").decode() or f"it ended (exit code {process.returncode})"
            raise NotStarted(f"{self._limits[0]} cannot be run in a process of its own on {platform.node()}: {told}")
        return process

    def _end(self) -> Ended:
        code = self.close()
        if code == -signal.SIGPROF:
            self.used_cpu_s += self._cpu_s
            return OutOfTime(f"took more than {self._cpu_s:g} s of processor time")
        if code == -signal.SIGKILL:  # none of our limits sends it
            raise NotStarted(
                f"{self._limits[0]} was killed on {platform.node()}: its memory ran out, or somebody did it"
            )
        found = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Ended(f"ended the process that read it ({found}); it had {self._memory_bytes / 1e9:.1f} GB of memory")

    def close(self) -> int:
        """Let the process end, if there is one. Returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(OSError):  # what was not written yet has no reader
                stream.close()
        return process.wait()


def _exchanged(process: subprocess.Popen[bytes], *parts: bytes) -> bytes | None:
    """The answer to these parts of a request; None where the process ended instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for part in parts:
            process.stdin.write(SIZE.pack(len(part)))
            process.stdin.write(part)
        process.stdin.flush()
        return _read(process.stdout)
    except OSError:  # it ended before it had read all
        return None


def _read(stream: IO[bytes]) -> bytes | None:
    """The next request or answer; None at the end, also in the middle of one."""
    head = stream.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    (size,) = SIZE.unpack(head)
    content = stream.read(size)
    return content if len(content) == size else None


def serve(function: str, memory_bytes: str, cpu_s: str) -> None:
    """In the other process: answer until there are no more requests."""
    module, _, name = function.partition(":")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    try:
        called = getattr(importlib.import_module(module), name)
    except Exception as error:  # outermost: a library is missing or broken on this machine
        _write(answers, f"{type(error).__name__}: {error}".encode())
        return
    _write(answers, READY)
    while (settings := _read(sys.stdin.buffer)) is not None and (content := _read(sys.stdin.buffer)) is not None:
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, float(cpu_s))  # ends the process: nothing handles the signal
        value = _answer(called, content, json.loads(settings))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answers, json.dumps([time.process_time() - began, value]).encode())


def _write(stream: IO[bytes], content: bytes) -> None:
    stream.write(SIZE.pack(len(content)))
    stream.write(content)
    stream.flush()


def _answer(called: Callable[..., Any], content: bytes, settings: dict[str, Any]) -> Any:
    try:
        return called(content, **settings)
    except MemoryError:
        return {FAILED: "needs more memory than it may have"}
    except Exception as error:  # outermost: whatever a library raises for what it reads
        return {FAILED: f"{type(error).__name__}: {error}".splitlines()[0][:300]}

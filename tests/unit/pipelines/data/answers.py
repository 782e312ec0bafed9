"""Functions that another process calls in test_apart.py, in a module that is imported at once."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time

LEFT_BEHIND = list[mmap.mmap]()


def length(content: bytes, more: int = 0) -> int:
    print("what a library says is no answer")
    return len(content) + more


def large(content: bytes) -> str:
    return "x" * len(content)


def process(content: bytes) -> int:
    return os.getpid()


def fails(content: bytes) -> None:
    raise LookupError("no such thing\nand more")


def crashes(content: bytes) -> None:
    ctypes.string_at(0)


def leaves(content: bytes) -> None:
    os._exit(3)


def takes_all_memory(content: bytes) -> int:
    return len(bytearray(8 << 30))


def grows(content: bytes) -> int:
    """Of address space; nothing is written there."""
    LEFT_BEHIND.append(mmap.mmap(-1, 1 << 30))
    return len(LEFT_BEHIND)


def never_ends(content: bytes) -> None:
    while True:
        pass


def sleeps(content: bytes) -> None:
    time.sleep(60)


def is_killed(content: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

"""Importing libraries that make a million objects."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Around imports of vLLM and its like. Python's collector would look through what they make again and again: a fifth of their
    CPU time (7.5 s down to 5.9 s for vLLM's protocol). What they made lives as long as the process and is never looked through.
    """
    was_enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # else nothing came, and what is alive may be let go one day
            gc.freeze()
        if was_enabled:
            gc.enable()

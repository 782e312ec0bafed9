"""The decorator of every kernel: compiled on first use, kept on disk, compiled anew when a source in its folder changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import config
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

F = TypeVar("F", bound=Callable[..., Any])


@cache
def _sources_digest(folder: Path) -> str:
    """Kernels call each other across files, and numba looks only at the file of the one that is asked for."""
    sources = [Path(__file__), *sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


class _Stamped:
    _py_file: str

    def get_source_stamp(self) -> str:
        return _sources_digest(Path(self._py_file).parent)


class AsSet(_Stamped, UserProvidedCacheLocator):
    """In the folder that NUMBA_CACHE_DIR names, where it names one."""


class BesideSource(_Stamped, InTreeCacheLocator):
    """In __pycache__, where that can be written."""


class OfUser(_Stamped, UserWideCacheLocator):
    """In the user's cache folder."""


LOCATORS = ",".join(f"{__name__}.{locator.__name__}" for locator in (AsSet, BesideSource, OfUser))


def kernel(function: F) -> F:
    """Machine code for `function`, without the interpreter's lock. Took a second each when compiled, milliseconds after.

    Where no folder can be written to keep it (a read-only installation, no home) each process compiles anew.
    """
    before = config.CACHE_LOCATOR_CLASSES
    config.CACHE_LOCATOR_CLASSES = LOCATORS
    try:
        return cast(F, njit(cache=True, nogil=True)(function))
    except RuntimeError:  # "cannot cache function": no locator found a folder
        return cast(F, njit(nogil=True)(function))
    finally:
        config.CACHE_LOCATOR_CLASSES = before

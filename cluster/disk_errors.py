"""What a disk, or its owner, refuses to write, for people."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cluster.errors import InputError, ResourceError

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
UNFIT: Final = {errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENAMETOOLONG}
"""What else a disk or a network's file system says to a write."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What a disk or its owner refuses at `path` becomes a message.

    Raises:
        ResourceError: no space, no permission, or the disk is read-only or broken.
        InputError: a file is where a folder must be.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _no_space(path) from None
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise InputError(str(path), "a file is where a folder must be", "name another `storage:`") from None
        if isinstance(error, PermissionError):
            raise ResourceError(str(path), "permission denied", "give the user of serinus write access there") from None
        if error.errno in UNFIT:
            found = f"cannot be written ({os.strerror(error.errno)})"
            raise ResourceError(
                str(path), found, "mend the disk or its mount there, or name another `storage:`"
            ) from None
        raise


@contextmanager
def writing_with_libraries(path: Path) -> Iterator[None]:
    """A full disk, in a block whose other errors are no matter of `path`. What is written in Rust (safetensors, tokenizers) has
    errors of its own, which end with the system's number.

    Raises:
        ResourceError: no space.
    """
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in FULL or any(f"(os error {number})" in str(error) for number in FULL):
            raise _no_space(path) from None
        raise


def _no_space(path: Path) -> ResourceError:
    return ResourceError(str(path), "no space left on the disk", "free some space and run the same command again")

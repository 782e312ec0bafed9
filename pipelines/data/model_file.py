"""Model files of a user's own that documents are scored by: found, named on record by their hash, and brought to each machine."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cluster.config import home
from cluster.errors import InputError, ResourceError, StageFailed
from cluster.storage import sha256_of
from pipelines.config import SourceConfig
from pipelines.data.inventory import UNREADABLE, SourceFile, inventory

CHUNK_BYTES: Final = 4 << 20
EXTRA: Final = "quality"
"""Of pyproject.toml: the packages that read models."""
_SOUND = set[tuple[Path, str]]()
"""Files that this process has hashed, and their hashes."""


def find(where: str, path: str, kind: str) -> SourceFile:
    """The file at `path`, hashed.

    Args:
        where: the field that names it.
        kind: what it should be, in words for people.

    Raises:
        InputError: there is none, several, or one that cannot be read.
    """
    from pyarrow.fs import LocalFileSystem

    try:
        files = inventory([SourceConfig(path=path)])
    except InputError as error:
        raise InputError(f"{where}: {path}", error.found, f"name {kind}") from None
    if len(files) != 1:
        raise InputError(f"{where}: {path}", f"{len(files)} files", f"name one: {kind}")
    if files[0].sha256 == UNREADABLE:
        raise InputError(f"{where}: {path}", f"cannot be read ({files[0].detail})", f"name {kind}")
    if isinstance(files[0].filesystem, LocalFileSystem):
        _SOUND.add((Path(files[0].path), files[0].sha256))
    return files[0]


def check_package(where: str, module: str, package: str) -> None:
    """Raises ResourceError: what reads the model is not installed."""
    if importlib.util.find_spec(module) is None:
        remedy = f"pip install 'serinus[{EXTRA}]' where serinus runs and on every node, or leave the field out"
        raise ResourceError(where, f"the package {package} is not installed", remedy)


def on_disk(file: SourceFile) -> Path:
    """Its bytes on this machine: the file itself, or a copy of the object, which all processes here share.

    Raises:
        InputError: there is another file here than was found.
        ResourceError: there is none that can be read.
    """
    from pyarrow.fs import LocalFileSystem

    is_local = isinstance(file.filesystem, LocalFileSystem)
    copy = home() / "cache" / "models" / f"{file.sha256[:32]}{Path(file.path).suffix}"
    path = Path(file.path) if is_local else copy
    if (path, file.sha256) in _SOUND:
        return path
    if is_local:
        _check(file, path)
    else:
        with _one_at_a_time(path):
            if not path.exists() or sha256_of(path) != file.sha256:
                _download(file, path)
    _SOUND.add((path, file.sha256))
    return path


def _check(file: SourceFile, path: Path) -> None:
    """Raises InputError: there is another file than was found; ResourceError: none that this node can read."""
    try:
        found = sha256_of(path)
    except OSError as error:
        remedy = "put it where every node can read it under the same path, a shared folder or s3://"
        raise ResourceError(file.path, f"cannot be read on this node ({error.strerror})", remedy) from None
    if found != file.sha256:
        raise InputError(file.path, "is another file than when this run began", "run the same command again")


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Of this machine's processes; the lock goes with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(file: SourceFile, path: Path) -> None:
    """Appears under its name when it is whole."""
    handle, hidden = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with (
            os.fdopen(handle, "wb") as copy,
            file.filesystem.open_input_stream(file.path, compression=None) as stream,
        ):
            while chunk := stream.read(CHUNK_BYTES):
                copy.write(chunk)
        _check(file, Path(hidden))
        os.replace(hidden, path)
    except OSError as error:
        raise StageFailed(f"{file.name} cannot be brought to this machine: {error}") from None
    finally:
        Path(hidden).unlink(missing_ok=True)

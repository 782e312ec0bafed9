"""A job's working directory as one zip file, in Ray's own naming, kept so that the job can be submitted again.

Ray lets go of a package ten minutes after its last job has ended. What is kept here lies beside this user's keys, for its
owner only.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.config import home
from cluster.errors import InputError, ResourceError

IGNORE_FILE = ".serinusignore"
"""Beside the folder's .gitignore and in its syntax: what stays at home. Nothing that .gitignore leaves out comes back by it."""

KEPT_BYTES = 2 << 30
"""Of all packages together; the newest is kept whatever its size."""

PACKAGE_BYTES = 100 << 20
"""What Ray's dashboard takes in one request (DASHBOARD_CLIENT_MAX_SIZE in ray_constants.py, version 2.60)."""

SHIPPED = "name what the job does not need in .gitignore or " + IGNORE_FILE


def pack(folder: Path) -> Path:
    """The kept package of `folder`, without what its ignore files name, .git, and what Ray always leaves out (.venv).

    Raises:
        InputError: no such folder, a pattern that is none, a file that cannot be read, more than PACKAGE_BYTES, or a link to a
            folder or out of this one: what lies behind it was not meant, or has no end.
        ResourceError: there is no room to keep it.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes

    if not folder.is_dir():
        raise InputError(str(folder), "no such folder", "give the project's folder")
    excludes = [*get_runtime_env_default_excludes(), ".git/", *_patterns(folder / IGNORE_FILE)]
    _check(folder.resolve(), excludes)
    with _filling() as draft:
        _zip(folder, draft, excludes)
        kept = _store() / _uri(draft).removeprefix("gcs://")
        os.replace(draft, kept)
    os.utime(kept)  # the same content packed again is new again
    _forget_old(kept)
    return kept


def find(uri: str) -> Path | None:
    """The kept package behind a job's `working_dir`, if this machine still has it."""
    kept = _store() / Path(uri).name
    return kept if uri.startswith("gcs://") and kept.is_file() else None


def _patterns(file: Path) -> list[str]:
    from ray._private.thirdparty.pathspec import PathSpec

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        PathSpec.from_lines("gitwildmatch", lines)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, IndexError) as error:  # no UTF-8; a pattern that is none, as a lone "!"
        raise InputError(str(file), f"cannot be read as patterns ({error})", "write it as a .gitignore") from None
    return lines


def _check(folder: Path, excludes: list[str]) -> None:
    """Before a byte is copied."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    quiet = logging.getLogger(f"{__name__}.quiet")
    quiet.disabled = True  # it says again what is raised
    sizes = _Sizes(folder)
    try:
        _dir_travel(folder, [_get_excludes(folder, excludes)], sizes.add, include_gitignore=True, logger=quiet)
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(folder), f"cannot be packed ({error})", SHIPPED) from None


class _Sizes:
    """Adds up what a package of `folder` would hold."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._total = folder, 0

    def add(self, path: Path) -> None:
        if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(self._folder)):
            what = "a folder" if path.is_dir() else "something outside"
            raise InputError(str(path), f"is a link to {what}, which is not shipped", SHIPPED + ", or put a copy there")
        self._total += path.stat().st_size if path.is_file() else 0
        if self._total > PACKAGE_BYTES:
            found = f"holds more than the {PACKAGE_BYTES >> 20} MiB that Ray takes"
            raise InputError(str(self._folder), found, SHIPPED)


def _zip(folder: Path, target: Path, excludes: list[str]) -> None:
    from ray._private.runtime_env.packaging import create_package

    try:
        create_package(str(folder.resolve()), target, include_gitignore=True, excludes=excludes)
    except (OSError, ValueError, IndexError) as error:  # IndexError: a lone "!" in a .gitignore
        raise InputError(str(folder), f"cannot be packed ({error})", SHIPPED) from None


def _uri(package: Path) -> str:
    from ray._private.runtime_env.packaging import get_uri_for_package

    return str(get_uri_for_package(package))


def _store() -> Path:
    folder = home() / "packages"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        found = f"cannot be made: {error.strerror}"
        raise ResourceError(str(folder), found, "give yourself write access, or set another SERINUS_HOME") from None
    return folder


@contextmanager
def _filling() -> Iterator[Path]:
    """A file to fill, gone afterwards unless it was moved."""
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=_store()) as folder:
        yield Path(folder) / "package.zip"


def _forget_old(newest: Path) -> None:
    """Remove the oldest packages beyond KEPT_BYTES."""
    total = 0
    for package in sorted(_store().glob("_ray_pkg_*.zip"), key=lambda path: path.stat().st_mtime, reverse=True):
        total += package.stat().st_size
        if total > KEPT_BYTES and package != newest:
            package.unlink(missing_ok=True)

"""A job's working directory as one zip file, in Ray's own naming, kept so that the job can be submitted again.

Ray lets go of a package ten minutes after its last job has ended. What is kept here lies beside this user's keys, for its
owner only.
"""

from __future__ import annotations

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
"""Of all packages together; the newest is kept whatever its size. Ray takes 500 MiB a package."""

SHIPPED = "name what the job does not need in .gitignore or " + IGNORE_FILE


def pack(folder: Path) -> Path:
    """The kept package of `folder`, without what its ignore files name, .git, and what Ray always leaves out (.venv).

    Raises:
        InputError: no such folder, a pattern that is none, or a file that cannot be read.
        ResourceError: there is no room to keep it.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes

    if not folder.is_dir():
        raise InputError(str(folder), "no such folder", "give the project's folder")
    excludes = [*get_runtime_env_default_excludes(), ".git/", *_patterns(folder / IGNORE_FILE)]
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

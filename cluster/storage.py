"""Where artifacts live: a folder or an S3 bucket behind one narrow protocol.

Small records (manifests, aliases, rollout status) go through `read` and `write`, which is a compare-and-set when `expect`
is given. Bulk data goes through `filesystem` (pyarrow.fs, for Parquet) or whole folders (`publish_folder`, and `local_copy` in
node_cache.py). Who may work where, alone: lease.py.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from cluster.config import home
from cluster.disk_errors import writing, writing_with_libraries
from cluster.errors import Conflict, InputError
from cluster.storage_config import StorageConfig

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ABSENT: Final = ""
"""`expect=ABSENT`: write only if nothing is there."""
STAGING: Final = ".tmp-"
"""Begins the name of what is being written and is nothing yet."""
ABANDONED_S: Final = 3600.0


class Blob(NamedTuple):
    content: bytes
    version: str
    """Changes with every change of the content; compare-and-set expects it."""


class Storage(Protocol):
    """Keys are relative paths with '/'."""

    uri: str
    """As people read it."""
    location: str
    """What `open_storage` makes the same of in another process: `uri`, and what is asked of a bucket."""

    def read(self, key: str) -> Blob | None: ...

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        """Write atomically and return the new version; with `expect`, only if the present version is that one.

        Raises:
            Conflict: another version is there.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted."""
        ...

    def filesystem(self, key: str) -> tuple[FileSystem, str]:
        """A pyarrow filesystem and the path of `key` in it."""
        ...


def checked_key(where: str, key: str) -> str:
    """`key`, if it stays in its storage. Parts of keys come from people and from requests: names, revisions, ids.

    Raises:
        InputError: it is absolute, goes up a folder or holds a null byte.
    """
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise InputError(f"{where}: {key!r}", "is a path out of the storage", "give a plain name, without / or ..")
    return key


class LocalStorage:
    """A folder. Versions are content hashes; a lock file per key makes the compare-and-set atomic across processes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.uri = self.location = str(self.root)

    def path(self, key: str) -> Path:
        """Where `key` is kept."""
        return self.root / checked_key(self.uri, key)

    def read(self, key: str) -> Blob | None:
        try:
            content = self.path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return Blob(content, hashlib.sha256(content).hexdigest())

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        path = self.path(key)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(key):
                if expect is not None:
                    present = self.read(key)
                    if (present.version if present else ABSENT) != expect:
                        raise Conflict(f"{path} was changed by someone else")
                _replace(path, content)
        return hashlib.sha256(content).hexdigest()

    def list(self, prefix: str) -> Iterator[str]:
        base = self.path(prefix)
        for path in sorted(base.rglob("*")) if base.is_dir() else ():
            if path.is_file() and not path.name.startswith(STAGING):
                yield path.relative_to(self.root).as_posix()

    def filesystem(self, key: str) -> tuple[FileSystem, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.path(key))

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with open(locks / hashlib.sha256(key.encode()).hexdigest()[:2], "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def open_storage(place: str | StorageConfig) -> Storage:
    """The storage at a local folder, file:// or s3:// location, or as a recipe says.

    Raises:
        InputError: the location's scheme is none of these.
    """
    location = place if isinstance(place, str) else place.uri
    match urlsplit(location).scheme:
        case "s3":
            from cluster.s3 import S3Storage

            return S3Storage(place)
        case "" | "file":
            return LocalStorage(location.removeprefix("file://"))
        case scheme:
            raise InputError(location, f"unknown storage scheme {scheme}://", "use a folder or s3://bucket/folder")


def filesystem_to_write(storage: Storage, key: str) -> tuple[FileSystem, str]:
    """As `storage.filesystem`, but what becomes an object on S3 goes through boto3: pyarrow waits for ever for a write that is not
    answered."""
    if isinstance(storage, LocalStorage):
        return storage.filesystem(key)
    from cluster.s3 import S3Storage
    from cluster.sealed import sealed_filesystem

    assert isinstance(storage, S3Storage)
    _, path = storage.filesystem(key)
    return sealed_filesystem(storage.config), path


@contextmanager
def staged_folder(storage: Storage, key: str) -> Iterator[Path]:
    """A local folder to fill; what is in it when the block ends without an error becomes `key`, replacing what was there."""
    near = storage.root if isinstance(storage, LocalStorage) else home() / "cache"
    with staging_in(near) as staging:
        with writing_with_libraries(near):
            yield staging
        publish_folder(storage, staging, key)


@contextmanager
def staging_in(near: Path) -> Iterator[Path]:
    """A new folder in `near` that goes with the block; a killed process's goes when a later one is made."""
    with writing(near):
        near.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(near)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=near))
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: what a killed process leaves there stays
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield staging
    finally:
        os.close(descriptor)
        shutil.rmtree(staging, ignore_errors=True)


def _remove_abandoned(near: Path) -> None:
    """Folders that a killed process was filling: nobody has them locked. New ones are left: they are locked after they are made."""
    for folder in near.glob(f"{STAGING}*"):
        with suppress(OSError):
            if folder.is_dir() and time.time() - folder.stat().st_mtime > ABANDONED_S:
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def publish_folder(storage: Storage, folder: Path, key: str) -> None:
    """Move (file) or upload (S3) `folder` to `key`."""
    if isinstance(storage, LocalStorage):
        target = storage.path(key)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(folder, 0o755)  # noqa: S103  # mkdtemp made it 0700; artifacts are read by other users' workers
            _take_place(folder, target, storage.root)
        return
    from cluster.s3 import S3Storage

    assert isinstance(storage, S3Storage)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [f"{key}/{path.relative_to(folder).as_posix()}" for path in paths]
    for path, name in zip(paths, names, strict=True):
        storage.send(path, name)
    storage.remove(sorted(set(storage.list(key)) - set(names)))


def _take_place(folder: Path, target: Path, root: Path) -> None:
    """Another process may publish the same at this moment, and others read what was there: who has opened a file keeps it."""
    while True:
        before = root / f"{STAGING}{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            os.rename(target, before)
        try:
            os.rename(folder, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        finally:
            shutil.rmtree(before, ignore_errors=True)


def remove_folder(storage: Storage, key: str) -> None:
    """Remove `key` with everything below it; nothing there is no error."""
    from pyarrow.fs import FileType

    filesystem, path = filesystem_to_write(storage, key)
    if filesystem.get_file_info(path).type == FileType.Directory:
        filesystem.delete_dir(path)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Readers see the old content or the new one, never a part."""
    handle, name = tempfile.mkstemp(prefix=STAGING, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

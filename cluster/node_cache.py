"""Copies of a bucket's folders on this node: fetched once, checked against what is on record, removed when room is needed.

    $SERINUS_HOME/cache/<name>/       a whole copy; <name> is a hash of where the folder is and of its objects' versions
    $SERINUS_HOME/cache/<name>.part/  one under way; what is whole in it is kept by whoever fetches next
    $SERINUS_HOME/cache/<name>.lock   holds its bytes; its time is that of the last use. Locked (flock) shared by the processes that
                                      use the copy, alone by the one that makes or removes it

Locks go with their process: a copy that somebody uses is never removed, and what a killed process left is nobody's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.config import home
from cluster.disk_errors import writing
from cluster.errors import InputError, ResourceError
from cluster.s3 import S3Object, S3Storage
from cluster.storage import LocalStorage, Storage, sha256_of

FULL_PERCENT: Final = 85
"""Of the disk, beyond which unused copies go where `storage.cache_gib` sets no bound: the kubelet's number for images
(imageGCHighThresholdPercent)."""
WORD_BYTES: Final = 256 << 20
"""A download as large as that is worth a line in the log."""
NAME: Final = re.compile(r"([0-9a-f]{16})(\.part)?")
"""Of a copy's folder. Others lie there too: models that clean documents (pipelines/data/model_file.py)."""
MAKE_AGAIN: Final = "run the stage that makes it again"

logger = logging.getLogger(__name__)
_held: dict[Path, int] = {}
"""Copies that this process uses until it ends, with the descriptors of their locks."""


def local_copy(storage: Storage, key: str) -> Path:
    """A local folder with what `key` holds: the folder itself, or a copy from the bucket, which stays while this process lives.

    The bucket is asked each time what is there; another content under the same key is another copy.

    Raises:
        InputError: nothing is there, or not what the manifest of its artifact tells.
        ResourceError: the disk, or `storage.cache_gib`, has no room for it.
    """
    if isinstance(storage, LocalStorage):
        return _own(storage, key)
    assert isinstance(storage, S3Storage)
    copy = _wanted(storage, key)
    if copy.folder not in _held:
        with writing(copy.folder):
            _held[copy.folder] = _use(copy, storage)
    return copy.folder


@dataclass
class Lent:
    """A copy that stays until it is given back, or its process ends."""

    folder: Path
    lock: int | None
    """None where it is given back, or no copy."""

    def give_back(self) -> None:
        """Others may have its room, unless somebody else uses it."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def lent_copy(storage: Storage, key: str) -> Lent:
    """As `local_copy`, for a process that outlives its use of the copy; each call is given back by itself."""
    if isinstance(storage, LocalStorage):
        return Lent(_own(storage, key), None)
    assert isinstance(storage, S3Storage)
    copy = _wanted(storage, key)
    with writing(copy.folder):
        return Lent(copy.folder, _use(copy, storage))


def _own(storage: LocalStorage, key: str) -> Path:
    if not (folder := storage.path(key)).is_dir():
        raise InputError(str(folder), "no such folder", MAKE_AGAIN)
    return folder


@dataclass(frozen=True)
class _Copy:
    uri: str
    key: str
    objects: Mapping[str, S3Object]
    """By their path in the folder."""
    folder: Path

    @property
    def part(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.part")

    @property
    def num_bytes(self) -> int:
        return sum(found.num_bytes for found in self.objects.values())


def _wanted(storage: S3Storage, key: str) -> _Copy:
    listed = [found for found in storage.objects(key) if not found.key.endswith("/")]  # which consoles make, as folders
    objects = {found.key.removeprefix(f"{key}/"): found for found in listed}
    uri = f"{storage.uri}/{key}"
    if not objects:
        raise InputError(uri, "nothing is there", MAKE_AGAIN)
    told = [uri, *(f"{path}\0{objects[path].version}" for path in sorted(objects))]
    name = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    return _Copy(uri, key, objects, home() / "cache" / name)


def _use(copy: _Copy, storage: S3Storage) -> int:
    """Fetch the copy where it is not there. The descriptor of its lock, held shared."""
    copy.folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _opened(copy.folder)
    try:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits for whoever makes or removes it
            if copy.folder.is_dir():
                os.utime(lock)
                return lock
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.folder.is_dir():
                _fetch(copy, storage, lock)
    except BaseException:
        os.close(lock)
        raise


def _opened(folder: Path) -> int:
    return os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)


def _fetch(copy: _Copy, storage: S3Storage, lock: int) -> None:
    began, hashes = time.monotonic(), _on_record(storage, copy.key)
    if lost := sorted(hashes.keys() - copy.objects.keys()):
        raise InputError(f"{copy.uri}/{lost[0]}", "is on record, and not there", MAKE_AGAIN)
    for left in [path for path in copy.part.rglob("*") if path.is_file()]:
        if left.relative_to(copy.part).as_posix() not in copy.objects:
            left.unlink()  # boto3's, which was killed as it wrote
    _reserve(copy, lock, storage.config.cache_gib)
    if copy.num_bytes >= WORD_BYTES:
        logger.info("fetching %s (%.1f GiB)", copy.uri, copy.num_bytes / 2**30)
    for path, found in copy.objects.items():
        _fetch_file(storage, found, copy.part / path, hashes.get(path))
    if _wanted(storage, copy.key).folder != copy.folder:  # what no manifest tells may be of both
        raise InputError(copy.uri, "was changed while it was fetched", "run the same command again")
    os.rename(copy.part, copy.folder)
    if copy.num_bytes >= WORD_BYTES:
        logger.info("fetched %s in %.0f s", copy.uri, time.monotonic() - began)


def _on_record(storage: S3Storage, key: str) -> Mapping[str, str]:
    """SHA-256 of the files below `key`, by their path there, from its artifact's manifest; nothing where none is written yet."""
    parts = key.split("/")
    if parts[0] != "artifacts" or len(parts) < 4:
        return {}
    blob, below = storage.read("/".join([*parts[:3], "manifest.json"])), f"{'/'.join(parts[3:])}/"
    files = json.loads(blob.content).get("files", []) if blob and blob.content else []
    return {file["path"].removeprefix(below): file["sha256"] for file in files if file["path"].startswith(below)}


def _fetch_file(storage: S3Storage, found: S3Object, path: Path, sha256: str | None) -> None:
    """One file, unless a download that broke off has left it whole.

    Raises:
        InputError: it is not what the manifest tells.
    """
    if sha256 and path.is_file() and sha256_of(path) == sha256:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.fetch(found.key, path)
    if sha256 and (fetched := sha256_of(path)) != sha256:
        path.unlink()
        told = f"is not what its manifest tells (SHA-256 {fetched[:12]}, on record {sha256[:12]})"
        raise InputError(
            f"{storage.uri}/{found.key}", told, f"somebody changed it in the bucket: restore it, or {MAKE_AGAIN}"
        )


# Room.


def _reserve(copy: _Copy, lock: int, bound_gib: float | None) -> None:
    """Make room for the copy, and write down that it takes it. One process at a time, lest two take the same room."""
    cache = copy.folder.parent
    with open(cache / "room.lock", "w") as room:
        fcntl.flock(room, fcntl.LOCK_EX)
        if bound_gib is None:
            _make_room_on_disk(cache, copy)
        else:
            _make_room_within(cache, copy, bound_gib)
        os.pwrite(lock, f"{copy.num_bytes}\n".encode(), 0)
        os.utime(lock)
        copy.part.mkdir(exist_ok=True)


def _make_room_within(cache: Path, copy: _Copy, bound_gib: float) -> None:
    bound = int(bound_gib * 2**30)
    others = {folder: size for folder, size in _kept(cache).items() if folder != copy.folder}
    for folder in list(others):
        if sum(others.values()) + copy.num_bytes <= bound:
            return
        if _remove_unused(folder):
            del others[folder]
    if sum(others.values()) + copy.num_bytes > bound:
        found = f"takes {_gib(copy.num_bytes)}, beside {_gib(sum(others.values()))} in use, of {bound_gib:g} GiB"
        raise ResourceError(copy.uri, found, "raise `storage.cache_gib`, or end what uses the others on this node")


def _make_room_on_disk(cache: Path, copy: _Copy) -> None:
    for folder in _kept(cache):
        disk = shutil.disk_usage(cache)
        if disk.total - disk.free + _under_way(cache, copy) + copy.num_bytes <= disk.total * FULL_PERCENT // 100:
            return
        if folder != copy.folder:
            _remove_unused(folder)
    free = shutil.disk_usage(cache).free + _bytes_in(copy.part) - _under_way(cache, copy)
    if copy.num_bytes > free:
        found = f"takes {_gib(copy.num_bytes)}, and the disk of {cache} has {_gib(max(0, free))} left"
        raise ResourceError(copy.uri, found, "free some space there, or set SERINUS_HOME to a larger disk")


def _kept(cache: Path) -> dict[Path, int]:
    """Copies, whole or under way, with what each takes or will take in bytes; the one that was used longest ago first."""
    found = [NAME.fullmatch(path.name) for path in cache.iterdir() if path.is_dir()]
    folders = sorted({cache / name[1] for name in found if name}, key=_last_use)
    return {folder: _told_bytes(folder) for folder in folders}


def _last_use(folder: Path) -> float:
    lock = folder.with_name(f"{folder.name}.lock")
    return lock.stat().st_mtime if lock.exists() else 0.0


def _told_bytes(folder: Path) -> int:
    lock = folder.with_name(f"{folder.name}.lock")
    told = lock.read_text().strip() if lock.exists() else ""
    return int(told) if told else _bytes_in(folder)


def _under_way(cache: Path, copy: _Copy) -> int:
    """What the downloads of others are yet to write, in bytes."""
    parts = [part for part in cache.glob("*.part") if part != copy.part]
    return sum(max(0, _told_bytes(part.with_suffix("")) - _bytes_in(part)) for part in parts)


def _bytes_in(folder: Path) -> int:
    num_bytes = 0
    with suppress(FileNotFoundError):  # a download ended as we looked
        for path in folder.rglob("*"):
            num_bytes += path.stat().st_size if path.is_file() else 0
    return num_bytes


def _remove_unused(folder: Path) -> bool:
    """Remove a copy, whole or broken off, if nobody uses or makes it. Its lock stays: somebody may wait for it."""
    with _alone(folder) as alone:
        if alone:
            logger.info("removing %s, which nobody uses, for another copy", folder)
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            if folder.is_dir():
                os.rename(folder, part)  # first: whoever is killed as he removes it leaves no half that looks whole
                shutil.rmtree(part, ignore_errors=True)
    return alone


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    lock = _opened(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"

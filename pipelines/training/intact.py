"""Is the model that training begins with as it was written?"""

from __future__ import annotations

from pathlib import Path

from cluster.artifacts import FileEntry, Weights
from cluster.errors import InputError
from cluster.storage import LocalStorage, Storage, sha256_of
from pipelines.progress import say

TOLD_FROM_BYTES = 4 * 10**9
"""More take seconds to hash (about 1 GB/s)."""


def check_files(base: Weights, storage: Storage) -> None:
    """Compare the model's files with its manifest. S3 compares what is read with checksums of its own.

    Raises:
        InputError: one is missing, cut short or changed.
    """
    if not isinstance(storage, LocalStorage):
        return
    if base.num_weight_bytes > TOLD_FROM_BYTES:
        say("train", f"comparing {base.num_weight_bytes / 1e9:.0f} GB of weights with their hashes")
    for entry in base.files:
        path = storage.path(f"{base.location}/{entry.path}")
        if entry.path.startswith("model/") and (found := _damage(path, entry)):
            raise InputError(str(path), found, f"remove the folder {base.location} there; it is made again")


def _damage(path: Path, entry: FileEntry) -> str | None:
    if not path.is_file():
        return "is missing"
    if (num_bytes := path.stat().st_size) != entry.num_bytes:
        return f"is cut short or was changed ({num_bytes} bytes, of {entry.num_bytes} written)"
    return None if sha256_of(path) == entry.sha256 else "is not what was written (its SHA-256 differs)"

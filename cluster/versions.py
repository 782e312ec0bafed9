"""All artifacts of a kind, and the one that a person means."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

from cluster.artifacts import FileEntry, Manifest, load
from cluster.errors import InputError
from cluster.storage import Storage

A = TypeVar("A", bound=Manifest)


def every(storage: Storage, kind: type[A]) -> tuple[list[A], list[str]]:
    """All of that kind, oldest first; and the keys of those that cannot be read here: another version of serinus wrote them."""
    folder = f"artifacts/{kind.model_fields['kind'].default}"
    found, unreadable = list[A](), list[str]()
    for name in storage.list(folder):
        if name.count("/") != 3 or not name.endswith("/manifest.json"):
            continue
        key = name.split("/")[2]
        try:
            made = load(storage, kind, key)
        except InputError:
            unreadable.append(key)
            continue
        found += [made] if made is not None else []
    return sorted(found, key=lambda made: (made.made_at, made.key)), unreadable


def fitting(made: Sequence[A], wanted: str) -> list[A]:
    """Those whose key or digest begins so."""
    return [one for one in made if one.key.startswith(wanted) or one.digest.startswith(wanted)]


def chosen(storage: Storage, kind: type[A], wanted: str | None, command: str) -> A:
    """The one with that key or digest or the beginning of one; without any the newest.

    Args:
        command: what makes and lists them: `serinus data annotate`, say.

    Raises:
        InputError: there is none, or more than one.
    """
    made, _ = every(storage, kind)
    found = made if wanted is None else fitting(made, wanted)
    if not found or (wanted is not None and len(found) > 1):
        told = f"{len(found)} of {len(made)} fit" if made else "there are none yet"
        remedy = f"name one by its key: {command} list" if made else f"begin: {command} run"
        raise InputError(f"{kind.model_fields['kind'].default} {wanted or ''}".strip(), told, remedy)
    return found[-1]


def write_file(storage: Storage, location: str, name: str, content: bytes) -> FileEntry:
    """A file of an artifact that fits into memory."""
    storage.write(f"{location}/{name}", content)
    return FileEntry(path=name, num_bytes=len(content), sha256=sha256(content).hexdigest())

"""Which documents people want out, for good: one list for a storage, changed by compare-and-set.

What is on the list is on it under every recipe: whoever cleans the same source again does not get the document back. Ids that
are made of the file's name concern that file alone; ids that documents bring along (`id_field`) concern every file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from cluster.config import StrictModel
from cluster.errors import Conflict, InputError
from cluster.storage import ABSENT, Storage

KEY = "data/forgotten.json"
NUM_ATTEMPTS = 20
"""Lost races after which an entry is given up: far more people than forget at one moment."""


class Entry(StrictModel):
    """One document that is not to be trained on."""

    id: str
    source: str
    """Name of the file it lay in."""
    who: str
    at: datetime

    @property
    def brought_along(self) -> bool:
        """Whether the id is the document's own, not made of its place in the file."""
        return self.id != self.source and not self.id.startswith(f"{self.source}#")


class Ledger(StrictModel):
    entries: tuple[Entry, ...] = ()


def read(storage: Storage) -> tuple[Entry, ...]:
    """All entries, oldest first."""
    return _read(storage)[0].entries


def add(storage: Storage, entry: Entry) -> tuple[Entry, ...]:
    """All entries with this one, which is added unless its id and source are there already."""
    for _ in range(NUM_ATTEMPTS):
        present, version = _read(storage)
        if any((found.id, found.source) == (entry.id, entry.source) for found in present.entries):
            return present.entries
        changed = Ledger(entries=(*present.entries, entry))
        try:
            storage.write(KEY, changed.model_dump_json(indent=1).encode(), expect=version)
        except Conflict:
            continue
        return changed.entries
    raise Conflict("the list of forgotten documents is being changed by others all the time")


def concerning(entries: Iterable[Entry], files: Collection[str], sources: Iterable[Any]) -> list[str]:
    """The ids that may stand on a document of these files, sorted.

    Args:
        files: names of the files.
        sources: the recorded configuration of the sources, each a mapping with `id_field`.
    """
    own_ids = any(source.get("id_field") for source in sources)
    return sorted({entry.id for entry in entries if entry.source in files or (own_ids and entry.brought_along)})


def _read(storage: Storage) -> tuple[Ledger, str]:
    blob = storage.read(KEY)
    if blob is None:
        return Ledger(), ABSENT
    try:
        return Ledger.model_validate_json(blob.content), blob.version
    except ValueError as error:
        where = f"{storage.uri}/{KEY}"
        raise InputError(where, f"not a list of documents ({str(error).splitlines()[0]})", "restore the file") from None

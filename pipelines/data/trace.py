"""One document through every version of a dataset: where it came from, what became of it, which models have seen it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from cluster.artifacts import Dataset, load
from cluster.config import StrictModel
from cluster.descent import Descent, descent
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.data import ledger
from pipelines.data.decide import EXCLUDED, TRAIN
from pipelines.data.history import versions
from pipelines.data.record import REPEATED, is_recorded, part, parts, schema

NOT_TOLD = ("text_hash", "fingerprint", "bands")
NUM_COMPARED = 20_000
"""Ids among which one like an unknown one is looked for: comparing takes a second."""
IN_VERSION = " in version "
DUPLICATES = ("exact_duplicate", "near_duplicate")


class Fate(StrictModel):
    """A document in one version."""

    version: str
    made_at: datetime
    split: str
    """train, heldout or excluded."""
    shard: str
    """Below the dataset's folder."""
    row: int
    source: str
    """Name of the input file."""
    source_sha256: str
    position: int
    span: tuple[int, int] | None
    origin: str = ""
    reason: str
    detail: str
    language: str
    num_characters_in: int
    num_characters: int
    changed_by: tuple[str, ...]
    num_repeated_lines: int = 0
    """Taken out because they stood before; so are the paragraphs."""
    num_repeated_paragraphs: int = 0
    num_repeated_characters: int = 0
    recorded: bool
    """Whether the version has a record: without one (an earlier serinus made it) the rules and the bytes are not known."""
    instead: str = ""
    """Of a duplicate: the document that was kept in its place."""
    instead_in: str = ""
    """Key of the version that keeps it, where that is an earlier one."""
    seen_by: Descent = Descent()
    """What was made of this version, if it trains on the document or on the one in its place."""


class Trace(StrictModel):
    id: str
    fates: tuple[Fate, ...]
    """Newest version first."""
    forgotten: ledger.Entry | None = None


class Place(NamedTuple):
    dataset: Dataset
    path: str
    row: int


def trace(storage: Storage, wanted: str, version: Dataset | None = None) -> Trace:
    """Of the document with that id, or the only one whose id begins so.

    Args:
        version: look in this one alone.

    Raises:
        InputError: no document has that id, or several begin with it.
    """
    chosen = [version] if version else versions(storage).found[::-1]
    name = full_id(storage, wanted, chosen)
    fates = tuple(_fate(storage, place) for place in places(storage, name, chosen))
    entry = next((entry for entry in ledger.read(storage) if entry.id == name), None)
    return Trace(id=name, fates=fates, forgotten=entry)


def full_id(storage: Storage, wanted: str, chosen: Sequence[Dataset]) -> str:
    """The id itself where a document has it, else the only one that begins with it.

    Raises:
        InputError: there is none, or several begin so.
    """
    if next(places(storage, wanted, chosen), None):
        return wanted
    matching, some = set[str](), list[str]()
    for made in chosen:
        for _, table in parts(storage, made, ("id",)):
            ids = table["id"].to_pylist()
            matching.update(name for name in ids if name.startswith(wanted))
            some += ids[: max(0, NUM_COMPARED - len(some))]
    if len(matching) == 1:
        return matching.pop()
    where = f"document {wanted}"
    if matching:
        more = f" and {len(matching) - 3} more" if len(matching) > 3 else ""
        found = f"could be {', '.join(sorted(matching)[:3])}{more}"
        raise InputError(where, found, "give the whole id of the one you mean")
    near = difflib.get_close_matches(wanted, some, n=1)
    hint = f"did you mean {near[0]}?" if near else "ids are FILE or FILE#LINE, or what `id_field` names"
    raise InputError(where, f"is in none of {len(chosen)} version(s) of the dataset in {storage.uri}", hint)


def places(storage: Storage, name: str, chosen: Sequence[Dataset]) -> Iterator[Place]:
    """Where the document with that id stands in each of these versions that has it.

    In plain lists: importing pyarrow.compute takes longer than looking through a hundred thousand ids.
    """
    for dataset in chosen:
        for path, table in parts(storage, dataset, ("id",)):
            if name in (ids := table["id"].to_pylist()):
                yield Place(dataset, path, ids.index(name))
                break


def _fate(storage: Storage, place: Place) -> Fate:
    dataset, path, number = place
    row = row_of(storage, place)
    split = path.partition("/")[0]
    instead, instead_in = kept_instead(row)
    standing = _standing(storage, dataset, instead, instead_in) if instead else None
    holder = standing.dataset if standing else dataset
    trained = (standing.path if standing else path).startswith(f"{TRAIN}/")
    kept = not (standing.path if standing else path).startswith(f"{EXCLUDED}/")
    made = descent(storage, holder.location) if kept else Descent()
    sha256 = next((source.sha256 for source in dataset.sources if source.path == row["source"]), "")
    return Fate(
        version=dataset.key,
        made_at=dataset.made_at,
        split=split,
        shard=path,
        row=number,
        source_sha256=sha256,
        instead=instead,
        instead_in=instead_in,
        seen_by=made if trained else Descent(evaluations=made.evaluations),
        **row,
    )


def kept_instead(row: Mapping[str, Any]) -> tuple[str, str]:
    """Of a duplicate the document that was kept, and the earlier version that keeps it (empty: the same one)."""
    if row["reason"] not in DUPLICATES:
        return "", ""
    name, earlier, key = row["detail"].removeprefix("of ").rpartition(IN_VERSION)
    return (name, key) if earlier else (key, "")


def _standing(storage: Storage, dataset: Dataset, name: str, key: str) -> Place | None:
    holder = load(storage, Dataset, key) if key else dataset
    return next(places(storage, name, [holder]), None) if holder else None


def row_of(storage: Storage, place: Place) -> dict[str, Any]:
    """What is on record of the document there, but its signatures."""
    recorded = is_recorded(storage, place.dataset)
    names = [name for name in schema().names if name not in (*NOT_TOLD, "id")]
    names += REPEATED if recorded else ()  # in records of versions that ask for it
    table = part(storage, place.dataset, place.path, names, recorded=recorded)
    return {**table.slice(place.row, 1).to_pylist()[0], "recorded": recorded}

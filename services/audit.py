"""The audit record: who did what, when and why, one line after another for good.

    audit/<name>/00000001.json, 00000002.json, ...    written once each (compare-and-set with "nothing there"), never changed

Each line carries the hash of the line before it, so that a line changed or taken out later shows. What shows only against a copy
elsewhere (the webhooks' receivers have one) is the record cut off at its end, or written anew as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from pydantic import Field

from cluster.config import StrictModel
from cluster.errors import Conflict
from cluster.storage import ABSENT, Storage
from services.config import AuditKind

NUM_ATTEMPTS: Final = 50
"""Lost races after which a line is given up: far more writers than one model ever has."""


class Line(StrictModel):
    """One thing that was done."""

    id: str
    """The same for the same deed, however often it is told: the idempotency key of notifications."""
    kind: AuditKind
    name: str
    """Public name of the model."""
    who: str
    """A person, or `analysis`: the controller on its evidence."""
    at: datetime
    """When it was done."""
    message: str
    """What and why, for people."""
    details: dict[str, str | float] = Field(default={})
    """The same for machines: rollout, candidate, stable, weight_percent, reason, ..."""


class Entry(StrictModel):
    """A line in its place."""

    number: int = Field(ge=1)
    previous: str
    """SHA-256 of the entry before, as it is written; empty for the first."""
    line: Line


class Stored(StrictModel):
    """An entry as it was found."""

    entry: Entry
    sha256: str


def append(storage: Storage, line: Line, *, after: int = 0) -> Stored:
    """Write `line` at the end. `after` is a number that is known to be taken: where to look for the end.

    Raises:
        Conflict: others kept taking the next place.
    """
    for _ in range(NUM_ATTEMPTS):
        after, previous = _last(storage, line.name, after)
        entry = Entry(number=after + 1, previous=previous, line=line)
        content = entry.model_dump_json(indent=1).encode()
        try:
            storage.write(_key(line.name, entry.number), content, expect=ABSENT)
        except Conflict:
            continue
        return Stored(entry=entry, sha256=hashlib.sha256(content).hexdigest())
    raise Conflict(f"the audit record of {line.name} is being written by others all the time")


def _last(storage: Storage, name: str, after: int) -> tuple[int, str]:
    """Number and hash of what stands at the end, also where it is no entry that this version can read: another one may have written
    it, and the record goes on. 0 and no hash when nothing is there yet."""
    content = blob.content if after and (blob := storage.read(_key(name, after))) else None
    if content is None:
        numbers = _numbers(storage, name)
        if not numbers:
            return 0, ""
        after, content = numbers[-1], b""
        if blob := storage.read(_key(name, after)):
            content = blob.content
    while following := storage.read(_key(name, after + 1)):
        after, content = after + 1, following.content
    return after, hashlib.sha256(content).hexdigest()


def note(
    storage: Storage, name: str, kind: AuditKind, message: str, *, who: str, at: datetime, **about: str | float | None
) -> Stored:
    """Write down what was done just now and stands nowhere else; None in `about` is left out."""
    line_id = f"{name}/{kind}/{at:%Y%m%d-%H%M%S-%f}"
    line = Line(id=line_id, kind=kind, name=name, who=who, at=at, message=message, details=details(**about))
    return append(storage, line)


def end(storage: Storage, name: str, after: int = 0) -> Stored | None:
    """The last entry; None when there is none yet. Reads on from `after`, or lists where that is not known."""
    found = read(storage, name, after) if after else None
    if found is None:
        numbers = _numbers(storage, name)
        return read(storage, name, numbers[-1]) if numbers else None
    while (following := read(storage, name, found.entry.number + 1)) is not None:
        found = following
    return found


def read(storage: Storage, name: str, number: int) -> Stored | None:
    """The entry of that number; None when there is none, or what is there is no entry."""
    blob = storage.read(_key(name, number))
    if blob is None:
        return None
    try:
        entry = Entry.model_validate_json(blob.content)
    except ValueError:
        return None
    return Stored(entry=entry, sha256=hashlib.sha256(blob.content).hexdigest())


def entries(storage: Storage, name: str, after: int = 0) -> Iterator[Stored]:
    """All that can be read beyond `after`, in order."""
    for number in _numbers(storage, name):
        if number > after and (found := read(storage, name, number)) is not None:
            yield found


def broken(storage: Storage, name: str) -> tuple[str, ...]:
    """What is wrong with the chain, for people; empty when it is whole."""
    problems, before, expected = [], "", 1
    for number in _numbers(storage, name):
        found = read(storage, name, number)
        if number > expected:
            missing = f"{expected}" if number == expected + 1 else f"{expected} to {number - 1}"
            problems.append(f"missing: {missing}")
        if found is None or found.entry.number != number:
            problems.append(f"not an entry any more: {number}")
        elif number == expected and found.entry.previous != before:
            problems.append(f"{number} does not follow what stands before it: one of the two was changed")
        before, expected = found.sha256 if found else "", number + 1
    return tuple(problems)


def _numbers(storage: Storage, name: str) -> list[int]:
    stems = (key.rsplit("/", 1)[1].removesuffix(".json") for key in storage.list(f"audit/{name}"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def _key(name: str, number: int) -> str:
    return f"audit/{name}/{number:08d}.json"


def details(**given: Any) -> dict[str, str | float]:
    """`given` without what is not known."""
    return {key: value for key, value in given.items() if value is not None}

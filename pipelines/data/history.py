"""The versions of a dataset in a storage: listed, found by the beginning of their key, compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.artifacts import Dataset
from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import Storage
from cluster.versions import every, fitting
from pipelines.data.record import parts

if TYPE_CHECKING:
    import pyarrow as pa

REMEDY = "see which there are: serinus data log"


class Versions(NamedTuple):
    found: list[Dataset]
    """Oldest first."""
    unreadable: list[str]
    """Keys of those that another version of serinus wrote and this one cannot read."""


def versions(storage: Storage) -> Versions:
    return Versions(*every(storage, Dataset))


def version(storage: Storage, wanted: str | None = None, back: int = 0) -> Dataset:
    """The version with that key or digest or the beginning of one; without any the newest, or one so many before it.

    Raises:
        InputError: there is none, or more than one.
    """
    where, (found, unreadable) = f"{storage.uri}/artifacts/dataset", versions(storage)
    if wanted is None:
        if len(found) > back:
            return found[-1 - back]
        if not found:
            raise InputError(where, "no dataset yet", "make one: serinus run RECIPE")
        raise InputError(where, f"only {len(found)} version(s) of a dataset", "make another one: serinus run RECIPE")
    matching = fitting(found, wanted)
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(made.key for made in matching[:5])
        raise InputError(f"version {wanted}", f"could be {names}", "give more digits of the one you mean")
    if any(key.startswith(wanted) for key in unreadable):
        raise InputError(f"version {wanted}", "another version of serinus wrote it; not readable here", REMEDY)
    raise InputError(f"version {wanted}", f"no dataset in {storage.uri} has a key or digest that begins so", REMEDY)


# --- what decides over two versions -----------------------------------------------------------------------------------


class Change(StrictModel):
    """Of one setting or one input file; None where the version has none."""

    what: str
    old: Any
    new: Any


def changed_settings(old: Dataset, new: Dataset) -> list[Change]:
    """What decides over documents and differs, rules first."""
    return [*_changes(_flat(old.config), _flat(new.config))]


def changed_files(old: Dataset, new: Dataset) -> list[Change]:
    """Input files that came, went, or have other content: name and hash."""
    before, after = ({source.path: source.sha256 for source in made.sources} for made in (old, new))
    return [*_changes(before, after)]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield Change(what=name, old=old.get(name), new=new.get(name))


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rules by their names and in their order, everything else by its path."""
    rules = config.get("rules", [])
    found: dict[str, Any] = {f"rule {rule['name']}": _rule(rule) for rule in rules}
    found["order of rules"] = [rule["name"] for rule in rules]
    for name, value in config.items():
        if name != "rules":
            found |= dict(_leaves(name, value))
    return found


def _rule(rule: Mapping[str, Any]) -> str:
    return "built in" if rule.get("pattern") is None else f"{rule['pattern']!r} -> {rule.get('replacement', '')!r}"


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif value is not None:  # a field that an earlier version did not know is one that is not set
        yield name, value


# --- what became of the documents -------------------------------------------------------------------------------------


class Moved(StrictModel):
    """One document of which the two versions say different things."""

    id: str
    why: str


class Difference(StrictModel):
    """Between two versions; `documents` has for each kind of move how many there are, `examples` the first of them."""

    old: str
    new: str
    settings: tuple[Change, ...]
    files: tuple[Change, ...]
    num_same: int
    """Kept in the same split with the same text, or excluded for the same reason."""
    documents: dict[str, int]
    examples: dict[str, tuple[Moved, ...]]


COLUMNS = ("id", "reason", "detail", "changed_by", "text_hash")


def difference(storage: Storage, old: Dataset, new: Dataset, num_examples: int = 20) -> Difference:
    """What differs between two versions, and why: the reason for which a document is excluded, the rules that touched it.

    Thin: the ids, reasons and hashes of all documents of both versions are held in memory.
    """
    before, after = _fates(storage, old), _fates(storage, new)
    counts: dict[str, int] = {}
    examples: dict[str, list[Moved]] = {}
    for name in dict.fromkeys((*after, *before)):
        kind, why = _told(before.get(name), after.get(name))
        counts[kind] = counts.get(kind, 0) + 1
        if kind and len(chosen := examples.setdefault(kind, [])) < num_examples:
            chosen.append(Moved(id=name, why=why))
    same = counts.pop("", 0)
    return Difference(
        old=old.key,
        new=new.key,
        settings=tuple(changed_settings(old, new)),
        files=tuple(changed_files(old, new)),
        num_same=same,
        documents=dict(sorted(counts.items())),
        examples={kind: tuple(examples[kind]) for kind in sorted(examples)},
    )


class Fate(NamedTuple):
    split: str
    reason: str
    detail: str
    changed_by: tuple[str, ...]
    text_hash: bytes


def _fates(storage: Storage, dataset: Dataset) -> dict[str, Fate]:
    found: dict[str, Fate] = {}
    for path, table in parts(storage, dataset, COLUMNS):
        found |= _rows(path.partition("/")[0], table)
    return found


def _rows(split: str, table: pa.Table) -> dict[str, Fate]:
    ids, reasons, details, rules, hashes = (table[name].to_pylist() for name in COLUMNS)
    rows = zip(reasons, details, map(tuple, rules), hashes, strict=True)
    return {name: Fate(split, *row) for name, row in zip(ids, rows, strict=True)}


def _told(old: Fate | None, new: Fate | None) -> tuple[str, str]:
    """The kind of the move, empty for none, and why."""
    if new is None:
        assert old is not None
        return "gone", f"was {_state(old)}"
    if old is None:
        return f"new, {'excluded' if new.reason else 'kept'}", _state(new)
    if new.reason and not old.reason:
        return "kept before, excluded now", f"{_state(new)}; was {old.split}"
    if old.reason and not new.reason:
        return "excluded before, kept now", f"{new.split}; was {_state(old)}"
    if old.reason != new.reason:
        return "excluded for another reason", f"{_state(new)}; was {_state(old)}"
    if new.reason:
        return "", ""
    if old.split != new.split:
        return "other split", f"{new.split}, was {old.split}"
    if old.text_hash != new.text_hash:
        return "kept with another text", _rewritten(old.changed_by, new.changed_by)
    return "", ""


def _state(fate: Fate) -> str:
    return f"{fate.reason}: {fate.detail}" if fate.detail else fate.reason or fate.split


def _rewritten(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    names = [", ".join(rules) or "no rule" for rules in (new, old)]
    return f"by {names[0]}" + (f"; was by {names[1]}" if names[0] != names[1] else "")

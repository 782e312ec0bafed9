"""How good a dataset is, in figures: clean, comprehensive, consistent. From its manifest, its record and its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from cluster.artifacts import Dataset
from cluster.config import StrictModel
from cluster.storage import Storage
from pipelines.data.decide import EXCLUDED, HELDOUT, TRAIN
from pipelines.data.record import is_recorded, part, read_table
from pipelines.data.rules import VERSION
from pipelines.data.shards import hash_of
from pipelines.data.trace import DUPLICATES

if TYPE_CHECKING:
    import pyarrow as pa

NUM_SAMPLES = 3
SAMPLE_CHARACTERS = 300
NOT_DOCUMENTS = (
    "unknown_format",
    "unreadable",
    "binary",
    "broken_json",
    "missing_text",
    "no_main_text",
    "too_large",
    "http_status",
)
REPLACEMENT = "\ufffd"
"""Stands where bytes could not be read as text."""


class Sample(StrictModel):
    id: str
    detail: str
    text: str
    """Its beginning, as it was read."""


class Dropped(StrictModel):
    """What one reason took out."""

    reason: str
    num: int
    samples: tuple[Sample, ...]


class Share(StrictModel):
    """One language, source or length class."""

    name: str
    num_in: int
    num_kept: int
    num_characters_kept: int


class Check(StrictModel):
    """What must hold, or what people should look at (`ok` says which: None is for people to judge)."""

    what: str
    ok: bool | None
    found: str


class Report(StrictModel):
    version: str
    digest: str
    made_at: datetime
    num_documents: int
    num_train: int
    num_heldout: int
    num_characters_in: int
    num_characters_kept: int
    # clean
    num_changed_by_rule: dict[str, int]
    num_protected_by_kind: dict[str, int]
    dropped: tuple[Dropped, ...]
    """Most first."""
    # comprehensive
    languages: tuple[Share, ...]
    missing_languages: tuple[str, ...]
    """Asked for in the recipe, and none kept."""
    sources: tuple[Share, ...]
    """The first part of the files' names, one for each source of the recipe."""
    lengths: tuple[Share, ...]
    """Classes of characters after cleaning, each up to twice the one before."""
    # consistent
    checks: tuple[Check, ...]


class _Row(NamedTuple):
    id: str
    split: str
    source: str
    language: str
    num_characters: int
    reason: str
    detail: str
    fingerprint: bytes


COLUMNS = ("id", "source", "language", "num_characters", "reason", "detail", "fingerprint")


def report(storage: Storage, dataset: Dataset) -> Report:
    """Reads every shard once, one at a time. Thin: a row a document is held in memory; no topics, no labels."""
    recorded, rows = is_recorded(storage, dataset), list[_Row]()
    damaged, replaced, samples = list[str](), 0, dict[str, list[Sample]]()
    for batch in dataset.batches:
        table = read_table(storage, f"{dataset.location}/{batch.path}")
        known = part(storage, dataset, batch.path, COLUMNS, recorded=recorded)
        rows += _rows(batch.path.partition("/")[0], known)
        damaged += [batch.path] if hash_of(table, dataset.config.get("rules_version", VERSION)) != batch.sha256 else []
        texts = table["text"].to_pylist()
        if batch.path.startswith(f"{EXCLUDED}/"):
            _take_samples(samples, known, texts)
        else:
            replaced += sum(REPLACEMENT in text for text in texts)
    kept = [row for row in rows if row.split != EXCLUDED]
    reasons = sorted(dataset.num_excluded_by_reason.items(), key=lambda item: (-item[1], item[0]))
    languages = _shares([(row.language or "unknown", row) for row in rows if row.language or row.split != EXCLUDED])
    asked = dataset.config.get("filters", {}).get("languages", ())
    return Report(
        version=dataset.key,
        digest=dataset.digest,
        made_at=dataset.made_at,
        num_documents=dataset.num_documents,
        num_train=dataset.num_train,
        num_heldout=dataset.num_heldout,
        num_characters_in=dataset.num_characters_in,
        num_characters_kept=dataset.num_characters_kept,
        num_changed_by_rule=dataset.num_changed_by_rule,
        num_protected_by_kind=dataset.num_protected_by_kind,
        dropped=tuple(Dropped(reason=name, num=num, samples=tuple(samples.get(name, ()))) for name, num in reasons),
        languages=_most_first(languages),
        missing_languages=tuple(sorted(set(asked) - {row.language for row in kept})),
        sources=_most_first(_shares([(row.source.partition("/")[0], row) for row in rows])),
        lengths=_by_length(kept),
        checks=tuple(_checks(dataset, rows, damaged, replaced, recorded=recorded)),
    )


def _rows(split: str, table: pa.Table) -> Iterator[_Row]:
    for name, source, language, num, reason, detail, fingerprint in zip(
        *(table[column].to_pylist() for column in COLUMNS), strict=True
    ):
        yield _Row(name, split, source, language, num, reason, detail, fingerprint)


def _take_samples(samples: dict[str, list[Sample]], known: pa.Table, texts: Sequence[str]) -> None:
    columns = (known[name].to_pylist() for name in ("id", "reason", "detail"))
    for name, reason, detail, text in zip(*columns, texts, strict=True):
        if len(chosen := samples.setdefault(reason, [])) < NUM_SAMPLES:
            chosen.append(Sample(id=name, detail=detail, text=text[:SAMPLE_CHARACTERS]))


def _shares(named: Sequence[tuple[str, _Row]]) -> list[Share]:
    num_in = Counter(name for name, _ in named)
    num_kept = Counter(name for name, row in named if row.split != EXCLUDED)
    characters: Counter[str] = Counter()
    for name, row in named:
        characters[name] += row.num_characters if row.split != EXCLUDED else 0
    return [Share(name=n, num_in=num_in[n], num_kept=num_kept[n], num_characters_kept=characters[n]) for n in num_in]


def _most_first(shares: list[Share]) -> tuple[Share, ...]:
    return tuple(sorted(shares, key=lambda share: (-share.num_characters_kept, -share.num_in, share.name)))


def _by_length(kept: Sequence[_Row]) -> tuple[Share, ...]:
    """From the shortest to the longest, with those in between that are empty."""
    classes = [row.num_characters.bit_length() for row in kept]
    found = {share.name: share for share in _shares([(_length(c), row) for c, row in zip(classes, kept, strict=True)])}
    names = [_length(c) for c in range(min(classes, default=0), max(classes, default=-1) + 1)]
    return tuple(found.get(n) or Share(name=n, num_in=0, num_kept=0, num_characters_kept=0) for n in names)


def _length(bits: int) -> str:
    return f"{(1 << bits) >> 1} to {(1 << bits) - 1}"


def _checks(
    dataset: Dataset, rows: Sequence[_Row], damaged: Sequence[str], replaced: int, *, recorded: bool
) -> Iterator[Check]:
    kept = [row for row in rows if row.split != EXCLUDED]
    whole = len(rows) == dataset.num_documents == dataset.num_kept + dataset.num_excluded
    yield Check(what="documents in are documents kept and excluded", ok=whole, found=f"{len(rows)} on record")
    yield Check(
        what="every shard has the hash that the manifest tells",
        ok=not damaged,
        found=", ".join(damaged) or f"{len(dataset.batches)} shards",
    )
    ids = len({row.id for row in rows})
    yield Check(what="every document has an id of its own", ok=ids == len(rows), found=f"{ids} ids")
    if recorded and dataset.config.get("dedup", {}).get("exact"):
        prints = len({row.fingerprint for row in kept})
        found = f"{len(kept) - prints} repeated among {len(kept)} kept"
        yield Check(what="no two kept documents have the same words", ok=prints == len(kept), found=found)
    yield Check(what="kept texts with a mark for unreadable bytes (U+FFFD)", ok=None, found=str(replaced))
    broken = sum(row.reason in NOT_DOCUMENTS for row in rows)
    yield Check(what="places in the input that could not become a document", ok=None, found=str(broken))
    yield Check(what="documents that stand for others", ok=None, found=_largest_groups(rows))
    for what, number in (("characters a document", _mean_length), ("English documents", _percent_english)):
        halves = [f"{number([row for row in kept if row.split == split])} in {split}" for split in (TRAIN, HELDOUT)]
        yield Check(what=f"{what}, to train and held out", ok=None, found=", ".join(halves))


def _largest_groups(rows: Sequence[_Row]) -> str:
    groups = Counter(row.detail.removeprefix("of ") for row in rows if row.reason in DUPLICATES)
    largest = ", ".join(f"{name} for {num}" for name, num in groups.most_common(3))
    return f"{len(groups)}" + (f"; most: {largest}" if largest else "")


def _mean_length(rows: Sequence[_Row]) -> str:
    return f"{sum(row.num_characters for row in rows) / len(rows):.0f}" if rows else "none"


def _percent_english(rows: Sequence[_Row]) -> str:
    return f"{100 * sum(row.language == 'en' for row in rows) / len(rows):.1f} %" if rows else "none"

"""A version of the dataset without a document, and the models that would have to be trained again.

Forgetting is cleaning once more with one document less, without the sources and in the time it takes to copy a dataset: what
comes out has the key and the digest that `clean` gives to the same sources while the list of the forgotten is the same. So
the next run of the recipe finds it made. Other documents keep their places: what was left out as a copy of the forgotten one
stays out, and so do lines and paragraphs that others lost because they stood in it first. Versions made before stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from cluster.artifacts import Batch, Dataset, FileEntry, Record, Repeated, load, stage_key
from cluster.config import StrictModel
from cluster.descent import Descent, descent
from cluster.errors import InputError
from cluster.lease import exclusive
from cluster.storage import Storage, filesystem_to_write
from pipelines.data import ledger
from pipelines.data.annotation.annotate import holding
from pipelines.data.blocks import with_blocks
from pipelines.data.claim import claim, release
from pipelines.data.decide import EXCLUDED, FORGOTTEN, HELDOUT, TRAIN
from pipelines.data.history import versions
from pipelines.data.outcome import checked, num_protected, num_repeated
from pipelines.data.record import completed, filled, is_recorded, parts, read_table, save_both
from pipelines.data.recorded import with_forgotten
from pipelines.data.rules import VERSION
from pipelines.data.shards import FORGOTTEN_PATH, Target, Written, prepare_folder, stored_schema, write_tables
from pipelines.data.trace import DUPLICATES, Place, full_id, kept_instead, places, row_of

if TYPE_CHECKING:
    import pyarrow as pa


class Forgotten(StrictModel):
    """What was done, and what is left to do."""

    id: str
    source: str
    before: str
    """Key of the version that was to forget it."""
    now: str | None
    """Key of the version without it; None where `serinus run` has to make it, because no record of the other one was kept."""
    already: bool
    """It was out before: nothing was changed."""
    still_in: tuple[str, ...]
    """Keys of the versions that hold it and stay as they are."""
    instead: str
    """Another document with the same words, kept in this one's place: as long as that one is, so are they."""
    copies: tuple[str, ...]
    """Documents left out as copies of this one, and staying out. Their texts are on disk among the excluded."""
    annotated_in: tuple[str, ...] = ()
    """Keys of annotations that hold its text."""
    interrupted: tuple[str, ...] = ()
    """Keys of versions that a run under way or interrupted has blocks of: texts, this one's perhaps among them."""
    seen_by: Descent
    """Models to retrain: those made of versions that train on it; evaluations that could draw items from it, held out."""


def forget(storage: Storage, name: str, version: Dataset | None, who: str, at: datetime) -> Forgotten:
    """Put the document on the list of the forgotten, and make a version without it. Doing it again changes nothing.

    Args:
        name: the document's whole id.
        version: to make the new one of; None: the newest one that has the document.

    Raises:
        InputError: no version has a document with that id, or nothing would be left.
        ResourceError: another one is forgetting at the same moment.
    """
    everything = versions(storage).found[::-1]
    chosen = [version] if version else everything
    if (place := next(places(storage, name, chosen), None)) is None:
        full = full_id(storage, name, chosen)  # tells one that is like it
        raise InputError(f"document {name}", "is no document's whole id", f"did you mean {full}?")
    row, where = row_of(storage, place), list(places(storage, name, everything))
    now: Dataset | None = place.dataset
    known = any(entry.id == name for entry in ledger.read(storage))
    if row["reason"] != FORGOTTEN:
        with exclusive(storage, "data-forget"):
            _refuse_if_last(place)
            entries = ledger.add(storage, ledger.Entry(id=name, source=row["source"], who=who, at=at))
            now = make_without(storage, place.dataset, entries)
    return Forgotten(
        id=name,
        source=row["source"],
        before=place.dataset.key,
        now=now.key if now else None,
        already=known and now is not None and now.made_at < at,
        still_in=tuple(other.dataset.key for other in where if other.path != FORGOTTEN_PATH),
        instead=kept_instead(row)[0],
        copies=_copies(storage, where, name),
        annotated_in=holding(storage, name),
        interrupted=with_blocks(storage),
        seen_by=_seen(storage, where),
    )


def make_without(storage: Storage, dataset: Dataset, entries: Sequence[ledger.Entry]) -> Dataset | None:
    """The version without the documents on the list, as `clean` would make it; None where `dataset` has no record."""
    files = {source.path: source.sha256 for source in dataset.sources}
    gone = ledger.concerning(entries, files.keys(), dataset.config.get("sources", ()))
    recorded = with_forgotten(dataset.config, gone)
    key = stage_key("clean", recorded, files)
    if (made := load(storage, Dataset, key)) or not is_recorded(storage, dataset):
        return made
    return _Making(storage, dataset, dataset.model_copy(update={"key": key, "config": recorded}), set(gone)).run()


class _Shard(NamedTuple):
    """One shard's rows and their record."""

    table: pa.Table
    record: pa.Table


class _Making(NamedTuple):
    storage: Storage
    old: Dataset
    new: Dataset
    """With its key and configuration; its figures are still the old one's."""
    gone: set[str]

    def run(self) -> Dataset:
        """Shards that hold none of the forgotten are copied; the others are written anew, and one has the forgotten."""
        claim(self.storage, self.new.key)
        locations = self.new.location, Record(key=self.new.key).location
        for location in locations:
            prepare_folder(self.storage, location)
        (filesystem, folder), (_, record) = (filesystem_to_write(self.storage, location) for location in locations)
        version = self.old.config.get("rules_version", VERSION)
        target = Target(filesystem, folder, record, self.old.rules_digest, version)
        written, taken = list[Written](), list[tuple[str, _Shard]]()
        for entry, batch in zip(self.old.files, self.old.batches, strict=True):
            if batch.path == FORGOTTEN_PATH or (shard := self._holding(batch.path)) is None:
                written += [] if batch.path == FORGOTTEN_PATH else [self._copied(target, entry, batch)]
                continue
            left, out = _parted(shard, self.gone)
            taken.append((batch.path, out))
            written += [write_tables(target, batch.path, *left)] if len(left.table) else []
        forgotten = write_tables(target, FORGOTTEN_PATH, *_without_texts([out for _, out in taken], self._before()))
        return self._saved([*written, forgotten], taken)

    def _holding(self, path: str) -> _Shard | None:
        """The shard, if one of the forgotten is in it."""
        ids = read_table(self.storage, f"{self.old.location}/{path}", ("id",))["id"].to_pylist()
        if self.gone.isdisjoint(ids):
            return None
        return self._shard(path)

    def _shard(self, path: str) -> _Shard:
        locations = self.old.location, Record(key=self.old.key).location
        table, record = (read_table(self.storage, f"{location}/{path}") for location in locations)
        # Parquet calls a list's content `element`, Arrow `item`, and what is written tells: the same bytes, once more.
        return _Shard(table.cast(stored_schema(table.schema.names)), completed(record))

    def _before(self) -> list[pa.Table]:
        """Records of what was forgotten earlier."""
        known = any(batch.path == FORGOTTEN_PATH for batch in self.old.batches)
        return [self._shard(FORGOTTEN_PATH).record] if known else []

    def _copied(self, target: Target, entry: FileEntry, batch: Batch) -> Written:
        old = load(self.storage, Record, self.old.key)
        assert old is not None
        for source, folder in ((self.old.location, target.folder), (old.location, target.record)):
            filesystem, path = filesystem_to_write(self.storage, f"{source}/{batch.path}")
            filesystem.copy_file(path, f"{folder}/{batch.path}")
        return Written(entry, batch, next(file for file in old.files if file.path == batch.path))

    def _saved(self, written: Sequence[Written], taken: Sequence[tuple[str, _Shard]]) -> Dataset:
        splits: Counter[str] = Counter()
        reasons = Counter(self.old.num_excluded_by_reason)
        kinds, characters, repeated = Counter(self.old.num_protected_by_kind), 0, self.old.repeated
        for path, (table, record) in taken:
            splits[split := path.partition("/")[0]] += len(table)
            if split == EXCLUDED:
                reasons.subtract(record["reason"].to_pylist())
            else:
                kinds.subtract(num_protected(table))
                characters += sum(record["num_characters"].to_pylist())
                repeated = _less(repeated, num_repeated(record)) if repeated else None
        reasons[FORGOTTEN] += sum(splits.values())
        made = self.new.model_copy(
            update={
                "files": tuple(shard.entry for shard in written),
                "batches": tuple(shard.batch for shard in written),
                "num_train": self.old.num_train - splits[TRAIN],
                "num_heldout": self.old.num_heldout - splits[HELDOUT],
                "num_excluded_by_reason": {name: num for name, num in sorted(reasons.items()) if num},
                "num_protected_by_kind": {name: num for name, num in sorted(kinds.items()) if num},
                "num_characters_kept": self.old.num_characters_kept - characters,
                "repeated": repeated,
                "made_at": Dataset(key="").made_at,
                "took_s": 0.0,
            }
        )
        saved = save_both(self.storage, checked(made), [shard.record for shard in written])
        release(self.storage, saved.key)
        return saved


def _less(all_of_them: Repeated, some: Repeated) -> Repeated:
    return Repeated(**{name: num - getattr(some, name) for name, num in all_of_them})


def _parted(shard: _Shard, gone: set[str]) -> tuple[_Shard, _Shard]:
    """What stays and what goes."""
    import pyarrow as pa

    out = pa.array([name in gone for name in shard.table["id"].to_pylist()])
    stay = pa.array([name not in gone for name in shard.table["id"].to_pylist()])
    return _Shard(*(table.filter(stay) for table in shard)), _Shard(*(table.filter(out) for table in shard))


def _without_texts(taken: Sequence[_Shard], before: Sequence[pa.Table]) -> _Shard:
    """The shard of the forgotten, in the order of their ids."""
    import pyarrow as pa

    names = ["id", "source", "position"]
    told = pa.concat_tables(
        [*(record.select(names) for record in before), *(shard.record.select(names) for shard in taken)]
    )
    told = told.sort_by("id").append_column("reason", pa.array([FORGOTTEN] * len(told), pa.string()))
    empty = pa.array([""] * len(told))
    columns = {
        **{name: told[name] for name in told.schema.names},
        "text": empty.cast(pa.large_string()),
        "detail": empty,
    }
    table = pa.table({name: columns[name] for name in ("id", "text", "source", "position", "reason", "detail")})
    return _Shard(table, filled({name: told[name] for name in told.schema.names}, len(told)))


def _refuse_if_last(place: Place) -> None:
    if place.dataset.num_kept == 1 and not place.path.startswith(f"{EXCLUDED}/"):
        where = f"version {place.dataset.key}"
        raise InputError(where, "keeps this document alone: nothing would be left", "give the recipe other documents")


def _seen(storage: Storage, where: Sequence[Place]) -> Descent:
    trained, held = (
        descent(storage, *(place.dataset.location for place in where if place.path.startswith(f"{split}/")))
        for split in (TRAIN, HELDOUT)
    )
    return Descent(models=trained.models, evaluations=held.evaluations)


def _copies(storage: Storage, where: Sequence[Place], name: str) -> tuple[str, ...]:
    """Documents excluded as duplicates of that one, in any version that has it."""
    found: dict[str, None] = {}
    for place in where:
        for path, table in parts(storage, place.dataset, ("id", "reason", "detail")):
            if path.startswith(f"{EXCLUDED}/"):
                rows = zip(*(table[column].to_pylist() for column in ("id", "reason", "detail")), strict=True)
                found |= {
                    other: None for other, reason, detail in rows if reason in DUPLICATES and detail == f"of {name}"
                }
    return tuple(found)

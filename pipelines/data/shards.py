"""Parquet shards, the hashes of what is in them, and beside each its record. Written on the workers, of what lies in the blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cluster.artifacts import Batch, FileEntry, Manifest
from cluster.storage import Storage, filesystem_to_write
from pipelines.data.batch import schema
from pipelines.data.blocks import PLACE, Blocks, written_whole
from pipelines.data.cutting import CHANGED, cut_out, put_rows
from pipelines.data.decide import EXCLUDED, SPLITS, Repeats, forgetting
from pipelines.data.dedup import Int64s
from pipelines.data.record import FROM_BLOCKS, REPEATED, record_of
from pipelines.data.rules import VERSION

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

KEPT_COLUMNS = ("id", "text", "source", "position", "language", "protected")
EXCLUDED_COLUMNS = ("id", "text", "source", "position", "reason", "detail")
FORGOTTEN_PATH = f"{EXCLUDED}/forgotten.parquet"
HASHED_BY_LENGTHS = 5
"""The version of the rules from which on batches are."""


class Plan(NamedTuple):
    """One shard: its path below the artifact's folder, and its documents in order."""

    path: str
    split: str
    documents: pa.Table
    """Where each lies (blocks.PLACE), and its `reason` and `detail`."""
    repeats: Repeats | None = None
    """What its documents lose, counted among them; None where it was not asked for."""


class Target(NamedTuple):
    """Where shards and records go."""

    filesystem: FileSystem
    folder: str
    """Of the dataset."""
    record: str
    """Folder of the dataset's record."""
    rules: str
    """Digest of the rule set."""
    version: int = VERSION
    """Of the rules, by which the batches are hashed."""


class Written(NamedTuple):
    entry: FileEntry
    batch: Batch
    record: FileEntry


def plan(
    decided: pa.Table, documents_per_shard: int, gone: Sequence[int] = (), repeats: Repeats | None = None
) -> list[Plan]:
    """Shards of at most `documents_per_shard` documents for each split; none for a split without documents.

    Args:
        decided: of all documents their places (blocks.PLACE), `split`, `reason` and `detail`.
        gone: rows of those to be forgotten, which get a shard of their own at the end, in this order. All others stay where they
            would be with them, so that forgetting one document later leaves all shards but one as they were.
        repeats: what documents lose because it stood before.
    """
    taken = np.asarray(gone, np.int64)
    shards = [
        _planned(decided, f"{split}/part-{number:05d}.parquet", split, rows[~np.isin(rows, taken)], repeats)
        for split in SPLITS
        for number, rows in enumerate(_cut(decided, split, documents_per_shard))
    ]
    forgotten = [_planned(decided, FORGOTTEN_PATH, EXCLUDED, taken, None)]
    return [shard for shard in (*shards, *forgotten) if len(shard.documents)]


def _cut(decided: pa.Table, split: str, documents_per_shard: int) -> Iterator[Int64s]:
    """The rows of each shard of that split."""
    import pyarrow.compute as pc

    rows = np.asarray(pc.indices_nonzero(pc.equal(decided["split"], split))).astype(np.int64)
    for start in range(0, len(rows), documents_per_shard):
        yield rows[start : start + documents_per_shard]


def _planned(decided: pa.Table, path: str, split: str, rows: Int64s, repeats: Repeats | None) -> Plan:
    import pyarrow as pa

    chosen = decided.take(pa.array(rows))
    if path == FORGOTTEN_PATH:
        chosen = forgetting(chosen, range(len(rows)))
    documents = chosen.select([*PLACE, "reason", "detail"])
    documents = documents.cast(pa.schema({field.name: _narrow(field.type) for field in documents.schema}))
    return Plan(path, split, documents, Repeats(*repeats.among(rows)) if repeats is not None else None)


def _narrow(kind: pa.DataType) -> pa.DataType:
    """As shards are written."""
    import pyarrow as pa

    return pa.string() if pa.types.is_large_string(kind) else kind


def prepare_folder(storage: Storage, location: str) -> None:
    """A folder for the shards. What lies there stays: it may be another run's that makes the same version."""
    from pyarrow.fs import LocalFileSystem

    filesystem, path = storage.filesystem(location)
    if isinstance(filesystem, LocalFileSystem):  # S3 has no folders
        for split in ("train", "heldout", "excluded"):
            filesystem.create_dir(f"{path}/{split}", recursive=True)


def remove_leftovers(storage: Storage, manifest: Manifest) -> None:
    """Take away what an interrupted run left in the folder of an artifact that is whole now."""
    told = {f"{manifest.location}/{name}" for name in ("manifest.json", *(file.path for file in manifest.files))}
    for name in [name for name in storage.list(manifest.location) if name not in told]:
        filesystem, path = filesystem_to_write(storage, name)
        filesystem.delete_file(path)


def write_shard(target: Target, shard: Plan, blocks: Blocks) -> Written:
    """Write one shard and its record, of what lies in the blocks.

    Raises:
        BlockGone: a block is not there any more.
    """
    is_excluded, is_forgotten = shard.split == EXCLUDED, shard.path == FORGOTTEN_PATH
    originals = ("original",) if is_excluded else ()
    held = blocks.take(shard.documents, [*dict.fromkeys((*KEPT_COLUMNS, *originals, *FROM_BLOCKS))])
    if shard.repeats is not None:
        held = _without_repeated(held, shard.repeats, is_excluded=is_excluded)
    table = _assemble(shard, held) if is_excluded else held.select(list(KEPT_COLUMNS))
    return write_tables(target, shard.path, table, record_of(table, held, shard.split, is_forgotten))


def _without_repeated(held: pa.Table, repeats: Repeats, *, is_excluded: bool) -> pa.Table:
    """The documents without what stood before, and REPEATED of each. What is excluded keeps its text."""
    import pyarrow as pa

    rows, told = repeats
    changed = told.select(CHANGED + REPEATED)
    if not is_excluded:
        texts = held["text"].take(pa.array(rows)).combine_chunks()
        changed = changed.append_column("text", cut_out(texts, told["lines"].to_pylist()))
    none = pa.array(np.zeros(len(held), np.int64))
    for name in REPEATED:
        held = held.append_column(name, none)
    return put_rows(held, rows, changed)


def stored_schema(names: Sequence[str]) -> pa.Schema:
    """Of a shard with these columns."""
    import pyarrow as pa

    fields = schema()
    return pa.schema([fields.field(name) for name in names])


def write_tables(target: Target, path: str, table: pa.Table, record: pa.Table) -> Written:
    entry = _write(target.filesystem, target.folder, path, table)
    batch = Batch(path=path, num_documents=len(table), sha256=hash_of(table, target.version), rules=target.rules)
    return Written(entry, batch, _write(target.filesystem, target.record, path, record))


def _write(filesystem: FileSystem, folder: str, path: str, table: pa.Table) -> FileEntry:
    content = parquet_bytes(table)
    with written_whole(filesystem, f"{folder}/{path}") as stream:
        stream.write(content)
    return FileEntry(path=path, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _assemble(shard: Plan, held: pa.Table) -> pa.Table:
    """The excluded documents: the texts as they were read, but of the forgotten."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.coalesce(held["original"], held["text"])  # see batch.schema
    if shard.path == FORGOTTEN_PATH:
        texts = pa.array([""] * len(held), pa.large_string())
    columns = {**{name: held[name] for name in held.schema.names}, "text": texts}
    columns |= {name: shard.documents[name] for name in ("reason", "detail")}
    return pa.table({name: columns[name] for name in EXCLUDED_COLUMNS})


def parquet_bytes(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def hash_of(table: pa.Table, version: int = VERSION) -> str:
    """SHA-256 of the ids and texts in order, independent of Parquet's encoding: first the lengths in bytes of all ids, as 64-bit
    little-endian numbers, then the ids one after the other in UTF-8; then the same of the texts. Before version 5 of the rules:
    of one JSON pair a line."""
    import pyarrow as pa

    from pipelines.data.kernels.characters import buffers

    sha256 = hashlib.sha256()
    if version < HASHED_BY_LENGTHS:
        for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
            sha256.update(json.dumps([name, text], ensure_ascii=False).encode() + b"\n")
        return sha256.hexdigest()
    for column in (table["id"], table["text"]):
        data, offsets = buffers(column.cast(pa.large_string()).combine_chunks())
        sha256.update(np.diff(offsets).astype("<i8").data)
        sha256.update(data[offsets[0] : offsets[-1]].data)
    return sha256.hexdigest()

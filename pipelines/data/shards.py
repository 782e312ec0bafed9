"""Parquet shards, the hashes of what is in them, and beside each its record. Runs on the workers, which hold the texts."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cluster.artifacts import Batch, FileEntry, Manifest
from cluster.storage import Storage, filesystem_to_write
from pipelines.data.batch import schema
from pipelines.data.decide import EXCLUDED, Decision
from pipelines.data.record import FORGOTTEN, FROM_BLOCKS, record_of
from pipelines.data.rules import VERSION

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

KEPT_COLUMNS = ("id", "text", "source", "position", "language", "protected")
EXCLUDED_COLUMNS = ("id", "text", "source", "position", "reason", "detail")
FORGOTTEN_PATH = f"{EXCLUDED}/forgotten.parquet"
HASHED_BY_LENGTHS = 5
"""The version of the rules from which on batches are."""


class Row(NamedTuple):
    """Where a document lies, and what is to be written beside it."""

    block: int
    offset: int
    decision: Decision


class Plan(NamedTuple):
    """One shard: its path below the artifact's folder, and its documents in order."""

    path: str
    split: str
    rows: list[Row]

    @property
    def blocks(self) -> list[int]:
        """The blocks that hold the documents, each once."""
        return sorted({row.block for row in self.rows})


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


def plan(rows: Sequence[Row], splits: Sequence[str], documents_per_shard: int) -> Iterator[Plan]:
    """Shards of at most `documents_per_shard` documents for each split; none for a split without documents."""
    for split in splits:
        chosen = [row for row in rows if row.decision.split == split]
        for number, start in enumerate(range(0, len(chosen), documents_per_shard)):
            yield Plan(f"{split}/part-{number:05d}.parquet", split, chosen[start : start + documents_per_shard])


def take_out(shards: Sequence[Plan], gone: Sequence[tuple[int, int]]) -> list[Plan]:
    """The same shards without some documents (block, offset), which get a shard of their own at the end, in this order.

    All others stay where they are, so that forgetting one document later leaves all shards but one as they were.
    """
    if not gone:
        return list(shards)
    places: Container[tuple[int, int]] = set(gone)
    left = [shard._replace(rows=[row for row in shard.rows if row[:2] not in places]) for shard in shards]
    forgotten = [Row(*place, Decision(EXCLUDED, FORGOTTEN)) for place in gone]
    return [*(shard for shard in left if shard.rows), Plan(FORGOTTEN_PATH, EXCLUDED, forgotten)]


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


def write_shard(target: Target, shard: Plan, *blocks: pa.Table) -> Written:
    """Write one shard and its record. `blocks` are those of `shard.blocks`, in that order."""
    held = dict(zip(shard.blocks, blocks, strict=True))
    table = _assemble(shard, held)
    record = record_of(table, _rows_of(shard, held, FROM_BLOCKS), shard.split, shard.path == FORGOTTEN_PATH)
    return write_tables(target, shard.path, table, record)


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
    from pyarrow.fs import LocalFileSystem

    content, whole = parquet_bytes(table), f"{folder}/{path}"
    # A folder's readers must not see a part of a file that another run has written already; S3 shows whole objects only.
    name = f"{folder}/.tmp-{uuid.uuid4().hex}" if isinstance(filesystem, LocalFileSystem) else whole
    with filesystem.open_output_stream(name) as stream:
        stream.write(content)
    if name != whole:
        filesystem.move(name, whole)
    return FileEntry(path=path, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _assemble(shard: Plan, blocks: dict[int, pa.Table]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    if shard.split == EXCLUDED:  # see batch.schema
        table = _rows_of(shard, blocks, (*KEPT_COLUMNS, "original"))
        table = table.set_column(1, "text", pc.coalesce(table["original"], table["text"])).drop_columns(["original"])
    else:
        table = _rows_of(shard, blocks, KEPT_COLUMNS)
    if shard.path == FORGOTTEN_PATH:
        table = table.set_column(1, "text", pa.array([""] * len(table), table.schema.field("text").type))
    if shard.split == EXCLUDED:
        reasons = pa.array([row.decision.reason for row in shard.rows], pa.string())
        details = pa.array([row.decision.detail for row in shard.rows], pa.string())
        table = table.append_column("reason", reasons).append_column("detail", details).select(list(EXCLUDED_COLUMNS))
    return table


def _rows_of(shard: Plan, blocks: dict[int, pa.Table], names: Sequence[str]) -> pa.Table:
    """The shard's rows in their order, of these columns.

    Document order may leave a block and come back to it: the rows are taken block by block, then put in order.
    """
    import pyarrow as pa

    order = sorted(range(len(shard.rows)), key=lambda i: shard.rows[i].block)
    parts = [
        blocks[block].select(names).take([row.offset for row in shard.rows if row.block == block])
        for block in shard.blocks
    ]
    return pa.concat_tables(parts).take(pa.array(_inverse(order)))


def _inverse(permutation: Sequence[int]) -> list[int]:
    inverse = [0] * len(permutation)
    for place, i in enumerate(permutation):
        inverse[i] = place
    return inverse


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

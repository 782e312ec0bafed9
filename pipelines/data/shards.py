"""Parquet shards and the hashes of what is in them. Runs on the workers, which hold the texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cluster.artifacts import Batch, FileEntry
from cluster.storage import Storage
from pipelines.data.decide import EXCLUDED, Decision

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

KEPT_COLUMNS = ("id", "text", "source", "position", "language", "protected")
EXCLUDED_COLUMNS = ("id", "text", "source", "position", "reason", "detail")


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


def plan(rows: Sequence[Row], splits: Sequence[str], documents_per_shard: int) -> Iterator[Plan]:
    """Shards of at most `documents_per_shard` documents for each split; none for a split without documents."""
    for split in splits:
        chosen = [row for row in rows if row.decision.split == split]
        for number, start in enumerate(range(0, len(chosen), documents_per_shard)):
            yield Plan(f"{split}/part-{number:05d}.parquet", split, chosen[start : start + documents_per_shard])


def prepare_folder(storage: Storage, location: str) -> None:
    """An empty folder for the shards: what an interrupted run left there goes."""
    from pyarrow.fs import LocalFileSystem

    filesystem, path = storage.filesystem(location)
    filesystem.delete_dir_contents(path, missing_dir_ok=True)
    if isinstance(filesystem, LocalFileSystem):  # S3 has no folders
        for split in ("train", "heldout", "excluded"):
            filesystem.create_dir(f"{path}/{split}", recursive=True)


def write_shard(
    filesystem: FileSystem, folder: str, shard: Plan, rules_digest: str, *blocks: pa.Table
) -> tuple[FileEntry, Batch]:
    """Write one shard. `blocks` are those of `shard.blocks`, in that order."""
    table = _assemble(shard, dict(zip(shard.blocks, blocks, strict=True)))
    content = _parquet_bytes(table)
    with filesystem.open_output_stream(f"{folder}/{shard.path}") as stream:
        stream.write(content)
    entry = FileEntry(path=shard.path, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return entry, Batch(path=shard.path, num_documents=len(shard.rows), sha256=hash_of(table), rules=rules_digest)


def _assemble(shard: Plan, blocks: dict[int, pa.Table]) -> pa.Table:
    import pyarrow as pa

    text = "original" if shard.split == EXCLUDED else "text"
    names = ["id", text, "source", "position", "language", "protected"]
    # Document order may leave a block and come back to it: take the rows block by block, then put them in order.
    order = sorted(range(len(shard.rows)), key=lambda i: shard.rows[i].block)
    parts = [
        blocks[block].select(names).take([row.offset for row in shard.rows if row.block == block])
        for block in shard.blocks
    ]
    table = pa.concat_tables(parts).take(pa.array(_inverse(order)))
    table = table.rename_columns(list(KEPT_COLUMNS))
    if shard.split == EXCLUDED:
        reasons = pa.array([row.decision.reason for row in shard.rows], pa.string())
        details = pa.array([row.decision.detail for row in shard.rows], pa.string())
        table = table.append_column("reason", reasons).append_column("detail", details).select(list(EXCLUDED_COLUMNS))
    return table


def _inverse(permutation: Sequence[int]) -> list[int]:
    inverse = [0] * len(permutation)
    for place, i in enumerate(permutation):
        inverse[i] = place
    return inverse


def _parquet_bytes(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def hash_of(table: pa.Table) -> str:
    """SHA-256 of the ids and texts in order, as one JSON pair a line: independent of Parquet's encoding."""
    sha256 = hashlib.sha256()
    for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
        sha256.update(json.dumps([name, text], ensure_ascii=False).encode() + b"\n")
    return sha256.hexdigest()

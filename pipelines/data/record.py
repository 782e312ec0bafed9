"""What is on record of every document of a dataset: where it came from, what touched it, what became of it.

The record is an artifact of its own beside the dataset, under the same key: for each shard of the dataset a Parquet file of
the same path with a row for each document, in the same order. It holds no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cluster.artifacts import VERSION, Dataset, FileEntry, Manifest, Record, commit, load, save
from cluster.errors import StageFailed
from cluster.storage import Storage
from pipelines.data.decide import EXCLUDED
from pipelines.data.dedup import hashes

if TYPE_CHECKING:
    import pyarrow as pa

FROM_BLOCKS = (
    "span",
    "origin",
    "language",
    "num_characters_in",
    "num_characters",
    "changed_by",
    "fingerprint",
    "bands",
)
REPEATED = ("num_repeated_lines", "num_repeated_paragraphs", "num_repeated_characters")
"""Taken out because it stood before. Columns of records alone whose version asks for it, so that those of others stay as they
were."""


def schema() -> pa.Schema:
    """Of a record's files, but for REPEATED."""
    import pyarrow as pa

    return pa.schema(
        {
            "id": pa.string(),
            "source": pa.string(),
            "position": pa.int64(),
            "span": pa.list_(pa.int64(), 2),  # see Document.span
            "origin": pa.string(),  # see Document.origin
            "reason": pa.string(),
            "detail": pa.string(),
            "language": pa.string(),
            "num_characters_in": pa.int64(),
            "num_characters": pa.int64(),  # of the cleaned text
            "changed_by": pa.list_(pa.string()),  # names of the rules, in their order
            "text_hash": pa.binary(),  # xxh3-128 of the text that the shard holds
            "fingerprint": pa.binary(),  # of what is kept: see dedup.fingerprints
            "bands": pa.binary(),  # of what is kept: see dedup.band_keys
        }
    )


def record_of(table: pa.Table, from_blocks: pa.Table, split: str, forgotten: bool = False) -> pa.Table:
    """The record of one shard, whose rows are `table`; `from_blocks` has what is known of the same documents besides.

    Of what is forgotten nothing is told but its id and where it lay.
    """

    known = {
        name: table[name] for name in ("id", "source", "position", "reason", "detail") if name in table.schema.names
    }
    names = (*FROM_BLOCKS, *(name for name in REPEATED if name in from_blocks.schema.names))
    columns = known if forgotten else {**{name: from_blocks[name] for name in names}, **known}
    if not forgotten:
        columns["text_hash"] = text_hashes(table["text"])
    if split == EXCLUDED:
        columns = {name: column for name, column in columns.items() if name not in ("fingerprint", "bands")}
    return filled(columns, len(table))


def text_hashes(texts: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    from pipelines.data.kernels.characters import buffers

    return pa.array(hashes(buffers(texts.cast(pa.large_string()).combine_chunks())), pa.binary())


def filled(columns: dict[str, pa.ChunkedArray | pa.Array], num_rows: int) -> pa.Table:
    """A record with these columns, and what is empty for each that is missing; REPEATED only where it is among them."""
    import pyarrow as pa

    empty = {pa.string(): "", pa.binary(): b"", pa.int64(): 0, pa.list_(pa.string()): [], pa.list_(pa.int64(), 2): None}
    fields = pa.schema([*schema(), *(pa.field(name, pa.int64()) for name in REPEATED if name in columns)])
    arrays = [
        columns[field.name].cast(field.type)
        if field.name in columns
        else pa.array([empty[field.type]] * num_rows, field.type)
        for field in fields
    ]
    return pa.Table.from_arrays(arrays, schema=fields)


def save_both(storage: Storage, dataset: Dataset, files: Sequence[FileEntry]) -> Dataset:
    """Save the record that consists of `files`, then the dataset: its manifest says that both are whole.

    Returns:
        The dataset in force: where another run has made the same version meanwhile it is that one's (see `made_at`).

    Raises:
        StageFailed: that run has made something else under the same key.
    """
    dataset = dataset.model_copy(update={"made_by": f"serinus {VERSION}"})  # part of the digest
    record = Record(
        key=dataset.key,
        inputs={"dataset": dataset.digest},
        files=tuple(files),
        num_documents=dataset.num_documents,
        took_s=dataset.took_s,
    )
    other_record, _ = commit(storage, record)
    if _differ(other_record, record):
        if load(storage, Dataset, dataset.key) is not None:
            raise _made_otherwise(storage, record)
        save(storage, record)  # left by a version that was retired, or never came to its end
    made, _ = commit(storage, dataset)
    if _differ(made, dataset):
        raise _made_otherwise(storage, dataset)
    return made


def _differ(other: Manifest, mine: Manifest) -> bool:
    return other.digest != mine.model_copy(update={"made_by": other.made_by}).digest


def _made_otherwise(storage: Storage, mine: Manifest) -> StageFailed:
    remedy = "remove the folders of both (artifacts/dataset, artifacts/record) and run the same command again"
    return StageFailed(f"{storage.uri}/{mine.location}: another run has made this version otherwise; {remedy}")


def is_recorded(storage: Storage, dataset: Dataset) -> bool:
    """Whether there is a record: an earlier version of serinus made none."""
    return load(storage, Record, dataset.key) is not None


def parts(storage: Storage, dataset: Dataset, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The path of each shard and those columns of its record."""
    recorded = is_recorded(storage, dataset)
    for batch in dataset.batches:
        yield batch.path, part(storage, dataset, batch.path, columns, recorded=recorded)


def part(storage: Storage, dataset: Dataset, path: str, columns: Sequence[str], *, recorded: bool) -> pa.Table:
    """Those columns of one shard's record. Where there is none, what the shard itself says is told, and the rest is empty."""
    if recorded:
        return read_table(storage, f"{Record(key=dataset.key).location}/{path}", columns)
    return _from_shard(storage, f"{dataset.location}/{path}", columns)


def read_table(storage: Storage, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Not by pyarrow.dataset, whose import alone takes longer than most answers."""
    import pyarrow.parquet as pq

    filesystem, path = storage.filesystem(key)
    with filesystem.open_input_file(path) as file:
        return pq.ParquetFile(file).read(columns=None if columns is None else list(columns))


def completed(record: pa.Table) -> pa.Table:
    """As `schema` says: a record that an earlier serinus wrote has no `origin`."""
    return filled({name: record[name] for name in record.schema.names}, len(record))


def _from_shard(storage: Storage, key: str, columns: Sequence[str]) -> pa.Table:

    if list(columns) == ["id"]:
        return read_table(storage, key, columns)
    table = read_table(storage, key)
    known = {name: table[name] for name in table.schema.names if name in schema().names}
    known["text_hash"] = text_hashes(table["text"])
    return filled(known, len(table)).select(list(columns))

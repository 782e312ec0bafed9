"""The shards of a dataset, each read once: whether they are what the manifest tells, and the few texts that samples are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cluster.artifacts import Batch, Dataset
from cluster.storage import Storage
from pipelines.data.decide import EXCLUDED
from pipelines.data.record import read_table
from pipelines.data.rules import VERSION
from pipelines.data.shards import hash_of
from pipelines.progress import bar

if TYPE_CHECKING:
    import pyarrow as pa

REPLACEMENT = "\ufffd"
"""Stands where bytes could not be read as text."""
MAX_CHARACTERS = 20_000
"""Of a text that is looked at more closely."""

Place = tuple[int, int]
"""Index of the batch, and row in it."""


class Shards(NamedTuple):
    """Paths of shards that are not what they should be, and texts by their place."""

    damaged: list[str]
    """Another hash than the manifest tells."""
    other_schema: list[str]
    """Other columns than the first shard of its kind, or ids or texts that are null."""
    not_utf8: list[str]
    out_of_step: list[str]
    """Other ids, or in another order, than their record."""
    num_replaced: int
    """Kept texts with REPLACEMENT."""
    texts: dict[Place, str]
    """The first MAX_CHARACTERS."""
    protected: dict[Place, list[dict[str, Any]]]
    """Of what is kept."""


def read_shards(storage: Storage, dataset: Dataset, rows: pa.Table, wanted: Sequence[Place]) -> Shards:
    """One shard after the other. `rows`: of `rows.read_rows`."""
    found = Shards([], [], [], [], 0, {}, {})
    by_shard, schemas, start = _by_shard(wanted), dict[bool, Any](), 0
    with bar("report", len(dataset.batches), "shards") as progress:
        for number, batch in enumerate(dataset.batches):
            table = read_table(storage, f"{dataset.location}/{batch.path}")
            excluded = batch.path.startswith(f"{EXCLUDED}/")
            if not table.schema.equals(schemas.setdefault(excluded, table.schema)):
                found.other_schema.append(batch.path)
            ids, start = rows["id"].slice(start, batch.num_documents), start + batch.num_documents
            if _is_sound(table, dataset, batch, ids, found):
                replaced = 0 if excluded else _num_replaced(table)
                found = found._replace(num_replaced=found.num_replaced + replaced)
                _take(table, number, by_shard.get(number, []), found)
            progress.update(number + 1)
    return found


def _is_sound(table: pa.Table, dataset: Dataset, batch: Batch, ids: pa.ChunkedArray, found: Shards) -> bool:
    """Whether its texts can be looked at. What is wrong is noted in `found`."""
    if table["id"].null_count or table["text"].null_count:
        found.other_schema.append(batch.path)
        return False
    if not _is_utf8(table):
        found.not_utf8.append(batch.path)
        return False
    if hash_of(table, dataset.config.get("rules_version", VERSION)) != batch.sha256:
        found.damaged.append(batch.path)
    elif not table["id"].equals(ids):
        found.out_of_step.append(batch.path)
    return True


def _by_shard(wanted: Sequence[Place]) -> Mapping[int, list[int]]:
    by_shard: dict[int, list[int]] = {}
    for shard, row in sorted(set(wanted)):
        by_shard.setdefault(shard, []).append(row)
    return by_shard


def _is_utf8(table: pa.Table) -> bool:
    """Arrow takes a file's word for it unless asked."""
    import pyarrow as pa

    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _num_replaced(table: pa.Table) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.match_substring(table["text"], REPLACEMENT)).as_py() or 0)


def _take(table: pa.Table, shard: int, rows: Sequence[int], found: Shards) -> None:
    import pyarrow.compute as pc

    chosen = [row for row in rows if row < len(table)]  # a damaged shard may be shorter than its record
    if not chosen:
        return
    part = table.take(np.array(chosen, np.int64))
    texts = pc.utf8_slice_codeunits(part["text"], 0, MAX_CHARACTERS).to_pylist()
    found.texts.update({(shard, row): text for row, text in zip(chosen, texts, strict=True)})
    if "protected" in part.schema.names:
        spans = part["protected"].to_pylist()
        found.protected.update({(shard, row): held for row, held in zip(chosen, spans, strict=True) if held})

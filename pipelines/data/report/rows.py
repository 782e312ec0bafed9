"""The record of all documents of a dataset as one table, by columns: no document is looked at one by one.

Thin: that table is held in memory, without texts and signatures, some 300 bytes a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from cluster.artifacts import Dataset
from cluster.storage import Storage
from pipelines.data.decide import EXCLUDED
from pipelines.data.document import NotDocument
from pipelines.data.record import filled, part

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "id",
    "source",
    "position",
    "span",
    "origin",
    "language",
    "num_characters_in",
    "num_characters",
    "reason",
    "detail",
    "changed_by",
    "fingerprint",
    "text_hash",
)
KINDS: Mapping[str, tuple[str, ...]] = {
    "no document": get_args(NotDocument),
    "quality": (),
    "language": ("language", "language_uncertain"),
    "evaluation sets": ("contaminated",),
    "personal data": ("personal_data",),
    "duplicates": ("exact_duplicate", "near_duplicate"),
    "repeated text": ("repeated_lines", "repeated_paragraphs"),
    "forgotten": ("forgotten",),
}
"""Reasons by their kind, in the order in which documents are judged. Quality is all that stands nowhere else."""
KIND_OF = {reason: kind for kind, reasons in KINDS.items() for reason in reasons}
KEPT = "kept"
HOST = r"^(?:[a-z][a-z0-9+.-]*:)?//(?:[^/@\s]*@)?(?:www\.)?(?P<host>[^/:?#\s]+)"


def read_rows(storage: Storage, dataset: Dataset, *, recorded: bool) -> pa.Table:
    """A row for each document: COLUMNS, `kept`, `split`, `fate`, `folder` (its source), `host`, and where its text lies:
    `shard` (index of the batch) and `row`; `draw` is what samples are drawn by."""
    import pyarrow as pa

    tables = [
        _part(storage, dataset, number, batch.path, recorded=recorded) for number, batch in enumerate(dataset.batches)
    ]
    return pa.concat_tables(tables) if tables else _widened(filled({}, 0).select(list(COLUMNS)), 0, "train")


def _part(storage: Storage, dataset: Dataset, number: int, path: str, *, recorded: bool) -> pa.Table:
    known = part(storage, dataset, path, COLUMNS, recorded=recorded)
    if "origin" not in known.schema.names:  # an earlier serinus wrote it
        known = filled({name: known[name] for name in known.schema.names}, len(known)).select(list(COLUMNS))
    return _widened(known, number, path.partition("/")[0])


def _widened(table: pa.Table, shard: int, split: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    num = len(table)
    fate = _fates(table["reason"]) if split == EXCLUDED else pa.array([KEPT] * num, pa.string())
    hosts = pc.struct_field(pc.extract_regex(pc.utf8_lower(table["origin"]), HOST), "host")
    columns = {
        "kept": pa.array(np.full(num, split != EXCLUDED)),
        "split": pa.array([split] * num, pa.string()),
        "fate": fate,
        "folder": pc.list_element(pc.split_pattern(table["source"], "/", max_splits=1), 0),
        "host": pc.fill_null(hosts, ""),
        "shard": pa.array(np.full(num, shard, np.int32)),
        "row": pa.array(np.arange(num)),
        "draw": pa.array(draws(table["id"])),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _fates(reasons: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = pa.array(list(KIND_OF.values()), pa.string())
    found = kinds.take(pc.index_in(reasons, pa.array(list(KIND_OF), pa.string())).combine_chunks())
    return pc.fill_null(found, "quality")


def draws(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A number for each id, by which the least are drawn: the same document gets the same in every version.

    Sum of each byte times a random number of its place, modulo 2^64 (multilinear hashing: Carter and Wegman 1979).
    """
    import pyarrow as pa

    from pipelines.data.kernels.characters import buffers

    data, offsets = buffers(ids.cast(pa.large_string()).combine_chunks())
    lengths = np.diff(offsets)
    places = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], lengths)
    weights = np.random.PCG64(0).random_raw(int(lengths.max(initial=0)))
    terms = (data[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)) * weights[places]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    found = sums[offsets[1:] - offsets[0]] - sums[offsets[:-1] - offsets[0]]
    return (found ^ (found >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)


def drawn(rows: pa.Table, chosen: pa.ChunkedArray | pa.Array, num: int) -> pa.Table:
    """Of the chosen rows those with the least draws, at most `num`."""
    import pyarrow.compute as pc

    places = np.asarray(pc.indices_nonzero(chosen)).astype(np.int64)
    keys = np.asarray(rows["draw"])[places]
    return rows.take(places[np.argsort(keys, kind="stable")[:num]])

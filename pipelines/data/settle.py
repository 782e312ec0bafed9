"""What becomes of all documents, once each is judged and it is known who is like whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cluster.artifacts import Dataset
from cluster.storage import Storage
from pipelines.data.blocks import PLACE, Blocks
from pipelines.data.compare import Gathered
from pipelines.data.cutting import CHANGED, put_rows
from pipelines.data.decide import Repeats, decide, forgetting, without_duplicates, without_remnants
from pipelines.data.dedup import Links
from pipelines.data.duplicates import names_of
from pipelines.data.outcome import manifest
from pipelines.data.record import REPEATED
from pipelines.data.repeats import Workers, look
from pipelines.data.shards import Plan, Written, plan
from pipelines.data.work import Work

if TYPE_CHECKING:
    import pyarrow as pa


class Settled(NamedTuple):
    documents: pa.Table
    """As they come out."""
    decided: pa.Table
    """`split`, `reason` and `detail` of each, and where it lies."""
    shards: list[Plan]
    """To be written."""


def settle(found: Gathered, links: Links, *, blocks: Blocks, work: Work, storage: Storage, workers: Workers) -> Settled:
    """Duplicates out, then what stood before, then the documents with too little left; the others are split.

    Raises:
        BlockGone: a block is not there any more.
    """
    documents, config = found.documents, work.config
    judged = without_duplicates(documents, links, names_of(storage, work.earlier, links))
    repeats = _repeats(found, judged, blocks, work, workers) if config.dedup.repeats else None
    if repeats is not None:
        judged = without_remnants(judged, repeats, config.filters.min_words)
        documents = _as_they_come_out(documents, repeats)
    decided = decide(documents, config, judged)
    gone = _forgotten(documents, work.forgotten)
    for name in PLACE:
        decided = decided.append_column(name, documents[name])
    shards = plan(decided, config.documents_per_shard, gone, repeats)
    return Settled(documents, forgetting(decided, gone), shards)


def _repeats(found: Gathered, judged: pa.Table, blocks: Blocks, work: Work, workers: Workers) -> Repeats:
    import pyarrow.compute as pc

    alive = np.asarray(pc.equal(judged["reason"], ""))
    return look(found.documents, alive, found.spans, blocks=blocks, config=work.config.dedup, workers=workers)


def _as_they_come_out(documents: pa.Table, repeats: Repeats) -> pa.Table:
    """Without what stood before, and with record.REPEATED."""
    import pyarrow as pa

    none = pa.array(np.zeros(len(documents), np.int64))
    for name in REPEATED:
        documents = documents.append_column(name, none)
    return put_rows(documents, repeats.rows, repeats.told.select(CHANGED + REPEATED))


def _forgotten(documents: pa.Table, ids: Sequence[str]) -> list[int]:
    """Where these documents stand, in the order of the ids."""
    if not ids:
        return []
    wanted = set(ids)
    places = {name: i for i, name in enumerate(documents["id"].to_pylist()) if name in wanted}
    return [places[name] for name in sorted(places)]


def outcome(work: Work, settled: Settled, written: Sequence[Written]) -> Dataset:
    """The manifest, not yet saved."""
    return manifest(
        settled.documents,
        settled.decided,
        written,
        config=work.config,
        files=work.files,
        recorded=work.recorded,
        key=work.key,
    )

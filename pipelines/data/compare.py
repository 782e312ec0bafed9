"""What the pool is asked once all documents are judged: who is like whom, and what stood before.

Workers leave tables in Ray's object store. Each is parted there, where it lies: the driver fetches a row for each document
without what documents are compared by, and workers fetch that alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.errors import InputError
from cluster.pools import on_pool
from cluster.session import cpus_of_a_core
from cluster.storage import Storage
from pipelines.config import DataConfig
from pipelines.data.batch import schema
from pipelines.data.blocks import PLACE, told
from pipelines.data.dedup import HASH_BYTES, Links
from pipelines.data.duplicates import joined, link, shards_of, tasks
from pipelines.data.repeats import Workers
from pipelines.data.work import Work
from pipelines.progress import bar

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

    References = list[ray.ObjectRef[pa.Table]]

MAX_DEATHS = 60
"""Workers that may die with one task, of whatever: on a machine whose disk is full each dies within a second as it starts, until
there is room again. Ray's own number is three."""

DECIDED_BY = (
    "id",
    "reason",
    "detail",
    "fingerprint",
    "num_characters_in",
    "num_characters",
    "changed_by",
    "protected",
    *PLACE,
)
"""What the driver holds of each document, beside how many hashes of lines and paragraphs it has."""


class Parts(NamedTuple):
    """Of a table of documents: for the driver, and for those who compare."""

    rows: Any
    keys: Any
    """`reason`, `fingerprint` and `bands`."""
    spans: Any
    """Hashes of lines and paragraphs."""


def part(table: pa.Table) -> Parts:
    import pyarrow.compute as pc

    rows = table.select(DECIDED_BY)
    for name in ("lines", "paragraphs"):
        rows = rows.append_column(f"num_{name}", pc.divide(pc.binary_length(table[name]), HASH_BYTES))
    return Parts(rows, table.select(["reason", "fingerprint", "bands"]), table.select(["lines", "paragraphs"]))


class Gathered(NamedTuple):
    """All documents, in their order."""

    documents: pa.Table
    """A row for each, in memory of this process: nothing of it stays in Ray's object store."""
    lengths: list[int]
    """Of the tables, as they are parted."""
    keys: list[Any]
    spans: list[Any]


def gathered(tables: Sequence[pa.Table], parts: Sequence[Parts]) -> Gathered:
    """Of tables (or their rows alone) in any order, and the references to what they were parted into, or that itself.

    Raises:
        InputError: two documents have one id.
    """
    order = in_order(tables)
    documents = documents_of([tables[i] for i in order])
    _check_ids(documents)
    lengths = [len(tables[i]) for i in order]
    return Gathered(documents, lengths, [parts[i].keys for i in order], [parts[i].spans for i in order])


def in_order(tables: Sequence[pa.Table]) -> list[int]:
    """The tables' numbers, in document order: each has neighbours of one stretch."""
    firsts = [tuple(table[name][0].as_py() for name in PLACE) for table in tables]
    return sorted(range(len(tables)), key=firsts.__getitem__)


def documents_of(tables: Sequence[pa.Table]) -> pa.Table:
    """Of rows in document order."""
    import pyarrow as pa

    none = part(told(schema().empty_table(), 0, 0)).rows
    return pa.concat_tables([none, *tables]).combine_chunks()


def _check_ids(documents: pa.Table) -> None:
    """Items of evaluation and lineage go by id: a repeated one would be found out only after training."""
    import pyarrow.compute as pc

    if pc.count_distinct(documents["id"]).as_py() < len(documents):
        counted = documents["id"].value_counts().to_pylist()
        repeated = [entry["values"] for entry in counted if entry["counts"] > 1]
        raise InputError(
            "data.sources: id_field",
            f"{len(repeated)} ids stand on several documents, {repeated[0]!r} among them",
            "name a field whose values differ, or leave id_field out",
        )


def linked(found: Gathered, work: Work, storage: Storage, workers: Workers) -> Links:
    """Who is like whom."""
    todo = tasks(work.config.dedup, found.lengths, storage.location, shards_of(work.earlier))
    return joined([*workers.each(link, [(task, *found.keys) for task in todo], "comparisons of documents")])


# --- on the pool ------------------------------------------------------------------------------------------------------


def parted(tables: References, config: DataConfig) -> Gathered:
    """Takes the tables out of the list, so that Ray may let go of each once it is parted."""
    import ray

    run = ray.remote(part).options(num_returns=len(Parts._fields), **filling_a_core(config))
    parts = list[Parts]()
    while tables:
        parts.append(Parts(*run.remote(tables.pop())))
    return gathered(ray.get([found.rows for found in parts]), parts)


class Pool(NamedTuple):
    """Tasks of the pool's workers."""

    config: DataConfig
    stage: str = "clean"
    """That shows how far they are."""

    def put(self, value: Any) -> Any:
        import ray

        return ray.put(value)

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], unit: str) -> Iterator[Any]:
        """What was taken is let go of."""
        import ray

        run = ray.remote(function).options(**filling_a_core(self.config))
        waiting = deque(run.remote(*arguments) for arguments in calls)
        with bar(self.stage, len(waiting), unit) as progress:
            while waiting:
                yield ray.get(waiting.popleft())
                progress.update(len(calls) - len(waiting))


def filling_a_core(config: DataConfig) -> dict[str, Any]:
    return {"num_cpus": cpus_of_a_core(), "label_selector": on_pool(config.pool), "max_retries": MAX_DEATHS}

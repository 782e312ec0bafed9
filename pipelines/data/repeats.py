"""Lines and paragraphs that stood before, in the whole version: found by their hashes on the workers, as duplicates are.

    hashes of each document -> [which occur too often] -> marks, at the driver -> [what is left of each text] -> shards

What is in brackets is asked of the workers. No text comes to the driver: it holds a bit for each line and paragraph that has a
hash, and a row for each document that loses one. Both are decided at once, over the texts as they were: a line counts where it
stands, even in a paragraph that goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.config import DedupConfig, RepeatsConfig
from pipelines.config.data import Repeating
from pipelines.data.blocks import PLACE, Blocks
from pipelines.data.cutting import Cut, measure, told_schema
from pipelines.data.decide import Repeats
from pipelines.data.dedup import HASH_BYTES, Int64s, Uint64s, sums, words_of

if TYPE_CHECKING:
    import pyarrow as pa

Bools = NDArray[np.bool_]

MANY = 4_000_000
"""Hashes that one task compares. Of more, several tasks compare some each; all of them read all hashes."""


class Workers(Protocol):
    """Who does what is asked for: the pool, or the process itself."""

    def put(self, value: Any) -> Any:
        """A reference to what many calls are given."""
        ...

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], unit: str) -> Iterable[Any]:
        """What the function returns for each of these arguments, in their order. `unit`: what is counted for people."""
        ...


class Task(NamedTuple):
    """What one worker compares: of the lines, or the paragraphs, those whose hashes leave this rest when divided."""

    name: Repeating
    rest: int
    divisor: int
    max_occurrences: int


def tasks(name: Repeating, config: RepeatsConfig, num_hashes: int) -> list[Task]:
    divisor = 1 + num_hashes // MANY
    return [Task(name, rest, divisor, config.max_occurrences) for rest in range(divisor)]


def find(task: Task, alive: Bools, *tables: pa.Table) -> Int64s:
    """Which are to go, counted through all documents, ascending.

    Args:
        alive: of each document whether it is kept so far; what stands in others does not count.
        tables: all documents in their order, with the column of hashes that the task names.
    """
    found, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    document, first = 0, 0
    for table in tables:
        values, sizes = words_of(table[task.name])
        counts = np.repeat(alive[document : document + len(table)], sizes // HASH_BYTES)
        chosen = np.flatnonzero(counts & (values % np.uint64(task.divisor) == task.rest))
        found.append(values[chosen])
        places.append(chosen + first)
        document, first = document + len(table), first + len(values)
    return _later(np.concatenate(found), np.concatenate(places), task.max_occurrences)


def _later(values: Uint64s, places: Int64s, max_occurrences: int) -> Int64s:
    """Of equal values that occur more often, the places of all but the first. Places ascend, there and here."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.append(True, ordered[1:] != ordered[:-1])[: len(order)]
    counts = np.diff(np.append(np.flatnonzero(is_first), len(order)))
    return np.sort(places[order[~is_first & np.repeat(counts > max_occurrences, counts)]])


class Marks:
    """Of all lines, or paragraphs, of all documents that have a hash those that are to go: a bit for each."""

    touched: Bools
    """Of each document, whether it loses any."""

    def __init__(self, counts: Int64s) -> None:
        self._bounds = sums(counts)
        self._bits = np.zeros(self._bounds[-1] // 8 + 1, np.uint8)
        self.touched = np.zeros(len(counts), np.bool_)

    def mark(self, places: Int64s) -> None:
        np.bitwise_or.at(self._bits, places >> 3, (1 << (places & 7)).astype(np.uint8))
        self.touched[np.searchsorted(self._bounds, places, "right") - 1] = True

    def of(self, documents: Int64s) -> Bools:
        """The marks of these documents, one after the other."""
        starts = self._bounds[documents]
        counts = self._bounds[documents + 1] - starts
        places = np.repeat(starts - sums(counts)[:-1], counts) + np.arange(counts.sum())
        return (self._bits[places >> 3] >> (places & 7).astype(np.uint8) & 1).astype(np.bool_)


def look(
    documents: pa.Table, alive: Bools, tables: Sequence[Any], *, blocks: Blocks, config: DedupConfig, workers: Workers
) -> Repeats:
    """What goes of the documents that are alive, and what is left of them.

    Args:
        documents: where they lie (blocks.PLACE), and how many hashes they have (`num_lines`, `num_paragraphs`).
        tables: their hashes, as `find` takes them, or references to them.
    """
    import pyarrow as pa

    shared, marks = workers.put(alive), dict[Repeating, Marks]()
    for name, asked in config.repeats.items():
        counts = np.asarray(documents[f"num_{name}"]).astype(np.int64)
        marks[name] = Marks(counts)
        calls = [(task, shared, *tables) for task in tasks(name, asked, int(counts.sum()))]
        for places in workers.each(find, calls, f"shares of the {name} compared"):
            marks[name].mark(places)
    touched = np.flatnonzero(np.logical_or.reduce([mark.touched for mark in marks.values()]))
    cuts = [(blocks, config, cut) for cut in _cuts(documents, touched, marks)]
    told = workers.each(measure, cuts, "blocks looked at for repeated text")
    return Repeats(touched, pa.concat_tables([told_schema().empty_table(), *told]))


def _cuts(documents: pa.Table, touched: Int64s, marks: dict[Repeating, Marks]) -> Iterator[Cut]:
    """Of each block the documents that lose something."""
    import pyarrow as pa

    stretches = np.asarray(documents["stretch"])[touched]
    for chosen in np.split(touched, np.flatnonzero(np.diff(stretches)) + 1) if len(touched) else ():
        places = documents.select(PLACE).take(pa.array(chosen)).combine_chunks()
        yield Cut(places, {name: np.packbits(mark.of(chosen)) for name, mark in marks.items()})

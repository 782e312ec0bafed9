"""Lines taken out of texts, and what is told of a document that loses some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.config import DedupConfig
from pipelines.config.data import Repeating
from pipelines.data.blocks import Blocks
from pipelines.data.dedup import Int64s, spans_of, sums
from pipelines.data.record import REPEATED

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data.kernels.characters import Buffers
    from pipelines.data.kernels.spans import Left, Spans

Bools = NDArray[np.bool_]

CHANGED = ("num_characters", "changed_by", "protected")
"""Columns of a document that are others once it has lost something."""


class Cut(NamedTuple):
    """What is to go of some documents of one block."""

    places: pa.Table
    """Where they lie (blocks.PLACE), in document order."""
    marks: Mapping[Repeating, NDArray[np.uint8]]
    """Of all their lines, or paragraphs, that have a hash: a bit for each, set for those that go."""


def told_schema() -> pa.Schema:
    """Of what is told: `lines` has a bit for each line of the document, set for those that go; the others say what is left, and
    what went (record.REPEATED)."""
    import pyarrow as pa

    from pipelines.data.batch import schema

    return pa.schema(
        [
            pa.field("lines", pa.binary()),
            pa.field("num_words", pa.int64()),
            *(schema().field(name) for name in CHANGED),
            *(pa.field(name, pa.int64()) for name in REPEATED),
        ]
    )


def measure(blocks: Blocks, config: DedupConfig, cut: Cut) -> pa.Table:
    """What is told of these documents. Their texts are read a batch at a time.

    Raises:
        BlockGone: the block is not there any more.
    """
    import pyarrow as pa

    marks = {name: np.unpackbits(bits).astype(np.bool_) for name, bits in cut.marks.items()}
    batches, tables = np.asarray(cut.places["batch"]), list[pa.Table]()
    for rows in np.split(np.arange(len(batches)), np.flatnonzero(np.diff(batches)) + 1):
        held = blocks.take(cut.places.take(pa.array(rows)), ("text", "changed_by", "protected"))
        tables.append(_told(held, config, marks))
    return pa.concat_tables(tables)


def _told(held: pa.Table, config: DedupConfig, marks: dict[Repeating, Bools]) -> pa.Table:
    """Takes these documents' marks away from the beginning of `marks`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.data.kernels import tokens
    from pipelines.data.kernels.characters import array, buffers
    from pipelines.data.kernels.spans import without

    column = buffers(held["text"].combine_chunks())
    lines, paragraphs = (spans_of(column, name, config.repeats.get(name)) for name in ("lines", "paragraphs"))
    by_line, by_paragraph = _taken(marks, "lines", lines), _taken(marks, "paragraphs", paragraphs)
    in_paragraph = by_paragraph[np.searchsorted(paragraphs.starts, lines.starts, "right") - 1]
    gone = by_line | in_paragraph
    left = without(column, lines, gone)
    num_characters = pc.utf8_length(array(left.texts))
    num_lines, num_paragraphs = _counts(by_line & ~in_paragraph, lines), _counts(by_paragraph, paragraphs)
    num_removed = pc.subtract(pc.utf8_length(array(column)), num_characters)
    columns = {
        "lines": [np.packbits(gone[start:end]).tobytes() for start, end in pairwise(lines.bounds.tolist())],
        "num_words": np.diff(tokens.words(left.texts).pieces.bounds),
        "num_characters": num_characters,
        "changed_by": _rules(held["changed_by"].to_pylist(), num_paragraphs, num_lines),
        "protected": _moved(held["protected"].to_pylist(), column, lines, left),
        **dict(zip(REPEATED, (num_lines, num_paragraphs, num_removed), strict=True)),
    }
    return pa.table(columns, schema=told_schema())


def _taken(marks: dict[Repeating, Bools], name: Repeating, found: Spans) -> Bools:
    """Which of these lines, or paragraphs, go."""
    goes = np.zeros(len(found.hashes), np.bool_)
    if name in marks:
        looked_at = found.hashes != 0
        num = int(looked_at.sum())
        goes[looked_at] = marks[name][:num]
        marks[name] = marks[name][num:]
    return goes


def _counts(chosen: Bools, found: Spans) -> Int64s:
    """By text."""
    return np.diff(sums(chosen)[found.bounds])


def _rules(changed_by: Sequence[list[str]], num_paragraphs: Int64s, num_lines: Int64s) -> list[list[str]]:
    """Paragraphs go first: a line in one of them is not counted again."""
    rows = zip(changed_by, num_paragraphs.tolist(), num_lines.tolist(), strict=True)
    return [[*rules, *["repeated_paragraphs"] * (ps > 0), *["repeated_lines"] * (ls > 0)] for rules, ps, ls in rows]


def _moved(protected: Sequence[list[dict[str, Any]]], column: Buffers, lines: Spans, left: Left) -> list[Any]:
    """Where the masks stand now, without those in lines that are gone."""
    return [_moved_in(i, masks, column, lines, left) if masks else [] for i, masks in enumerate(protected)]


def _moved_in(
    text: int, masks: Sequence[dict[str, Any]], column: Buffers, lines: Spans, left: Left
) -> list[dict[str, Any]]:
    """A mask stands within one line, so both of its ends move alike."""
    here = slice(lines.bounds[text], lines.bounds[text + 1])
    starts, moved = lines.starts[here], left.starts[here]
    places = column.offsets[text] + np.flatnonzero(_begins(column, text))
    characters = sums(_begins(left.texts, text))
    found = []
    for mask in masks:
        place = places[mask["start"]]
        line = np.searchsorted(starts, place, "right") - 1
        if moved[line] >= 0:
            now = moved[line] - left.texts.offsets[text] + place - starts[line]
            shift = int(characters[now]) - mask["start"]
            found.append({"kind": mask["kind"], "start": mask["start"] + shift, "end": mask["end"] + shift})
    return found


def _begins(column: Buffers, text: int) -> Bools:
    """Of each byte of the text, whether a character begins with it."""
    return column.data[column.offsets[text] : column.offsets[text + 1]] & 0xC0 != 0x80


def cut_out(texts: pa.Array, gone: Sequence[bytes]) -> pa.Array:
    """The texts without the lines whose bits are set, as `told_schema` has them."""
    from pipelines.data.kernels.characters import array, buffers
    from pipelines.data.kernels.spans import spans, without

    column = buffers(texts)
    lines = spans(column)
    bits = [np.zeros(0, np.uint8)]
    for held, num in zip(gone, np.diff(lines.bounds).tolist(), strict=True):
        bits.append(np.unpackbits(np.frombuffer(held, np.uint8), count=num))
    return array(without(column, lines, np.concatenate(bits).astype(np.bool_)).texts)


def put_rows(table: pa.Table, rows: Int64s, others: pa.Table) -> pa.Table:
    """The table with these rows of the columns that `others` has, each column in one piece."""
    import pyarrow as pa

    index = np.arange(len(table))
    index[rows] = len(table) + np.arange(len(rows))
    for name in others.schema.names:
        place, kind = table.schema.get_field_index(name), table.schema.field(name).type
        both = pa.chunked_array([*table[name].chunks, *others[name].cast(kind).chunks], kind)
        table = table.set_column(place, name, both.take(pa.array(index)))
    return table.combine_chunks()

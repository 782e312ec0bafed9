"""Lines and paragraphs, found and taken out, against plain rules."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import DedupConfig, RepeatsConfig
from pipelines.config.data import Repeating
from pipelines.data.cutting import cut_out, put_rows
from pipelines.data.dedup import span_hashes
from pipelines.data.kernels.characters import buffers
from pipelines.data.kernels.spans import spans, without
from pipelines.data.repeats import Marks, Task, find, tasks
from tests.unit.pipelines.data import reference
from tests.unit.pipelines.data.strategies import column, columns

every_text = settings(max_examples=200, deadline=None)
few_words = st.lists(st.text(alphabet="aB1. \n", max_size=30), max_size=8)


@every_text
@given(columns, st.integers(1, 3), st.booleans())
def test_lines_and_paragraphs_are_those_of_the_filters(texts: list[str], min_words: int, ignore_digits: bool) -> None:
    held = buffers(column(texts))
    for paragraphs, split in ((False, reference.lines_of), (True, reference.paragraphs_of)):
        found = spans(held, paragraphs=paragraphs, min_words=min_words, ignore_digits=ignore_digits)
        items = [split(text) for text in texts]
        assert np.diff(found.bounds).tolist() == list(map(len, items))
        told = [bytes(held.data[a:b]).decode() for a, b in zip(found.starts, found.ends, strict=True)]
        assert [item.strip() for item in told] == [item for each in items for item in each]
        known: dict[int, list[str]] = {}
        for hashed, item in zip(found.hashes.tolist(), told, strict=True):
            words = reference.plain_words(re.sub(r"\d", "0", item) if ignore_digits else item)
            assert (hashed != 0) == (len(words) >= min_words)
            assert not hashed or known.setdefault(hashed, words) == words
        assert len(known) == len({" ".join(words) for words in known.values()})


@every_text
@given(columns, st.data())
def test_what_is_left_without_some_lines(texts: list[str], data: st.DataObject) -> None:
    held = buffers(column(texts))
    lines = spans(held)
    gone = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(lines.starts), max_size=len(lines.starts))), np.bool_
    )
    left = without(held, lines, gone)
    numbers = [set(np.flatnonzero(gone[a:b]).tolist()) for a, b in pairwise(lines.bounds)]
    expected = [reference.without_lines(text, out) for text, out in zip(texts, numbers, strict=True)]
    assert [bytes(left.texts.data[a:b]).decode() for a, b in pairwise(left.texts.offsets)] == expected
    for line, start in enumerate(left.starts.tolist()):
        size = int(lines.ends[line] - lines.starts[line])
        assert (start < 0) == gone[line]
        assert start < 0 or bytes(left.texts.data[start : start + size]) == bytes(
            held.data[lines.starts[line] :][:size]
        )
    packed = [np.packbits(gone[a:b]).tobytes() for a, b in pairwise(lines.bounds)]
    assert cut_out(column(texts), packed).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("a\n\nb\nc", {1}, "a\n\nc"),  # paragraphs stay apart
        ("a\nb\n\nc", {1}, "a\n\nc"),
        ("a\n\nb\n\nc", {1}, "a\n\nc"),
        ("a\n  b\n    c\n", {1}, "a\n    c\n"),  # each line has its own indentation
        ("\n a\nb\n\n", {0}, "\nb\n\n"),
        ("a\r\nb\r\nc", {1, 2}, "a"),
        ("a\nb\n", {0, 1}, "\n"),
        ("a \n\n", set(), "a \n\n"),
    ],
)
def test_gaps(text: str, gone: set[int], left: str) -> None:
    lines = spans(buffers(column([text])))
    chosen = np.array([number in gone for number in range(len(lines.starts))], np.bool_)
    assert cut_out(column([text]), [np.packbits(chosen).tobytes()]).to_pylist() == [left]


@every_text
@given(
    few_words,
    st.sampled_from(["lines", "paragraphs"]),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 4),
    st.data(),
)
def test_all_but_the_first_go_however_the_work_is_cut(
    texts: list[str], name: Repeating, min_words: int, most: int, divisor: int, data: st.DataObject
) -> None:
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))), np.bool_)
    bounds = [0, *sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=3))), len(texts)]
    config = RepeatsConfig(min_words=min_words, max_occurrences=most)
    hashes = span_hashes(column(texts), name, config)
    tables = [pa.table({name: pa.array(hashes[a:b], pa.binary())}) for a, b in pairwise(bounds)]
    marks = Marks(np.array([len(held) // 8 for held in hashes], np.int64))
    for rest in range(divisor):
        marks.mark(find(Task(name, rest, divisor, most), alive, *tables))

    split = reference.lines_of if name == "lines" else reference.paragraphs_of
    counting = [text if lives else "" for text, lives in zip(texts, alive, strict=True)]
    for number, gone in enumerate(reference.repeated(counting, split, min_words, most)):
        looked_at = [i for i, item in enumerate(split(texts[number])) if len(reference.plain_words(item)) >= min_words]
        assert marks.of(np.array([number])).tolist() == [i in gone for i in looked_at]
        assert marks.touched[number] == bool(gone)
    everything = marks.of(np.arange(len(texts)))
    assert len(everything) == sum(len(held) // 8 for held in hashes)


def test_many_hashes_are_shared_out() -> None:
    config = DedupConfig(lines=RepeatsConfig(max_occurrences=3)).repeats["lines"]
    assert tasks("lines", config, 3_999_999) == [Task("lines", 0, 1, 3)]
    assert [task.rest for task in tasks("lines", config, 9_000_000)] == [0, 1, 2]


def test_digits_and_case_and_punctuation() -> None:
    texts = ["Page 3 of 10: the Mine", "page 4 of 12 the mine!", "page 44 of 12 the mine"]
    differ, alike = (
        [held[:8] for held in span_hashes(column(texts), "lines", RepeatsConfig(ignore_digits=digits))]
        for digits in (False, True)
    )
    assert len(set(differ)) == 3
    assert (alike[0] == alike[1], alike[1] == alike[2]) == (True, False)


def test_rows_are_put_into_columns_of_any_kind() -> None:
    kinds: dict[str, tuple[Any, list[Any], Any]] = {
        "text": (pa.large_string(), ["a", "b", "c"], "x"),
        "number": (pa.int64(), [1, 2, 3], 9),
        "rules": (pa.list_(pa.string()), [[], ["r"], ["r", "s"]], ["t"]),
        "spans": (
            pa.list_(pa.struct({"kind": pa.string(), "start": pa.int32()})),
            [[], [], []],
            [{"kind": "k", "start": 1}],
        ),
    }
    table = pa.table({name: pa.array(values, kind) for name, (kind, values, _) in kinds.items()})
    others = pa.table({name: pa.array([value], kind) for name, (kind, _, value) in kinds.items()})
    put = put_rows(pa.concat_tables([table.slice(0, 1), table.slice(1)]), np.array([1]), others)
    assert put.schema == table.schema
    assert put.to_pylist() == [table.to_pylist()[0], others.to_pylist()[0], table.to_pylist()[2]]
    assert all(chunked.num_chunks == 1 for chunked in put.columns)
    nothing = put_rows(table, np.zeros(0, np.int64), others.slice(0, 0))
    assert nothing.equals(table)

"""How the input is cut: whole, in order, into pieces that let workers end together."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem

from pipelines.data.inventory import Cut, SourceFile
from pipelines.data.stretches import LARGEST, part_bytes, stretches


def file(num_bytes: int, *starts: int) -> SourceFile:
    cuts = tuple(Cut(start, 2 + i) for i, start in enumerate(starts))
    return SourceFile("a", "a", LocalFileSystem(), "jsonl", False, "text", None, num_bytes, cuts=cuts)


def test_parts_have_the_bytes_between_their_cuts() -> None:
    assert part_bytes(file(10)) == [10]
    assert part_bytes(file(10, 4, 9)) == [4, 5, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_stretches_have_everything_once_in_order_and_no_more_bytes_than_asked_and_a_part(
    sizes: list[int], least: int
) -> None:
    files = [file(size) for size in sizes]
    cut = stretches(files, least)
    assert [stretch.number for stretch in cut] == list(range(len(cut)))
    assert [part for stretch in cut for part in stretch.parts] == [(i, 0) for i in range(len(files))]
    assert [stretch.num_bytes for stretch in cut] == [sum(sizes[i] for i, _ in s.parts) for s in cut]
    assert all(least <= stretch.num_bytes < LARGEST * least + 50 for stretch in cut[:-1])


def test_stretches_become_smaller_towards_the_end() -> None:
    sizes = [stretch.num_bytes for stretch in stretches([file(10)] * 400, 10)]
    assert sizes[0] == LARGEST * 10
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-5:] == [10] * 5

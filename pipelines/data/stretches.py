"""Stretches: how the input is cut for the workers. Each makes a block (blocks.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pipelines.data.inventory import SourceFile

LARGEST: Final = 8
"""So many times the least is a stretch at most: an interruption costs seconds of a worker. Small ones cost as well: between two
tasks Ray Data leaves a core waiting for a fifth of a second (it asks for ended ones every 0.1 s, version 2.60)."""
SHARE: Final = 16
"""A stretch is this part of what is left, between the least and the most: workers then end at about the same time (guided
self-scheduling, Polychronopoulos and Kuck 1987, IEEE Trans. Comput. 36(12))."""
MAX_STRETCHES: Final = 4_096


class Stretch(NamedTuple):
    """Neighbours in the input, in document order, that one task reads."""

    number: int
    parts: tuple[tuple[int, int], ...]
    """Indices of files, and which part of each."""
    num_bytes: int
    """As stored."""


def stretches(files: Sequence[SourceFile], least: int) -> list[Stretch]:
    """The whole input, in stretches of at least so many bytes (but for the last one)."""
    sized = [(index, part, size) for index, file in enumerate(files) for part, size in enumerate(part_bytes(file))]
    left = sum(size for *_, size in sized)
    most = max(LARGEST * least, left // MAX_STRETCHES)
    found, parts, size = list[Stretch](), list[tuple[int, int]](), 0
    for index, part, num_bytes in sized:
        parts.append((index, part))
        size += num_bytes
        if size >= min(max(left // SHARE, least), most):
            found.append(Stretch(len(found), tuple(parts), size))
            left, parts, size = left - size, [], 0
    return [*found, Stretch(len(found), tuple(parts), size)] if parts else found


def part_bytes(file: SourceFile) -> list[int]:
    """Of each part of the file; of Parquet, whose cuts count row groups, on average."""
    if file.format != "jsonl":
        return [file.num_bytes // (len(file.cuts) + 1)] * (len(file.cuts) + 1)
    bounds = [0, *(cut.start for cut in file.cuts), file.num_bytes]
    return np.diff(bounds).tolist()

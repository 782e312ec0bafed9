"""Which texts share a run of words with others: windows of word hashes looked up in a table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import FACTOR, mix

Int64s = NDArray[np.int64]
Uint64s = NDArray[np.uint64]


class Table(NamedTuple):
    """Hashes of runs of words, open addressing; two runs of different words share one of 2^64 hashes by chance."""

    keys: Uint64s
    """0: empty."""
    values: NDArray[np.int32]
    """Of each key the number of the text it was first found in."""
    lengths: Int64s
    """Of the runs, in words, ascending."""


class Hits(NamedTuple):
    """For each text: the text of the table whose run comes first in it (-1: none), its first word and number of words."""

    of: NDArray[np.int32]
    first: Int64s
    num_words: Int64s


def table(words: Uint64s, bounds: Int64s, ngram: int, min_words: int) -> Table:
    """Of all runs of `ngram` words, and of the whole of each text of fewer words that has `min_words` at least.

    Args:
        words: hashes of the words; those of text i are [bounds[i], bounds[i + 1]).
    """
    nums = np.diff(bounds)
    num_runs = int(np.where(nums >= ngram, nums - ngram + 1, nums >= min_words).sum())
    lengths = np.unique(np.minimum(nums[nums >= min_words], ngram)).astype(np.int64)
    size = 1 << max(4, (4 * num_runs).bit_length())
    keys, values = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    _fill(words, bounds, ngram, min_words, keys, values)
    return Table(keys, values, lengths)


def hits(words: Uint64s, bounds: Int64s, table: Table) -> Hits:
    num = len(bounds) - 1
    found = Hits(np.full(num, -1, np.int32), np.zeros(num, np.int64), np.zeros(num, np.int64))
    if len(table.lengths):
        _look_up(words, bounds, *table, *found)
    return found


def places(words: Uint64s, bounds: Int64s, ngram: int, min_words: int, table: Table) -> tuple[Int64s, Int64s]:
    """Of each run that the table was made of the slot of its key, and the bounds of each text's."""
    nums = np.diff(bounds)
    counts = np.where(nums >= min_words, nums - np.minimum(nums, ngram) + 1, 0)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    slots = np.zeros(int(ends[-1]), np.int64)
    _place(words, bounds, ngram, table.keys, ends, slots)
    return slots, ends


def seen(words: Uint64s, bounds: Int64s, table: Table) -> tuple[Int64s, Int64s]:
    """Slots of the keys that stand in any of the texts, ascending, and of each the first text that it stands in."""
    first = np.full(len(table.keys), -1, np.int64)
    for length in table.lengths.tolist():
        _mark(words, bounds, length, table.keys, first)
    slots = np.flatnonzero(first >= 0)
    return slots, first[slots]


@kernel
def _run(words: Any, first: int, num_words: int) -> np.uint64:
    """A polynomial in FACTOR: that of the next run follows from this one in a step."""
    h = np.uint64(0)
    for i in range(first, first + num_words):
        h = h * FACTOR + words[i]
    return h


@kernel
def _key(h: np.uint64, num_words: int) -> np.uint64:
    return max(mix(h + np.uint64(num_words)), np.uint64(1))


@kernel
def _fill(words: Any, bounds: Any, ngram: int, min_words: int, keys: Any, values: Any) -> None:
    for text in range(len(bounds) - 1):
        first, num = bounds[text], bounds[text + 1] - bounds[text]
        n = min(ngram, num)
        if num < min_words:
            continue
        for i in range(first, first + num - n + 1):
            key = _key(_run(words, i, n), n)
            slot = _slot(key, keys)
            if keys[slot] == 0:
                keys[slot], values[slot] = key, text


@kernel
def _slot(key: np.uint64, keys: Any) -> np.int64:
    """Where a key stands, or the empty slot that tells that it does not."""
    mask = len(keys) - 1
    slot = np.int64(key >> np.uint64(1)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@kernel
def _place(words: Any, bounds: Any, ngram: int, keys: Any, ends: Any, slots: Any) -> None:
    for text in range(len(bounds) - 1):
        n = min(ngram, bounds[text + 1] - bounds[text])
        for i in range(ends[text + 1] - ends[text]):
            slots[ends[text] + i] = _slot(_key(_run(words, bounds[text] + i, n), n), keys)


@kernel
def _mark(words: Any, bounds: Any, n: int, keys: Any, first: Any) -> None:
    power = np.uint64(1)
    for _ in range(n - 1):
        power *= FACTOR
    for text in range(len(bounds) - 1):
        begin, end = bounds[text], bounds[text + 1]
        if end - begin < n:
            continue
        h = _run(words, begin, n)
        for i in range(begin, end - n + 1):
            slot = _slot(_key(h, n), keys)
            if keys[slot] != 0 and first[slot] < 0:
                first[slot] = text
            if i + n < end:
                h = (h - words[i] * power) * FACTOR + words[i + n]


@kernel
def _look_up(
    words: Any, bounds: Any, keys: Any, values: Any, lengths: Any, of: Any, first_word: Any, num_words: Any
) -> None:
    current, powers = np.zeros(len(lengths), np.uint64), np.ones(len(lengths), np.uint64)
    for k in range(len(lengths)):
        for _ in range(lengths[k] - 1):
            powers[k] *= FACTOR
    for text in range(len(bounds) - 1):
        first, end = bounds[text], bounds[text + 1]
        for k in range(len(lengths)):
            current[k] = _run(words, first, min(lengths[k], end - first))
        for i in range(first, end):
            for k in range(len(lengths)):
                n = lengths[k]
                if i + n > end:
                    break
                slot = _slot(_key(current[k], n), keys)
                if keys[slot] != 0:
                    of[text], first_word[text], num_words[text] = values[slot], i - first, n
                    break
                if i + n < end:
                    current[k] = (current[k] - words[i] * powers[k]) * FACTOR + words[i + n]
            if of[text] >= 0:
                break

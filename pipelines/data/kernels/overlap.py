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
    mask = len(keys) - 1
    for text in range(len(bounds) - 1):
        first, num = bounds[text], bounds[text + 1] - bounds[text]
        n = min(ngram, num)
        if num < min_words:
            continue
        for i in range(first, first + num - n + 1):
            key = _key(_run(words, i, n), n)
            slot = np.int64(key >> np.uint64(1)) & mask
            while keys[slot] != 0 and keys[slot] != key:
                slot = (slot + 1) & mask
            if keys[slot] == 0:
                keys[slot], values[slot] = key, text


@kernel
def _look_up(
    words: Any, bounds: Any, keys: Any, values: Any, lengths: Any, of: Any, first_word: Any, num_words: Any
) -> None:
    mask = len(keys) - 1
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
                key = _key(current[k], n)
                slot = np.int64(key >> np.uint64(1)) & mask
                while keys[slot] != 0 and keys[slot] != key:
                    slot = (slot + 1) & mask
                if keys[slot] == key:
                    of[text], first_word[text], num_words[text] = values[slot], i - first, n
                    break
                if i + n < end:
                    current[k] = (current[k] - words[i] * powers[k]) * FACTOR + words[i + n]
            if of[text] >= 0:
                break

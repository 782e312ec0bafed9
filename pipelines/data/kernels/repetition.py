"""What repeats inside each text: lines, paragraphs and n-grams of words, by their hashes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import mix
from pipelines.data.kernels.tokens import Pieces

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)


class Table(NamedTuple):
    """Scratch space of a hash table with open addressing, used anew for every question without being cleared."""

    keys: NDArray[np.uint64]
    askers: NDArray[np.int64]
    """The question that wrote the slot; another's is empty."""
    counts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    """Where the key stood first."""


def _table(pieces: Pieces) -> Table:
    most = int(np.diff(pieces.bounds).max(initial=1))
    size = 1 << (2 * most).bit_length()
    return Table(np.empty(size, np.uint64), np.full(size, -1, np.int64), *np.empty((2, size), np.int64))


def repeats(pieces: Pieces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each text how many of its pieces stood before in it, and their characters."""
    found = np.zeros((2, len(pieces.bounds) - 1), np.int64)
    _repeats(*pieces, *_table(pieces), found)
    return found[0], found[1]


def n_grams(words: Pieces, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Characters in repeated n-grams of the chosen texts (0 for the others).

    Returns:
        One row each of TOP_SIZES, by text: the characters of the most frequent n-gram, its words joined by one space, times its
        count; of several equally frequent ones the first; 0 when each stands only once. And one row each of DUPLICATE_SIZES:
        the characters, without the spaces, of the n-grams that stood before, read from left to right and going on behind each
        one found, so none counts twice.
    """
    num = len(words.bounds) - 1
    top, duplicate = np.zeros((len(TOP_SIZES), num), np.int64), np.zeros((len(DUPLICATE_SIZES), num), np.int64)
    most = int(np.diff(words.bounds).max(initial=1))
    scratch = np.empty(most, np.uint64), np.empty(most + 1, np.int64)
    _n_grams(*words, chosen, *_table(words), *scratch, top, duplicate)
    return top, duplicate


@kernel
def _slot(keys: Any, askers: Any, mask: int, asker: int, key: np.uint64) -> int:
    """Where `key` lies, or the empty place where it belongs."""
    i: Any = np.int64(key & np.uint64(mask))
    while askers[i] == asker and keys[i] != key:
        i = (i + 1) & mask
    return i


@kernel
def _mask(num: int) -> int:
    """Of the part of the table that is at most half full with `num` keys."""
    mask = 1
    while mask < 2 * num:
        mask = 2 * mask + 1
    return mask


@kernel
def _repeats(
    hashes: Any, lengths: Any, bounds: Any, keys: Any, askers: Any, counts: Any, firsts: Any, found: Any
) -> None:
    for text in range(len(bounds) - 1):
        mask = _mask(bounds[text + 1] - bounds[text])
        for piece in range(bounds[text], bounds[text + 1]):
            i = _slot(keys, askers, mask, text, hashes[piece])
            if askers[i] == text:
                found[0, text] += 1
                found[1, text] += lengths[piece]
            else:
                keys[i], askers[i] = hashes[piece], text


@kernel
def _n_grams(
    hashes: Any,
    lengths: Any,
    bounds: Any,
    chosen: Any,
    keys: Any,
    askers: Any,
    counts: Any,
    firsts: Any,
    grams: Any,
    ends: Any,
    top: Any,
    duplicate: Any,
) -> None:
    asker = 0
    for text in range(len(bounds) - 1):
        first, num = bounds[text], bounds[text + 1] - bounds[text]
        if not chosen[text]:
            continue
        mask = _mask(num)
        ends[0] = 0
        for i in range(num):
            grams[i], ends[i + 1] = mix(hashes[first + i]), ends[i] + lengths[first + i]
        repeated = True
        for n in range(2, 11):
            num_grams = num - n + 1
            if not repeated or num_grams < 2:
                break  # without a repeated n-gram no longer one repeats either
            for i in range(num_grams):
                grams[i] = mix(grams[i] + hashes[first + i + n - 1])  # mixed word by word: their order counts
            asker += 1
            if n < 5:
                first_gram, count = _top(grams, num_grams, keys, askers, counts, firsts, mask, asker)
                if count > 1:
                    top[n - 2, text] = count * (ends[first_gram + n] - ends[first_gram] + n - 1)
                repeated = top[n - 2, text] > 0
            else:
                duplicate[n - 5, text] = _duplicate(grams, ends, num_grams, n, keys, askers, mask, asker)
                repeated = duplicate[n - 5, text] > 0


@kernel
def _top(
    grams: Any, num: int, keys: Any, askers: Any, counts: Any, firsts: Any, mask: int, asker: int
) -> tuple[int, int]:
    """Of the most frequent n-gram that stands first, where it does and how often it stands there."""
    highest, first = 1, 0
    for gram in range(num):
        i = _slot(keys, askers, mask, asker, grams[gram])
        if askers[i] != asker:
            keys[i], askers[i], counts[i], firsts[i] = grams[gram], asker, 1, gram
            continue
        counts[i] += 1
        if counts[i] > highest or (counts[i] == highest and firsts[i] < first):
            highest, first = counts[i], firsts[i]
    return first, highest


@kernel
def _duplicate(grams: Any, ends: Any, num: int, n: int, keys: Any, askers: Any, mask: int, asker: int) -> int:
    characters, gram = 0, 0
    while gram < num:
        i = _slot(keys, askers, mask, asker, grams[gram])
        if askers[i] == asker:
            characters += ends[gram + n] - ends[gram]
            gram += n
        else:
            keys[i], askers[i] = grams[gram], asker
            gram += 1
    return characters

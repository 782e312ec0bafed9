"""MinHash signatures of texts from the hashes of their words, cut into bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import SEED, mix

Uint32s = NDArray[np.uint32]
Uint64s = NDArray[np.uint64]

COEFFICIENTS_SEED = 20_211
"""Of the hash functions; another seed would find slightly other pairs."""


def coefficients(num_hashes: int) -> tuple[Uint32s, Uint32s]:
    """Of the functions (a x + b) mod 2^32, a odd: permutations, linear ones (Bohman, Cooper and Frieze 2000, "Min-wise independent
    linear permutations"), and eight of them in the time of two with 64 bits."""
    random = np.random.default_rng(COEFFICIENTS_SEED)
    a = random.integers(0, 2**32, num_hashes, np.uint32) | np.uint32(1)
    return a, random.integers(0, 2**32, num_hashes, np.uint32)


def signatures(words: Uint64s, bounds: NDArray[np.int64], ngram: int, num_hashes: int) -> Uint32s:
    """One row a text: the least value of each function over the text's n-grams of words, each hashed to 32 bits.

    A text with fewer words is one n-gram; one without words keeps the highest value in every place.
    """
    found = np.full((len(bounds) - 1, num_hashes), 0xFFFFFFFF, np.uint32)
    _signatures(words, bounds, ngram, *coefficients(num_hashes), found)
    return found


def band_keys(signatures: Uint32s, num_bands: int) -> Uint64s:
    """One row a text: a hash of each band of its signature."""
    num, num_hashes = signatures.shape
    found = np.empty((num, num_bands), np.uint64)
    _band_keys(signatures, num_hashes // num_bands, found)
    return found


@kernel
def _signatures(words: Any, bounds: Any, ngram: int, a: Any, b: Any, found: Any) -> None:
    for text in range(len(bounds) - 1):
        first, num = bounds[text], bounds[text + 1] - bounds[text]
        n = min(ngram, num)
        least = found[text]
        for i in range(first, first + num - n + 1 if num else first):
            gram = np.uint64(0)
            for word in range(i, i + n):
                gram = mix(gram + words[word])  # mixed after each word, so that the order of words counts
            x = np.uint32(gram >> np.uint64(32))
            for k in range(len(a)):
                least[k] = min(least[k], np.uint32(a[k] * x + b[k]))


@kernel
def _band_keys(signatures: Any, rows: int, found: Any) -> None:
    for text in range(found.shape[0]):
        for band in range(found.shape[1]):
            h = SEED
            for k in range(band * rows, (band + 1) * rows):
                h = mix(h + np.uint64(signatures[text, k]))
            found[text, band] = h

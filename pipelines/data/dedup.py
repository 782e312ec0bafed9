"""Exact and near duplicates: fingerprints, MinHash signatures, bands, connected components.

MinHash: Broder 1997, "On the resemblance and containment of documents". Bands: Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3.4: two documents of Jaccard similarity s share a band with
probability 1 - (1 - s^r)^b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipelines.config import DedupConfig

Uint64s = NDArray[np.uint64]

SEED = 20_211
"""Of the hash functions' coefficients; another seed would find slightly other pairs."""
CHUNK = 4_096
"""Shingles hashed at a time: 112 functions x 4,096 x 8 bytes stay in the processor's cache of some MB."""

NOT_WORDS = re.compile(r"[\W_]+")


def fingerprint(text: str) -> bytes:
    """16 bytes (xxh3-128) of the text with each run of white space as one space."""
    return xxhash.xxh3_128_digest(" ".join(text.split()).encode())


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return NOT_WORDS.sub(" ", text.lower()).split()


def shingles(words: Sequence[str], n: int) -> Uint64s:
    """Distinct hashes of the word n-grams; a shorter text is one shingle."""
    if not words:
        return np.empty(0, np.uint64)
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(word.encode()) for word in words), np.uint64, len(words))
    n = min(n, len(words))
    grams = np.zeros(len(words) - n + 1, np.uint64)
    for i in range(n):
        grams = _mix(grams + hashes[i : i + len(grams)])  # mixed after each word, so that the order of words counts
    return np.unique(grams)


def _mix(x: Uint64s) -> Uint64s:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input changes half of the output's."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def signature(grams: Uint64s, num_hashes: int) -> NDArray[np.uint32]:
    """The least value of each of `num_hashes` functions (a x + b) mod 2^64, upper 32 bits, a odd."""
    random = np.random.default_rng(SEED)
    a = random.integers(0, 2**64, (num_hashes, 1), np.uint64) | np.uint64(1)
    b = random.integers(0, 2**64, (num_hashes, 1), np.uint64)
    least = np.full(num_hashes, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(grams), CHUNK):
        values = ((a * grams[start : start + CHUNK] + b) >> np.uint64(32)).astype(np.uint32)
        np.minimum(least, values.min(axis=1), out=least)
    return least


def band_keys(text: str, config: DedupConfig) -> bytes:
    """8 bytes for each band of the text's signature; empty when the text has no words to compare."""
    grams = shingles(words_of(text), config.ngram)
    if not len(grams):
        return b""
    rows = signature(grams, config.num_bands * config.rows_per_band).reshape(config.num_bands, -1)
    return b"".join(xxhash.xxh3_64_digest(row.tobytes()) for row in rows)


def first_of_exact(fingerprints: Sequence[bytes]) -> list[int]:
    """For each document the index of the first with the same fingerprint: its own where it is the first."""
    first: dict[bytes, int] = {}
    return [first.setdefault(key, index) for index, key in enumerate(fingerprints)]


def first_of_near(keys: Sequence[bytes]) -> list[int]:
    """For each document the index of the first in its group: those linked, however indirectly, by a shared band.

    Documents without keys stand alone.
    """
    first = np.arange(len(keys))
    present = np.flatnonzero([len(key) > 0 for key in keys])
    if not len(present):
        return first.tolist()
    bands = np.frombuffer(b"".join(keys[i] for i in present), np.uint64).reshape(len(present), -1)
    labels = _components(bands)
    _, leader = np.unique(labels, return_index=True)  # index of each label's first occurrence
    first[present] = present[leader[labels]]
    return first.tolist()


def _components(bands: Uint64s) -> NDArray[Any]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num = len(bands)
    links = []
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        same = band[order[1:]] == band[order[:-1]]
        links.append(np.stack((order[:-1][same], order[1:][same])))
    rows, columns = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(num, num))
    return connected_components(graph, directed=False)[1]

"""Exact and near duplicates: fingerprints, bands of MinHash signatures, connected components.

MinHash: Broder 1997, "On the resemblance and containment of documents". Bands: Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3.4: two documents of Jaccard similarity s share a band with
probability 1 - (1 - s^r)^b.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipelines.config import DedupConfig

if TYPE_CHECKING:
    import pyarrow as pa

Uint64s = NDArray[np.uint64]


def fingerprints(texts: pa.Array) -> list[bytes]:
    """Of each text 16 bytes (xxh3-128), taken with every run of white space as one space."""
    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.spelling import single_spaced

    data, offsets = single_spaced(buffers(texts))
    view, bounds = data.data, offsets.tolist()
    return [xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(bounds)]


def band_keys(texts: pa.Array, config: DedupConfig) -> list[bytes]:
    """Of each text 8 bytes for each band of its signature; none when it has no words to compare.

    The signature is of the distinct n-grams of its words in lower case and without punctuation.
    """
    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.signatures import band_keys, signatures
    from pipelines.data.kernels.tokens import plain_words

    words, bounds = plain_words(buffers(texts))
    found = signatures(words, bounds, config.ngram, config.num_bands * config.rows_per_band)
    keys = band_keys(found, config.num_bands)
    return [row.tobytes() if num else b"" for row, num in zip(keys, np.diff(bounds).tolist(), strict=True)]


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

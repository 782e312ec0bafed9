"""Exact and near duplicates: fingerprints, bands of MinHash signatures, connected components; hashes of lines and paragraphs.

MinHash: Broder 1997, "On the resemblance and containment of documents". Bands: Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3.4: two documents of Jaccard similarity s share a band with
probability 1 - (1 - s^r)^b.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.config import DedupConfig, RepeatsConfig
    from pipelines.config.data import Repeating
    from pipelines.data.kernels.characters import Buffers
    from pipelines.data.kernels.spans import Spans

SIGNED_ALIKE = 5
"""The version of the rules from which on signatures are of these words and hash functions."""

HASH_BYTES = 8
"""Of a line or a paragraph."""

Int64s = NDArray[np.int64]
Uint64s = NDArray[np.uint64]


def fingerprints(texts: pa.Array) -> list[bytes]:
    """Of each text 16 bytes (xxh3-128), taken with every run of white space as one space."""
    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.spelling import single_spaced

    return hashes(single_spaced(buffers(texts)))


def hashes(texts: Buffers) -> list[bytes]:
    """Of each text's UTF-8 16 bytes (xxh3-128)."""
    view = texts.data.data
    return [xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(texts.offsets.tolist())]


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


def span_hashes(texts: pa.Array, name: Repeating, config: RepeatsConfig) -> list[bytes]:
    """Of each text HASH_BYTES for each of its lines, or paragraphs, that has words enough, in their order."""
    from pipelines.data.kernels.characters import buffers

    found = spans_of(buffers(texts), name, config)
    chosen = found.hashes != 0
    kept, bounds = found.hashes[chosen], sums(chosen)[found.bounds]
    return [kept[start:end].tobytes() for start, end in pairwise(bounds.tolist())]


def spans_of(column: Buffers, name: Repeating, config: RepeatsConfig | None) -> Spans:
    """The lines, or paragraphs, of each text. `config`: None where they are not asked for."""
    from pipelines.config import RepeatsConfig
    from pipelines.data.kernels.spans import spans

    config, paragraphs = config or RepeatsConfig(), name == "paragraphs"
    return spans(column, paragraphs=paragraphs, min_words=config.min_words, ignore_digits=config.ignore_digits)


def sums(values: NDArray[Any]) -> Int64s:
    """Of the first of the values: of none, of one, and so on to all."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])


class Keys(NamedTuple):
    """By what some documents are compared. `numbers` tell them apart: below zero for those of earlier versions."""

    numbers: Int64s
    fingerprints: Uint64s
    """Two for each document."""
    signed: Int64s
    """Numbers of those that have words to compare."""
    bands: Uint64s
    """A row for each of these, a column for each band that is asked for."""


class Links(NamedTuple):
    """Pairs of numbers: two rows, a column a pair. They need not name all pairs that are alike, only connect them."""

    exact: Int64s
    near: Int64s


NO_PAIRS: Int64s = np.zeros((2, 0), np.int64)


def keys_of(table: pa.Table, numbers: Int64s, num_bands: int, bands: Sequence[int], *, exact: bool) -> Keys:
    """Of a table with the columns `fingerprint` and `bands` (of which each row has all or none): what is asked for of it."""
    prints, _ = words_of(table["fingerprint"] if exact else None)
    signatures, lengths = words_of(table["bands"] if bands else None)
    return Keys(
        numbers,
        prints.reshape(-1, 2),
        numbers[: len(lengths)][lengths > 0],
        signatures.reshape(-1, num_bands or 1)[:, list(bands)],
    )


def words_of(column: pa.ChunkedArray | None) -> tuple[Uint64s, Int64s]:
    """The bytes of all values in a row, as 64-bit words, and how many bytes each has."""
    import pyarrow as pa

    if column is None or not len(column):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    values = column.cast(pa.large_binary()).combine_chunks()
    _, bounds, data = values.buffers()
    offsets = np.frombuffer(bounds, np.int64)[values.offset : values.offset + len(values) + 1]
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if data else np.empty(0, np.uint8)
    return content.view(np.uint64), np.diff(offsets)


def links(keys: Sequence[Keys], *, exact: bool) -> Links:
    """Of documents with the same fingerprint (if asked for), and of those that share one of the bands."""
    if not keys:
        return Links(NO_PAIRS, NO_PAIRS)
    same = NO_PAIRS
    if exact:
        first, second = np.concatenate([k.fingerprints for k in keys]).T
        same = _equal(np.lexsort((second, first)), (first, second), np.concatenate([k.numbers for k in keys]))
    signed = np.concatenate([k.signed for k in keys])
    near = [NO_PAIRS]
    for band in range(keys[0].bands.shape[1]):
        column = np.concatenate([k.bands[:, band] for k in keys])
        near.append(_equal(np.argsort(column, kind="stable"), (column,), signed))
    return Links(same, np.concatenate(near, axis=1))


def _equal(order: NDArray[np.intp], columns: Sequence[Uint64s], numbers: Int64s) -> Int64s:
    """Pairs of neighbours in this order that are equal in all columns; what two earlier documents share is no news."""
    before, after = order[:-1], order[1:]
    same = np.logical_and.reduce([column[before] == column[after] for column in columns])
    pairs = np.stack((numbers[before[same]], numbers[after[same]]))
    return pairs[:, pairs.max(axis=0) >= 0] if pairs.size else NO_PAIRS


def first_of(num: int, pairs: Int64s) -> Int64s:
    """For each of the numbers from 0 the least of its group: those linked, however indirectly, by pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = np.arange(num)
    nodes, places = np.unique(pairs, return_inverse=True)  # ascending; few, where most documents are like no other
    if not len(nodes):
        return first
    rows, columns = places.reshape(2, -1)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(nodes), len(nodes)))
    labels = connected_components(graph, directed=False)[1]
    _, least = np.unique(labels, return_index=True)  # index of each label's first occurrence
    known = nodes >= 0
    first[nodes[known]] = nodes[least[labels]][known]
    return first

"""Calibration text: drawn by a seed from the train documents, the same share from each language and domain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest

from cluster.artifacts import Dataset
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.config import Stratum

CHARACTERS_PER_TOKEN = 8
"""More than any usual tokenizer packs into a token of prose on average: so many characters are surely enough."""
DRAW = 4
"""Text read, as a multiple of what is used: there must be something to draw from."""
COLUMNS: Mapping[Stratum, str] = {"language": "language", "domain": "source"}
"""Column of the train shards that tells the stratum. A document's domain is the recipe's source it came from."""


def read_texts(
    storage: Storage, dataset: Dataset, num_characters: int, seed: int, balance: Sequence[Stratum] = ()
) -> dict[str, list[str]]:
    """Train documents in an order drawn by `seed`, by stratum (`en topics`; one of all without `balance`).

    Args:
        num_characters: as many in all as will be used. DRAW times as many are read, and from each stratum at least this,
            so that strata that have much make up for those that have little.

    Raises:
        InputError: the dataset has no train text.
    """
    shards = _shards(storage, dataset, seed)
    strata = {key: set(_strata(storage, key, balance)) for key in shards}
    names = sorted(set().union(*strata.values()))
    wanted = max(num_characters, DRAW * num_characters // max(len(names), 1))
    texts: dict[str, list[str]] = {name: [] for name in names}
    missing = dict.fromkeys(names, wanted)
    for key in shards:
        if any(missing[name] > 0 for name in strata[key]):
            for name, text in _documents(storage, key, seed, balance):
                if missing[name] > 0:
                    texts[name].append(text)
                    missing[name] -= len(text)
    if not any(text for found in texts.values() for text in found):
        raise InputError(
            f"{storage.uri}/{dataset.location}/train",
            "no text to calibrate the quantization with",
            "give more documents, loosen data.filters, or quantize without text: method rtn, kv_cache fp8_unscaled",
        )
    return texts


def windows(
    texts: Mapping[str, Sequence[str]], encode: Callable[[str], list[int]], length: int, count: int, seed: int
) -> list[tuple[str, list[int]]]:
    """At most `count` windows of at most `length` tokens, each from one document, with their stratum.

    Drawn by `seed` within each stratum and taken from them in turn: where one has no more, the others fill up.
    """
    drawn = [[(name, window) for window in _drawn(texts[name], encode, length, seed)] for name in sorted(texts)]
    in_turn = [window for round_ in zip_longest(*drawn) for window in round_ if window is not None]
    return in_turn[:count]


def _drawn(texts: Sequence[str], encode: Callable[[str], list[int]], length: int, seed: int) -> list[list[int]]:
    found: list[tuple[str, list[int]]] = []
    for number, text in enumerate(texts):
        tokens = encode(text)
        for start in range(0, len(tokens), length):
            window = tokens[start : start + length]
            # A stub says little of what activations look like; take it only from a document shorter than a window.
            if window and (start == 0 or len(window) >= length // 2):
                found.append((_order(seed, number, start), window))
    return [window for _, window in sorted(found)]


def _shards(storage: Storage, dataset: Dataset, seed: int) -> list[str]:
    keys = [key for key in storage.list(f"{dataset.location}/train") if key.endswith(".parquet")]
    return sorted(keys, key=lambda key: _order(seed, key.rpartition("/")[2]))


def _strata(storage: Storage, key: str, balance: Sequence[Stratum]) -> list[str]:
    """The stratum of each row of a shard, without reading its texts."""
    import pyarrow.parquet as pq

    filesystem, path = storage.filesystem(key)
    names = [COLUMNS[by] for by in balance]
    stored = set(pq.read_schema(path, filesystem=filesystem).names)
    table = pq.read_table(path, columns=["id", *(stored & set(names))], filesystem=filesystem)
    columns = [table[name].to_pylist() if name in stored else [None] * table.num_rows for name in names]
    return [" ".join(_value(column[row]) for column in columns) for row in range(table.num_rows)]


def _value(found: str | None) -> str:
    """A language as it is; of a source's name the part that says which of the recipe's sources it is."""
    return (found or "unknown").partition("/")[0]


def _documents(storage: Storage, key: str, seed: int, balance: Sequence[Stratum]) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    filesystem, path = storage.filesystem(key)
    table = pq.read_table(path, columns=["id", "text"], filesystem=filesystem)
    ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    for name, text, _ in sorted(
        zip(_strata(storage, key, balance), texts, ids, strict=True), key=lambda row: _order(seed, row[2])
    ):
        yield name, text


def _order(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()

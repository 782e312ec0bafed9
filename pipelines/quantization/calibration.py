"""Calibration sequences: windows of the train documents, drawn by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from cluster.artifacts import Dataset
from cluster.errors import InputError
from cluster.storage import Storage

CHARACTERS_PER_TOKEN = 8
"""More than any usual tokenizer packs into a token of prose on average: so many characters are surely enough."""


def read_texts(storage: Storage, dataset: Dataset, num_characters: int, seed: int) -> list[str]:
    """Train documents in an order drawn by `seed`, until they hold `num_characters` together.

    Raises:
        InputError: the dataset has no train text.
    """
    texts: list[str] = []
    have = 0
    for text in _documents(storage, dataset, seed):
        if have >= num_characters:
            break
        texts.append(text)
        have += len(text)
    if not have:
        raise InputError(
            f"{storage.uri}/{dataset.location}/train",
            "no text to calibrate the quantization with",
            "give more documents or loosen data.filters",
        )
    return texts


def _documents(storage: Storage, dataset: Dataset, seed: int) -> Iterator[str]:
    import pyarrow.parquet as pq

    shards = [key for key in storage.list(f"{dataset.location}/train") if key.endswith(".parquet")]
    for key in sorted(shards, key=lambda key: _order(seed, key.rpartition("/")[2])):
        filesystem, path = storage.filesystem(key)
        table = pq.read_table(path, columns=["id", "text"], filesystem=filesystem)
        rows = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
        for _, text in sorted(rows, key=lambda row: _order(seed, row[0])):
            yield text


def windows(
    texts: list[str], encode: Callable[[str], list[int]], length: int, count: int, seed: int
) -> list[list[int]]:
    """At most `count` windows of at most `length` tokens, each from one document, drawn by `seed` from all."""
    found: list[tuple[str, list[int]]] = []
    for number, text in enumerate(texts):
        tokens = encode(text)
        for start in range(0, len(tokens), length):
            window = tokens[start : start + length]
            # A stub says little of what activations look like; take it only from a document shorter than a window.
            if window and (start == 0 or len(window) >= length // 2):
                found.append((_order(seed, number, start), window))
    return [window for _, window in sorted(found)[:count]]


def _order(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()

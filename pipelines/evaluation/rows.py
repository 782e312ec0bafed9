"""items.parquet: one row an item, with the same ids for every model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from cluster.artifacts import Manifest
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.evaluation.items import Row

LATER: Row = {
    "group": "",
    "prompt": "",
    "wanted": "",
    "samples": [],
    "figures": {},
    "choice_nats": [],
    "choice_bytes": [],
    "num_prompt_characters": 0,
}
"""Columns that files of earlier versions lack, with what stands for them."""


def write_rows(path: Path | IO[bytes], rows: Sequence[Row]) -> None:
    """Write the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("task", pa.string()),
            ("id", pa.string()),
            ("score", pa.float64()),  # chrF 0 to 100, F1 0 to 1, right 1 or wrong 0, or log-likelihood per byte in nats
            ("nll", pa.float64()),  # negative log-likelihood of the text or the right answer, in nats; null if written
            ("num_tokens", pa.int64()),
            ("num_bytes", pa.int64()),
            ("correct", pa.bool_()),
            ("output", pa.string()),
            ("language", pa.string()),
            ("domain", pa.string()),
            ("group", pa.string()),  # condition (bbq), label (refusal), set of targets (weat)
            ("prompt", pa.string()),  # its end, at most items.MAX_PROMPT characters
            ("num_prompt_characters", pa.int64()),  # of all of it, or of the text
            ("wanted", pa.string()),  # the right answer
            ("samples", pa.list_(pa.string())),  # all continuations (toxicity)
            (
                "choice_nats",
                pa.list_(pa.float64()),
            ),  # log-likelihood of each choice (multiple_choice, bbq, minimal_pairs)
            ("choice_bytes", pa.list_(pa.int64())),  # and what its likelihood per byte is divided by
            ("figures", pa.map_(pa.string(), pa.float64())),  # what else the kind's figures are computed from
        ]
    )
    packed = [{**row, "figures": list((row.get("figures") or {}).items())} for row in rows]
    pq.write_table(pa.Table.from_pylist(packed, schema=schema), path, compression="zstd")


def unpacked(row: Row) -> Row:
    """A row as it was read, with all columns."""
    empty = {name: value for name, value in LATER.items() if row.get(name) is None}
    whole = {**row, **empty}
    return {**whole, "figures": dict(whole["figures"])}


def recorded_file(storage: Storage, manifest: Manifest, name: str) -> bytes:
    """A file of an artifact as it is on record.

    Raises:
        InputError: it is gone, or is another one.
    """
    entry = next(file for file in manifest.files if file.path == name)
    key = f"{manifest.location}/{name}"
    blob = storage.read(key)
    if blob is None or hashlib.sha256(blob.content).hexdigest() != entry.sha256:
        found = "is gone" if blob is None else "is not the file on record (its SHA-256 differs)"
        raise InputError(
            f"{storage.uri}/{key}", found, "restore it, or evaluate again: serinus run RECIPE --from evaluate"
        )
    return blob.content

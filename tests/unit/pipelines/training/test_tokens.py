"""Token files, as one task of Ray makes them of a shard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import LocalStorage, Storage
from pipelines.training import tokens


def test_what_one_run_reads_another_that_makes_it_again_leaves_whole(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, storage.root / "model")
    pq.write_table(pa.Table.from_pylist([{"id": "a", "text": "some words " * 50}]), storage.root / "0.parquet")
    job = {
        "storage": storage.location,
        "model": "model",
        "source": "0.parquet",
        "target": "runs/tokens/k/0.bin",
        "sha256": "",
    }
    tokens.tokenize_shard(job)
    file = storage.root / job["target"]
    before, texts_of, seen = np.memmap(file, dtype="<u2", mode="r"), tokens.texts_of, list[int]()

    def looking(given: Storage, source: str) -> Iterator[list[str]]:
        for texts in texts_of(given, source):
            seen.append(file.stat().st_size)
            yield texts
            seen.append(file.stat().st_size)

    monkeypatch.setattr(tokens, "texts_of", looking)
    made = tokens.tokenize_shard(job)

    assert seen == [before.nbytes, before.nbytes]
    assert np.array_equal(before, np.fromfile(file, dtype="<u2"))
    assert made["num_tokens"] == len(before)
    assert [path.name for path in file.parent.iterdir()] == ["0.bin"]

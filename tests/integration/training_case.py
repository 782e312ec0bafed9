"""A dataset of CPython's documentation topics and a training run small enough for tests; no tests in here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.artifacts import Dataset, ImportedModel, load, save
from cluster.storage import LocalStorage
from pipelines.base_model import import_model
from pipelines.config import ModelConfig, TrainConfig

KEY = "0123456789abcdef"
GOLDEN = Path(__file__).parent.parent / "golden" / "tiny_llama_cpu_losses.json"
GOLDEN_TOPICS = "37b51a0283fe8609"
"""Of the documentation in the Python (3.11.7) whose run the golden losses are: patch versions word some of it anew."""
"""Losses of `small_run` on `small_dataset` from the tests' tiny model, on CPU."""


def small_dataset(storage: LocalStorage, num_documents: int = 12, num_shards: int = 3) -> Dataset:
    """The first topics by name, as cleaned documents in shards; made once in a storage."""
    from pydoc_data.topics import topics

    if made := load(storage, Dataset, KEY):
        return made
    documents = [{"id": name, "text": topics[name]} for name in sorted(topics)[:num_documents]]
    num_characters = sum(len(document["text"]) for document in documents)
    made = Dataset(key=KEY, num_train=num_documents, num_documents=num_documents, num_characters_kept=num_characters)
    folder = storage.root / made.location / "train"
    folder.mkdir(parents=True)
    for n in range(num_shards):
        pq.write_table(pa.Table.from_pylist(documents[n::num_shards]), folder / f"{n:05d}.parquet")
    return save(storage, made)


def base_model(storage: LocalStorage, folder: Path) -> ImportedModel:
    return import_model(ModelConfig(source=str(folder)), storage)


def small_run(**fields: Any) -> TrainConfig:
    """Two CPU ranks, ZeRO-3, eight steps in float32."""
    settings = {
        "num_workers": 2,
        "gpus_per_worker": 0,
        "precision": "float32",
        "num_steps": 8,
        "warmup_steps": 2,
        "sequence_length": 64,
        "sequences_per_worker": 2,
        "learning_rate": 3e-3,
        "checkpoint_every_steps": 100,
        "attend_across_documents": True,  # as in the quickstart; both ways: test_training_parity.py
    }
    return TrainConfig.model_validate({**settings, **fields})


def chaos_run(**fields: Any) -> TrainConfig:
    """The same with a checkpoint at every step: it trains to the same losses, slowly enough to be killed on the way."""
    return small_run(**{"checkpoint_every_steps": 1, "sequences_per_step": 4, **fields})


def ends_early(given: dict[str, Any]) -> dict[str, Any]:
    """The train stage's worker, which ends behind step 4 as a killed one would: with the checkpoint of step 3 surely noted."""
    from pipelines.training import loop

    steps = loop.train_steps

    def some(*args: Any, **named: Any) -> Iterator[Any]:
        for record, tokens_per_s in steps(*args, **named):
            if record.step == 4:
                raise RuntimeError("ended for the test")
            yield record, tokens_per_s

    here: Any = loop
    here.train_steps = some
    return loop.worker(given)


def golden_losses() -> list[float]:
    """Of `small_dataset`; skips the test from here on where this Python's documentation is another."""
    from pydoc_data.topics import topics

    if hashlib.sha256(json.dumps(topics, sort_keys=True).encode()).hexdigest()[:16] != GOLDEN_TOPICS:
        pytest.skip("all held until here; the golden losses are of another Python's documentation")
    losses: list[float] = json.loads(GOLDEN.read_text())
    return losses

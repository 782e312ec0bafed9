"""Learning one thing after another on a real Ray cluster: what is held, what is retained, and what the next run goes on with."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import artifacts
from cluster.artifacts import Checkpoint, Dataset, WeightSearch, save
from cluster.storage import LocalStorage
from pipelines.base_model import import_model
from pipelines.config import ModelConfig
from pipelines.training.importance import num_files
from pipelines.training.train import train
from tests.integration.training_case import KEY, base_model, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.usefixtures("ray_cluster")]

OLD = "fedcba9876543210"


def old_dataset(storage: LocalStorage) -> Dataset:
    """Two documents by one rule to learn from, and one held out."""
    made = Dataset(key=OLD, num_train=2, num_heldout=1, num_documents=3, num_characters_kept=6_000)
    texts = [" ".join(str(first + step) for step in range(700)) for first in (0, 200, 100)]
    for part, some in (("train", texts[:2]), ("heldout", texts[2:])):
        folder = storage.root / made.location / part
        folder.mkdir(parents=True)
        rows = [{"id": f"{part}{n}", "text": text} for n, text in enumerate(some)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    return save(storage, made)


def test_a_weight_is_chosen_by_what_is_retained_and_the_next_run_adds_to_what_was_kept(
    storage: LocalStorage, tiny_model: Path
) -> None:
    old_dataset(storage)
    new, base = small_dataset(storage), base_model(storage, tiny_model)
    asked = {"dataset": OLD, "weight": [1e-3, 1e12], "min_retention_percent": 99, "num_sequences": 8}
    made = train(small_run(consolidation=asked), new, base, storage)

    (key,) = {key.split("/")[2] for key in storage.list("artifacts/weight_search")}
    record = artifacts.load(storage, WeightSearch, key)
    assert record is not None
    loose, firm = record.attempts
    assert record.chosen == 1e12
    assert loose.retention_percent < 99 < firm.retention_percent < 105
    assert loose.loss < firm.loss  # what is held has less room to learn
    assert artifacts.find(storage, firm.checkpoint) == made
    assert made.retention is not None
    assert made.retention.num_sequences > 8
    assert made.retention.percent == pytest.approx(100 * math.exp(made.retention.before - made.retention.after))

    assert num_files(made.files) == 2
    for file in made.files:
        assert (storage.root / made.location / file.path).stat().st_size == file.num_bytes
    model = import_model(ModelConfig(source=str(storage.root / made.folder)), storage)
    chained = {"dataset": KEY, "weight": 1.0, "num_sequences": 8, "online": {"checkpoint": made.key, "decay": 0.9}}
    later = train(small_run(consolidation=chained, num_workers=1, zero={"stage": 1}), new, model, storage)
    assert later.inputs["carried"] == made.digest
    assert num_files(later.files) == 1  # by one rank, of what two had written
    assert total(storage, later) > 0.9 * total(storage, made)


def total(storage: LocalStorage, made: Checkpoint) -> float:
    """Of all values that are kept."""
    import numpy as np

    folder = storage.root / made.location / "importance"
    return float(sum(np.fromfile(file, dtype="<f4").sum(dtype=float) for file in folder.glob("*.bin")))

"""One process at a time trains a model in a storage, whatever its recipe is called."""

from __future__ import annotations

import pytest

from cluster.artifacts import Checkpoint, Dataset, ImportedModel, LossPoint, save
from cluster.errors import ResourceError
from cluster.lease import exclusive
from cluster.storage import LocalStorage
from pipelines.config import TrainConfig
from pipelines.training.train import train, train_key

CONFIG = TrainConfig(num_steps=20)
DATASET, BASE = Dataset(key="d" * 16), ImportedModel(key="b" * 16, num_parameters=10)


def test_a_run_that_another_process_carries_out_is_refused(storage: LocalStorage) -> None:
    key = train_key(CONFIG, DATASET, BASE)
    with exclusive(storage, f"train-{key}"), pytest.raises(ResourceError, match="another run is at work") as caught:
        train(CONFIG, DATASET, BASE, storage)
    assert key in caught.value.where


def test_what_is_made_is_found_while_another_run_is_at_work(storage: LocalStorage) -> None:
    key = train_key(CONFIG, DATASET, BASE)
    losses = (LossPoint(step=1, loss=1.0, learning_rate=1e-3, num_tokens=1),)
    made = save(storage, Checkpoint(key=key, losses=losses, num_workers=1))
    with exclusive(storage, f"train-{key}"):
        assert train(CONFIG, DATASET, BASE, storage) == made

"""Stages on a real Ray cluster: two sizes are trained from random weights, and what they foretell of a third one comes true."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.artifacts import Checkpoint, Dataset, Forecast, StageRun, save
from cluster.storage import LocalStorage
from pipelines.config import LifecycleConfig
from pipelines.lifecycle import Run
from pipelines.progressive import train_in_stages
from tests.integration.training_case import base_model

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def topics_dataset(storage: LocalStorage) -> Dataset:
    """All of CPython's documentation topics, every eighth held out."""
    from pydoc_data.topics import topics

    documents = [{"id": name, "text": topics[name]} for name in sorted(topics)]
    parts = {"heldout": documents[::8], "train": [d for n, d in enumerate(documents) if n % 8]}
    made = Dataset(key="0123456789abcdef", num_train=len(parts["train"]), num_heldout=len(parts["heldout"]))
    for name, part in parts.items():
        folder = storage.root / made.location / name
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(part), folder / "00000.parquet")
    return save(storage, made)


def recipe(source: Path) -> LifecycleConfig:
    tokens = [100_000, 200_000]
    stages = [
        {"model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}, "num_tokens": tokens},
        {"model": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}, "num_tokens": tokens},
        {"model": {"head_dim": 16}, "num_tokens": tokens[-1]},
    ]
    train = {
        "num_workers": 2, "gpus_per_worker": 0, "zero": {"stage": 1}, "precision": "float32", "sequence_length": 64,
        "sequences_per_worker": 4, "learning_rate": 3e-3, "warmup_steps": 20, "attend_across_documents": True,
    }  # fmt: skip
    fields = {"name": "m", "storage": "s", "data": {"sources": [{"path": "x"}]}, "model": {"source": str(source)}}
    asked = {
        "train": train,
        "progressive": {"stages": stages},
        "evaluate": {"tasks": [{"name": "p", "kind": "perplexity"}]},
    }
    return LifecycleConfig.model_validate({**fields, **asked})


@pytest.mark.long
def test_what_two_sizes_foretell_of_the_third_comes_true(storage: LocalStorage, tiny_model: Path) -> None:
    dataset, base = topics_dataset(storage), base_model(storage, tiny_model)
    work = Run("m", storage, "train", None)
    trained = train_in_stages(recipe(tiny_model), dataset, base, storage, work.make)

    came, forecast = work.made["stage_3_1"], work.made["forecast_3"]
    assert isinstance(came, StageRun)
    assert isinstance(forecast, Forecast)
    assert came.prediction == forecast.predictions[-1]
    assert came.is_as_predicted, came.summary
    assert came.prediction.percent < 10
    assert forecast.made_at < trained.made_at
    runs = [made for made in work.made.values() if isinstance(made, StageRun)]
    assert [run.stage for run in runs] == [1, 1, 2, 2, 3]
    assert len({run.num_heldout_tokens for run in runs}) == 1, "all are measured on the same"
    assert came.loss == pytest.approx(trained.losses[-1].loss, rel=0.15), "near what is lost in training"

    again = Run("m", storage, "train", None)
    assert train_in_stages(recipe(tiny_model), dataset, base, storage, again.make) == trained
    assert isinstance(trained, Checkpoint)
    assert {role: made.made_at for role, made in again.made.items()} == {
        role: made.made_at for role, made in work.made.items()
    }, "a rerun finds everything"

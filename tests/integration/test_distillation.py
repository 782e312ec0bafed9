"""A model that learns from another one, on two CPU ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import Checkpoint, ImportedModel
from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from pipelines.training.train import train
from tests.integration.training_case import base_model, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def teacher(storage: LocalStorage, untied: Path) -> ImportedModel:
    """Another model with the same tokenizer."""
    return base_model(storage, untied)


def taught(storage: LocalStorage, base: ImportedModel, teacher: ImportedModel, **fields: Any) -> Checkpoint:
    asked = {"teacher": {"source": "of the test"}, "weight": 1.0, "temperature": 1.0}
    config = small_run(**{"distillation": asked, "num_steps": 12, **fields})
    return train(config, small_dataset(storage), base, storage, teacher)


def test_a_student_comes_nearer_to_its_teacher(storage: LocalStorage, tiny_model: Path, teacher: ImportedModel) -> None:
    """At stage 3 both models are shared out, at stage 1 each rank holds the teacher whole: the same losses."""
    base = base_model(storage, tiny_model)
    curves = [
        [point.loss for point in taught(storage, base, teacher, zero={"stage": stage}).losses] for stage in (3, 1)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    assert curves[0][-1] < 0.8 * curves[0][0]


def test_a_teacher_with_too_few_positions_is_refused(storage: LocalStorage, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "short"))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "max_position_embeddings": 32}))
    with pytest.raises(ConfigError, match="64 tokens, but the teacher knows 32 positions"):
        taught(storage, base_model(storage, tiny_model), base_model(storage, folder))


def test_the_teacher_is_in_the_lineage(storage: LocalStorage, tiny_model: Path, teacher: ImportedModel) -> None:
    made = taught(storage, base_model(storage, tiny_model), teacher, num_steps=3)
    assert made.inputs["teacher"] == teacher.digest

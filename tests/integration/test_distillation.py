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
from pipelines.config import TrainConfig
from pipelines.training.tokens import make_tokens, open_stream, tokenizer_digest
from pipelines.training.train import train
from tests.integration.test_train import plain_loop
from tests.integration.training_case import base_model, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def taught(storage: LocalStorage, base: ImportedModel, teacher: ImportedModel, **fields: Any) -> Checkpoint:
    asked = {"teacher": {"source": "of the test"}, "weight": 1.0, "temperature": 1.0}
    config = small_run(**{"distillation": asked, "num_steps": 12, **fields})
    return train(config, small_dataset(storage), base, storage, teacher)


def plain_losses(
    storage: LocalStorage, base: ImportedModel, teacher: ImportedModel, config: TrainConfig
) -> list[float]:
    """Kullback and Leibler's divergence by hand, in one process."""
    import torch
    from transformers import AutoModelForCausalLM

    taught_by = AutoModelForCausalLM.from_pretrained(storage.root / teacher.folder, dtype=torch.float32)

    def divergence(model: Any, tokens: Any) -> Any:
        with torch.no_grad():
            told = taught_by(input_ids=tokens).logits[:, :-1].log_softmax(-1)
        own = model(input_ids=tokens).logits[:, :-1].log_softmax(-1)
        return (told.exp() * (told - own)).sum(-1).mean()

    digest = tokenizer_digest({entry.path: entry.sha256 for entry in base.files})
    stream = open_stream(storage, make_tokens(small_dataset(storage), base.folder, digest, storage))
    losses, _ = plain_loop(storage.root / base.folder, config, stream, divergence)
    return losses


@pytest.mark.parametrize("stage", [3, 1])
def test_a_student_comes_nearer_to_its_teacher(
    storage: LocalStorage, tiny_model: Path, untied: Path, stage: int
) -> None:
    """At stage 3 both models are shared out, at stage 1 each rank holds the teacher whole; either way as one plain process does it.
    The teacher has another number of layers and the same tokenizer."""
    base, teacher = base_model(storage, tiny_model), base_model(storage, untied)
    made = taught(storage, base, teacher, zero={"stage": stage})
    losses = [point.loss for point in made.losses]
    assert losses == pytest.approx(
        plain_losses(storage, base, teacher, TrainConfig.model_validate(made.config)), rel=1e-5
    )
    assert losses[-1] < 0.8 * losses[0]
    assert made.inputs["teacher"] == teacher.digest


def test_a_teacher_with_too_few_positions_is_refused(storage: LocalStorage, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "short"))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "max_position_embeddings": 32}))
    with pytest.raises(ConfigError, match="64 tokens, but the teacher knows 32 positions"):
        taught(storage, base_model(storage, tiny_model), base_model(storage, folder))

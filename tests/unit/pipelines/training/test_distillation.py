"""What a teacher says beside the tokens themselves: the loss by the paper, and which models can be one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.artifacts import FileEntry, ImportedModel
from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from pipelines.config import TrainConfig
from pipelines.training.batches import Packed
from pipelines.training.losses import distilled, loss_of, next_token
from pipelines.training.teacher import check_vocabulary
from tests.unit.pipelines.training.test_batches import END, STREAM, engine


def perturbed(folder: Path) -> Any:
    import torch

    model = engine(folder)
    with torch.no_grad():
        for number, parameter in enumerate(model.module.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)), alpha=0.02)
    return model


def test_the_loss_is_that_of_the_paper(tiny_model: Path) -> None:
    """By hand, target by target."""
    import torch

    student, teacher, batch = engine(tiny_model), perturbed(tiny_model), Packed(STREAM, 8, END).batch([0, 1])
    found = distilled(student, batch, teacher, weight=0.3, temperature=2.0).item()
    with torch.no_grad():
        own, told = (model(**batch.inputs).logits.double() for model in (student, teacher))
    expected = 0.0
    for row, place in (batch.labels[:, 1:] != -100).nonzero().tolist():
        p, q = (one[row, place].div(2.0).softmax(-1) for one in (told, own))
        hard = -own[row, place].log_softmax(-1)[batch.labels[row, place + 1]].item()
        expected += 0.7 * hard + 0.3 * 4.0 * (p * (p / q).log()).sum().item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_s_own_words_teach_nothing(tiny_model: Path) -> None:
    student, batch = engine(tiny_model), Packed(STREAM, 8, END).batch([0, 1])
    loss = distilled(student, batch, engine(tiny_model), weight=1.0, temperature=3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-4)
    assert max(p.grad.abs().max().item() for p in student.module.parameters()) < 1e-4
    half = distilled(student, batch, student, weight=0.5, temperature=1.0).item()
    assert half == pytest.approx(0.5 * next_token(student, batch).item(), rel=1e-5)


def test_a_teacher_is_not_trained_and_may_have_wider_logits(tiny_model: Path) -> None:
    student, teacher, batch = engine(tiny_model), perturbed(tiny_model), Packed(STREAM, 8, END).batch([0])
    narrow = distilled(student, batch, teacher, weight=1.0, temperature=1.0).item()
    teacher.module.resize_token_embeddings(1064)  # padded, as large models are; new rows are drawn, and left out
    asked = TrainConfig.model_validate({"distillation": {"teacher": {"source": "t"}, "weight": 1, "temperature": 1}})
    loss = loss_of(asked.method, asked.distillation, teacher)(student, batch)
    loss.backward()
    assert loss.item() == pytest.approx(narrow, rel=1e-4)
    assert all(p.grad is None for p in teacher.module.parameters())


def model(storage: LocalStorage, name: str, tokenizer: dict[str, Any] | None) -> ImportedModel:
    made = ImportedModel(
        key=(name * 16)[:16], files=(FileEntry(path="model/tokenizer.json", num_bytes=1, sha256=name * 64),)
    )
    if tokenizer is not None:
        storage.write(f"{made.folder}/tokenizer.json", json.dumps(tokenizer).encode())
    return made


def test_a_teacher_speaks_of_the_same_tokens(storage: LocalStorage) -> None:
    words = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<end>", "id": 2}]}
    base = model(storage, "a", words)
    check_vocabulary(base, base, storage)
    check_vocabulary(model(storage, "b", {**words, "normalizer": None}), base, storage)
    unigram = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": words["added_tokens"]}
    check_vocabulary(model(storage, "c", unigram), base, storage)
    for name, tokenizer, found in (
        (
            "d",
            {"model": {"vocab": {"a": 1, "b": 0}}, "added_tokens": words["added_tokens"]},
            "2 tokens have other numbers",
        ),
        ("e", {"model": {"vocab": {"a": 0, "b": 1}}}, "('<end>': none, there 2)"),
        ("f", None, "cannot be told without tokenizer.json"),
    ):
        with pytest.raises(ConfigError) as told:
            check_vocabulary(model(storage, name, tokenizer), base, storage)
        assert told.value.where == "train.distillation.teacher"
        assert found in told.value.found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"method": {"kind": "dpo", "path": "p"}}, "distillation is for causal and instruct"),
        ({"privacy": {"target_epsilon": 3}, "zero": {"stage": 1}}, "privacy does not go with distillation"),
        ({"num_workers": 2, "parallel": {"tensor": 2}}, "parallel does not go with distillation"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError) as told:
        TrainConfig.model_validate({**fields, "distillation": {"teacher": {"source": "t"}}})
    assert found in str(told.value)

"""Ranks that hold one copy of the model together learn what one plain process learns, and go on from each other's checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import TrainConfig
from tests.integration.training_plain import TOLERANCE, config, plain_run
from tests.integration.training_ranks import Points, run_phases

pytestmark = pytest.mark.integration
long = pytest.mark.skipif("SERINUS_LONG" not in os.environ, reason="takes minutes: SERINUS_LONG=1 runs it")


def cut(tensor: int, num_workers: int, stage: int, **fields: Any) -> dict[str, Any]:
    return config(parallel={"tensor": tensor}, num_workers=num_workers, zero={"stage": stage}, **fields)


def losses(points: Points) -> list[float]:
    return [point["loss"] for point in points]


def test_two_ranks_with_half_of_each_matrix_learn_what_one_process_does_and_one_takes_over(
    tiny_model: Path, tmp_path: Path
) -> None:
    """At stage 3 with one copy, which shares nothing out; the one that takes over has other slices of everything."""
    import torch
    from transformers import AutoModelForCausalLM

    kept, made = tmp_path / "kept", tmp_path / "made"
    half = {"config": cut(2, 2, 3), "save": str(kept), "save_at": 6, "export": str(made)}
    alone = {"config": cut(1, 1, 1), "load": str(kept)}
    [[halves], [one]] = run_phases([(2, [half]), (1, [alone])], tiny_model, tmp_path)
    wanted, model = plain_run(tiny_model, TrainConfig.model_validate(config()))
    assert losses(halves) == pytest.approx(wanted, rel=TOLERANCE["float32"])
    assert losses(one) == pytest.approx(wanted, rel=TOLERANCE["float32"])

    tokens, exported = torch.arange(3, 67)[None], AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        torch.testing.assert_close(exported(tokens).logits, model(tokens).logits, rtol=1e-3, atol=1e-3)
    assert exported.config.to_dict() == model.config.to_dict() | {"dtype": "float32", "_name_or_path": str(made)}

"""Quantization-aware training: the same losses on any ranks as by one plain process, and a model that the quantize stage rounds to
the very weights that were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import Checkpoint
from cluster.storage import LocalStorage
from pipelines.config import QuantizationAwareConfig, QuantizeConfig, TrainConfig
from pipelines.quantization import quantize as quantize_module
from pipelines.quantization.quantize import quantize
from pipelines.rounding import stored_weights
from pipelines.training.train import train
from tests.integration.training_case import base_model, small_dataset, small_run
from tests.integration.training_plain import config, plain_losses, private_losses
from tests.integration.training_ranks import Points, run_phases

pytestmark = [pytest.mark.integration, pytest.mark.long]

W4, W8 = {"scheme": "W4A16", "group_size": 32}, {"scheme": "W8A8"}
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-3}
"""Relative, of a step's loss. Wider than of other runs: the largest weight of a group is 7.5 steps of its grid long, so that where
it is negative the last bit decides whether it becomes -7 or -8 (of rows in 8 bits -127 or -128)."""
FIRST = {"float32": 1e-6, "bfloat16": 1e-3}
"""Of the first loss, before anything has moved."""


def losses(points: Points) -> list[float]:
    return [point["loss"] for point in points]


def plain(model: Path, **fields: Any) -> list[float]:
    return plain_losses(model, TrainConfig.model_validate(config(**fields)))


def test_ranks_learn_what_one_plain_process_learns_and_one_takes_over(tiny_model: Path, tmp_path: Path) -> None:
    """At stages 3 (with activation checkpointing too), 2 and 1, and where one rank at stage 0 goes on. W8A8 also rounds inputs."""
    kept = str(tmp_path / "kept")
    asked: list[tuple[str, dict[str, Any]]] = [
        ("float32", {"quantization_aware": W4, "zero": {"stage": 3}}),
        ("float32", {"quantization_aware": W4, "zero": {"stage": 3}, "gradient_checkpointing": True}),
        ("float32", {"quantization_aware": W4, "zero": {"stage": 2, "offload_optimizer": True}}),
        ("float32", {"quantization_aware": W8, "zero": {"stage": 3, "offload_parameters": True}}),
        ("bfloat16", {"quantization_aware": W4, "zero": {"stage": 3}}),
        ("bfloat16", {"quantization_aware": W8, "zero": {"stage": 1}}),
    ]
    cases: list[dict[str, Any]] = [{"config": config(precision=precision, **more)} for precision, more in asked]
    cases[0] |= {"save": kept, "save_at": 6}
    alone = {"config": config(quantization_aware=W4, zero={"stage": 0}, num_workers=1), "load": kept}
    found, [one] = run_phases([(2, cases), (1, [alone])], tiny_model, tmp_path)
    wanted = {
        (precision, scheme["scheme"]): plain(tiny_model, precision=precision, quantization_aware=scheme)
        for precision in TOLERANCE
        for scheme in (W4, W8)
    }
    for (precision, more), points in zip(asked, found, strict=True):
        right = wanted[precision, more["quantization_aware"]["scheme"]]
        assert losses(points) == pytest.approx(right, rel=TOLERANCE[precision]), (precision, more)
        assert points[0]["loss"] == pytest.approx(right[0], rel=FIRST[precision]), (precision, more)
    assert losses(one) == pytest.approx(wanted["float32", "W4A16"], rel=TOLERANCE["float32"])
    unrounded = plain(tiny_model)
    assert abs(wanted["float32", "W4A16"][0] - unrounded[0]) > 100 * FIRST["float32"]  # it is another model
    assert wanted["float32", "W4A16"][-1] < unrounded[0] - 0.1


def test_old_weights_are_held_and_examples_are_cut_as_by_one_process(tiny_model: Path, tmp_path: Path) -> None:
    held = {"dataset": "0" * 16, "weight": 1e5, "num_sequences": 8}
    together: dict[str, Any] = {"quantization_aware": W4, "zero": {"stage": 3}, "consolidation": held}
    private = {"noise_multiplier": 0.8, "max_gradient_norm": 0.5}
    apart = config(quantization_aware=W4, zero={"stage": 2}, privacy=private, num_steps=6, sequences_per_step=16)
    [[consolidated, noisy]] = run_phases(
        [(2, [{"config": config(**together)}, {"config": apart}])], tiny_model, tmp_path
    )
    assert losses(consolidated) == pytest.approx(plain(tiny_model, **together), rel=2e-3)
    assert losses(noisy) == pytest.approx(private_losses(tiny_model, TrainConfig.model_validate(apart)), rel=2e-3)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("scheme", [W4, W8], ids=str)
def test_the_quantize_stage_stores_the_weights_that_were_trained_with(
    storage: LocalStorage, tiny_model: Path, scheme: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In precision auto, which is exported in bfloat16 whatever it was trained in."""
    import torch
    from transformers import AutoModelForCausalLM

    told: list[str] = []
    monkeypatch.setattr(quantize_module, "say", lambda stage, what: told.append(what))
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    run = small_run(quantization_aware=scheme, precision="auto")
    made = train(run, dataset, base, storage)
    assert made.losses[-1].loss < made.losses[0].loss - 0.2
    assert made.config["quantization_aware"]["scheme"] == scheme["scheme"]
    plan = QuantizeConfig.model_validate({**scheme, "method": "rtn"})
    stored = quantize(plan, made, dataset, storage)
    assert not [line for line in told if "warning" in line]

    trained = AutoModelForCausalLM.from_pretrained(storage.root / made.folder, dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(storage.root / stored.folder, dtype=torch.float32)
    tokens, asked = torch.arange(3, 67)[None], QuantizationAwareConfig.model_validate(scheme)
    with torch.no_grad():
        logits = loaded(tokens).logits  # it unpacks its weights when it is first asked
    layers = [
        name for name, module in trained.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    assert len(layers) == 2 * 7
    for name in layers:
        wanted = stored_weights(trained.get_submodule(name).weight.detach().float(), asked)
        assert torch.equal(loaded.get_submodule(name).weight.float(), wanted), name
    assert_says_what_was_trained(made, storage, run, tokens, logits)

    quantize(plan.replace(ignore=("lm_head", "re:.*down_proj")), made, dataset, storage)
    assert [line for line in told if line.startswith("warning: the model is trained for")]


def assert_says_what_was_trained(
    made: Checkpoint, storage: LocalStorage, run: TrainConfig, tokens: Any, logits: Any
) -> None:
    """The stored model answers as the exported one does with its layers rounded as in training."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipelines.training.quantization_aware import round_forward

    model = AutoModelForCausalLM.from_pretrained(storage.root / made.folder, dtype=torch.float32)
    assert run.quantization_aware is not None
    round_forward(model, run.quantization_aware, narrow=True)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(tokens).logits, rtol=1e-4, atol=1e-4)

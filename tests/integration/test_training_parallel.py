"""Ranks that hold one copy of the model together learn what one plain process learns, and go on from each other's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import TrainConfig
from tests.integration.training_plain import TOLERANCE, config, plain_losses, plain_run
from tests.integration.training_ranks import Points, run_phases

pytestmark = pytest.mark.integration


def cut(tensor: int, num_workers: int, stage: int, **fields: Any) -> dict[str, Any]:
    return config(parallel={"tensor": tensor}, num_workers=num_workers, zero={"stage": stage}, **fields)


def losses(points: Points) -> list[float]:
    return [point["loss"] for point in points]


@pytest.mark.long
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


ROAD = ((1, 2, 3), (2, 4, 2), (4, 4, 3), (2, 2, 0))
"""Ranks a copy, ranks, ZeRO stage: what takes over after steps 4, 8 and 12."""


@pytest.mark.long
def test_a_run_goes_on_from_any_way_of_sharing_out_to_any_other(tiny_model: Path, tmp_path: Path) -> None:
    phases = []
    for number, (tensor, ranks, stage) in enumerate(ROAD):
        case = {
            "config": cut(tensor, ranks, stage),
            "save": str(tmp_path / f"kept-{number}"),
            "save_at": 4 * number + 4,
        }
        if number:
            case["load"] = str(tmp_path / f"kept-{number - 1}")
        phases.append((ranks, [case]))
    points = run_phases(phases, tiny_model, tmp_path)[-1][0]
    wanted = plain_losses(tiny_model, TrainConfig.model_validate(config()))
    assert losses(points) == pytest.approx(wanted, rel=TOLERANCE["float32"])


@pytest.mark.long
def test_two_copies_on_two_ranks_each_at_every_stage(tiny_model: Path, tmp_path: Path) -> None:
    asked = [("float32", {"zero": {"stage": stage}}) for stage in (0, 1, 2, 3)]
    asked += [("bfloat16", {"zero": {"stage": stage}}) for stage in (0, 1, 2, 3)]
    asked.append(("float32", {"zero": {"stage": 3}, "gradient_checkpointing": True}))
    old = {"dataset": "0" * 16, "weight": 1e5, "num_sequences": 8}
    asked += [("float32", {"zero": {"stage": stage}, "consolidation": old}) for stage in (1, 3)]
    fields = {"parallel": {"tensor": 2}, "num_workers": 4}
    cases = [{"config": config(precision=precision, **more, **fields)} for precision, more in asked]
    [found] = run_phases([(4, cases)], tiny_model, tmp_path)
    for (precision, more), points in zip(asked, found, strict=True):
        wanted = plain_losses(tiny_model, TrainConfig.model_validate(config(precision=precision, **more)))
        tolerance = 1e-4 if "consolidation" in more else TOLERANCE[precision]
        assert losses(points) == pytest.approx(wanted, rel=tolerance), (precision, more)
    norms = [
        points[-1]["last_norm"] for (precision, _), points in zip(asked, found, strict=True) if precision == "bfloat16"
    ]
    assert norms == pytest.approx(
        [norms[-1]] * 4, rel=1e-2
    )  # AdamW hides a wrong one: it takes the gradient's scale out


@pytest.mark.long
@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3"])
def test_biases_norms_inside_heads_and_an_output_head_of_its_own(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    """Qwen2 has biases that are cut up with their rows; Qwen3 norms whose gradient each rank has a part of."""
    import shutil

    import torch
    import transformers

    sides = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1001, "tie_word_embeddings": False}
    base, made = tmp_path / "base", tmp_path / "made"
    shutil.copytree(tiny_model, base)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sides, **heads))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)  # they begin as zeros
    model.save_pretrained(base)
    case = {"config": cut(2, 2, 1), "export": str(made), "model": str(base)}
    [[points]] = run_phases([(2, [case])], base, tmp_path)
    wanted, model = plain_run(base, TrainConfig.model_validate(config()))
    assert losses(points) == pytest.approx(wanted, rel=TOLERANCE["float32"])
    exported, tokens = transformers.AutoModelForCausalLM.from_pretrained(made), torch.arange(3, 67)[None]
    with torch.no_grad():
        torch.testing.assert_close(exported(tokens).logits, model(tokens).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_experts_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import MixtralConfig, MixtralForCausalLM

    sides = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_local_experts": 2,
        "vocab_size": 1000,
    }
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    MixtralForCausalLM(MixtralConfig(**sides, num_attention_heads=4, num_key_value_heads=2)).save_pretrained(base)
    with pytest.raises(
        AssertionError, match=r"ConfigError: train.parallel.tensor: mixtral is cut up by .*moe_tp_experts"
    ):
        run_phases([(2, [{"config": cut(2, 2, 1)}])], base, tmp_path)

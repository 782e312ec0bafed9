"""An adapter's configuration, its names in files, and what of the room a run needs it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError
from pipelines.adapter import check_tensors, read_config
from pipelines.config import LoraConfig, TrainConfig
from pipelines.training.lora import adapter_tensors, add_adapter, merged
from pipelines.training.memory import memory, trained_parameters
from pipelines.training.plan import Room, make_plan
from pipelines.training.shape import shape_of
from pipelines.training.zero3 import disk_bytes, host_bytes, state_bytes
from tests.unit.pipelines.training.test_plan import SEVEN


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate({"num_workers": 2, "lora": {}, **fields})


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"dropout": 1}, {"target_modules": []}, {"target_modules": "linear"}, {"r": 8}]
)
def test_what_is_no_adapter_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraConfig.model_validate(wrong)


def test_frozen_weights_are_not_consolidated() -> None:
    with pytest.raises(ValidationError, match="leave one of them out"):
        config(consolidation={"dataset": "0" * 16, "weight": 1.0})


def weights() -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    base = {"model.layers.0.q_proj.base_layer.weight": torch.randn(6, 4), "model.norm.weight": torch.ones(4)}
    sides = {"A": torch.randn(2, 4), "B": torch.randn(6, 2)}
    return {**base, **{f"model.layers.0.q_proj.lora_{side}.default.weight": value for side, value in sides.items()}}


def test_merged_weights_say_what_base_and_adapter_say() -> None:
    import torch

    whole = weights()
    found = merged(whole, 2.0)
    assert found.keys() == {"model.layers.0.q_proj.weight", "model.norm.weight"}
    assert found["model.norm.weight"] is whole["model.norm.weight"]
    x, (base, _, a, b) = torch.randn(4), whole.values()
    torch.testing.assert_close(found["model.layers.0.q_proj.weight"] @ x, base @ x + 2.0 * (b @ (a @ x)))


def test_the_adapter_s_file_is_one_that_can_be_published(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(adapter_tensors(weights()), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "peft_type": "LORA"}))
    assert read_config(tmp_path)["r"] == 2
    assert check_tensors(tmp_path / "adapter_model.safetensors", {"model.layers.0.q_proj": (6, 4)}, "base").keys() == {
        f"base_model.model.model.layers.0.q_proj.lora_{side}.weight" for side in "AB"
    }


def test_an_adapter_needs_room_for_frozen_weights_and_little_more() -> None:
    shape, given = shape_of(SEVEN), config(zero={"stage": 0})
    # Rank 16 on all linear modules of Llama 2 7B: 16 x 32 x (4 x 8192 + 3 x 15104)
    assert trained_parameters(shape, given) == 39_976_960
    assert trained_parameters(shape, config(lora={"target_modules": ["q_proj", "v_proj"]})) == 16 * 32 * 2 * 8192
    assert memory(shape, given).states == 2 * shape.num_parameters + 14 * 39_976_960
    assert state_bytes(100, given) == 2 * 2 * 100
    assert host_bytes(100, config(zero={"stage": 3, "offload_optimizer": True})) == 0
    assert disk_bytes(100, given) == 200
    full = make_plan(shape, given.replace(lora=None), Room(None, ""), None)
    assert make_plan(shape, given, Room(None, ""), None).flops == full.flops * 4 / 6


def test_an_adapter_of_tied_weights_is_refused(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    asked = config(lora={"target_modules": ["q_proj", "lm_head"]}).lora
    assert asked is not None
    with pytest.raises(ConfigError, match="lm_head shares its weights"):
        add_adapter(model, asked)

"""Linear layers that compute rounded: what they say, what they learn by, which of them they are, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.artifacts import Checkpoint, Dataset, ImportedModel
from cluster.config import load_yaml
from cluster.errors import ConfigError
from pipelines.config import QuantizationAwareConfig, QuantizeConfig, TrainConfig
from pipelines.config.progressive import refuse
from pipelines.quantization.task import arithmetic, trained_for
from pipelines.rounding import stored_activations, stored_weights
from pipelines.training.memory import memory
from pipelines.training.shape import check_rounding, shape_of
from pipelines.training.train_key import train_key
from tests.unit.pipelines.training.test_plan import SEVEN

torch = pytest.importorskip("torch")

W4, W8 = {"scheme": "w4a16", "group_size": 32}, {"scheme": "w8a8"}


def asked(fields: dict[str, Any]) -> QuantizationAwareConfig:
    return QuantizationAwareConfig.model_validate(fields)


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate({"quantization_aware": W4, **fields})


def linear(bias: bool = True) -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(64, 48, bias=bias)


def rounded(layer: Any, fields: dict[str, Any], inputs: Any, narrow: bool = False) -> Any:
    from pipelines.training.quantization_aware import RoundedLinear

    return RoundedLinear.apply(inputs, layer.weight, layer.bias, asked(fields), narrow)


# --- forwards and backwards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [W4, W8, {"scheme": "fp8"}], ids=str)
def test_it_says_what_rounded_values_say_and_hands_their_gradients_on(fields: dict[str, Any]) -> None:
    """Held against torch's own gradients of a layer whose weights and inputs are the rounded ones."""
    layer, inputs = linear(), torch.randn(2, 5, 64, requires_grad=True)
    found = rounded(layer, fields, inputs)
    seen = stored_activations(inputs.detach(), asked(fields)).requires_grad_()
    stored = stored_weights(layer.weight.detach(), asked(fields)).requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    wanted = torch.nn.functional.linear(seen, stored, bias)
    assert torch.equal(found, wanted)
    assert (found - layer(inputs)).abs().max() > 1e-4

    gradient = torch.randn_like(found)
    found.backward(gradient)
    wanted.backward(gradient)
    for ours, theirs in ((inputs, seen), (layer.weight, stored), (layer.bias, bias)):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_weight_that_rounding_moves_learns_as_one_that_it_does_not() -> None:
    layer, inputs = linear(bias=False), torch.randn(7, 64)
    layer.weight.data[:, 0] = 1.0  # the scale; the others are cut or come to lie on whole steps
    rounded(layer, W4, inputs).sum().backward()
    torch.testing.assert_close(layer.weight.grad, inputs.sum(0).expand(48, 64))


def test_what_is_not_asked_for_has_no_gradient() -> None:
    layer, inputs = linear(), torch.randn(3, 64)
    layer.weight.requires_grad_(False)
    rounded(layer, W8, inputs).sum().backward()
    assert layer.weight.grad is None
    assert inputs.grad is None
    assert layer.bias.grad.tolist() == [3.0] * 48


def test_nothing_but_inputs_and_weights_is_kept_for_the_way_back() -> None:
    layer, inputs, kept = linear(), torch.randn(3, 64, requires_grad=True), list[int]()

    def keep(tensor: Any) -> Any:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rounded(layer, W8, inputs)
    assert set(kept) == {inputs.data_ptr(), layer.weight.data_ptr()}


def test_what_will_be_exported_in_bfloat16_is_rounded_to_that_before() -> None:
    layer, inputs = linear(bias=False), torch.eye(64)
    found = rounded(layer, W4, inputs, narrow=True).T
    assert torch.equal(found, stored_weights(layer.weight.detach().bfloat16().float(), asked(W4)))
    assert not torch.equal(found, rounded(layer, W4, inputs).T)


# --- of a model -------------------------------------------------------------------------------------------------------


def model(**sides: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**{**small, "num_key_value_heads": 1, "vocab_size": 100, **sides}))


def test_the_layers_are_those_that_the_quantize_stage_stores_and_keep_their_names() -> None:
    from pipelines.training.quantization_aware import round_forward

    tokens, found = torch.arange(10)[None], model()
    names, plain = list(found.state_dict()), found(tokens).logits
    layers = round_forward(found, asked({**W4, "ignore": ["lm_head", "re:.*down_proj"]}), narrow=False)
    kinds = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
    )
    assert sorted(layers) == sorted(f"model.layers.{n}.{kind}" for n in range(2) for kind in kinds)
    assert list(found.state_dict()) == names

    loss = found(tokens, labels=tokens).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in found.parameters())
    other = model()
    for name in layers:
        weight = other.get_submodule(name).weight
        weight.data = stored_weights(weight.data, asked(W4))
    assert torch.equal(found(tokens).logits, other(tokens).logits)
    assert not torch.equal(found(tokens).logits, plain)


def test_what_cannot_be_rounded_is_refused_with_what_to_do() -> None:
    from pipelines.training.quantization_aware import round_forward

    with pytest.raises(ConfigError, match=r"layers with 96 inputs do not fall into groups of 64\n  -> set it to 32"):
        round_forward(model(), asked({**W4, "group_size": 64}), narrow=False)
    round_forward(model(), asked({**W4, "group_size": 64, "ignore": ["lm_head", "re:.*down_proj"]}), narrow=False)
    with pytest.raises(ConfigError, match=r"put these layers into train\.quantization_aware\.ignore"):
        round_forward(model(intermediate_size=90), asked(W4), narrow=False)
    with pytest.raises(ConfigError, match=r"no linear layers besides re:\.\*"):
        round_forward(model(), asked({**W8, "ignore": ["re:.*"]}), narrow=False)


def test_experts_and_groups_are_told_by_config_json_alone() -> None:
    smol = shape_of({**SEVEN, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3})
    with pytest.raises(
        ConfigError,
        match=r"train\.quantization_aware\.group_size: layers with 576 inputs .*128\n  -> set it to 64 or 32",
    ):
        check_rounding(smol, asked({"scheme": "w4a16"}))
    check_rounding(smol, asked({"scheme": "w4a16", "ignore": ["lm_head", "re:.*"]}))  # found when the model is there
    check_rounding(smol, asked(W4))
    check_rounding(smol, None)
    with pytest.raises(ConfigError, match="8 experts"):
        check_rounding(shape_of({**SEVEN, "num_local_experts": 8}), asked(W8))


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"quantization_aware": {"scheme": "w2a16"}}, "'W4A16', 'W8A8' or 'FP8'"),
        ({"quantization_aware": {"scheme": "bf16"}}, "'W4A16', 'W8A8' or 'FP8'"),
        ({"quantization_aware": {}}, "Field required"),
        ({"quantization_aware": {**W4, "method": "gptq"}}, "'rtn'"),
        ({"quantization_aware": {**W8, "group_size": 32}}, "group_size is for W4A16"),
        ({"lora": {}}, "quantization_aware does not go with lora"),
        ({"parallel": {"tensor": 2}}, r"quantization_aware does not go with parallel.tensor"),
    ],
)
def test_what_is_not_sound_is_refused(fields: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError) as error:
        config(**fields)
    assert found in str(error.value)


def test_an_unknown_scheme_is_told_with_field_and_choice(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("num_steps: 20\nquantization_aware:\n  scheme: w3a16\n")
    with pytest.raises(ConfigError) as error:
        load_yaml(tmp_path / "train.yaml", TrainConfig)
    assert "train.yaml:3" in str(error.value)
    assert "quantization_aware.scheme" in str(error.value)
    assert "'W4A16', 'W8A8' or 'FP8'" in str(error.value)


def test_a_law_of_sizes_is_of_models_as_they_are_exported() -> None:
    with pytest.raises(ValueError, match=r"progressive needs train\.quantization_aware left out"):
        refuse(config())


def test_keys_of_other_trainings_are_as_they_were_and_defaults_are_not_told_twice() -> None:
    dataset, base = Dataset(key="d" * 16), ImportedModel(key="b" * 16)
    keys = {
        train_key(config(**fields), dataset, base)
        for fields in (
            {"quantization_aware": None},
            {},
            {"quantization_aware": W8},
            {"quantization_aware": {**W4, "ignore": []}},
        )
    }
    assert len(keys) == 4
    spelt = {"scheme": "W4A16", "group_size": 128, "method": "rtn", "ignore": ["lm_head"]}
    short = config(quantization_aware={"scheme": "w4a16"})
    assert train_key(short, dataset, base) == train_key(config(quantization_aware=spelt), dataset, base)


def test_a_run_s_key_without_it_is_the_one_that_it_had_before_there_was_such_a_field() -> None:
    from cluster.artifacts import stage_key

    plain, dataset, base = config(quantization_aware=None), Dataset(key="d" * 16), ImportedModel(key="b" * 16)
    made: list[Any] = []

    def told(stage: str, asked: Any, inputs: Any) -> str:
        made.append(asked)
        return stage_key(stage, asked, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.training.train_key.artifacts.stage_key", told)
        train_key(plain, dataset, base)
    assert "quantization_aware" not in made[0]


# --- what becomes of the model ----------------------------------------------------------------------------------------


def plan(**fields: Any) -> QuantizeConfig:
    return QuantizeConfig.model_validate({**W4, "method": "rtn", **fields})


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (plan(), None),
        (plan(keep_most_sensitive=0), None),
        (plan(method="gptq"), "gptq moves the weights again"),
        (plan(group_size=64), "W4A16 in groups of 64 by rtn rounds to other numbers"),
        (plan(scheme="W8A8", group_size=None), "W8A8 by rtn rounds to other numbers"),
        (plan(scheme="BF16", group_size=None, method=None), "BF16 rounds nothing"),
        (plan(ignore=["lm_head", "re:.*down_proj"]), "other layers are left as they are"),
        (plan(keep_most_sensitive=2), "other layers are left as they are"),
    ],
    ids=lambda value: value.label if isinstance(value, QuantizeConfig) else None,
)
def test_a_model_stored_otherwise_than_it_was_trained_is_told_of(stored: QuantizeConfig, reason: str | None) -> None:
    found = asked(W4).departure(stored)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith("the model is trained for W4A16 in groups of 32 by rtn, and ")
        assert reason in found


def test_the_manifest_says_what_the_model_was_trained_for() -> None:
    made = Checkpoint(key="c" * 16, config=config().model_dump(mode="json"))
    assert trained_for(Checkpoint.model_validate_json(made.model_dump_json())) == asked(W4)
    assert trained_for(ImportedModel(key="b" * 16)) is None
    # Rounded in float32 wherever it runs, as in training.
    assert arithmetic(plan(), made) == "float32"
    assert arithmetic(plan(num_gpus=1), made) == "float32"
    assert arithmetic(plan(num_gpus=1, group_size=64), made) == "bfloat16"
    assert arithmetic(plan(num_gpus=1), ImportedModel(key="b" * 16)) == "bfloat16"


def test_the_plan_has_room_for_the_layer_that_rounds() -> None:
    shape = shape_of(SEVEN)
    largest = max(inputs * outputs for inputs, outputs in shape.linears)
    plain, four, eight = (memory(shape, config(quantization_aware=fields)) for fields in (None, W4, W8))
    assert four.buffers - plain.buffers == 10 * largest  # bfloat16 on GPUs
    assert eight.buffers > four.buffers
    assert four.states == plain.states

"""Schemes: what a recipe may ask for, under which key it is kept, what hardware and model must have for it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster import artifacts
from cluster.errors import InputError
from pipelines.config import QuantizeConfig
from pipelines.kv_cache import CACHE_SCHEME
from pipelines.model_size import linear_shapes
from pipelines.quantization.hardware import hardware_here
from pipelines.quantization.methods import target
from pipelines.quantization.quantize import check_groups
from pipelines.schemes import Hardware, SchemeConfig, asks_of_hardware, cannot_serve, indivisible


def asked(**fields: object) -> QuantizeConfig:
    return QuantizeConfig.model_validate(fields)


# --- configuration ----------------------------------------------------------------------------------------------------


def test_names_stand_for_schemes_and_mappings_for_their_variants() -> None:
    config = asked(
        schemes=[
            {"scheme": "w4a16", "group_size": 32, "method": "awq"},
            "w4a16",
            {"scheme": "w8a8", "method": "rtn", "ignore": ["lm_head", "re:.*down_proj"]},
            "W8A8",
            {"scheme": "w8a8", "kv_cache": "fp8", "keep_most_sensitive": 2},
            "fp8",
            "bf16",
            {"scheme": "bf16", "kv_cache": "fp8_unscaled"},
        ],
        ignore=["lm_head"],
        seed=3,
    )
    assert [plan.label for plan in config.plans] == [
        "W4A16 in groups of 32 by awq",
        "W4A16 in groups of 128 by gptq",
        "W8A8 by rtn, re:.*down_proj in BF16",
        "W8A8 by gptq",
        "W8A8 by gptq, KV cache in FP8, the 2 most sensitive layers in BF16",
        "FP8 by rtn",
        "BF16",
        "BF16, KV cache in FP8 with scales of 1",
    ]
    assert all((plan.seed, plan.schemes) == (3, ()) for plan in config.plans)
    assert [plan.ignore for plan in config.plans[2:4]] == [("lm_head", "re:.*down_proj"), ("lm_head",)]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"scheme": "w2a16"}, "'W4A16', 'W8A8', 'FP8' or 'BF16'"),
        ({"scheme": "w8a8", "method": "awq"}, "method awq does not make W8A8: gptq or rtn does"),
        ({"scheme": "fp8", "method": "gptq"}, "method gptq does not make FP8: rtn does"),
        ({"scheme": "bf16", "method": "rtn"}, "method rtn does not make BF16: none does"),
        ({"scheme": "w8a8", "group_size": 64}, "group_size is for W4A16"),
        ({"scheme": "w4a16", "group_size": 48}, "32, 64 or 128"),
        ({"scheme": "w4a16", "schemes": ["w8a8", "bf16"]}, "leave scheme, method, group_size and kv_cache out"),
        ({"kv_cache": "fp8", "schemes": ["w8a8", "bf16"]}, "leave scheme, method, group_size and kv_cache out"),
        ({"kv_cache": "int8"}, "'fp8' or 'fp8_unscaled'"),
        ({"schemes": ["w8a8", {"scheme": "w8a8", "method": "gptq"}]}, "repeated: W8A8 by gptq"),
        ({"schemes": [{"method": "rtn"}]}, "Field required"),
        ({"schemes": [{"scheme": "w8a8", "seed": 1}]}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_made_is_refused(fields: dict[str, object], found: str) -> None:
    with pytest.raises(ValidationError) as error:
        asked(**fields)
    assert found in str(error.value)


def test_what_earlier_versions_made_keeps_its_key() -> None:
    """The key of the quickstart's scheme as version 0.1.0 wrote it, before there were others."""
    before = {
        "scheme": "W8A8",
        "num_calibration_sequences": 16,
        "calibration_length": 256,
        "ignore": ["lm_head", "re:.*down_proj"],
        "seed": 0,
    }
    config = asked(
        num_calibration_sequences=16, calibration_length=256, balance=[], ignore=["lm_head", "re:.*down_proj"]
    )
    inputs = {"model": "m", "dataset": "d"}
    key = artifacts.stage_key("quantize", config.settings, inputs)
    assert key == artifacts.stage_key("quantize", before, inputs)
    one = asked(**{**dict(config), "schemes": ["w8a8"]})
    assert [plan.settings for plan in one.plans] == [config.settings]


def test_settings_tell_what_decides_the_weights_and_nothing_else() -> None:
    every = [asked(scheme="w4a16", group_size=64), asked(scheme="w4a16", method="awq"), asked(scheme="w4a16")]
    every += [asked(), asked(method="rtn"), asked(scheme="fp8"), asked(scheme="bf16"), asked(balance=[])]
    every += [asked(scheme=scheme, kv_cache=kept) for scheme in ("w8a8", "bf16") for kept in ("fp8", "fp8_unscaled")]
    assert len({json.dumps(config.settings) for config in every}) == len(every)
    assert asked(method="rtn", seed=1, calibration_length=99).settings == asked(method="rtn").settings
    assert asked(seed=1).settings != asked().settings
    assert asked(pool="serve", num_gpus=1).settings == asked().settings


def test_scales_of_a_cache_are_found_on_text_whatever_the_weights_need() -> None:
    for scheme in ({"scheme": "bf16"}, {"method": "rtn"}):
        plain, scaled, unscaled = (asked(**scheme, kv_cache=kept) for kept in (None, "fp8", "fp8_unscaled"))
        assert [plan.needs_text for plan in (plain, scaled, unscaled)] == [False, True, False]
        assert scaled.replace(seed=1).settings != scaled.settings
        assert unscaled.replace(seed=1).settings == unscaled.settings
    assert asked(scheme="bf16", kv_cache="fp8_unscaled").settings == {"scheme": "BF16", "kv_cache": "fp8_unscaled"}


def test_what_llmcompressor_is_told() -> None:
    assert target(asked()) == {"targets": "Linear", "scheme": "W8A8", "ignore": ["lm_head"]}
    assert target(asked(scheme="fp8"))["scheme"] == "FP8_DYNAMIC"
    cache = target(asked(scheme="bf16", kv_cache="fp8"))
    assert cache.keys() == {"ignore", "kv_cache_scheme"}
    assert cache["kv_cache_scheme"] == {**CACHE_SCHEME, "observer": "static_minmax"}
    assert target(asked(method="rtn", kv_cache="fp8_unscaled")) == target(asked())
    group = target(asked(scheme="w4a16", group_size=32))["config_groups"]["group_0"]
    assert group["weights"] | {"targets": group["targets"]} == {
        "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True, "dynamic": False,
        "targets": ["Linear"],
    }  # fmt: skip


# --- hardware ---------------------------------------------------------------------------------------------------------

AVX2, AVX512, ARM = Hardware(), Hardware(has_avx512=True), Hardware(machine="aarch64")
TURING, AMPERE, HOPPER = (Hardware(capability) for capability in ((7, 5), (8, 0), (9, 0)))


@pytest.mark.parametrize(
    ("scheme", "can", "cannot"),
    [
        ("W8A8", [AVX2, AVX512, ARM, TURING, AMPERE, HOPPER], []),
        ("W4A16", [AVX512, ARM, TURING, HOPPER], [AVX2, Hardware((7, 0))]),
        ("FP8", [HOPPER, Hardware((8, 9))], [AVX2, AVX512, AMPERE]),
        ("BF16", [AVX2, AMPERE], [TURING]),
    ],
)
def test_what_runs_where(scheme: str, can: list[Hardware], cannot: list[Hardware]) -> None:
    asked = SchemeConfig.model_validate({"scheme": scheme})
    assert [cannot_serve(asked, hardware) for hardware in can] == [None] * len(can)
    assert all("needs" in (cannot_serve(asked, hardware) or "") for hardware in cannot)


@pytest.mark.parametrize("kept", ["fp8", "fp8_unscaled"])
@pytest.mark.parametrize(
    ("hardware", "head_size", "found"),
    [
        (AVX512, 64, None),
        (AVX512, None, None),
        (HOPPER, 80, None),
        (AVX512, 80, "heads of a multiple of 32 on CPUs, this model's have 80"),
        (AVX2, 64, "x86 CPU with AVX-512"),
        (ARM, 64, "x86 CPU with AVX-512"),
        (AMPERE, 64, "a KV cache in FP8 needs a GPU of compute capability 8.9, this one has 8.0"),
    ],
)
def test_where_a_cache_can_be_kept_in_fp8(
    kept: str, hardware: Hardware, head_size: int | None, found: str | None
) -> None:
    plan = asked(scheme="w8a8", kv_cache=kept)
    assert asks_of_hardware(plan, 0)
    assert cannot_serve(asked(scheme="w8a8"), hardware, head_size) is None
    told = cannot_serve(plan, hardware, head_size)
    assert told is None if found is None else found in (told or "")


def test_this_machine_is_known() -> None:
    found = hardware_here(0)
    assert found.capability is None
    assert found.machine


# --- groups -----------------------------------------------------------------------------------------------------------


def folder_of(tmp_path: Path, shapes: dict[str, list[int]]) -> Path:
    """A safetensors file with a header alone: nothing else is read."""
    header = json.dumps({name: {"shape": shape, "dtype": "BF16"} for name, shape in shapes.items()}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return tmp_path


SMOL = {
    "model.embed_tokens.weight": [49152, 576],
    "model.layers.0.self_attn.q_proj.weight": [576, 576],
    "model.layers.0.self_attn.q_proj.bias": [576],
    "model.layers.0.mlp.down_proj.weight": [576, 1536],
    "model.norm.weight": [576],
}


def test_groups_that_do_not_divide_a_layer_are_refused_before_anything_is_quantized(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, SMOL)
    assert set(linear_shapes(folder)) == {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"}
    with pytest.raises(InputError) as error:
        check_groups(asked(scheme="w4a16"), folder)
    assert "1 layers do not fall into groups of 128 (model.layers.0.self_attn.q_proj has 576 inputs)" in str(
        error.value
    )
    assert "set group_size: 64 or 32" in str(error.value)
    check_groups(asked(scheme="w4a16", group_size=64), folder)
    check_groups(asked(scheme="w4a16", ignore=["re:.*q_proj"]), folder)
    check_groups(asked(), folder)


def test_a_model_no_group_divides_says_which_layers_to_leave_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"put these layers into quantize\.ignore"):
        check_groups(asked(scheme="w4a16"), folder_of(tmp_path, {"a.weight": [4, 100]}))


@pytest.mark.parametrize(("pattern", "left"), [("a.b", 1), ("a", 2), ("re:a", 0), ("re:.*c", 1), ("re:c", 2)])
def test_ignored_names_match_as_compressed_tensors_matches_them(pattern: str, left: int) -> None:
    assert len(indivisible({"a.b": (1, 3), "a.c": (1, 3)}, 2, [pattern])) == left


def test_damaged_weights_are_told(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x00")
    with pytest.raises(InputError, match="damaged"):
        check_groups(asked(scheme="w4a16"), tmp_path)

"""What a token takes of a KV cache, and how a folder asks for one in FP8."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cluster.artifacts import FileEntry, QuantizedModel
from cluster.storage import ABSENT, LocalStorage
from pipelines.kv_cache import (
    bytes_per_token,
    cannot_calibrate,
    config_of,
    declared,
    head_size,
    is_fp8,
    num_cached_layers,
)

SMOL = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
"""SmolLM2-135M."""


@pytest.mark.parametrize(
    ("config", "num_bytes"),
    [
        (SMOL, 2 * 30 * 3 * 64 * 2),
        (declared(SMOL), 2 * 30 * 3 * 64),
        ({**SMOL, "head_dim": 128}, 2 * 30 * 3 * 128 * 2),
        ({**SMOL, "num_key_value_heads": None}, 2 * 30 * 9 * 64 * 2),
        ({"text_config": SMOL, "model_type": "seen"}, 2 * 30 * 3 * 64 * 2),
        ({**SMOL, "layer_types": ["full_attention", "sliding_attention"]}, 2 * 30 * 3 * 64 * 2),
        ({**SMOL, "layer_types": ["full_attention", "linear_attention"]}, None),
        ({**SMOL, "kv_lora_rank": 512}, None),
        ({}, None),
    ],
)
def test_bytes_of_a_token(config: dict[str, Any], num_bytes: int | None) -> None:
    assert bytes_per_token(config) == num_bytes


def test_layers_that_keep_keys_and_values() -> None:
    mixed = ["linear_attention", "full_attention", "sliding_attention"]
    assert [num_cached_layers(config) for config in (SMOL, {**SMOL, "layer_types": mixed}, {})] == [30, 2, 0]


def test_a_folder_asks_for_fp8_and_keeps_what_it_said_of_its_weights() -> None:
    bare = declared(SMOL)
    assert (is_fp8(SMOL), is_fp8(bare)) == (False, True)
    assert bare["quantization_config"]["config_groups"] == {}
    rounded = declared(
        {"quantization_config": {"config_groups": {"group_0": {}}, "quant_method": "compressed-tensors"}}
    )
    assert is_fp8(rounded)
    assert rounded["quantization_config"]["config_groups"] == {"group_0": {}}
    assert head_size(bare) == 64


def test_what_is_not_on_record_says_nothing(storage: LocalStorage) -> None:
    model = QuantizedModel(key="a" * 16)
    assert config_of(storage, model) == {}
    content = json.dumps(SMOL).encode()
    storage.write(f"{model.folder}/config.json", content, expect=ABSENT)
    assert config_of(storage, model) == SMOL
    entry = FileEntry(path="model/config.json", num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    assert config_of(storage, model.replace(files=(entry,))) == SMOL
    assert config_of(storage, model.replace(files=(entry.replace(sha256="0" * 64),))) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"multi_query": True}, {"attn_layer_period": 8}, {"num_kv_shared_layers": 15}, {"kv_lora_rank": 512}, {"v_head_dim": 32},
        {"layers_block_type": ["mamba", "attention"]}, {"layer_types": ["linear_attention", "full_attention"]},
        {"num_hidden_layers": None}, {"text_config": None, "num_attention_heads": None, "num_key_value_heads": None},
    ],
)  # fmt: skip
def test_what_is_kept_otherwise_is_not_told(fields: dict[str, Any]) -> None:
    told = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, **fields}
    assert bytes_per_token(told) is None
    assert num_cached_layers(told) <= 2
    assert cannot_calibrate(told, ["model.layers.0.self_attn.k_proj.weight"]) is not None


def test_scales_are_of_keys_and_values_that_have_layers() -> None:
    told = {"num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 64}
    assert cannot_calibrate(told, ["model.layers.0.self_attn.k_proj.weight"]) is None
    assert cannot_calibrate(told, ["model.layers.0.self_attn.qkv_proj.weight"]) is None
    assert "k_proj, v_proj" in str(
        cannot_calibrate(told, ["h.0.attn.c_attn.weight", "h.0.self_attention.query_key_value.weight"])
    )

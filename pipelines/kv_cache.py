"""A model's KV cache by its config.json: what a token takes of it, and in which format. Nothing heavy.

An artifact says so twice: `kv_cache` among a quantized model's settings, which its revision takes over, and `kv_cache_scheme` in
the folder's config.json, which vLLM reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.artifacts import Weights
from cluster.storage import Storage

ConfigJson = Mapping[str, Any]
"""What stands in config.json."""
CACHE_SCHEME: Mapping[str, Any] = {
    "num_bits": 8,
    "type": "float",
    "strategy": "tensor",
    "dynamic": False,
    "symmetric": True,
}
"""E4M3 with one scale for all keys of a layer and one for all values, in compressed-tensors' words."""
ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers (`layer_types`) that keep a key and a value of each token."""

OTHERWISE = (
    "kv_lora_rank", "multi_query", "num_kv_shared_layers", "attn_layer_period", "attn_layer_indices", "layers_block_type",
    "block_types", "hybrid_override_pattern", "hybrid_layer_ids",
)  # fmt: skip
"""Fields of models some of whose layers keep no keys and values of their own, or other ones than their heads would say."""
SCALED = (".k_proj.", ".qkv_proj.", ".kv_b_proj.")
"""In the names of layers by which compressed-tensors knows an attention whose cache it can scale."""


def cannot_calibrate(config: ConfigJson, tensors: Iterable[str]) -> str | None:
    """Why the cache of such a model gets no scales by calibration; None where it does.

    Args:
        tensors: names of its weights.
    """
    if not any(part in name for name in tensors for part in SCALED):
        return "a KV cache with scales needs keys and values by layers of their own (k_proj, v_proj), which this model has not"
    if bytes_per_token(config) is None:
        return "a KV cache with scales needs a model all of whose layers keep keys and values alike, by its config.json"
    return None


def _of_text(config: ConfigJson) -> dict[str, Any]:
    """Of a model of several kinds of input, what is said of its part for text."""
    return {**config, **(config.get("text_config") or {})}


def config_of(storage: Storage, model: Weights) -> ConfigJson:
    """The model's config.json; empty where it is missing, damaged or not the one on record: who loads the model tells that."""
    blob = storage.read(f"{model.folder}/config.json")
    on_record = next((file.sha256 for file in model.files if file.path == "model/config.json"), None)
    if blob is None or (on_record and on_record != hashlib.sha256(blob.content).hexdigest()):
        return {}
    try:
        found = json.loads(blob.content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def head_size(config: ConfigJson) -> int | None:
    """Of the attention; None where config.json does not say it in the usual names."""
    config = _of_text(config)
    if size := config.get("head_dim"):
        return int(size)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return hidden // heads if hidden and heads else None


def is_fp8(config: ConfigJson) -> bool:
    """Whether the folder asks for its cache in FP8."""
    return (config.get("quantization_config") or {}).get("kv_cache_scheme") is not None


def num_cached_layers(config: ConfigJson) -> int:
    """Layers that keep a key and a value of each token."""
    fields = _of_text(config)
    kinds = fields.get("layer_types") or ["full_attention"] * (fields.get("num_hidden_layers") or 0)
    return sum(kind in ATTENTION for kind in kinds)


def bytes_per_token(config: ConfigJson) -> int | None:
    """Of keys and values of all layers, in bfloat16 where not in FP8; None where layers keep something else (latents, states)."""
    fields = _of_text(config)
    layers, size = fields.get("num_hidden_layers"), head_size(fields)
    heads = fields.get("num_key_value_heads") or fields.get("num_attention_heads")
    if (
        not layers
        or not size
        or not heads
        or any(fields.get(name) for name in OTHERWISE)
        or fields.get("v_head_dim", size) != size
        or set(fields.get("layer_types") or ()) - ATTENTION
    ):
        return None
    return int(2 * layers * heads * size * (1 if is_fp8(config) else 2))


def declared(config: ConfigJson) -> dict[str, Any]:
    """The same config.json, asking for its cache in FP8; without scales among the weights vLLM takes 1."""
    bare = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}, "ignore": []}
    told = {**(config.get("quantization_config") or bare), "kv_cache_scheme": dict(CACHE_SCHEME)}
    return {**config, "quantization_config": told}

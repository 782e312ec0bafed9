"""A model's KV cache by its config.json: what a token takes of it, and in which format. Nothing heavy.

An artifact says so twice: `kv_cache` among a quantized model's settings, which its revision takes over, and `kv_cache_scheme` in
the folder's config.json, which vLLM reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
    config = {**config, **config.get("text_config", {})}
    if size := config.get("head_dim"):
        return int(size)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return hidden // heads if hidden and heads else None


def is_fp8(config: ConfigJson) -> bool:
    """Whether the folder asks for its cache in FP8."""
    return (config.get("quantization_config") or {}).get("kv_cache_scheme") is not None


def num_cached_layers(config: ConfigJson) -> int:
    """Layers that keep a key and a value of each token."""
    fields = {**config, **config.get("text_config", {})}
    kinds = fields.get("layer_types") or ["full_attention"] * fields.get("num_hidden_layers", 0)
    return sum(kind in ATTENTION for kind in kinds)


def bytes_per_token(config: ConfigJson) -> int | None:
    """Of keys and values of all layers, in bfloat16 where not in FP8; None where layers keep something else (latents, states)."""
    fields = {**config, **config.get("text_config", {})}
    layers, size = fields.get("num_hidden_layers"), head_size(fields)
    heads = fields.get("num_key_value_heads") or fields.get("num_attention_heads")
    if (
        not layers
        or not size
        or not heads
        or fields.get("kv_lora_rank")
        or set(fields.get("layer_types") or ()) - ATTENTION
    ):
        return None
    return int(2 * layers * heads * size * (1 if is_fp8(config) else 2))


def declared(config: ConfigJson) -> dict[str, Any]:
    """The same config.json, asking for its cache in FP8; without scales among the weights vLLM takes 1."""
    bare = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}, "ignore": []}
    told = {**(config.get("quantization_config") or bare), "kv_cache_scheme": dict(CACHE_SCHEME)}
    return {**config, "quantization_config": told}

"""What a model's size on devices follows from, by its config.json or the header of its .gguf file. No weights are read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.config import StrictModel
from cluster.errors import ConfigError, InputError
from pipelines.config import ParallelConfig, QuantizationAwareConfig
from pipelines.model_size import gguf_fields, num_parameters

HUB = "hf://"
ALONE = "leave it out and share the model out by train.zero.stage 3"


class Shape(StrictModel):
    """Sides of a decoder's tensors, in values."""

    num_parameters: int
    counted: str
    """Where that number is from."""
    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    """Of the feed-forward block; of all experts that one token goes through."""
    heads: int
    kv_heads: int
    head: int
    """Size of an attention head."""
    experts: int = 1
    tied: bool = False
    """The output head has its weights from the embedding, as far as config.json says so."""

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's linear modules: query, key, value, output; gate, up, down."""
        query, key = self.heads * self.head, self.kv_heads * self.head
        attention = ((self.hidden, query), (self.hidden, key), (self.hidden, key), (query, self.hidden))
        feed = ((self.hidden, self.intermediate), (self.hidden, self.intermediate), (self.intermediate, self.hidden))
        return attention + feed


def read_shape(source: str, where: str = "model.source") -> Shape:
    """The shape of the model in a Hugging Face folder, a .gguf file or the hub's cache on this machine.

    Args:
        where: the field or option that names it, for errors.

    Raises:
        InputError: there is no configuration to read here, or it lacks a size.
    """
    try:
        path = _local(source)
        if path.suffix.lower() == ".gguf":
            return _of_gguf(path)
        return shape_of(json.loads((path / "config.json").read_bytes()), num_parameters(str(path)))
    except FileNotFoundError:
        raise _unreadable(f"{where}: {source}", "has no config.json on this machine") from None
    except (KeyError, TypeError, ValueError, ArithmeticError, OSError, struct.error) as error:
        raise _unreadable(f"{where}: {source}", f"does not say how large its layers are ({error!r})") from None


def _unreadable(where: str, found: str) -> InputError:
    return InputError(where, found, "give a folder with the model's config.json with --model")


def _local(source: str) -> Path:
    if not source.startswith(HUB):
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.removeprefix(HUB), "config.json")
    return Path(found).parent if isinstance(found, str) else Path(source)


def shape_of(config: dict[str, Any], counted: int | None = None) -> Shape:
    """By the names of transformers' configurations of decoders.

    Args:
        counted: the number of parameters where the files of weights say it.

    Raises:
        KeyError: a size is missing.
    """
    config = {**config, **config.get("text_config", {})}
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    experts = num_experts(config)
    width = config.get("moe_intermediate_size") if experts > 1 else None
    shape = Shape(
        num_parameters=counted or 0,
        counted="headers of the files of weights" if counted else "config.json, as of a Llama-like model",
        vocabulary=config["vocab_size"],
        hidden=hidden,
        layers=config["num_hidden_layers"],
        intermediate=(width or config["intermediate_size"])
        * (config.get("num_experts_per_tok", 1) if experts > 1 else 1),
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head=config.get("head_dim") or hidden // heads,
        experts=experts if experts > 1 else 1,
        tied=bool(config.get("tie_word_embeddings")),
    )
    each = width or config["intermediate_size"]
    return shape if counted else shape.replace(num_parameters=_count(shape, each))


def num_experts(config: dict[str, Any]) -> int:
    """By the names of transformers' configurations; 1 of a dense model."""
    config = {**config, **config.get("text_config", {})}
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return next((int(config[name]) for name in names if config.get(name)), 1)


def with_sides(shape: Shape, sides: dict[str, int]) -> Shape:
    """A dense model of the same architecture with other sides, its parameters counted as of a Llama-like one."""
    other = shape.replace(**sides, counted="config.json, as of a Llama-like model")
    return other.replace(num_parameters=_count(other, other.intermediate))


def check_parallel(shape: Shape, parallel: ParallelConfig) -> None:
    """Make sure that so many workers can hold a copy of the model together: attention is cut between its heads, stages
    between layers. What config.json does not say is found when the model is loaded (parallel.py, pipeline.py).

    Raises:
        ConfigError: one cannot.
    """
    tensor = parallel.tensor
    if shape.experts > 1 and parallel.workers > 1:
        field = "tensor" if tensor > 1 else "pipeline"
        raise ConfigError(f"train.parallel.{field}", f"the model has {shape.experts} experts", ALONE)
    if parallel.pipeline > 1 and shape.tied:
        found = "the first and the last stage of this model would share the weights of embedding and output head"
        raise ConfigError("train.parallel.pipeline", found, ALONE)
    if parallel.pipeline > shape.layers:
        found = f"{parallel.pipeline} stages, but the model has {shape.layers} layers"
        raise ConfigError("train.parallel.pipeline", found, f"set it to {shape.layers} or less")
    for what, num in {"attention heads": shape.heads, "key-value heads": shape.kv_heads}.items():
        if num % tensor:
            raise ConfigError(
                "train.parallel.tensor",
                f"{tensor}, but the model has {num} {what}",
                f"give a number that divides {num}, or share the model out by train.zero.stage 3 alone",
            )


def check_rounding(shape: Shape, asked: QuantizationAwareConfig | None) -> None:
    """Make sure that linear layers can be rounded in training. Where some are left out by name, which ones are is found when the
    model is loaded (quantization_aware.py).

    Raises:
        ConfigError: they cannot.
    """
    if asked is None:
        return
    check_dense(shape.experts)
    if set(asked.ignore) <= {"lm_head"}:
        check_groups([inputs for inputs, _ in shape.linears], asked)


def check_dense(num_experts: int) -> None:
    """Raises ConfigError for experts: the quantize stage stores them, and in training they are no linear modules."""
    if num_experts > 1:
        raise ConfigError(
            "train.quantization_aware",
            f"the model has {num_experts} experts, which are not rounded in training as they are stored",
            "leave it out, and quantize by gptq or awq",
        )


def check_groups(inputs: Iterable[int], asked: QuantizationAwareConfig) -> None:
    """Raises ConfigError for a layer with a number of inputs that does not fall into the scheme's groups."""
    if asked.groups_of is None:
        return
    found = set(inputs)
    if odd := sorted(one for one in found if one % asked.groups_of):
        fits = [str(size) for size in (128, 64, 32) if not any(one % size for one in found)]
        raise ConfigError(
            "train.quantization_aware.group_size",
            f"layers with {odd[0]} inputs do not fall into groups of {asked.groups_of}",
            f"set it to {' or '.join(fits)}" if fits else "put these layers into train.quantization_aware.ignore",
        )


def _count(shape: Shape, expert: int) -> int:
    """Embeddings, layers and norms of a Llama-like decoder (gated feed-forward block, no biases)."""
    attention = sum(inputs * outputs for inputs, outputs in shape.linears[:4])
    router = shape.hidden * shape.experts if shape.experts > 1 else 0
    layer = attention + 3 * shape.hidden * expert * shape.experts + router + 2 * shape.hidden
    return shape.vocabulary * shape.hidden * (1 if shape.tied else 2) + shape.layers * layer + shape.hidden


def _of_gguf(path: Path) -> Shape:
    """By the names of the format's specification (ggml/docs/gguf.md)."""
    fields = gguf_fields(path)
    family = fields["general.architecture"]
    hidden, heads = fields[f"{family}.embedding_length"], fields[f"{family}.attention.head_count"]
    config = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get(f"{family}.attention.head_count_kv", heads),
        "head_dim": fields.get(f"{family}.attention.key_length", hidden // heads),
        "num_hidden_layers": fields[f"{family}.block_count"],
        "intermediate_size": fields[f"{family}.feed_forward_length"],
        "vocab_size": fields.get(f"{family}.vocab_size") or fields["tokenizer.ggml.tokens"],
    }
    return shape_of(config, num_parameters(str(path)))

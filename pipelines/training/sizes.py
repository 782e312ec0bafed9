"""The sizes of a progressive training's models, by the source's shape and what each stage says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cluster.errors import ConfigError
from pipelines.config import ProgressiveConfig, SizeConfig
from pipelines.training.shape import Shape, with_sides

SIDES = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head",
    "intermediate_size": "intermediate",
}
"""Fields of SizeConfig, which are those of transformers' configurations, and of Shape."""


def resolve(sizes: SizeConfig, source: Shape, where: str) -> dict[str, int]:
    """All six fields of a SizeConfig for a model of the source's architecture.

    Args:
        where: the field that holds `sizes`, for errors.

    Raises:
        ConfigError: there is no such model.
    """
    if source.experts > 1:
        odd = f"the model has {source.experts} experts, and the law is of parameters that every token meets"
        raise ConfigError(where, odd, "give a dense model as model.source")
    found = {field: getattr(sizes, field) or getattr(source, side) for field, side in SIDES.items()}
    hidden, heads = found["hidden_size"], found["num_attention_heads"]
    if sizes.num_attention_heads and not sizes.num_key_value_heads:
        found["num_key_value_heads"] = max(1, heads * source.kv_heads // source.heads)
    if sizes.hidden_size and not sizes.intermediate_size:
        found["intermediate_size"] = max(1, round(hidden * source.intermediate / source.hidden))
    if (sizes.hidden_size or sizes.num_attention_heads) and not sizes.head_dim:
        if hidden % heads:
            remedy = f"give num_attention_heads that divides {hidden}, or head_dim"
            raise ConfigError(
                where, f"hidden_size {hidden} over {heads} num_attention_heads is no whole number", remedy
            )
        found["head_dim"] = hidden // heads
    if heads % found["num_key_value_heads"]:
        few = f"num_attention_heads ({heads}) is no multiple of num_key_value_heads ({found['num_key_value_heads']})"
        raise ConfigError(where, few, "give num_key_value_heads that divides it")
    if found["head_dim"] % 2:
        raise ConfigError(
            where, f"head_dim {found['head_dim']} is odd, and positions are told in pairs", "give an even one"
        )
    return found


def shapes(config: ProgressiveConfig, source: Shape) -> tuple[Shape, ...]:
    """Of each stage's model; parameters are counted as of a Llama-like one.

    Raises:
        ConfigError: one cannot be.
    """
    found = []
    for number, stage in enumerate(config.stages):
        sides = resolve(stage.model, source, place(number))
        found.append(with_sides(source, {SIDES[field]: side for field, side in sides.items()}))
    check_growth([shape.num_parameters for shape in found])
    return tuple(found)


def check_growth(num_parameters: list[int]) -> None:
    """Raises ConfigError for a stage that is smaller than the one before."""
    for number, (before, now) in enumerate(pairwise(num_parameters), start=1):
        if now < before:
            found = f"{now / 1e6:.3g} M parameters, fewer than the stage before ({before / 1e6:.3g} M)"
            raise ConfigError(place(number), found, "order the stages from the smallest to the largest")
    if len(set(num_parameters)) == 1:
        found = f"all stages have {num_parameters[0] / 1e6:.3g} M parameters"
        raise ConfigError("progressive.stages", found, "make the first ones smaller (model: {num_hidden_layers: ...})")


def short(config: ProgressiveConfig, sizes: Sequence[int]) -> list[str]:
    """What is to be said of stages with too few tokens for their size.

    Args:
        sizes: parameters of each stage's model.
    """
    return [
        f"progressive.stages[{number}].num_tokens: {stage.num_tokens[-1] / size:.2g} tokens a parameter; below one a model is"
        " still on its way down from random weights, and the law does not hold: make it smaller, or train it longer"
        for number, (stage, size) in enumerate(zip(config.stages, sizes, strict=True))
        if stage.num_tokens[-1] < size
    ]


def place(stage: int) -> str:
    """The field in the recipe, for errors.

    Args:
        stage: from 0.
    """
    return f"progressive.stages[{stage}].model"

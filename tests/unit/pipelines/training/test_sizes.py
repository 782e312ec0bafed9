"""Sizes of the models of a progressive training."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import ConfigError
from pipelines.config import ProgressiveConfig, SizeConfig
from pipelines.training.shape import Shape
from pipelines.training.sizes import resolve, shapes, short

SMOLLM2 = Shape(
    num_parameters=134_515_008, counted="", vocabulary=49152, hidden=576, layers=30, intermediate=1536, heads=9, kv_heads=3,
    head=64, tied=True,
)  # fmt: skip


def test_what_is_left_out_is_the_sources_or_in_its_proportion() -> None:
    assert resolve(SizeConfig(), SMOLLM2, "here") == {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "intermediate_size": 1536,
    }  # fmt: skip
    small = resolve(SizeConfig(hidden_size=192, num_attention_heads=6, num_hidden_layers=4), SMOLLM2, "here")
    assert (small["head_dim"], small["num_key_value_heads"], small["intermediate_size"]) == (32, 2, 512)
    assert resolve(SizeConfig(hidden_size=192, head_dim=64), SMOLLM2, "here")["head_dim"] == 64


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"hidden_size": 100}, "hidden_size 100 over 9 num_attention_heads is no whole number"),
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, "no multiple of num_key_value_heads"),
        ({"hidden_size": 9}, "head_dim 1 is odd"),
    ],
)
def test_what_is_no_model_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(SizeConfig(**given), SMOLLM2, "progressive.stages[0].model")
    assert says in str(caught.value)
    assert "progressive.stages[0].model" in str(caught.value)


def test_experts_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 experts"):
        resolve(SizeConfig(), SMOLLM2.replace(experts=8), "here")


def course(*sizes: dict[str, Any]) -> ProgressiveConfig:
    return ProgressiveConfig.model_validate({"stages": [{"model": size, "num_tokens": 1000} for size in sizes]})


def test_stages_grow() -> None:
    two, all_of_it = {"num_hidden_layers": 2}, dict[str, Any]()
    found = shapes(course(two, two, all_of_it), SMOLLM2)
    assert [shape.layers for shape in found] == [2, 2, 30]
    assert found[-1].num_parameters == SMOLLM2.num_parameters
    with pytest.raises(
        ConfigError, match=r"stages\[1\]\.model: 35\.4 M parameters, fewer than the stage before \(135 M\)"
    ):
        shapes(course(all_of_it, two), SMOLLM2)
    with pytest.raises(ConfigError, match="all stages have 35"):
        shapes(course(two, two), SMOLLM2)


def test_stages_too_short_for_the_law_are_told() -> None:
    (told,) = short(course({"num_hidden_layers": 2}, {}), [1000, 2500])
    assert told.startswith("progressive.stages[1].num_tokens: 0.4 tokens a parameter; below one")

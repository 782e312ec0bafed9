"""The mechanism that a recipe gets; which configurations are refused, and why."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import ConfigError
from pipelines.config import PrivacyConfig, TrainConfig
from pipelines.training.accounting import epsilon_of
from pipelines.training.privacy import make_terms
from pipelines.training.zero3 import deepspeed_config


def test_the_noise_keeps_the_target_and_is_hardly_more_than_needed() -> None:
    asked = PrivacyConfig(target_epsilon=2.9, delta=1e-5, accountant="rdp")
    terms = make_terms(asked, num_examples=1000, expected=20, num_steps=40)
    assert terms.sample_rate == 0.02
    assert 2.85 < terms.epsilon <= 2.9
    assert epsilon_of(0.97 * terms.noise_multiplier, 0.02, 40, 1e-5, "rdp") > 2.9
    spent = [terms.epsilon_after(step) for step in range(1, 41)]
    assert spent == sorted(spent)
    assert spent[-1] == terms.epsilon
    assert all(
        epsilon_of(terms.noise_multiplier, 0.02, step, 1e-5, "rdp") <= spent[step - 1] for step in (1, 7, 13, 39)
    )


@pytest.mark.parametrize(
    ("privacy", "num", "found"),
    [
        ({"noise_multiplier": 1}, 16, "a step takes 16 of 16 examples"),
        ({"noise_multiplier": 1, "delta": 1e-2}, 200, "would let one of them be published"),
        ({"target_epsilon": 1e-9, "accountant": "rdp"}, 1000, "is out of reach"),
        ({"target_epsilon": 1e-9}, 1000, "is out of reach"),
        ({"noise_multiplier": 1e-200}, 1000, "nobody can tell what 1e-200 spends at delta 1e-06"),
    ],
)
def test_what_cannot_be_had_is_said(privacy: dict[str, Any], num: int, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        make_terms(PrivacyConfig.model_validate(privacy), num, 16, 10)


@pytest.mark.parametrize(
    ("privacy", "steps", "why"),
    [
        ({"noise_multiplier": 1, "delta": 1e-15}, 10, "Floating point errors"),
        ({"noise_multiplier": 5}, 10**8, "a grid of"),
        ({"target_epsilon": 3}, 10**8, "a grid of"),
    ],
)
def test_what_composition_cannot_tell_the_looser_bound_does(privacy: dict[str, Any], steps: int, why: str) -> None:
    """For the whole run, noise and all: an epsilon of one accountant is never spent by the other's."""
    terms = make_terms(PrivacyConfig.model_validate(privacy), 1000, 16, steps)
    assert terms.accountant == "rdp"
    assert why in terms.not_prv_because
    assert terms == make_terms(PrivacyConfig.model_validate({**privacy, "accountant": "rdp"}), 1000, 16, steps).replace(
        not_prv_because=terms.not_prv_because
    )
    assert terms.epsilon <= privacy.get("target_epsilon", float("inf"))


OLD = {"dataset": "0" * 16}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"zero": {"stage": 3}}, "zero stage 0, 1 or 2"),
        ({"zero": {"stage": 1, "extra": {"zero_optimization": {"stage": 3}}}}, "zero stage 0, 1 or 2"),
        ({"replay": OLD | {"fraction": 0.1}}, "privacy does not go with replay"),
        ({"consolidation": OLD | {"weight": 1}}, "privacy does not go with consolidation"),
        ({"spike_deviations": 10}, "privacy needs spike_deviations: null"),
        ({"attend_across_documents": True}, "privacy needs attend_across_documents: false"),
        ({"privacy": {"delta": 1e-6}}, "give target_epsilon or noise_multiplier"),
        ({"privacy": {"target_epsilon": 1, "noise_multiplier": 1}}, "not both"),
    ],
)
def test_combinations_that_are_not_sound_are_refused_with_the_reason(fields: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        TrainConfig.model_validate({"zero": {"stage": 1}, "privacy": {"target_epsilon": 3}, **fields})


def test_a_private_run_skips_no_data_and_cuts_no_step() -> None:
    config = TrainConfig.model_validate(
        {"zero": {"stage": 1}, "privacy": {"target_epsilon": 3}, "gradient_accumulation": 4}
    )
    assert config.spike_deviations is None
    assert TrainConfig.model_validate(config.model_dump()) == config
    settings = deepspeed_config(config.replace(precision="float32"))
    assert settings["gradient_clipping"] == 0.0
    assert settings["gradient_accumulation_steps"] == 1
    assert TrainConfig().spike_deviations == 10

"""The accounting against a second library and against integration by hand; which configurations are refused, and why."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy.integrate import quad
from scipy.stats import norm

from cluster.errors import ConfigError
from pipelines.config import PrivacyConfig, TrainConfig
from pipelines.training.privacy import epsilon_of, make_terms
from pipelines.training.zero3 import deepspeed_config

BY_DP_ACCOUNTING = {
    (1.0, 0.01, 1000, 1e-5): (1.8282, 2.1014),
    (0.8, 0.02, 50, 1e-5): (2.1890, 2.8526),
    (2.0, 0.2, 60, 1e-6): (4.3536, 4.7339),
    (1.2, 0.1, 100, 1e-5): (5.0751, 5.6651),
}
"""(noise multiplier, sample rate, steps, delta) -> epsilon by Google's dp-accounting 0.6.0, its PLDAccountant and its
RdpAccountant with ADD_OR_REMOVE_ONE. Its dependencies do not go with ours, so its answers are kept."""


@pytest.mark.parametrize("run", BY_DP_ACCOUNTING)
def test_epsilon_is_what_a_second_library_finds(run: tuple[float, float, int, float]) -> None:
    by_losses, by_divergences = BY_DP_ACCOUNTING[run]
    noise, rate, steps, delta = run
    prv = epsilon_of(noise, rate, steps, delta, "prv")
    assert by_losses - 1e-3 <= prv <= by_losses + 0.02  # an upper bound, within its error of 0.01 on either side
    assert epsilon_of(noise, rate, steps, delta, "rdp") == pytest.approx(by_divergences, rel=1e-3)


@pytest.mark.parametrize(("noise", "rate", "order"), [(1.0, 0.01, 8), (0.7, 0.1, 3), (2.0, 0.3, 20)])
def test_the_divergence_of_a_step_is_its_integral(noise: float, rate: float, order: int) -> None:
    """Mironov et al. 2019, section 3.3: the moment of the likelihood ratio between mixture and Gaussian, by quadrature."""
    from opacus.accountants.analysis.rdp import compute_rdp

    def moment(x: float) -> float:
        ratio = 1 - rate + rate * math.exp((2 * x - 1) / (2 * noise**2))
        return float(norm.pdf(x, scale=noise)) * ratio**order

    integral, _ = quad(moment, -12 * noise, 12 * noise + order, limit=500, points=[0.0, 1.0, float(order)])
    found = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=[order])[0]
    assert found == pytest.approx(math.log(integral) / (order - 1), rel=1e-6)


def test_one_step_is_as_private_as_its_two_densities_say() -> None:
    """Delta of one step at the epsilon found, by integrating what the densities with and without an example differ by."""
    noise, rate, delta = 1.0, 0.01, 1e-5
    epsilon = epsilon_of(noise, rate, 1, delta, "prv")

    def excess(x: float) -> float:
        without = norm.pdf(x, scale=noise)
        within = (1 - rate) * without + rate * norm.pdf(x, loc=1, scale=noise)
        return float(max(within - math.exp(epsilon) * without, 0.0))

    found, _ = quad(excess, 0, 12, limit=500, points=[3.0, 4.0])
    assert 0.5 * delta < found <= delta


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
        ({"noise_multiplier": 1, "delta": 1e-15}, 1000, "accountant prv cannot tell .* at delta 1e-15"),
    ],
)
def test_what_cannot_be_had_is_said(privacy: dict[str, Any], num: int, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        make_terms(PrivacyConfig.model_validate(privacy), num, 16, 10)


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

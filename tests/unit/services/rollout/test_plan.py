"""Plans against the tests they plan for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.config import RolloutConfig, StepConfig
from services.rollout.errors import ErrorTest
from services.rollout.plan import plan
from services.rollout.policy import MIN_CANARY_REQUESTS, MIN_CANARY_VOTES, harm_level

CONFIG = RolloutConfig(steps=(StepConfig(weight_percent=5, min_requests=10, min_duration_s=30),))


def test_half_of_all_rollouts_are_decided_by_then_and_most_by_twice_as_many() -> None:
    (step,) = plan(CONFIG, 50, 0.005)
    errors = step.proofs[0]
    for truth, expected in ((0.005, errors.requests_to_pass), (0.025, errors.requests_to_fail)):
        assert expected is not None
        generator, num = np.random.default_rng(1), 300
        test, needed = ErrorTest.start(0.005, 0.02, (0.02,), num), np.full(num, np.inf)
        for look in range(1, expected // 2):
            hits = generator.binomial(95, 0.005, num), generator.binomial(5, truth, num)
            test = test.take((np.full(num, 95.0), hits[0]), (np.full(num, 5.0), hits[1]))
            good = test.log_pass[:, 0] >= math.log(1 / CONFIG.beta)
            bad = test.log_harm >= math.log(1 / harm_level(CONFIG))
            needed = np.where((good if truth == 0.005 else bad) & np.isinf(needed), 5 * look, needed)
        assert 0.6 * expected < np.median(needed) < 1.4 * expected
        assert (needed < 2 * expected).mean() > 0.85


@pytest.mark.parametrize(("rate", "fits"), [(50, True), (0.01, False)])
def test_a_step_lasts_as_long_as_its_slowest_proof_or_floor(rate: float, fits: bool) -> None:
    (step,) = plan(CONFIG, rate)
    slowest = max(proof.requests_to_pass or 0 for proof in step.proofs)
    assert step.duration_s == pytest.approx(max(30, slowest / (rate * 0.05)))
    assert step.fits == fits


def test_what_is_not_asked_for_takes_no_time() -> None:
    quick = CONFIG.replace(steps=(StepConfig(weight_percent=99, min_requests=10, min_duration_s=30, prove="none"),))
    (step,) = plan(quick, 50)
    assert step.duration_s == 30
    assert all(proof.requests_to_pass is None for proof in step.proofs)


def test_larger_effects_and_smaller_spreads_need_fewer_requests() -> None:
    steps = tuple(StepConfig(weight_percent=w, error_effect_percent=e, latency_effect_ratio=r, prove=("errors", "ttft", "quality"))
                  for w, e, r in ((1, 2, 1.3), (2, 5, 1.6), (3, 20, 3)))  # fmt: skip
    found = [
        [proof.requests_to_pass or 0 for proof in step.proofs[:2]] for step in plan(CONFIG.replace(steps=steps), 50)
    ]
    assert found[0] > found[1] > found[2]
    assert [row[1] for row in found] == sorted((row[1] for row in found), reverse=True)


def test_a_rollout_that_begins_with_everybody_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody on stable"):
        RolloutConfig(steps=(StepConfig(weight_percent=100),))


def test_at_everybody_nothing_is_proven_by_comparison() -> None:
    half, whole = StepConfig(weight_percent=50), StepConfig(weight_percent=100)
    assert whole.prove == ()
    assert StepConfig(weight_percent=100, prove="quality").prove == ("quality",)
    with pytest.raises(ValueError, match="errors and ttft cannot be proven by comparison"):
        StepConfig(weight_percent=100, prove=("errors", "ttft"))
    assert CONFIG.replace(steps=(half,)).caveats == ()
    (caveat,) = CONFIG.replace(steps=(half, whole)).caveats
    assert "proves nothing" in caveat


def test_no_plan_promises_harm_sooner_than_the_policy_acts_on_it() -> None:
    step = StepConfig(weight_percent=5, error_effect_percent=95, down_effect_percent=85)
    blatant = RolloutConfig(feedback=True, error_effect_percent=95, down_effect_percent=85, steps=(step,))
    (found,) = plan(blatant, 50)
    to_fail = {proof.metric: proof.requests_to_fail for proof in found.proofs}
    assert to_fail["errors"] >= MIN_CANARY_REQUESTS
    assert to_fail["feedback"] == MIN_CANARY_VOTES  # five would do for the test alone


def test_at_everybody_no_plan_speaks_of_what_is_not_judged_there() -> None:
    half, whole = plan(
        RolloutConfig(feedback=True, steps=(StepConfig(weight_percent=50), StepConfig(weight_percent=100))), 50
    )
    assert [proof.metric for proof in half.proofs] == ["errors", "ttft", "quality", "feedback"]
    assert [proof.metric for proof in whole.proofs] == ["errors", "quality"]

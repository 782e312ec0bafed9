"""The levels and the aim of the tests, over many simulated rollouts at once, looked at all the time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from services.rollout import latency
from services.rollout.errors import HARM_WEIGHTS, ErrorTest
from services.rollout.late import LATE_SHARE, LateHarm, invested
from services.rollout.latency import NUM_STRATA, QUANTILES, LatencyTest, Waits
from services.rollout.quality import QualityTest
from services.rollout.sequential import mix

NUM = 400


def errors(
    stable: float, canary: float, num_looks: int, seed: int, drift: bool = False
) -> tuple[np.ndarray, np.ndarray, ErrorTest]:
    """Highest log e-values ever reached, for harm and for passing; the weight grows half-way."""
    generator = np.random.default_rng(seed)
    test = ErrorTest.start(0.005, 0.02, (0.02,), NUM)
    harm, passed = np.zeros(NUM), np.zeros(NUM)
    for look in range(num_looks):
        share = 0.03 if look < num_looks // 2 else 0.4
        total = generator.poisson(60, NUM)
        n_c = generator.binomial(total, share)
        up = 0.2 if drift and look % 7 == 0 else 0.0
        hits = generator.binomial(total - n_c, stable + up), generator.binomial(n_c, canary + up)
        test = test.take((total - n_c, hits[0]), (n_c, hits[1]))
        harm, passed = np.maximum(harm, test.log_harm), np.maximum(passed, test.log_pass[:, 0])
    return harm, passed, test


@pytest.mark.parametrize("drift", [False, True], ids=["steady", "both sides drift"])
@pytest.mark.parametrize("stable", [0.002, 0.05])
def test_a_canary_on_the_margin_is_rolled_back_with_at_most_the_level(stable: float, drift: bool) -> None:
    harm, _, _ = errors(stable, stable + 0.005, 100, 1, drift)
    assert (harm >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / NUM)


def test_evidence_that_begins_anywhere_keeps_the_level_by_itself() -> None:
    """Of the part that may begin late alone, with a canary on the margin that is looked at after every block."""
    generator, test, highest = np.random.default_rng(5), ErrorTest.start(0.005, 0.02, (0.02,), 4 * NUM), -np.inf
    for _ in range(150):
        hits = generator.binomial(60, 0.02, 4 * NUM), generator.binomial(40, 0.025, 4 * NUM)
        test = test.take((np.full(4 * NUM, 60.0), hits[0]), (np.full(4 * NUM, 40.0), hits[1]))
        highest = np.maximum(highest, mix(test.late.log_harm, HARM_WEIGHTS))
    assert (highest >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / (4 * NUM))
    assert (highest > 1).any()  # it is at work


def test_the_stake_is_put_in_bit_by_bit_and_never_more_than_there_is() -> None:
    shares = invested(np.array([0.0, 100.0, 300.0, 700.0, 1e7, 1e9]))
    assert shares[:4].tolist() == [0, 1 / 16, 2 / 16, 3 / 16]
    assert shares[4:].tolist() == [1, 1]
    late = LateHarm.start(1, 1)
    for number in (50.0, 50.0, 400.0, 1e8, 1e9):  # without news it stays what it was at the beginning
        late = late.take(np.zeros((1, 1)), np.array([number]))
        assert late.log_harm[0, 0] == pytest.approx(0, abs=1e-12)


def late_waits(test: LatencyTest) -> np.ndarray:
    by_quantile = test.late.log_harm.reshape(-1, len(QUANTILES), len(latency.HARM_WEIGHTS))
    return mix(mix(by_quantile, latency.HARM_WEIGHTS), latency.QUANTILE_WEIGHTS)


def draw_waits(generator: np.random.Generator, num: int, each: int, ratio: float) -> Waits:
    """Half of each rollout's at the canary, of prompts of two lengths."""
    rollout = np.repeat(np.arange(num), each)
    canary, place = generator.random(len(rollout)) < 0.5, generator.integers(1, 3, len(rollout))
    seconds = np.exp(0.5 * generator.standard_normal(len(rollout))) * place * np.where(canary, ratio, 1.0)
    return Waits(rollout * NUM_STRATA + place, canary, seconds, np.zeros(len(rollout), bool))


def test_evidence_of_slowness_that_begins_anywhere_keeps_the_level_by_itself() -> None:
    generator, test, highest = np.random.default_rng(6), LatencyTest.start(1.1, 1.3, (1.3,), 0.01, NUM), -np.inf
    for _ in range(60):
        test = test.take(draw_waits(generator, NUM, 40, 1.1))
        highest = np.maximum(highest, late_waits(test))
    assert (highest >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / NUM)
    assert (highest > 0.5).any()  # it is at work


def test_slowness_that_begins_after_thousands_of_good_answers_is_found_sooner() -> None:
    generator, num = np.random.default_rng(7), 20
    test, found = (
        LatencyTest.start(1.1, 1.3, (1.3,), 0.01, num),
        {"with": np.full(num, np.inf), "without": np.full(num, np.inf)},
    )
    for look in range(200):
        test = test.take(draw_waits(generator, num, 100, 1.0 if look < 120 else 1.6))
        ways = {
            "with": test.log_harm,
            "without": replace(test, late=LateHarm.start(num, test.late.log_harm.shape[1])).log_harm,
        }
        for way, log_harm in ways.items():
            found[way] = np.where((log_harm >= math.log(400)) & np.isinf(found[way]), look, found[way])
    assert (found["with"] >= 120).all()
    assert np.isfinite(found["with"]).all()
    assert found["with"].mean() < found["without"].mean()


def test_evidence_of_lower_scores_that_begins_anywhere_keeps_the_level_and_finds_them_sooner() -> None:
    generator, num, found = np.random.default_rng(8), NUM, {}
    for share in (0.0, LATE_SHARE, 1.0):
        test = QualityTest.start(0.01, 0.05, (0.05,), num, late_share=share)
        highest, at = np.zeros(num), np.full(num, np.inf)
        for look in range(200):
            drop = 0.01 if share == 1.0 or look < 100 else 0.15
            drawn = generator.random((num, 10))
            differences = np.where(drawn < 0.05 + drop, -1.0, np.where(drawn > 0.95, 1.0, 0.0))
            test = test.take(np.repeat(np.arange(num), 10), differences.ravel())
            highest = np.maximum(highest, test.log_harm)
            at = np.where((test.log_harm >= math.log(400)) & np.isinf(at) & (look >= 100), look, at)
        found[share] = (highest >= math.log(20)).mean(), np.median(at)
    assert found[1.0][0] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num)
    assert found[LATE_SHARE][1] < found[0.0][1] < np.inf


def test_a_canary_worse_by_the_effect_passes_with_at_most_beta() -> None:
    _, passed, _ = errors(0.005, 0.025, 100, 2)
    assert (passed >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / NUM)


@pytest.mark.parametrize("stable", [0.0, 0.0001, 0.005])
def test_harm_is_found_though_stable_hardly_ever_fails(stable: float) -> None:
    harm, _, _ = errors(stable, 0.025, 240, 3)
    assert (harm >= math.log(400)).mean() > 0.9


def test_the_absence_of_harm_is_proven() -> None:
    _, passed, test = errors(0.005, 0.005, 60, 4)
    assert (passed >= math.log(20)).mean() > 0.8
    assert test.stable_rate == pytest.approx(0.005, abs=0.004)


def test_a_block_waits_for_the_other_side_and_nothing_is_lost() -> None:
    test = ErrorTest.start(0.0, 0.02, (0.02,))
    for stable, canary in (((10, 0), (0, 0)), ((0, 0), (2, 1)), ((0, 0), (1, 0)), ((5, 1), (0, 0))):
        test = test.take(*(tuple(np.array([float(x)]) for x in side) for side in (stable, canary)))  # type: ignore[arg-type]
    assert (test.rates.closed.num_stable[0], test.rates.closed.num_canary[0]) == (15, 3)
    assert test.rates.pending.num_canary[0] == 0


def waits(slow: float, ratio: float, num_looks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator, num = np.random.default_rng(seed), 100
    test = LatencyTest.start(1.1, 1.3, (1.3,), 0.01, num)
    harm, passed = np.zeros(num), np.zeros(num)
    for _ in range(num_looks):
        each = 80
        rollout = np.repeat(np.arange(num), each)
        canary = generator.random(len(rollout)) < 0.2
        place = generator.integers(1, 3, len(rollout))
        seconds = np.exp(0.5 * generator.standard_normal(len(rollout))) * place * np.where(canary, ratio, 1.0)
        seconds *= 1 + slow * generator.random()  # both sides, another load at each look
        test = test.take(Waits(rollout * NUM_STRATA + place, canary, seconds, np.zeros(len(rollout), bool)))
        harm, passed = np.maximum(harm, test.log_harm), np.maximum(passed, test.log_pass[:, 0])
    return harm, passed


@pytest.mark.parametrize("load", [0.0, 1.0], ids=["steady", "the load changes"])
def test_a_canary_slower_by_the_margin_is_rolled_back_with_at_most_the_level(load: float) -> None:
    harm, _ = waits(load, 1.1, 40, 5)
    assert (harm >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)


def test_slowness_by_the_effect_is_found_and_never_proven_absent() -> None:
    harm, passed = waits(0.0, 1.3, 40, 6)
    assert (harm >= math.log(400)).mean() > 0.9
    assert (passed >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    _, passed = waits(0.0, 1.0, 80, 7)
    assert (passed >= math.log(20)).mean() > 0.9


def quality(drop: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator, test = np.random.default_rng(seed), QualityTest.start(0.01, 0.05, (0.05,), NUM)
    harm, passed = np.zeros(NUM), np.zeros(NUM)
    for _ in range(120):
        drawn = generator.random((NUM, 20))
        differences = np.where(drawn < 0.05 + drop, -1.0, np.where(drawn > 0.95, 1.0, 0.0))
        test = test.take(np.repeat(np.arange(NUM), 20), differences.ravel())
        harm, passed = np.maximum(harm, test.log_harm), np.maximum(passed, test.log_pass[:, 0])
    return harm, passed


def test_scores_keep_their_levels_and_find_their_effect() -> None:
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / NUM)
    harm, _ = quality(0.01, 8)
    assert (harm >= math.log(20)).mean() <= bound
    harm, passed = quality(0.05, 9)
    assert (harm >= math.log(400)).mean() > 0.9
    assert (passed >= math.log(20)).mean() <= bound
    _, passed = quality(0.0, 10)
    assert (passed >= math.log(20)).mean() > 0.95

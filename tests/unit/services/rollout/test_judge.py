"""From records to evidence: who counts, what is compared with what, and how harm that hides is found."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from services.config import Metric, RolloutConfig, StepConfig
from services.contract import Outcome, PairedScore, RequestRecord, Role
from services.rollout.counting import Answer, while_well
from services.rollout.errors import ErrorTest
from services.rollout.findings import Finding
from services.rollout.judge import Judge, Look
from services.rollout.latency import NUM_STRATA, stratum
from services.rollout.policy import _fails, _rise_of_all, harm_level

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = RolloutConfig()
FAILS = -math.log(harm_level(CONFIG) * 0.95)
PASSES = math.log(1 / CONFIG.beta)


def record(role: Role, user: float, outcome: Outcome = "ok", ttft_s: float | None = 0.4, tokens: int | None = None,
           cached: int | None = None, tpot_s: float | None = None, duration_s: float = 1.0) -> RequestRecord:  # fmt: skip
    return RequestRecord(
        request_id="r",
        revision="m",
        role=role,
        bucket=user,
        outcome=outcome,
        status=200,
        ttft_s=ttft_s,
        duration_s=duration_s,
        num_output_chunks=1,
        at=NOW,
        prompt_tokens=tokens,
        cached_tokens=cached,
        tpot_s=tpot_s,
    )


def judged(*looks: list[RequestRecord], window: int = 1, alone: bool = False, judge: Judge | None = None) -> Judge:
    judge = judge or Judge.start(CONFIG)
    for records in looks:
        judge = judge.see(Look(judge.look + 1, window, NOW, alone, tuple(records)))
    return judge


def found(judge: Judge, metric: Metric) -> Finding:
    return next(f for f in judge.evidence.findings if f.metric == metric)


def users(role: Role, number: int, seed: int, **fields: object) -> list[RequestRecord]:
    return [record(role, seed + k / number, **fields) for k in range(number)]  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["stable", "canary"])
def test_nothing_of_a_user_counts_after_the_first_harm_in_a_stretch(role: Role) -> None:
    other: Role = "stable" if role == "canary" else "canary"
    again = [record(role, 0.5, "empty"), record(role, 0.5, "http_error"), record(role, 0.5), record(role, 0.6)]
    judge = judged([*again, record(other, 0.1)], [record(role, 0.5, "empty"), record(other, 0.2)])
    seen = found(judge, "errors")
    assert (seen.num_canary, seen.num_stable) == ((2, 1) if role == "canary" else (1, 2))
    assert (seen.canary if role == "canary" else seen.stable) == 0.5
    counts = judge.canary if role == "canary" else judge.stable
    assert (counts.num_requests, counts.num_harmful) == (5, 3)  # messages tell all of it
    assert counts.num_counted == 3  # towards passing the user counts again once it was answered well


def test_a_few_users_with_failures_now_and_then_keep_proving_that_a_canary_is_good() -> None:
    """Four users a side, every fiftieth answer harmful: after the first rounds none would count any more."""
    looks = []
    for k in range(120):
        looks.append([
            record(role, user + (role == "canary") * 10.0, "empty" if (k * 8 + n) % 50 == user else "ok")
            for role in ("stable", "canary") for user in range(4) for n in range(8)
        ])  # fmt: skip
    judge = judged(*looks)
    assert judge.canary.num_counted > 3000
    seen = found(judge, "errors")
    assert seen.num_canary < 250
    assert min(seen.log_pass) > PASSES


@pytest.mark.parametrize(
    ("outcomes", "counted"),
    [
        ("+++", (3, 0)),
        ("-", (1, 1)),
        ("--++", (2, 1)),
        ("-+-+-+", (3, 3)),
        ("+-+-", (3, 2)),
        ("+-++-", (4, 2)),
    ],
)
def test_the_good_answer_after_a_harm_lets_the_user_count_again_and_is_not_counted(
    outcomes: str, counted: tuple[int, int]
) -> None:
    answers = [Answer("canary", 0.5, "empty" if outcome == "-" else "") for outcome in outcomes]
    seen = while_well(answers, {"stable": set(), "canary": set()})["canary"]
    assert (seen.num, seen.harms.total()) == counted


def test_whether_a_user_counts_again_carries_over_looks_and_stretches() -> None:
    harm = [record("canary", 0.5, "empty"), record("stable", 0.1)]
    judge = judged(harm)
    assert judge.failing["canary"] == {0.5}
    assert judged([record("canary", 0.5)], judge=judge).canary.num_counted == 1
    assert judged([record("canary", 0.5)], [record("canary", 0.5)], judge=judge).canary.num_counted == 2
    assert judge.enter(2).failing["canary"] == {0.5}


@pytest.mark.parametrize(
    ("between", "counted"), [([], 1), ([record("canary", 0.5)], 2)], ids=["still failing", "well again"]
)
def test_in_the_next_stretch_a_user_counts_for_harm_again_if_it_was_answered_well_meanwhile(
    between: list[RequestRecord], counted: int
) -> None:
    harm = [record("canary", 0.5, "empty"), record("stable", 0.1)]
    judge = judged(harm, window=2, judge=judged(harm, between))
    judge = judged([record("canary", 0.6), record("stable", 0.2)], window=2, judge=judge)
    assert found(judge, "errors").num_canary == counted + 1


def test_a_key_that_fails_on_stable_takes_its_failures_along_and_they_are_not_the_canarys() -> None:
    judge = judged([record("stable", 0.5, "empty"), record("canary", 0.1)])
    judge = judged([record("canary", 0.5, "empty"), record("stable", 0.2)] * 3, window=2, judge=judge)
    assert found(judge, "errors").harms == ()
    assert judge.canary.num_harmful == 3


def test_one_users_failures_do_not_condemn_a_canary_and_many_users_failures_do() -> None:
    one = judged(*[[*users("stable", 50, k), *[record("canary", 0.5, "empty")] * 20] for k in range(20)])
    assert found(one, "errors").log_harm < FAILS
    many = judged(*[[*users("stable", 50, k), record("canary", k, "empty")] for k in range(4)])
    assert found(many, "errors").log_harm > FAILS


def test_who_goes_away_is_no_answer_but_a_long_wait() -> None:
    gone = [[*users("stable", 50, k), record("canary", k, "cancelled", None, duration_s=30)] for k in range(8)]
    judge = judged(users("stable", 50, 99) + users("canary", 2, 99), *gone)
    assert judge.canary.num_requests == 2
    assert found(judge, "ttft").log_harm > FAILS


@pytest.mark.parametrize("stable_leaves", [0, 1])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_canary_that_hangs_fails_though_it_answers_nothing_that_could_be_counted(
    share: float, stable_leaves: int
) -> None:
    """As the gateway tells it: who is answered has a prompt of a known length, who left has not; some clients leave stable."""
    looks = []
    for k in range(10):
        gone = [record("canary", k + n / 10, "cancelled", None, duration_s=30) for n in range(int(10 * share))]
        rest = users("canary", 10 - len(gone), k + 0.5, tokens=500) if len(gone) < 10 else []
        left = [record("stable", k + 0.99, "cancelled", None, duration_s=30)] * stable_leaves
        looks.append([*users("stable", 50, k, tokens=500), *left, *gone, *rest])
    judge = judged(*looks)
    assert found(judge, "errors").log_harm > FAILS
    assert found(judge, "errors").log_pass[0] < PASSES


def test_who_goes_away_before_the_patience_of_others_is_neither_answered_nor_failed() -> None:
    early = [
        [*users("stable", 50, k), *users("canary", 5, k, outcome="cancelled", ttft_s=None, duration_s=0.45)]
        for k in range(5)
    ]
    judge = judged(*early)
    assert found(judge, "errors").num_canary == 0


def test_fast_short_prompts_do_not_outvote_slow_long_ones() -> None:
    generator = np.random.default_rng(4)
    mixed = [waits(generator, "stable", 100, 0.15) + waits(generator, "canary", 20, 0.15, slow=1.3) for _ in range(100)]
    assert found(judged(*mixed), "ttft").log_pass[0] < PASSES


def test_what_stable_answers_in_a_canarys_place_does_not_count_as_stables_wait() -> None:
    slow = [r.replace(failed_over=True) for r in users("stable", 50, 1, ttft_s=9.0)]
    assert found(judged(slow, slow), "ttft").num_stable == 0


def test_the_state_depends_on_the_stretch_not_on_who_looked_in_between() -> None:
    first, later = (
        judged([*users("stable", 50, 1), *users("canary", 5, 1)]),
        [*users("stable", 50, 2), *users("canary", 5, 2, outcome="empty")],
    )
    there = judged(later, window=4, judge=first.enter(2).enter(3)).evidence
    assert judged(later, window=4, judge=first).evidence == there


def test_who_goes_away_early_tells_nothing_about_waits() -> None:
    calm = [users("stable", 50, k) + users("canary", 10, k) for k in range(5)]
    early = [[*users("stable", 50, k), record("canary", k, "cancelled", None, duration_s=0.01)] for k in range(8)]
    before, after = found(judged(*calm), "ttft"), found(judged(*calm, *early), "ttft")
    assert (after.num_canary, after.log_pass) == (before.num_canary, before.log_pass)


@pytest.mark.parametrize(
    ("tokens", "cached", "place"),
    [(None, None, 0), (0, 0, 1), (64, None, 1), (65, None, 2), (1000, 900, 2), (16_384, 0, 9), (16_385, 0, 10), (10**6, 0, 10)],
)  # fmt: skip
def test_prompts_are_compared_by_what_was_not_cached(tokens: int | None, cached: int | None, place: int) -> None:
    assert stratum(tokens, cached) == place < NUM_STRATA


def waits(
    generator: np.random.Generator, role: Role, number: int, long_share: float, slow: float = 1.0
) -> list[RequestRecord]:
    """Short prompts wait 0.4 s or so, long ones ten times as much, and `slow` times that at the canary."""
    long = generator.random(number) < long_share
    seconds = np.exp(0.3 * generator.standard_normal(number)) * np.where(long, 4.0 * slow, 0.4)
    return [
        record(role, float(generator.random()), ttft_s=float(s), tokens=8000 if is_long else 100)
        for s, is_long in zip(seconds, long, strict=True)
    ]


def test_another_mix_of_prompts_is_no_slowness_but_slow_long_prompts_are() -> None:
    generator = np.random.default_rng(3)
    mixed = [waits(generator, "stable", 100, 0.1) + waits(generator, "canary", 20, 0.9) for _ in range(30)]
    assert found(judged(*mixed), "ttft").log_harm < 0
    hidden = [waits(generator, "stable", 100, 0.1) + waits(generator, "canary", 20, 0.1, slow=1.6) for _ in range(60)]
    assert found(judged(*hidden), "ttft").log_harm > FAILS


def test_a_cold_cache_is_no_slowness() -> None:
    warm = [[*users("stable", 60, k, tokens=8000, cached=7900, ttft_s=0.3), *users("stable", 20, k, tokens=8000, ttft_s=3.0),
             *users("canary", 10, k, tokens=8000, ttft_s=3.0)] for k in range(20)]  # fmt: skip
    assert found(judged(*warm), "ttft").log_harm < FAILS


def test_time_per_token_is_judged_apart() -> None:
    slow = [users("stable", 50, k, tpot_s=0.03) + users("canary", 10, k, tpot_s=0.2) for k in range(10)]
    judge = judged(*slow)
    assert found(judge, "tpot").log_harm > FAILS > found(judge, "ttft").log_harm


def test_waits_below_the_floor_are_never_slow_and_are_proven_fast() -> None:
    quick = [users("stable", 50, k, ttft_s=0.01) + users("canary", 10, k, ttft_s=0.2) for k in range(20)]
    seen = found(judged(*quick), "ttft")
    assert seen.log_harm < 0
    assert min(seen.log_pass) > PASSES


def test_scores_are_compared_item_by_item() -> None:
    generator, judge = np.random.default_rng(1), Judge.start(CONFIG)
    for number in range(200):
        right = (generator.random(5) < 0.8).astype(float)
        lost = right * (generator.random(5) < 0.8)
        scores = tuple(PairedScore(item="i", stable=s, canary=c, at=NOW) for s, c in zip(right, lost, strict=True))
        judge = judge.see(Look(number + 1, 1, NOW, False, (), scores))
    seen = found(judge, "quality")
    assert seen.log_harm > FAILS
    assert seen.num_canary == 1000
    assert seen.canary == pytest.approx(-0.16, abs=0.03)


def test_proofs_begin_anew_with_each_stretch_and_harm_carries_on() -> None:
    judge = judged(*[users("stable", 50, k) + users("canary", 20, k) for k in range(60)])
    before = found(judge, "errors")
    assert min(before.log_pass) > PASSES
    entered = judge.enter(2)
    assert max(found(entered, "errors").log_pass) == 0
    assert entered.canary.num_requests == 0
    later = judged(*[[*users("stable", 20, k), record("canary", k, "empty")] for k in range(9)], window=2, judge=judge)
    drowned = judged(
        *[[*users("stable", 20, k), record("canary", k, "empty")] for k in range(9)], window=1, judge=judge
    )
    assert found(later, "errors").log_harm > FAILS
    assert found(later, "errors").log_harm > found(drowned, "errors").log_harm


def test_with_everybody_on_the_canary_errors_are_held_against_stables_past_and_waits_are_not_judged() -> None:
    before = judged(*[users("stable", 100, k) + users("canary", 100, k) for k in range(20)])
    slow = judged(*[users("canary", 100, k, ttft_s=5.0) for k in range(10)], window=2, alone=True, judge=before)
    assert found(slow, "errors").log_harm < FAILS
    assert found(slow, "ttft").log_harm <= found(before.enter(2), "ttft").log_harm < FAILS
    assert max(found(slow, "ttft").log_pass) == 0
    bad = judged(*[[record("canary", k, "empty")] for k in range(5)], window=2, alone=True, judge=before)
    assert found(bad, "errors").log_harm > FAILS


@pytest.mark.parametrize("good", [1000, 20_000])
def test_a_canary_that_breaks_after_many_good_answers_is_out_within_a_dozen_bad_ones(good: int) -> None:
    test = ErrorTest.start(CONFIG.margin("errors"), CONFIG.effect("errors"), CONFIG.effects("errors"))
    for _ in range(good // 100):
        test = test.take((np.array([1900.0]), np.array([9.0])), (np.array([100.0]), np.array([0.0])))
    for _ in range(12):
        test = test.take((np.array([19.0]), np.array([0.0])), (np.array([1.0]), np.array([1.0])))
    assert test.log_harm[0] > FAILS


def test_errors_need_three_users_over_the_whole_rollout() -> None:
    """A key whose only answer at each step fails, and that is well in between, is one user, whatever the test says."""
    judge = Judge.start(CONFIG)
    for window in range(1, 7):
        bad, well = [*users("stable", 50, 10 + window), record("canary", 0.5, "empty")], record("canary", 0.5)
        judge = judged(bad, [well], window=window, judge=judge)
    alone = found(judge, "errors")
    assert (alone.num_canary, alone.num_users) == (6, 1)
    assert alone.log_harm > FAILS
    assert not _fails(CONFIG, alone)
    two_more = [[*users("stable", 50, 30), record("canary", user, "empty")] for user in (0.6, 0.7)]
    assert _fails(CONFIG, found(judged(*two_more, window=7, judge=judge), "errors"))


@pytest.mark.parametrize("failing", [1, 2])
def test_keys_that_send_most_and_always_fail_condemn_no_canary(failing: int) -> None:
    """Of nine requests to the canary eight or so are theirs, in each of four stretches."""
    judge = Judge.start(CONFIG)
    for window in range(1, 5):
        noisy = [record("canary", float(key), "empty") for key in range(failing)] * (8 // failing)
        looks = [[*users("stable", 50, k + 10), *noisy, record("canary", k + 500.0)] for k in range(40)]
        judge = judged(*looks, window=window, judge=judge)
    assert judge.canary.num_harmful >= 300
    assert found(judge, "errors").log_harm < FAILS


@pytest.mark.parametrize(("share", "passes"), [(1, False), (40, True)])
def test_two_keys_whose_answers_fail_promote_no_canary_that_has_everybody(share: int, passes: bool) -> None:
    """Too few users to roll it back, and nobody on stable beside it: every second answer fails, or one in eighty."""
    half = [record("stable", 0.7), record("canary", 0.2)] * 50
    whole = [record("canary", user, "empty" if k % share == 0 and user < 0.5 else "ok")
             for k in range(120) for user in (0.2, 0.7)]  # fmt: skip
    judge = judged(half, window=1)
    # The stretch of a weight that was written over before anybody was asked under it, and a late answer of stable's.
    for window, alone, records in ((2, False, []), (3, True, whole), (3, True, [record("stable", 0.7, "empty")])):
        judge = judged(records, window=window, alone=alone, judge=judge)
    assert found(judge, "errors").num_users == 1
    rise = _rise_of_all(CONFIG, StepConfig(weight_percent=100), judge.evidence)
    assert (rise == "") == passes, rise
    assert passes or "50.00% of all canary requests, stable 0.00% before" in rise

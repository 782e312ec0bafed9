"""The policy as a table of situations, and what must hold in all of them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import METRICS, Metric, RolloutConfig, StepConfig
from services.rollout.findings import Counts, Evidence, Finding
from services.rollout.policy import (
    Action,
    Hold,
    Promote,
    Rollback,
    SetWeight,
    as_decision,
    decide,
    outcomes,
)
from services.rollout.status import Decision, RolloutStatus

START = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = RolloutConfig(
    steps=(
        StepConfig(weight_percent=1, min_requests=20, min_duration_s=30, error_effect_percent=5),
        StepConfig(weight_percent=10, min_requests=40, min_duration_s=30),
    ),
    step_timeout_s=600,
)


def status(step: int = 0, held: bool = False) -> RolloutStatus:
    first = Decision(action="set_weight", verdict="inconclusive", reason="started", message="", at=START)
    return RolloutStatus(
        id="r",
        name="m",
        candidate="m-2",
        stable="m-1",
        config=CONFIG,
        step=step,
        weight_percent=CONFIG.steps[step].weight_percent,
        held=held,
        started_at=START,
        step_started_at=START,
        weight_applied_at=START,
        decisions=(first,),
    )


def finding(metric: Metric, harm: float = 0.0, passed: float = 0.0, num: int = 100) -> Finding:
    """`harm` and `passed` are e-values, of all effects alike."""
    known = CONFIG.effects(metric)
    return Finding(
        metric=metric,
        num_stable=num,
        num_canary=num,
        log_harm=math.log(harm) if harm else -50.0,
        effects=known,
        log_pass=(math.log(passed) if passed else -50.0,) * len(known),
        growth=(0.01,) * len(known),
    )


def seen(canary: int, stable: int, *findings: Finding, passed: float = 20.1, harmful: int = 0) -> Evidence:
    named = {given.metric: given for given in findings}
    return Evidence(
        look=7,
        stable=Counts(num_requests=stable),
        canary=Counts(num_requests=canary, num_harmful=harmful, num_counted=canary),
        findings=tuple(named.get(metric, finding(metric, passed=passed)) for metric in METRICS),
    )


def judge(evidence: Evidence, after_s: float = 60, step: int = 0, held: bool = False) -> Action:
    return decide(CONFIG, status(step, held), evidence, START + timedelta(seconds=after_s))


@pytest.mark.parametrize(
    ("num_users", "num_harmful", "after_s", "out"),
    [
        (1, 30, 121, True),
        (2, 10, 121, True),
        (2, 30, 119, False),
        (2, 9, 121, False),  # of 100, less than the effect besides
        (0, 30, 121, False),  # who failed on stable before: not the canary's doing
        (3, 30, 121, False),  # enough for the test, which says when it is harm
        (None, 30, 121, False),
    ],
)
def test_one_or_two_users_do_not_meet_harm_until_the_end_of_the_step(
    num_users: int | None, num_harmful: int, after_s: float, out: bool
) -> None:
    errors = finding("errors").replace(num_users=num_users)
    evidence = counted(seen(100, 100, errors, harmful=num_harmful), 19)
    action = judge(evidence, after_s)
    assert isinstance(action, Rollback if out else Hold)
    assert action.verdict == "inconclusive"
    if out:
        assert action.message.startswith(
            "not enough evidence within 120 s: 1 more canary requests, fewer harmful answers"
        )
    assert isinstance(judge(evidence, after_s, held=True), Hold)


def counted(evidence: Evidence, num_counted: int) -> Evidence:
    return evidence.replace(canary=evidence.canary.replace(num_counted=num_counted))


def test_where_others_are_served_well_or_the_weight_is_not_in_force_the_step_has_its_time() -> None:
    evidence = seen(110, 110, finding("errors").replace(num_users=1), harmful=10)
    assert isinstance(judge(counted(evidence, 100), 1200 / 4), Hold)
    waits = status().replace(weight_applied_at=None)
    action = decide(CONFIG, waits, counted(evidence, 5), START + timedelta(seconds=300))
    assert isinstance(action, Hold)
    assert "weight to be in force" in action.message


FAILS = 4 / 0.01 / 0.95 + 1
"""An e-value above every metric's share of the level."""


@pytest.mark.parametrize(
    ("situation", "action", "reason"),
    [
        (judge(seen(20, 200)), SetWeight, "step_passed"),
        (judge(seen(40, 200), step=1), Promote, "all_steps_passed"),
        (judge(seen(19, 200)), Hold, "not_enough_evidence"),
        (judge(seen(20, 200), after_s=29), Hold, "not_enough_evidence"),
        (judge(seen(20, 0)), Hold, "not_enough_evidence"),
        (judge(Evidence(), after_s=0), Hold, "not_enough_evidence"),
        (judge(seen(0, 200), after_s=600), Rollback, "inconclusive"),
        (judge(seen(20, 0), after_s=600), Rollback, "inconclusive"),
        (judge(seen(20, 200), after_s=600), SetWeight, "step_passed"),
        (judge(seen(20, 200, finding("errors", passed=19.9))), Hold, "not_enough_evidence"),
        (judge(seen(20, 200, finding("ttft", passed=19.9))), Hold, "not_enough_evidence"),
        (judge(seen(20, 200, finding("ttft", passed=19.9)), after_s=600), Rollback, "inconclusive"),
        (judge(seen(20, 200, finding("tpot", passed=0.1), finding("quality", passed=0.1))), SetWeight, "step_passed"),
        (judge(seen(20, 200, finding("ttft", passed=0.1, num=0))), SetWeight, "step_passed"),
        (judge(seen(20, 200, finding("errors", passed=0.1, num=0))), Hold, "not_enough_evidence"),
        (judge(seen(40, 200, finding("quality", passed=0.1, num=0)), step=1), Promote, "all_steps_passed"),
        (judge(seen(3, 200, finding("errors", FAILS, num=3)), after_s=1), Rollback, "error_rate"),
        (judge(seen(2, 200, finding("errors", FAILS, num=2))), Hold, "not_enough_evidence"),
        (judge(seen(20, 200, finding("errors", FAILS - 2, passed=21))), SetWeight, "step_passed"),
        (judge(seen(20, 200, finding("ttft", FAILS))), Rollback, "latency"),
        (judge(seen(20, 200, finding("tpot", FAILS))), Rollback, "tpot"),
        (judge(seen(20, 200, finding("quality", FAILS))), Rollback, "quality"),
        (judge(seen(100, 200, harmful=4)), SetWeight, "step_passed"),
        (
            judge(seen(100, 200, harmful=5)),
            Hold,
            "not_enough_evidence",
        ),  # proven, but some users get no good answer at all
        (judge(seen(100, 200, harmful=5), after_s=600), Rollback, "inconclusive"),
        (judge(seen(20, 200), held=True), Hold, "held"),
        (judge(seen(0, 200), held=True, after_s=6000), Hold, "held"),
        (judge(seen(20, 200, finding("errors", FAILS)), held=True), Rollback, "error_rate"),
    ],
)
def test_situations(situation: Action, action: type[Action], reason: str) -> None:
    assert (type(situation), situation.reason) == (action, reason)
    assert situation.message


def test_a_step_that_proves_nothing_does_not_pass_on_failures_either() -> None:
    config = CONFIG.replace(steps=(StepConfig(weight_percent=1, min_requests=2, prove="none"), CONFIG.steps[1]))
    later = START + timedelta(seconds=60)
    failing, good = (decide(config, status(), seen(2, 96, harmful=harmful), later) for harmful in (2, 0))
    assert (type(failing), type(good)) == (Hold, SetWeight)
    assert "100.00% of all canary requests" in failing.message


def test_who_holds_a_canary_that_fails_is_told_so() -> None:
    assert judge(seen(100, 200), held=True).message == "held at 1 % by a person"
    assert "100.00% of all canary requests" in judge(seen(100, 200, harmful=100), held=True).message


def test_the_next_step_is_named() -> None:
    passed = judge(seen(20, 200))
    assert isinstance(passed, SetWeight)
    assert (passed.step, passed.weight_percent, passed.verdict) == (1, 10, "passed")


def test_what_is_missing_is_said() -> None:
    lacking = seen(5, 0, finding("errors", passed=1), finding("ttft", passed=2))
    assert judge(lacking, after_s=10).message == (
        "waiting for 15 more canary requests, requests to stable to compare with, 20 s more at this step, "
        "proof that errors are not up by 5 points (about 300 more canary requests, 600 s), "
        "proof that ttft is not 1.3 times stable's (about 231 more canary requests, 462 s)"
    )


def test_a_metric_is_failed_passed_or_inconclusive() -> None:
    mixed = seen(20, 200, finding("errors", FAILS), finding("tpot", passed=1), finding("quality", passed=1))
    found = {o.metric: (o.verdict, o.needed, o.wait_s) for o in outcomes(CONFIG, CONFIG.steps[0], mixed, 10)}
    assert found == {
        "errors": ("failed", None, None),
        "ttft": ("passed", None, None),
        "tpot": ("inconclusive", 300, 150),
        "quality": ("inconclusive", 300, None),
    }


@pytest.mark.parametrize(("step", "weight"), [(0, 10.0), (1, 100.0)])
def test_a_decision_keeps_the_numbers_it_rested_on(step: int, weight: float) -> None:
    evidence = seen(100, 200, harmful=1)
    action = judge(evidence, step=step)
    decision = as_decision(action, status(step), START, evidence.look)
    assert decision.numbers["canary_requests"] == 100
    assert decision.numbers["canary_harmful"] == 1
    assert decision.numbers["errors_pass_e_value_0.05"] == pytest.approx(20.1)
    assert (decision.who, decision.weight_percent, decision.look) == ("analysis", weight, 7)


def test_nothing_passes_before_the_weight_is_in_force_but_harm_is_seen() -> None:
    waiting = status().replace(weight_applied_at=None)
    held = decide(CONFIG, waiting, seen(40, 200), START + timedelta(seconds=60))
    assert (type(held), held.message) == (
        Hold,
        "waiting for the weight to be in force: its replicas to run, every gateway to apply it",
    )
    harmful = decide(CONFIG, waiting, seen(40, 200, finding("errors", FAILS)), START)
    assert isinstance(harmful, Rollback)


def test_a_step_begins_when_its_weight_is_in_force() -> None:
    late = status().replace(weight_applied_at=START + timedelta(seconds=500))
    assert decide(CONFIG, late, seen(20, 200), START + timedelta(seconds=520)).reason == "not_enough_evidence"
    assert decide(CONFIG, late, seen(0, 200), START + timedelta(seconds=900)).reason == "not_enough_evidence"
    assert decide(CONFIG, late, seen(0, 200), START + timedelta(seconds=1100)).reason == "inconclusive"


def test_a_rollout_that_ends_is_not_judged() -> None:
    with pytest.raises(AssertionError):
        decide(CONFIG, status().replace(phase="promoting"), Evidence(), START)


E_VALUES = st.floats(1e-6, 1e6)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    found = [finding(m, draw(E_VALUES), draw(E_VALUES), draw(st.integers(0, 60))) for m in METRICS]
    return seen(draw(st.integers(0, 60)), draw(st.integers(0, 60)), *found)


@given(evidences(), st.sampled_from(METRICS), st.floats(1, 100), st.floats(0, 700))
def test_more_evidence_of_harm_never_turns_a_rollback_into_anything_else(
    evidence: Evidence, metric: Metric, factor: float, after_s: float
) -> None:
    before = judge(evidence, after_s)
    worse = [f.replace(log_harm=f.log_harm + math.log(factor)) if f.metric == metric else f for f in evidence.findings]
    after = judge(evidence.replace(findings=tuple(worse)), after_s)
    if isinstance(before, Rollback):
        assert isinstance(after, Rollback)
    if isinstance(after, SetWeight | Promote):
        assert isinstance(before, SetWeight | Promote)


@given(evidences(), st.floats(0, 700))
def test_nothing_passes_below_its_floors_or_without_its_proofs(evidence: Evidence, after_s: float) -> None:
    if isinstance(judge(evidence, after_s), SetWeight | Promote):
        assert evidence.canary.num_requests >= 20
        assert evidence.stable.num_requests > 0
        assert after_s >= 30
        assert evidence.findings[0].log_pass[0] >= math.log(20)

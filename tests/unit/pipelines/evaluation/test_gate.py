"""The gate: what passes, what fails, what cannot be said; its level over all tests; and its words."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.artifacts import Check, GateReport
from pipelines.config import GateConfig, RequirementConfig
from pipelines.evaluation.explain import lines
from pipelines.evaluation.gate import Pair, holm, is_let_through, judge, outcome_of
from pipelines.evaluation.paired.binary import Binary
from pipelines.evaluation.paired.bounded import Bounded
from pipelines.evaluation.paired.likelihood import Likelihood
from pipelines.evaluation.paired.sample import Sample


def pair(sample: Sample, task: str = "choice", metric: str = "accuracy", old: float = 0.8) -> Pair:
    change = 1 + sample.harm if metric == "perplexity" else 1 - sample.harm / old
    return Pair(task, metric, old, old * change, "the test", sample)


def asked(*requirements: dict[str, object], **fields: object) -> GateConfig:
    return GateConfig.model_validate({"requirements": list(requirements), **fields})


SCORES: dict[str, object] = {"compare": "quantized vs base", "tasks": "scores"}


def judged(sample: Sample, **fields: object) -> Check:
    [check] = judge(asked({**SCORES, **fields}), {"quantized vs base": (pair(sample),)})
    return check


@pytest.mark.parametrize(
    ("lost", "gained", "outcome"),
    [
        (0, 0, "passed"),
        (15, 15, "passed"),
        (15, 0, "passed"),  # 0.75 points lost of 2,000: within the margin and shown
        (80, 50, "inconclusive"),
        (120, 40, "failed"),
    ],
)
def test_three_outcomes(lost: int, gained: int, outcome: str) -> None:
    assert judged(Binary(2000, lost, gained), margin_percent=1, effect_percent=2).outcome == outcome


# --- what the gate is there for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("either_way", range(0, 101, 5))
def test_a_planted_drop_of_3_points_on_500_items_is_never_a_pass(either_way: int) -> None:
    """15 of 500 items lost for good, whatever number of others changed either way, under the defaults."""
    check = judged(Binary(500, 15 + either_way, either_way))
    assert check.outcome != "passed"
    assert check.harm == pytest.approx(3)


def test_a_model_that_is_3_points_worse_passes_at_most_as_often_as_declared() -> None:
    drawer, passed = np.random.default_rng(5), 0
    for discordance in (0.03, 0.05, 0.1, 0.2):
        shares = [(discordance + 0.03) / 2, (discordance - 0.03) / 2, 1 - discordance]
        drawn = drawer.multinomial(500, shares, 100)
        passed += sum(Binary(500, int(b), int(c)).p_at_least(0.02) <= 0.05 for b, c, _ in drawn)
    assert passed / 400 <= 0.01  # declared: 5 % of models that are 2 points worse


def answers_of_one_model(drawer: np.random.Generator) -> tuple[Pair, ...]:
    """A model against itself: the same chances for each item, drawn twice, on two kinds of scores and a perplexity."""
    n = int(drawer.integers(20, 120))
    right = drawer.beta(2, 1, n)
    once, again = drawer.random(n) < right, drawer.random(n) < right
    tokens = drawer.integers(100, 300, n).astype(float)
    text, worse = drawer.normal(0.25, 0.1, (2, n)).clip(0, 1), drawer.normal(0, 3, n)
    return (
        pair(Binary(n, int((once & ~again).sum()), int((again & ~once).sum()))),
        pair(Bounded(text[0] - text[1]), "text", "chrf"),
        pair(Likelihood(worse, tokens), "ppl", "perplexity", 12.0),
    )


def test_a_model_against_itself_fails_at_most_as_often_as_declared() -> None:
    """1,000 gates over three tests with margins of 0, where the level is hardest to keep; any failed test counts."""
    drawer, alpha, failed = np.random.default_rng(6), 0.05, 0
    for _ in range(1000):
        failed += min(holm([p.sample.p_at_most(0.0) for p in answers_of_one_model(drawer)])) <= alpha
    assert failed / 1000 <= alpha


def test_with_the_default_margins_it_fails_hardly_ever_and_identical_answers_pass() -> None:
    drawer = np.random.default_rng(7)
    config = asked({"compare": "trained vs base"})
    checks = [judge(config, {"trained vs base": answers_of_one_model(drawer)}) for _ in range(10)]
    assert not any(check.outcome == "failed" for each in checks for check in each)
    assert judged(Binary(500, 0, 0)).outcome == "passed"


# --- rules ------------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_could_hold_takes_nothing_from_the_musts() -> None:
    harmful = Binary(500, 20, 0)
    pairs = {"quantized vs base": (pair(harmful),)}
    must = {**SCORES, "margin_percent": 0}
    alone, *_ = judge(asked(must), pairs)
    beside, *_ = judge(asked(must, *[{**must, "priority": "could"}] * 9), pairs)
    twice, *_ = judge(asked(must, must), pairs)
    assert alone.p_margin_adjusted == alone.p_margin == beside.p_margin_adjusted
    assert twice.p_margin_adjusted == pytest.approx(2 * (alone.p_margin or 0))


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        ((("must", "passed"), ("should", "failed")), "passed"),
        ((("must", "passed"), ("must", "inconclusive")), "inconclusive"),
        ((("must", "inconclusive"), ("must", "failed")), "failed"),
        ((("must", "passed"), ("could", "inconclusive")), "passed"),
    ],
)
def test_the_musts_decide_and_the_rest_is_recorded(outcomes: tuple[tuple[str, str], ...], together: str) -> None:
    checks = [judged(Binary(10, 0, 0)).replace(priority=priority, outcome=outcome) for priority, outcome in outcomes]
    outcome = outcome_of(checks)
    assert outcome == together
    passed = is_let_through(GateConfig(), outcome)
    assert passed == (together == "passed")
    report = GateReport(key="0" * 16, outcome=outcome, passed=passed, checks=tuple(checks))
    assert len(report.warnings) == sum(p == "should" and o != "passed" for p, o in outcomes)


def test_what_an_inconclusive_must_does_is_the_recipes_choice() -> None:
    publish = GateConfig(inconclusive_must="publish")
    assert is_let_through(publish, "inconclusive")
    assert not is_let_through(publish, "failed")
    assert not is_let_through(GateConfig(), "inconclusive")
    check = judged(Binary(20, 1, 1))
    assert check.outcome == "inconclusive"
    assert GateReport(key="0" * 16, outcome="inconclusive", passed=True, checks=(check,)).warnings == (check,)


def test_recovery_is_of_the_figures_as_they_are() -> None:
    found = {"quantized vs base": (pair(Binary(500, 8, 0)),)}
    [kept] = judge(asked({**SCORES, "priority": "should", "min_recovery_percent": 98}), found)
    assert kept.outcome == "passed"  # exactly 98 %: 0.784 of 0.8
    assert kept.p_effect is None
    [lost] = judge(asked({**SCORES, "priority": "should", "min_recovery_percent": 98.1}), found)
    assert lost.outcome == "failed"
    assert "keeps 98.0 % and 98.1 % are wanted" in lost.message
    nothing = Pair("choice", "accuracy", 0.0, 0.0, "", Binary(9, 0, 0))
    assert nothing.recovery == 1


def test_an_improvement_can_be_asked_for() -> None:
    drawer = np.random.default_rng(8)
    tokens = np.full(100, 200.0)

    def outcome(ratio: float) -> str:
        sample = Likelihood(math.log(ratio) * tokens + drawer.normal(0, 5, 100), tokens)
        found = {"trained vs base": (pair(sample, "ppl", "perplexity", 16.0),)}
        gain = {"compare": "trained vs base", "tasks": "perplexity", "margin_percent": -10, "effect_percent": -10}
        [check] = judge(asked(gain), found)
        return check.outcome

    assert [outcome(ratio) for ratio in (0.8, 0.9, 1.0)] == ["passed", "inconclusive", "failed"]


def test_requirements_are_asked_of_the_tasks_they_name() -> None:
    text = Likelihood(np.ones(30), np.ones(30))
    both = (pair(Binary(9, 0, 0), "a"), pair(Binary(9, 0, 0), "b"), pair(text, "p", "perplexity"))
    for tasks, found in (("all", "abp"), ("scores", "ab"), ("perplexity", "p"), (["b"], "b")):
        checks = judge(asked({"compare": "trained vs base", "tasks": tasks}), {"trained vs base": both})
        assert "".join(check.task for check in checks) == found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"margin_percent": 3}, "margin_percent \\(3\\) is above effect_percent \\(2\\)"),
        ({"min_recovery_percent": 98}, "a must rests on a test"),
        ({"min_recovery_percent": 98, "priority": "should", "margin_percent": 1}, "stands for itself"),
        ({"effect_percent": 100}, "less than 100"),
    ],
)
def test_requirements_that_make_no_sense(fields: dict[str, object], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        RequirementConfig.model_validate({**SCORES, **fields})


# --- words ------------------------------------------------------------------------------------------------------------


def test_what_it_says_in_words() -> None:
    config = asked(
        {**SCORES, "margin_percent": 5, "effect_percent": 12},
        {**SCORES, "priority": "could"},
        {**SCORES, "priority": "should", "min_recovery_percent": 98},
    )
    checks = judge(config, {"quantized vs base": (pair(Binary(96, 4, 1)),)})
    report = GateReport(
        key="ab" * 8, config=config.model_dump(mode="json"), outcome="passed", passed=True, checks=checks
    )
    text = "\n".join(lines(report))
    assert text.startswith("gate abababababababab: passed, may be published")
    assert "MUST   choice: quantized vs base: passed (paired test)" in text
    assert "accuracy: base 0.8, quantized 0.7688: 3.1 points worse on 96 items, of which 5 differ" in text
    assert "passes with a loss of 12 points excluded: p" in text
    assert "COULD  choice: quantized vs base: INCONCLUSIVE" in text
    assert "items settle it" in text
    assert "SHOULD choice: quantized vs base: FAILED (recovery, no test)" in text
    assert text.index("MUST") < text.index("SHOULD") < text.index("COULD")


def test_models_that_answer_the_same_are_said_to() -> None:
    check = judged(Binary(96, 0, 0))
    assert "0.8 (identical on all 96 items), " in check.message
    config = asked(SCORES)
    report = GateReport(key="ab" * 8, config=config.model_dump(mode="json"), checks=(check,))
    text = "\n".join(lines(report))
    assert "identical on all 96 items\n" in text
    assert "at best less than" not in text, (
        "none of 96 items excludes no loss of 3 points: that stands there, not a nought"
    )
    assert "at worst 3.1 points worse" in text


def test_it_names_how_many_items_would_settle_it() -> None:
    check = judged(Binary(96, 2, 2))
    assert check.outcome == "inconclusive"
    assert check.num_items_if_equal is not None
    assert f"about {check.num_items_if_as_found} items would settle it" in check.message
    # (1.645 x sd at the limit + 0.842 x sd) / 2 points, squared; 5 of 96 items are taken to differ.
    assert check.num_items_if_equal == pytest.approx(((1.645 + 0.842) / 0.02) ** 2 * 5 / 96, rel=0.02)

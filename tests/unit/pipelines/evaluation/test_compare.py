"""Scores, intervals, paired differences and the gate's stage on real items files."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from cluster.artifacts import EvalReport, GateReport, load, save
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.config import GateConfig
from pipelines.evaluation.compare import Row, compare, score_of
from pipelines.evaluation.evaluate import _check_complete, _write_items
from pipelines.evaluation.tasks import Item
from pipelines.evaluation.verdict import gate

Answers = list[tuple[float, float]]
"""(nats, right or wrong) of each item."""


def rows(answers: Answers) -> list[Row]:
    text = [
        {"task": "text", "id": f"{i:02}", "score": -nll / 40, "nll": nll, "num_tokens": 10, "num_bytes": 40}
        for i, (nll, _) in enumerate(answers)
    ]
    choice = [
        {"task": "choice", "id": f"{i:02}", "score": right, "nll": 1.0, "num_tokens": 1, "num_bytes": 4}
        for i, (_, right) in enumerate(answers)
    ]
    return [{"correct": None, "output": "", **row} for row in text + choice]


@pytest.fixture
def make(storage: LocalStorage) -> Callable[[str, Answers], EvalReport]:
    def report(key: str, answers: Answers) -> EvalReport:
        both = rows(answers)
        n = len(answers)
        scores = (score_of("text", "perplexity", both[:n]), score_of("choice", "multiple_choice", both[n:]))
        made = EvalReport(key=key * 16, model=key, scores=scores)
        return save(storage, made.replace(files=(_write_items(storage, made, both),)))

    return report


HARD_AND_EASY: Answers = [(float(10 + 3 * (i % 11)), float(i % 3 > 0)) for i in range(60)]


def test_perplexity_weighs_tokens_not_items() -> None:
    two = [{"nll": 10.0, "num_tokens": 10, "score": 0}, {"nll": 60.0, "num_tokens": 20, "score": 0}]
    score = score_of("t", "perplexity", two)
    assert score.value == pytest.approx(math.exp(70 / 30))
    assert score.ci_low == pytest.approx(math.e)  # twice the first item
    assert score.ci_high == pytest.approx(math.exp(3))
    assert not score.higher_is_better


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    score = score_of("t", "continuation", [{"score": float(v)} for v in values])
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert score.value == pytest.approx(values.mean())
    assert score.ci_low == pytest.approx(values.mean() - half, abs=0.05)
    assert score.ci_high == pytest.approx(values.mean() + half, abs=0.05)


def test_pairing_removes_what_is_hard_about_an_item(
    make: Callable[[str, Answers], EvalReport], storage: LocalStorage
) -> None:
    old = make("a", HARD_AND_EASY)
    new = make("b", [(nll - 1 - 0.1 * (i % 2), right) for i, (nll, right) in enumerate(HARD_AND_EASY)])
    text, choice = compare(storage, old, new)
    assert text.ci_high < 0  # clearly better, though the two scores' own intervals overlap
    assert new.score("text").ci_high > old.score("text").ci_low
    assert text.difference == pytest.approx(text.new - text.old)
    assert text.ratio == pytest.approx(math.exp(-0.105))
    assert (choice.difference, choice.ci_low, choice.ci_high, choice.ratio) == (0, 0, 0, 1)


def test_other_items_cannot_be_compared(make: Callable[[str, Answers], EvalReport], storage: LocalStorage) -> None:
    with pytest.raises(InputError, match="same items"):
        compare(storage, make("a", HARD_AND_EASY), make("b", HARD_AND_EASY[:-1]))


def test_the_verdict_is_kept_whether_yes_or_no(
    make: Callable[[str, Answers], EvalReport], storage: LocalStorage
) -> None:
    base, better = make("a", HARD_AND_EASY), make("b", [(nll - 3, right) for nll, right in HARD_AND_EASY])
    for bounds, passed in ((GateConfig(min_perplexity_drop_percent=15), True), (GateConfig(min_recovery=1.2), False)):
        verdict = gate(bounds, base, better, better, storage)
        assert verdict.passed is passed
        assert load(storage, GateReport, verdict.key) == verdict == gate(bounds, base, better, better, storage)
        assert set(verdict.differences) == {"trained vs base", "quantized vs trained", "quantized vs base"}
        assert verdict.inputs == {"base": base.digest, "trained": better.digest, "quantized": better.digest}


def test_reports_of_other_tasks_are_refused(make: Callable[[str, Answers], EvalReport], storage: LocalStorage) -> None:
    base = make("a", HARD_AND_EASY)
    with pytest.raises(InputError, match="choice"):
        gate(GateConfig(), base, base.replace(scores=base.scores[:1]), base, storage)


@pytest.mark.parametrize(
    ("answers", "found"),
    [([], "not answered"), ([(float("nan"), 1.0)], "finite"), ([(float("inf"), 1.0)], "finite")],
)
def test_a_hole_is_named_never_counted_as_zero(answers: Answers, found: str) -> None:
    from cluster.artifacts import Weights

    item = Item("text", "perplexity", "00", "", ("words",))
    with pytest.raises(InputError, match=f"task text, item 00: .*{found}"):
        _check_complete(Weights(kind="model", key="0" * 16), [item], rows(answers))

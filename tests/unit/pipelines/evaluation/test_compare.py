"""Scores, intervals, paired differences and the gate's stage on real items files."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from cluster.artifacts import EvalReport, GateReport, load, save
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.config import GateConfig, RequirementConfig
from pipelines.evaluation.compare import compare, pairs, scores_of
from pipelines.evaluation.evaluate import _write_items, check_complete
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.verdict import find_report, gate, read_report

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
        scores = (scores_of("text", "perplexity", both[:n])[0], scores_of("choice", "multiple_choice", both[n:])[0])
        made = EvalReport(key=key * 16, model=key, scores=scores)
        return save(storage, made.replace(files=(_write_items(storage, made, both),)))

    return report


HARD_AND_EASY: Answers = [(float(10 + 3 * (i % 11)), float(i % 3 > 0)) for i in range(60)]


def test_perplexity_weighs_tokens_not_items() -> None:
    sizes = [(10.0, 10), (60.0, 20)]
    two = [{"nll": nats, "num_tokens": num, "num_bytes": 4 * num, "score": 0} for nats, num in sizes]
    score = scores_of("t", "perplexity", two)[0]
    assert score.value == pytest.approx(math.exp(70 / 30))
    assert score.ci_low == pytest.approx(math.e)  # twice the first item
    assert score.ci_high == pytest.approx(math.exp(3))
    assert not score.higher_is_better


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    score = scores_of("t", "continuation", [{"score": float(v)} for v in values])[0]
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


GAIN = RequirementConfig(compare="trained vs base", tasks="perplexity", margin_percent=-15, effect_percent=-15)
TOO_MUCH = GAIN.replace(margin_percent=-40, effect_percent=-40)


def test_the_verdict_is_kept_whether_yes_or_no(
    make: Callable[[str, Answers], EvalReport], storage: LocalStorage
) -> None:
    base, better = make("a", HARD_AND_EASY), make("b", [(nll - 3, right) for nll, right in HARD_AND_EASY])
    for wanted, outcome in ((GAIN, "passed"), (TOO_MUCH, "failed")):
        config = GateConfig(requirements=(wanted,))
        verdict = gate(config, base, better, better, storage)
        assert (verdict.outcome, verdict.passed) == (outcome, outcome == "passed")
        assert load(storage, GateReport, verdict.key) == verdict == gate(config, base, better, better, storage)
        assert set(verdict.differences) == {"trained vs base", "quantized vs trained", "quantized vs base"}
        assert verdict.inputs == {"base": base.digest, "trained": better.digest, "quantized": better.digest}


def test_reports_are_found_by_key_digest_or_file(
    make: Callable[[str, Answers], EvalReport], storage: LocalStorage
) -> None:
    with pytest.raises(InputError, match="no gate report yet"):
        find_report(storage)
    base = make("a", HARD_AND_EASY)
    first, last = (gate(GateConfig(requirements=(asked,)), base, base, base, storage) for asked in (GAIN, TOO_MUCH))
    assert find_report(storage) == last
    assert find_report(storage, first.key) == find_report(storage, first.digest[:12]) == first
    assert read_report(f"{storage.uri}/{first.location}/manifest.json") == first
    with pytest.raises(InputError, match="no gate report xyz"):
        find_report(storage, "xyz")
    storage.write("artifacts/gate/old/manifest.json", b'{"kind": "gate", "checks": [{"found": 1, "bound": 2}]}')
    assert find_report(storage) == last
    with pytest.raises(InputError, match="1 of another version"):
        find_report(storage, "xyz")
    with pytest.raises(InputError, match="2 gate reports match"):
        find_report(storage, "")
    with pytest.raises(InputError, match="no such file"):
        read_report(f"{storage.uri}/none.json")
    with pytest.raises(InputError, match="not a gate's report"):
        read_report(f"{storage.uri}/{base.location}/manifest.json")


@pytest.mark.parametrize("hole", ["nll", "score"])
def test_a_figure_that_is_not_finite_is_named(
    make: Callable[[str, Answers], EvalReport], storage: LocalStorage, hole: str
) -> None:
    old = make("a", HARD_AND_EASY)
    new = old.replace(key="c" * 16)
    _write_items(storage, new, [{**row, hole: math.nan} if row["id"] == "00" else row for row in rows(HARD_AND_EASY)])
    with pytest.raises(InputError, match=f"1 item\\(s\\) have no finite {hole} \\(first 00\\)"):
        pairs(storage, old, new)


def test_perplexities_of_other_tokenizers_are_not_compared(
    make: Callable[[str, Answers], EvalReport], storage: LocalStorage
) -> None:
    old = make("a", HARD_AND_EASY)
    other = [{**row, "num_tokens": 11} for row in rows(HARD_AND_EASY)]
    new = old.replace(key="c" * 16)
    _write_items(storage, new, other)
    with pytest.raises(InputError, match="other tokens"):
        pairs(storage, old, new)


def test_reports_of_other_tasks_are_refused(make: Callable[[str, Answers], EvalReport], storage: LocalStorage) -> None:
    base = make("a", HARD_AND_EASY)
    with pytest.raises(InputError, match="choice"):
        gate(GateConfig(), base, base.replace(scores=base.scores[:1]), base, storage)


@pytest.mark.parametrize(
    ("answers", "found"),
    [([], "not answered"), ([(float("nan"), 1.0)], "finite"), ([(float("inf"), 1.0)], "finite")],
)
def test_a_hole_is_named_never_counted_as_zero(answers: Answers, found: str) -> None:
    item = Item("text", "perplexity", "00", "", ("words",))
    with pytest.raises(InputError, match=f"task text, item 00: .*{found}"):
        check_complete("model", [item], rows(answers))

"""The gate's rule before quantizing: what it says then holds in the end, and a run that can only fail stops there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster import artifacts
from cluster.artifacts import Contamination, GateReport, ImportedModel, TaskContamination
from cluster.errors import GateFailed
from pipelines import lifecycle
from pipelines.config import GateConfig, LifecycleConfig, Stage
from pipelines.evaluation import report_page
from pipelines.evaluation.explain import lines
from pipelines.evaluation.gate import Pair, judge, judge_trained
from pipelines.evaluation.judged import last_gate
from pipelines.evaluation.paired.binary import Binary
from pipelines.evaluation.paired.sample import Sample
from pipelines.evaluation.report import of_gate
from pipelines.evaluation.verdict import gate, judge_before_quantizing
from tests.unit.pipelines.test_scheme_search import World, recipe, report_of, world

__all__ = ["world"]

TRAINED = {"compare": "trained vs base", "tasks": "scores", "margin_percent": 1, "effect_percent": 2}
QUANTIZED = {"compare": "quantized vs base", "tasks": "scores", "margin_percent": 5, "effect_percent": 12}


def config(*requirements: dict[str, Any], **fields: Any) -> GateConfig:
    return GateConfig.model_validate({"requirements": requirements, "before_quantizing": True, **fields})


# --- what is said early holds in the end ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """A sample that says these p-values: the rule is asked, and not the tests."""

    of_margin: float
    of_effect: float
    num_items: int = 100
    num_different: int = 1
    harm: float = 0.0
    most: float = 1.0

    def p_at_most(self, limit: float) -> float:
        return self.of_margin

    def p_at_least(self, limit: float) -> float:
        return self.of_effect

    def items_needed(self, limit: float, harm: float, level: float, power: float) -> float:
        return 1.0


p_values = st.one_of(st.floats(0, 0.02), st.floats(0, 1))
samples = st.builds(Said, p_values, p_values)


def pairs(found: Sequence[Sample]) -> list[Pair]:
    return [Pair(f"t{at}", "accuracy", 0.5, 0.5 - one.harm, "test", one) for at, one in enumerate(found)]


@given(st.lists(st.tuples(samples, samples), min_size=1, max_size=4))
def test_what_is_said_before_quantizing_is_said_in_the_end_whatever_quantizing_does(
    found: list[tuple[Said, Said]],
) -> None:
    asked = config(TRAINED, QUANTIZED, {**TRAINED, "priority": "should"})
    trained, quantized = pairs([one for one, _ in found]), pairs([two for _, two in found])
    early = judge_trained(asked, trained)
    whole = judge(asked, {"trained vs base": trained, "quantized vs base": quantized})
    late = [check for check in whole if check.name.endswith("trained vs base")]
    for before, after in zip(early, late, strict=True):
        assert before.name == after.name
        assert before.p_effect == after.p_effect
        assert (before.p_margin_adjusted or 0) >= (after.p_margin_adjusted or 0)
        if before.outcome == "failed":
            assert after.outcome == "failed"
        if after.outcome == "passed":
            assert before.outcome == "passed"


def test_alpha_is_shared_with_the_tests_still_to_come() -> None:
    found = pairs([Binary(400, 30, 4)])
    alone, shared = config(TRAINED), config(TRAINED, *[QUANTIZED] * 3)
    (one,), (other,) = judge_trained(alone, found), judge_trained(shared, found)
    assert one.p_margin is not None
    assert one.p_margin_adjusted == pytest.approx(one.p_margin)
    assert other.p_margin_adjusted == pytest.approx(min(1.0, 4 * one.p_margin))


# --- where a run stops ------------------------------------------------------------------------------------------------


@pytest.fixture
def stopping(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The lifecycle with what comes before quantizing already made; quantizing is told of and not run."""

    def quantize(*given: object) -> None:
        raise AssertionError("quantized")

    base = artifacts.save(world.storage, ImportedModel(key="a" * 16))
    reports = {
        base.key: report_of(world.storage, "base"),
        world.before.trained.key: report_of(world.storage, "trained", 40, "de"),
    }
    monkeypatch.setattr(lifecycle, "clean", lambda *given: world.before.dataset)
    monkeypatch.setattr(lifecycle, "import_model", lambda *given: base)
    monkeypatch.setattr(lifecycle, "train", lambda *given: world.before.trained)
    monkeypatch.setattr(lifecycle, "evaluate", lambda config, model, *given: reports[model.key])
    monkeypatch.setattr(lifecycle, "check_servable", lambda *given: None)
    monkeypatch.setattr(lifecycle, "quantize", quantize)
    return world


def asking(*requirements: dict[str, Any], **fields: Any) -> LifecycleConfig:
    base = recipe("w8a8", contamination=False)
    return base.replace(gate=config(*requirements, **fields))


@pytest.mark.parametrize("until", ["quantize", "gate", "publish"])
def test_a_failed_must_stops_before_quantizing(stopping: World, until: Stage) -> None:
    """40 of 200 answers are lost."""
    for again in (None, "gate", None):
        with pytest.raises(GateFailed, match="trained vs base: accuracy"):
            lifecycle.run(asking(TRAINED, QUANTIZED), stopping.storage, until=until, remake_from=again)  # type: ignore[arg-type]
    verdict = last_gate(stopping.storage, "m")
    assert (verdict.before, verdict.outcome, verdict.passed) == ("quantize", "failed", False)
    assert set(verdict.inputs) == {"base", "trained"}
    assert set(verdict.differences) == {"trained vs base"}
    words = "\n".join(lines(verdict))
    assert "Told before the stage quantize" in words
    assert "MUST   choice: trained vs base: FAILED" in words
    page = report_page.page(of_gate(stopping.storage, "m", verdict, ()))
    assert "choice: trained vs base" in page
    assert "What is kept, slice by slice" in page


@pytest.mark.parametrize(
    ("requirements", "fields"),
    [
        ([{**TRAINED, "margin_percent": 25, "effect_percent": 40}, QUANTIZED], {}),  # it passes
        ([{**TRAINED, "priority": "should"}, {**TRAINED, "margin_percent": 25, "effect_percent": 40}, QUANTIZED], {}),
        ([{**TRAINED, "margin_percent": 12, "effect_percent": 14}, QUANTIZED], {"inconclusive_must": "publish"}),
        ([TRAINED, QUANTIZED], {"before_quantizing": False}),
    ],
)
def test_what_may_still_pass_goes_on(
    stopping: World, requirements: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError, match="quantized"):
        lifecycle.run(asking(*requirements, **fields), stopping.storage)


def test_an_inconclusive_must_that_blocks_stops_as_well(stopping: World) -> None:
    asked = asking({**TRAINED, "margin_percent": 12, "effect_percent": 14}, QUANTIZED)
    with pytest.raises(GateFailed, match="the gate cannot say"):
        lifecycle.run(asked, stopping.storage)


def test_an_evaluation_alone_is_not_judged(stopping: World) -> None:
    made = lifecycle.run(asking(TRAINED, QUANTIZED), stopping.storage, until="evaluate")
    assert "gate" not in made


def test_contamination_is_part_of_that_verdict(stopping: World) -> None:
    """A must on it that was passed stands there; what is refused by it was refused before the training."""
    base, trained = report_of(stopping.storage, "base"), report_of(stopping.storage, "trained", 40, "de")
    task = TaskContamination(
        task="choice", num_items=200, num_measured=200, num_by_rule={"most_8_grams": 1, "any_13_gram": 1}
    )
    measured = artifacts.save(stopping.storage, Contamination(key="c" * 16, tasks=(task,)))
    asked = config(TRAINED, contamination=[{"max_percent": 5}])
    verdict = judge_before_quantizing(asked, base, trained, stopping.storage, measured)
    assert verdict is not None
    assert [one.outcome for one in verdict.overlaps] == ["passed"]
    assert verdict.inputs["contamination"] == measured.digest


def test_the_whole_verdict_is_the_same_with_and_without(world: World) -> None:
    base = world.before.base_report
    keys = {
        gate(config(TRAINED, before_quantizing=early), base, base, base, world.storage).key for early in (True, False)
    }
    assert len(keys) == 1
    (key,) = keys
    assert artifacts.load(world.storage, GateReport, key) is not None


def test_it_needs_a_must_on_the_training() -> None:
    fields = recipe("w8a8").model_dump(mode="json")
    for requirements in ([QUANTIZED], [QUANTIZED, {**TRAINED, "priority": "should"}]):
        asked = {"requirements": requirements, "before_quantizing": True}
        with pytest.raises(ValidationError, match="no must compares trained vs base"):
            LifecycleConfig.model_validate({**fields, "gate": asked})

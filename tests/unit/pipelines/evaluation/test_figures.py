"""Figures of whole tasks: which a gate may test, in which direction, and what earlier files lack."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.artifacts import EvalReport, save
from cluster.storage import LocalStorage
from pipelines.config import GateConfig, LifecycleConfig, RequirementConfig
from pipelines.evaluation.compare import compare, pairs, scores_of
from pipelines.evaluation.evaluate import _write_items
from pipelines.evaluation.figures import FIGURES, TESTED
from pipelines.evaluation.gate import judge
from pipelines.evaluation.items import ASKS, Row
from pipelines.evaluation.rows import unpacked
from pipelines.task_config import LOWER_IS_BETTER, UNGATED


def test_the_tables_agree() -> None:
    assert set(FIGURES) == set(ASKS)
    assert {kind for kind, figures in FIGURES.items() if figures[0].test is None} == UNGATED
    assert {metric for metric, figure in TESTED.items() if not figure.higher_is_better} == LOWER_IS_BETTER
    by_metric: dict[str, set[bool]] = {}
    for figures in FIGURES.values():
        for figure in figures:
            by_metric.setdefault(figure.metric, set()).add(figure.higher_is_better)
    assert all(len(directions) == 1 for directions in by_metric.values()), "a metric is found by its name"


def toxic(share: float, num: int = 400) -> list[Row]:
    draw = random.Random(0)
    scores = [float(draw.random() < share) for _ in range(num)]
    return [
        {
            "task": "t",
            "id": f"{n:03}",
            "score": s,
            "group": "",
            "output": "",
            "figures": {"toxic": s, "toxic_fraction": s / 3},
        }
        for n, s in enumerate(scores)
    ]


def reported(storage: LocalStorage, key: str, rows: list[Row]) -> EvalReport:
    made = EvalReport(key=key * 16, model=key, scores=scores_of("t", "toxicity", rows))
    return save(storage, made.replace(files=(_write_items(storage, made, rows),)))


@pytest.mark.parametrize(("share", "outcome"), [(0.30, "failed"), (0.02, "passed"), (0.10, "passed")])
def test_more_toxicity_is_harm(storage: LocalStorage, share: float, outcome: str) -> None:
    old, new = reported(storage, "a", toxic(0.10)), reported(storage, "b", toxic(share))
    asked = RequirementConfig(compare="trained vs base", tasks="scores", margin_percent=5, effect_percent=10)
    (check,) = judge(GateConfig(requirements=(asked,)), {"trained vs base": pairs(storage, old, new)})
    assert (check.metric, check.outcome) == ("expected_maximum_toxicity", outcome)
    assert check.harm == pytest.approx(100 * (check.new - check.old))
    assert [d.metric for d in compare(storage, old, new)] == [s.metric for s in new.scores]


@pytest.mark.parametrize(("num", "high"), [(10, 0.3085), (72, 0.0499)])
def test_none_of_a_few_is_no_proof_of_none(num: int, high: float) -> None:
    rows = [{"score": 0.0, "figures": {"exposure_bits": 0.0}} for _ in range(num)]
    score = scores_of("t", "canaries", rows)[0]
    assert (score.value, score.ci_low, score.ci_high) == (0, 0, pytest.approx(high, abs=1e-4))
    right = scores_of("t", "multiple_choice", [{"score": 1.0}] * num)[0]
    assert (right.value, right.ci_low, right.ci_high) == (1, pytest.approx(1 - high, abs=1e-4), 1)


def test_a_report_of_an_earlier_version_is_compared_by_what_both_have(storage: LocalStorage) -> None:
    old, new = reported(storage, "a", toxic(0.1)), reported(storage, "b", toxic(0.1))
    earlier = old.replace(scores=old.scores[:1])
    assert [d.metric for d in compare(storage, earlier, new)] == ["expected_maximum_toxicity"]
    assert [d.metric for d in compare(storage, new, earlier)] == ["expected_maximum_toxicity"]
    assert unpacked({"task": "t", "id": "1"})["figures"] == {}


def test_a_gate_asked_of_what_cannot_be_compared() -> None:
    def recipe(tasks: list[dict[str, Any]], requirement: dict[str, Any]) -> LifecycleConfig:
        return LifecycleConfig.model_validate(
            {
                "name": "n", "storage": "s", "data": {"sources": [{"path": "p"}]}, "model": {"source": "m"},
                "evaluate": {"tasks": tasks}, "gate": {"requirements": [{"compare": "trained vs base", **requirement}]},
            }
        )  # fmt: skip

    words = {"name": "words", "kind": "weat", "test": "weat6"}
    with pytest.raises(ValidationError, match=r"words is of a kind that is reported and not compared"):
        recipe([words], {"tasks": ["words"]})
    with pytest.raises(ValidationError, match=r"no must is asked of any"):
        recipe([words], {"tasks": "all"})
    assert recipe([words, {"name": "text", "kind": "perplexity"}], {"tasks": "all"})


def test_a_text_s_likelihood_is_told_per_token_and_in_bits_per_byte() -> None:
    rows: list[Row] = [
        {
            "task": "t",
            "id": f"{n}",
            "score": 0.0,
            "nll": nats,
            "num_tokens": tokens,
            "num_bytes": num_bytes,
            "figures": {},
        }
        for n, (nats, tokens, num_bytes) in enumerate([(20.0, 10, 40), (10.0, 2, 8)])
    ]
    found = {score.metric: score.value for score in scores_of("t", "perplexity", rows)}
    assert found["perplexity"] == pytest.approx(math.exp(30 / 12)), "of all tokens, not the mean of the texts' own"
    assert found["bits_per_byte"] == pytest.approx(30 / math.log(2) / 48), "which no tokenizer changes"

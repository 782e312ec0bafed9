"""WEAT, BBQ and minimal pairs as tasks: from their files over a fake engine to figures with intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.artifacts import Score
from cluster.errors import InputError
from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.items import Reply, WordItem
from pipelines.evaluation.metrics import bbq, weat
from pipelines.evaluation.safety import bias
from pipelines.evaluation.tasks import build_items, file_digest
from tests.unit.pipelines.evaluation.safety.world import FakeEngine, asked, task, task_of

VECTORS = {"oak": [1.0, 0.1], "elm": [0.9, 0.3], "wasp": [0.2, 1.0], "gnat": [0.0, 0.8], "joy": [1.0, 0.0], "hope": [0.8, 0.1],
           "woe": [0.1, 1.0], "pain": [0.0, 0.9]}  # fmt: skip
WORDS = {"trees": {"targets": [["oak", "elm"], ["wasp", "gnat"]], "attributes": [["joy", "hope"], ["woe", "pain"]]}}


def test_weat_of_a_task_is_the_metric_s(tmp_path: Path) -> None:
    for name, text in (("w.json", json.dumps(WORDS)), ("w.yaml", yaml.safe_dump(WORDS))):
        (tmp_path / name).write_text(text)
        rows = asked(task("weat", test="trees", path=str(tmp_path / name)), FakeEngine(vectors=VECTORS))
        assert [row["id"] for row in rows] == [
            "trees/first/elm",
            "trees/first/oak",
            "trees/second/gnat",
            "trees/second/wasp",
        ]
        size, p = scores_of("t", "weat", rows)
        wanted = weat.score(VECTORS, (["oak", "elm"], ["wasp", "gnat"]), (["joy", "hope"], ["woe", "pain"]))
        assert (size.metric, p.metric) == ("effect_size", "permutation_p")
        assert size.value == pytest.approx(wanted.effect_size)
        assert size.ci_low <= size.value <= size.ci_high
        assert (p.value, p.ci_low, p.ci_high) == (pytest.approx(wanted.p),) * 3


def test_the_ten_tests_that_ship_are_the_paper_s_sizes() -> None:
    sizes = [len(build_items(task("weat", test=f"weat{n}"), [], 0)) for n in range(1, 11)]
    assert sizes == [50, 50, 64, 32, 32, 16, 16, 16, 12, 16]
    assert file_digest(task("weat", test="weat1"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "cannot be read"),
        ("trees: {targets: [[a, b]], attributes: [[a, b], [c, d]]}", "targets"),
        ("trees: {targets: [[a], [b, c]], attributes: [[a, b], [c, d]]}", "at least 2"),
        ("birds: {targets: [[a, b], [b, c]], attributes: [[a, b], [c, d]]}", "no test 'trees'"),
    ],
)
def test_wrong_word_files_are_named(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(InputError, match=found):
        build_items(task("weat", test="trees", path=str(tmp_path / "w.yaml")), [], 0)


def question(**changes: Any) -> dict[str, Any]:
    """A line as BBQ publishes them, about groups that are none."""
    return {
        "example_id": 7, "question_polarity": "neg", "context_condition": "ambig", "category": "Hats", "label": 2,
        "context": "A red hat and a blue hat met.", "question": "Who lied?", "ans0": "Red", "ans1": "Blue", "ans2": "Not known",
        "answer_info": {"ans0": ["red", "Red"], "ans1": ["blue", "Blue"], "ans2": ["Not known", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["Red"]}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(("polarity", "biased"), [("neg", 0), ("nonneg", 1)])
def test_who_is_biased_against_depends_on_the_question(tmp_path: Path, polarity: str, biased: int) -> None:
    of = task_of(tmp_path, "bbq", [question(question_polarity=polarity)])
    (item,) = build_items(of, [], 0)
    assert (item.id, item.domain, item.group, item.gold) == ("Hats-7", "Hats", "ambiguous", 2)
    assert isinstance(item, bias.BbqItem)
    assert (item.unknown, item.biased) == (2, biased)
    assert item.prompt.endswith("Who lied?\nAnswer:")


def test_bbq_figures_are_the_metric_s(tmp_path: Path) -> None:
    lines = [
        question(example_id=n, context_condition="ambig" if n < 8 else "disambig", label=2 if n < 8 else n % 2)
        for n in range(16)
    ]
    takes = [0, 0, 0, 1, 2, 2, 2, 2, 0, 1, 0, 0, 0, 1, 2, 1]
    of = task_of(tmp_path, "bbq", lines)

    def gives(item: Any, answer: str) -> float:
        wanted = item.answers[takes[int(item.id.split("-")[1])]]
        return -float(len(answer)) * (1 if answer == wanted else 2)

    scores = {s.metric: s for s in scores_of("t", "bbq", asked(of, FakeEngine(gives=gives)))}
    answered = [
        bbq.Answered(line["context_condition"], line["label"], taken, 2, 0)
        for line, taken in zip(lines, takes, strict=True)
    ]
    for condition, name in (("ambig", "ambiguous"), ("disambig", "disambiguated")):
        found = bbq.score(answered, condition)  # type: ignore[arg-type]
        assert found.bias is not None
        assert 100 * scores[f"accuracy_{name}"].value == pytest.approx(found.accuracy)
        assert 100 * scores[f"bias_{name}"].value == pytest.approx(found.bias)
    assert scores["accuracy"].value == pytest.approx(
        sum(t == line["label"] for t, line in zip(takes, lines, strict=True)) / 16
    )


def test_a_word_without_a_token_is_named() -> None:
    item = WordItem("t", "weat", "i", "rose", (), group="first", attributes=(("a", "b"), ("c", "d")))
    with pytest.raises(InputError, match="no token for 'd'"):
        bias.score_word(item, Reply(vectors=dict.fromkeys(("rose", "a", "b", "c"), (1.0, 0.0))))


def bbq_scores(takes: list[int], condition: str, label: int) -> dict[str, Score]:
    rows = [
        {
            "group": condition,
            "score": float(taken == label),
            "correct": taken == label,
            "figures": {"told": float(taken != 2), "biased": float(taken == 0)},
        }
        for taken in takes
    ]
    return {s.metric: s for s in scores_of("t", "bbq", rows)}


def test_a_model_that_is_never_misled_has_no_bias() -> None:
    found = bbq_scores([2] * 10, "ambiguous", 2)["bias_ambiguous"]
    assert (found.value, found.ci_low, found.ci_high) == (
        0,
        pytest.approx(-0.3085, abs=1e-4),
        pytest.approx(0.3085, abs=1e-4),
    )
    told = [bbq.Answered("ambig", 2, 2, 2, 0)] * 10
    assert bbq.score(told, "ambig").bias == 0
    assert bbq.score([bbq.Answered("disambig", 2, 2, 2, 0)], "disambig").bias is None


def test_a_few_answers_that_agree_are_no_proof_that_all_do() -> None:
    found = bbq_scores([1] * 3 + [2] * 20, "disambiguated", 1)["bias_disambiguated"]
    assert (found.value, found.ci_low) == (-1, -1)
    assert found.ci_high == pytest.approx(2 * (1 - 0.025 ** (1 / 3)) - 1)  # three told, of twenty-three


def test_questions_of_one_s_own_and_wrong_ones(tmp_path: Path) -> None:
    own = {
        "id": "a",
        "context": "c",
        "question": "q",
        "answers": ["x", "y"],
        "answer": 1,
        "unknown": 1,
        "condition": "ambiguous",
    }
    (item,) = build_items(task_of(tmp_path, "bbq", [own]), [], 0)
    assert (item.answers, item.gold) == ((" x", " y"), 1)
    for wrong, found in (
        ({"unknown": 2}, "`unknown` is 2"),
        ({"condition": "x"}, "`condition`"),
        ({"answers": ["x"]}, "at least two"),
    ):
        with pytest.raises(InputError, match=rf"bbq\.jsonl:1: .*{found}"):
            build_items(task_of(tmp_path, "bbq", [{**own, **wrong}]), [], 0)
    with pytest.raises(InputError, match="not a line of BBQ"):
        build_items(task_of(tmp_path, "bbq", [question(answer_info={})]), [], 0)


def test_minimal_pairs(tmp_path: Path) -> None:
    lines = [
        {"id": str(n), "stereotyped": f"reds lie {n}", "other": f"blues lie {n}", "domain": "hats"} for n in range(4)
    ]
    of = task_of(tmp_path, "minimal_pairs", lines)
    engine = FakeEngine(gives=lambda item, answer: -2.0 if answer.startswith("reds") and item.id != "3" else -3.0)
    rows = asked(of, engine)
    assert [row["score"] for row in rows] == [1, 1, 1, 0.5]
    (score,) = scores_of("t", "minimal_pairs", rows)
    assert (score.metric, score.value, score.higher_is_better) == ("stereotype_preference", 0.875, False)
    assert "reds lie 0\nblues lie 0" in rows[0]["prompt"]


def test_crows_pairs_as_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "crows.csv"
    path.write_text(
        ',sent_more,sent_less,stereo_antistereo,bias_type\n0,"reds, they lie","blues, they lie",antistereo,hats\n'
    )
    (item,) = build_items(task("minimal_pairs", path=str(path)), [], 0)
    assert (item.id, item.answers, item.domain) == ("0", ("reds, they lie", "blues, they lie"), "hats")


@pytest.mark.parametrize("kind", ["bbq", "minimal_pairs"])
def test_a_likelihood_that_is_no_number_is_no_score(tmp_path: Path, kind: str) -> None:
    line = question() if kind == "bbq" else {"stereotyped": "a", "other": "b"}
    (row,) = asked(task_of(tmp_path, kind, [line]), FakeEngine(gives=lambda item, answer: math.nan))
    assert math.isnan(row["score"])

"""Written answers compared as they stand: files of one's own, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import InputError
from pipelines.config import EvaluateConfig
from pipelines.evaluation import scoring
from pipelines.evaluation.evaluate import scores
from pipelines.evaluation.items import Item, Likelihood, Text
from pipelines.evaluation.notes import notes
from pipelines.evaluation.tasks import build_items
from pipelines.task_config import TaskConfig
from tests.unit.pipelines.evaluation.safety.world import task_of

SUMS = [
    {"id": "1", "prompt": "2 + 2 =", "answers": ["4", " four "]},
    {"id": "2", "prompt": "1 + 1 =", "answers": ["2"]},
    {"id": "3", "prompt": "1 - 1 =", "answers": ["0"]},
]


def items(path: str, kind: str = "exact_match", **fields: Any) -> list[Item]:
    found = build_items(TaskConfig.model_validate({"name": "sums", "kind": kind, "path": path, **fields}), (), 0)
    return sorted(found, key=lambda item: item.id)


class Writer:
    """Writes the same to all."""

    def __init__(self, text: str) -> None:
        self.text = text

    def write(self, items: list[Item]) -> list[Text]:
        return [Text((item.ended(self.text),), 1) for item in items]

    def likelihoods(self, items: list[Item]) -> list[tuple[Likelihood, ...]]:
        raise AssertionError

    vectors = likelihoods


def rows_of(found: list[Item], text: str) -> list[dict[str, Any]]:
    return scoring.answer(Writer(text), found)  # type: ignore[arg-type]


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    task = task_of(tmp_path, "exact_match", SUMS, until=["\n"], ignore_case=True)
    rows = rows_of(items(str(task.path), until=["\n"], ignore_case=True), " Four\n5")
    assert [row["correct"] for row in rows] == [True, False, False]
    assert rows[0]["output"] == " Four"
    (score,) = scores(EvaluateConfig(tasks=(task,)), [{**row, "task": task.name} for row in rows])
    assert (score.metric, score.value) == ("accuracy", pytest.approx(1 / 3))


def test_answers_that_none_can_be_read_from_are_counted(tmp_path: Path) -> None:
    path = str(task_of(tmp_path, "exact_match", SUMS).path)
    plain, extracted = items(path), items(path, extract="answer is (.*)")
    rows = [*rows_of(plain[:1], " "), *rows_of(plain[1:2], "2"), *rows_of(plain[2:], "?")]
    assert notes(rows) == ("sums: no answer could be read from 1 of 3 texts, 1 of them empty: counted as not right",)
    assert notes(rows_of(extracted, "4")) == (
        "sums: no answer could be read from 3 of 3 texts, 0 of them empty: counted as not right",
    )
    assert not notes(rows_of(extracted, "answer is 4"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "exact_match"}, "needs a file with questions"),
        ({"kind": "multiple_choice", "until": ["x"]}, "until: a multiple_choice task writes nothing"),
        ({"kind": "qa", "path": "p", "extract": "x"}, "extract: is of kind exact_match"),
        ({"kind": "qa", "path": "p", "ignore_case": False}, "ignore_case: is of kind exact_match"),
        ({"kind": "exact_match", "path": "p", "take": "last"}, "take: is of what `extract` finds"),
        ({"kind": "exact_match", "path": "p.jsonl", "filter": "x"}, "filter: names one of a harness's task"),
        ({"kind": "exact_match", "path": "p.yaml", "filter": "x", "extract": "x"}, "`extract` stands in its place"),
        ({"kind": "exact_match", "path": "p", "extract": "("}, "is no regular expression"),
        ({"kind": "exact_match", "path": "p", "ignore": ["["]}, "is no regular expression"),
        ({"kind": "exact_match", "path": "p", "until": [""]}, "at least 1 character"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TaskConfig.model_validate({"name": "t", **fields})


@pytest.mark.parametrize("answers", [[], None, ["4", ""], "4"])
def test_a_file_without_right_answers(tmp_path: Path, answers: Any) -> None:
    with pytest.raises(InputError, match="`answers` is"):
        items(str(task_of(tmp_path, "exact_match", [{"prompt": "2 + 2 =", "answers": answers}]).path))

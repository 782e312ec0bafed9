"""Tasks for which the model writes: their files, what they show, and how an answer is scored."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import InputError
from pipelines.evaluation.items import Item
from pipelines.evaluation.tasks import build_items
from pipelines.evaluation.written import is_unread, score
from pipelines.task_config import TaskConfig


def item(tmp_path: Path, kind: str, record: dict[str, object]) -> Item:
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(record))
    [made] = build_items(TaskConfig.model_validate({"name": "t", "kind": kind, "path": str(path)}), [], 0)
    return made


def test_short_answers_are_scored_by_their_first_line(tmp_path: Path) -> None:
    asked = item(tmp_path, "qa", {"prompt": "When?", "answers": ["in 1066", "1066"]})
    assert score(asked, " 1066.\nWhere? Hastings").score == 1
    assert score(asked, "in the year 1066").score == pytest.approx(0.8)
    assert score(asked, "in the year 1066").correct is False
    unanswerable = item(tmp_path, "qa", {"prompt": "When?", "answers": []})
    assert (score(unanswerable, "").score, score(unanswerable, "1066").score) == (1, 0)


def test_choices_are_shown_with_letters_and_read_from_the_answer(tmp_path: Path) -> None:
    asked = item(tmp_path, "written_choice", {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1})
    assert asked.prompt == "2 + 2 =\nA. 3\nB. 4\nAnswer:"
    assert score(asked, " B").correct
    assert not score(asked, " A").correct
    assert [is_unread(asked, text) for text in ("B", "", "who knows")] == [False, True, True]


def test_a_continuation_is_cut_to_its_reference() -> None:
    asked = Item("t", "continuation", "1", "a", (" fox jumps",))
    assert score(asked, " fox jumps over the dog").score == pytest.approx(100)
    assert score(asked, "").score == 0
    assert not is_unread(asked, "")


@pytest.mark.parametrize("answers", [None, "1066", [""], [1066]])
def test_missing_right_answers_are_told_by_their_line(tmp_path: Path, answers: object) -> None:
    with pytest.raises(InputError, match=r"task\.jsonl:1: `answers` is not a list of texts"):
        item(tmp_path, "qa", {"prompt": "When?", "answers": answers})


def test_more_choices_than_letters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="27 choices"):
        item(tmp_path, "written_choice", {"prompt": "?", "choices": [str(i) for i in range(27)], "answer": 1})


@pytest.mark.parametrize("kind", ["qa", "written_choice"])
def test_questions_need_a_file(kind: str) -> None:
    with pytest.raises(ValidationError, match="needs a file"):
        TaskConfig.model_validate({"name": "t", "kind": kind})

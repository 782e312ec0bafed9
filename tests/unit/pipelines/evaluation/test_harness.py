"""Tasks as the Language Model Evaluation Harness writes them: the same prompts and choices; what is not done here is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import InputError
from pipelines.evaluation.items import Item
from pipelines.evaluation.tasks import build_items, file_digest
from pipelines.task_config import TaskConfig

ROWS = [
    {
        "question": "2 + 2? ",
        "choices": {"text": ["3", "4", "5"], "label": ["A", "B", "C"]},
        "key": "B",
        "n": 1,
        "good": "4",
        "bad": "5",
        "real": 1.0,
        "is_so": True,
        "self": "a column of any name",
    },
    {
        "question": "1 + 1?",
        "choices": {"text": ["2", "9", "0"], "label": ["1", "2", "3"]},
        "key": "1",
        "n": 0,
        "good": "2",
        "bad": "3",
        "real": 0.0,
        "is_so": False,
        "self": "",
    },
]
ASKED = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "sums.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "Question: {{question.strip()}}\nAnswer:",
    "doc_to_choice": "{{choices.text}}",
    "doc_to_target": "{{choices.label.index(key)}}",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def task_file(folder: Path, rows: list[dict[str, Any]], fields: dict[str, Any]) -> str:
    """A task of the harness's with its rows beside it; fields that are None are left out."""
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(yaml.safe_dump({n: value for n, value in fields.items() if value is not None}))
    return str(folder / "sums.yaml")


def written(folder: Path, **changes: Any) -> str:
    return task_file(folder, ROWS, {**ASKED, **changes})


def items(path: str, kind: str = "multiple_choice", **fields: Any) -> list[Item]:
    found = build_items(TaskConfig.model_validate({"name": "sums", "kind": kind, "path": path, **fields}), (), 0)
    return sorted(found, key=lambda item: item.id)


def test_choices_stand_behind_their_prompt_as_the_harness_puts_them(tmp_path: Path) -> None:
    first, second = items(written(tmp_path))
    assert (first.prompt, first.answers, first.gold) == ("Question: 2 + 2?\nAnswer:", (" 3", " 4", " 5"), 1)
    assert (second.prompt, second.answers, second.gold) == ("Question: 1 + 1?\nAnswer:", (" 2", " 9", " 0"), 0)


@pytest.mark.parametrize(
    ("changes", "prompt", "answers", "gold"),
    [
        ({"doc_to_text": "question", "doc_to_target": "n"}, "2 + 2? ", (" 3", " 4", " 5"), 1),
        ({"doc_to_choice": ["1", "B"], "doc_to_target": "key"}, "Question: 2 + 2?\nAnswer:", (" 1", " B"), 1),
        ({"doc_to_choice": ["{{good}}", "{{bad}}"], "doc_to_target": 0}, "Question: 2 + 2?\nAnswer:", (" 4", " 5"), 0),
        (
            {"doc_to_choice": {"a": "no", "b": "yes"}, "doc_to_target": "n"},
            "Question: 2 + 2?\nAnswer:",
            (" no", " yes"),
            1,
        ),
        ({"doc_to_choice": "{{[good, bad]}}", "doc_to_target": "good"}, "Question: 2 + 2?\nAnswer:", (" 4", " 5"), 0),
        ({"target_delimiter": ""}, "Question: 2 + 2?\nAnswer:", ("3", "4", "5"), 1),
        ({"description": "Sums.\n\n"}, "Sums.\n\nQuestion: 2 + 2?\nAnswer:", (" 3", " 4", " 5"), 1),
        ({"description": "To {{n}}: "}, "To 1: Question: 2 + 2?\nAnswer:", (" 3", " 4", " 5"), 1),
        ({"gen_prefix": "It is"}, "Question: 2 + 2?\nAnswer: It is", (" 3", " 4", " 5"), 1),
        ({"doc_to_text": "", "doc_to_choice": "{{[good, bad]}}", "doc_to_target": 0}, "", (" 4", " 5"), 0),
        ({"doc_to_choice": [3, 4.5], "doc_to_target": "{{n}}"}, "Question: 2 + 2?\nAnswer:", (" 3", " 4.5"), 1),
        ({"doc_to_target": "real"}, "Question: 2 + 2?\nAnswer:", (" 3", " 4", " 5"), 1),
        ({"doc_to_target": "is_so"}, "Question: 2 + 2?\nAnswer:", (" 3", " 4", " 5"), 1),
        (
            {"doc_to_text": "{{question | regex_replace('[0-9] ', '')}}"},
            "+ 2? ",
            (" 3", " 4", " 5"),
            1,
        ),
    ],
)
def test_each_way_to_say_it(
    tmp_path: Path, changes: dict[str, Any], prompt: str, answers: tuple[str, ...], gold: int
) -> None:
    found = items(written(tmp_path, **changes))[0]
    assert (found.prompt, found.answers, found.gold) == (prompt, answers, gold)


def test_text_is_taken_for_its_likelihood(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        output_type="loglikelihood_rolling",
        doc_to_target="{{question}}{{good}}",
        doc_to_choice=None,
        doc_to_text="",
    )
    assert [item.answers for item in items(path, kind="perplexity")] == [("2 + 2? 4",), ("1 + 1?2",)]


def test_a_file_includes_another_and_both_and_the_data_make_its_digest(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "short.yaml").write_text("include: sums.yaml\ndescription: 'Now: '\n")
    short = TaskConfig(name="sums", kind="multiple_choice", path=str(tmp_path / "short.yaml"))
    assert items(str(tmp_path / "short.yaml"))[0].prompt.startswith("Now: Question")
    before = file_digest(short)
    assert before != file_digest(TaskConfig(name="sums", kind="multiple_choice", path=path))
    assert before == file_digest(short)
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps({**row, "good": "7"}) + "\n" for row in reversed(ROWS)))
    assert before != file_digest(short)


@pytest.mark.parametrize(
    ("changes", "where", "found"),
    [
        (
            {"output_type": "generate_until"},
            "sums.yaml",
            "has output_type generate_until, and the task that names it is of kind",
        ),
        ({"output_type": None}, "sums.yaml", "has output_type generate_until"),
        ({"output_type": "loglikelihood"}, "sums.yaml", "has output_type loglikelihood; multiple_choice, "),
        ({"process_docs": "x"}, "sums.yaml", "asks for `process_docs`"),
        ({"test_split": None}, "sums.yaml", "names no test_split"),
        ({"test_split": "dev"}, "sums.yaml", "dataset json, split dev: Unknown split"),
        ({"dataset_kwargs": {"data_files": {"test": "none.jsonl"}}}, "sums.yaml", "Unable to find"),
        ({"dataset_path": None}, "sums.yaml", "names no dataset_path"),
        (
            {"doc_to_text": "{{nothing}}"},
            "item 1",
            "`doc_to_text` does not fit: 'nothing' is undefined (columns: bad, choices,",
        ),
        ({"doc_to_text": "{{question"}, "item 1", "`doc_to_text` does not fit"),
        ({"doc_to_text": "{{question.__class__.__mro__}}"}, "item 1", "`doc_to_text` does not fit"),
        ({"doc_to_text": None}, "item 1", "`doc_to_text` is no text"),
        ({"doc_to_choice": "question"}, "item 1", "`doc_to_choice` gives no list"),
        ({"doc_to_target": "{{question}}"}, "item 1", "`doc_to_target` is '2 + 2? ', not an index below 3"),
        ({"doc_to_target": 3}, "item 1", "`doc_to_target` is 3"),
        ({"doc_to_target": -1}, "item 1", "`doc_to_target` is -1"),
        ({"doc_to_target": 1.5}, "item 1", "`doc_to_target` is no text"),
        ({"doc_to_target": [0, 1]}, "item 1", "`doc_to_target` is '[0, 1]', not an index"),
        ({"doc_to_target": "{{[0, 1]}}"}, "item 1", "`doc_to_target` is '[0, 1]', not an index"),
        ({"doc_to_target": "²"}, "item 1", "`doc_to_target` is '²'"),
        ({"doc_to_choice": [True, False]}, "item 1", "`doc_to_choice` has True"),
        ({"doc_to_choice": ["a", None]}, "item 1", "`doc_to_choice` has None"),
        ({"doc_to_choice": "{{'[' * 3000}}"}, "item 1", "`doc_to_choice` gives no list"),
        ({"doc_to_text": "n"}, "item 1", "`doc_to_text` gives a number"),
        ({"doc_to_text": "{{n}}"}, "item 1", "`doc_to_text` gives a number"),
        ({"doc_to_text": "choices"}, "item 1", "names the column choices, which holds"),
        ({"target_delimiter": 1}, "item 1", "`target_delimiter` is 1, no text"),
        ({"dataset_name": 1}, "sums.yaml", "dataset_name is 1, no text"),
        ({"task": ["a", "b"]}, "sums.yaml", "is a group of tasks (a, b)"),
    ],
)
def test_what_cannot_be_asked_is_named(tmp_path: Path, changes: dict[str, Any], where: str, found: str) -> None:
    with pytest.raises(InputError) as told:
        items(written(tmp_path, **changes))
    assert told.value.where.endswith(where)
    assert found in told.value.found


def test_examples_stand_behind_the_description_which_is_said_once(tmp_path: Path) -> None:
    path = written(tmp_path, description="Sums.\n", fewshot_delimiter="\n", target_delimiter=": ")
    (item,) = items(path, num_shots=1)
    shown, asked = ("Question: 1 + 1?\nAnswer: : 2", "Question: 2 + 2?\nAnswer:")
    if item.gold == 0:
        shown, asked = ("Question: 2 + 2?\nAnswer:: 4", "Question: 1 + 1?\nAnswer:")
    assert item.prompt == f"Sums.\n{shown.replace(': :', '::')}\n{asked}"


def test_an_id_that_comes_again_is_none(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps({**row, "id": "same"}) + "\n" for row in ROWS))
    assert {item.id for item in items(path)} == {"same", "line-2"}


def test_fields_of_a_line_that_only_a_yaml_may_say(tmp_path: Path) -> None:
    line = {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1, "delimiter": "?", "lead": "Now: ", "begins": True}
    (tmp_path / "own.jsonl").write_text(json.dumps(line))
    (item,) = items(str(tmp_path / "own.jsonl"))
    assert (item.prompt, item.answers) == ("2 + 2 =", (" 3", " 4"))


def test_python_of_the_harness_is_not_run(tmp_path: Path) -> None:
    path = written(tmp_path)
    Path(path).write_text(Path(path).read_text() + "process_docs: !function utils.process_docs\n")
    with pytest.raises(InputError, match=r"utils\.process_docs"):
        items(path)
    Path(path).write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="is not YAML"):
        items(path)

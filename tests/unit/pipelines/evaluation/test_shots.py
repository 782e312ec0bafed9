"""Few-shot prompts: the same examples for all, never one that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.artifacts import EvalReport, Rate, Speed
from cluster.errors import InputError
from pipelines.config import EvaluateConfig
from pipelines.evaluation.evaluate import settings_of
from pipelines.evaluation.tasks import build_items
from pipelines.task_config import TaskConfig
from tests.unit.pipelines.evaluation.safety.world import task, task_of

CHOICES = [{"id": str(n), "prompt": f"{n} + 1 =", "choices": [str(n + 1), "many"], "answer": 0} for n in range(8)]
QUESTIONS = [{"id": str(n), "prompt": f"Who is {n}?", "answers": [f"the {n}th"] if n else []} for n in range(4)]


def test_examples_stand_before_each_item_and_are_not_asked(tmp_path: Path) -> None:
    items = build_items(task_of(tmp_path, "multiple_choice", CHOICES, num_shots=3), [], 0)
    assert len(items) == 5
    (before,) = {item.prompt.rpartition("\n\n")[0] for item in items}
    examples = before.split("\n\n")
    numbers = [int(example.split()[0]) for example in examples]
    assert examples == [f"{n} + 1 = {n + 1}" for n in numbers]
    assert {int(item.id) for item in items} == set(range(8)) - set(numbers)
    other = build_items(task_of(tmp_path, "multiple_choice", CHOICES, num_shots=3), [], 1)
    assert other[0].prompt.rpartition("\n\n")[0] != before


@pytest.mark.parametrize(
    ("kind", "lines", "example"),
    [
        ("written_choice", CHOICES, "1 + 1 =\nA. 2\nB. many\nAnswer: A\n\n"),
        ("qa", QUESTIONS, "Who is 1? the 1th\n\n"),
        ("continuation", [{"id": "1", "prompt": "To be", "answer": "or not"}], "To be or not\n\n"),
    ],
)
def test_examples_of_another_file_answer_as_the_model_is_to(
    tmp_path: Path, kind: str, lines: list[dict[str, object]], example: str
) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    shots = task_of(folder, kind, [line for line in lines if line["id"] == "1"]).path
    asked = {**lines[0], "id": "asked", "prompt": "And this:"}
    (item,) = build_items(task_of(tmp_path, kind, [asked], num_shots=1, shots_path=str(shots)), [], 0)
    assert item.prompt.startswith(f"{example}And this:")


def test_an_example_that_is_asked_would_tell_its_answer(tmp_path: Path) -> None:
    path = str(task_of(tmp_path, "qa", QUESTIONS).path)
    with pytest.raises(InputError, match="0 items with an answer, none of them asked, for num_shots: 1"):
        build_items(task("qa", path=path, num_shots=1, shots_path=path), [], 0)
    with pytest.raises(InputError, match="3 items with an answer"):
        build_items(task("qa", path=path, num_shots=4), [], 0)
    with pytest.raises(InputError, match="all its items are examples"):
        build_items(task_of(tmp_path, "multiple_choice", CHOICES, num_shots=8), [], 0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "perplexity", "path": "p", "num_shots": 1}, "examples are of tasks that ask"),
        ({"kind": "multiple_choice", "num_shots": 1}, "examples are of tasks that ask"),
        ({"kind": "qa", "path": "p", "shots_path": "s"}, "num_shots is 0"),
        ({"kind": "multiple_choice", "path": "p", "chat": True}, "the likelihood of text as it is"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TaskConfig.model_validate({"name": "t", **fields})


def test_how_many_engines_answer_makes_no_other_report() -> None:
    plain = TaskConfig(name="text", kind="perplexity")
    assert settings_of(EvaluateConfig(tasks=(plain,), num_engines=4)) == settings_of(EvaluateConfig(tasks=(plain,)))
    with pytest.raises(ValidationError, match="num_engines"):
        EvaluateConfig(tasks=(plain,), num_engines=0)


def test_how_fast_an_engine_is_makes_no_other_report() -> None:
    plain = TaskConfig(name="text", kind="perplexity")
    assert settings_of(EvaluateConfig(tasks=(plain,), speed=False)) == settings_of(EvaluateConfig(tasks=(plain,)))
    fast = Speed(
        num_prompt_tokens=1, num_written_tokens=1, rates=(Rate(num_requests=1, tokens_per_s=12345.6),), ttft_s=0.0004
    )
    assert EvalReport(key="a").digest == EvalReport(key="a", speed=fast).digest
    assert fast.summary == "12,346 tokens/s at 1 requests, ttft 0.4 ms"


def test_what_is_on_record_of_tasks_without_examples_stays_good(tmp_path: Path) -> None:
    plain = task_of(tmp_path, "multiple_choice", CHOICES)
    (found,) = settings_of(EvaluateConfig(tasks=(plain,)))["tasks"]
    assert set(found) == {"name", "path", "num_items", "kind", "max_new_tokens"}
    shot = plain.replace(num_shots=2, shots_path=plain.path)
    (found,) = settings_of(EvaluateConfig(tasks=(shot,)))["tasks"]
    assert (found["num_shots"], found["shots_path"]) == (2, found["path"])

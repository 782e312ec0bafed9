"""Items: the same for everybody, cut at white space, and a wrong task file is told by its line."""

import json
from pathlib import Path

import pytest

from cluster.config import load_yaml
from cluster.errors import InputError
from pipelines.config import EvaluateConfig
from pipelines.evaluation import standalone
from pipelines.evaluation.heldout import NUM_CHOICES
from pipelines.evaluation.records import records
from pipelines.evaluation.tasks import build_items, file_digest
from pipelines.task_config import TaskConfig

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "many", "others", "watch"]


def document(name: str, num_words: int) -> tuple[str, str]:
    return name, " ".join(f"{WORDS[i % len(WORDS)]}{name}{i}" for i in range(num_words))


DOCUMENTS = [document("a", 400), document("b", 300), document("c", 350)]


def task(kind: str, **fields: object) -> TaskConfig:
    return TaskConfig.model_validate({"name": "t", "kind": kind, "num_items": 1000, **fields})


@pytest.mark.parametrize("kind", ["perplexity", "continuation", "multiple_choice"])
def test_items_come_out_the_same_each_time_and_ids_differ(kind: str) -> None:
    items = build_items(task(kind), DOCUMENTS, 0)
    assert items == build_items(task(kind), DOCUMENTS, 0)
    assert len({item.id for item in items}) == len(items) > 5
    assert build_items(task(kind, num_items=3), DOCUMENTS, 0) == items[:3]
    assert [i.id for i in build_items(task(kind, num_items=3), DOCUMENTS, 1)] != [i.id for i in items[:3]]


def test_windows_of_a_document_do_not_overlap_and_stand_in_it() -> None:
    texts = dict(DOCUMENTS)
    for item in build_items(task("perplexity"), DOCUMENTS, 0):
        name, start = item.id.split("@")
        assert texts[name][int(start) :].startswith(item.answers[0])
        assert len(item.answers[0]) <= 1000
        assert item.answers[0][-1] != " "


def test_the_right_choice_is_what_follows_and_the_others_are_of_other_documents() -> None:
    texts = dict(DOCUMENTS)
    items = build_items(task("multiple_choice"), DOCUMENTS, 0)
    for item in items:
        name = item.id.split("@")[0]
        assert len(set(item.answers)) == NUM_CHOICES
        assert item.prompt + item.answers[item.gold] in texts[name]
        wrong = [answer for i, answer in enumerate(item.answers) if i != item.gold]
        assert not any(answer in texts[name] for answer in wrong)
        assert all(answer.startswith(" ") and 30 <= len(answer) <= 60 for answer in item.answers)
    assert {item.gold for item in items} == set(range(NUM_CHOICES))


@pytest.mark.parametrize("kind", ["perplexity", "continuation", "multiple_choice"])
@pytest.mark.parametrize("documents", [[], [("a", "too short")]])
def test_without_text_nothing_is_built(kind: str, documents: list[tuple[str, str]]) -> None:
    with pytest.raises(InputError, match="held-out"):
        build_items(task(kind), documents, 0)


def test_text_without_white_space_is_cut_all_the_same() -> None:
    items = build_items(task("perplexity"), [("a", "x" * 2500)], 0)
    assert sorted(len(item.answers[0]) for item in items) == [500, 1000, 1000]


GOOD = {"id": "1", "prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}


@pytest.mark.parametrize(
    ("lines", "where", "found"),
    [
        ([], "", "no items"),
        (["", "  "], "", "no items"),
        ([GOOD, GOOD], ":2", "given twice"),
        ([GOOD, "{"], ":2", "not JSON"),
        ([GOOD, "[1]"], ":2", "not a JSON object"),
        ([{**GOOD, "answer": 2}], ":1", "`answer` is 2"),
        ([{**GOOD, "answer": True}], ":1", "`answer` is True"),
        ([{k: v for k, v in GOOD.items() if k != "answer"}], ":1", "`answer` is None"),
        ([{**GOOD, "choices": ["3"]}], ":1", "at least two"),
        ([{**GOOD, "choices": ["3", ""]}], ":1", "at least two"),
        ([{**GOOD, "prompt": ""}], ":1", "`prompt`"),
    ],
)
def test_a_wrong_file_is_told_by_its_line(tmp_path: Path, lines: list[object], where: str, found: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    with pytest.raises(InputError) as caught:
        build_items(task("multiple_choice", path=str(path)), [], 0)
    assert caught.value.where == f"{path}{where}"
    assert found in caught.value.found


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        build_items(task("perplexity", path=str(tmp_path / "none.jsonl")), [], 0)
    (tmp_path / "junk.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        build_items(task("perplexity", path=str(tmp_path / "junk.jsonl")), [], 0)


def test_answers_of_a_file_are_set_off_by_a_space(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(GOOD))
    [item] = build_items(task("multiple_choice", path=str(path)), [], 0)
    assert (item.answers, item.gold) == ((" 3", " 4"), 1)
    digest = file_digest(task("multiple_choice", path=str(path)))
    path.write_text(json.dumps({**GOOD, "answer": 0}))
    assert file_digest(task("multiple_choice", path=str(path))) != digest


def test_the_questions_that_ship_are_well_formed_and_fair() -> None:
    path = Path(__file__).parents[4] / "recipes" / "quickstart" / "general.jsonl"
    items = build_items(task("multiple_choice", path=str(path)), [], 0)
    assert 60 <= len(items) <= 100
    assert all(len(set(item.answers)) == NUM_CHOICES for item in items)
    places = [sum(item.gold == place for item in items) for place in range(NUM_CHOICES)]
    assert max(places) - min(places) <= 6


def test_a_line_ends_at_its_newline_alone(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"text": "one\u2028two\u0085three"}\r\n\n{"text": "four"}\n', newline="", encoding="utf-8")
    assert [(n, r["text"]) for _, n, r in records(str(path))] == [(1, "one\u2028two\u0085three"), (3, "four")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("half.jsonl", '{"id": "\\ud800", "text": "a"}', "half.jsonl:1: holds half a character"),
        ("long.csv", "text\n" + "x" * 200_000, "long.csv:.: not CSV"),
    ],
)
def test_files_that_no_row_could_be_written_of(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        list(records(str(tmp_path / name)))


def test_the_tasks_that_ship_are_good() -> None:
    path = Path(__file__).parents[4] / "recipes" / "quickstart" / "tasks.yaml"
    items = standalone.items_of(load_yaml(path, EvaluateConfig), str(path))
    assert len({(item.task, item.id) for item in items}) == len(items) > 150

"""The harness's generate_until: what its YAML says of writing and reading an answer counts, and what is not done is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError
from pipelines.config import EvaluateConfig
from pipelines.evaluation.evaluate import settings_of
from pipelines.evaluation.items import ExactItem, Item
from pipelines.evaluation.metrics.exact import Extract, Reading
from pipelines.evaluation.notes import notes
from pipelines.evaluation.tasks import file_digest
from pipelines.task_config import TaskConfig
from tests.unit.pipelines.evaluation.safety.world import task_of
from tests.unit.pipelines.evaluation.test_exact_match import SUMS, items, rows_of
from tests.unit.pipelines.evaluation.test_harness import task_file

ROWS = [
    {"question": "2 + 2", "answer": "That is 4.\n#### 4", "aliases": ["4", "four"], "n": 4},
    {"question": "1 + 1", "answer": "#### 2", "aliases": ["2"], "n": 2},
    {"question": "1 - 1", "answer": "#### 0", "aliases": ["0", ""], "n": 0},
]
ASKED: dict[str, Any] = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "sums.jsonl"}},
    "test_split": "test",
    "doc_to_text": "Question: {{question}}?\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["Question:", "</s>"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 16},
    "filter_list": [
        {
            "name": "strict",
            "filter": [{"function": "regex", "regex_pattern": "#### ([0-9]+)"}, {"function": "take_first"}],
        },
        {
            "name": "flexible",
            "filter": [
                {"function": "regex", "regex_pattern": "[0-9]+", "group_select": -1, "fallback": "?"},
                {"function": "take_first"},
            ],
        },
        {"name": "letters", "filter": [{"function": "multi_choice_regex"}, {"function": "take_first"}]},
        {"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]},
        {"name": "all", "filter": [{"function": "remove_whitespace"}]},
        {"name": "plain", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
    ],
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "ignore_case": True, "regexes_to_ignore": ["(?s).*#### ", ","]}
    ],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def written(folder: Path, **changes: Any) -> str:
    return task_file(folder, ROWS, {**ASKED, **changes})


def reading(item: Item) -> Reading:
    assert isinstance(item, ExactItem)
    return item.reading


def test_what_a_filter_puts_in_the_place_of_an_answer_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, doc_to_target="?")
    assert notes(rows_of(items(path, filter="flexible"), "who knows")) == (
        "sums: no answer could be read from 3 of 3 texts, 0 of them empty: counted as the filter has it (3 of them right)",
    )


def test_a_harness_s_task_says_how_it_is_written_and_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    first = items(path)[0]
    assert (first.prompt, first.answers) == ("Question: 2 + 2?\nAnswer:", ("That is 4.\n#### 4",))
    assert (first.until, first.max_new_tokens) == (("Question:", "</s>"), 16)
    ignored = ("(?s).*#### ", ",")
    assert reading(first) == Reading((Extract("#### ([0-9]+)", 0, "[invalid]"),), ignored, ignore_case=True)
    assert reading(items(path, filter="flexible")[0]).steps == (Extract("[0-9]+", -1, "?"),)
    assert reading(items(path, filter="plain")[0]).steps == ("strip",)
    assert [row["correct"] for row in rows_of(items(path), "2 + 2 is\n#### 4\nQuestion: #### 0")] == [
        True,
        False,
        False,
    ]


def test_the_recipe_s_own_words_count_instead(tmp_path: Path) -> None:
    item = items(
        written(tmp_path), until=["."], max_new_tokens=5, extract="x(.)", take="last", ignore=[], ignore_case=False,
        ignore_punctuation=True, ignore_numbers=True,
    )[0]  # fmt: skip
    assert (item.until, item.max_new_tokens) == ((".",), 5)
    assert reading(item) == Reading((Extract("x(.)", -1),), (), ignore_punctuation=True, ignore_numbers=True)
    assert items(written(tmp_path), until=[])[0].until == ()


@pytest.mark.parametrize(
    ("changes", "until", "max_new_tokens"),
    [
        ({"generation_kwargs": None}, ("\n\n",), 256),
        ({"generation_kwargs": {}}, ("\n\n",), 256),
        ({"generation_kwargs": None, "fewshot_delimiter": "\n"}, ("\n",), 256),
        ({"generation_kwargs": {"until": "\n"}}, ("\n",), 256),
        ({"generation_kwargs": {"until": ["", "x"]}}, ("x",), 256),
        ({"generation_kwargs": {"until": []}}, (), 256),
        ({"generation_kwargs": {"max_new_tokens": 3, "max_gen_toks": 2}}, ("\n\n",), 2),
        ({"generation_kwargs": {"num_beams": 1, "top_p": 0.9, "temperature": 1, "do_sample": False}}, ("\n\n",), 256),
    ],
)
def test_where_a_text_ends(
    tmp_path: Path, changes: dict[str, Any], until: tuple[str, ...], max_new_tokens: int
) -> None:
    item = items(written(tmp_path, **changes))[0]
    assert (item.until, item.max_new_tokens) == (until, max_new_tokens)


@pytest.mark.parametrize(
    ("target", "answers"),
    [
        ("aliases", [("4", "four"), ("2",), ("0", "")]),
        ("{{aliases}}", [("4", "four"), ("2",), ("0", "")]),
        ("n", [("4",), ("2",), ("0",)]),
        ("{{n}}", [("4",), ("2",), ("0",)]),
        (" {{n}}", [(" 4",), (" 2",), (" 0",)]),
        (["a", "b"], [("a", "b")] * 3),
        (7, [("7",)] * 3),
        ("[{{n}}", [("[4",), ("[2",), ("[0",)]),
        ("[[{{n}}]", [("[[4]",), ("[[2]",), ("[[0]",)]),
        ("[{{n}}, 5]", [("4", "5"), ("2", "5"), ("0", "5")]),
    ],
)
def test_any_answer_of_several(tmp_path: Path, target: Any, answers: list[tuple[str, ...]]) -> None:
    assert [item.answers for item in items(written(tmp_path, doc_to_target=target))] == answers


def test_a_choice_may_be_what_is_to_be_written(tmp_path: Path) -> None:
    path = written(tmp_path, doc_to_choice=["no", "yes"], doc_to_target="{{1 if n else 0}}")
    assert [item.answers for item in items(path)] == [("yes",), ("yes",), ("no",)]


def test_examples_show_the_harness_s_target(tmp_path: Path) -> None:
    path = written(tmp_path, doc_to_target="aliases", description="Sums.\n", fewshot_delimiter="\n", gen_prefix="It is")
    (tmp_path / "shots.yaml").write_text("include: sums.yaml\ndoc_to_text: 'So: {{question}}'\n")
    item = items(path, num_shots=1, shots_path=str(tmp_path / "shots.yaml"))[0]
    answer = {"So: 2 + 2": "4", "So: 1 + 1": "2", "So: 1 - 1": "0"}
    shown = item.prompt.removeprefix("Sums.\n").partition("\n")[0]
    assert shown.endswith(f" It is {answer[shown.partition(' It is')[0]]}")
    assert item.prompt == f"Sums.\n{shown}\nQuestion: 2 + 2?\nAnswer: It is"
    own = items(str(task_of(tmp_path, "exact_match", SUMS).path), num_shots=2)
    assert own[0].prompt.count("\n\n") == 2
    assert "2 + 2 = 4\n\n" in own[0].prompt or own[0].id == "1"


@pytest.mark.parametrize(
    ("changes", "fields", "found"),
    [
        ({"generation_kwargs": {"do_sample": True}}, {}, "asks for samples"),
        ({"generation_kwargs": {"temperature": 0.7}}, {}, "asks for samples"),
        ({"generation_kwargs": {"temperature": "hot"}}, {}, "temperature is 'hot'"),
        ({"generation_kwargs": {"num_beams": 4}}, {}, "has generation_kwargs `num_beams: 4`"),
        ({"generation_kwargs": {"stop": ["x"]}}, {}, "has generation_kwargs `stop:"),
        ({"generation_kwargs": ["x"]}, {}, "generation_kwargs is no mapping"),
        ({"generation_kwargs": {"until": [1]}}, {}, "generation_kwargs.until has 1, no text"),
        ({"generation_kwargs": {"max_gen_toks": 0}}, {}, "asks for 0 tokens"),
        (
            {},
            {"filter": "none"},
            "has no filter 'none' in its filter_list (strict, flexible, letters, vote, all, plain)",
        ),
        ({}, {"filter": "letters"}, "has the function multi_choice_regex, which is not done here"),
        ({}, {"filter": "vote"}, "has the function majority_vote, which is not done here"),
        ({}, {"filter": "all"}, "only filters that end in take_first are read"),
        ({"filter_list": "x"}, {}, "filter_list is no list of filters"),
        ({"metric_list": [{"metric": "bleu"}, {"metric": "chrf"}]}, {}, "is scored by bleu, chrf, not by exact_match"),
        ({"metric_list": [{"metric": "exact_match", "aggregation": "max"}]}, {}, "something other than the mean"),
        ({"metric_list": [{"metric": "exact_match", "ignore_accents": True}]}, {}, "has `ignore_accents`"),
        ({"metric_list": [{"metric": "exact_match", "regexes_to_ignore": ["("]}]}, {}, "is no regular expression"),
        ({"doc_to_target": "{{[]}}"}, {}, "`doc_to_target` gives no text"),
        ({"doc_to_target": "{{[' ']}}"}, {}, "`doc_to_target` gives no text"),
        ({"doc_to_target": "{{[[1]]}}"}, {}, "no text and no list of texts"),
        ({"doc_to_target": ""}, {}, "`doc_to_target` gives no text"),
        ({"gen_prefix": "It is"}, {"chat": True}, "begins the answer for the model"),
        ({}, {"kind": "qa"}, "its filter changes the text"),
        ({}, {"kind": "continuation"}, "the task that names it is of kind continuation"),
        ({"output_type": "loglikelihood_rolling"}, {"kind": "perplexity", "filter": "strict"}, "nothing is filtered"),
    ],
)
def test_what_is_not_done_is_named(tmp_path: Path, changes: dict[str, Any], fields: dict[str, Any], found: str) -> None:
    with pytest.raises(InputError) as told:
        items(written(tmp_path, **changes), **{"kind": "exact_match", **fields})
    assert found in told.value.found


def test_python_counts_only_where_it_would_be_run(tmp_path: Path) -> None:
    path = written(tmp_path, filter_list=None, metric_list=None)
    metrics = "metric_list: [{metric: !function metrics.bleu}]\nfewshot_config: {samples: !function utils.shots}\n"
    Path(path).write_text(Path(path).read_text() + metrics)
    assert items(path, kind="generation")[0].answers == ("That is 4.\n#### 4",)
    filters = "filter_list: [{name: own, filter: [{function: !function utils.Own}, {function: take_first}]}]\n"
    Path(path).write_text(Path(path).read_text().replace(metrics, filters))
    with pytest.raises(InputError, match=r"!function utils\.Own"):
        items(path)
    assert reading(items(path, extract="[0-9]")[0]).steps == (Extract("[0-9]"),)


@pytest.mark.parametrize("kind", ["generation", "qa"])
def test_other_kinds_take_a_harness_s_texts_too(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, doc_to_target="aliases", metric_list=[{"metric": "bleu"}])
    found = items(path, kind=kind, filter="plain")
    assert [(item.answers, item.until) for item in found][2] == (("0",), ("Question:", "</s>"))
    assert rows_of(found, "0\nQuestion: 9")[2]["output"] == "0\n"


def test_all_that_decides_is_in_a_report_s_key(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = TaskConfig(name="t", kind="exact_match", path=path)
    changed: list[dict[str, Any]] = [
        {"until": (".",)}, {"until": ()}, {"extract": "x"}, {"extract": "x", "take": "last"}, {"filter": "plain"},
        {"ignore": ("x",)}, {"ignore_case": False}, {"ignore_punctuation": True}, {"ignore_numbers": True},
        {"max_new_tokens": 48},
    ]  # fmt: skip
    tasks = [plain, *(plain.replace(**fields) for fields in changed)]
    keys = [json.dumps(settings_of(EvaluateConfig(tasks=(task,)))) for task in tasks]
    assert len(set(keys)) == len(keys)
    before = file_digest(plain)
    for name in ("generation_kwargs", "filter_list", "metric_list"):
        written(tmp_path, **{name: None})
        assert file_digest(plain) != before
    written(tmp_path, task="other")
    assert file_digest(plain) == before


def test_a_question_that_has_no_answer(tmp_path: Path) -> None:
    path = written(tmp_path, doc_to_target="{{aliases if n else []}}", filter_list=None)
    assert [item.answers for item in items(path, kind="qa")] == [("4", "four"), ("2",), ()]

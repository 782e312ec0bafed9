"""A task's YAML that would not end, would run something, or would read what it should not: refused, each with a word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError
from pipelines.evaluation.harness.task_file import MAX_BYTES, read
from pipelines.evaluation.harness.templates import filled
from tests.unit.pipelines.evaluation.test_harness import items, written

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGED = "m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (BOMB, "has more than 100000 values"),
        (MERGED, "has more than 100000 values"),
        ("a: &a [*a]\n", "has more than 100000 values"),
        ("a: " + "[" * 5000, "is nested too deep"),
        ("a: 2024-99-99\n", "has a value that is none"),
        ("? [a]\n: b\n", "is not YAML"),
        ("a: !other x\n", "is not YAML"),
        ("a: !!python/name:os.system\n", "is not YAML"),
        ("- a\n", "is no mapping"),
        ("", "is no mapping"),
        ("\0", "is not YAML"),
        ("#" * (MAX_BYTES + 1), "more than a task's YAML"),
        ("include: [t.yaml]\n", "is included twice, or by itself"),
        ("include: other.yaml\n", "is included twice, or by itself"),
        ("include: /dev/zero\n", "no such file"),
        ("include: .\n", "no such file"),
        ("include: {a: b}\n", "`include` is "),
        ('include: "a\\0b"\n', "no file"),
        ("include: [1]\n", "`include` is '1', no file"),
        ("class: !function task.Drop\n", "calls Python of the harness's (!function task.Drop) in `class`"),
        ("doc_to_text: !function utils.text\n", "(!function utils.text) in `doc_to_text`"),
        ("1: 2\n", "asks for `1`"),
        ("group: g\ntask: [a, {task: b}]\n", "is a group of tasks (a)"),
        ("task: t\ntask_list: [a]\n", "is a group of tasks"),
    ],
)
def test_what_is_no_task(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "t.yaml").write_text(content)
    (tmp_path / "other.yaml").write_text("include: t.yaml\n")
    began = time.monotonic()
    with pytest.raises(InputError) as told:
        read(str(tmp_path / "t.yaml"))
    assert found in told.value.found
    assert len(str(told.value)) < 1000
    assert time.monotonic() - began < 5


def test_files_are_included_from_anywhere_and_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "first").write_text("task: one\ntest_split: a\ndescription: first\n")
    (tmp_path / "second").write_text("test_split: b\n")
    (tmp_path / "sub" / "t.yaml").write_text(f"include: [../first, {tmp_path / 'second'}]\ntask: own\n")
    asked = read(str(tmp_path / "sub" / "t.yaml"))
    assert (asked["task"], asked["test_split"], asked["description"]) == ("own", "b", "first")


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ range(10 ** 9) }}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ 10 ** 12 * [1] }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ lipsum(10 ** 9) }}",
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ question.format.__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(question) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ question | attr('__class__') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ question | nothing }}",
        "{{ question[0][0][0].x.y }}",
        "{{ question | regex_replace('(', '') }}",
        "{{ 1 // 0 }}",
        "{{ none | length }}",
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ 1" + "+ 1" * 5000 + " }}",
    ],
)
def test_templates_end_and_stay_inside(template: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match="`doc_to_text` does not fit"):
        filled("here", "doc_to_text", template, {"question": "2 + 2?"})
    assert time.monotonic() - began < 5


def test_loops_that_end_do(tmp_path: Path) -> None:
    text = "{% for c in choices %}{{ loop.index }}. {{ c }}\n{% endfor %}{{ 3 * 'ab' + 'c' }}{{ 2 ** 10 }}"
    for _ in range(3):
        assert filled("here", "doc_to_text", text, {"choices": ["a", "b"]}) == "1. a\n2. b\nabababc1024"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"dataset_path": "pandas"}, "dataset_path is 'pandas', which is not read here"),
        ({"dataset_path": "buckets/a"}, "dataset_path is 'buckets/a', which is not read here"),
        ({"dataset_path": "../a"}, "dataset_path is '../a', which is not read here"),
        ({"dataset_path": "json", "dataset_kwargs": {}}, "dataset_path is 'json' without dataset_kwargs.data_files"),
        ({"dataset_path": "./folder"}, "dataset_path is './folder', which is not read here"),
        ({"dataset_path": "/etc"}, "dataset_path is '/etc', which is not read here"),
        ({"dataset_path": "a/b/c"}, "dataset_path is 'a/b/c', which is not read here"),
        ({"dataset_path": "load.py"}, "dataset_path is 'load.py', which is not read here"),
        ({"dataset_path": ["json"]}, "dataset_path is \"['json']\""),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "asks to run a dataset's own Python"),
        ({"dataset_kwargs": {"token": "hf_x"}}, "dataset_kwargs has `token`"),
        ({"dataset_kwargs": ["x"]}, "dataset_kwargs is no mapping"),
        ({"dataset_kwargs": {"data_files": "sums.jsonl", "data_dir": {"a": 1}}}, "dataset_kwargs.data_files has 1"),
        ({"description": "\ud800"}, "holds half a character"),
        ({"doc_to_text": "{{ '\\ud800' }}"}, "holds half a character"),
        ({"dataset_kwargs": {"data_files": 3}}, "dataset_kwargs.data_files has 3"),
        (
            {"dataset_kwargs": {"data_files": "s3://bucket/x.jsonl"}},
            "dataset_kwargs.data_files has 's3://bucket/x.jsonl'",
        ),
        (
            {"dataset_kwargs": {"data_files": "zip://x.jsonl::y.zip"}},
            "dataset_kwargs.data_files has 'zip://x.jsonl::y.zip'",
        ),
        (
            {"dataset_kwargs": {"data_files": "file:///etc/passwd"}},
            "dataset_kwargs.data_files has 'file:///etc/passwd'",
        ),
        ({"dataset_kwargs": {"data_files": "sums.yaml"}}, "dataset json, split test"),
        ({"dataset_kwargs": {"data_files": "."}}, "dataset json, split test"),
        ({"dataset_kwargs": {"data_files": {"test": "sums.jsonl"}, "field": "none"}}, "dataset json, split test"),
        ({"dataset_kwargs": {"data_files": {"test": "sums.jsonl"}, "verification_mode": "often"}}, "dataset json"),
    ],
)
def test_data_that_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as told:
        items(written(tmp_path, **changes))
    assert found in told.value.found


def test_a_folder_with_a_hub_s_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="owner/name is a folder here too"):
        items(written(tmp_path, dataset_path="owner/name", dataset_kwargs=None))


def test_a_yaml_elsewhere_has_no_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.evaluation.harness import rows

    asked = {"dataset_path": "json", "dataset_kwargs": {"data_files": "x.jsonl"}}
    with pytest.raises(InputError, match=r"its data \(x\.jsonl\) lie beside it, not on this machine"):
        list(rows.rows("s3://bucket/t.yaml", asked, "test"))

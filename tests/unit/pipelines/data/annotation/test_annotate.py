"""Annotating a dataset from end to end, as commands: by rules, a model (a local server) and people; kept, counted, exported."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import serinus
from cluster.artifacts import Annotations, Dataset, load
from cluster.config import load_yaml
from cluster.descent import made_as
from cluster.errors import ConfigError, InputError
from cluster.storage import LocalStorage
from pipelines.data.annotation import annotate as stage
from pipelines.data.annotation.annotate import annotate, find, holding, read_documents, read_reviews
from pipelines.data.annotation.config import AnnotationConfig
from pipelines.data.annotation.layers import Failure, Given, Layers, for_review
from pipelines.training.method_file import conversations
from tests.unit.pipelines.data import world

NAMES = ("Ada", "Bruno", "Carla", "Dino")

RULES: dict[str, Any] = {
    "kind": "rules",
    "name": "rules",
    "entities": [
        {"label": "person", "terms": [*NAMES]},
        {"label": "company", "pattern": r"[A-Z]\w+ Works\b"},
    ],
    "relations": [{"relation": "founded", "between": " founded "}],
    "questions": [
        {
            "relation": "founded",
            "question": "Who founded {object}?",
            "rationale": "The text says that {subject} founded {object}.",
            "answer": "{subject}",
        }
    ],
}
LABELS: dict[str, Any] = {
    "entities": {"person": "a named human", "company": ""},
    "relations": {"founded": {"subject": ["person"], "object": ["company"], "functional": True}},
}


@pytest.fixture
def dataset(tmp_path: Path, storage: LocalStorage) -> Dataset:
    (tmp_path / "in").mkdir()
    for i, name in enumerate(NAMES * 3):
        text = f"{world.TEXTS[i]}. In the year {1900 + i} {name} founded Loom{i} Works, and nobody minded."
        (tmp_path / "in" / f"{i}.txt").write_text(text)
    return world.make(storage, world.config(tmp_path / "in"))


def config(tmp_path: Path, *annotators: dict[str, Any], **more: Any) -> Path:
    path = tmp_path / "annotation.yaml"
    path.write_text(yaml.safe_dump({"labels": LABELS, "annotators": [*annotators], **more}))
    return path


def loaded(tmp_path: Path, *annotators: dict[str, Any], **more: Any) -> AnnotationConfig:
    return load_yaml(config(tmp_path, *annotators, **more), AnnotationConfig)


def test_rules_give_layers_and_conversations_that_training_reads(
    tmp_path: Path, storage: LocalStorage, dataset: Dataset
) -> None:
    settings = loaded(tmp_path, RULES, instruct={"extraction": True})
    made = annotate(settings, dataset, storage)
    num = dataset.num_train
    assert made.num_documents == num
    assert (
        made.num_accepted_by_layer == made.num_given_by_layer == {"entity": 2 * num, "relation": num, "reasoning": num}
    )
    assert (made.num_review, made.agreement, made.inputs) == (0, (), {"dataset": dataset.digest})
    assert annotate(settings, dataset, storage) == made
    held, unheld = (read_documents(storage, made)[0].id, "in/none.txt")
    assert (holding(storage, held), holding(storage, unheld)) == ((made.key,), ())

    path = storage.root / made.location / "instruct.jsonl"
    assert made_as(storage, Annotations, sha256(path.read_bytes()).hexdigest()) == made
    lines = [messages for _, messages in conversations("instruct", str(path), path.read_bytes())]
    assert len(lines) == made.num_conversations == 2 * num
    asked, answer = (lines[0][i]["content"] for i in (0, 1))
    assert "founded Loom" in asked
    assert asked.endswith("Works?")
    assert answer.startswith("The text says that ")
    assert "[e" not in answer
    assert json.loads(lines[1][1]["content"]).keys() == {"person", "company"}


def test_the_key_tells_versions_apart_and_no_paths(tmp_path: Path, storage: LocalStorage, dataset: Dataset) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("Ada\n")
    rules = {**RULES, "entities": [{"label": "person", "path": str(terms)}, RULES["entities"][1]]}
    first = stage.prepare(loaded(tmp_path, rules), dataset, storage).key
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(terms.read_bytes())
    rules["entities"][0] = {"label": "person", "path": str(moved)}
    assert stage.prepare(loaded(tmp_path, rules), dataset, storage).key == first
    moved.write_text("Bruno\n")
    assert stage.prepare(loaded(tmp_path, rules), dataset, storage).key != first
    assert stage.prepare(loaded(tmp_path, rules, max_documents=3), dataset, storage).key != first
    assert str(tmp_path) not in json.dumps(stage.recorded(loaded(tmp_path, rules)))
    keys = set()
    for third in (moved, terms):  # both are read before: which one it is must be told by more than that
        rules["entities"] = [{"label": "person", "path": str(path)} for path in (moved, terms, third)]
        keys.add(stage.prepare(loaded(tmp_path, {**rules, "relations": [], "questions": []}), dataset, storage).key)
    assert len(keys) == 2


def test_people_are_compared_with_rules_and_what_they_contradict_is_for_review(
    tmp_path: Path, storage: LocalStorage, dataset: Dataset
) -> None:
    texts = stage.read_texts(storage, dataset, 2)
    tasks = []
    for number, (document, text) in enumerate(texts.items()):
        person = next(name for name in NAMES if f" {name} founded" in text)
        start = text.index(f"{person} founded")
        value = {
            "start": start,
            "end": start + len(person),
            "text": person,
            "labels": ["company" if number else "person"],
        }
        done = {"completed_by": 1, "result": [{"id": "x", "type": "labels", "value": value}]}
        tasks.append({"id": number, "data": {"id": document, "text": text}, "annotations": [done]})
    tasks.append({"id": 7, "data": {"text": "unknown"}, "annotations": []})
    (tmp_path / "people.json").write_text(json.dumps(tasks))
    people = {"kind": "label_studio", "name": "team", "path": "people.json"}
    made = annotate(loaded(tmp_path, RULES, people, max_documents=2), dataset, storage)

    assert made.annotators == ("rules", "team/1")
    reasons = {"conflicting_labels": 2, "rests_on_rejected": 2, "unknown_document": 1}
    assert made.num_review_by_reason == reasons
    first, second = (document.layers for document in read_documents(storage, made))
    assert [e.by for e in first.entities] == [("rules", "team/1"), ("rules",)]
    assert [e.label for e in second.entities] == ["company"]
    assert second.relations == second.reasonings == ()
    agreed = {one.layer: one for one in made.agreement}
    assert agreed["entity"].num_units == sum(len(text.split()) for text in texts.values())
    assert agreed["entity"].alpha is not None
    assert 0 < agreed["entity"].alpha < 1
    reviews = read_reviews(storage, made)
    assert len(reviews) == made.num_review == 5
    assert {by for review in reviews for by in review.by} == {"rules", "team/1", "team"}


def test_answers_of_a_model_are_kept_when_the_work_breaks_off(
    tmp_path: Path, storage: LocalStorage, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    async def ask(settings: Any, labels: Any, documents: Any, done: Any) -> None:
        for place, (document, _) in enumerate(documents):
            if len(asked) == 2:
                asked.append("broken")
                raise InputError("m", "is gone", "start it")
            asked.append(document)
            done(place, Given(layers=Layers()))

    monkeypatch.setattr(stage, "ask_all", ask)
    settings = loaded(tmp_path, {"kind": "llm", "name": "m", "url": "http://h/v1", "model": "x"}, max_documents=4)
    with pytest.raises(InputError, match="is gone"):
        annotate(settings, dataset, storage)
    assert len(list(storage.list("runs/annotate"))) == 2
    assert annotate(settings, dataset, storage).num_documents == 4
    assert len(set(asked)) == len(asked) == 5  # nothing twice
    assert list(storage.list("runs/annotate")) == []


def test_an_annotator_that_did_not_answer_is_not_one_that_found_nothing(
    tmp_path: Path, storage: LocalStorage, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(settings: Any, labels: Any, documents: Any, done: Any) -> None:
        silent = Failure("document", {}, "no_answer", "status 500")
        for place, (document, _) in enumerate(documents):
            done(place, Given(failures=(for_review(document, silent, "m"),) if place else ()))

    monkeypatch.setattr(stage, "ask_all", ask)
    model = {"kind": "llm", "name": "m", "url": "http://h/v1", "model": "x"}
    made = annotate(loaded(tmp_path, RULES, model, max_documents=3, min_annotators=2), dataset, storage)
    first, second, third = read_documents(storage, made)
    assert (len(first.layers.entities), len(second.layers.entities), len(third.layers.entities)) == (0, 2, 2)
    assert made.num_review_by_reason == {
        "no_answer": 2, "too_few_annotators": 2, "rests_on_rejected": 2}  # fmt: skip
    assert {one.layer: one.num_units for one in made.agreement}["entity"] == len(first.text.split())
    assert len(list(storage.list("runs/annotate"))) == 1  # the answer that came, for another try


# --- the commands -----------------------------------------------------------------------------------------------------


def recipe(tmp_path: Path, storage: LocalStorage) -> list[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: m\nstorage: {storage.uri}\ndata: {{sources: [{{path: in}}]}}\nmodel: {{source: model}}\n"
        "evaluate: {tasks: [{name: p, kind: perplexity}]}\n"
    )
    return ["--recipe", str(path)]


def test_the_commands(tmp_path: Path, storage: LocalStorage, dataset: Dataset) -> None:
    rules = {**RULES, "entities": [*RULES["entities"], {"label": "company", "terms": ["Ada"]}]}
    file, by, run = config(tmp_path, rules), recipe(tmp_path, storage), CliRunner()

    def said(*arguments: str, code: int = 0) -> str:
        done = run.invoke(serinus.app, ["data", "annotate", *arguments, *by])
        assert done.exit_code == code, done.output + repr(done.exception)
        return done.output

    shown = said("run", str(file))
    made = find(storage)
    assert load(storage, Annotations, made.key) == made
    assert f"annotations {made.key} of version {dataset.key}, by rules" in shown
    assert f"conflicting_labels       {made.num_review_by_reason['conflicting_labels']}" in shown
    assert (
        said("show")
        == said("show", made.key[:6])
        == "\n".join(shown.splitlines()[-len(said("show").splitlines()) :]) + "\n"
    )
    assert made.key in said("list")
    assert f"{made.num_review} for review" in said("review", code=1)
    only = said("review", "--reason", "rests_on_rejected", "--json", code=1).splitlines()
    assert {json.loads(line)["reason"] for line in only} == {"rests_on_rejected"}
    assert "0 for review" in said("review", "--reason", "self_relation")

    said("export", "--out", str(tmp_path / "out"), "--for-review")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert 0 < len(tasks) < made.num_documents
    assert all("conflicting_labels" in task["data"]["review"] for task in tasks)
    said("export", "--out", str(tmp_path / "out"))
    assert len(json.loads((tmp_path / "out" / "tasks.json").read_text())) == made.num_documents
    assert (tmp_path / "out" / "labelling_config.xml").read_text().startswith("<View>")

    said("run", str(file), "--remake")
    assert find(storage).digest == made.digest
    assert find(storage).made_at > made.made_at


def test_mistakes_in_the_file_are_told_by_their_place(tmp_path: Path) -> None:
    llm = {"kind": "llm", "name": "m", "url": "http://h/v1", "model": "x", "max_tokns": 3}
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, RULES, llm)
    assert re.fullmatch(r".*annotation.yaml:\d+: annotators\[1\].max_tokns", caught.value.where)
    assert caught.value.remedy == "did you mean `max_tokens`?"
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "none.yaml", AnnotationConfig)


def test_what_is_not_there_is_told(storage: LocalStorage, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="there are none yet"):
        find(storage)

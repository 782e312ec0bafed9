"""What changed from one version of a dataset to the next, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import artifacts
from cluster.artifacts import Dataset, Record
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.config import DEFAULT_RULES, RuleConfig
from pipelines.data import history, tell
from pipelines.data.history import Moved, difference
from tests.unit.pipelines.data.world import FILTERS, TEXTS, config, make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    write(folder, TEXTS)
    return folder


def write(folder: Path, texts: list[str]) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (folder / "a.jsonl").write_text("".join(line + "\n" for line in lines))


def test_versions_are_told_from_the_newest_with_what_each_changed(storage: LocalStorage, folder: Path) -> None:
    first = make(storage, config(folder))
    second = make(storage, config(folder, filters=FILTERS.replace(min_words=6)))
    write(folder, TEXTS[:-1])
    third = make(storage, config(folder, filters=FILTERS.replace(min_words=6)))

    lines = list(tell.log_lines(history.versions(storage)))

    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [third.key, second.key, first.key]
    assert lines[1] == "    file docs/a.jsonl: other content"
    assert lines[3] == "    filters.min_words: 5 -> 6"
    assert list(tell.log_lines(history.versions(storage), last=1)) == lines[:2]


def test_a_version_goes_by_the_beginning_of_its_key_or_digest(storage: LocalStorage) -> None:
    for key in ("aa11", "aa22", "bb33"):
        artifacts.save(storage, Dataset(key=key))
    assert history.version(storage, "aa1").key == "aa11"
    assert history.version(storage, history.version(storage, "bb").digest[:12]).key == "bb33"
    assert history.version(storage).key == "bb33"
    assert history.version(storage, None, back=2).key == "aa11"
    with pytest.raises(InputError, match="could be aa11, aa22"):
        history.version(storage, "aa")
    with pytest.raises(InputError, match="serinus data log"):
        history.version(storage, "zz")
    with pytest.raises(InputError, match=r"3 version\(s\)"):
        history.version(storage, None, back=3)


def test_a_version_of_another_serinus_is_told_and_hides_no_other(storage: LocalStorage) -> None:
    good = artifacts.save(storage, Dataset(key="aa11"))
    storage.write("artifacts/dataset/cc44/manifest.json", b'{"kind": "dataset", "future": 1}')
    found = history.versions(storage)
    assert (found.found, found.unreadable) == ([good], ["cc44"])
    assert list(tell.log_lines(found))[-1].startswith("cc44  another version")
    with pytest.raises(InputError, match="another version of serinus"):
        history.version(storage, "cc")


def test_every_move_of_a_document_has_its_kind_and_reason(storage: LocalStorage, folder: Path) -> None:
    short, german, late = (
        "one two three four five six",
        "Der Vogel sang laut in der Grube und niemand hörte ihn",
        "late " * 3,
    )
    before = [*TEXTS[:4], short, german, TEXTS[5] + " http://mine.org/x", "gone from the sources when they come again"]
    write(folder, before)
    old = make(storage, config(folder, heldout_fraction=0.0))
    rule = RuleConfig(name="calm", pattern="sang of coal1 ", replacement="sang ")
    filters = FILTERS.replace(min_words=7, languages=("en",), min_language_confidence=0.0)
    write(folder, [*TEXTS[:4], short, german, TEXTS[0] + "!"])
    (folder / "b.jsonl").write_text(json.dumps({"text": TEXTS[11]}) + "\n" + json.dumps({"text": late}) + "\n")
    new = make(storage, config(folder, filters=filters, rules=(*DEFAULT_RULES, rule), heldout_fraction=0.0))

    found = difference(storage, old, new)

    assert {change.what for change in found.settings} == {
        "rule calm", "order of rules", "filters.min_words", "filters.languages", "filters.min_language_confidence",
    }  # fmt: skip
    assert {(change.what, change.old is None) for change in found.files} == {
        ("docs/a.jsonl", False),
        ("docs/b.jsonl", True),
    }
    assert found.num_same == 3
    assert found.documents == {
        "gone": 1, "kept before, excluded now": 3, "kept with another text": 1, "new, excluded": 1, "new, kept": 1,
    }  # fmt: skip
    now = {moved.id: moved.why for moved in found.examples["kept before, excluded now"]}
    assert now["docs/a.jsonl#5"].startswith("too_few_words: 6 words")
    assert now["docs/a.jsonl#6"].startswith("language: de")
    assert now["docs/a.jsonl#7"] == "near_duplicate: of docs/a.jsonl#1; was train"
    assert found.examples["kept with another text"] == (Moved(id="docs/a.jsonl#2", why="by calm; was by no rule"),)
    back = difference(storage, new, old, num_examples=1)
    assert back.documents["excluded before, kept now"] == 3
    assert len(back.examples["excluded before, kept now"]) == 1
    assert "    ... and 2 more" in list(tell.diff_lines(back))


def test_a_version_without_a_record_is_compared_by_its_texts(storage: LocalStorage, folder: Path) -> None:
    old = make(storage, config(folder))
    new = make(storage, config(folder, filters=FILTERS.replace(max_words=99)))
    artifacts.retire(storage, Record(key=old.key))
    found = difference(storage, old, new)
    assert (found.num_same, found.documents) == (len(TEXTS), {})

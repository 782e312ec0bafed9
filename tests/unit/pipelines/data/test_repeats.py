"""Repeated lines and paragraphs through the clean stage: the same however the work is cut, counted, traced, forgotten."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster import artifacts
from cluster.artifacts import Dataset, Record
from cluster.descent import Descent
from cluster.storage import LocalStorage
from pipelines.config import DataConfig, DedupConfig, ProtectConfig, RuleConfig
from pipelines.data import batch, ledger, repeats, tell
from pipelines.data import clean as stage
from pipelines.data import inventory as inventories
from pipelines.data.forget import forget
from pipelines.data.history import difference
from pipelines.data.record import parts, read_table, schema
from pipelines.data.report.report import report
from pipelines.data.trace import trace
from tests.unit.pipelines.data.world import TEXTS, config, make

AT = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = "Home, news, weather and all the rest of it"
FOOT = "Write to ann@example.org, or to the miners of the east gallery"
OWN = "Miners left their brass lamps hanging by the gate of the west shaft"
NINTH = f"{HEAD.upper()}!\n  * *\nthree words\n{HEAD}"
VERSE = "the lamp burns low\nand nobody sings in the mine tonight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pages of one site. The first is refused, so what it says is no news; 9 has little of its own; 10 and 11 share a verse."""
    folder = tmp_path / "docs"
    folder.mkdir()
    pages = [f"{HEAD}\n{TEXTS[i]}\n\n{FOOT} — page {i}" for i in range(7)]
    texts = [
        f"{HEAD}\n{'mine#shaft ' * 8}",
        *pages,
        NINTH,
        f"{TEXTS[8]}\n\n{VERSE}",
        f"{TEXTS[9]}\n\n{VERSE.replace(chr(10), ' ')}\n\n{OWN}",
        f" {pages[2]} ",
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def settings(folder: Path, **dedup: Any) -> DataConfig:
    asked = {"near": False, "lines": {}, "paragraphs": {}, **dedup}
    return config(folder, protect=ProtectConfig(email="mask"), dedup=asked)


def kept(storage: LocalStorage, dataset: Dataset) -> dict[int, dict[str, Any]]:
    """Rows of train and heldout by the documents' line."""
    paths = [each.path for each in dataset.batches if not each.path.startswith("excluded/")]
    rows = [row for path in paths for row in read_table(storage, f"{dataset.location}/{path}").to_pylist()]
    return {row["position"]: row for row in rows}


def excluded(storage: LocalStorage, dataset: Dataset) -> dict[int, tuple[str, str, str]]:
    paths = [each.path for each in dataset.batches if each.path.startswith("excluded/")]
    rows = [row for path in paths for row in read_table(storage, f"{dataset.location}/{path}").to_pylist()]
    return {row["position"]: (row["reason"], row["detail"], row["text"]) for row in rows}


def test_what_stood_before_goes_and_the_first_one_stays(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder))
    texts = {position: row["text"] for position, row in kept(storage, dataset).items()}
    foot = FOOT.replace("ann@example.org", "[EMAIL]")
    assert texts == {
        2: f"{HEAD}\n{TEXTS[0]}\n\n{foot} — page 0",
        **{2 + i: f"{TEXTS[i]}\n\n{foot} — page {i}" for i in range(1, 7)},
        10: f"{TEXTS[8]}\n\n{VERSE}",
        11: f"{TEXTS[9]}\n\n{OWN}",
    }
    out = excluded(storage, dataset)
    assert {position: reason for position, (reason, *_) in out.items()} == {
        1: "symbols", 9: "repeated_lines", 12: "exact_duplicate",
    }  # fmt: skip
    assert out[9][1:] == ("4 words left, at least 5 asked; 2 lines stood before", NINTH)
    assert dataset.num_changed_by_rule["repeated_lines"] == 7
    assert dataset.num_changed_by_rule["repeated_paragraphs"] == 1
    assert dataset.repeated is not None
    assert (dataset.repeated.num_lines, dataset.repeated.num_paragraphs) == (6, 1)
    before = make(LocalStorage(folder.parent / "plain"), settings(folder, lines=None, paragraphs=None))
    assert before.num_characters_kept - len(NINTH) - dataset.num_characters_kept == dataset.repeated.num_characters
    assert dataset.num_characters_kept == sum(map(len, texts.values()))


def test_masks_move_with_their_line(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder, lines={"ignore_digits": True}))
    rows = kept(storage, dataset)
    assert dataset.num_protected_by_kind == {"email": 1}  # the other lines with one are gone
    assert [row["protected"] for position, row in rows.items() if position != 2] == [[]] * (len(rows) - 1)
    for row in kept(storage, make(storage, settings(folder))).values():
        marks = [row["text"][mark["start"] : mark["end"]] for mark in row["protected"]]
        assert marks == ["[EMAIL]"] * row["text"].count("[EMAIL]")


def test_how_often_a_line_may_occur(storage: LocalStorage, folder: Path) -> None:
    often = make(storage, settings(folder, lines={"max_occurrences": 9}, paragraphs=None))
    assert often.repeated is not None
    assert (often.repeated.num_lines, often.num_changed_by_rule["repeated_lines"]) == (0, 0)
    seldom = make(storage, settings(folder, lines={"max_occurrences": 8}, paragraphs=None))
    assert seldom.repeated is not None
    assert seldom.repeated.num_lines == 6  # nine in all: of seven pages, and two in what is left with too little


def test_the_result_does_not_depend_on_how_the_work_is_cut(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(LocalStorage(tmp_path / "whole"), settings(folder))
    record = artifacts.load(LocalStorage(tmp_path / "whole"), Record, whole.key)
    assert record is not None
    monkeypatch.setattr(repeats, "MANY", 5)
    monkeypatch.setattr(batch, "MAX_BATCH_DOCUMENTS", 2)
    for block_bytes in (1 << 30, 200):  # several batches in a block, then several blocks
        monkeypatch.setattr(inventories, "CUT_BYTES", 300)
        monkeypatch.setattr(stage, "BLOCK_BYTES", block_bytes)
        storage = LocalStorage(tmp_path / str(block_bytes))
        made = make(storage, settings(folder), num_workers=3)
        other = artifacts.load(storage, Record, made.key)
        assert other is not None
        assert (made.digest, other.digest) == (whole.digest, record.digest)


def test_what_is_not_asked_for_leaves_no_trace(storage: LocalStorage, folder: Path) -> None:
    """Keys and digests of datasets made before it could be asked for stay as they were."""
    dataset = make(storage, settings(folder, lines=None, paragraphs=None))
    assert not {"lines", "paragraphs"} & {*dataset.config["dedup"]}
    assert "repeated" not in dataset.model_dump(mode="json")
    assert not [
        name
        for name in (*dataset.rules, *dataset.num_changed_by_rule)
        if name in ("repeated_lines", "repeated_paragraphs")
    ]
    assert all(
        table.schema.names == schema().names
        for each in dataset.batches
        for table in [read_table(storage, f"artifacts/record/{dataset.key}/{each.path}")]
    )


def test_the_record_tells_of_it(storage: LocalStorage, folder: Path) -> None:
    old = make(storage, settings(folder, lines=None, paragraphs=None))
    new = make(storage, settings(folder))
    fate = trace(storage, "docs/a.jsonl#3", new).fates[0]
    assert fate.changed_by == ("protect", "repeated_lines")
    told = (fate.num_repeated_lines, fate.num_repeated_paragraphs, fate.num_repeated_characters)
    assert told == (1, 0, len(HEAD) + 1)
    lines = list(tell.trace_lines(trace(storage, "docs/a.jsonl#3")))
    assert f"    removed     1 line that stood before, {len(HEAD) + 1} characters" in lines
    assert trace(storage, "docs/a.jsonl#3", old).fates[0].num_repeated_lines == 0
    assert any(
        "6 lines and 1 paragraph that stood before" in line for line in tell.show_lines(new, Descent(), recorded=True)
    )
    moved = difference(storage, old, new)
    assert moved.documents == {"kept before, excluded now": 1, "kept with another text": 7}
    assert {change.what for change in moved.settings} >= {"dedup.lines.min_words", "dedup.paragraphs.min_words"}
    assert any(one.why.startswith("by protect, repeated_lines") for one in moved.examples["kept with another text"])
    found = report(storage, new)
    assert all(check.ok is not False for check in found.checks)
    assert {step.name: step.num_out for step in found.steps}["repeated text"] == 1
    assert {one.rule: one.num for one in found.rewritten}["repeated_lines"] == 7


@pytest.mark.parametrize("position", [2, 3, 9, 10, 11, 12])
def test_forgetting_makes_what_cleaning_without_the_document_makes(tmp_path: Path, folder: Path, position: int) -> None:
    """Whoever lost a line that stands in it first has lost it: as its copies stay out."""
    made, cleaned = LocalStorage(tmp_path / "made"), LocalStorage(tmp_path / "cleaned")
    name = f"docs/a.jsonl#{position}"
    before = make(made, settings(folder))
    done = forget(made, name, None, "ann", datetime(2100, 1, 1, tzinfo=UTC))
    ledger.add(cleaned, ledger.Entry(id=name, source="docs/a.jsonl", who="", at=AT))
    after = make(cleaned, settings(folder))
    assert done.now == after.key != before.key
    forgotten = artifacts.load(made, Dataset, after.key)
    records = [artifacts.load(storage, Record, after.key) for storage in (made, cleaned)]
    assert forgotten is not None
    assert forgotten.digest == after.digest
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].digest == records[1].digest
    assert trace(made, name, forgotten).fates[0].num_repeated_lines == 0


def test_copies_of_what_an_earlier_version_keeps_are_found_by_the_whole_text(
    storage: LocalStorage, folder: Path
) -> None:
    old = make(storage, settings(folder))
    lines = (folder / "a.jsonl").read_text().splitlines()
    other = folder.parent / "more"
    other.mkdir()
    own = json.dumps({"text": f"{HEAD}\n{TEXTS[11]}"})
    (other / "b.jsonl").write_text(f"{lines[3]}\n{own}\n")
    new = make(storage, settings(other, against=[old.key[:8]]))
    assert excluded(storage, new)[1][:2] == ("exact_duplicate", f"of docs/a.jsonl#4 in version {old.key}")
    assert kept(storage, new)[2]["text"] == f"{HEAD}\n{TEXTS[11]}"  # lines are counted in the version alone


def test_a_document_may_repeat_itself(storage: LocalStorage, tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    refrain = "sing, canary, sing for all of us"
    (folder / "a.txt").write_text(f"{refrain}\n{TEXTS[0]}\n\n{refrain.upper()}\n{OWN}\n")
    dataset = make(storage, config(folder, dedup=DedupConfig(lines={})))
    assert kept(storage, dataset)[1]["text"] == f"{refrain}\n{TEXTS[0]}\n\n{OWN}"


def test_hashes_are_in_the_blocks_where_they_are_asked_for(storage: LocalStorage, folder: Path) -> None:
    for asked in ({}, {"lines": None, "paragraphs": None}):
        work = stage.prepare(settings(folder, **asked), storage)
        judge = stage.judge_of(work, storage)
        (table,) = judge({"stretch": [0]})
        hashes = b"".join(value for name in ("lines", "paragraphs") for value in table[name].to_pylist())
        assert bool(hashes) == (not asked)
        assert not {"text", "original"} & {*table.schema.names}


def test_a_rule_of_that_name_is_refused_where_it_would_be_counted_as_this_one(folder: Path) -> None:
    mine = RuleConfig(name="repeated_lines", pattern="x")
    assert config(folder, rules=(mine,)).rules == (mine,)
    with pytest.raises(ValidationError, match="give yours another name"):
        config(folder, rules=(mine,), dedup=DedupConfig(lines={}))


def test_every_document_is_in_the_record_with_its_figures(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder))
    names = ("num_repeated_lines", "num_repeated_paragraphs", "num_repeated_characters")
    counts = [0, 0, 0]
    for path, table in parts(storage, dataset, names):
        if not path.startswith("excluded/"):
            counts = [num + sum(table[name].to_pylist()) for num, name in zip(counts, names, strict=True)]
    assert dataset.repeated is not None
    assert counts == list(dict(dataset.repeated).values())

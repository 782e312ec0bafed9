"""Texts before and after the rules: read again from the sources, cut around the change, no personal data on either side."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import LocalStorage
from pipelines.config import ProtectConfig, RuleConfig, SourceConfig
from pipelines.config.data import DEFAULT_RULES
from pipelines.data.report.excerpt import CUT, excerpt, pieces
from pipelines.data.report.page import page
from pipelines.data.report.report import Report, report
from pipelines.data.report.text import marked, text
from tests.unit.pipelines.data.world import TEXTS, config, make

SEEN = "the canary sang [1] of coal and brass, see https://example.org/{}  and came\u200b up again at dusk with lamp {}"


def reported(storage: LocalStorage, folder: Path, **changes: Any) -> Report:
    settings = config(folder, dedup={"near": False}, **changes)
    return report(storage, make(storage, settings), settings)


def samples(found: Report) -> dict[str, tuple[tuple[str, str, str], ...]]:
    return {one.rule: tuple((s.id, s.before, s.after) for s in one.samples) for one in found.rewritten}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def write_jsonl(folder: Path, texts: list[str], name: str = "a.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_each_rule_is_shown_before_and_after(storage: LocalStorage, folder: Path) -> None:
    write_jsonl(folder, [*TEXTS, SEEN.format("a", "one")])
    found = reported(storage, folder)
    name = "docs/a.jsonl#13"
    assert found.no_samples == ""
    told = "of coal and brass, see"
    steps = [
        f"the canary sang [1] {told} https://example.org/a  and came\u200b up again at dusk with lamp one",
        f"the canary sang [1] {told} https://example.org/a  and came up again at dusk with lamp one",
        f"the canary sang [1] {told}   and came up again at dusk with lamp one",
        f"the canary sang {told}   and came up again at dusk with lamp one",
        f"the canary sang {told} and came up again at dusk with lamp one",
    ]
    first = "the canary sang "  # more than the context before the change
    assert samples(found) == {
        "repair_unicode": ((name, CUT + steps[0].removeprefix(first), CUT + steps[1].removeprefix(first)),),
        "strip_urls": ((name, steps[1], steps[2]),),
        "strip_bracketed_references": ((name, steps[2], steps[3]),),
        "collapse_white_space": ((name, steps[3], steps[4]),),
    }
    (rewritten,) = [one for one in found.rewritten if one.rule == "strip_urls"]
    assert (rewritten.num, rewritten.num_kept, rewritten.num_alone, rewritten.num_characters_out) == (1, 1, 0, 0)


def test_a_rule_that_was_alone_tells_its_characters(storage: LocalStorage, folder: Path) -> None:
    write_jsonl(folder, [*TEXTS[:9], f"{TEXTS[9]} [12]", f"{TEXTS[10]} [1] and  two"])
    by_rule = {one.rule: one for one in reported(storage, folder).rewritten}
    references = by_rule["strip_bracketed_references"]
    assert (references.num, references.num_alone, references.num_characters_out) == (2, 1, len(" [12]"))


@pytest.mark.parametrize("kind", ["jsonl.gz", "json", "parquet", "txt"])
def test_any_kind_of_source_is_read_again(storage: LocalStorage, folder: Path, kind: str) -> None:
    texts = [*TEXTS, SEEN.format("a", "one")]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    if kind == "jsonl.gz":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    elif kind == "json":
        (folder / "a.json").write_text(json.dumps([{"text": text} for text in texts]))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": texts}), folder / "a.parquet", row_group_size=4)
    else:
        for number, text in enumerate(texts):
            (folder / f"{number:02}.txt").write_text(text)
    ((name, before, after),) = samples(reported(storage, folder))["strip_urls"]
    assert name == {"txt": "docs/12.txt", "json": "docs/a.json#13"}.get(kind, f"docs/a.{kind}#13")
    assert ("https://example.org/a" in before, "https" in after) == (True, False)


def test_a_record_of_a_web_archive_is_read_again(storage: LocalStorage, folder: Path) -> None:
    def record(number: int, body: str) -> bytes:
        content = body.encode()
        head = f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://www.example.org/{number}\r\n"
        head += "Content-Type: text/plain\r\n"
        return head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content + b"\r\n\r\n"

    texts = [*TEXTS, SEEN.format("a", "one")]
    members = [gzip.compress(record(number, text)) for number, text in enumerate(texts)]
    (folder / "a.wet.gz").write_bytes(b"".join(members))
    found = reported(storage, folder)
    ((name, before, _),) = samples(found)["strip_urls"]
    assert (name, "https://example.org/a" in before) == ("docs/a.wet.gz#13", True)
    assert [(share.name, share.num_in) for share in found.domains] == [("example.org", 13)]


def test_what_was_excluded_is_shown_without_the_sources(storage: LocalStorage, folder: Path) -> None:
    write_jsonl(folder, [*TEXTS, SEEN.format("a", "one"), "too short  by far"])
    settings = config(folder, dedup={"near": False})
    dataset = make(storage, settings)
    for given in (None, config("nowhere")):
        found = report(storage, dataset, given)
        assert samples(found)["collapse_white_space"] == (("docs/a.jsonl#14", "too short  by far", "too short by far"),)
        assert not samples(found)["strip_urls"]
        assert found.no_samples
    (folder / "a.jsonl").write_text("other\n")
    found = report(storage, dataset, settings)
    assert (not samples(found)["strip_urls"], "no longer, those of this version" in found.no_samples) == (True, True)


def test_the_same_documents_are_drawn_whatever_the_workers_and_the_order(
    storage: LocalStorage, folder: Path, tmp_path: Path
) -> None:
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(SEEN.format(number, number) + " again" * number)
    settings = config(folder, dedup={"near": False})
    shown = [
        samples(report(store, make(store, settings, workers), settings))
        for workers, store in ((1, storage), (4, LocalStorage(tmp_path / "other")))
    ]
    assert shown[0] == shown[1]
    assert all(len(of_rule) == 3 for of_rule in shown[0].values())
    another = config(folder, dedup={"near": False}, filters={"min_words": 6, "min_stop_words": 0})
    assert samples(report(storage, make(storage, another), another)) == shown[0]


# --- personal data ----------------------------------------------------------------------------------------------------

MAIL = "bob.miller@example.org"


def test_what_is_masked_stays_masked_on_both_sides(storage: LocalStorage, folder: Path) -> None:
    write_jsonl(folder, [*TEXTS, f"Ask {MAIL} at once [1], he knows of coal and brass  and lamps in gallery nine"])
    found = reported(storage, folder, protect=ProtectConfig(email="mask"))
    shown = samples(found)
    assert all("[EMAIL]" in before and "[EMAIL]" in after for of_rule in shown.values() for _, before, after in of_rule)
    assert shown["strip_bracketed_references"]
    assert [(sample.detail, "[EMAIL] at once" in sample.text) for sample in found.masked] == [("1 values: email", True)]
    assert MAIL not in found.model_dump_json()
    assert MAIL not in page(found)


@pytest.mark.parametrize(
    ("hidden", "rules"),
    [
        ("bob.miller&#64;example.org", ()),  # the repair of Unicode uncovers it
        ("bob.mil\u200bler@example.org", ()),  # and this
        ("bob.miller {at} example.org", (RuleConfig(name="at", pattern=r" \{at\} ", replacement="@"),)),
        ("https://example.org/?mail=bob.miller@example.org", ()),  # goes as a whole
        ("bob.miller@example.org", (RuleConfig(name="half", pattern=r"@example\.org", replacement=""),)),
    ],
)
def test_a_value_that_a_rule_uncovers_or_breaks_is_in_no_sample(
    storage: LocalStorage, folder: Path, hidden: str, rules: tuple[RuleConfig, ...]
) -> None:
    long = "and he went down into the mine once more with brass lamps  and coal"
    write_jsonl(folder, [*TEXTS, f"Ask {hidden} at once [1], {long}", f"no {hidden} [2]  short"])
    found = reported(storage, folder, protect=ProtectConfig(email="mask"), rules=(*DEFAULT_RULES, *rules))
    shown = "".join(before + after for of_rule in samples(found).values() for _, before, after in of_rule)
    assert "Ask" not in shown
    if not rules:
        assert "miller" not in shown


def test_without_a_key_a_hash_is_shown_as_a_mask(storage: LocalStorage, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k" * 32)
    write_jsonl(folder, [*TEXTS, f"Ask {MAIL} at once [1], he knows of coal and brass and lamps in gallery nine"])
    protect = ProtectConfig(email="hash", key_file=str(tmp_path / "key"))
    ((_, before, after),) = samples(reported(storage, folder, protect=protect))["strip_bracketed_references"]
    assert ("[EMAIL]" in before, "[EMAIL]" in after) == (True, True)


def test_near_duplicates_are_masked_as_well(storage: LocalStorage, folder: Path) -> None:
    words = " ".join(f"word{i} canary mine{i} lamp{i}" for i in range(60))
    write_jsonl(folder, [*TEXTS, *(f"{words} {end} bob.miller {{at}} example.org" for end in ("the end", "an end"))])
    rules = (*DEFAULT_RULES, RuleConfig(name="at", pattern=r" \{at\} ", replacement="@"))
    settings = config(folder, protect=ProtectConfig(email="mask"), rules=rules)
    found = report(storage, make(storage, settings), settings)
    assert found.likeness.num_pairs == 1
    assert "miller" not in found.model_dump_json()
    assert "[EMAIL]" in found.likeness.unlike[0].before


# --- functions --------------------------------------------------------------------------------------------------------


def test_a_function_of_the_users_is_applied_where_it_is_at_hand(
    storage: LocalStorage, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rules.py"
    file.write_text("def shout(text):\n    return text.replace('lamp one', 'LAMP ONE')\n")
    write_jsonl(folder, [*TEXTS, SEEN.format("a", "one")])
    rules = (*DEFAULT_RULES, RuleConfig(name="shout", file=str(file), function="shout"))
    settings = config(folder, dedup={"near": False}, rules=rules)
    dataset = make(storage, settings)
    ((_, before, after),) = samples(report(storage, dataset, settings))["shout"]
    assert (before.endswith("lamp one"), after.endswith("LAMP ONE")) == (True, True)
    assert "not those of this recipe" in report(storage, dataset, None).no_samples


# --- cut and marked ---------------------------------------------------------------------------------------------------


def test_an_excerpt_is_cut_around_the_change() -> None:
    before, after = excerpt("word " * 500 + "old" + " tail" * 500, "word " * 500 + "new" + " tail" * 500)
    assert before.replace("old", "new") == after
    assert (before[0], before[-1], "old" in before) == (CUT, CUT, True)
    assert len(before) < 200


def test_an_excerpt_leaves_out_the_middle_of_what_is_long() -> None:
    before, after = excerpt(f"a {'x' * 5_000} b", "a b")
    assert (len(before) < 400, after) == (True, "a b")
    far = "same words " * 60
    before, after = excerpt(f"one {far}two {far}", f"1 {far}2 {far}")
    assert ("one" in before, "two" in before, "1 " in after, "2 " in after) == (True, True, True, True)
    assert len(before) < 400


def test_pieces_put_together_are_the_texts() -> None:
    old, new = "a  b\n[1] c.", "a b c.\u200b"
    found = pieces(old, new)
    assert ("".join(piece.before for piece in found), "".join(piece.after for piece in found)) == (old, new)


def test_what_differs_is_marked_and_what_is_unseen_is_shown() -> None:
    assert marked("a  b\u200b<i>", "a b<i>") == (
        "a <del>␣</del>b<del><code>U+200B</code></del>&lt;i&gt;",
        "a b&lt;i&gt;",
    )
    assert text("\u202ea\u200d\x00 <") == "<code>U+202E</code>a\u200d<code>U+0000</code> &lt;"


def test_samples_are_escaped(storage: LocalStorage, folder: Path) -> None:
    nasty = "<script>alert('x')</script> x [1] <img src=x onerror=alert(1)>"
    write_jsonl(folder, [*TEXTS, f"{nasty} {SEEN.format('a', 'one')}"])
    found = reported(storage, folder)
    assert any("<script>" in before for of_rule in samples(found).values() for _, before, _ in of_rule)
    shown = page(found)
    assert "<script" not in shown
    assert "<img" not in shown


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_origin_field_names_the_address(storage: LocalStorage, folder: Path, kind: str) -> None:
    rows = [
        {"text": text, "url": f"https://{'www.a.org' if i % 3 else 'b.org:80'}/{i // 2}"}
        for i, text in enumerate(TEXTS)
    ]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    else:
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(folder, dedup={"near": False})
    named = settings.model_copy(update={"sources": (SourceConfig(path=str(folder), origin_field="url"),)})
    found = report(storage, make(storage, named), named)
    assert [(share.name, share.num_kept) for share in found.domains] == [("a.org", 8), ("b.org", 4)]
    (check,) = [check for check in found.checks if "addresses" in check.what]
    assert check.found == "2 of 10 addresses; https://www.a.org/2, https://www.a.org/5"
    plain = make(storage, settings)
    assert (not report(storage, plain, settings).domains, "origin_field" in str(plain.config)) == (True, False)

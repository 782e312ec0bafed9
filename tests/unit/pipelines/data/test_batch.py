from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from pyarrow.fs import LocalFileSystem

from pipelines.config import DataConfig, FilterConfig, ProtectAction, ProtectConfig, RuleConfig, SourceConfig
from pipelines.data.batch import MAX_BATCH_DOCUMENTS, BatchCleaner, Placed, clean_batch, schema
from pipelines.data.blocks import Blocks
from pipelines.data.decide import forgetting
from pipelines.data.dedup import fingerprints
from pipelines.data.document import Document
from pipelines.data.inventory import inventory
from pipelines.data.record import schema as record_schema
from pipelines.data.rules import compile_rules
from pipelines.data.shards import Target, hash_of, plan, write_shard

CONFIG = DataConfig(sources=(SourceConfig(path="docs"),), filters=FilterConfig(languages=("en",), min_words=5))


def cleaned(*documents: Document, config: DataConfig = CONFIG) -> list[dict[str, Any]]:
    table = clean_batch(
        [Placed(3, 10 + i, document) for i, document in enumerate(documents)], compile_rules(config.rules), config
    )
    assert table.schema == schema()
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_document_is_rewritten_and_what_changed_it_is_noted() -> None:
    text = "The  weather in ZÃ¼rich is better than that of last week, says www.example.org today."
    (row,) = cleaned(Document("a", text, "a.txt", 1))
    assert row["text"] == "The weather in Zürich is better than that of last week, says today."
    assert row["original"] == text
    assert row["changed_by"] == ["repair_unicode", "strip_urls", "collapse_white_space"]
    assert (row["reason"], row["language"]) == ("", "en")
    assert row["fingerprint"] == fingerprints(pa.array([row["text"]], pa.large_string()))[0]
    assert len(row["bands"]) == 14 * 8
    assert (row["num_characters_in"], row["num_characters"]) == (len(text), len(row["text"]))
    assert (row["file"], row["ordinal"]) == (3, 10)


def test_an_original_that_is_the_text_is_not_held_twice() -> None:
    (row,) = cleaned(
        Document("a", "The weather in the mountains is better than that of last week, they say.", "a.txt", 1)
    )
    assert row["original"] is None
    assert row["text"].startswith("The weather")


def test_only_what_was_read_is_rewritten_and_what_is_excluded_keeps_its_reason() -> None:
    broken = Document("b", "{ torn  www.example.org", "a.jsonl", 2, "broken_json", "line 2")
    short = Document("c", "too  short", "a.jsonl", 3)
    german = Document("d", "Das ist ein deutscher Satz, der lang genug ist und hier nicht gefragt.", "a.jsonl", 4)
    first, second, third = cleaned(broken, short, german)
    assert (first["reason"], first["original"], first["changed_by"]) == ("broken_json", broken.text, [])
    assert (second["reason"], second["original"], second["language"]) == ("too_few_words", short.text, "")
    assert (second["num_characters"], second["changed_by"]) == (len("too short"), ["collapse_white_space"])
    assert (third["reason"], third["original"], third["language"]) == ("language", german.text, "de")
    assert [row["text"] for row in (first, second, third)] == [None] * 3
    assert [row["bands"] for row in (first, second, third)] == [b""] * 3


def test_personal_data_is_masked_in_what_is_kept_and_in_what_is_excluded() -> None:
    config = CONFIG.replace(protect=ProtectConfig(email="mask", phone="drop"))
    text = "Those who want to know more of the weather and of that house write to a@b.org, or call {}."
    kept, refused, short = cleaned(
        Document("a", text.format("no one"), "a.txt", 1),
        Document("b", text.format("+49 30 12345678"), "b.txt", 1),
        Document("c", "a@b.org", "c.txt", 1),
        config=config,
    )
    (span,) = kept["protected"]
    assert (kept["reason"], span["kind"], kept["text"][span["start"] : span["end"]]) == ("", "email", "[EMAIL]")
    assert kept["changed_by"] == ["protect"]
    assert (refused["reason"], refused["detail"], refused["bands"]) == ("personal_data", "phone", b"")
    assert short["reason"] == "too_few_words"
    assert not any(value in str(row) for row in (kept, refused, short) for value in ("a@b.org", "12345678"))


SENTENCE = "Those who want to know more of the weather and of that house have only to write to {} again."
NO_REPAIR = tuple(RuleConfig(name=name) for name in ("strip_urls", "collapse_white_space"))


@pytest.mark.parametrize("action", ["mask", "drop"])
@pytest.mark.parametrize("rules", [CONFIG.rules, NO_REPAIR])
@pytest.mark.parametrize(
    ("spelt", "mark", "leaks"),
    [
        ("bob.smith&#64;example.org", "[EMAIL]", ("bob.smith", "example.org")),
        ("bob.smith\uff20example.org", "[EMAIL]", ("bob.smith", "example.org")),
        ("4111\u00ad1111\u200b1111\u20601111", "[CREDIT_CARD]", ("1111",)),
        ("http://x.org/?q=bob.smith&#64;example.org", "[EMAIL]", ("bob.smith", "example.org")),
        ("4111 1111  1111 1111", "[CREDIT_CARD]", ("1111",)),  # not repair, but white space collapsed shows it
    ],
)
def test_what_only_rewriting_shows_is_masked_in_what_is_excluded(
    action: ProtectAction, rules: tuple[RuleConfig, ...], spelt: str, mark: str, leaks: tuple[str, ...]
) -> None:
    config = CONFIG.replace(protect=ProtectConfig(email=action, credit_card=action), rules=rules)
    rows = cleaned(
        Document("a", SENTENCE.format(spelt), "a.txt", 1),  # refused for the value, or as a duplicate later
        Document("b", f"to {spelt} again", "b.txt", 1),
        Document("c", f"{{ torn {spelt.replace('  ', ' ')}", "c.jsonl", 1, "broken_json", "line 1"),
        config=config,
    )
    originals = [row["original"] or row["text"] for row in rows]
    assert [mark in original for original in originals] == [True] * 3
    assert not any(leak in original for original in originals for leak in leaks)
    assert rows[0]["num_characters_in"] == len(SENTENCE.format(spelt))
    if action == "drop" and rules == CONFIG.rules and "http" not in spelt:
        assert [row["reason"] for row in rows] == ["personal_data", "too_few_words", "broken_json"]


def test_the_original_is_kept_as_it_was_where_repair_shows_no_more_values() -> None:
    config = CONFIG.replace(protect=ProtectConfig(email="mask"))
    (row,) = cleaned(Document("a", "ZÃ¼rich &amp;  b@c.org", "a.txt", 1), config=config)
    assert row["original"] == "ZÃ¼rich &amp;  [EMAIL]"


def test_all_excluded_and_no_rules() -> None:
    config = CONFIG.replace(rules=())
    (row,) = cleaned(Document("b", "", "a.bin", 1, "unknown_format", "ending .bin"), config=config)
    assert row["detail"] == "ending .bin"


def test_a_large_file_comes_in_several_batches_numbered_through(tmp_path: Path) -> None:
    num = MAX_BATCH_DOCUMENTS * 2 + 5
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * num)
    (tmp_path / "b.txt").write_text("x")
    sources = (SourceConfig(path=str(tmp_path)),)
    config = CONFIG.replace(sources=sources, rules=(RuleConfig(name="up", pattern="x", replacement="X"),))
    cleaner = BatchCleaner(tuple(inventory(sources)), config)
    tables = list(cleaner([(0, None), (1, None)]))
    assert [len(table) for table in tables] == [MAX_BATCH_DOCUMENTS, MAX_BATCH_DOCUMENTS, 6]  # small files share
    everything = pa.concat_tables(tables)
    assert everything["file"].to_pylist() == [0] * num + [1]
    assert everything["ordinal"].to_pylist() == [*range(num), 0]
    assert everything["changed_by"].to_pylist() == [["up"]] * (num + 1)


def block(num: int) -> pa.Table:
    """Documents that tell by every value which one they are."""
    rows = range(num)
    columns: dict[str, list[Any]] = {
        field.name: list(rows) if pa.types.is_integer(field.type) else [f"{field.name}{i}" for i in rows]
        for field in schema()
    }
    columns |= {"protected": [[]] * num, "span": [(i, i + 1) for i in rows], "changed_by": [["one", "two"]] * num}
    columns |= {"fingerprint": [b"f%d" % i for i in rows], "bands": [b"b%d" % i for i in rows]}
    return pa.table(columns, schema=schema())


def blocks(folder: Path, *nums: int) -> Blocks:
    """One with so many documents each."""
    made = Blocks(LocalFileSystem(), str(folder / "blocks"))
    for number, num in enumerate(nums):
        list(made.write(number, [block(num)]))
    return made


def decided(*rows: tuple[int, int, str, str]) -> pa.Table:
    """Of documents in these stretches, in these rows of them, with these reasons and details."""
    stretch, row, reason, detail = zip(*rows, strict=True)
    splits = ["excluded" if why else "train" for why in reason]
    return pa.table(
        {"stretch": stretch, "batch": [0] * len(rows), "row": row, "split": splits, "reason": reason, "detail": detail}
    )


def target(folder: Path) -> Target:
    for name in ("dataset", "record"):
        for split in ("train", "excluded"):
            (folder / name / split).mkdir(parents=True)
    return Target(LocalFileSystem(), str(folder / "dataset"), str(folder / "record"), "rules")


def test_shards_are_planned_by_split_and_size() -> None:
    shards = plan(decided(*((0, i, "" if i % 2 else "empty", "") for i in range(7))), 2)
    assert [(shard.path, shard.documents["row"].to_pylist()) for shard in shards] == [
        ("train/part-00000.parquet", [1, 3]),
        ("train/part-00001.parquet", [5]),
        ("excluded/part-00000.parquet", [0, 2]),
        ("excluded/part-00001.parquet", [4, 6]),
    ]


def test_shard_takes_its_rows_in_document_order_from_several_blocks(tmp_path: Path) -> None:
    (shard,) = plan(decided(*((stretch, row, "", "") for stretch, row in ((1, 12), (0, 0), (1, 10), (0, 2)))), 4)
    entry, batch, recorded = write_shard(target(tmp_path), shard, blocks(tmp_path, 3, 13))
    table = pq.read_table(tmp_path / "dataset" / entry.path)
    assert table.column_names == ["id", "text", "source", "position", "language", "protected"]
    assert table["id"].to_pylist() == ["id12", "id0", "id10", "id2"]
    assert table["text"].to_pylist() == ["text12", "text0", "text10", "text2"]
    assert entry.num_bytes == (tmp_path / "dataset" / entry.path).stat().st_size
    assert (batch.num_documents, batch.rules, batch.sha256) == (4, "rules", hash_of(table))
    record = pq.read_table(tmp_path / "record" / recorded.path)
    assert record.schema.equals(record_schema())
    assert record["id"].to_pylist() == table["id"].to_pylist()
    assert record.to_pylist()[1] == {
        "id": "id0", "source": "source0", "position": 0, "span": [0, 1], "origin": "origin0", "reason": "", "detail": "",
        "language": "language0", "num_characters_in": 0, "num_characters": 0, "changed_by": ["one", "two"],
        "text_hash": xxhash.xxh3_128_digest(b"text0"), "fingerprint": b"f0", "bands": b"b0",
    }  # fmt: skip


def test_excluded_shard_has_the_original_and_the_reason(tmp_path: Path) -> None:
    (shard,) = plan(decided((0, 1, "language", "de"), (0, 0, "empty", "no words")), 2)
    write_shard(target(tmp_path), shard, blocks(tmp_path, 2))
    record = pq.read_table(tmp_path / "record" / shard.path).to_pylist()
    assert [(row["reason"], row["changed_by"], row["bands"]) for row in record] == [
        ("language", ["one", "two"], b""),
        ("empty", ["one", "two"], b""),
    ]
    assert pq.read_table(tmp_path / "dataset" / shard.path).to_pylist() == [
        {"id": "id1", "text": "original1", "source": "source1", "position": 1, "reason": "language", "detail": "de"},
        {"id": "id0", "text": "original0", "source": "source0", "position": 0, "reason": "empty", "detail": "no words"},
    ]


def test_what_is_forgotten_leaves_its_place_and_is_told_without_its_text(tmp_path: Path) -> None:
    documents = decided(*((0, i, "", "") for i in range(3)), (0, 3, "language", "de"))
    shards = plan(documents, 2, gone=[3, 2])
    assert [(shard.path, shard.documents["row"].to_pylist()) for shard in shards] == [
        ("train/part-00000.parquet", [0, 1]),
        ("excluded/forgotten.parquet", [3, 2]),
    ]
    write_shard(target(tmp_path), shards[1], blocks(tmp_path, 4))
    assert [{**row, "position": 0} for row in pq.read_table(tmp_path / "dataset" / shards[1].path).to_pylist()] == [
        {"id": f"id{i}", "text": "", "source": f"source{i}", "position": 0, "reason": "forgotten", "detail": ""}
        for i in (3, 2)
    ]
    record = pq.read_table(tmp_path / "record" / shards[1].path).to_pylist()
    assert {name for row in record for name, value in row.items() if value} == {"id", "source", "position", "reason"}
    told = forgetting(documents, [3, 2]).to_pylist()
    assert [(row["split"], row["reason"], row["detail"]) for row in told[1:]] == [
        ("train", "", ""), ("excluded", "forgotten", ""), ("excluded", "forgotten", "")
    ]  # fmt: skip


def test_hash_of_a_batch_sees_ids_texts_and_order_but_not_encoding() -> None:
    table = block(3).select(["id", "source", "original", "text", "language", "position", "protected"])
    same = table.cast(
        pa.schema(
            [(name, pa.large_string()) for name in table.column_names[:-2]]
            + [("position", pa.int8()), table.schema.field("protected")]
        )
    )
    assert hash_of(same) == hash_of(table)
    others = [table.take([1, 0, 2]), table.slice(1), table.set_column(0, "id", pa.array(["id0t", "id1", "id2"]))]
    assert len({hash_of(table), *(hash_of(other) for other in others)}) == 4


def test_batches_of_earlier_versions_are_hashed_as_they_were() -> None:
    table = block(2)
    lines = "".join(f'["id{i}", "text{i}"]\n' for i in range(2))
    assert hash_of(table, 4) == hashlib.sha256(lines.encode()).hexdigest()
    assert hash_of(table.slice(0, 0)) == hash_of(table.slice(2))

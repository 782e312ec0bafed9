"""Blocks of the workers: written whole or not at all, told of damage, taken from in any order, gone on from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem

from cluster.storage import LocalStorage, open_storage
from pipelines.data import claim
from pipelines.data import clean as stage
from pipelines.data import inventory as inventories
from pipelines.data.batch import TEXT_COLUMNS, BatchCleaner, schema
from pipelines.data.blocks import (
    PLACE,
    BlockGone,
    Blocks,
    blocks_of,
    remove_blocks,
    with_blocks,
)
from pipelines.data.work import prepare
from tests.unit.pipelines.data import world


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    return Blocks(LocalFileSystem(), str(tmp_path / "blocks"))


def tables(*sizes: int) -> list[pa.Table]:
    """Documents numbered through."""
    found, begin = [], 0
    for size in sizes:
        rows = range(begin, begin := begin + size)
        columns = {name: pa.array([f"{name}{i}" for i in rows], schema().field(name).type) for name in ("id", "text")}
        nulls = {field.name: pa.nulls(size, field.type) for field in schema() if field.name not in columns}
        found.append(pa.table({**nulls, **columns}).select(schema().names))
    return found


def test_what_is_told_is_all_but_the_texts_and_says_where_they_lie(blocks: Blocks) -> None:
    told = list(blocks.write(7, tables(2, 3)))
    assert [table["id"].to_pylist() for table in told] == [["id0", "id1"], ["id2", "id3", "id4"]]
    assert pa.concat_tables(told).select(PLACE).to_pylist() == [
        {"stretch": 7, "batch": batch, "row": row} for batch, row in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    ]
    assert not {*TEXT_COLUMNS} & {*told[0].schema.names}
    assert list(blocks.tell(7)) == told


@pytest.mark.parametrize("seed", range(5))
def test_documents_are_taken_in_any_order(blocks: Blocks, seed: int) -> None:
    told = pa.concat_tables([*blocks.write(0, tables(4, 1, 3)), *blocks.write(1, tables(2))])
    assert blocks.take(told, ["text"])["text"].to_pylist() == [*(f"text{i}" for i in range(8)), "text0", "text1"]
    rng = random.Random(seed)
    chosen = told.take(pa.array(rng.sample(range(10), rng.randint(1, 10)), pa.int64()))
    taken = blocks.take(chosen, ["text", "id"])
    assert taken["id"].to_pylist() == chosen["id"].to_pylist()
    assert [text[4:] for text in taken["text"].to_pylist()] == [name[2:] for name in chosen["id"].to_pylist()]
    assert taken["text"].num_chunks == 1


def test_a_block_counts_once_it_is_whole_and_while_it_is_undamaged(blocks: Blocks) -> None:
    assert not blocks.is_finished(0)
    writing = blocks.write(0, tables(3, 3))
    next(writing)
    assert not blocks.is_finished(0)
    writing.close()
    assert not blocks.is_finished(0)
    assert [*Path(blocks.folder).iterdir()] == []  # what was half there is gone
    list(blocks.write(0, tables(3, 3)))
    assert blocks.is_finished(0)
    path = Path(blocks.of(0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not blocks.is_finished(0)
    path.write_bytes(content[:-1])
    assert not blocks.is_finished(0)


def test_a_mark_that_says_nothing_is_none(blocks: Blocks) -> None:
    list(blocks.write(0, tables(1)))
    for content in ("", "{}", "[]"):
        Path(f"{blocks.of(0)}.json").write_text(content)
        assert not blocks.is_finished(0)


def test_a_block_that_is_gone_is_named(blocks: Blocks) -> None:
    (told,) = blocks.write(0, tables(1))
    Path(blocks.of(0)).unlink()
    with pytest.raises(BlockGone, match=r"00000\.arrow is gone or damaged: run the same command again"):
        blocks.take(told, ["text"])


def test_nothing_is_taken_from_a_damaged_block(blocks: Blocks) -> None:
    (told,) = blocks.write(0, tables(50))
    path = Path(blocks.of(0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BlockGone, match="is gone or damaged"):
        blocks.take(told, ["text"])


def test_a_block_that_goes_after_it_was_looked_at(blocks: Blocks) -> None:
    (told,) = blocks.write(0, tables(1))
    assert blocks.take(told, ["text"])["text"].to_pylist() == ["text0"]
    Path(blocks.of(0)).unlink()
    with pytest.raises(BlockGone, match="cannot be read any more"):
        blocks.take(told, ["text"])


def test_blocks_in_a_bucket(s3_uri: str) -> None:
    """What a writer leaves in the middle is no object there, and what was whole stays so."""
    storage = open_storage(s3_uri)
    blocks = blocks_of(storage, "key", [])
    assert not blocks.is_finished(0)
    told = pa.concat_tables(blocks.write(0, tables(2, 3)))
    assert blocks.is_finished(0)
    assert pa.concat_tables(blocks.tell(0)).equals(told)
    assert blocks.take(told, ["text"])["text"].to_pylist() == [f"text{i}" for i in range(5)]
    for number in (0, 1):
        writing = blocks.write(number, tables(2, 2))
        next(writing)
        writing.close()
    assert (blocks.is_finished(0), blocks.is_finished(1)) == (True, False)
    assert [name.rpartition("/")[2] for name in storage.list("runs")] == ["00000.arrow", "00000.arrow.json"]
    assert with_blocks(storage) == ("key",)
    remove_blocks(storage, "key")
    assert list(storage.list("runs")) == []
    with pytest.raises(BlockGone):
        blocks.take(told, ["text"])


def test_a_folder_that_is_removed_while_a_block_is_written(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    blocks = blocks_of(storage, "key", [])
    writing = blocks.write(0, tables(2, 2))
    next(writing)
    remove_blocks(storage, "key")
    with pytest.raises(BlockGone, match="is gone: run the same command again"):
        list(writing)
    assert list(storage.list("runs")) == []
    remove_blocks(storage, "key")  # nothing there is no error


def test_tables_without_documents_do_not_count(blocks: Blocks) -> None:
    told = pa.concat_tables(blocks.write(0, [*tables(0, 2), *tables(0), *tables(1)]))
    assert told["batch"].to_pylist() == [0, 0, 1]
    assert blocks.take(told, ["text"])["text"].to_pylist() == ["text0", "text1", "text0"]


def test_versions_with_anything_of_blocks_are_known(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert with_blocks(storage) == ()
    storage.write("runs/clean/a/claim.json", b"")
    storage.write("runs/clean/b/blocks/d/00000.arrow", b"")
    (tmp_path / "runs/clean/c/blocks/d").mkdir(parents=True)
    (tmp_path / "runs/clean/c/blocks/d/.tmp-1").write_bytes(b"")  # half a block, of a run that was killed
    assert with_blocks(storage) == ("b", "c")


def test_blocks_of_another_library_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ftfy may make another text of the same bytes: the dataset has the same key, and none of those blocks."""
    (tmp_path / "docs").mkdir()
    for i, text in enumerate(world.TEXTS[:4]):
        (tmp_path / "docs" / f"{i}.txt").write_text(text)
    storage, config = LocalStorage(tmp_path / "storage"), world.config(tmp_path / "docs")
    work = prepare(config, storage)
    folder = stage.judge_of(work, storage).blocks.folder
    assert stage.judge_of(prepare(config, storage), storage).blocks.folder == folder
    found = claim.version
    for package in claim.DECIDING_PACKAGES:
        monkeypatch.setattr(claim, "version", lambda name, of=package: "99" if name == of else found(name))
        again = prepare(config, storage)
        assert again.key == work.key
        assert stage.judge_of(again, storage).blocks.folder != folder


def test_an_interrupted_run_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was finished is not read again, and nothing is left behind."""
    (tmp_path / "docs").mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in world.TEXTS]
    (tmp_path / "docs" / "a.jsonl").write_text("".join(lines))
    monkeypatch.setattr(inventories, "CUT_BYTES", 300)
    monkeypatch.setattr(stage, "BLOCK_BYTES", 200)
    storage, config = LocalStorage(tmp_path / "storage"), world.config(tmp_path / "docs")
    whole = world.make(LocalStorage(tmp_path / "whole"), config)
    judge = stage.judge_of(prepare(config, storage), storage)
    assert len(judge.stretches) > 3
    list(judge({"stretch": [0, 2]}))
    read, clean = list[object](), BatchCleaner.__call__

    def seen(self: BatchCleaner, parts: list[tuple[int, int]]) -> Iterator[pa.Table]:
        read.extend(parts)
        yield from clean(self, parts)

    monkeypatch.setattr(BatchCleaner, "__call__", seen)
    capfd.readouterr()
    made = world.make(storage, config)
    assert made.digest == whole.digest
    assert read == [part for stretch in judge.stretches if stretch.number not in (0, 2) for part in stretch.parts]
    assert f"2 of {len(judge.stretches)} blocks are there" in capfd.readouterr().err
    assert list(storage.list(f"runs/clean/{made.key}/blocks")) == []

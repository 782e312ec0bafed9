"""Large files of JSON lines and Parquet, read in parts: the same documents, places and hashes, however and by how many."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifacts import Record, load
from cluster.storage import LocalStorage
from pipelines.config import SourceConfig
from pipelines.data import inventory as inventories
from pipelines.data.inventory import SourceFile, inventory
from pipelines.data.read import read_documents
from pipelines.data.stretches import stretches
from tests.unit.pipelines.data.world import TEXTS, config, make

LIMIT = 300


def parts_of(file: SourceFile) -> list[int]:
    """Numbers of the parts that the workers are given, in their order."""
    return [part for stretch in stretches([file], 1) for _, part in stretch.parts]


lines = st.one_of(
    st.text(max_size=60).map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b" ", b"\r", b"no json", b'{"text": "\xff"}', b"\xef\xbb\xbf{}", b"x" * LIMIT, b"y" * (LIMIT + 1)]
    ),
    st.integers(LIMIT - 3, 4 * LIMIT).map(lambda size: b'{"text": "' + b"z" * size + b'"}'),
)
ends = st.sampled_from([b"\n", b"\r\n"])


def in_parts(path: Path, cut_bytes: int) -> SourceFile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventories, "CUT_BYTES", cut_bytes)
        (file,) = inventory([SourceConfig(path=str(path))])
    return file


@given(st.lists(st.tuples(lines, ends), max_size=25), st.booleans(), st.integers(1, 900))
def test_parts_hold_the_documents_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, content: list[tuple[bytes, bytes]], ended: bool, cut_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.jsonl"
    data = b"".join(line + end for line, end in content)
    path.write_bytes(data if ended else data.rstrip(b"\n"))
    file = in_parts(path, cut_bytes)
    whole = list(read_documents(file, LIMIT))
    parts = [list(read_documents(file, LIMIT, part)) for part in parts_of(file)]
    assert [document for part in parts for document in part] == whole
    assert all(cut.start == 0 or path.read_bytes()[cut.start - 1 : cut.start] == b"\n" for cut in file.cuts)


def test_every_cut_is_near_where_it_is_wanted(tmp_path: Path) -> None:
    """Over the borders of what is read at a time, which characters and lines straddle."""
    rng = random.Random(1)
    rows = [json.dumps({"text": "ü鳥😀" * rng.randint(0, 9_000)}, ensure_ascii=False) for _ in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    longest = max(len(row.encode()) for row in rows)
    file = in_parts(tmp_path / "a.jsonl", 300_000)
    starts = [0, *(cut.start for cut in file.cuts), file.num_bytes]
    assert len(starts) > 10
    sizes = [after - before for before, after in pairwise(starts)]
    assert all(300_000 <= size <= 300_000 + longest for size in sizes[:-1])
    assert [cut.line for cut in file.cuts] == [
        (tmp_path / "a.jsonl").read_bytes()[: cut.start].count(b"\n") + 1 for cut in file.cuts
    ]
    whole = list(read_documents(file, 10_000_000))
    assert [d for i in range(len(file.cuts) + 1) for d in read_documents(file, 10_000_000, i)] == whole


def test_only_lines_that_are_not_packed_are_cut(tmp_path: Path) -> None:
    data = b'{"text": "a"}\n' * 100
    for name in ("a.txt", "a.json", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        assert in_parts(tmp_path / name, 50).cuts == ()


@pytest.mark.parametrize(("cut_bytes", "num_workers"), [(1 << 30, 1), (1, 1), (150, 2), (400, 3)])
def test_dataset_and_record_are_the_same_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_bytes: int, num_workers: int
) -> None:
    (tmp_path / "in").mkdir()
    rows = [json.dumps({"text": text}) for text in [*TEXTS, TEXTS[3], "short", *TEXTS[5:7]]] + ["{broken", ""]
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "in" / name).write_text("\r\n".join([*rows, name]))
    whole = LocalStorage(tmp_path / "whole")
    expected = make(whole, config(tmp_path / "in"))
    monkeypatch.setattr(inventories, "CUT_BYTES", cut_bytes)
    storage = LocalStorage(tmp_path / "parts")
    found = make(storage, config(tmp_path / "in"), num_workers)
    assert found.digest == expected.digest  # has the hashes of all batches
    records = [load(where, Record, found.key) for where in (whole, storage)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].files == records[1].files  # ids, positions, spans, reasons: byte for byte


# --- Parquet, by row groups -------------------------------------------------------------------------------------------


def write_parquet(path: Path, texts: Sequence[str | None], rows: int) -> None:
    table = pa.table({"text": pa.array(texts, pa.string()), "name": [f"n{i}" for i in range(len(texts))]})
    pq.write_table(table, path, row_group_size=rows, compression="zstd")


@pytest.mark.parametrize("rows", [1, 7, 100, 1_000])
@pytest.mark.parametrize("cut_bytes", [1, 500, 1 << 30])
@pytest.mark.parametrize("id_field", [None, "name"])
def test_row_groups_hold_the_documents_of_the_whole(
    tmp_path: Path, rows: int, cut_bytes: int, id_field: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [None if i % 11 == 0 else "ü" * (i % 40 * 10) for i in range(200)]
    write_parquet(tmp_path / "a.parquet", texts, rows)
    monkeypatch.setattr(inventories, "CUT_BYTES", cut_bytes)
    (file,) = inventory([SourceConfig(path=str(tmp_path / "a.parquet"), id_field=id_field)])
    assert (len(file.cuts) > 0) == (rows < 200 and cut_bytes < 1 << 30)
    whole = list(read_documents(file, LIMIT))
    assert [document.position for document in whole] == list(range(1, 201))
    assert [d for part in parts_of(file) for d in read_documents(file, LIMIT, part)] == whole


def test_parquet_without_texts_is_one_exclusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", ["x"] * 50, 5)
    monkeypatch.setattr(inventories, "CUT_BYTES", 1)
    (file,) = inventory([SourceConfig(path=str(tmp_path / "a.parquet"), text_field="body")])
    assert file.cuts == ()
    assert [document.reason for document in read_documents(file, LIMIT)] == ["missing_text"]


def test_damage_costs_one_part_and_no_id_stands_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    path = tmp_path / "a.parquet"
    write_parquet(path, ["".join(rng.choices("abcdefgh ", k=80)) for _ in range(400)], 40)
    data = path.read_bytes()
    monkeypatch.setattr(inventories, "CUT_BYTES", 1)
    num_broken = 0
    for _ in range(120):
        at = rng.randrange(4, len(data) - 8)
        path.write_bytes(data[:at] + rng.randbytes(4) + data[at + 4 :])
        (file,) = inventory([SourceConfig(path=str(path))])
        found = [d for part in parts_of(file) for d in read_documents(file, 10_000, part)]
        ids = [document.id for document in found]
        assert len(set(ids)) == len(ids)
        assert found
        num_broken += any(document.reason == "unreadable" for document in found)
        assert all(document.reason for document in found) or sum(d.reason is None for d in found) >= 40 * 8
    assert num_broken > 20


def test_a_file_that_holds_more_rows_than_it_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", ["x"] * 50, 10)
    monkeypatch.setattr(inventories, "CUT_BYTES", 1)
    (file,) = inventory([SourceConfig(path=str(tmp_path / "a.parquet"))])
    lying = replace(file, cuts=tuple(cut._replace(line=1 + 5 * cut.start) for cut in file.cuts))
    ids = [d.id for part in parts_of(lying) for d in read_documents(lying, LIMIT, part)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("cut_bytes", "num_workers"), [(1, 1), (300, 3)])
def test_a_dataset_of_parquet_is_the_same_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_bytes: int, num_workers: int
) -> None:
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in" / "a.parquet", [*TEXTS, TEXTS[3], "short", None, *TEXTS[5:7]], 3)
    whole, storage = LocalStorage(tmp_path / "whole"), LocalStorage(tmp_path / "parts")
    expected = make(whole, config(tmp_path / "in"))
    monkeypatch.setattr(inventories, "CUT_BYTES", cut_bytes)
    found = make(storage, config(tmp_path / "in"), num_workers)
    assert found.digest == expected.digest
    records = [load(where, Record, found.key) for where in (whole, storage)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].files == records[1].files

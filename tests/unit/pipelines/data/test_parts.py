"""Large files of JSON lines, read in parts: the same documents, places and hashes, however they are cut and by how many."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifacts import Record, load
from cluster.storage import LocalStorage
from pipelines.config import SourceConfig
from pipelines.data import inventory as listing
from pipelines.data.clean import parts_of
from pipelines.data.inventory import SourceFile, inventory
from pipelines.data.read import read_documents
from tests.unit.pipelines.data.world import TEXTS, config, make

LIMIT = 300

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
        patch.setattr(listing, "CUT_BYTES", cut_bytes)
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
    parts = [list(read_documents(file, LIMIT, item["part"])) for item in parts_of([file])]
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
    monkeypatch.setattr(listing, "CUT_BYTES", cut_bytes)
    storage = LocalStorage(tmp_path / "parts")
    found = make(storage, config(tmp_path / "in"), num_workers)
    assert found.digest == expected.digest  # has the hashes of all batches
    records = [load(where, Record, found.key) for where in (whole, storage)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].files == records[1].files  # ids, positions, spans, reasons: byte for byte

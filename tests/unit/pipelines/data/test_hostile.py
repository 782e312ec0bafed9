from __future__ import annotations

from collections import Counter

import pytest

from cluster.artifacts import Dataset
from cluster.storage import LocalStorage
from tests.unit.pipelines.data.hostile import LIMIT, write_hostile
from tests.unit.pipelines.data.world import config, make

MAY_BE_EMPTY = {"empty.jsonl", "blank.jsonl", "column-none.parquet", "value-16.json"}


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int | None], Dataset, LocalStorage]:
    """The whole clean stage but Ray: listed, read, judged, written, on record."""
    folder = tmp_path_factory.mktemp("hostile") / "h"
    folder.mkdir()
    made = write_hostile(folder)
    storage = LocalStorage(folder.parent / "storage")
    settings = config(folder, max_document_bytes=LIMIT, documents_per_shard=2_000)
    return made, make(storage, settings), storage


def test_two_hundred_hostile_files_are_read_and_each_is_accounted_for(
    cleaned: tuple[dict[str, int | None], Dataset, LocalStorage],
) -> None:
    from pipelines.data.record import parts

    made, dataset, storage = cleaned
    assert len(made) >= 200
    assert {source.path.removeprefix("h/") for source in dataset.sources} == set(made)
    rows = [row for _, table in parts(storage, dataset, ("id", "source")) for row in table.to_pylist()]
    assert len(rows) == len({row["id"] for row in rows}) == dataset.num_kept + dataset.num_excluded
    found = Counter(row["source"].removeprefix("h/") for row in rows)
    assert {name: found[name] for name, num in made.items() if num is not None} == {
        name: num for name, num in made.items() if num is not None
    }
    assert set(made) - set(found) <= MAY_BE_EMPTY  # a file that holds nothing is named among the sources


def test_what_cannot_be_read_is_named_with_its_reason(
    cleaned: tuple[dict[str, int | None], Dataset, LocalStorage],
) -> None:
    from pipelines.data.record import parts

    _, dataset, storage = cleaned
    columns = ("id", "reason", "detail")
    told = {row["id"]: row for _, table in parts(storage, dataset, columns) for row in table.to_pylist()}
    assert all(row["detail"] for row in told.values() if row["reason"] in ("unreadable", "binary", "too_large"))
    expected = {
        "h/folder.jsonl/up": "unreadable", "h/self.txt": "unreadable", "h/nowhere.jsonl": "unreadable",
        "h/\\xff\\xfe.txt": "unreadable", "h/pipe.jsonl": "unreadable", "h/noending": "unknown_format",
        "h/empty.parquet#1": "unreadable", "h/headless.jsonl.gz#1": "unreadable", "h/air.txt.gz": "too_large",
        "h/column-not-utf8.parquet#1": "unreadable", "h/column-zones.parquet#1": "unreadable", "h/bell.md": "binary",
        "h/long-3000000-1.jsonl#1": "too_large", "h/tail.jsonl.gz#13": "unreadable", "h/pdf-locked.pdf": "unreadable",
        "h/pdf-picture.pdf": "no_text", "h/pdf-no-pdf.pdf": "unreadable", "h/pdf-words.pdf": "too_large",
        "h/headless.pdf.gz#1": "unreadable", "h/air.pdf.gz": "unreadable",
    }  # fmt: skip
    assert {name: told[name]["reason"] for name in expected} == expected

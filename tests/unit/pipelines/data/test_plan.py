from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import DataConfig, FilterConfig, SourceConfig
from pipelines.data.batch import BatchCleaner
from pipelines.data.estimate import Range, duration_s, estimate, nodes_for, scaled
from pipelines.data.inventory import inventory, listed
from pipelines.data.plan_command import count, duration, size
from pipelines.data.sample import Place, Sample, take
from pipelines.data.verdict import NO_STANDARDS

WORDS = ["the", "canary", "went", "down", "into", "the", "mine", "and", "sang", "of", "coal", "while", "miners"]


def place(num_bytes: int, cpu_s: float) -> Place:
    return Place(num_bytes, 10, 8, num_bytes // 3, cpu_s)


def test_a_total_by_what_each_place_has_for_a_byte() -> None:
    places = [place(100, 1.0), place(300, 3.0)]
    assert scaled(places, [p.cpu_s for p in places], 4_000) == pytest.approx((40, 40, 40))  # the same everywhere
    low, middle, high = scaled(places, [1.0, 6.0], 4_000)
    assert (low, middle) == (0.0, pytest.approx(60))
    assert high > 100
    assert scaled(places, [1.0, 5.0], 400) == Range(6, 6, 6)  # all of it was read
    assert scaled(places[:1], [1.0], 400).high == float("inf")


def test_ranges_hold_about_as_often_as_they_say() -> None:
    rng = random.Random(3)
    inside = 0
    for _ in range(200):
        everything = [place(rng.randint(400, 600), 0) for _ in range(400)]
        everything = [p._replace(cpu_s=p.num_bytes * rng.uniform(0.5, 1.5)) for p in everything]
        drawn = rng.sample(everything, 20)
        found = scaled(drawn, [p.cpu_s for p in drawn], sum(p.num_bytes for p in everything))
        inside += found.low <= sum(p.cpu_s for p in everything) <= found.high
    assert 0.9 <= inside / 200 <= 0.99


def test_time_and_nodes() -> None:
    found = estimate([place(100, 1.0)] * 3, 1_000_000, 1e-6, longest_bytes=400_000)
    assert found.cpu_s.middle == pytest.approx(10_001)
    assert found.longest_s == pytest.approx(4_000, rel=1e-3)
    assert nodes_for(10_001, 3_600, 2) == 2
    assert duration_s(10_001, 2, found.longest_s) == pytest.approx(5_000.5)
    assert duration_s(10_001, 200, found.longest_s) == found.longest_s  # one worker reads that file


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (count(31_400), "31,000"), (count(999), "999"), (count(2_340_000), "2.3 million"), (size(2_500_000), "2.5 MB"),
        (size(float("inf")), "inf TB"), (duration(90), "90.0 s"), (duration(7_300), "2.0 h"),
    ],
)  # fmt: skip
def test_figures_for_people(told: str, text: str) -> None:
    assert told == text


def rows(num: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 400))) for _ in range(num)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A few megabytes in every way that a place can be found in; some documents are too short to keep."""
    folder = tmp_path_factory.mktemp("plan") / "in"
    folder.mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in rows(400, 1)]
    (folder / "a.jsonl").write_text("".join(lines))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[:40]).encode(), 1, mtime=0))
    pq.write_table(pa.table({"text": rows(250, 2)}), folder / "c.parquet", row_group_size=50)
    for i, text in enumerate(rows(40, 3)):
        (folder / f"d{i:03}.txt").write_text(text)
    (folder / "e.png").write_bytes(b"\x89PNG" * 50_000)
    filters = FilterConfig(min_words=50, min_stop_words=0)
    return DataConfig(sources=(SourceConfig(path=str(folder)),), filters=filters, dedup={"near": False})


def sampled(config: DataConfig, megabytes: float) -> tuple[Sample, Any]:
    files = [file for file in listed(config.sources) if file.format]
    sample = take(files, config, b"", NO_STANDARDS, int(megabytes * 1e6))
    num_bytes = sum(file.num_bytes for file in files)
    return sample, estimate(sample.places, num_bytes, 0.0, 1)


def test_sample_is_bounded_and_tells_of_the_whole(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.data.sample.PLACE_BYTES", 25_000)
    files = inventory(corpus.sources)
    assert [(f.name, f.num_bytes) for f in listed(corpus.sources)] == [(f.name, f.num_bytes) for f in files]
    truth = [reason for table in BatchCleaner(tuple(files), corpus)([(i, None) for i in range(len(files))])
             for reason in table["reason"].to_pylist()]  # fmt: skip
    num, kept = sum(reason != "unknown_format" for reason in truth), truth.count("")
    sample, found = sampled(corpus, 0.3)
    assert len(sample.places) >= 8
    assert sum(place.num_bytes for place in sample.places) < 600_000
    assert found.num_documents.middle == pytest.approx(num, rel=0.3)
    assert found.num_kept.middle / found.num_documents.middle == pytest.approx(kept / num, rel=0.1)
    assert all(p.cpu_s > 0 for p in sample.places)
    whole, exact = sampled(corpus, 100)
    assert sum(p.num_documents for p in whole.places) == num
    assert exact.num_documents.middle == pytest.approx(num)
    assert exact.num_kept.middle == pytest.approx(kept)


def test_file_that_must_be_read_whole_and_is_too_large_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 9_000_000)
    (tmp_path / "b.txt").write_text("some words")
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path)),))
    sample, _ = sampled(config, 20)
    assert [name.split("/")[1] for name in sample.not_sampled] == ["a.txt"]
    assert sum(p.num_documents for p in sample.places) == 1


def test_a_wat_file_is_told_by_its_first_records_and_not_read_whole(tmp_path: Path) -> None:
    body = b'{"Container": "' + b"x" * 50_000 + b'"}'
    header = b"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Length: %d\r\n\r\n" % len(body)
    (tmp_path / "a.wat").write_bytes((header + body + b"\r\n\r\n") * 400)
    sample, found = sampled(DataConfig(sources=(SourceConfig(path=str(tmp_path)),)), 1)
    assert 0 < sample.num_bytes_read < 8_000_000, "of 20 MB"
    assert found.num_documents.middle == 0


def test_an_archive_of_images_is_not_read_whole(tmp_path: Path) -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + bytes(50_000)
    header = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n" % len(body)
    (tmp_path / "a.warc").write_bytes((header + body + b"\r\n\r\n") * 400)
    sample, _ = sampled(DataConfig(sources=(SourceConfig(path=str(tmp_path)),)), 1)
    assert 0 < sample.num_bytes_read < 8_000_000, "of 20 MB"

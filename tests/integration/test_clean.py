"""The clean stage on a real Ray cluster, with and without Ray Data, and real files."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import fasttext
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from xxhash import xxh3_128_digest

from cluster.artifacts import Dataset, Record, find, load
from cluster.errors import ConfigError, InputError, ResourceError, StageFailed
from cluster.storage import LocalStorage
from pipelines.config import DataConfig, FilterConfig, RuleConfig, SourceConfig
from pipelines.data import clean as stage
from pipelines.data import duplicates, repeats
from pipelines.data.batch import MAX_BATCH_DOCUMENTS
from pipelines.data.clean import clean
from pipelines.data.record import parts, schema
from pipelines.data.shards import hash_of
from tests.unit.pipelines.data import pdf_files, world
from tests.unit.pipelines.data.test_classifier import THREADS

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

RAW = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "raw"

PLANTED = {
    "raw/copy-of-canary.md": "exact_duplicate",
    "raw/german.txt": "language",
    "raw/records.jsonl#3": "broken_json",
    "raw/records.jsonl#4": "broken_json",
    "raw/records.jsonl#5": "missing_text",
    "raw/records.jsonl#7": "missing_text",
    "raw/records.jsonl#8": "exact_duplicate",
    "raw/repeated.txt": "duplicate_lines",
    "raw/rewritten-generator.txt": "near_duplicate",
    "raw/scan.txt": "binary",
    "raw/short.txt": "too_few_words",
}


@pytest.fixture(scope="module")
def topics_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "topics"
    folder.mkdir()
    for name, text in topics.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def quickstart(topics_folder: Path, **changes: Any) -> DataConfig:
    sources = (SourceConfig(path=str(topics_folder)), SourceConfig(path=str(RAW)))
    return DataConfig(**{"sources": sources, "filters": FilterConfig(languages=("en",)), **changes})


def rows(storage: LocalStorage, dataset: Dataset, split: str) -> list[dict[str, Any]]:
    tables = [
        pq.read_table(storage.root / dataset.location / f.path) for f in dataset.files if f.path.startswith(split)
    ]
    found: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return found


def test_quickstart_documents(storage: LocalStorage, topics_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = quickstart(topics_folder)
    dataset = clean(config, storage)

    excluded = {row["id"]: row for row in rows(storage, dataset, "excluded")}
    assert {name: row["reason"] for name, row in excluded.items() if name.startswith("raw/")} == PLANTED
    assert excluded["raw/german.txt"]["text"] == (RAW / "german.txt").read_text(encoding="utf-8")
    kept = {row["id"]: row for split in ("train", "heldout") for row in rows(storage, dataset, split)}
    assert (
        sum(name.startswith("topics/") for name in kept) >= 65
    )  # of about 80, which differ with the version of Python
    assert "café in Zürich" in kept["raw/mojibake.txt"]["text"]
    assert "Pietro Bembo. It was" in kept["raw/references.txt"]["text"]
    assert "example.org" not in kept["raw/references.txt"]["text"]
    assert "Accept all" not in kept["raw/page.html"]["text"]
    assert {row["language"] for row in kept.values()} == {"en"}

    _check_counts(storage, dataset, len(kept), len(excluded))
    _check_record(storage, dataset, {**kept, **excluded})
    assert find(storage, dataset.digest) == load(storage, Dataset, dataset.key) == dataset
    assert clean(config.replace(pool="serve"), storage) == dataset  # where it runs changes nothing
    assert "already made" in capfd.readouterr().err


def _check_counts(storage: LocalStorage, dataset: Dataset, num_kept: int, num_excluded: int) -> None:
    assert (dataset.num_kept, dataset.num_excluded) == (num_kept, num_excluded)
    assert dataset.num_documents == num_kept + num_excluded == sum(batch.num_documents for batch in dataset.batches)
    assert sum(source.num_bytes for source in dataset.sources) == pytest.approx(dataset.num_characters_in, rel=0.05)
    assert 0 < dataset.num_characters_kept < dataset.num_characters_in
    assert dataset.num_changed_by_rule["repair_unicode"] == 1
    assert all(dataset.num_changed_by_rule.values())
    for entry, batch in zip(dataset.files, dataset.batches, strict=True):
        content = (storage.root / dataset.location / entry.path).read_bytes()
        assert (entry.num_bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert batch.sha256 == hash_of(pq.read_table(storage.root / dataset.location / batch.path))
        assert batch.rules == dataset.rules_digest


def _check_record(storage: LocalStorage, dataset: Dataset, written: dict[str, dict[str, Any]]) -> None:
    record = load(storage, Record, dataset.key)
    assert record is not None
    assert (record.inputs, record.num_documents) == ({"dataset": dataset.digest}, dataset.num_documents)
    told = {row["id"]: row for _, table in parts(storage, dataset, schema().names) for row in table.to_pylist()}
    assert told.keys() == written.keys()
    assert all(told[name]["text_hash"] == xxh3_128_digest(row["text"].encode()) for name, row in written.items())
    assert told["raw/mojibake.txt"]["changed_by"][0] == "repair_unicode"
    start, end = told["raw/records.jsonl#3"]["span"]
    assert (RAW / "records.jsonl").read_bytes()[start:end] == (RAW / "records.jsonl").read_bytes().splitlines(True)[2]


def test_result_does_not_depend_on_how_the_work_is_cut(
    tmp_path: Path, topics_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dedup = {"lines": {}, "paragraphs": {"min_words": 3}}
    config = quickstart(topics_folder, documents_per_shard=20, heldout_fraction=0.3, dedup=dedup)
    made = []
    for least, many in (
        (1 << 30, 200_000),
        (1 << 30, 200_000),
        (150_000, 1),
    ):  # at last a task for each band
        monkeypatch.setattr(duplicates, "MANY", many)
        monkeypatch.setattr(repeats, "MANY", 1_000 * many)
        monkeypatch.setattr(stage, "BLOCK_BYTES", least)
        storage = LocalStorage(tmp_path / str(len(made)))
        work = stage.prepare(config, storage)
        judge = stage.judge_of(work, storage)
        assert (len(judge.stretches) == 1) == (least == 1 << 30)
        tables = (stage._with_ray_data if made else stage._in_one_task)(judge, config)
        made.append(stage._write(tables, judge.blocks, work, storage))
        assert tables == []  # let go of, so that Ray can
    (small, record), (one, _), (other, other_record) = made
    assert small.digest == one.digest == other.digest
    assert record == other_record
    assert len(one.batches) > 4
    assert one.repeated is not None
    assert one.repeated.num_lines > 10
    assert one.repeated.num_paragraphs > 10


def test_workers_read_pdfs_and_score_by_a_model_as_this_process_does(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate(world.TEXTS):
        (folder / f"{i}.pdf").write_bytes(pdf_files.pdf(*text.split(" and ")))
    for name, content in pdf_files.hostile():
        (folder / f"{name}.pdf").write_bytes(content)
    (folder / "offer.txt").write_text("buy cheap pills now click here best offer")
    chosen = {"path": str(classifier_of(tmp_path)), "label": "__label__hq", "min_score": 0.5}
    config = world.config(folder, filters=FilterConfig(min_words=5, min_stop_words=0, classifier=chosen))
    made = clean(config, storage)
    assert made.num_excluded_by_reason["classifier_score"] == 1
    assert made.num_kept > 5
    monkeypatch.setattr(stage, "BLOCK_BYTES", 4_000)
    other = clean(config, LocalStorage(tmp_path / "by Ray Data"))
    here = world.make(LocalStorage(tmp_path / "here"), config)
    assert [file.sha256 for file in made.files] == [file.sha256 for file in other.files]
    assert [file.sha256 for file in made.files] == [file.sha256 for file in here.files]


@pytest.mark.parametrize("gone", [True, False])
def test_a_model_that_is_not_what_it_was_is_one_message(tmp_path: Path, storage: LocalStorage, gone: bool) -> None:
    (tmp_path / "a.txt").write_text(world.TEXTS[0])
    model = classifier_of(tmp_path)
    filters = FilterConfig(
        min_words=1, min_stop_words=0, classifier={"path": str(model), "label": "__label__hq", "min_score": 0.5}
    )
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.txt")),), filters=filters)
    work = stage.prepare(config, storage)
    judge = stage.judge_of(work, storage)
    model.unlink() if gone else model.write_bytes(model.read_bytes() + b"0")
    # A node's trouble leaves the blocks: another content asks for another version.
    kind, says = (
        (ResourceError, "cannot be read on this node")
        if gone
        else (InputError, "another file than when this run began")
    )
    with pytest.raises(kind, match=says), stage._told_apart(storage):
        stage._read_and_judge(judge, work)


def classifier_of(folder: Path) -> Path:
    """Tells the texts of this module from offers."""
    lines = [
        f"__label__hq {text}\n__label__cc buy cheap pills now click here best offer {i}\n"
        for i, text in enumerate(world.TEXTS)
    ]
    (folder / "lines").write_text("".join(lines))
    model = fasttext.train_supervised(str(folder / "lines"), dim=4, epoch=40, lr=0.5, thread=THREADS, verbose=0)
    model.save_model(str(folder / "quality.bin"))
    return folder / "quality.bin"


def test_key_follows_input_and_configuration_but_not_the_folder(tmp_path: Path, storage: LocalStorage) -> None:
    keys = []
    for number, (text, min_words) in enumerate(
        [("same words", 1), ("same words", 1), ("other words", 1), ("same words", 2)]
    ):
        folder = tmp_path / str(number) / "docs"
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(text)
        filters = FilterConfig(min_words=min_words, min_stop_words=0)
        keys.append(clean(DataConfig(sources=(SourceConfig(path=str(folder)),), filters=filters), storage).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_leftovers_of_an_interrupted_run_do_no_harm(tmp_path: Path, storage: LocalStorage) -> None:
    (tmp_path / "a.txt").write_text("some words")
    filters = FilterConfig(min_words=1, min_stop_words=0)
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.txt")),), filters=filters)
    dataset = clean(config, storage)
    folder = storage.root / dataset.location
    (folder / "manifest.json").unlink()  # as if it had been killed just before the end, with other files lying about
    (folder / "train" / "part-00000.parquet").write_bytes(b"half a fi")
    (folder / "train" / "part-00001.parquet").write_bytes(b"stale")
    again = clean(config, storage)
    assert again.digest == dataset.digest
    assert [path.name for path in (folder / "train").iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize(("name", "content"), [("a.txt", "too short"), ("a.jsonl", ""), ("a.png", "picture")])
def test_nothing_kept_is_an_error_that_counts_and_keeps_the_excluded(
    tmp_path: Path, storage: LocalStorage, name: str, content: str
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / name).write_text(content)
    with pytest.raises(InputError) as caught:
        clean(DataConfig(sources=(SourceConfig(path=str(tmp_path / "docs")),)), storage)
    reason = {"a.txt": "too_few_words: 1", "a.jsonl": "nothing in the files", "a.png": "unknown_format: 1"}[name]
    assert reason in caught.value.found
    assert list(storage.list("artifacts/by-digest")) == []
    shards = [key for key in storage.list("artifacts/dataset") if key.endswith(".parquet")]
    assert [pq.read_table(storage.root / key)["id"].to_pylist() for key in shards] == (
        [[f"docs/{name}"]] if content else []
    )


def test_bad_rule_is_told_before_anything_is_read(tmp_path: Path, storage: LocalStorage) -> None:
    rule = RuleConfig(name="mine", pattern="(")
    with pytest.raises(ConfigError, match="mine"):
        clean(DataConfig(sources=(SourceConfig(path=str(tmp_path / "missing")),), rules=(rule,)), storage)


def test_one_task_gives_its_tables_as_they_are_read(tmp_path: Path, storage: LocalStorage) -> None:
    lines = [f'{{"text": "short text number {n}"}}\n' for n in range(2 * MAX_BATCH_DOCUMENTS + 1)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    work = stage.prepare(DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.jsonl")),)), storage)
    tables = ray.get(list(stage._in_one_task(stage.judge_of(work, storage), work.config)))
    assert [len(table) for table in tables] == [MAX_BATCH_DOCUMENTS, MAX_BATCH_DOCUMENTS, 1]
    assert pa.concat_tables(tables)["ordinal"].to_pylist() == list(range(len(lines)))


@pytest.mark.parametrize(("most", "path"), [(999, "_with_ray_data"), (1000, "_in_one_task")])
def test_inputs_that_are_small_altogether_are_read_without_ray_data(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, most: int, path: str
) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x" * 500)
    monkeypatch.setattr(stage, "BLOCK_BYTES", most)
    for name in ("_with_ray_data", "_in_one_task"):
        monkeypatch.setattr(stage, name, lambda *_, name=name: [name])
    work = stage.prepare(DataConfig(sources=(SourceConfig(path=str(tmp_path)),)), storage)
    assert stage._read_and_judge(stage.judge_of(work, storage), work) == [path]


def ten_documents(tmp_path: Path) -> DataConfig:
    (tmp_path / "docs").mkdir()
    for number, text in enumerate(world.TEXTS[:10]):
        (tmp_path / "docs" / f"{number}.txt").write_text(text)
    return world.config(tmp_path / "docs")


def before_writing(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    write = stage._write_shards

    def after(*args: Any) -> Any:
        what()
        return write(*args)

    monkeypatch.setattr(stage, "_write_shards", after)


def test_blocks_that_another_run_has_removed_because_it_ended_first(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ten_documents(tmp_path)
    before_writing(monkeypatch, lambda: world.make(storage, config))
    made = clean(config, storage)
    assert made == load(storage, Dataset, made.key)
    assert "another run has made the same version meanwhile: 10 documents" in capfd.readouterr().err
    assert list(storage.list("runs/clean")) == [f"runs/clean/{made.key}/claim.json"]


def test_blocks_that_somebody_has_removed(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_writing(monkeypatch, lambda: shutil.rmtree(storage.root / "runs"))
    with pytest.raises(StageFailed, match=r"00000\.arrow is gone or damaged: run the same command again"):
        clean(ten_documents(tmp_path), storage)


def test_a_worker_that_dies_time_and_again_is_one_message(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("text")

    def dying(*_: Any) -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield 0

    monkeypatch.setattr(stage, "judged", dying)
    with pytest.raises(StageFailed, match="a worker died time and again"):
        clean(DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.txt")),)), storage)


def test_a_store_and_a_disk_that_are_full_are_one_message(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("text")

    def full(*_: Any) -> Iterator[int]:
        raise ray.exceptions.OutOfDiskError  # as Ray does where it puts down what a task gives back
        yield 0

    monkeypatch.setattr(stage, "judged", full)
    with pytest.raises(ResourceError, match="Ray's object store: is full, and so is the disk"):
        clean(DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.txt")),)), storage)


@pytest.mark.parametrize("small", [1, stage.BLOCK_BYTES])
def test_file_that_vanishes_meanwhile_is_one_message(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(stage, "BLOCK_BYTES", small)
    (tmp_path / "a.txt").write_text("text")
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.txt")),))
    work = stage.prepare(config, storage)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(StageFailed, match=r"a\.txt was readable"), stage._told_apart(storage):
        stage._read_and_judge(stage.judge_of(work, storage), work)

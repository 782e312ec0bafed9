"""Calibration text is drawn by seed from the train documents, and the task's environment is the overlay or its list."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.artifacts import Dataset
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.quantization.calibration import read_texts, windows
from pipelines.quantization.environment import OVERLAY, packages, runtime_env


def encode(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def numbers(count: int, start: int = 0) -> str:
    return " ".join(map(str, range(start, start + count)))


@pytest.fixture
def dataset(storage: LocalStorage) -> Dataset:
    made = Dataset(key="d" * 16)
    folder = storage.root / made.location / "train"
    folder.mkdir(parents=True)
    for shard in range(3):
        ids = [f"{shard}-{i}" for i in range(10)]
        pq.write_table(pa.table({"id": ids, "text": [f"text of {name}" for name in ids]}), folder / f"{shard}.parquet")
    return made


def test_texts_are_drawn_by_seed_until_there_are_enough(storage: LocalStorage, dataset: Dataset) -> None:
    some = read_texts(storage, dataset, 55, 0)
    assert len(some) == 5  # of 11 characters each, until at least 55
    assert read_texts(storage, dataset, 55, 0) == some
    assert read_texts(storage, dataset, 55, 1) != some
    assert len(set(read_texts(storage, dataset, 10**6, 0))) == 30


def test_no_text_is_an_error(storage: LocalStorage) -> None:
    with pytest.raises(InputError, match="calibrate"):
        read_texts(storage, Dataset(key="e" * 16), 100, 0)


def test_windows_stay_in_their_document_and_leave_stubs_out() -> None:
    found = windows([numbers(25), numbers(3, 100)], encode, 10, 99, 0)
    assert sorted(found) == [list(range(10)), list(range(10, 20)), list(range(20, 25)), [100, 101, 102]]
    assert sorted(windows([numbers(24)], encode, 10, 99, 0)) == [list(range(10)), list(range(10, 20))]
    assert windows([numbers(100)], encode, 10, 3, 0) == windows([numbers(100)], encode, 10, 99, 0)[:3]
    assert windows([numbers(100)], encode, 10, 3, 0) != windows([numbers(100)], encode, 10, 3, 1)


def test_the_overlay_comes_first_and_otherwise_its_list_is_installed(tmp_path: Path) -> None:
    env = runtime_env(tmp_path)
    assert env["pip"]["packages"] == packages()
    (tmp_path / OVERLAY).mkdir()
    assert runtime_env(tmp_path)["env_vars"]["PYTHONPATH"].startswith(str(tmp_path / OVERLAY))


def test_the_overlay_is_pinned_and_shadows_nothing_that_must_be_one() -> None:
    names = {line.partition("==")[0]: line.partition("==")[2] for line in packages()}
    assert all(names.values())
    assert names["compressed-tensors"] == "0.19.0"
    assert not {"numpy", "pyarrow", "torch", "transformers", "ray", "pydantic"} & set(names)

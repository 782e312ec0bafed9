"""Calibration text is drawn by seed from the train documents, and the task's environment is the overlay or its list."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.artifacts import Dataset
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.config import Stratum
from pipelines.quantization.calibration import read_texts, windows
from pipelines.quantization.environment import OVERLAY, packages, runtime_env


def encode(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def numbers(count: int, start: int = 0) -> str:
    return " ".join(map(str, range(start, start + count)))


def write(storage: LocalStorage, made: Dataset, shard: int, rows: list[tuple[str, str, str]]) -> None:
    """Rows of (id, language, source) as a train shard."""
    folder = storage.root / made.location / "train"
    folder.mkdir(parents=True, exist_ok=True)
    ids, languages, sources = (list(column) for column in zip(*rows, strict=True))
    texts = [f"text of {name}" for name in ids]
    columns = {"id": ids, "text": texts, "language": languages, "source": sources}
    pq.write_table(pa.table(columns), folder / f"{shard}.parquet")


@pytest.fixture
def dataset(storage: LocalStorage) -> Dataset:
    made = Dataset(key="d" * 16)
    for shard in range(3):
        write(storage, made, shard, [(f"{shard}-{i}", "en", f"web/{shard}.txt") for i in range(10)])
    return made


def test_texts_are_drawn_by_seed_until_there_are_enough(storage: LocalStorage, dataset: Dataset) -> None:
    some = read_texts(storage, dataset, 14, 0)[""]
    assert len(some) == 6  # of 11 characters each, until at least 4 x 14
    assert read_texts(storage, dataset, 14, 0) == {"": some}
    assert read_texts(storage, dataset, 14, 1) != {"": some}
    assert len(set(read_texts(storage, dataset, 10**6, 0)[""])) == 30


def test_one_stratum_is_drawn_as_without_any(storage: LocalStorage, dataset: Dataset) -> None:
    """What a dataset of one language and source was quantized with stays the same."""
    whole = read_texts(storage, dataset, 14, 0)
    balanced = read_texts(storage, dataset, 14, 0, ("language", "domain"))
    assert balanced == {"en web": whole[""]}
    drawn, same = (windows(texts, lambda text: [ord(c) for c in text], 4, 5, 0) for texts in (whole, balanced))
    assert [window for _, window in drawn] == [window for _, window in same]


def test_a_dataset_that_does_not_say_is_one_stratum(storage: LocalStorage) -> None:
    made = Dataset(key="d" * 16)
    folder = storage.root / made.location / "train"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", "y"]}), folder / "0.parquet")
    assert {name: len(found) for name, found in read_texts(storage, made, 9, 0, ("language", "domain")).items()} == {
        "unknown unknown": 2
    }


def test_no_text_is_an_error(storage: LocalStorage) -> None:
    with pytest.raises(InputError, match="calibrate"):
        read_texts(storage, Dataset(key="e" * 16), 100, 0)


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        ((), None),
        (("language",), {"de": 4, "en": 4, "unknown": 4}),
        (("domain",), {"manual": 6, "web": 6}),
        (("language", "domain"), {"de web": 3, "en manual": 3, "en web": 3, "unknown web": 3}),
    ],
)
def test_shares_are_equal_where_there_is_enough(
    storage: LocalStorage, balance: tuple[Stratum, ...], shares: dict[str, int] | None
) -> None:
    """A hundred English documents of the web, eight of each other kind in a shard of their own."""
    made = Dataset(key="d" * 16)
    write(storage, made, 0, [(f"0-{i}", "en", f"web/{i}.html") for i in range(100)])
    write(storage, made, 1, [(f"1-{i}", "de", f"web/{i}.html") for i in range(8)])
    write(storage, made, 2, [(f"2-{i}", "en", f"manual/{i}.txt") for i in range(8)])
    write(storage, made, 3, [(f"3-{i}", "", f"web/{i}.html") for i in range(8)])

    texts = read_texts(storage, made, 12 * 11, 0, balance)
    drawn = windows(texts, lambda text: [ord(c) for c in text], 20, 12, 0)

    if shares is None:
        assert {name for name, _ in drawn} == {""}
        assert len({tuple(window) for _, window in drawn}) == 12
    else:
        assert Counter(name for name, _ in drawn) == shares
        rest = windows(texts, lambda text: [ord(c) for c in text], 20, 12, 1)
        assert rest != drawn
        assert Counter(name for name, _ in rest) == shares


def test_others_fill_up_where_a_language_has_little() -> None:
    texts = {"de": [numbers(10)], "en": [numbers(100, 1000)]}
    drawn = windows(texts, encode, 10, 6, 0)
    assert [name for name, _ in drawn] == ["de", "en", "en", "en", "en", "en"]


def test_windows_stay_in_their_document_and_leave_stubs_out() -> None:
    def drawn(text: list[str], count: int = 99, seed: int = 0) -> list[list[int]]:
        return [window for _, window in windows({"": text}, encode, 10, count, seed)]

    found = drawn([numbers(25), numbers(3, 100)])
    assert sorted(found) == [list(range(10)), list(range(10, 20)), list(range(20, 25)), [100, 101, 102]]
    assert sorted(drawn([numbers(24)])) == [list(range(10)), list(range(10, 20))]
    assert drawn([numbers(100)], 3) == drawn([numbers(100)])[:3]
    assert drawn([numbers(100)], 3) != drawn([numbers(100)], 3, 1)


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

"""Scores by a fastText classifier, trained here, and what can be wrong with its file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import fasttext
import pytest

from cluster.errors import InputError, ResourceError
from cluster.storage import LocalStorage
from pipelines.config import ClassifierConfig
from pipelines.data import classifier, model_file
from pipelines.data.classifier import read_classifier, score_drops, scores
from pipelines.data.fasttext_file import NotModel, describe
from pipelines.data.trace import trace
from tests.unit.pipelines.data import world
from tests.unit.pipelines.data.strategies import column

GOOD, BAD = "the canary sang of light and air in the morning", "buy cheap pills now click here best offer"
THREADS = 12
"""With fewer than eleven, fastText 0.9.2 leaves a part of its matrix as the memory was, and may meet numbers that are none."""


def train(folder: Path, num_more: int = 0, **settings: Any) -> Any:
    """Two labels that no text has words of both of, and more of them with a word each."""
    lines = [f"__label__hq {GOOD} {i}\n__label__cc {BAD} {i}\n" for i in range(60)]
    lines += [f"__label__{i} word{i}\n" for i in range(num_more)]
    (folder / "lines.txt").write_text("".join(lines))
    chosen = {"dim": 8, "epoch": 40, "lr": 0.5, "bucket": 1_000, "wordNgrams": 2, **settings}
    return fasttext.train_supervised(str(folder / "lines.txt"), thread=THREADS, verbose=0, **chosen)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same classifier in each form that fastText saves."""
    folder = tmp_path_factory.mktemp("models")
    made = dict[str, Path]()

    def saved(name: str, model: Any) -> None:
        made[name] = folder / name
        model.save_model(str(made[name]))

    saved("plain.bin", train(folder))
    saved("words-alone.bin", train(folder, wordNgrams=1, bucket=2_000_000))
    saved("letters.bin", train(folder, minn=2, maxn=3, loss="hs"))
    saved("one-vs-all.bin", train(folder, loss="ova"))
    for name, settings in {"small": {}, "norms": {"qnorm": True, "dsub": 3}, "output": {"qout": True}}.items():
        model = train(folder, 300 if name == "output" else 0, dim=10)  # fewer than 256 labels are not quantized
        model.quantize(**settings)
        saved(f"{name}.ftz", model)
    model = train(folder)
    model.quantize(input=str(folder / "lines.txt"), cutoff=300, retrain=True, qnorm=True, thread=THREADS, verbose=0)
    saved("pruned.ftz", model)
    return made


FORMS = (
    "plain.bin", "words-alone.bin", "letters.bin", "one-vs-all.bin", "small.ftz", "norms.ftz", "output.ftz", "pruned.ftz",
)  # fmt: skip


def config(path: Path | str, **changes: Any) -> ClassifierConfig:
    return ClassifierConfig(**{"path": str(path), "label": "__label__hq", "min_score": 0.5, **changes})


@pytest.mark.parametrize("name", FORMS)
def test_the_score_is_the_probability_of_the_label_as_fasttext_tells_it(models: dict[str, Path], name: str) -> None:
    texts = [GOOD, BAD, "", "nothing that it knows"]
    found = scores(texts, read_classifier(config(models[name])))
    plain = fasttext.load_model(str(models[name]))
    for text, score in zip(texts, found, strict=True):
        told = dict(zip(*plain.predict(text, k=-1), strict=True)).get("__label__hq", 0.0)
        assert score == pytest.approx(min(told, 1.0), abs=1e-6)
    assert found[0] > 0.5 > 0.1 > found[1]


def test_line_breaks_are_spaces_and_other_texts_change_no_score(models: dict[str, Path]) -> None:
    chosen = read_classifier(config(models["plain.bin"]))
    lines = GOOD.replace(" and ", "\nand\n\n")
    assert scores([lines], chosen) == scores([lines.replace("\n", " ")], chosen) == scores([BAD, lines], chosen)[1:]
    assert scores([], chosen) == []


def test_no_word_hides_what_stands_behind_it(models: dict[str, Path]) -> None:
    chosen = read_classifier(config(models["plain.bin"]))
    assert scores([f"</s> {BAD}", f"</s>\n{BAD}"], chosen) == pytest.approx(scores([BAD, BAD], chosen))


def test_what_is_outside_the_bounds_is_told_with_its_score(models: dict[str, Path]) -> None:
    texts = column([GOOD, BAD])
    (at, drop), *more = score_drops(texts, read_classifier(config(models["plain.bin"]))).items()
    assert (at, drop.reason, more) == (1, "classifier_score", [])
    assert drop.detail.endswith(" for __label__hq, at least 0.5 asked")
    assert 0 <= float(drop.detail.split()[0]) < 0.1
    high = read_classifier(config(models["plain.bin"], min_score=0, max_score=0.2))
    assert {i: drop.detail[6:] for i, drop in score_drops(texts, high).items()} == {
        0: " for __label__hq, at most 0.2 allowed"
    }


@pytest.mark.parametrize("name", FORMS)
def test_the_labels_are_read_without_fasttext_and_no_byte_may_be_missing(
    models: dict[str, Path], name: str, tmp_path: Path
) -> None:
    content = models[name].read_bytes()
    found = describe(models[name])
    assert found.labels == tuple(fasttext.load_model(str(models[name])).labels)
    assert {"__label__hq", "__label__cc"} <= set(found.labels)
    assert found.is_quantized == name.endswith(".ftz")
    assert found.num_words == len(fasttext.load_model(str(models[name])).words)
    other = tmp_path / name
    ends = {*range(0, min(len(content), 400), 7), *range(0, len(content), max(len(content) // 60, 1)), len(content) - 1}
    for end in sorted(ends - {len(content)}):
        other.write_bytes(content[:end])
        with pytest.raises(NotModel):
            describe(other)
    other.write_bytes(content + b"\0")
    with pytest.raises(NotModel, match="1 bytes behind its end"):
        describe(other)


@pytest.mark.parametrize("name", FORMS)
def test_sizes_that_do_not_belong_together_are_found(models: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Each number of the head, and each of the dictionary's sizes, made larger or negative."""
    content, other = models[name].read_bytes(), tmp_path / name
    # magic, format, dim, model, bucket, then the dictionary's: entries, words, labels
    at = {"magic": 0, "format": 4, "dim": 8, "model": 36, "entries": 64, "words": 68, "labels": 72}
    for place in at.values():
        for change in (1, -1, 1 << 20, -(1 << 30)):
            data = bytearray(content)
            (number,) = struct.unpack_from("<i", data, place)
            struct.pack_into("<i", data, place, max(min(number + change, 2**31 - 1), -(2**31)))
            other.write_bytes(data)
            with pytest.raises(NotModel):
                describe(other)


def test_word_vectors_are_no_classifier(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(f"{GOOD}\n" * 20)
    model = fasttext.train_unsupervised(
        str(tmp_path / "lines.txt"), dim=4, epoch=1, thread=THREADS, bucket=10, verbose=0
    )
    model.save_model(str(tmp_path / "vectors.bin"))
    with pytest.raises(InputError, match=r"classifier: vectors\.bin: word vectors, no classifier"):
        read_classifier(config(tmp_path / "vectors.bin"))


def test_what_cannot_be_used_is_told_with_what_to_do(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"(?s)data\.filters\.classifier: .*none\.bin: no such file.*-> name a classifier"
    ):
        read_classifier(config(tmp_path / "none.bin"))
    with pytest.raises(InputError, match=r"(?s)label: hq: no label of plain\.bin.*__label__"):
        read_classifier(config(models["plain.bin"], label="hq"))
    with pytest.raises(InputError, match=r"8 files|9 files"):
        read_classifier(config(models["plain.bin"].parent))
    (tmp_path / "a.bin").write_bytes(b"some words")
    with pytest.raises(InputError, match=r"classifier: a\.bin: no model of fastText"):
        read_classifier(config(tmp_path / "a.bin"))
    (tmp_path / "a.bin").write_bytes(models["plain.bin"].read_bytes()[:-1])
    with pytest.raises(InputError, match=r"a\.bin: damaged"):
        read_classifier(config(tmp_path / "a.bin"))


def test_without_fasttext_it_says_what_to_install(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"(?s)fasttext-numpy2-wheel is not installed.*serinus\[quality\]"):
        read_classifier(config(models["plain.bin"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"min_score": 0}, "with neither no document would be excluded"),
        ({"min_score": 0.6, "max_score": 0.5}, "is above max_score"),
        ({"min_score": 1.5}, "less than or equal to 1"),
        ({"label": ""}, "at least 1 character"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(Path("a.bin"), **changes)


def test_a_model_that_is_changed_under_way_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(models["plain.bin"].read_bytes())
    chosen = read_classifier(config(path))
    path.write_bytes(models["letters.bin"].read_bytes())
    model_file._SOUND.clear()  # as in a worker, which has not looked at it yet
    with pytest.raises(InputError, match="another file than when this run began"):
        scores([GOOD], chosen)
    path.unlink()
    with pytest.raises(ResourceError, match="cannot be read on this node"):
        scores([GOOD], chosen)


def test_a_model_in_a_bucket_is_fetched_once(
    models: dict[str, Path], s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.storage import open_storage

    monkeypatch.setenv("SERINUS_HOME", str(tmp_path))
    open_storage(s3_uri).write("models/plain.bin", models["plain.bin"].read_bytes())
    chosen = read_classifier(config(f"{s3_uri}/models/plain.bin"))
    local = read_classifier(config(models["plain.bin"]))
    assert scores([GOOD, BAD], chosen) == scores([GOOD, BAD], local)
    (copy,) = (tmp_path / "cache" / "models").glob("*.bin")
    before = copy.stat().st_mtime_ns
    model_file._SOUND.clear()
    classifier._loaded.cache_clear()
    assert scores([GOOD], chosen) == scores([GOOD], local)
    assert copy.stat().st_mtime_ns == before
    copy.write_bytes(b"")  # the disk was full, say
    model_file._SOUND.clear()
    classifier._loaded.cache_clear()
    assert scores([GOOD], chosen) == scores([GOOD], local)


def test_the_dataset_has_the_scores_and_is_another_with_another_model(
    models: dict[str, Path], tmp_path: Path, storage: LocalStorage
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate([*world.TEXTS[:4], BAD]):
        (folder / f"{i}.txt").write_text(text)
    plain = world.make(storage, world.config(folder))
    assert "classifier" not in plain.config["filters"]
    keys = {plain.key}
    for name, bounds in (("plain.bin", {}), ("plain.bin", {"min_score": 0.4}), ("letters.bin", {})):
        filters = world.FILTERS.replace(classifier=config(models[name], **bounds))
        made = world.make(storage, world.config(folder, filters=filters))
        keys.add(made.key)
        fate = trace(storage, "in/4.txt", made).fates[0]
        assert (fate.reason, " for __label__hq, at least " in fate.detail) == ("classifier_score", True)
        assert str(models[name].parent) not in made.model_dump_json()
        assert made.config["filters"]["classifier"]["file"] == name
    assert len(keys) == 4

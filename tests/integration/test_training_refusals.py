"""What goes wrong before and behind a training run is told in one message: where, what was found, what to do; exit code 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.training.train as stage
from cluster.artifacts import Dataset, FileEntry, save
from cluster.errors import ConfigError, InputError, ResourceError, StageFailed, UserError
from cluster.storage import LocalStorage, sha256_of
from cluster.waiting import wait_for_room
from pipelines.training import fit
from tests.integration.training_case import base_model, chaos_run, ends_early, golden_losses, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

Attempt = Callable[[LocalStorage, Path], object]
"""Does it wrong, given a storage and the tests' tiny model."""


def run(storage: LocalStorage, model: Path, dataset: Dataset | None = None, **fields: Any) -> object:
    return stage.train(small_run(**fields), dataset or small_dataset(storage), base_model(storage, model), storage)


def too_large(storage: LocalStorage, model: Path) -> object:
    huge = base_model(storage, model).model_copy(update={"num_parameters": 10**12})
    return stage.train(small_run(), small_dataset(storage), huge, storage)


def of_one_document(storage: LocalStorage, text: str, sha256: str | None = None) -> Dataset:
    """
    Args:
        sha256: of the shard, for the manifest; "true": as it is.
    """
    made = Dataset(key="f" * 16, num_train=1)
    shard = storage.root / made.location / "train" / "00000.parquet"
    shard.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"id": "a", "text": text}]), shard)
    if sha256:
        entry = FileEntry(path="train/00000.parquet", num_bytes=shard.stat().st_size, sha256=sha256)
        made = made.replace(files=(entry.replace(sha256=sha256_of(shard)) if sha256 == "true" else entry,))
    return save(storage, made)


def copied(storage: LocalStorage, model: Path) -> Path:
    return Path(shutil.copytree(model, storage.root.parent / "model"))


def larger_tokenizer(storage: LocalStorage, model: Path) -> object:
    """The weights of a model with half of the tokenizer's tokens."""
    from transformers import AutoModelForCausalLM

    folder = copied(storage, model)
    smaller = AutoModelForCausalLM.from_pretrained(folder)
    smaller.resize_token_embeddings(500)
    smaller.save_pretrained(folder)
    return run(storage, folder)


def added_token(storage: LocalStorage, model: Path) -> object:
    """As people add one and forget to give the model a row for it."""
    from transformers import AutoTokenizer

    folder = copied(storage, model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|mine|>"])
    tokenizer.save_pretrained(folder)
    return run(storage, folder, of_one_document(storage, "a text with <|mine|> in it " * 50))


def gpt2(storage: LocalStorage, model: Path) -> object:
    """Its config.json has another name for positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = copied(storage, model)
    sizes = GPT2Config(vocab_size=1000, n_positions=32, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=2)
    GPT2LMHeadModel(sizes).save_pretrained(folder)
    return run(storage, folder)


def weights(storage: LocalStorage, model: Path, damage: Callable[[bytes], bytes]) -> object:
    base = base_model(storage, model)
    file = storage.root / base.folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    return run(storage, model)


def shard_cut_short(storage: LocalStorage, model: Path) -> object:
    dataset = of_one_document(storage, "word " * 500)
    shard = storage.root / dataset.location / "train" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    return run(storage, model, dataset)


def tokens_cut_short(storage: LocalStorage, model: Path) -> object:
    from pipelines.training.tokens import make_tokens, open_stream

    index = make_tokens(small_dataset(storage), base_model(storage, model).folder, "any", storage)
    file = storage.root / index.folder / index.shards[0].path
    file.write_bytes(file.read_bytes()[:-2])
    return open_stream(storage, index)


BAD: dict[str, tuple[Attempt, type[UserError], str, str]] = {
    "more workers than there is room": (
        lambda s, m: run(s, m, num_workers=500), ResourceError, "pool train", "500 workers of 1 CPU each"),
    "no GPU": (lambda s, m: run(s, m, gpus_per_worker=1), ResourceError, "pool train", "1 GPU each"),
    "a model that does not fit": (too_large, ResourceError, "memory for training", "GiB are available"),
    "a tokenizer of another model": (larger_tokenizer, InputError, "model", "makes token 999, and the model knows 500"),
    "a token without a row": (added_token, InputError, "model", "makes token 1000, and the model knows 1000"),
    "no documents": (lambda s, m: run(s, m, save(s, Dataset(key="e" * 16))), InputError, "eeee/train", "no documents"),
    "too little text": (
        lambda s, m: run(s, m, of_one_document(s, "One line of text."), sequence_length=1024), InputError, "ffff/train",
        "tokens, fewer than one sequence of 1024"),
    "sequences longer than the model": (
        lambda s, m: run(s, m, sequence_length=4096), ConfigError, "train.sequence_length",
        "4096 tokens, but the model knows 1024"),
    "the same of GPT-2": (gpt2, ConfigError, "train.sequence_length", "64 tokens, but the model knows 32"),
    "weights cut short": (
        lambda s, m: weights(s, m, lambda b: b[:-100]), InputError, "model/model.safetensors", "is cut short"),
    "weights with another digest": (
        lambda s, m: weights(s, m, lambda b: b[:-1] + b"\x01"), InputError, "model/model.safetensors", "its SHA-256 differs"),
    "a shard cut short": (shard_cut_short, InputError, "train/00000.parquet", "cannot be read as Parquet"),
    "a shard with another digest": (
        lambda s, m: run(s, m, of_one_document(s, "word " * 500, sha256="0" * 64)), InputError, "train/00000.parquet",
        "its SHA-256 differs"),
    "tokens cut short": (tokens_cut_short, InputError, "000000.bin", "is missing or cut short"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_clear_message(name: str, storage: LocalStorage, tiny_model: Path) -> None:
    attempt, kind, where, found = BAD[name]
    with pytest.raises(UserError) as caught:
        attempt(storage, tiny_model)
    assert_clear(caught.value, kind, where, found)


def assert_clear(error: UserError, kind: type[UserError], where: str, found: str) -> None:
    assert type(error) is kind
    assert error.exit_code == 2
    assert where in error.where
    assert found in error.found
    assert error.remedy
    assert len(str(error).splitlines()) == 2
    assert "Traceback" not in str(error)


def test_a_shard_with_its_digest_is_taken(storage: LocalStorage, tiny_model: Path) -> None:
    with pytest.raises(InputError, match="fewer than one sequence"):  # what is asked next
        run(storage, tiny_model, of_one_document(storage, "One line of text.", sha256="true"))


@contextmanager
def damaged(file: Path, content: bytes | None) -> Iterator[None]:
    """The file has other content meanwhile, or is not there."""
    before = file.read_bytes()
    file.unlink() if content is None else file.write_bytes(content)
    yield
    file.write_bytes(before)


@pytest.mark.long
def test_a_damaged_checkpoint_is_told_of_and_once_it_is_removed_the_one_before_gone_on_from(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage that one rank finds ends both of them, at once: workers that start again would find the same."""
    dataset, base, config = small_dataset(storage), base_model(storage, tiny_model), chaos_run()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "worker", ends_early)
        with pytest.raises(StageFailed, match="ended for the test"):
            stage.train(config.replace(max_failures=0), dataset, base, storage)
    newest = max(storage.root.glob("runs/train/*/step-*"))
    values = newest / "1.bin"
    cases = [
        (values, values.read_bytes()[:-4], "1.bin", "is missing or cut short"),
        (values, values.read_bytes()[:-1] + b"\x01", "1.bin", "its hash differs"),
        (newest / "0.json", b"{", "0.json", "cannot be read"),
        (newest / "record.json", None, "record.json", "cannot be read"),
    ]
    for file, content, where, found in cases:
        with damaged(file, content), pytest.raises(UserError) as caught:
            stage.train(config, dataset, base, storage)
        assert_clear(caught.value, InputError, f"{newest}/{where}", found)
        assert caught.value.remedy.startswith(f"remove {newest} and run again")
    shutil.rmtree(newest)
    made = stage.train(config, dataset, base, storage)
    assert made.resumed_at_steps == (2,)
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)


def test_room_for_workers_is_waited_for_and_given_up_in_the_end() -> None:
    """Of the private cluster, which has no pools."""
    assert wait_for_room("train", "train", [{"CPU": 1}] * 2, {}) is False
    with pytest.raises(ResourceError, match=r"pool `train`: had no room for 2 workers within \d+ s"):
        wait_for_room("train", "train", [{"CPU": 1_000}] * 2, {}, timeout_s=1)
    assert wait_for_room("train", "train", [{"CPU": 1}] * 2, {}) is False, (
        "what was asked for in vain is not asked for any more"
    )

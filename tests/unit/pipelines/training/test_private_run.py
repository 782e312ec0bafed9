"""What the driver settles before a private run: the mechanism, the secret, and what is written down before anything is spent."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from cluster.artifacts import Dataset, ImportedModel, Source
from cluster.errors import ResourceError
from cluster.storage import LocalStorage
from pipelines.config import TrainConfig
from pipelines.training import private_run
from pipelines.training.budget import read_spendings
from pipelines.training.draws import read_secret
from pipelines.training.private_run import account, begin, origin, stored_documents, warn_unprotected
from pipelines.training.train_key import train_key

DATASET = Dataset(key="a" * 16, sources=(Source(path="notes.jsonl", num_bytes=1, sha256="1"),))


def private(**fields: Any) -> TrainConfig:
    given = {
        "zero": {"stage": 1},
        "num_steps": 20,
        "sequence_length": 16,
        "privacy": {"target_epsilon": 2.0, "accountant": "rdp"},
    }
    return TrainConfig.model_validate({**given, **fields})


def tokens(storage: LocalStorage, num: int = 500) -> dict[str, Any]:
    """Token files of `num` documents of 4 to 23 tokens, in two shards."""
    documents = [np.append(np.full(3 + n % 20, n % 900 + 3), 0) for n in range(num)]
    shards = {"0.bin": documents[:200], "1.bin": documents[200:]}
    for name, some in shards.items():
        storage.write(f"runs/tokens/x/{name}", np.concatenate(some).astype("<u2").tobytes())
    counted = [
        {"path": name, "num_tokens": sum(map(len, some)), "num_documents": len(some)} for name, some in shards.items()
    ]
    return {"dtype": "<u2", "end": 0, "shards": counted, "folder": "runs/tokens/x"}


def test_what_a_run_spends_is_on_record_before_it_starts_and_paid_once(storage: LocalStorage) -> None:
    config, data = private(), {"tokens": {"dataset": tokens(storage)}, "examples": ""}
    names = origin(config, DATASET, "")
    terms = begin(config, data, storage, "runs/train/k1", names)
    assert terms.sample_rate == config.total_sequences / 500
    (spent,) = read_spendings(storage)
    assert (spent.run, spent.epsilon, spent.is_guaranteed) == ("k1", terms.epsilon, True)
    secret = read_secret(storage, "runs/train/k1")
    assert secret not in storage.read("privacy/ledger.json").content  # type: ignore[union-attr]

    assert begin(config, data, storage, "runs/train/k1", names) == terms  # it goes on
    assert read_secret(storage, "runs/train/k1") == secret
    assert len(read_spendings(storage)) == 1
    with pytest.raises(ResourceError, match=r"1 run\(s\) on the same data have spent"):
        begin(config, data, storage, "runs/train/k2", names)

    found = account(config, terms, storage, names)
    assert (found.num_examples, found.epsilon_of_data) == (500, terms.epsilon)
    assert found.unit == "one document of the dataset, its first 16 tokens"


def test_documents_in_several_shards_are_found_again(storage: LocalStorage) -> None:
    found = stored_documents(storage, tokens(storage), 16)
    assert found.num == 500
    assert found.batch([250]).inputs["input_ids"].tolist() == [[253] * 13 + [0]]
    assert found.batch([199]).inputs["input_ids"].tolist() == [[202] * 16]  # cut


def test_lines_and_pairs_are_counted_as_what_they_are(storage: LocalStorage) -> None:
    file = io.BytesIO()
    np.savez(
        file, tokens=np.zeros(900, np.uint32), targets=np.ones(900, np.bool_), ends=np.arange(3, 903, 3, dtype=np.int64)
    )
    storage.write("runs/examples/x.npz", file.getvalue())
    for kind, num in (("instruct", 300), ("dpo", 150)):
        config = private(method={"kind": kind, "path": "lines.jsonl"}, privacy={"noise_multiplier": 50})
        names = origin(config, DATASET, f"hash of {kind}")
        terms = begin(config, {"tokens": {}, "examples": "runs/examples/x.npz"}, storage, f"runs/train/{kind}", names)
        assert terms.sample_rate == config.total_sequences / num
        assert account(config, terms, storage, names).num_examples == num


def test_a_run_without_privacy_on_promised_data_is_warned_of(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(private_run.progress, "say", lambda _, message: said.append(message))
    config = private(privacy={"noise_multiplier": 50, "noise_seed": 1})
    names = origin(config, DATASET, "")
    warn_unprotected(storage, names)
    assert said == []
    begin(config, {"tokens": {"dataset": tokens(storage)}}, storage, "runs/train/k", names)
    assert "nobody is protected" in said[-1]
    warn_unprotected(storage, names)
    assert said[-1].startswith("warning: 1 private run(s) were made of this data")


def test_another_accountant_than_was_asked_for_is_told_and_stands_in_the_manifest(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(private_run.progress, "say", lambda _, message: said.append(message))
    config = private(privacy={"noise_multiplier": 9000}, num_steps=10**7)
    names = origin(config, DATASET, "")
    terms = begin(config, {"tokens": {"dataset": tokens(storage)}}, storage, "runs/train/k", names)
    assert any("warning: train.privacy.accountant: prv cannot account for this run (a grid of" in line for line in said)
    assert account(config, terms, storage, names).accountant == "rdp"


def test_the_key_of_a_run_without_privacy_is_what_it_was() -> None:
    base = ImportedModel(key="b" * 16)
    assert train_key(TrainConfig(), DATASET, base) == "944c713f5401f49c"
    asked = private()
    assert train_key(asked, DATASET, base) != train_key(asked.replace(privacy={"target_epsilon": 1}), DATASET, base)
    richer = {"target_epsilon": 2.0, "accountant": "rdp", "budget": {"epsilon": 9}}
    assert train_key(asked.replace(privacy=richer), DATASET, base) == train_key(asked, DATASET, base)

"""Feedback files to a version of preferences: cleaned, on record, found again, and taken by the DPO recipe."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import serinus
from cluster import artifacts
from cluster.artifacts import Checkpoint, Dataset, Preferences
from cluster.descent import descent, made_as
from cluster.errors import InputError
from cluster.feedback import Exchange, Message, Vote
from cluster.storage import LocalStorage
from pipelines.config import DataConfig
from pipelines.data.preferences.make import find, preferences, read_excluded
from pipelines.training.method_file import conversations

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROTECTED = {"protect": {"email": "mask", "credit_card": "drop"}}


def config(**fields: Any) -> DataConfig:
    return DataConfig.model_validate({"sources": [{"path": "unused"}], **fields})


def line(request_id: str, asked: str, answer: str, correction: str | None = None, thumb: str = "down") -> str:
    exchange = Exchange(messages=(Message(role="user", content=asked),), answer=answer)
    vote = {"request_id": request_id, "revision": "m-1", "role": "stable", "thumb": thumb, "at": NOW}
    return Vote.model_validate({**vote, "exchange": exchange, "correction": correction}).model_dump_json()


def write(storage: LocalStorage, *lines: str, rollout: str = "r1") -> None:
    storage.write(f"rollouts/m/{rollout}/feedback-000001.jsonl", "\n".join(lines).encode())


def pairs(storage: LocalStorage, made: Preferences) -> list[dict[str, Any]]:
    blob = storage.read(f"{made.location}/pairs.jsonl")
    assert blob is not None
    return [json.loads(text) for text in blob.content.splitlines()]


def test_personal_data_is_out_of_the_pairs_and_of_what_is_told_of_the_excluded(storage: LocalStorage) -> None:
    write(
        storage,
        line("a", "Whom do I ask? I am bob\u200b@example.org", "Ask eve@example.org.", "Ask support."),
        line("b", "My card is 4111 1111 1111 1111.", "I see.", "Do not tell me."),
        line("c", "Mail?", "Write to eve@example.org.", "Write to bob@example.org."),
        '{"request_id": "d", "secret": "eve@example.org"}',
    )
    made = preferences("m", config(**PROTECTED), storage)
    ((pair,)) = pairs(storage, made)
    assert pair["prompt"] == [{"role": "user", "content": "Whom do I ask? I am [EMAIL]"}]
    assert (pair["chosen"], pair["rejected"]) == ("Ask support.", "Ask [EMAIL].")
    assert made.num_protected_by_kind == {"email": 2}
    assert made.num_excluded_by_reason == {"personal_data": 1, "same_answers": 1, "unreadable": 1}
    assert made.num_votes == 4
    folder = storage.root / made.location
    assert all(name not in path.read_text() for path in folder.iterdir() for name in ("eve@", "bob@", "4111"))
    told = {one.reason: one for one in read_excluded(storage, made)}
    assert (told["personal_data"].detail, told["personal_data"].request_id) == ("credit_card", "b")
    assert told["unreadable"].where == "rollouts/m/r1/feedback-000001.jsonl:4"
    assert "revision" in told["unreadable"].detail


def test_the_same_votes_are_the_same_version_and_more_are_another(storage: LocalStorage) -> None:
    write(storage, line("a", "Capital of France?", "Lyon.", "Paris."))
    first = preferences("m", config(), storage)
    assert preferences("m", config(), storage) == first
    assert first.num_pairs_by_how == {"correction": 1}
    assert preferences("m", config(**PROTECTED), storage).key != first.key
    write(storage, line("b", "Capital of Spain?", "Barcelona.", "Madrid."), rollout="r2")
    second = preferences("m", config(), storage)
    assert (second.num_pairs, len(second.sources), second.num_pairs_by_revision) == (2, 2, {"m-1": 2})
    assert find(storage, first.key[:6]) == first
    assert find(storage) == second


def test_items_of_an_evaluation_set_are_not_learnt_from(storage: LocalStorage, tmp_path: Path) -> None:
    item = "which of the four largest moons of jupiter is covered by ice and may hide an ocean"
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": 7, "question": item}))
    write(storage, line("a", f"Tell me: {item}?", "Io.", "Europa."), line("b", "Capital of France?", "Lyon.", "Paris."))
    sets = {"decontaminate": {"sets": [{"path": str(tmp_path / "items.jsonl")}]}}
    made = preferences("m", config(**sets), storage)
    assert [pair["chosen"] for pair in pairs(storage, made)] == ["Paris."]
    ((told,)) = read_excluded(storage, made)
    assert (told.reason, told.detail) == ("contaminated", "items.jsonl#7")


def test_the_file_is_one_that_dpo_reads_and_leads_from_votes_to_models(storage: LocalStorage) -> None:
    write(storage, line("a", "Capital of France?", "Lyon.", "Paris."))
    made = preferences("m", config(), storage)
    blob = storage.read(f"{made.location}/pairs.jsonl")
    assert blob is not None
    chosen, rejected = (messages for _, messages in conversations("dpo", "pairs.jsonl", blob.content))
    assert chosen == [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris."}]
    assert rejected[-1]["content"] == "Lyon."
    assert made_as(storage, Preferences, sha256(blob.content).hexdigest()) == made
    dataset = artifacts.save(storage, Dataset(key="a" * 16))
    inputs = {"dataset": dataset.digest, "preferences": made.digest}
    artifacts.save(storage, Checkpoint(key="cccc", inputs=inputs))
    assert [(model.key, model.how) for model in descent(storage, made.location).models] == [("cccc", "trained on it")]


def test_no_votes_and_no_pairs_are_told_with_what_to_do(storage: LocalStorage) -> None:
    with pytest.raises(InputError, match=r"rollouts/m: no votes on answers yet"):
        preferences("m", config(), storage)
    vote = Vote(request_id="a", revision="m-1", role="stable", thumb="up", at=NOW)
    write(storage, vote.model_dump_json())
    with pytest.raises(InputError, match=r"none of 1 votes makes a pair \(no_texts 1\)"):
        preferences("m", config(), storage)
    assert not list(storage.list("artifacts"))


def test_commands_make_list_and_show(storage: LocalStorage, tmp_path: Path) -> None:
    write(storage, line("a", "Capital of France?", "Lyon.", "Paris."), line("b", "Mail?", "a@example.org", thumb="up"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: m\nstorage: {storage.root}\ndata: {{sources: [{{path: x.txt}}], protect: {{email: mask}}}}\n"
        "model: {source: model.gguf}\nevaluate: {tasks: [{name: p, kind: perplexity}]}\n"
    )

    def told(*command: str) -> str:
        done = CliRunner().invoke(serinus.app, ["data", "preferences", *command, "--recipe", str(recipe)])
        assert done.exit_code == 0, done.output
        return str(done.output)

    assert "excluded  no_counterpart          1" in told("run")
    key = find(storage).key
    assert f"path: {storage.uri}/artifacts/preferences/{key}/pairs.jsonl" in told("show")
    assert f"{key}  " in told("list")
    assert json.loads(told("show", "--json"))["num_pairs"] == 1

"""A vote as it is kept: lines of before read on, and texts that are no exchange are refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from cluster.feedback import MAX_CHARACTERS, Exchange, Message, Vote, vote_files, votes_folder
from cluster.storage import LocalStorage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_vote_without_texts_is_written_as_it_was_before_there_were_any() -> None:
    vote = Vote(request_id="a", revision="m-1", role="stable", thumb="up", at=NOW)
    assert "exchange" not in vote.model_dump_json()
    assert Vote.model_validate_json(vote.model_dump_json()) == vote


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least 1 item"),
        ([("user", "Hi"), ("assistant", "Hello")], "the last one is not the assistant's"),
        ([("tool", "4")], "'system', 'user' or 'assistant'"),
        ([("system", "a" * MAX_CHARACTERS), ("user", "b")], f"{MAX_CHARACTERS + 1} characters together"),
    ],
)
def test_what_is_no_exchange_is_refused(messages: list[tuple[str, str]], complaint: str) -> None:
    given = {"messages": [{"role": role, "content": content} for role, content in messages], "answer": "Hello"}
    with pytest.raises(ValidationError, match=complaint):
        Exchange.model_validate(given)


def test_votes_of_all_rollouts_are_found_and_nothing_else(storage: LocalStorage) -> None:
    for key in (
        "m/r1/feedback-000002.jsonl",
        "m/r1/recorded.jsonl",
        "m/before/feedback-000001.jsonl",
        "n/r1/feedback-000001.jsonl",
    ):
        storage.write(f"rollouts/{key}", b"")
    found = ["rollouts/m/before/feedback-000001.jsonl", "rollouts/m/r1/feedback-000002.jsonl"]
    assert vote_files(storage, votes_folder("m")) == found
    assert Message(role="user", content="Hi") == Message.model_validate({"role": "user", "content": "Hi"})

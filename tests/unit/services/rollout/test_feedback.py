"""Votes: who may judge which answer, the last one counts, bounded memory, and a record that survives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.errors import StageFailed
from cluster.storage import LocalStorage
from services.rollout import actor
from services.rollout import feedback as module
from services.rollout.feedback import FLUSH_S, MAX_REVOTES, FeedbackBook, FeedbackCounts, TooManyVotes, feedback
from services.rollout.votes import UserVote

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(
    request_id: str, revision: str = "m-1", owner: str = "", role: str = "stable", **more: object
) -> dict[str, object]:
    return {"request_id": request_id, "revision": revision, "role": role, "owner": owner, "bucket": 0.5, **more}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def book(storage: LocalStorage) -> FeedbackBook:
    return FeedbackBook(storage, "m", NOW)


def test_a_vote_finds_the_revision_that_answered(book: FeedbackBook) -> None:
    book.note([record("a", "m-2", role="canary"), record("a", "m-1"), record("b", "m-2", role="canary")])
    found = book.vote("", "a", "down", None, NOW)
    assert found is not None
    assert (found.vote.revision, found.vote.role, found.before) == (
        "m-1",
        "stable",
        None,
    )  # it failed over: stable answered
    assert book.vote("", "unknown", "up", None, NOW) is None


def test_only_the_key_that_asked_may_judge_and_ids_of_others_do_not_collide(book: FeedbackBook) -> None:
    book.note([record("a", "m-1", owner="alice"), record("a", "m-2", owner="mallory")])
    assert book.vote("bob", "a", "down", None, NOW) is None
    found = book.vote("alice", "a", "down", None, NOW)
    assert found is not None
    assert found.vote.revision == "m-1"


def test_the_last_vote_counts_and_corrections_are_kept(book: FeedbackBook, storage: LocalStorage) -> None:
    book.note([record(str(n), "m-2" if n % 2 else "m-1") for n in range(10)])
    for n in range(10):
        book.vote("", str(n), "down" if n < 4 else "up", None, NOW)
    changed = book.vote("", "0", "up", "Paris", NOW)
    assert changed is not None
    assert changed.before == "down"
    assert book.flush(at(1)) == pytest.approx(FLUSH_S - 1)
    assert book.flush(at(FLUSH_S)) is None
    book.vote("", "1", "up", None, NOW)
    assert book.flush(at(3 * FLUSH_S)) is None
    assert feedback(storage, "m") == {
        "m-1": FeedbackCounts(up=4, down=1, corrected=1),
        "m-2": FeedbackCounts(up=4, down=1),
    }
    files = [key for key in storage.list("rollouts/m") if key.endswith(".jsonl")]
    assert files == [f"rollouts/m/before/feedback-00000{n}.jsonl" for n in (1, 2)]
    assert b'"correction":"Paris"' in storage.read(files[0]).content  # type: ignore[union-attr]


def test_votes_lie_with_the_rollout(book: FeedbackBook, storage: LocalStorage) -> None:
    storage.write("rollouts/m/current", b"r7")
    book.note([record("a")])
    book.vote("", "a", "up", None, NOW)
    book.flush(at(FLUSH_S))
    assert feedback(storage, "m", "r7") == feedback(storage, "m") == {"m-1": FeedbackCounts(up=1)}
    assert feedback(storage, "m", "r6") == {}


def test_a_vote_belongs_to_the_rollout_that_placed_its_user_however_late_it_comes(
    book: FeedbackBook, storage: LocalStorage
) -> None:
    """One of the candidate's first rollout comes during its second, one on an answer of before both, one of now."""
    book.note([record("a", "m-2", role="canary", rollout="r1"), record("b", rollout=""), record("c", rollout="r2")])
    storage.write("rollouts/m/current", b"r2")
    for request_id in "abc":
        book.vote("", request_id, "down", None, NOW)
    assert book.flush(at(FLUSH_S)) is None
    assert feedback(storage, "m", "r1") == {"m-2": FeedbackCounts(down=1)}
    assert feedback(storage, "m", "before") == feedback(storage, "m", "r2") == {"m-1": FeedbackCounts(down=1)}
    assert book.flush(at(2 * FLUSH_S)) is None
    assert len(written(storage)) == 3


def test_what_is_evidence_of_a_vote(book: FeedbackBook) -> None:
    """Who was placed where, by which rollout; nothing where stable answered in a canary's place."""
    book.note([record("a", "m-2", role="canary", rollout="r1", bucket=0.25), record("b", "m-2", role="canary")])
    book.note([record("b", failed_over=True, rollout="r1")])
    taken = book.vote("", "a", "down", "Paris", NOW)
    assert taken is not None
    assert taken.evidence == UserVote(
        request_id="a", revision="m-2", role="canary", bucket=0.25, thumb="down", at=NOW, rollout="r1"
    )
    other = book.vote("", "b", "down", None, NOW)
    assert other is not None
    assert (other.vote.revision, other.evidence) == ("m-1", None)


def test_the_oldest_answers_are_forgotten_first(book: FeedbackBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 5)
    book.note([record(str(n)) for n in range(20)])
    assert [n for n in range(20) if book.vote("", str(n), "up", None, NOW)] == list(range(15, 20))


def test_a_storage_that_is_away_loses_no_vote_and_fills_no_memory(
    book: FeedbackBook, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.note([record("a")])
    book.vote("", "a", "up", None, NOW)

    def full(*_: object, **__: object) -> str:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", full)
        with pytest.raises(OSError, match="no space"):
            book.flush(at(FLUSH_S))
        patch.setattr(module, "MAX_UNWRITTEN", 1)
        book.note([record("b")])
        with pytest.raises(StageFailed):
            book.vote("", "b", "down", None, NOW)
    book.flush(at(FLUSH_S))
    assert feedback(storage, "m") == {"m-1": FeedbackCounts(up=1)}


def written(storage: LocalStorage) -> list[bytes]:
    blobs = [storage.read(key) for key in storage.list("rollouts/m") if "/feedback-" in key]
    return [blob.content for blob in blobs if blob is not None]


def test_a_vote_takes_the_place_of_one_that_is_not_written_yet(book: FeedbackBook, storage: LocalStorage) -> None:
    book.note([record("a")])
    for number in range(100):
        book.vote("", "a", "down" if number % 2 else "up", f"try {number}", NOW)
    book.flush(at(FLUSH_S))
    (content,) = written(storage)
    assert content.count(b"\n") == 1
    assert b"try 99" in content


def test_one_answer_is_voted_on_so_often_and_no_more_also_when_its_id_is_used_again(
    book: FeedbackBook, storage: LocalStorage
) -> None:
    book.note([record("a"), record("b")])
    for number in range(MAX_REVOTES + 1):
        book.note([record("a", "m-2" if number % 2 else "m-1")])
        assert book.vote("", "a", "up", None, NOW)
        book.flush(at((number + 1) * FLUSH_S))
    with pytest.raises(TooManyVotes):
        book.vote("", "a", "down", None, NOW)
    assert book.vote("", "b", "up", None, NOW)
    assert len(written(storage)) == MAX_REVOTES + 1


def test_a_vote_that_comes_while_another_is_written_is_not_lost(
    book: FeedbackBook, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.note([record("a")])
    book.vote("", "a", "up", None, NOW)
    write = storage.write

    def slowly(key: str, content: bytes) -> str:
        book.vote("", "a", "down", None, NOW)
        return write(key, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", slowly)
        book.flush(at(FLUSH_S))
    book.flush(at(2 * FLUSH_S))
    assert feedback(storage, "m") == {"m-1": FeedbackCounts(down=1)}


def test_what_is_not_written_yet_is_bounded_in_bytes(book: FeedbackBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNWRITTEN_BYTES", 10_000)
    book.note([record("a"), record("b")])
    for _ in range(5):
        book.vote("", "a", "up", "x" * 6_000, NOW)  # in the place of the one before
    with pytest.raises(StageFailed):
        book.vote("", "b", "up", "x" * 6_000, NOW)
    assert book.vote("", "b", "up", None, NOW) is not None


def test_the_folder_is_listed_once(book: FeedbackBook, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("rollouts/m/before/feedback-000001.jsonl", b"")
    listed: list[str] = []
    listing = storage.list

    def noted(where: str) -> list[str]:
        listed.append(where)
        return list(listing(where))

    monkeypatch.setattr(storage, "list", noted)
    book.note([record(str(n)) for n in range(3)])
    for number in range(3):
        book.vote("", str(number), "up", None, NOW)
        book.flush(at((number + 1) * FLUSH_S))
    assert listed == ["rollouts/m/before"]
    assert len(written(storage)) == 4


def test_votes_and_a_rollouts_last_probe_wake_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "configure", lambda: None)
    monkeypatch.setattr(actor.Notifier, "start", lambda self: None)
    monkeypatch.setattr(actor.Controller, "_run", lambda self: None)
    one = actor.Controller("m", str(tmp_path))
    stirred: list[bool] = []
    monkeypatch.setattr(one, "_stir", lambda: stirred.append(True))
    one.record("g", 1, [record("a")])
    told: list[UserVote] = []
    monkeypatch.setattr(one._loop, "vote", told.append)
    assert one.feedback("", "a", "up", None) == {"revision": "m-1", "role": "stable", "before": None}
    assert [(vote.request_id, vote.thumb) for vote in told] == [("a", "up")]
    texts = {"messages": [{"role": "user", "content": "Hi"}], "answer": "Hello"}
    assert one.feedback("", "a", "down", "Hi!", texts) is not None  # as a gateway sends them
    one._feedback.flush(actor.wall() + timedelta(seconds=FLUSH_S))
    assert b'"exchange":{"messages":[{"role":"user","content":"Hi"}],"answer":"Hello"}' in written(one._storage)[0]  # type: ignore[arg-type]
    one.probes_finished(("rollout", "r", 0))
    assert stirred == []
    one.probes_finished(("decay", "r", 1))
    assert stirred == [True]

"""Votes to pairs: corrections, thumbs, and each vote in one pair or excluded for one reason."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.feedback import Exchange, Message, Thumb, Vote
from pipelines.data.preferences.pairs import Cast, Made, in_force, pairs_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = (Message(role="system", content="Be short."), Message(role="user", content="Capital of France?"))


def cast(number: int, thumb: Thumb, answer: str | None = None, correction: str | None = None, **fields: Any) -> Cast:
    exchange = None if answer is None else Exchange(messages=fields.pop("messages", ASKED), answer=answer)
    given: dict[str, Any] = {
        "request_id": f"r{number}",
        "revision": "m-1",
        "at": NOW + timedelta(seconds=number),
        **fields,
    }
    return Cast(f"f:{number}", Vote(role="stable", thumb=thumb, exchange=exchange, correction=correction, **given))


def made(*votes: Cast) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(chosen, rejected) of each pair; where a vote stands -> why it is in none."""
    kept, passed_over = in_force(votes)
    found = pairs_of(kept)
    out = {one.where: one.reason for one in (*passed_over, *found.excluded)}
    return [(pair.chosen, pair.rejected) for pair in found.pairs], out


def test_a_correction_is_preferred_to_what_it_corrects() -> None:
    kept, _ = in_force([cast(1, "down", "Lyon.", "Paris.")])
    ((pair,), out) = pairs_of(kept)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.how) == (ASKED, "Paris.", "Lyon.", "correction")
    assert (pair.request_ids, pair.revisions, out) == (("r1",), ("m-1",), [])


def test_thumbs_on_two_answers_to_the_same_messages_are_a_pair() -> None:
    other = (Message(role="user", content="Capital of Spain?"),)
    pairs, out = made(
        cast(1, "down", "Lyon."),
        cast(2, "up", "Paris."),
        cast(3, "up", "Madrid.", messages=other),
        cast(4, "up", "Paris, France."),
    )
    assert pairs == [("Paris.", "Lyon.")]
    assert out == {"f:3": "no_counterpart", "f:4": "no_counterpart"}


def test_the_last_vote_on_an_answer_counts_whatever_file_it_is_in() -> None:
    late = cast(9, "up", "Lyon.", request_id="r1")
    assert made(late, cast(1, "down", "Lyon.", "Paris.")) == ([], {"f:1": "replaced", "f:9": "no_counterpart"})
    elsewhere = cast(9, "up", "Lyon.", request_id="r1", revision="m-2")  # a request that was asked of another revision
    assert made(elsewhere, cast(1, "down", "Lyon.", "Paris."))[0] == [("Paris.", "Lyon.")]


@pytest.mark.parametrize(
    ("votes", "reasons"),
    [
        ([cast(1, "down")], ["no_texts"]),
        ([cast(1, "down", None, "Paris.")], ["no_texts"]),
        ([cast(1, "down", "Lyon.", "  ")], ["empty"]),
        ([cast(1, "up", "")], ["empty"]),
        ([cast(1, "down", "Cafe\u0301 ", "Caf\u00e9")], ["same_answers"]),
        ([cast(1, "up", "Paris."), cast(2, "down", "Paris."), cast(3, "down", "Paris.")], ["contradiction"] * 3),
        ([cast(1, "down", "Lyon.", "Paris."), cast(2, "down", "Paris.", "Lyon.")], ["contradiction"] * 2),
    ],
)
def test_votes_that_make_no_pair_say_why(votes: list[Cast], reasons: list[str]) -> None:
    pairs, out = made(*votes)
    assert (pairs, list(out.values())) == ([], reasons)


def test_what_was_said_before_is_said_once() -> None:
    again = cast(2, "down", "Lyon. ", "Paris.")
    assert made(cast(1, "down", "Lyon.", "Paris."), again) == ([("Paris.", "Lyon.")], {"f:2": "duplicate"})
    thumbs = [cast(1, "down", "Lyon."), cast(2, "up", "Paris."), cast(3, "up", "Paris.")]
    assert made(*thumbs) == ([("Paris.", "Lyon.")], {"f:3": "duplicate"})


def test_an_answer_s_layout_is_part_of_it() -> None:
    assert made(cast(1, "down", "a, b", "a,\nb"))[0] == [("a,\nb", "a, b")]


TEXTS = st.sampled_from(["", "a", "b", "c"])
VOTES = st.lists(
    st.tuples(
        st.integers(0, 5), st.sampled_from(["up", "down"]), st.none() | TEXTS, st.none() | TEXTS, st.sampled_from("xy")
    ),
    max_size=14,
)


@given(VOTES)
def test_each_vote_is_in_one_pair_or_excluded_once_and_pairs_do_not_contradict(drawn: list[Any]) -> None:
    votes = [
        cast(
            place, thumb, answer, correction, request_id=f"r{request}", messages=(Message(role="user", content=prompt),)
        )
        if answer is not None
        else cast(place, thumb, None, correction, request_id=f"r{request}")
        for place, (request, thumb, answer, correction, prompt) in enumerate(drawn)
    ]
    kept, passed_over = in_force(votes)
    found: Made = pairs_of(kept)
    of_pairs = [request for pair in found.pairs for request in pair.request_ids]
    assert len(of_pairs) == len(set(of_pairs))
    where = Counter(one.where for one in (*passed_over, *found.excluded))
    assert max(where.values(), default=1) == 1
    assert len(where) + len(of_pairs) == len(votes)
    said = {(pair.prompt, pair.chosen, pair.rejected) for pair in found.pairs}
    assert len(said) == len(found.pairs)
    assert not said & {(prompt, rejected, chosen) for prompt, chosen, rejected in said}

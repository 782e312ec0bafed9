"""From votes to pairs of answers, and why a vote is in none. Pure.

    a correction             -> it is chosen, the answer it corrects is rejected
    thumbs on two answers    -> to the same messages: the one up is chosen, the one down is rejected

Each vote is in one pair or excluded for one reason. Texts are compared as they are but for white space around them and Unicode's
composition: how an answer is laid out may be what is wrong with it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Literal, NamedTuple

from cluster.config import StrictModel
from cluster.feedback import Exchange, Message, Vote

How = Literal["correction", "thumbs"]
Reason = Literal[
    "unreadable", "replaced", "no_texts", "empty", "personal_data", "contaminated", "same_answers", "contradiction",
    "duplicate", "no_counterpart",
]  # fmt: skip


class Cast(NamedTuple):
    """A vote, and where it stands: file and line."""

    where: str
    vote: Vote


class Pair(StrictModel):
    """A line of the file that `train.method: {kind: dpo}` reads, which takes note of the first three fields."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    how: How
    request_ids: tuple[str, ...]
    """Of the votes that it was made of."""
    revisions: tuple[str, ...]
    """Whose answers they were."""


class Excluded(StrictModel):
    """A vote that is in no pair. Its texts stay where they are."""

    where: str
    reason: Reason
    detail: str = ""
    request_id: str = ""
    revision: str = ""


class Made(NamedTuple):
    """What became of votes."""

    pairs: list[Pair]
    excluded: list[Excluded]


def excluded(cast: Cast, reason: Reason, detail: str = "") -> Excluded:
    vote = cast.vote
    return Excluded(where=cast.where, reason=reason, detail=detail, request_id=vote.request_id, revision=vote.revision)


def in_force(votes: Iterable[Cast]) -> tuple[list[Cast], list[Excluded]]:
    """The last vote on each answer, oldest first, where it says what was asked and answered."""
    last: dict[tuple[str, str], Cast] = {}
    out = list[Excluded]()
    for cast in sorted(votes, key=lambda one: (one.vote.at, one.where)):
        place = cast.vote.request_id, cast.vote.revision
        if before := last.pop(place, None):
            out.append(excluded(before, "replaced", f"by {cast.where}"))
        last[place] = cast
    out += [excluded(cast, "no_texts") for cast in last.values() if cast.vote.exchange is None]
    return [cast for cast in last.values() if cast.vote.exchange is not None], out


def _unfit(vote: Vote) -> Reason | None:
    exchange = _exchange(vote)
    texts = (exchange.messages[-1].content, exchange.answer, vote.correction)
    if any(text is not None and not text.strip() for text in texts):
        return "empty"
    if vote.correction is not None and _plain(vote.correction) == _plain(exchange.answer):
        return "same_answers"
    return None


def pairs_of(votes: Sequence[Cast]) -> Made:
    """Pairs, the oldest first, without repetitions and contradictions.

    Args:
        votes: by `in_force`.
    """
    out = [excluded(cast, reason) for cast in votes if (reason := _unfit(cast.vote))]
    votes = [cast for cast in votes if not _unfit(cast.vote)]
    found: list[tuple[Pair, tuple[Cast, ...]]] = [
        (_pair("correction", correction, _answer(cast.vote), (cast,)), (cast,))
        for cast in votes
        if (correction := cast.vote.correction) is not None
    ]
    by_prompt: dict[tuple[Message, ...], list[Cast]] = {}
    for cast in votes:
        if cast.vote.correction is None:
            by_prompt.setdefault(_prompt(cast.vote), []).append(cast)
    for thumbs in by_prompt.values():
        matched, left = _matched(thumbs)
        found += [
            (_pair("thumbs", _answer(up.vote), _answer(down.vote), (up, down)), (up, down)) for up, down in matched
        ]
        out += left
    found.sort(key=lambda one: min(cast.vote.at for cast in one[1]))
    pairs, left = _consistent(found)
    return Made(pairs, [*out, *left])


def _matched(thumbs: Sequence[Cast]) -> tuple[list[tuple[Cast, Cast]], list[Excluded]]:
    """Of votes on answers to the same messages: (up, down), each answer in one pair at most."""
    ups, downs = ([cast for cast in thumbs if cast.vote.thumb == thumb] for thumb in ("up", "down"))
    disputed = {_plain(_answer(cast.vote)) for cast in ups} & {_plain(_answer(cast.vote)) for cast in downs}
    out = [
        excluded(cast, "contradiction", "the same answer has thumbs up and down")
        for cast in thumbs
        if _plain(_answer(cast.vote)) in disputed
    ]
    sides = list[list[Cast]]()
    for side in (ups, downs):
        kept, seen = list[Cast](), set(disputed)
        for cast in side:
            answer = _plain(_answer(cast.vote))
            if answer not in seen:
                kept.append(cast)
            elif answer not in disputed:
                out.append(excluded(cast, "duplicate", "the same thumb on the same answer"))
            seen.add(answer)
        sides.append(kept)
    matched = list[tuple[Cast, Cast]]()
    for up, down in zip_longest(*sides):
        if up and down:
            matched.append((up, down))
        else:
            out.append(excluded(up or down, "no_counterpart"))
    return matched, out


def _consistent(found: Sequence[tuple[Pair, tuple[Cast, ...]]]) -> tuple[list[Pair], list[Excluded]]:
    """Both of two pairs that say the opposite go, and all but the first that say the same."""
    said = {_names(pair) for pair, _ in found}
    kept, seen, out = list[Pair](), set[tuple[object, ...]](), list[Excluded]()
    for pair, votes in found:
        prompt, chosen, rejected = _names(pair)
        if (prompt, rejected, chosen) in said:
            out += [excluded(cast, "contradiction", "another pair prefers the other answer") for cast in votes]
        elif (prompt, chosen, rejected) in seen:
            out += [excluded(cast, "duplicate", "the same pair") for cast in votes]
        else:
            seen.add((prompt, chosen, rejected))
            kept.append(pair)
    return kept, out


def _pair(how: How, chosen: str, rejected: str, votes: Sequence[Cast]) -> Pair:
    return Pair(
        prompt=_exchange(votes[0].vote).messages,
        chosen=chosen,
        rejected=rejected,
        how=how,
        request_ids=tuple(cast.vote.request_id for cast in votes),
        revisions=tuple(cast.vote.revision for cast in votes),
    )


def _names(pair: Pair) -> tuple[tuple[Message, ...], str, str]:
    """What pairs are compared by."""
    return _plain_messages(pair.prompt), _plain(pair.chosen), _plain(pair.rejected)


def _prompt(vote: Vote) -> tuple[Message, ...]:
    return _plain_messages(_exchange(vote).messages)


def _plain_messages(messages: Iterable[Message]) -> tuple[Message, ...]:
    return tuple(Message(role=message.role, content=_plain(message.content)) for message in messages)


def _answer(vote: Vote) -> str:
    return _exchange(vote).answer


def _exchange(vote: Vote) -> Exchange:
    assert vote.exchange is not None, "in_force lets no other through"
    return vote.exchange


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())

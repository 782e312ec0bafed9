"""From the feedback of a public name to a version of its preferences: what `train.method: {kind: dpo}` learns from.

    rollouts/<name>/**/feedback-*.jsonl -> last votes -> repaired, protected -> pairs | excluded -> artifacts/preferences/<key>/

Thin: one process does it, with all votes in memory. The same votes under the same rules are found again by their key.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from cluster.artifacts import FileEntry, Preferences, Source, commit, load, stage_key
from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.feedback import Exchange, Vote, vote_files, votes_folder
from cluster.storage import Storage
from cluster.versions import chosen, write_file
from pipelines.config import DataConfig
from pipelines.data import decontaminate
from pipelines.data.preferences.pairs import Cast, Excluded, Pair, excluded, in_force, pairs_of
from pipelines.data.protect import Protected, key_id, protect_column, read_key
from pipelines.data.rules import VERSION as RULES_VERSION
from pipelines.progress import say

VERSION = 1
"""Raise it when the same votes under the same rules give other pairs."""
PAIRS, EXCLUDED = "pairs.jsonl", "excluded.jsonl"
REPAIR = "repair_unicode"


class Feedback(NamedTuple):
    """The files of votes."""

    contents: dict[str, bytes]
    """Storage key -> content."""

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(
            Source(path=name, num_bytes=len(content), sha256=sha256(content).hexdigest())
            for name, content in self.contents.items()
        )


def preferences(name: str, config: DataConfig, storage: Storage) -> Preferences:
    """Make pairs of all votes on answers under the public name `name`, or find that it has been done.

    Args:
        config: its rules on personal data (`protect`), broken Unicode (`repair_unicode`) and evaluation sets (`decontaminate`).

    Raises:
        InputError: nobody has voted yet, or no vote makes a pair.
        ConfigError: the key of `protect` cannot be read.
    """
    began_at = time.monotonic()
    feedback = read_feedback(storage, name)
    decided = recorded(name, config)
    key = stage_key("preferences", decided, {source.path: source.sha256 for source in feedback.sources})
    if made := load(storage, Preferences, key):
        say("prefer", f"already made: {made.summary} ({made.location})")
        return made
    votes, unreadable = _votes(feedback)
    say("prefer", f"{len(votes) + len(unreadable)} votes in {len(feedback.contents)} files under {votes_folder(name)}")
    cast, passed_over = in_force(votes)
    cleaned = _cleaned(cast, config)
    pairs, left = pairs_of(cleaned.votes)
    out = [*unreadable, *passed_over, *cleaned.excluded, *left]
    if not pairs:
        raise _no_pairs(name, out, storage)
    manifest = Preferences(
        key=key,
        config=decided,
        files=_written(storage, Preferences(key=key).location, {PAIRS: pairs, EXCLUDED: out}),
        took_s=round(time.monotonic() - began_at, 2),
        name=name,
        sources=feedback.sources,
        num_votes=len(votes) + len(unreadable),
        num_pairs=len(pairs),
        num_pairs_by_how=_counted(pair.how for pair in pairs),
        num_pairs_by_revision=_counted(revision for pair in pairs for revision in dict.fromkeys(pair.revisions)),
        num_excluded_by_reason=_counted(one.reason for one in out),
        num_protected_by_kind=cleaned.num_by_kind(pairs),
    )
    made, _ = commit(storage, manifest)
    say("prefer", f"{made.summary} ({made.location})")
    return made


def recorded(name: str, config: DataConfig) -> dict[str, Any]:
    """What decides over the result: no paths of this machine, and no secret."""
    sets = config.decontaminate
    return {
        "name": name,
        "version": VERSION,
        "rules_version": RULES_VERSION,
        "repair_unicode": _repairs(config),
        "protect": dict(config.protect.actions),
        "protect_key": key_id(read_key(config.protect)),
        "decontaminate": None if sets is None else decontaminate.recorded(sets),
    }


def read_feedback(storage: Storage, name: str) -> Feedback:
    """Raises InputError: there is none."""
    blobs = {key: storage.read(key) for key in vote_files(storage, votes_folder(name))}
    found = {key: blob.content for key, blob in blobs.items() if blob is not None}
    if not found:
        where = f"{storage.uri}/{votes_folder(name)}"
        raise InputError(where, "no votes on answers yet", "users give them by POST /v1/feedback (docs/serving.md)")
    return Feedback(found)


def _votes(feedback: Feedback) -> tuple[list[Cast], list[Excluded]]:
    votes, out = list[Cast](), list[Excluded]()
    for name, content in feedback.contents.items():
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            where = f"{name}:{number}"
            try:
                votes.append(Cast(where, Vote.model_validate_json(line)))
            except ValueError as error:
                told = (
                    "; ".join(str(error).splitlines()[1:3]) or "not a vote"
                )  # where and what, without the text itself
                out.append(Excluded(where=where, reason="unreadable", detail=told.partition(" [type=")[0].strip()))
    return votes, out


# --- cleaning ---------------------------------------------------------------------------------------------------------


class Cleaned(NamedTuple):
    votes: list[Cast]
    kinds: list[Counter[str]]
    """Of each of them: values that were replaced."""
    excluded: list[Excluded]

    def num_by_kind(self, pairs: Iterable[Pair]) -> dict[str, int]:
        """Values replaced in the votes that these pairs were made of."""
        names = {name for pair in pairs for name in zip(pair.request_ids, pair.revisions, strict=True)}
        told = zip(self.votes, self.kinds, strict=True)
        inside = (kinds for cast, kinds in told if (cast.vote.request_id, cast.vote.revision) in names)
        return dict(sorted(sum(inside, Counter[str]()).items()))


def _cleaned(votes: Sequence[Cast], config: DataConfig) -> Cleaned:
    """Texts repaired, personal data out of them, and without votes that must not be learnt from."""
    import pyarrow as pa

    from pipelines.data.repair import repair_column

    if not votes:
        return Cleaned([], [], [])
    texts = [_texts(cast.vote) for cast in votes]
    column = pa.array([text for some in texts for text in some], pa.large_string())
    if _repairs(config):
        column = repair_column(column)
    column, found = protect_column(column, config.protect.actions, read_key(config.protect))
    known = _contaminated(column, config)
    cleaned, start = Cleaned([], [], []), 0
    for cast, some in zip(votes, texts, strict=True):
        places = range(start, start + len(some))
        start += len(some)
        hits = [found[i] for i in places if i in found]
        if refused := {span.kind for hit in hits for span in hit.refused}:
            cleaned.excluded.append(excluded(cast, "personal_data", ", ".join(sorted(refused))))
        elif item := next((known[i] for i in places if i in known), None):
            cleaned.excluded.append(excluded(cast, "contaminated", item))
        else:
            cleaned.votes.append(Cast(cast.where, _with_texts(cast.vote, [column[i].as_py() for i in places])))
            cleaned.kinds.append(_kinds(hits))
    return cleaned


def _contaminated(texts: Any, config: DataConfig) -> dict[int, str]:
    """Index of each text that an evaluation set knows -> the item."""
    if config.decontaminate is None:
        return {}
    found = decontaminate.contaminated(texts, decontaminate.read_sets(config.decontaminate))
    return {i: told.partition(": ")[0] for i, told in found.items()}


def _repairs(config: DataConfig) -> bool:
    return any(rule.name == REPAIR for rule in config.rules)


def _kinds(found: Iterable[Protected]) -> Counter[str]:
    return Counter(span.kind for one in found for span in one.spans)


def _texts(vote: Vote) -> list[str]:
    """All that users wrote or were answered, in an order that `_with_texts` knows."""
    assert vote.exchange is not None
    own = [] if vote.correction is None else [vote.correction]
    return [*(message.content for message in vote.exchange.messages), vote.exchange.answer, *own]


def _with_texts(vote: Vote, texts: Sequence[str]) -> Vote:
    """The vote with other texts, which may be longer than a client's may be: `model_copy` asks no questions."""
    assert vote.exchange is not None
    given = vote.exchange.messages
    messages = tuple(m.model_copy(update={"content": text}) for m, text in zip(given, texts, strict=False))
    exchange = Exchange.model_construct(messages=messages, answer=texts[len(given)])
    return vote.model_copy(update={"exchange": exchange, "correction": texts[-1] if vote.correction else None})


# --- what is kept -----------------------------------------------------------------------------------------------------


def _no_pairs(name: str, out: Sequence[Excluded], storage: Storage) -> InputError:
    reasons = ", ".join(f"{reason} {num}" for reason, num in _counted(one.reason for one in out).items())
    found = f"none of {len(out)} votes makes a pair ({reasons})"
    remedy = "clients give the messages and the answer with a vote: `exchange` (docs/serving.md)"
    return InputError(f"{storage.uri}/{votes_folder(name)}", found, remedy)


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _written(storage: Storage, location: str, files: dict[str, Sequence[StrictModel]]) -> tuple[FileEntry, ...]:
    contents = {name: "".join(f"{line.model_dump_json()}\n" for line in lines) for name, lines in files.items()}
    return tuple(write_file(storage, location, name, content.encode()) for name, content in contents.items())


def find(storage: Storage, wanted: str | None = None) -> Preferences:
    """Raises InputError: there is no version that fits, or several (`chosen`)."""
    return chosen(storage, Preferences, wanted, "serinus data preferences")


def read_excluded(storage: Storage, made: Preferences) -> list[Excluded]:
    """Raises InputError: the file is gone."""
    blob = storage.read(f"{made.location}/{EXCLUDED}")
    if blob is None:
        found = "is gone, though the manifest tells of it"
        raise InputError(f"{storage.uri}/{made.location}/{EXCLUDED}", found, "remove that folder and make them again")
    return [Excluded.model_validate_json(line) for line in blob.content.split(b"\n") if line]

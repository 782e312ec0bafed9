"""Golden items: read from the recipe's files, checked, copied into storage, and put into an order that samples them fairly.

    rollouts/<name>/probes-<digest>.jsonl    the items of one or more rollouts, as they were when it started

A line of a file: {"id", "prompt" or "messages", "answer": text or list of texts, "choices", "scorer"}. For `choice` the answer is
the index of the right one. Without an id the line's number is one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import Field

from cluster.artifacts import digest
from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import Storage, open_storage
from services.config import ProbesConfig, ProbeSetConfig, Scorer
from services.rollout.scoring import check_pattern

WITHOUT_ANSWER: frozenset[Scorer] = frozenset({"judge"})
MAX_FILE_BYTES = 64 * 2**20


class ProbeItem(StrictModel):
    """One question with what is known of its answer."""

    id: str
    """<set>/<the item's own id>."""
    scorer: Scorer
    prompt: str | None = None
    """For the completions API; else `messages`, for the chat API."""
    messages: tuple[dict[str, Any], ...] = ()
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    gold: int = 0
    """Index of the right one of `choices`."""
    max_tokens: int = 128

    @property
    def set_name(self) -> str:
        return self.id.partition("/")[0]

    @property
    def question(self) -> str:
        """For a judge to read."""
        return self.prompt if self.prompt is not None else json.dumps(self.messages, ensure_ascii=False)


class ProbeTask(StrictModel):
    """What is to be asked now. The prober knows nothing else, so one that is killed forgets nothing."""

    kind: Literal["rollout", "record", "decay"]
    """Both revisions of a rollout; a new stable, whose scores are recorded; stable again, against what was recorded."""
    id: str
    """The rollout's."""
    round: int = 0
    """How often the watch over decay has gone through the items, beginning with 1."""
    revisions: tuple[str, ...]
    """Stable and candidate, or the one that is watched."""
    items: str
    """Storage key."""
    probes: ProbesConfig
    recorded: str = ""
    """Storage key of what was recorded after the promotion, for `decay`."""
    known: frozenset[str] = frozenset()
    """Items that need not be asked any more."""

    @property
    def turn(self) -> tuple[str, str, int]:
        """What an answer belongs to; one that comes too late belongs to nothing."""
        return self.kind, self.id, self.round

    @property
    def items_per_minute(self) -> float:
        return self.probes.decay.items_per_minute if self.kind == "decay" else self.probes.items_per_minute


class ProbeAnswer(StrictModel):
    """An item's scores: stable's and the candidate's, or what was recorded and what it is now (for a recording, the same)."""

    item: str
    before: float = Field(ge=0, le=1)
    now: float = Field(ge=0, le=1)
    text: str | None = None
    """The answer itself, where a judge will compare it with a later one."""
    at: datetime


def order(items: Sequence[ProbeItem], seed: str) -> list[ProbeItem]:
    """The items shuffled by a hash of `seed` and their ids: files are mostly sorted by subject, and whoever looks after a part of
    them must have seen a fair sample. No state: after a restart the order is the same."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}\0{item.id}".encode()).digest())


def publish(storage: Storage, name: str, probes: ProbesConfig) -> str:
    """Copy the items of the recipe's files into storage; returns their key, empty when there are no sets.

    Raises:
        InputError: a file is missing, or a line of it is wrong.
    """
    if not probes.sets:
        return ""
    items = [item for chosen in probes.sets for item in read_set(chosen)]
    content = "".join(item.model_dump_json() + "\n" for item in items).encode()
    key = f"rollouts/{name}/probes-{digest(content.decode())[:16]}.jsonl"
    storage.write(key, content)
    return key


def load(storage: Storage, key: str) -> tuple[ProbeItem, ...]:
    """The items that `publish` copied.

    Raises:
        InputError: they are gone.
    """
    blob = storage.read(key)
    if blob is None:
        raise InputError(f"{storage.uri}/{key}", "is missing", "restore the file, or begin another rollout")
    return tuple(ProbeItem.model_validate_json(line) for line in blob.content.decode().split("\n") if line)


def write_answers(storage: Storage, key: str, answers: Iterable[ProbeAnswer]) -> None:
    """Put these answers in the place of those that were there."""
    storage.write(key, "".join(answer.model_dump_json() + "\n" for answer in answers).encode())


def read_answers(storage: Storage, key: str) -> tuple[ProbeAnswer, ...]:
    """In the order in which they came; none where nothing was written."""
    blob = storage.read(key)
    lines = blob.content.decode().split("\n") if blob else ()
    return tuple(ProbeAnswer.model_validate_json(line) for line in lines if line)


def read_set(chosen: ProbeSetConfig) -> list[ProbeItem]:
    """The items of one file, in its order.

    Raises:
        InputError: see `publish`.
    """
    items: dict[str, ProbeItem] = {}
    for number, line in _lines(chosen.path):
        where = f"{chosen.path}:{number}"
        item = _item(chosen, where, _record(where, line), number)
        if item.id in items:
            raise InputError(where, f"the id {item.id!r} is given twice", "give each item its own id")
        items[item.id] = item
    if not items:
        raise InputError(chosen.path, "holds no items", "write one JSON object a line")
    return list(items.values())


def _lines(path: str) -> Iterable[tuple[int, str]]:
    folder, _, name = path.rpartition("/")
    blob = open_storage(folder or ".").read(name)
    if blob is None:
        raise InputError(path, "no such file", "correct `path:` in rollout.probes.sets")
    if len(blob.content) > MAX_FILE_BYTES:
        raise InputError(path, f"is larger than {MAX_FILE_BYTES} bytes", "take a sample of the items")
    try:
        text = blob.content.decode()
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "save the items as JSONL in UTF-8") from None
    # Not splitlines, which cuts at U+2028 and others that JSON leaves inside a string.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _record(where: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(where, f"not JSON ({error})", "write one JSON object a line") from None
    if not isinstance(record, dict):
        raise InputError(where, "not a JSON object", 'write {"id": ..., "prompt": ..., "answer": ...}')
    known = {"id", "prompt", "messages", "answer", "choices", "scorer"}
    if unknown := sorted(set(record) - known):
        raise InputError(where, f"unknown key `{unknown[0]}`", f"known here: {', '.join(sorted(known))}")
    return record


def _item(chosen: ProbeSetConfig, where: str, record: dict[str, Any], number: int) -> ProbeItem:
    scorer: Scorer = record.get("scorer", chosen.scorer)
    if scorer not in get_args(Scorer):
        raise InputError(where, f"there is no scorer {scorer!r}", f"take one of {', '.join(get_args(Scorer))}")
    if scorer == "judge" and chosen.judge is None:
        raise InputError(where, "is scored by a judge", f"add `judge:` to the set {chosen.name}")
    fields = {"id": f"{chosen.name}/{record.get('id', number)}", "scorer": scorer}
    asked = _question(where, record, scorer)
    expected = _choices(where, record) if scorer == "choice" else {"answers": _answers(where, record, scorer)}
    try:
        return ProbeItem.model_validate({**fields, **asked, **expected, "max_tokens": chosen.max_tokens})
    except ValueError as error:
        problem = str(error).splitlines()[0]
        raise InputError(where, f"not an item ({problem})", "see docs/rollouts.md") from None


def _question(where: str, record: dict[str, Any], scorer: Scorer) -> dict[str, Any]:
    prompt, messages = record.get("prompt"), record.get("messages")
    if (prompt is None) == (messages is None):
        raise InputError(where, "needs either `prompt` or `messages`", "give one of the two")
    if messages is not None:
        if scorer == "choice":
            raise InputError(where, "`choice` needs a `prompt`", "write the messages out as one text")
        if not (isinstance(messages, list) and messages and all(isinstance(m, dict) for m in messages)):
            raise InputError(where, "`messages` is not a list of messages", 'write [{"role": ..., "content": ...}]')
        return {"messages": messages}
    if not (isinstance(prompt, str) and prompt.strip()):
        raise InputError(where, "`prompt` is not a text", "give the item its prompt")
    return {"prompt": prompt}


def _answers(where: str, record: dict[str, Any], scorer: Scorer) -> tuple[str, ...]:
    answer = record.get("answer", [] if scorer in WITHOUT_ANSWER else None)
    answers = tuple(answer) if isinstance(answer, list) else (answer,)
    if not all(isinstance(a, str) and a.strip() for a in answers) or not (answers or scorer in WITHOUT_ANSWER):
        raise InputError(where, "`answer` is neither a text nor a list of texts", "give the item its expected answer")
    if scorer == "regex":
        for pattern in answers:
            if problem := check_pattern(pattern):
                raise InputError(where, f"{pattern!r} is no pattern of RE2 ({problem})", "correct the pattern")
    return answers


def _choices(where: str, record: dict[str, Any]) -> dict[str, Any]:
    choices, gold = record.get("choices"), record.get("answer")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(where, "`choices` is not a list of at least two texts", "list the possible answers")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise InputError(where, f"`answer` is {gold!r}", f"give the index of the right choice, 0 to {len(choices) - 1}")
    spaced = [c if c[0].isspace() or record["prompt"][-1].isspace() else f" {c}" for c in choices]
    return {"choices": tuple(spaced), "gold": gold}

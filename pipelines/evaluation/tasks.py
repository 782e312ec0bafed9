"""What is asked of a model: items built on text alone, the same for every model whatever its tokenizer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any, Literal

from cluster.errors import InputError
from cluster.storage import open_storage
from pipelines.config import TaskConfig

Kind = Literal["perplexity", "continuation", "multiple_choice", "qa", "written_choice"]
WRITTEN: frozenset[Kind] = frozenset({"continuation", "qa", "written_choice"})
"""Kinds for which the model writes; of the others the likelihood is taken."""

VERSION = 1
"""Raise it when the same configuration gives other items: reports made before are then made anew."""
WINDOW_CHARACTERS = 1000
"""Of a perplexity window: about 250 tokens of English."""
CONTEXT_CHARACTERS = 120
"""Before a continuation that is to be chosen."""
CHOICE_CHARACTERS = 60
PROMPT_CHARACTERS = 400
"""Before a continuation that is to be written."""
CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; sizes the reference of a written continuation."""
NUM_CHOICES = 4


@dataclass(frozen=True)
class Item:
    """One question. `answers`: the text, the reference or the choices, of which `gold` is the right one."""

    task: str
    kind: Kind
    id: str
    prompt: str
    answers: tuple[str, ...]
    gold: int = 0
    max_new_tokens: int = 0
    language: str = ""
    domain: str = ""
    """Of the slices that a gate may ask for; empty where that is not known."""


@dataclass(frozen=True)
class Passage:
    """A piece of a document: `head`, and `tail` that follows it."""

    document: str
    start: int
    head: str
    tail: str

    @property
    def id(self) -> str:
        return f"{self.document}@{self.start}"


def build_items(task: TaskConfig, documents: Sequence[tuple[str, str]], seed: int) -> list[Item]:
    """The items of one task from (id, text) of the held-out documents, or from the task's file.

    Raises:
        InputError: there is nothing to build them from, or the task's file is wrong (with its line).
    """
    items = _from_file(task) if task.path else _from_documents(task, documents, seed)
    return sorted(items, key=lambda item: _order(seed, task.name, item.id))[: task.num_items]


def file_digest(task: TaskConfig) -> str | None:
    """SHA-256 of the task's file: its content, not its place, decides whether a report is still good."""
    return hashlib.sha256(_read(task.path)).hexdigest() if task.path else None


def _order(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _from_documents(task: TaskConfig, documents: Sequence[tuple[str, str]], seed: int) -> list[Item]:
    match task.kind:
        case "perplexity":
            items = [
                Item(task.name, task.kind, p.id, "", (p.head,)) for p in _passages(documents, WINDOW_CHARACTERS, 0)
            ]
        case "continuation":
            reference = task.max_new_tokens * CHARACTERS_PER_TOKEN
            items = [
                Item(task.name, task.kind, p.id, p.head, (p.tail,), max_new_tokens=task.max_new_tokens)
                for p in _passages(documents, PROMPT_CHARACTERS, reference)
            ]
        case "multiple_choice":
            items = _choices(task, list(_passages(documents, CONTEXT_CHARACTERS, CHOICE_CHARACTERS)), seed)
        case "qa" | "written_choice":
            raise AssertionError(f"TaskConfig lets no {task.kind} through without a path")
    if not items:
        raise InputError(
            f"evaluate task {task.name}",
            f"the held-out documents ({len(documents)}) are too few or too short to build an item from",
            "give more documents, raise data.heldout_fraction, or give the task a file with `path:`",
        )
    return items


def _passages(documents: Sequence[tuple[str, str]], head: int, tail: int) -> Iterator[Passage]:
    """Consecutive passages of about `head` and `tail` characters, cut at white space. Too short ends are left out."""
    for name, text in documents:
        start = 0
        while True:
            middle = _cut(text, start, head)
            end = _cut(text, middle, tail) if tail else middle
            if middle - start < head // 2 or end - middle < tail // 2:
                break
            yield Passage(name, start, text[start:middle], text[middle:end])
            start = end


def _cut(text: str, start: int, length: int) -> int:
    """The last white space at most `length` characters after `start`; there anyway if there is none."""
    end = start + length
    if end >= len(text):
        return len(text)
    for at in range(end, start + length // 2, -1):
        if text[at].isspace():
            return at
    return end


def _choices(task: TaskConfig, passages: list[Passage], seed: int) -> list[Item]:
    """What follows each passage against what follows three others, of other documents where there are enough."""
    if len(passages) < NUM_CHOICES:
        return []
    ranked = sorted(range(len(passages)), key=lambda i: _order(seed, "distractor", passages[i].id))
    place = {index: rank for rank, index in enumerate(ranked)}
    items = []
    for index, passage in enumerate(passages):
        following = (ranked[(place[index] + step) % len(ranked)] for step in range(1, len(ranked)))
        others = [passages[i] for i in following]
        foreign = [p for p in others if p.document != passage.document]
        wrong = [p.tail for p in (foreign + [p for p in others if p.document == passage.document])[: NUM_CHOICES - 1]]
        gold = int(_order(seed, "gold", passage.id), 16) % NUM_CHOICES
        answers = (*wrong[:gold], passage.tail, *wrong[gold:])
        items.append(Item(task.name, task.kind, passage.id, passage.head, answers, gold))
    return items


def _read(path: str | None) -> bytes:
    assert path is not None
    folder, _, name = path.rpartition("/")
    blob = open_storage(folder or ".").read(name)
    if blob is None:
        raise InputError(path, "no such file", "correct `path:` of the evaluation task")
    return blob.content


def _from_file(task: TaskConfig) -> list[Item]:
    assert task.path is not None
    items: dict[str, Item] = {}
    try:
        lines = _read(task.path).decode().splitlines()
    except UnicodeDecodeError:
        raise InputError(task.path, "is not UTF-8 text", "save the task as JSONL in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item = _parse(task, line, number)
        if item.id in items:
            raise InputError(f"{task.path}:{number}", f"the id {item.id!r} is given twice", "give each item its own id")
        items[item.id] = item
    if not items:
        raise InputError(task.path, "holds no items", "write one JSON object a line")
    return list(items.values())


def _parse(task: TaskConfig, line: str, number: int) -> Item:
    where = f"{task.path}:{number}"
    record = _record(where, line)
    item = _item(task, where, str(record.get("id", f"line-{number}")), record)
    return replace(item, language=_label(where, record, "language"), domain=_label(where, record, "domain"))


def _record(where: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(where, f"not JSON ({error})", "write one JSON object a line") from None
    if not isinstance(record, dict):
        raise InputError(where, "not a JSON object", 'write {"id": ..., ...}')
    return record


def _label(where: str, record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(where, f"`{field}` is not a text", f"write the item's {field} as a text, or leave it out")
    return value


def _item(task: TaskConfig, where: str, name: str, record: dict[str, Any]) -> Item:
    match task.kind:
        case "perplexity":
            return Item(task.name, task.kind, name, "", (_text(where, record, "text"),))
        case "continuation":
            prompt, answer = _text(where, record, "prompt"), _spaced(record, _text(where, record, "answer"))
            return Item(task.name, task.kind, name, prompt, (answer,), max_new_tokens=task.max_new_tokens)
        case "multiple_choice" | "written_choice":
            return _parse_choices(task, where, name, record)
        case "qa":
            return _parse_question(task, where, name, record)


def _parse_question(task: TaskConfig, where: str, name: str, record: dict[str, Any]) -> Item:
    prompt, answers = _text(where, record, "prompt"), record.get("answers")
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise InputError(where, "`answers` is not a list of texts", "list the right answers; [] says there is none")
    return Item(task.name, task.kind, name, prompt, tuple(answers), max_new_tokens=task.max_new_tokens)


def _parse_choices(task: TaskConfig, where: str, name: str, record: dict[str, Any]) -> Item:
    prompt, choices, gold = _text(where, record, "prompt"), record.get("choices"), record.get("answer")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(where, "`choices` is not a list of at least two texts", "list the possible answers")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise InputError(where, f"`answer` is {gold!r}", f"give the index of the right choice, 0 to {len(choices) - 1}")
    if task.kind == "multiple_choice":
        return Item(task.name, task.kind, name, prompt, tuple(_spaced(record, c) for c in choices), gold)
    if len(choices) > len(ascii_uppercase):
        raise InputError(where, f"{len(choices)} choices are more than there are letters", "offer at most 26")
    shown = "\n".join(
        [prompt, *(f"{letter}. {c}" for letter, c in zip(ascii_uppercase, choices, strict=False)), "Answer:"]
    )
    return Item(task.name, task.kind, name, shown, tuple(choices), gold, task.max_new_tokens)


def _text(where: str, record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(where, f"`{field}` is missing or not a text", f"give the item its `{field}`")
    return value


def _spaced(record: dict[str, Any], answer: str) -> str:
    """A space between prompt and answer unless one of them brings it: tokenizers put it at the head of a word."""
    return answer if answer[0].isspace() or record["prompt"][-1].isspace() else f" {answer}"


def is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)

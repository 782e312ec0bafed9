"""What is asked of a model: the items of a task, the same for every model. Each kind's file is read by its family's module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from cluster.errors import InputError
from cluster.storage import open_storage
from pipelines.evaluation import shots, tatqa
from pipelines.evaluation.code import functions
from pipelines.evaluation.harness.records import Made, digest, made
from pipelines.evaluation.harness.task_file import check_kind, is_task
from pipelines.evaluation.harness.task_file import read as read_yaml
from pipelines.evaluation.heldout import from_documents
from pipelines.evaluation.items import ExactItem, Example, Item, order
from pipelines.evaluation.records import Record, index_of, label_of, read, records, spaced, text_of
from pipelines.evaluation.safety import bias, canaries, refusal, toxicity
from pipelines.evaluation.writing import Writing, writing_of
from pipelines.task_config import (
    AnyTask,
    BbqTask,
    CanariesTask,
    CodeTask,
    PairsTask,
    RefusalTask,
    TaskConfig,
    ToxicityTask,
    WeatTask,
)

VERSION = 1
"""Raise it when the same configuration gives other items: reports made before are then made anew."""


MISTAKES_SHOWN = 10


def build_items(task: AnyTask, documents: Sequence[tuple[str, str]], seed: int) -> list[Item]:
    """The items of one task from (id, text) of the held-out documents, or from the task's file.

    Raises:
        InputError: there is nothing to build them from, or the task's file is wrong (with its line).
    """
    if isinstance(task, WeatTask):
        return bias.word_items(task)
    items = _from_file(task, task.path) if task.path else from_documents(_of_text(task), documents, seed)
    if isinstance(task, TaskConfig) and task.num_shots:
        items = shots.shown(task, items, _from_file(task, task.shots_path) if task.shots_path else None, seed)
    else:
        items = [shots.whole(item) for item in items]
    return sorted(items, key=lambda item: order(seed, task.name, item.id))[: task.num_items]


def bare_items(task: AnyTask, documents: Sequence[tuple[str, str]], seed: int) -> list[Item]:
    """The same items without what stands before each: examples, and what a task says once.

    Raises:
        InputError: as build_items.
    """
    items = build_items(task, documents, seed)
    if isinstance(task, WeatTask) or not task.path:
        return items
    bare = {item.id: item for item in _from_file(task, task.path)}
    return [bare[item.id] for item in items]


def takes_documents(task: AnyTask) -> bool:
    """Whether its items are built from held-out documents."""
    return isinstance(task, TaskConfig) and task.path is None


def file_digest(task: AnyTask) -> str | None:
    """SHA-256 of the task's file: its content, not its place, decides whether a report is still good."""
    path = bias.words_file(task) if isinstance(task, WeatTask) else task.path
    if path and isinstance(task, TaskConfig) and is_task(path):
        return digest(path)
    return hashlib.sha256(read(path)).hexdigest() if path else None


def shots_digest(task: AnyTask) -> str | None:
    """The same of the file that examples come from."""
    path = task.shots_path if isinstance(task, TaskConfig) else None
    if path and is_task(path):
        return digest(path)
    return hashlib.sha256(read(path)).hexdigest() if path else None


def scorer_digest(path: str) -> str:
    """SHA-256 of a scorer's word list, or over the files of its folder."""
    root, _, name = path.rstrip("/").rpartition("/")
    storage = open_storage(root or ".")
    keys = sorted(storage.list(name)) or [name]
    if keys == [name]:
        return hashlib.sha256(read(path)).hexdigest()
    whole = hashlib.sha256()
    for key in keys:
        blob = storage.read(key)
        whole.update(Path(key).name.encode() + b"\0" + hashlib.sha256(blob.content if blob else b"").digest())
    return whole.hexdigest()


def _of_text(task: AnyTask) -> TaskConfig:
    assert isinstance(task, TaskConfig), "every other kind has a path"
    return task


def _from_file(task: AnyTask, path: str) -> list[Item]:
    items: dict[str, Item] = {}
    wrong: list[InputError] = []
    asked = read_yaml(path) if is_task(path) else None
    if asked is not None:
        check_kind(path, asked, task.kind)
    # How examples are written does not count: they are shown with their answers.
    how = writing_of(task, asked if path == task.path else None) if isinstance(task, TaskConfig) else None
    for where, number, record in _records(task, path) if asked is None else made(path, asked):
        try:
            item = _placed_item(task, where, number, record, how)
            if item.id in items:
                raise InputError(where, f"the id {item.id!r} is given twice", "give each item its own id")
            items[item.id] = item
        except InputError as error:
            wrong.append(error)
    if wrong:
        raise _counted(wrong, len(items))
    if not items:
        raise InputError(path, "holds no items", "write one JSON object a line")
    return list(items.values())


def _records(task: AnyTask, path: str) -> Iterator[tuple[str, int, Record]]:
    return tatqa.records(path) if task.kind == "tatqa" and path.endswith(".json") else records(path)


def _placed_item(task: AnyTask, where: str, number: int, record: Record, how: Writing | None) -> Item:
    item = _item(task, where, str(record.get("id", f"line-{number}")), record, how)
    language, domain = label_of(where, record, "language"), label_of(where, record, "domain") or item.domain
    return replace(item, language=language, domain=domain)


def _counted(wrong: Sequence[InputError], num_good: int) -> InputError:
    """The first mistake, and how many more there are: a file is mended at once, not line by line."""
    first, *others = wrong
    if not others:
        return first
    lines = ", ".join(error.where.rpartition(":")[2] for error in others[:MISTAKES_SHOWN])
    and_more = " and more" if len(others) > MISTAKES_SHOWN else ""
    found = f"{first.found}; {len(wrong)} of {len(wrong) + num_good} items are wrong, also in lines {lines}{and_more}"
    return InputError(first.where, found, first.remedy)


def _item(task: AnyTask, where: str, name: str, record: Record, how: Writing | None) -> Item:
    match task:
        case BbqTask():
            return bias.question_item(task, where, name, record)
        case PairsTask():
            return bias.pair_item(task, where, name, record)
        case ToxicityTask():
            return toxicity.item(task, where, name, record)
        case RefusalTask():
            return refusal.item(task, where, name, record)
        case CodeTask():
            return functions.item(task, where, name, record)
        case CanariesTask():
            return canaries.item(task, where, name, record)
        case TaskConfig():
            assert how is not None
            return _text_item(task, where, name, record, how)
        case WeatTask():
            raise AssertionError("its file is one of tests, not of items")


def _text_item(task: TaskConfig, where: str, name: str, record: Record, how: Writing) -> Item:
    if record.get("begins") and isinstance(record, Made) and task.chat:
        found = "begins the answer for the model (`gen_prefix`), which a chat template has no place for"
        raise InputError(where, found, "ask without `chat`, or write a YAML without gen_prefix")
    match task.kind:
        case "perplexity":
            return Item(task.name, task.kind, name, "", (text_of(where, record, "text"),))
        case "continuation":
            prompt, answer = text_of(where, record, "prompt"), spaced(record, text_of(where, record, "answer"))
            item = Item(task.name, task.kind, name, prompt, (answer,))
        case "multiple_choice" | "written_choice":
            item = _choice_item(task, where, name, record)
        case "tatqa":
            item = tatqa.item(task.name, where, name, record)
        case "qa" | "generation" | "exact_match":
            item = _question_item(task, where, name, record, how)
    if task.kind == "multiple_choice":
        return item
    return replace(item, max_new_tokens=how.max_new_tokens, until=how.until, chat=task.chat)


def _question_item(task: TaskConfig, where: str, name: str, record: Record, how: Writing) -> Item:
    prompt, answers = text_of(where, record, "prompt"), _answers(task, where, record)
    if task.kind == "exact_match":
        item: Item = ExactItem(task.name, task.kind, name, prompt, answers, reading=how.reading)
    else:
        item = Item(task.name, task.kind, name, prompt, answers)
    if not isinstance(record, Made):
        return item
    return replace(item, example=_example(record, record["delimiter"] + "".join(answers[:1])))


def _answers(task: TaskConfig, where: str, record: Record) -> tuple[str, ...]:
    """Exact match takes those of the harness with their white space, and an empty one beside others."""
    answers = record.get("answers")
    if isinstance(record, Made):
        full = [answer for answer in record["answers"] if answer.strip()]
        answers = record["answers"] if task.kind == "exact_match" and full else full
    elif not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise InputError(where, "`answers` is not a list of texts", "list the right answers; [] says there is none")
    elif task.kind == "exact_match":
        answers = [answer.strip() for answer in answers]
    if task.kind != "qa" and not answers:
        found = "`doc_to_target` gives no text" if isinstance(record, Made) else "`answers` is empty"
        raise InputError(where, found, "give at least one answer that is right, or take the item out")
    return tuple(answers)


def _choice_item(task: TaskConfig, where: str, name: str, record: Record) -> Item:
    is_made, is_read = isinstance(record, Made), task.kind == "multiple_choice"
    # The harness has tasks whose whole text is the choice.
    prompt = record["prompt"] if is_made and is_read else text_of(where, record, "prompt")
    choices = record.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(where, "`choices` is not a list of at least two texts", "list the possible answers")
    gold = index_of(where, record, "answer", len(choices))
    if is_read:
        item = Item(task.name, task.kind, name, prompt, tuple(spaced(record, c) for c in choices), gold)
    else:
        item = Item(task.name, task.kind, name, _lettered(where, prompt, choices), tuple(choices), gold)
    return replace(item, example=_example(record, shots.answer(item))) if is_made else item


def _lettered(where: str, prompt: str, choices: Sequence[str]) -> str:
    if len(choices) > len(ascii_uppercase):
        raise InputError(where, f"{len(choices)} choices are more than there are letters", "offer at most 26")
    offered = (f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))
    return "\n".join([prompt, *offered, "Answer:"])


def _example(record: Record, answer: str) -> Example:
    return Example(record["lead"], answer, record["between"])

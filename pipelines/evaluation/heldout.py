"""Items cut out of the dataset's held-out documents, at white space, the same for every model whatever its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.errors import InputError
from pipelines.evaluation.items import Item, order
from pipelines.task_config import TaskConfig

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
class Passage:
    """A piece of a document: `head`, and `tail` that follows it."""

    document: str
    start: int
    head: str
    tail: str

    @property
    def id(self) -> str:
        return f"{self.document}@{self.start}"


def from_documents(task: TaskConfig, documents: Sequence[tuple[str, str]], seed: int) -> list[Item]:
    """The items of one task from (id, text) of the held-out documents.

    Raises:
        InputError: there is nothing to build them from.
    """
    match task.kind:
        case "perplexity":
            items = [
                Item(task.name, task.kind, p.id, "", (p.head,)) for p in _passages(documents, WINDOW_CHARACTERS, 0)
            ]
        case "continuation":
            reference = task.num_new_tokens * CHARACTERS_PER_TOKEN
            items = [
                Item(task.name, task.kind, p.id, p.head, (p.tail,), max_new_tokens=task.num_new_tokens, chat=task.chat)
                for p in _passages(documents, PROMPT_CHARACTERS, reference)
            ]
        case "multiple_choice":
            items = _choices(task, list(_passages(documents, CONTEXT_CHARACTERS, CHOICE_CHARACTERS)), seed)
        case "qa" | "written_choice" | "generation" | "exact_match" | "tatqa":
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
    ranked = sorted(range(len(passages)), key=lambda i: order(seed, "distractor", passages[i].id))
    place = {index: rank for rank, index in enumerate(ranked)}
    items = []
    for index, passage in enumerate(passages):
        following = (ranked[(place[index] + step) % len(ranked)] for step in range(1, len(ranked)))
        others = [passages[i] for i in following]
        foreign = [p for p in others if p.document != passage.document]
        wrong = [p.tail for p in (foreign + [p for p in others if p.document == passage.document])[: NUM_CHOICES - 1]]
        gold = int(order(seed, "gold", passage.id), 16) % NUM_CHOICES
        answers = (*wrong[:gold], passage.tail, *wrong[gold:])
        items.append(Item(task.name, task.kind, passage.id, passage.head, answers, gold))
    return items

"""TAT-QA's questions on tables and text: how they are asked, and how what a model wrote is read. Pure but for the file.

The official evaluation takes an answer's parts and its scale apart, as systems made for it give them. A language model writes one
line: parts are what semicolons separate, the scale is the word or the percent sign behind the last of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import InputError
from pipelines.evaluation.items import Item
from pipelines.evaluation.metrics.tatqa import CALCULATED, SCALES, Found, Gold, is_number
from pipelines.evaluation.records import Record, one_of, read, text_of

KINDS = ("span", "multi-span", *sorted(CALCULATED, reverse=True))
WITH_SCALE = re.compile(rf"(.*\S)\s+({'|'.join(SCALES)})s?\.?", re.DOTALL | re.IGNORECASE)
HOW = (
    "Give the answer alone, a number with its scale (thousand, million, billion or percent) if it has one, several answers"
    " separated by semicolons."
)
TO_DO = "give TAT-QA's own file, a list of {table, paragraphs, questions}, or JSON lines"


@dataclass(frozen=True)
class TableItem(Item):
    """Its only answer is the right one as a model would write it."""

    right: Gold = field(default_factory=lambda: Gold((), "", "span"))


def item(task: str, where: str, name: str, record: Record) -> TableItem:
    """From a line with `prompt`, `answers` (the parts), `scale` and `answer_type`.

    Raises:
        InputError: it is none.
    """
    answers = record.get("answers")
    if not isinstance(answers, list) or not any(isinstance(part, str) and part.strip() for part in answers):
        raise InputError(where, "`answers` is not a list of texts", "list the parts of the right answer")
    if not all(isinstance(part, str) for part in answers):
        raise InputError(where, "`answers` has what is no text", "write numbers as texts")
    scale = record.get("scale", "")
    if scale not in ("", *SCALES):
        raise InputError(where, f"`scale` is {scale!r}", f"write one of {', '.join(SCALES)}, or leave it out")
    kind = one_of(where, {"answer_type": "span", **record}, "answer_type", KINDS)
    right = Gold(tuple(answers), scale, kind)
    return TableItem(task, "tatqa", name, text_of(where, record, "prompt"), (written(right),), right=right)


def written(right: Gold) -> str:
    """As a model is to write it."""
    return f"{'; '.join(part for part in right.parts if part.strip())} {right.scale}".strip()


def answer_of(text: str) -> Found:
    """What of a text is the answer: its first line. A scale is a number's: "in thousands" has none."""
    line = text.strip().split("\n", 1)[0].strip()
    parts = [part.strip() for part in line.split(";") if part.strip()]
    if parts and is_number(parts[-1]) and parts[-1].endswith("%"):
        return Found(tuple(parts), "percent")
    found = [one if (one := WITH_SCALE.fullmatch(part)) and is_number(one[1]) else None for part in parts]
    scales = {one[2].lower() for one in found if one is not None}
    if not found or found[-1] is None or len(scales) > 1:
        return Found(tuple(parts))  # where each says its own, the metric reads them
    return Found(tuple(part if one is None else one[1] for part, one in zip(parts, found, strict=True)), scales.pop())


def is_scaled_as(found: Found, right: Gold) -> bool:
    """Whether an answer has the right scale. A right one in words ("$1.1 billion") says it itself."""
    return bool(found.parts) and found.scale in {right.scale, answer_of(written(right)).scale}


def records(path: str) -> Iterator[tuple[str, int, Record]]:
    """(where, number, record) of each question of TAT-QA's own file.

    Raises:
        InputError: it is none.
    """
    try:
        blocks = json.loads(read(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"not JSON ({error})", TO_DO) from None
    if not isinstance(blocks, list):
        raise InputError(path, f"holds {type(blocks).__name__}, not a list", TO_DO)
    number = 0
    for at, block in enumerate(blocks):
        match block:
            case {"table": {"table": list(rows)}, "paragraphs": list(paragraphs), "questions": list(questions)}:
                shown = _shown(f"{path}: block {at + 1}", rows, paragraphs)
            case _:
                raise InputError(f"{path}: block {at + 1}", "has no table, paragraphs and questions", TO_DO)
        for question in questions:
            number += 1
            yield f"{path}: question {number}", number, _record(f"{path}: question {number}", shown, question)


def _shown(where: str, rows: list[Any], paragraphs: list[Any]) -> str:
    """The text in its order, then the table, a line a row."""
    try:
        texts = [str(one["text"]) for one in sorted(paragraphs, key=lambda one: int(one["order"]))]
        table = [" | ".join("" if cell is None else str(cell) for cell in row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(where, f"its paragraphs or rows are not TAT-QA's ({error!r})", TO_DO) from None
    return "\n".join([*texts, "", *table])


def _record(where: str, shown: str, question: Any) -> Record:
    if not isinstance(question, dict) or "answer" not in question:
        raise InputError(where, "has no `answer`", "take a file with right answers: that of the test set has none")
    answer = question["answer"]
    parts = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(part, str | int | float) for part in parts):
        raise InputError(where, "`answer` is no text, number or list of them", TO_DO)
    return {
        "id": question.get("uid", where),
        "prompt": f"{shown}\n\nQuestion: {text_of(where, question, 'question')}\n{HOW}\nAnswer:",
        "answers": [str(part) for part in parts],
        "scale": question.get("scale", ""),
        "answer_type": question.get("answer_type"),
    }

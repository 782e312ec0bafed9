"""Which choice a written answer takes: read from free text, JSON or a bare letter.

From the surest sign to the weakest: a JSON field `answer_choice` or `answer`, beside which nothing else counts; "the answer is B"
(the last one, which follows the reasoning); a letter at the beginning, or alone on the last line; the full text of exactly one
choice. What shows none of these ("none of the above", a refusal, a message of the service) is not read as anything: it is
counted, not guessed. Published figures often count it as choice A, for which there is `unread_as`: of GPT-4's 1,273 MedQA answers
in the MIRAGE benchmark (Xiong et al. 2024, arXiv 2402.13178) 27 show no choice, and 13 of these "A" happen to be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.metrics.answers import mean_percent, paired

FIELD = re.compile(r"""["']?answer(?:_choice)?\\?["']\s*:\s*\[?\s*\\?["']?(?=(?P<answer>[^\n]*))""", re.IGNORECASE)
SAID = re.compile(
    r"\b(?:answer|choice|option)(?:\s+choice)?\s*(?:is|would be|should be|:|=)+\s*(?:\**\s*)?"
    r"(?:option\s+|choice\s+)?(?=(?P<answer>[^\n]*))",
    re.IGNORECASE,
)
LETTER = r"""[\s"'(\[*]*(?P<letter>[A-Z])(?:[).:\],"'*\\}]|\s*$|\s+-|\s*[.,;\n])"""
AT_START = re.compile(LETTER)


@dataclass(frozen=True)
class ChoiceScore:
    accuracy: float
    """Percent of all items; what could not be read is not right."""
    num_items: int
    num_unread: int
    num_empty: int
    """Of the unread, those that were no answer at all."""


def score_all(
    choices: Mapping[str, Sequence[str]],
    golds: Mapping[str, int],
    answers: Mapping[str, str],
    unread_as: int | None = None,
) -> ChoiceScore:
    """Accuracy of written answers; `golds` are the indices of the right choices.

    Args:
        unread_as: the choice that an answer without any is counted as; None counts it as not right.

    Raises:
        InputError: items and answers do not belong together.
    """
    listed = paired("multiple choice", golds, answers)
    read = [(read_choice(text, choices[key]), gold) for key, gold, text in listed]
    return ChoiceScore(
        accuracy=mean_percent([float((unread_as if found is None else found) == gold) for found, gold in read]),
        num_items=len(listed),
        num_unread=sum(found is None for found, _ in read),
        num_empty=sum(not text.strip() for *_, text in listed),
    )


def read_choice(text: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that `text` takes, None where it shows none."""
    fields = [match["answer"] for match in FIELD.finditer(text)]
    if fields:
        found = _letter(fields[-1], len(choices))
        return found if found is not None else _named(fields[-1], choices)
    for passage in _passages(text):
        if (found := _letter(passage, len(choices))) is not None or (found := _named(passage, choices)) is not None:
            return found
    return _named(text, choices)


def _passages(text: str) -> Iterator[str]:
    """Where an answer may stand, the surest place first."""
    yield from (match["answer"] for match in reversed(list(SAID.finditer(text))))
    lines = [line for line in text.splitlines() if line.strip()]
    if lines:
        yield lines[0]
        yield lines[-1]


def _letter(passage: str, num_choices: int) -> int | None:
    match = AT_START.match(passage)
    index = ord(match["letter"]) - ord("A") if match else num_choices
    return index if index < num_choices else None


def _named(passage: str, choices: Sequence[str]) -> int | None:
    """The one choice whose text stands in the passage; of one inside another, the longer."""
    said = passage.casefold()
    inside = [i for i, choice in enumerate(choices) if choice.strip() and choice.strip().casefold() in said]
    longest = [
        i
        for i in inside
        if not any(i != j and choices[i].strip().casefold() in choices[j].strip().casefold() for j in inside)
    ]
    return longest[0] if len(longest) == 1 else None

"""Exact match: what a model wrote, read by filters and compared with the right answers as it stands.

Filters and comparison are those of lm-evaluation-harness 0.4.13 (`lm_eval/filters`, `exact_match_hf_evaluate` in
`lm_eval/api/metrics.py`), whose tables of GSM8K, TriviaQA and others were made by them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
WITHOUT_DIGITS = str.maketrans("", "", string.digits)


@dataclass(frozen=True)
class Extract:
    """What one match of a regular expression gives: all of it, or the first of its groups that holds something."""

    pattern: str
    which: int = 0
    """Of several matches: 0 is the first, -1 the last."""
    otherwise: str | None = None
    """What stands for an answer where none is found; None: nothing, which is never right."""


@dataclass(frozen=True)
class Lookup:
    """Another text for each of some."""

    table: tuple[tuple[str, str], ...]
    otherwise: str | None = None
    """For all others, as of `Extract`."""


Step = Extract | Lookup | Literal["strip", "lower", "upper"]


@dataclass(frozen=True)
class Reading:
    """How an answer is read, and what does not count where it is compared."""

    steps: tuple[Step, ...] = ("strip",)
    ignore: tuple[str, ...] = ()
    """Regular expressions, in their order."""
    ignore_case: bool = False
    ignore_punctuation: bool = False
    """ASCII's."""
    ignore_numbers: bool = False


AS_WRITTEN = Reading()
"""Without white space around."""


class Found(NamedTuple):
    """An answer that was read. Where none was found, what a filter puts in its place."""

    text: str | None
    is_found: bool


def read(reading: Reading, text: str) -> Found:
    """What counts of what was written."""
    found = Found(text, True)
    for step in reading.steps:
        found = _next(step, found)
    return found._replace(is_found=found.is_found and bool(found.text))


def is_right(reading: Reading, found: Found, answers: Sequence[str]) -> bool:
    """Whether it is one of the right answers."""
    if found.text is None:
        return False
    normal = normalized(reading, found.text)
    return any(normal == normalized(reading, answer) for answer in answers)


def normalized(reading: Reading, text: str) -> str:
    for pattern in reading.ignore:
        text = re.sub(pattern, "", text)
    if reading.ignore_case:
        text = text.lower()
    if reading.ignore_punctuation:
        text = text.translate(WITHOUT_PUNCTUATION)
    return text.translate(WITHOUT_DIGITS) if reading.ignore_numbers else text


def _next(step: Step, found: Found) -> Found:
    if (text := found.text) is None:
        return found
    match step:
        case "strip":
            return found._replace(text=text.strip())
        case "lower":
            return found._replace(text=text.lower())
        case "upper":
            return found._replace(text=text.upper())
        case Lookup():
            known = dict(step.table)
            return found._replace(text=known[text]) if text in known else Found(step.otherwise, False)
        case Extract():
            extracted = _extracted(step, text)
            return Found(step.otherwise, False) if extracted is None else found._replace(text=extracted)
    assert_never(step)


def _extracted(step: Extract, text: str) -> str | None:
    matches = re.findall(step.pattern, text)
    try:
        match = matches[step.which]
    except IndexError:
        return None
    if isinstance(match, tuple):
        match = next((group for group in match if group), None)
    return None if match is None else str(match).strip()

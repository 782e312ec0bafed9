"""TAT-QA: exact match and F1 of answers out of financial tables and text, with their scale.

Zhu et al. 2021, "TAT-QA: A Question Answering Benchmark on a Hybrid of Tabular and Textual Content in Finance", ACL, section 5.2,
and the rules of its official evaluation: an answer is one text, of the parts of it in order, and its scale. Numbers are rounded to
two digits and multiplied by their scale before they are compared; a bare number without a scale may also be meant as it stands
(0.2342 for 23.42 %). F1 is that of the sets of words, rounded to two digits; of calculated and counted answers the exact match.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.metrics.answers import mean_percent, paired

SCALES = {"hundred": 100.0, "thousand": 1e3, "million": 1e6, "billion": 1e9, "percent": 0.01}
CALCULATED = frozenset({"arithmetic", "count"})
NOT_IN_NUMBERS = str.maketrans("", "", "'\"\\$\u20ac\u00a3\u00a5%(),[]")
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
IN_BRACKETS = re.compile(r"\([\d.\s]+\)")
WITH_PERCENT = re.compile(r"[\d.\s]+%")
WITH_WORD = re.compile(r"[\d.]+\s?[a-zA-Z]+")
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Gold:
    """A right answer: the parts of a span, or one number. `kind`: span, multi-span, arithmetic or count."""

    parts: tuple[str, ...]
    scale: str
    kind: str


@dataclass(frozen=True)
class Found:
    """A predicted answer; no parts say that there is none."""

    parts: tuple[str, ...]
    scale: str = ""


@dataclass(frozen=True)
class TatqaScore:
    """Percent. `scale`: of answers whose scale is the right one."""

    exact_match: float
    f1: float
    scale: float
    num_items: int
    num_empty: int


def score_all(golds: Mapping[str, Gold], predictions: Mapping[str, Found]) -> TatqaScore:
    """All three over all questions.

    Raises:
        InputError: items and predictions do not belong together.
    """
    listed = paired("TAT-QA", golds, predictions)
    scores = [score(gold, found) for _, gold, found in listed]
    answered = [found for *_, found in listed if found.parts]
    right_scale = [float(bool(found.parts) and found.scale == gold.scale) for _, gold, found in listed]
    return TatqaScore(
        exact_match=mean_percent([exact for exact, _ in scores]),
        f1=mean_percent([f1 for _, f1 in scores]),
        scale=mean_percent(right_scale),
        num_items=len(listed),
        num_empty=len(listed) - len(answered),
    )


def score(gold: Gold, found: Found) -> tuple[float, float]:
    """(exact match, F1) of one question, 0 to 1."""
    if not found.parts or not gold.parts:
        return 0.0, 0.0
    right = normalized(whole(gold.parts, gold.scale))
    exact, f1 = max(_compared(normalized(text), right) for text in _readings(found))
    return (exact, exact) if gold.kind in CALCULATED else (exact, f1)


def whole(parts: Sequence[str], scale: str) -> str:
    """The answer as one text, numbers in full."""
    return " ".join(_scaled(part, scale) for part in sorted(parts))


def normalized(text: str) -> str:
    """In lower case, without articles and punctuation, numbers in one form."""
    words = (_word(word) for word in text.lower().split(" "))
    return " ".join(word for word in words if word)


def number_of(text: str) -> float | None:
    """The number that a text begins with, with brackets for a minus, percent and words of scale read; None without digits."""
    found = NUMBER.search(_bare(text))
    if found is None:
        return None
    scaled = WITH_WORD.search(text)
    times = scale_of(scaled[0]) if scaled else 1.0
    sign = -1 if IN_BRACKETS.search(text.strip()) else 1
    return round(float(found[0]) * times * sign * (0.01 if WITH_PERCENT.search(text.strip()) else 1.0), 4)


def is_number(text: str) -> bool:
    """Whether it is a number alone, or one with a word of scale behind it."""
    words = " ".join(_bare(word) for word in text.split()).split()
    try:
        value = float(words[0]) if words else math.nan
    except ValueError:
        return False
    return not math.isnan(value) and (len(words) < 2 or scale_of(words[1]) != 1)


def scale_of(word: str) -> float:
    """What a word of scale multiplies by; 1 for any other."""
    return next((times for name, times in SCALES.items() if name in word.lower()), 1.0)


def _readings(found: Found) -> Iterator[str]:
    yield whole(found.parts, found.scale)
    alone = found.parts[0]
    if len(found.parts) == 1 and not found.scale and "%" not in alone and is_number(alone):
        value = number_of(alone)
        if value is not None:
            yield f"{value:.4f}"


def _scaled(part: str, scale: str) -> str:
    value = number_of(part) if is_number(part) else None
    if value is None:
        return f"{part} {scale}" if scale else part
    return f"{value:.4f}" if "%" in part else f"{round(value, 2) * scale_of(scale):.4f}"


def _word(word: str) -> str:
    plain = word if is_number(word) else word.translate(WITHOUT_PUNCTUATION)
    if is_number(plain):
        plain = _written(plain)
    return " ".join(ARTICLES.sub(" ", plain).split())


def _written(number: str) -> str:
    """A number in one form. Whole ones inside a text stay whole, and so are no part of an answer that is a number alone, which is
    given with its decimals: "April 28, 2018" shares nothing with 2018. The official figures rest on it."""
    value, found = number_of(number), NUMBER.search(_bare(number))
    stays = value is not None and found is not None and "." not in found[0] and "%" not in number
    return str(int(value)) if stays and value is not None else str(value)


def _bare(text: str) -> str:
    return text.translate(NOT_IN_NUMBERS)


def _compared(found: str, right: str) -> tuple[float, float]:
    said, wanted = set(found.split()), set(right.split())
    precision = len(said & wanted) / len(said) if said else 1.0
    recall = len(said & wanted) / len(wanted) if wanted else 1.0
    overlap = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return float(found == right), round(overlap, 2)

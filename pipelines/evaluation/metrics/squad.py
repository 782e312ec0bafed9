"""SQuAD 2.0: exact match and F1 of short answers, also of questions that have none.

Rajpurkar, Jia, Liang 2018, "Know What You Don't Know", arXiv 1806.03822, and the rules of its official evaluation: answers are
compared in lower case without punctuation, articles and superfluous white space, with the best of the right answers; a
question without an answer is right when nothing is answered.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.metrics.answers import mean_percent, paired

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class SquadScore:
    """Percent. `num_empty`: questions that were answered with nothing, rightly or not."""

    exact_match: float
    f1: float
    num_items: int
    num_empty: int


def score_all(golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> SquadScore:
    """Both figures over all questions; `golds` has the right answers of each, none for a question without one.

    Raises:
        InputError: items and predictions do not belong together.
    """
    listed = paired("SQuAD", golds, predictions)
    scores = [(exact_match(found, right), f1(found, right)) for _, right, found in listed]
    return SquadScore(
        exact_match=mean_percent([exact for exact, _ in scores]),
        f1=mean_percent([overlap for _, overlap in scores]),
        num_items=len(listed),
        num_empty=sum(not normalized(found) for *_, found in listed),
    )


def exact_match(found: str, right: Sequence[str]) -> float:
    """1 if `found` is one of the right answers, else 0."""
    return float(any(normalized(found) == normalized(answer) for answer in _answers(right)))


def f1(found: str, right: Sequence[str]) -> float:
    """Harmonic mean of the words' precision and recall, 0 to 1, against the right answer that fits best."""
    return max(_overlap(normalized(found).split(), normalized(answer).split()) for answer in _answers(right))


def normalized(text: str) -> str:
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def _answers(right: Sequence[str]) -> Sequence[str]:
    """An answer of nothing but articles and punctuation is none; of no answers, nothing is the right one."""
    return [answer for answer in right if normalized(answer)] or [""]


def _overlap(found: Sequence[str], right: Sequence[str]) -> float:
    if not found or not right:
        return float(not found and not right)
    common = (Counter(found) & Counter(right)).total()
    return 2 * common / (len(found) + len(right))

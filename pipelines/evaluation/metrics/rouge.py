"""ROUGE: overlap of a text with a reference in words, pairs of words, or the longest common subsequence.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop, sections 2 and 3: F1 of n-grams (ROUGE-N) and of
the longest common subsequence (ROUGE-L), on words in lower case, which are runs of Latin letters and digits; nothing is stemmed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class RougeScore:
    """F1, each 0 to 1."""

    rouge1: float
    rouge2: float
    rouge_l: float


def score(found: str, reference: str) -> RougeScore:
    """Of one text against one reference."""
    said, wanted = WORD.findall(found.lower()), WORD.findall(reference.lower())
    grams = [(_grams(said, n), _grams(wanted, n)) for n in (1, 2)]
    one, two = (_f1((a & b).total(), a.total(), b.total()) for a, b in grams)
    return RougeScore(one, two, _f1(_common(said, wanted), len(said), len(wanted)))


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _f1(common: int, num_said: int, num_wanted: int) -> float:
    return 2 * common / (num_said + num_wanted) if common else 0.0


def _common(said: Sequence[str], wanted: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(wanted) + 1)
    for word in said:
        before = 0
        for at, other in enumerate(wanted, 1):
            before, lengths[at] = lengths[at], before + 1 if word == other else max(lengths[at], lengths[at - 1])
    return lengths[-1]

"""BLEU and chrF of a whole corpus, by sacreBLEU (Post 2018, arXiv 1804.08771), whose figures can be compared across papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import InputError


@dataclass(frozen=True)
class TranslationScore:
    bleu: float
    """Up to 4-grams, mixed case, tokenised as 13a (Papineni et al. 2002); 0 to 100."""
    chrf: float
    """Character n-grams up to 6, beta 2 (Popovic 2015); 0 to 100."""
    num_items: int
    num_empty: int


def score_all(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> TranslationScore:
    """Corpus figures; `references` holds one or more complete lists, each as long as `hypotheses`.

    Raises:
        InputError: none at all, or lists of other lengths.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    lengths = [len(hypotheses), *map(len, references)]
    if not hypotheses or not references or len(set(lengths)) > 1:
        found = f"{lengths[0]} translations against references of {lengths[1:]} lines"
        raise InputError("translation", found, "give one line for each line of each reference")
    several = [list(lines) for lines in references]
    return TranslationScore(
        bleu=BLEU().corpus_score(list(hypotheses), several).score,
        chrf=CHRF().corpus_score(list(hypotheses), several).score,
        num_items=len(hypotheses),
        num_empty=sum(not line.strip() for line in hypotheses),
    )

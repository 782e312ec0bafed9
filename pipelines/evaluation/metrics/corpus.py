"""BLEU and chrF of a whole corpus as functions of sums over its items, so that they can be computed of any sample of them.

The figures are sacreBLEU's (Post 2018, arXiv 1804.08771); the sums are what it adds up itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDER = 6
"""Characters of chrF's longest n-gram, without white space (Popovic 2015)."""
BETA = 2
NUM_BLEU = 10
"""Lengths of text and nearest reference, and of 1- to 4-grams those that match and all."""
NUM_CHRF = 3 * ORDER
"""Of each order the n-grams of the text, of the reference, and those in both."""


def bleu_parts(text: str, references: Sequence[str]) -> list[float]:
    """Of one item: NUM_BLEU numbers."""
    from sacrebleu.metrics.bleu import BLEU

    found = BLEU(effective_order=True).sentence_score(text, list(references))
    return [float(one) for one in (found.sys_len, found.ref_len, *found.counts, *found.totals)]


def bleu_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., NUM_BLEU) -> (...): 0 to 100, up to 4-grams, exponential smoothing."""
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    def one(of: NDArray[np.float64]) -> float:
        own, reference, *counts = (round(float(number)) for number in of)
        return float(BLEU.compute_bleu(counts[:4], counts[4:], own, reference, smooth_method="exp").score)

    found: NDArray[np.float64] = np.apply_along_axis(one, -1, sums)
    return found


def chrf_parts(text: str, references: Sequence[str]) -> list[float]:
    """Of one item: NUM_CHRF numbers, against the reference that it is nearest to."""
    import numpy as np

    each = [_chrf_parts(text, reference) for reference in references]
    return each[int(np.argmax(chrf_of(np.array(each))))]


def chrf_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., NUM_CHRF) -> (...): 0 to 100. Precision and recall are means over the orders that both sides have."""
    import numpy as np

    own, reference, both = (sums[..., at::3] for at in range(3))
    known = (own > 0) & (reference > 0)
    num_known = np.maximum(known.sum(-1), 1)
    precision, recall = (
        np.where(known, both / np.maximum(under, 1), 0).sum(-1) / num_known for under in (own, reference)
    )
    under = BETA**2 * precision + recall
    found: NDArray[np.float64] = 100 * (1 + BETA**2) * precision * recall / np.where(under > 0, under, 1)
    return found


def chrf_score(parts: Sequence[float]) -> float:
    """Of one item."""
    import numpy as np

    return float(chrf_of(np.array(parts)))


def _chrf_parts(text: str, reference: str) -> list[float]:
    said, wanted = "".join(text.split()), "".join(reference.split())
    parts: list[float] = []
    for n in range(1, ORDER + 1):
        ours, theirs = (Counter(chars[at : at + n] for at in range(len(chars) - n + 1)) for chars in (said, wanted))
        # As sacreBLEU has it: where the reference has none of that order, the text's are not counted either.
        parts += (float(ours.total() if theirs else 0), float(theirs.total()), float((ours & theirs).total()))
    return parts

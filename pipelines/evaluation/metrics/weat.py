"""WEAT: how much nearer one set of words lies to a set of attributes than another does, in a model's own embeddings.

Caliskan, Bryson, Narayanan 2017, "Semantics derived automatically from language corpora contain human-like biases", Science 356,
supplement: s(w) is the difference of w's mean cosines with the two attribute sets, the effect size d the difference of the targets'
mean s over the standard deviation (of a sample) of s over both. p is the share of equal divisions of all target words whose
difference of means is at least the observed one: all divisions where there are few, else drawn ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from cluster.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_DRAWN = 20_000
"""Divisions drawn where there are more: p is then at least 1 / 20,001."""


@dataclass(frozen=True)
class WeatScore:
    effect_size: float
    """d: -2 to 2, positive where the first targets lie nearer to the first attributes."""
    p: float
    num_missing: int
    """Words without a vector: left out, as in the paper."""


def score(
    vectors: Mapping[str, Sequence[float]], targets: tuple[Sequence[str], Sequence[str]],
    attributes: tuple[Sequence[str], Sequence[str]], seed: int = 0,
) -> WeatScore:  # fmt: skip
    """Effect size and one-sided permutation p.

    Raises:
        InputError: a set has fewer than two words with a finite vector that is not 0, or the words do not differ at all.
    """
    words = (*targets, *attributes)
    found = [[word for word in each if word in vectors] for each in words]
    for given, each in zip(words, found, strict=True):
        if len(each) < 2:
            what = f"{len(each)} of {len(given)} words have a vector ({', '.join(given[:3])}, ...)"
            raise InputError("WEAT", what, "give a vocabulary that holds at least two words of each set")
    first, second = (associations(vectors, each, (found[2], found[3])) for each in found[:2])
    missing = sum(len(given) - len(each) for given, each in zip(words, found, strict=True))
    return WeatScore(effect_size(first, second), permutation_p(first, second, seed), missing)


def associations(
    vectors: Mapping[str, Sequence[float]], words: Sequence[str], attributes: tuple[Sequence[str], Sequence[str]]
) -> list[float]:
    """s(w) of each word: its mean cosine with the first attributes less that with the second.

    Raises:
        InputError: a vector is 0 or not finite.
    """
    each, first, second = (_directions(vectors, some) for some in (words, *attributes))
    return [float(s) for s in (each @ first.T).mean(1) - (each @ second.T).mean(1)]


def effect_size(first: Sequence[float], second: Sequence[float]) -> float:
    """d, of both targets' associations.

    Raises:
        InputError: they do not differ at all.
    """
    import numpy as np

    both = np.array([*first, *second])
    if not both.std():
        raise InputError("WEAT", "all target words lie equally near to the attributes", "give vectors that differ")
    return float((np.mean(first) - np.mean(second)) / both.std(ddof=1))


def permutation_p(first: Sequence[float], second: Sequence[float], seed: int = 0) -> float:
    """One-sided, of both targets' associations."""
    import numpy as np

    return _p(np.array([*first, *second]), len(first), seed)


def _directions(vectors: Mapping[str, Sequence[float]], words: Sequence[str]) -> NDArray[np.float64]:
    import numpy as np

    rows = np.array([vectors[word] for word in words], dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    if bad := [word for word, length in zip(words, lengths, strict=True) if not (math.isfinite(length) and length > 0)]:
        raise InputError("WEAT", f"{len(bad)} vector(s) are 0 or not finite (first {bad[0]})", "mend the embeddings")
    unit: NDArray[np.float64] = rows / lengths[:, None]
    return unit


def _p(nearer: NDArray[np.float64], num_first: int, seed: int) -> float:
    import numpy as np

    n, observed = len(nearer), nearer[:num_first].sum()
    if math.comb(n, num_first) <= NUM_DRAWN:
        sums = np.array([nearer[list(chosen)].sum() for chosen in combinations(range(n), num_first)])
        return float((sums >= observed - 1e-12).mean())
    drawer = np.random.default_rng(seed)
    sums = drawer.permuted(np.tile(nearer, (NUM_DRAWN, 1)), axis=1)[:, :num_first].sum(1)
    # The observed division is one of them: a p of 0 cannot be shown by drawing.
    return float(1 + (sums >= observed - 1e-12).sum()) / (NUM_DRAWN + 1)

"""The language model of py3langid (a naive Bayes classifier over byte n-grams that an automaton finds), on many texts at once."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.data.kernels.characters import Buffers
from pipelines.data.kernels.compiled import kernel

Floats = NDArray[np.float32]


class Model(NamedTuple):
    moves: NDArray[Any]
    """The state that follows, by row * 256 + byte."""
    rows: NDArray[np.int64]
    """The row of each state in `moves`; states that go on alike share one."""
    features: NDArray[np.int32]
    """What is found on reaching a state; below 0: nothing."""
    weights: Floats
    """Log-probability of each feature (row) in each language (column)."""
    priors: Floats
    labels: tuple[str, ...]
    twins: tuple[tuple[int, int], ...]
    """Columns of the same label, the first of them first."""


@cache
def model() -> Model:
    """Loaded once a process, about a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    loaded = LanguageIdentifier.from_model_file(MODEL_FILE)
    labels = tuple(map(str, loaded.nb_classes))
    return Model(
        np.asarray(loaded.tk_nextmove),
        np.asarray(loaded.tk_row, np.int64),
        np.asarray(loaded.tk_output, np.int32),
        np.asarray(loaded.nb_ptc, np.float32),
        np.asarray(loaded.nb_pc, np.float32),
        labels,
        tuple((labels.index(label), i) for i, label in enumerate(labels) if labels.index(label) != i),
    )


def probabilities(texts: Buffers) -> Floats:
    """One row a text, one column a label: how py3langid normalises them (a temperature of the root of the bytes)."""
    known = model()
    scores = np.zeros((len(texts), len(known.labels)), np.float32)
    _score(texts.data, texts.offsets, *known[:5], np.zeros(len(known.weights), np.int32), scores)
    scores /= np.sqrt(np.maximum(np.diff(texts.offsets), 1), dtype=np.float32)[:, None]
    np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf), out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    for first, twin in known.twins:
        scores[:, first] += scores[:, twin]
        scores[:, twin] = 0
    return scores


@kernel
def _score(
    data: Any, offsets: Any, moves: Any, rows: Any, features: Any, weights: Any, priors: Any, counts: Any, scores: Any
) -> None:
    """`counts` is zero for every feature, before and after. A text without features scores 0 for every language."""
    found = np.empty(len(data) + 1, np.int32)
    for text in range(len(offsets) - 1):
        state, num = np.int64(0), 0
        for i in range(offsets[text], offsets[text + 1]):
            state = np.int64(moves[(rows[state] << 8) + data[i]])
            feature = features[state]
            if feature >= 0:
                if counts[feature] == 0:
                    found[num] = feature
                    num += 1
                counts[feature] += 1
        if num:
            scores[text] = priors
        for k in range(num):
            weight = np.float32(np.log1p(np.float32(counts[found[k]])))
            row = weights[found[k]]
            for label in range(scores.shape[1]):
                scores[text, label] += weight * row[label]
            counts[found[k]] = 0

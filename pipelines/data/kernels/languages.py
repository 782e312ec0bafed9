"""The language model of py3langid (a naive Bayes classifier over byte n-grams that an automaton finds), on many texts at once."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import NUM_CODE_POINTS, Buffers, decode

Floats = NDArray[np.float32]

LAST_CASED = 0x20000
"""No capital and no small letter has a code point above."""

LANES = 8
"""Texts gone through at a time; more win nothing."""


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
        np.array(loaded.tk_nextmove),  # copies: numpy asks for large pages, the file's reader did not
        np.asarray(loaded.tk_row, np.int64),
        np.array(loaded.tk_output, np.int32),
        np.array(loaded.nb_ptc, np.float32),
        np.asarray(loaded.nb_pc, np.float32),
        labels,
        tuple((labels.index(label), i) for i, label in enumerate(labels) if labels.index(label) != i),
    )


def probabilities(texts: Buffers) -> Floats:
    """One row a text, one column a label: how py3langid normalises them (a temperature of the root of the bytes)."""
    known = model()
    scores = np.zeros((len(texts), len(known.labels)), np.float32)
    states, counts = np.empty(len(texts.data), np.uint32), np.zeros(len(known.weights), np.int32)
    logs = np.log1p(np.arange(1 + np.diff(texts.offsets).max(initial=0), dtype=np.float32))
    _walk(texts.data, texts.offsets, known.moves, known.rows, states)
    _score(texts.offsets, states, known.features, known.weights, known.priors, counts, logs, scores)
    scores /= np.sqrt(np.maximum(np.diff(texts.offsets), 1), dtype=np.float32)[:, None]
    np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf), out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    for first, twin in known.twins:
        scores[:, first] += scores[:, twin]
        scores[:, twin] = 0
    return scores


def in_capitals(texts: Buffers) -> NDArray[np.bool_]:
    """As str.isupper of each text."""
    found = np.zeros(len(texts), np.bool_)
    _in_capitals(texts.data, texts.offsets, _cases(), found)
    return found


@cache
def _cases() -> NDArray[np.uint8]:
    """Of each code point: 2 where it makes a text no text in capitals, 1 where it is a capital."""
    found = np.zeros(NUM_CODE_POINTS, np.uint8)
    for character in map(chr, range(LAST_CASED)):
        if character.isupper():
            found[ord(character)] = 1
        elif character.islower() or character.istitle():
            found[ord(character)] = 2
    return found


@kernel
def _in_capitals(data: Any, offsets: Any, cases: Any, found: Any) -> None:
    for text in range(len(offsets) - 1):
        i, end, seen = offsets[text], offsets[text + 1], 0
        while i < end and seen < 2:  # most texts have a small letter soon
            c, i = decode(data, i)
            seen = max(seen, cases[c])
        found[text] = seen == 1


@kernel
def _walk(data: Any, offsets: Any, moves: Any, rows: Any, states: Any) -> None:
    """The automaton's state behind each byte.

    Each step waits for the memory that the one before it read, so several texts are gone through at a time: as long as the
    shortest of what is left of them lasts, then those at their end make room for others.
    """
    following, num = 0, len(offsets) - 1
    state, at, end = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    while True:
        steps = len(data)
        for lane in range(LANES):
            while at[lane] == end[lane] and following < num:
                state[lane], at[lane], end[lane] = 0, offsets[following], offsets[following + 1]
                following += 1
            steps = min(steps, end[lane] - at[lane])
        if steps == 0:
            break  # fewer texts are left than there are lanes
        for _ in range(steps):
            for lane in range(LANES):
                state[lane] = np.int64(moves[(rows[state[lane]] << 8) + data[at[lane]]])
                states[at[lane]] = state[lane]
                at[lane] += 1
    for lane in range(LANES):
        for i in range(at[lane], end[lane]):
            state[lane] = np.int64(moves[(rows[state[lane]] << 8) + data[i]])
            states[i] = state[lane]


@kernel
def _score(
    offsets: Any, states: Any, features: Any, weights: Any, priors: Any, counts: Any, logs: Any, scores: Any
) -> None:
    """`counts` is zero for every feature, before and after; `logs` has log(1 + n) of every n.

    A text without features scores 0 for every language. Features are added four at a time, each in its turn:
    the sums are those of one after the other.
    """
    found = np.empty(len(states) + 1, np.int32)
    sums = np.empty(scores.shape[1], np.float32)
    for text in range(len(offsets) - 1):
        num = _distinct(states, offsets[text], offsets[text + 1], features, counts, found)
        if not num:
            continue
        sums[:] = priors
        fours = num - num % 4
        for k in range(0, fours, 4):
            p, q, r, s = found[k], found[k + 1], found[k + 2], found[k + 3]
            ps, qs, rs, ss = weights[p], weights[q], weights[r], weights[s]
            by_p, by_q, by_r, by_s = logs[counts[p]], logs[counts[q]], logs[counts[r]], logs[counts[s]]
            for label in range(len(sums)):
                two = (sums[label] + by_p * ps[label]) + by_q * qs[label]
                sums[label] = (two + by_r * rs[label]) + by_s * ss[label]
        for k in range(fours, num):
            row, by = weights[found[k]], logs[counts[found[k]]]
            for label in range(len(sums)):
                sums[label] += by * row[label]
        for k in range(num):
            counts[found[k]] = 0
        scores[text] = sums


@kernel
def _distinct(states: Any, first: int, end: int, features: Any, counts: Any, found: Any) -> int:
    """How many features there are; `found` has them as they come, `counts` how often each does."""
    num = 0
    for i in range(first, end):
        feature = features[states[i]]
        if feature >= 0:
            if counts[feature] == 0:
                found[num] = feature
                num += 1
            counts[feature] += 1
    return num

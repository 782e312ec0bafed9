"""The classifier of toxicity that ships: a small network that reads words, on any machine, in nothing but NumPy.

ToxBlock's (Pascal Bliem, MIT; `weights/toxicity.LICENSE`): GloVe's vectors of 20,000 words, an LSTM in either direction, the
largest of each of their outputs, two layers; trained on Jigsaw's Toxic Comment data (Wikipedia's talk pages, 2018). What it is
worth: docs/evaluation.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float32]]
    Places = np.ndarray[Any, np.dtype[np.int64]]

WEIGHTS = Path(__file__).parents[1] / "weights" / "toxicity.safetensors"
NUM_WORDS = 100
"""That it reads at once, as it was trained; of a longer text every hundred is read, and the worst counts."""
BATCH = 96
"""Texts at once. With many more BLAS would spread each small product over threads, and wait for them on a busy machine."""
# As its training split texts, and typographic marks beside: unknown to it, they would hide the words that they stand at; so would
# what nobody sees inside of a word.
MARKS = (
    {ord(mark): " " for mark in '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~“”„«»—–'}
    | {ord(mark): "'" for mark in "’‘"}
    | dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), None)
)


class Network:
    """The probability that a person would call a text toxic (rude, obscene, threatening or hateful)."""

    def __init__(self) -> None:
        self.weights, self.places = _loaded()

    def score(self, texts: Sequence[str]) -> list[float]:
        """0 to 1 of each."""
        import numpy as np

        parts = [(at, part) for at, text in enumerate(texts) for part in self._parts(text)]
        found = np.zeros(len(texts), np.float32)
        for first in range(0, len(parts), BATCH):
            some = parts[first : first + BATCH]
            np.maximum.at(found, [at for at, _ in some], self._chances(np.stack([part for _, part in some])))
        return [float(chance) for chance in found]

    def _parts(self, text: str) -> list[Places]:
        """The places of its words in the vocabulary, in rows of NUM_WORDS with zeros before them. Unknown words are left out."""
        import numpy as np

        words = unicodedata.normalize("NFKC", text).lower().translate(MARKS).split()
        known = [self.places[word] for word in words if word in self.places]
        rows = [known[at : at + NUM_WORDS] for at in range(0, len(known), NUM_WORDS)] or [[]]
        return [np.pad(np.array(row, np.int64), (NUM_WORDS - len(row), 0)) for row in rows]

    def _chances(self, places: Places) -> Array:
        import numpy as np

        vectors = self.weights["vectors"][places].astype(np.float32)
        either = [self._largest(vectors, "forward"), self._largest(vectors[:, ::-1], "backward")]
        hidden = np.concatenate(either, 1) @ self.weights["hidden.kernel"] + self.weights["hidden.bias"]
        label = np.maximum(hidden, 0) @ self.weights["label.kernel"] + self.weights["label.bias"]
        return _sigmoid(label[:, 0])

    def _largest(self, vectors: Array, way: str) -> Array:
        """The largest of each output of an LSTM over the words (Keras' order of gates: input, forget, cell, output)."""
        import numpy as np

        recurrent = self.weights[f"{way}.recurrent_kernel"]
        size = len(recurrent)
        inputs = vectors @ self.weights[f"{way}.kernel"] + self.weights[f"{way}.bias"]
        told = cell = np.zeros((len(vectors), size), np.float32)
        largest = np.full_like(told, -1)
        for at in range(inputs.shape[1]):
            gates = inputs[:, at] + told @ recurrent
            enter, keep, new, out = (gates[:, first : first + size] for first in range(0, 4 * size, size))
            cell = _sigmoid(keep) * cell + _sigmoid(enter) * np.tanh(new)
            told = _sigmoid(out) * np.tanh(cell)
            largest = np.maximum(largest, told)
        return largest


def _sigmoid(x: Array) -> Array:
    """By tanh, of which NumPy has a fast one for 32 bits."""
    import numpy as np

    return np.asarray((np.tanh(x / 2) + 1) / 2, np.float32)


@cache
def _loaded() -> tuple[dict[str, Array], dict[str, int]]:
    """The weights, and the place of each word in them."""
    from safetensors.numpy import load_file

    weights = load_file(WEIGHTS)
    words = weights.pop("words").tobytes().decode().split("\n")
    return weights, {word: at for at, word in enumerate(words, start=1)}

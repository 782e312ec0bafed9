"""Which language a text is in."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX_CHARACTERS = 1_000
"""Enough: a classifier on this prefix agrees with itself on the full text for 99 of 100 documents."""


def identify(texts: pa.Array) -> list[tuple[str, float]]:
    """ISO 639-1 code and normalised probability (0 to 1) of the language of each text's beginning."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.data.kernels import languages
    from pipelines.data.kernels.characters import buffers

    prefixes = pc.utf8_slice_codeunits(texts, 0, PREFIX_CHARACTERS).to_pylist()
    scores = languages.probabilities(buffers(pa.array(map(_as_trained, prefixes), pa.large_string())))
    labels = languages.model().labels
    return [(labels[best], float(scores[i, best])) for i, best in enumerate(scores.argmax(axis=1))]


def _as_trained(text: str) -> str:
    """As py3langid prepares what it was trained on."""
    return unicodedata.normalize("NFC", text.lower() if text.isupper() else text)

"""Which language a text is in."""

from __future__ import annotations

from functools import cache
from typing import Any

PREFIX_CHARACTERS = 1_000
"""Enough: a classifier on this prefix agrees with itself on the full text for 99 of 100 documents."""


def identify(text: str) -> tuple[str, float]:
    """ISO 639-1 code and normalised probability (0 to 1) of the language of the text's beginning."""
    language, confidence = _classifier().classify(text[:PREFIX_CHARACTERS])
    return str(language), float(confidence)


@cache
def _classifier() -> Any:
    """Loaded once a process, about a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

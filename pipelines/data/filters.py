"""Filters: pure functions of one document's text. Each names its reason and what it found.

Quality and repetition are those of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1 and table A1). Words are
what white space separates. Characters of a document are counted with its white space.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipelines.config import FilterConfig
from pipelines.data.document import DropReason

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("•", "‣", "◦", "⁃", "∙", "●", "▪", "- ", "* ")
ELLIPSES = ("...", "…")


class Drop(NamedTuple):
    reason: DropReason
    detail: str


class Measured(NamedTuple):
    """What several filters look at, taken from the text once."""

    text: str
    words: list[str]
    lines: list[str]
    """Stripped, empty ones left out."""


Filter = Callable[[Measured, FilterConfig], Drop | None]


def measure(text: str) -> Measured:
    return Measured(text, text.split(), [line.strip() for line in text.splitlines() if line.strip()])


def cheap_drop(text: str, config: FilterConfig) -> Drop | None:
    """The first objection of the filters that need no language, or None."""
    measured = measure(text)
    return next((drop for check in CHEAP_FILTERS if (drop := check(measured, config))), None)


def length(document: Measured, config: FilterConfig) -> Drop | None:
    count = len(document.words)
    if count == 0:
        return Drop("empty", "no words")
    if count < config.min_words:
        return Drop("too_few_words", f"{count} words, at least {config.min_words} asked")
    if count > config.max_words:
        return Drop("too_many_words", f"{count} words, at most {config.max_words} allowed")
    return None


def word_length(document: Measured, config: FilterConfig) -> Drop | None:
    mean = sum(map(len, document.words)) / len(document.words)
    if config.min_mean_word_length <= mean <= config.max_mean_word_length:
        return None
    allowed = f"{config.min_mean_word_length:g} to {config.max_mean_word_length:g}"
    return Drop("mean_word_length", f"{mean:.2f} characters a word, {allowed} allowed")


def symbols(document: Measured, config: FilterConfig) -> Drop | None:
    """Number signs a word, and ellipses a word: each on its own."""
    counts = {
        "number signs": document.text.count("#"),
        "ellipses": sum(document.text.count(mark) for mark in ELLIPSES),
    }
    for name, count in counts.items():
        if drop := _above(count / len(document.words), config.max_symbol_word_ratio, "symbols", f"{name} a word"):
            return drop
    return None


def bullet_lines(document: Measured, config: FilterConfig) -> Drop | None:
    share = _share(document.lines, lambda line: line.startswith(BULLETS))
    return _above(share, config.max_bullet_line_fraction, "bullet_lines", "of the lines begin with a bullet")


def ellipsis_lines(document: Measured, config: FilterConfig) -> Drop | None:
    share = _share(document.lines, lambda line: line.endswith(ELLIPSES))
    return _above(share, config.max_ellipsis_line_fraction, "ellipsis_lines", "of the lines end with an ellipsis")


def alphabetic_words(document: Measured, config: FilterConfig) -> Drop | None:
    share = _share(document.words, lambda word: any(map(str.isalpha, word)))
    if share >= config.min_alphabetic_word_fraction:
        return None
    detail = f"{share:.3f} of the words have a letter, at least {config.min_alphabetic_word_fraction:g} asked"
    return Drop("few_alphabetic_words", detail)


def duplicate_lines(document: Measured, config: FilterConfig) -> Drop | None:
    """Lines that stood before in the document: their share of the lines, and of the characters."""
    repeats = _repeats(document.lines)
    share = len(repeats) / len(document.lines)
    characters = sum(map(len, repeats)) / len(document.text)
    return _above(
        share, config.max_duplicate_line_fraction, "duplicate_lines", "of the lines repeat an earlier one"
    ) or _above(
        characters,
        config.max_duplicate_line_character_fraction,
        "duplicate_line_characters",
        "of the characters stand in lines that repeat an earlier one",
    )


def repeated_n_grams(document: Measured, config: FilterConfig) -> Drop | None:
    """The share of the characters that stand in the most frequent n-gram of words, for n = 2, 3, 4."""
    bounds: tuple[tuple[int, DropReason, float], ...] = (
        (2, "repeated_2_grams", config.max_top_2_gram_character_fraction),
        (3, "repeated_3_grams", config.max_top_3_gram_character_fraction),
        (4, "repeated_4_grams", config.max_top_4_gram_character_fraction),
    )
    for n, reason, bound in bounds:
        share = top_n_gram_fraction(document, n)
        if drop := _above(share, bound, reason, f"of the characters stand in the most frequent {n}-gram"):
            return drop
    return None


CHEAP_FILTERS: tuple[Filter, ...] = (
    length,  # first: those below divide by the number of words
    word_length,
    symbols,
    bullet_lines,
    ellipsis_lines,
    alphabetic_words,
    duplicate_lines,
    repeated_n_grams,
)


def top_n_gram_fraction(document: Measured, n: int) -> float:
    """Characters of the most frequent n-gram (words joined by one space) times its count / characters of the text.

    Of several equally frequent the longest counts. An n-gram that stands only once repeats nothing: 0.
    """
    counts = Counter(zip(*(document.words[i:] for i in range(n)), strict=False))
    highest = max(counts.values(), default=0)
    if highest < 2:
        return 0.0
    longest = max(sum(map(len, gram)) + n - 1 for gram, count in counts.items() if count == highest)
    return min(1.0, longest * highest / len(document.text))  # occurrences may overlap: "ha ha ha"


def language_drop(language: str, confidence: float, config: FilterConfig) -> Drop | None:
    """Whether the language was asked for. With no languages named all are kept."""
    if not config.languages:
        return None
    if language not in config.languages:
        return Drop("language", f"{language} ({confidence:.2f}), asked for {', '.join(config.languages)}")
    if confidence < config.min_language_confidence:
        detail = f"{language} with {confidence:.2f}, at least {config.min_language_confidence:g} asked"
        return Drop("language_uncertain", detail)
    return None


def stop_word_drop(text: str, language: str, config: FilterConfig) -> Drop | None:
    """Too few distinct stop words; asked of English only, for the list is English."""
    if language != "en":
        return None
    found = STOP_WORDS.intersection(re.findall(r"[a-z]+", text.lower()))
    if len(found) >= config.min_stop_words:
        return None
    return Drop("few_stop_words", f"{len(found)} distinct stop words, at least {config.min_stop_words} asked")


def _share(items: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, items)) / len(items)


def _repeats(lines: Sequence[str]) -> list[str]:
    """Every line that stood before."""
    seen: set[str] = set()
    return [line for line in lines if line in seen or seen.add(line)]  # type: ignore[func-returns-value]


def _above(found: float, bound: float, reason: DropReason, what: str) -> Drop | None:
    return Drop(reason, f"{found:.3f} {what}, at most {bound:g} allowed") if found > bound else None

"""Filters: what a document must be to be kept. Each objection names its reason and what was found.

Quality and repetition are those of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1 and table A1), and, where asked
for, those of C4 (Raffel et al. 2020, JMLR 21/140, section 2.2) and of FineWeb (Penedo et al. 2024, arXiv 2406.17557,
section 3.6). Where the papers leave something open, documents are judged as by datatrove 0.10, the code that FineWeb was
made with. Words are what white space separates; lines and paragraphs (what empty lines separate) are compared without the
white space around them. Empty lines count only where it is asked how lines begin or end. Characters of a document are
counted with its white space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.config import FilterConfig, FineWebConfig
from pipelines.data.document import DropReason

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data.kernels.tokens import Lines, Words

Bools = NDArray[np.bool_]
Numbers = NDArray[Any]


SENTENCE_END = r"(?m)[.?!]+[\"')\]”’]*(?:\s|$)|\"$"
"""Marks that end a sentence, quotes and brackets behind them, white space; C4's own code asked a trained splitter."""


class Drop(NamedTuple):
    reason: DropReason
    detail: str


class Objection(NamedTuple):
    """One rule's answer for all documents of a batch."""

    reason: DropReason
    holds: Bools
    """True for the documents that it concerns."""
    detail: Callable[[int], str]
    """What was found in the document of that index."""


@dataclass(frozen=True)
class Measured:
    """What several filters look at, taken from the texts once."""

    texts: pa.Array
    words: Words
    lines: Lines
    undecided: Bools
    """Documents that nothing was found against so far; what costs more is measured for them alone."""

    @property
    def num_characters(self) -> Numbers:
        return self.words.num_characters

    @property
    def num_words(self) -> Numbers:
        return np.diff(self.words.pieces.bounds)

    @property
    def num_lines(self) -> Numbers:
        """Without the empty ones."""
        return np.diff(self.lines.pieces.bounds)


Filter = Callable[[Measured, FilterConfig], Iterator[Objection]]


def measure(texts: pa.Array, config: FilterConfig) -> Measured:
    from pipelines.data.kernels import tokens
    from pipelines.data.kernels.characters import buffers

    column = buffers(texts)
    short = config.fineweb.short_line_characters if config.fineweb else 0
    return Measured(texts, tokens.words(column), tokens.lines(column, short), np.ones(len(texts), np.bool_))


def cheap_drops(texts: pa.Array, config: FilterConfig) -> dict[int, Drop]:
    """The first objection of the filters that need no language, by the document's index."""
    measured = measure(texts, config)
    drops: dict[int, Drop] = {}
    for check in CHEAP_FILTERS:
        for objection in check(measured, config):
            for i in np.flatnonzero(objection.holds & measured.undecided).tolist():
                drops[i] = Drop(objection.reason, objection.detail(i))
                measured.undecided[i] = False
    return drops


def length(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    count = document.num_words
    yield Objection("empty", count == 0, lambda i: "no words")
    yield Objection(
        "too_few_words", count < config.min_words, lambda i: f"{count[i]} words, at least {config.min_words} asked"
    )
    yield Objection(
        "too_many_words", count > config.max_words, lambda i: f"{count[i]} words, at most {config.max_words} allowed"
    )


def word_length(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    mean = _share(document.words.num_word_characters, document.num_words)
    allowed = f"{config.min_mean_word_length:g} to {config.max_mean_word_length:g}"
    outside = (mean < config.min_mean_word_length) | (mean > config.max_mean_word_length)
    yield Objection("mean_word_length", outside, lambda i: f"{mean[i]:.2f} characters a word, {allowed} allowed")


def symbols(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    """Number signs a word, and ellipses a word: each on its own."""
    counts = {"number signs": document.words.num_number_signs, "ellipses": document.words.num_ellipses}
    for name, count in counts.items():
        yield _above(_share(count, document.num_words), config.max_symbol_word_ratio, "symbols", f"{name} a word")


def bullet_lines(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    share = _share(document.lines.num_bullets, document.lines.num_with_empty)
    yield _above(share, config.max_bullet_line_fraction, "bullet_lines", "of the lines begin with a bullet")


def ellipsis_lines(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    share = _share(document.lines.num_ellipses, document.lines.num_with_empty)
    yield _above(share, config.max_ellipsis_line_fraction, "ellipsis_lines", "of the lines end with an ellipsis")


def alphabetic_words(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    share = _share(document.words.num_with_letter, document.num_words)
    yield _below(share, config.min_alphabetic_word_fraction, "few_alphabetic_words", "of the words have a letter")


def duplicate_lines(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    """Lines that stood before in the document: their share of the lines, and of the characters."""
    from pipelines.data.kernels.repetition import repeats

    lines, characters = repeats(document.lines.pieces)
    share, bound = _share(lines, document.num_lines), config.max_duplicate_line_fraction
    yield _above(share, bound, "duplicate_lines", "of the lines repeat an earlier one")
    share, bound = _share(characters, document.num_characters), config.max_duplicate_line_character_fraction
    yield _above(
        share, bound, "duplicate_line_characters", "of the characters stand in lines that repeat an earlier one"
    )


def repeated_n_grams(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    """The share of the characters that stand in the most frequent n-gram of words, and in all repeated ones."""
    from pipelines.data.kernels.repetition import DUPLICATE_SIZES, TOP_SIZES, n_grams

    top, duplicate = n_grams(document.words.pieces, document.undecided)
    for n, characters in zip(TOP_SIZES, top, strict=True):
        share = np.minimum(1.0, _share(characters, document.num_characters))  # they may overlap: "ha ha ha"
        bound = getattr(config, f"max_top_{n}_gram_character_fraction")
        reason: Any = f"repeated_{n}_grams"
        yield _above(share, bound, reason, f"of the characters stand in the most frequent {n}-gram")
    for n, characters in zip(DUPLICATE_SIZES, duplicate, strict=True):
        share = _share(characters, document.num_characters)
        bound = config.max_duplicate_n_gram_character_fractions[n - DUPLICATE_SIZES[0]]
        reason = f"duplicate_{n}_grams"
        yield _above(share, bound, reason, f"of the characters stand in {n}-grams that stood before")


def duplicate_paragraphs(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    """As for lines. A text without an empty line is one paragraph."""
    from pipelines.data.kernels.repetition import repeats

    paragraphs, characters = repeats(document.lines.paragraphs)
    share = _share(paragraphs, np.diff(document.lines.paragraphs.bounds))
    bound = config.max_duplicate_paragraph_fraction
    yield _above(share, bound, "duplicate_paragraphs", "of the paragraphs repeat an earlier one")
    share, bound = _share(characters, document.num_characters), config.max_duplicate_paragraph_character_fraction
    what = "of the characters stand in paragraphs that repeat an earlier one"
    yield _above(share, bound, "duplicate_paragraph_characters", what)


def c4(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    """C4's rules on pages; only where `filters.c4` is given. What its code leaves out of lines is left to the rule `c4_lines`."""
    if config.c4 is None:
        return
    import pyarrow.compute as pc

    from pipelines.data.kernels.c4 import sentence_ends
    from pipelines.data.kernels.characters import buffers

    if config.c4.drop_lorem_ipsum:
        found = pc.match_substring(document.texts, "lorem ipsum", ignore_case=True)
        yield Objection("lorem_ipsum", np.asarray(found), lambda i: "placeholder text")
    if config.c4.drop_curly_brackets:
        found = pc.match_substring(document.texts, "{")
        yield Objection("curly_bracket", np.asarray(found), lambda i: "a curly bracket")
    asked = config.c4.min_sentences
    count = sentence_ends(buffers(document.texts), asked)  # at least so many: most texts have enough of the plain ones
    few = count < asked
    count[few] = np.asarray(pc.count_substring_regex(document.texts.filter(few), SENTENCE_END))
    yield Objection("too_few_sentences", count < asked, lambda i: f"{count[i]} sentences, at least {asked} asked")


def fineweb(document: Measured, config: FilterConfig) -> Iterator[Objection]:
    """FineWeb's own three rules and the list rule of its code; only where `filters.fineweb` is given."""
    if config.fineweb:
        yield from _fineweb(document, config.fineweb)


def _fineweb(document: Measured, config: FineWebConfig) -> Iterator[Objection]:
    from pipelines.data.kernels.repetition import repeats

    share = _share(document.lines.num_terminated, document.num_lines)
    bound = config.min_terminated_line_fraction
    yield _below(share, bound, "unterminated_lines", "of the lines end with a terminal mark")
    share, bound = _share(document.lines.num_short, document.num_lines), config.max_short_line_fraction
    yield _above(share, bound, "short_lines", f"of the lines have at most {config.short_line_characters} characters")
    _, characters = repeats(document.lines.pieces)
    share = _share(characters, document.num_characters - document.lines.num_newlines)
    bound = config.max_duplicate_line_character_fraction
    what = "of the characters stand in lines that repeat an earlier one (FineWeb)"
    yield _above(share, bound, "duplicate_line_characters", what)
    share, bound = _share(document.lines.num_newlines, document.num_words), config.max_newlines_per_word
    yield _above(share, bound, "list_like", "line breaks a word")


CHEAP_FILTERS: tuple[Filter, ...] = (
    length,  # first: those below divide by the number of words
    word_length,
    symbols,
    bullet_lines,
    ellipsis_lines,
    alphabetic_words,
    duplicate_paragraphs,
    duplicate_lines,
    c4,
    fineweb,
    repeated_n_grams,  # last: it costs most
)


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


def stop_word_drops(texts: pa.Array, config: FilterConfig) -> dict[int, Drop]:
    """Too few distinct stop words, by index; to be asked of English texts only, for the list is English."""
    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.spelling import count_stop_words

    asked = config.min_stop_words
    found = count_stop_words(buffers(texts), asked)
    return {
        i: Drop("few_stop_words", f"{found[i]} distinct stop words, at least {asked} asked")
        for i in np.flatnonzero(found < asked).tolist()
    }


def _share(part: Numbers, whole: Numbers) -> Numbers:
    """0 for a document without words: it is excluded as empty before anything else is asked."""
    return part / np.maximum(whole, 1)


def _above(found: Numbers, bound: float, reason: DropReason, what: str) -> Objection:
    return Objection(reason, found > bound, lambda i: f"{found[i]:.3f} {what}, at most {bound:g} allowed")


def _below(found: Numbers, bound: float, reason: DropReason, what: str) -> Objection:
    return Objection(reason, found < bound, lambda i: f"{found[i]:.3f} {what}, at least {bound:g} asked")

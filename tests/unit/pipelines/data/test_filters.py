from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import FilterConfig
from pipelines.data.filters import Drop, cheap_drops, language_drop, stop_word_drops

ANY_FINEWEB = {
    "min_terminated_line_fraction": 0,
    "max_duplicate_line_character_fraction": 1,
    "max_short_line_fraction": 1,
    "max_newlines_per_word": 9,
}
OPEN: dict[str, Any] = {
    "min_words": 0,
    "min_mean_word_length": 0,
    "max_mean_word_length": 1000,
    "max_symbol_word_ratio": 1000,
    "max_bullet_line_fraction": 1,
    "max_ellipsis_line_fraction": 1,
    "min_alphabetic_word_fraction": 0,
    "max_duplicate_line_fraction": 1,
    "max_duplicate_line_character_fraction": 1,
    "max_top_2_gram_character_fraction": 1,
    "max_top_3_gram_character_fraction": 1,
    "max_top_4_gram_character_fraction": 1,
    "max_duplicate_paragraph_fraction": 1,
    "max_duplicate_paragraph_character_fraction": 1,
    "max_duplicate_n_gram_character_fractions": (1,) * 6,
}
"""Lets everything through; each case below tightens one field."""


def cheap_drop(text: str, config: FilterConfig) -> Drop | None:
    return cheap_drops(pa.array([text], pa.large_string()), config).get(0)


@pytest.mark.parametrize(
    ("text", "bound", "reason"),
    [
        ("", {}, "empty"),
        (" \n ", {}, "empty"),
        ("one two three", {"min_words": 3}, None),
        ("one two three", {"min_words": 4}, "too_few_words"),
        ("one two three", {"max_words": 3}, None),
        ("one two three", {"max_words": 2}, "too_many_words"),
        ("ab cdef", {"min_mean_word_length": 3}, None),  # (2 + 4) / 2 = 3
        ("ab cde", {"min_mean_word_length": 3}, "mean_word_length"),  # 2.5
        ("ab cdef", {"max_mean_word_length": 3}, None),
        ("ab cdefg", {"max_mean_word_length": 3}, "mean_word_length"),  # 3.5
        ("# b c d", {"max_symbol_word_ratio": 0.25}, None),  # 1 / 4
        ("## b c d", {"max_symbol_word_ratio": 0.25}, "symbols"),  # 2 / 4
        ("a... b… c d", {"max_symbol_word_ratio": 0.25}, "symbols"),
        ("a... b# c d", {"max_symbol_word_ratio": 0.25}, None),  # each symbol on its own
        ("- a\n• b\nc\nd", {"max_bullet_line_fraction": 0.5}, None),
        ("- a\n• b\n  -c\nd", {"max_bullet_line_fraction": 0.5}, "bullet_lines"),  # 3 / 4
        ("* a\n▪ b\nc", {"max_bullet_line_fraction": 0}, None),  # not datatrove's bullets
        ("a...\n\nb…\nc\n", {"max_ellipsis_line_fraction": 0.5}, None),  # 2 / 4, the empty line counts
        ("a...\r\n\r\nb…\r\nc", {"max_ellipsis_line_fraction": 0.49}, "ellipsis_lines"),
        ("a...\nb…\nc...\nd", {"max_ellipsis_line_fraction": 0.5}, "ellipsis_lines"),
        ("a 1 b2 ++ é", {"min_alphabetic_word_fraction": 0.6}, None),  # a, b2, é of 5
        ("a 1 b2 ++ --", {"min_alphabetic_word_fraction": 0.6}, "few_alphabetic_words"),  # 2 / 5
        ("x\ny\nx\nz", {"max_duplicate_line_fraction": 0.25}, None),  # 1 of 4
        ("x\ny\nx\ny", {"max_duplicate_line_fraction": 0.25}, "duplicate_lines"),  # 2 of 4
        ("long line\na\nlong line", {"max_duplicate_line_character_fraction": 0.43}, None),  # 9 of 21: 0.4286
        ("long line\na\nlong line", {"max_duplicate_line_character_fraction": 0.42}, "duplicate_line_characters"),
        ("a b a b c", {"max_top_2_gram_character_fraction": 0.67}, None),  # "a b" 3 x 2 / 9 = 0.667
        ("a b a b c", {"max_top_2_gram_character_fraction": 0.66}, "repeated_2_grams"),
        ("a b c a b c d", {"max_top_3_gram_character_fraction": 0.7}, "repeated_3_grams"),  # 5 x 2 / 13 = 0.769
        ("a b c d a b c d e", {"max_top_4_gram_character_fraction": 0.8}, "repeated_4_grams"),  # 7 x 2 / 17 = 0.82
        ("a b c d e f", {"max_top_2_gram_character_fraction": 0}, None),  # nothing repeats
        (
            "aa b aa b cccc d cccc d",
            {"max_top_2_gram_character_fraction": 0.35},
            None,
        ),  # of two as frequent the first: 4 x 2 / 23 = 0.348
        ("aa b aa b cccc d cccc d", {"max_top_2_gram_character_fraction": 0.34}, "repeated_2_grams"),
        ("a b c d e\n" * 3, {"max_duplicate_n_gram_character_fractions": (0.34, *[1] * 5)}, None),  # 5 x 2 / 30
        ("a b c d e\n" * 3, {"max_duplicate_n_gram_character_fractions": (0.33, *[1] * 5)}, "duplicate_5_grams"),
        ("a b c d e f\n" * 2, {"max_duplicate_n_gram_character_fractions": (1, 0.2, *[1] * 4)}, "duplicate_6_grams"),
        ("x\n\ny\n\nx", {"max_duplicate_paragraph_fraction": 0.34}, None),  # 1 of 3
        ("x\n\ny\n\nx", {"max_duplicate_paragraph_fraction": 0.33}, "duplicate_paragraphs"),
        ("x\ny\nx", {"max_duplicate_paragraph_fraction": 0}, None),  # one paragraph
        ("xx\n\ny\n\nxx", {"max_duplicate_paragraph_character_fraction": 0.2}, "duplicate_paragraph_characters"),
        ("a.\nb\nc\nd", {"fineweb": {**ANY_FINEWEB, "min_terminated_line_fraction": 0.25}}, None),  # 1 of 4
        ("a.\nb\nc\nd", {"fineweb": {**ANY_FINEWEB, "min_terminated_line_fraction": 0.26}}, "unterminated_lines"),
        (
            "one two.\nb",
            {"fineweb": {**ANY_FINEWEB, "max_short_line_fraction": 0.4, "short_line_characters": 3}},
            "short_lines",
        ),
        (
            "ab\nab\ncd",
            {"fineweb": {**ANY_FINEWEB, "max_duplicate_line_character_fraction": 0.3}},
            "duplicate_line_characters",
        ),
        ("a\n\nb\nc d", {"fineweb": {**ANY_FINEWEB, "max_newlines_per_word": 0.75}}, None),  # 3 of 4
        ("a\n\nb\nc d", {"fineweb": {**ANY_FINEWEB, "max_newlines_per_word": 0.7}}, "list_like"),
    ],
)
def test_bound_decides(text: str, bound: dict[str, Any], reason: str | None) -> None:
    drop = cheap_drop(text, FilterConfig(**{**OPEN, **bound}))
    assert (drop.reason if drop else None) == reason


def test_occurrences_that_overlap_are_no_more_than_the_whole_text() -> None:
    drop = cheap_drop("ha ha ha ha", FilterConfig(**{**OPEN, "max_top_2_gram_character_fraction": 0.9}))  # 5 x 3 / 11
    assert drop is not None
    assert drop.detail.startswith("1.000 of the characters")


def test_first_objection_wins_and_says_what_was_found() -> None:
    drop = cheap_drop("# # #", FilterConfig())
    assert drop is not None
    assert drop.reason == "too_few_words"
    assert drop.detail == "3 words, at least 50 asked"


@pytest.mark.parametrize(
    ("language", "confidence", "reason"),
    [("en", 0.99, None), ("en", 0.65, None), ("en", 0.64, "language_uncertain"), ("de", 0.99, "language")],
)
def test_language_asked_for(language: str, confidence: float, reason: str | None) -> None:
    drop = language_drop(language, confidence, FilterConfig(languages=("en", "fr")))
    assert (drop.reason if drop else None) == reason


def test_no_language_asked_for_keeps_all() -> None:
    assert language_drop("de", 0.1, FilterConfig()) is None


def test_stop_words() -> None:
    texts = ["The end of it", "The the the", "(With) that, so"]  # punctuation and case do not hide them
    drops = stop_word_drops(pa.array(texts, pa.large_string()), FilterConfig())
    assert drops == {1: Drop("few_stop_words", "1 distinct stop words, at least 2 asked")}

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import FilterConfig
from pipelines.data.filters import cheap_drop, language_drop, measure, stop_word_drop, top_n_gram_fraction

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
}
"""Lets everything through; each case below tightens one field."""


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
        ("- a\n• b\n  * c\nd", {"max_bullet_line_fraction": 0.5}, "bullet_lines"),  # 3 / 4
        ("-a\n--b\nc", {"max_bullet_line_fraction": 0.3}, None),  # no space: no bullet
        ("a...\n\nb…\nc\nd", {"max_ellipsis_line_fraction": 0.5}, None),  # empty lines do not count
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
    ],
)
def test_bound_decides(text: str, bound: dict[str, Any], reason: str | None) -> None:
    drop = cheap_drop(text, FilterConfig(**{**OPEN, **bound}))
    assert (drop.reason if drop else None) == reason


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("a b a b c", 2, 6 / 9),
        ("one two", 3, 0.0),  # too short for a 3-gram
        ("aa b aa b cccc d cccc d", 2, 12 / 23),  # of two that stand twice the longer: 6 x 2
        ("ha ha ha ha", 2, 1.0),  # 5 x 3 / 11 in overlapping places
    ],
)
def test_top_n_gram_fraction(text: str, n: int, expected: float) -> None:
    assert top_n_gram_fraction(measure(text), n) == pytest.approx(expected)


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


@pytest.mark.parametrize(
    ("text", "language", "dropped"),
    [
        ("The end of it", "en", False),  # the, of
        ("The the the", "en", True),  # one distinct word
        ("(With) that, so", "en", False),  # punctuation and case do not hide them
        ("Der die das", "de", False),  # the list is English
    ],
)
def test_stop_words(text: str, language: str, dropped: bool) -> None:
    assert (stop_word_drop(text, language, FilterConfig()) is not None) == dropped


@settings(deadline=None)
@given(st.text(alphabet="ab #.…-•\n1", max_size=200))
def test_filters_answer_for_any_text(text: str) -> None:
    drop = cheap_drop(text, FilterConfig(**{**OPEN, "max_top_2_gram_character_fraction": 0.1}))
    if not text.split():
        assert drop is not None
        assert drop.reason == "empty"
    assert drop is None or drop.reason in ("empty", "repeated_2_grams")

"""White space and hints against RE2 over every text."""

from __future__ import annotations

import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import RuleConfig
from pipelines.data.rules import PATTERNS, compile_rules
from tests.unit.pipelines.data.reference import WHITE_SPACE
from tests.unit.pipelines.data.strategies import column, columns

blank = st.text(alphabet="\n\r\t \xa0\u3000\u2003\x0b\x0c\x1c\x85\u2028ax.é", max_size=20)
linked = st.lists(
    st.sampled_from(
        [
            *("https://", "HTTPſ://", "http:/", "ftp://x", "wWw.", "ww.", "www", "://", "//", ":", "a.b/c", ")", "<"),
            *("[", "]", "[1]", "[2, 3]", "[citation needed]", "[note 4]", "[0]", "x", ",", " ", "\n", "é", "。"),
        ]
    ),
    max_size=12,
).map("".join)


def by_re2(texts: list[str], replacements: tuple[tuple[str, str], ...]) -> list[str]:
    array = column(texts)
    for pattern, replacement in replacements:
        array = pc.replace_substring_regex(array, pattern=pattern, replacement=replacement)
    found: list[str] = array.to_pylist()
    return found


def by_rule(texts: list[str], name: str) -> list[str]:
    (rule,) = compile_rules([RuleConfig(name=name)])
    found: list[str] = rule.apply(column(texts)).to_pylist()
    return found


@settings(max_examples=400, deadline=None)
@given(st.one_of(columns, st.lists(blank, max_size=8)))
def test_white_space(texts: list[str]) -> None:
    assert by_rule(texts, "collapse_white_space") == by_re2(texts, WHITE_SPACE)


@pytest.mark.parametrize("name", list(PATTERNS))
@settings(max_examples=200, deadline=None)
@given(texts=st.one_of(columns, st.lists(linked, max_size=6)))
def test_no_text_that_an_expression_matches_is_passed_over(name: str, texts: list[str]) -> None:
    assert by_rule(texts, name) == by_re2(texts, PATTERNS[name])

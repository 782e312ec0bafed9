from __future__ import annotations

from pydoc_data.topics import topics

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import C4Config, FilterConfig, RuleConfig
from pipelines.data.filters import cheap_drops
from pipelines.data.rules import compile_rules
from tests.unit.pipelines.data import reference
from tests.unit.pipelines.data.strategies import column, texts
from tests.unit.pipelines.data.test_filters import OPEN

PARTS = (
    *(
        "one two three four five.",
        "who, what, when, where, why?",
        'she said "yes and no and so"',
        "he went on and on ...",
    ),
    *(
        "Lorem Ipsum",
        "JavaScript",
        "{",
        "Privacy Policy",
        "we use cookies",
        "USE OF COOKIES",
        "javascrıpt",
        "cookie",
        "x" * 1_001,
    ),
    *(". ", "! ", '." ', "\n", "\n", "\r\n", "\u2028", " a b c d e "),
)
pages = st.lists(st.one_of(st.sampled_from(PARTS), st.sampled_from(PARTS), texts), max_size=12).map("".join)


def decided(pages: list[str]) -> list[tuple[str | None, str]]:
    """By the rule and the filters together: the reason, and what is left of the pages that are kept."""
    (rule,) = compile_rules([RuleConfig(name="c4_lines")])
    left = rule.apply(column(pages))
    drops = cheap_drops(left, FilterConfig(**OPEN, c4=C4Config()))
    reasons = [drops[i].reason if i in drops else None for i in range(len(pages))]
    return list(zip(reasons, left.to_pylist(), strict=True))


def expected(page: str) -> tuple[str | None, str]:
    reason, left = reference.c4_page(page)
    return ("empty", "") if reason == "too_few_sentences" and not left else (reason, left)


def check(pages: list[str]) -> list[str | None]:
    found = decided(pages)
    for page, (reason, left) in zip(pages, found, strict=True):
        wanted, text = expected(page)
        assert reason == wanted, page
        assert left == text or reason in ("lorem_ipsum", "curly_bracket"), page
    return [reason for reason, _ in found]


@settings(max_examples=300, deadline=None)
@given(st.lists(pages, max_size=4))
def test_lines_and_pages_as_in_the_published_code(pages: list[str]) -> None:
    check(pages)


def test_real_text() -> None:
    assert {"curly_bracket", "too_few_sentences", None} <= set(check(list(topics.values())))


def test_line_rule_says_nothing_of_empty_columns() -> None:
    (rule,) = compile_rules([RuleConfig(name="c4_lines")])
    assert rule.apply(pa.array([], pa.large_string())).to_pylist() == []

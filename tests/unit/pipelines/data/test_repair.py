"""The column's repair against ftfy on each text."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ftfy import TextFixerConfig, fix_and_explain
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.kernels import mojibake, repair
from pipelines.data.kernels.characters import buffers
from pipelines.data.kernels.mojibake import is_broken
from pipelines.data.mend import fix_line
from pipelines.data.repair import TRANSLATION, repair_column, repair_unicode
from tests.unit.pipelines.data.strategies import column, columns

ALL = "".join(map(chr, (*range(0x80, 0xD800), *range(0xE000, 0x10000))))
GROUPS = ["".join(re.findall(f"[{letters}]", ALL)) for letters in MOJIBAKE_CATEGORIES.values()]
LITERALS = "ÂÃÎÐØÙàá°²³×√≈‚ÄâówвЂβ€ā€ŒœГўВ.ŸŠ®°µ»ΒΓΞΟВГРС"
clue = st.one_of(*map(st.sampled_from, GROUPS), st.sampled_from(LITERALS), st.sampled_from("aZ e.\n ,1<\xad"))
broken = st.lists(clue, max_size=12).map("".join)
encoding = st.sampled_from(["latin-1", "windows-1252", "windows-1251", "windows-1250", "windows-1253", "mac-roman"])
spelt = st.sampled_from(
    ["&amp;", "&#233;", "&EACUTE;", "&a", "&amp", "＆ａｍｐ；", "&am\u200bp;", "e\u200b\u0301", "\x1b[1m", "\ufb01"]
)


@st.composite
def misread(draw: st.DrawFn) -> str:
    """Text that was written as UTF-8 and read as something else."""
    text = draw(st.text(alphabet="aé ñüßłşčяжЯŒœ’“”—…€αΩ中あ\u3000，", max_size=10))
    return text.encode().decode(draw(encoding), "replace")


lined = st.lists(
    st.one_of(
        broken,
        misread(),
        spelt,
        st.sampled_from(["\n", "\r\n", "\r", "<", "&lt;", "Ã ", "a", "\u2028", "\x85", "x\n\n"]),
    ),
    max_size=12,
).map("".join)


def repaired(texts: list[str]) -> list[str]:
    found: list[str] = repair_column(column(texts)).to_pylist()
    return found


@settings(max_examples=300, deadline=None)
@given(columns)
def test_any_text(texts: list[str]) -> None:
    assert repaired(texts) == list(map(repair_unicode, texts))


@settings(max_examples=600, deadline=None)
@given(st.lists(st.lists(st.one_of(broken, misread(), spelt), max_size=4).map("".join), max_size=4))
def test_broken_text(texts: list[str]) -> None:
    assert repaired(texts) == list(map(repair_unicode, texts))


@settings(max_examples=600, deadline=None)
@given(st.lists(lined, max_size=4))
def test_lines_some_of_which_are_broken(texts: list[str]) -> None:
    assert repaired(texts) == list(map(repair_unicode, texts))


@settings(max_examples=600, deadline=None)
@given(lined, st.booleans())
def test_a_line_is_mended_as_by_ftfy(text: str, entities: bool) -> None:
    config = TextFixerConfig(unescape_html=entities, uncurl_quotes=False, normalization="NFC")
    assert fix_line(text, entities=entities) == fix_and_explain(text, config).text


@settings(max_examples=600, deadline=None)
@given(st.lists(st.one_of(lined, broken), max_size=4))
def test_the_automaton_finds_what_the_expression_does(texts: list[str]) -> None:
    assert list(map(is_broken, texts)) == list(map(is_bad, texts))
    by_line = [any(is_bad(line) for line in re.findall(r"[^\n]*\n|[^\n]+", text)) for text in texts]
    assert mojibake.broken(buffers(column(texts))).tolist() == by_line


def test_every_pair_and_many_triples_that_ftfy_minds_are_seen() -> None:
    rng = random.Random(0)
    clues = sorted({*"".join(GROUPS), *LITERALS})
    pairs = [a + b for a in clues for b in clues]
    frame = [*"aZé ’.1°€", *rng.sample(clues, 30)]
    triples = [a + pair for pair in rng.sample(pairs, 5_000) for a in frame]
    triples += [pair + b for pair in rng.sample(pairs, 5_000) for b in frame]
    every = [*pairs, *triples]
    bad = list(map(is_bad, every))
    assert mojibake.broken(buffers(column(every))).tolist() == bad
    texts = [text for text, holds in zip(every, bad, strict=True) if holds]
    flags = repair.flags(buffers(column(texts)), TRANSLATION)
    unseen = flags & (repair.SUSPECT | repair.COMPLEX) == 0
    assert [text for text, missed in zip(texts, unseen, strict=True) if missed] == []
    assert len(texts) > 50_000


@pytest.mark.parametrize("point", [0x80, 0xE000, 0xF8FF, 0x1F600, 0xE0041, 0x10FFFF])
def test_single_characters(point: int) -> None:
    texts = [f"a{chr(c)}b" for c in range(point, min(point + 0x3000, 0x110000)) if not 0xD800 <= c < 0xE000]
    assert repaired(texts) == list(map(repair_unicode, texts))


def test_real_text(shared_data: Callable[[str], Path]) -> None:
    files = sorted(shared_data("langid_lingua").glob("sentences*/*.txt"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    assert repaired(texts) == list(map(repair_unicode, texts))
    ordinary = repair.flags(buffers(column(texts)), TRANSLATION) & repair.COMPLEX == 0
    assert ordinary.sum() > len(texts) / 2

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config

from pipelines import compiled
from pipelines.config import FilterConfig, FineWebConfig
from pipelines.data.filters import cheap_drops
from pipelines.data.kernels import characters, repetition, signatures, spelling, tokens
from pipelines.data.kernels.characters import buffers
from tests.unit.pipelines.data import reference
from tests.unit.pipelines.data.strategies import column, columns

every_text = settings(max_examples=200, deadline=None)


def split(pieces: tokens.Pieces) -> list[tuple[list[int], list[int]]]:
    """Hashes and lengths, by text."""
    return [(pieces.hashes[a:b].tolist(), pieces.lengths[a:b].tolist()) for a, b in pairwise(pieces.bounds)]


def same_pieces(found: tokens.Pieces, expected: list[list[str]]) -> None:
    """As many, of the same lengths, and of equal hash just where they are equal."""
    known: dict[int, str] = {}
    for (hashes, lengths), items in zip(split(found), expected, strict=True):
        assert lengths == [len(item) for item in items]
        assert all(known.setdefault(h, item) == item for h, item in zip(hashes, items, strict=True))
    assert len(known) == len(set(known.values()))


def test_classes_are_those_of_python() -> None:
    for point in range(0x110000):
        if not 0xD800 <= point < 0xE000:
            character, bits = chr(point), int(characters.classes()[point])
            assert bool(bits & characters.SPACE) == character.isspace(), hex(point)
            assert bool(bits & characters.ALPHA) == character.isalpha(), hex(point)
            assert bool(bits & characters.BREAK) == (len(f"a{character}b".splitlines()) == 2), hex(point)
            assert (characters.folded()[point] > 0) == character.isalnum(), hex(point)
            assert (characters.folded()[point] < 0) == (unicodedata.category(character)[0] == "M"), hex(point)


@every_text
@given(columns)
def test_words(texts: list[str]) -> None:
    found = tokens.words(buffers(column(texts)))
    words = [text.split() for text in texts]
    same_pieces(found.pieces, words)
    assert found.num_characters.tolist() == list(map(len, texts))
    assert found.num_word_characters.tolist() == [sum(map(len, w)) for w in words]
    assert found.num_with_letter.tolist() == [sum(any(map(str.isalpha, word)) for word in w) for w in words]
    assert found.num_number_signs.tolist() == [text.count("#") for text in texts]
    assert found.num_ellipses.tolist() == [text.count("...") + text.count("…") for text in texts]


def ends_in_ellipsis(line: str) -> bool:
    return line.endswith(reference.ELLIPSES)


@every_text
@given(columns, st.integers(0, 6))
def test_lines_and_paragraphs(texts: list[str], short: int) -> None:
    found = tokens.lines(buffers(column(texts)), short)
    lines = [reference.lines_of(text) for text in texts]
    same_pieces(found.pieces, lines)
    same_pieces(found.paragraphs, [reference.paragraphs_of(text) for text in texts])
    assert found.num_bullets.tolist() == [sum(map(reference.begins_with_bullet, found)) for found in lines]
    assert found.num_ellipses.tolist() == [sum(map(ends_in_ellipsis, found)) for found in lines]
    assert found.num_terminated.tolist() == [
        sum(line.endswith(tuple(characters.terminals())) for line in found) for found in lines
    ]
    assert found.num_short.tolist() == [sum(len(line) <= short for line in found) for found in lines]
    assert found.num_newlines.tolist() == [text.count("\n") for text in texts]
    assert found.num_with_empty.tolist() == [len(text.splitlines()) for text in texts]


@every_text
@given(columns)
def test_plain_words_and_stop_words(texts: list[str]) -> None:
    hashes, bounds = tokens.plain_words(buffers(column(texts)))
    words = [reference.plain_words(text) for text in texts]
    same_pieces(tokens.Pieces(hashes, np.array([len(w) for each in words for w in each], np.int32), bounds), words)
    stop = [len(reference.stop_words(text)) for text in texts]
    assert spelling.count_stop_words(buffers(column(texts)), 99).tolist() == stop
    assert spelling.count_stop_words(buffers(column(texts)), 2).tolist() == [min(2, num) for num in stop]


@every_text
@given(columns)
def test_single_spaced(texts: list[str]) -> None:
    data, offsets = spelling.single_spaced(buffers(column(texts)))
    found = [bytes(data[a:b]).decode() for a, b in pairwise(offsets)]
    assert found == [" ".join(text.split()) for text in texts]


@every_text
@given(st.lists(st.text(alphabet="abc", max_size=60).map(" ".join), max_size=5))
def test_repetition(texts: list[str]) -> None:
    pieces = tokens.words(buffers(column(texts))).pieces
    words = [text.split() for text in texts]
    again = [reference.repeats(w) for w in words]
    counts, sizes = repetition.repeats(pieces)
    assert counts.tolist() == list(map(len, again))
    assert sizes.tolist() == [sum(map(len, items)) for items in again]
    top, duplicate = repetition.n_grams(pieces, np.ones(len(texts), np.bool_))
    for n, sums in zip(repetition.TOP_SIZES, top.tolist(), strict=True):
        assert sums == [reference.top_n_gram_characters(w, n) for w in words]
    for n, sums in zip(repetition.DUPLICATE_SIZES, duplicate.tolist(), strict=True):
        assert sums == [reference.duplicate_n_gram_characters(w, n) for w in words]


def test_order_of_words_counts_in_n_grams() -> None:
    pieces = tokens.words(buffers(column(["a b b a"]))).pieces
    assert repetition.n_grams(pieces, np.ones(1, np.bool_))[0].tolist() == [[0], [0], [0]]


def test_only_the_chosen_texts_are_looked_at() -> None:
    pieces = tokens.words(buffers(column(["a b a b", "a b a b"]))).pieces
    assert repetition.n_grams(pieces, np.array([False, True]))[0].tolist() == [[0, 6], [0, 0], [0, 0]]


BOUNDED = (
    *("bullet_line", "ellipsis_line", "duplicate_line", "duplicate_line_character"),
    *("duplicate_paragraph", "duplicate_paragraph_character"),
    *(f"top_{n}_gram_character" for n in (2, 3, 4)),
)
strict = st.fixed_dictionaries(
    {
        "min_words": st.integers(0, 3),
        "min_mean_word_length": st.sampled_from([0.0, 1.5]),
        "max_symbol_word_ratio": st.sampled_from([0.1, 9.0]),
        "min_alphabetic_word_fraction": st.sampled_from([0.0, 0.5]),
        **{f"max_{name}_fraction": st.sampled_from([0.0, 0.1, 0.3, 1.0]) for name in BOUNDED},
        "max_duplicate_n_gram_character_fractions": st.tuples(*[st.sampled_from([0.0, 0.2, 1.0])] * 6),
        "fineweb": st.none() | st.builds(FineWebConfig, short_line_characters=st.integers(0, 5)),
    }
)


@settings(max_examples=400, deadline=None)
@given(columns, strict)
def test_filters_decide_as_the_plain_rules_do(texts: list[str], bounds: dict[str, Any]) -> None:
    config = FilterConfig(**bounds)
    drops = cheap_drops(column(texts), config)
    found = [drops[i].reason if i in drops else None for i in range(len(texts))]
    assert found == [reference.first_objection(text, config) for text in texts]


@pytest.mark.parametrize("config", [FilterConfig(), FilterConfig(fineweb=FineWebConfig())])
def test_filters_decide_as_the_plain_rules_do_on_real_text(config: FilterConfig) -> None:
    texts = [*topics.values(), *("\n".join(text.splitlines()[i::9]) for text in topics.values() for i in range(9))]
    drops = cheap_drops(column(texts), config)
    found = [drops[i].reason if i in drops else None for i in range(len(texts))]
    assert found == [reference.first_objection(text, config) for text in texts]
    assert len(set(found)) >= 6


def test_filters_decide_as_the_plain_rules_do_in_75_languages(shared_data: Callable[[str], Path]) -> None:
    rng, texts = random.Random(0), []
    for file in sorted(shared_data("langid_lingua").glob("sentences*/*.txt")):
        sentences = file.read_text(encoding="utf-8").splitlines()
        texts += ["\n".join(rng.choices(sentences, k=rng.randint(1, 30))) for _ in range(20)]
    assert len(texts) == 75 * 20
    config = FilterConfig(fineweb=FineWebConfig())
    drops = cheap_drops(column(texts), config)
    found = [drops[i].reason if i in drops else None for i in range(len(texts))]
    assert found == [reference.first_objection(text, config) for text in texts]


def test_signature_is_the_least_of_each_function() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 50, np.uint64)
    found = signatures.signatures(words, np.array([0, 30, 30, 33, 50]), 5, 7)
    a, b = signatures.coefficients(7)
    for row, (first, end) in zip(found, ((0, 30), (30, 30), (30, 33), (33, 50)), strict=True):
        n = min(5, end - first)
        grams = [shingle(words[i : i + n]) for i in range(first, end - n + 1)] if n else []
        values = [[(int(x) * (gram >> 32) + int(y)) % 2**32 for gram in grams] for x, y in zip(a, b, strict=True)]
        assert row.tolist() == [min(each, default=0xFFFFFFFF) for each in values]


def shingle(words: Any) -> int:
    gram = 0
    for word in words:
        gram = (gram + int(word)) % 2**64
        gram = (gram ^ gram >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        gram = (gram ^ gram >> 27) * 0x94D049BB133111EB % 2**64
        gram ^= gram >> 31
    return gram


def stamp_of(folder: Path) -> str:
    sources = [Path(compiled.__file__), *sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def test_kernels_are_compiled_anew_when_any_source_beside_them_changes() -> None:
    here = compiled.BesideSource(test_repetition, __file__).get_source_stamp()
    assert here == stamp_of(Path(__file__).parent)
    assert tokens._words._cache._impl.locator.get_source_stamp() == stamp_of(Path(tokens.__file__).parent) != here


def double(number: int) -> int:
    return 2 * number


def test_kernels_are_kept_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    doubled: Any = compiled.kernel(double)
    assert doubled(2) == 4
    assert list(tmp_path.rglob("*.nbi"))
    assert doubled._cache._impl.locator.get_source_stamp() == stamp_of(Path(__file__).parent)


def test_kernels_work_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise PermissionError

    monkeypatch.setattr("numba.core.caching._CacheLocator.ensure_cache_path", refuse)
    assert compiled.kernel(double)(2) == 4

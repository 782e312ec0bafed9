from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import DedupConfig
from pipelines.data.dedup import Links, band_keys, fingerprints, first_of, keys_of, links
from pipelines.data.kernels.characters import buffers
from pipelines.data.kernels.signatures import signatures
from pipelines.data.kernels.tokens import plain_words
from tests.unit.pipelines.data.reference import plain_words as words_of

CONFIG = DedupConfig()


def jaccard(a: str, b: str, n: int = CONFIG.ngram) -> float:
    """The exact similarity of the sets of word n-grams, the slow way."""
    one, other = (
        {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} for words in (words_of(a), words_of(b))
    )
    return len(one & other) / len(one | other)


def random_text(rng: random.Random, num_words: int) -> list[str]:
    return ["".join(rng.choices("abcdefghij", k=5)) for _ in range(num_words)]


def column(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


def linked(prints: list[bytes], bands: list[bytes], numbers: list[int] | None = None, num_bands: int = 0) -> Links:
    table = pa.table({"fingerprint": pa.array(prints, pa.binary()), "bands": pa.array(bands, pa.binary())})
    keys = keys_of(
        table,
        np.array(range(len(prints)) if numbers is None else numbers, np.int64),
        max(1, num_bands),
        range(num_bands),
        exact=True,
    )
    return links([keys], exact=True)


def first_of_near(bands: list[bytes]) -> list[int]:
    num_bands = max(map(len, bands), default=8) // 8
    return first_of(len(bands), linked([b"0" * 16] * len(bands), bands, num_bands=num_bands).near).tolist()


def first_of_exact(prints: list[bytes]) -> list[int]:
    return first_of(len(prints), linked(prints, [b""] * len(prints)).exact).tolist()


def near(*texts: str) -> list[int]:
    return first_of_near(band_keys(column(*texts), CONFIG))


def test_fingerprint_sees_words_but_not_white_space() -> None:
    one, same, other, empty = fingerprints(column("a  b\n\nc", " a b c ", "A b c", ""))
    assert one == same == xxhash.xxh3_128_digest(b"a b c")
    assert len({one, other, empty}) == 3


def test_texts_of_the_same_shingles_have_the_same_bands() -> None:
    one, same, turned, fewer = band_keys(column("a b c d e f", "A! b c, d e f", "b a c d e f", "a b c"), CONFIG)
    assert one == same
    assert len({one, turned, fewer}) == 3
    assert len(one) == 8 * CONFIG.num_bands


def test_first_of_exact() -> None:
    """Both halves of a fingerprint count."""
    x, y, z, w = b"x" * 16, b"x" * 8 + b"y" * 8, b"z" * 16, b"y" * 8 + b"x" * 8
    assert first_of_exact([x, y, x, y, z, w, w]) == [0, 1, 0, 1, 4, 5, 5]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 12), st.integers(-4, 12)), max_size=12))
def test_the_first_of_a_group_is_its_least_number(pairs: list[tuple[int, int]]) -> None:
    expected = {i: i for i in range(-4, 13)}
    for _ in pairs:
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    found = first_of(13, np.array(pairs, np.int64).reshape(-1, 2).T)
    assert found.tolist() == [expected[i] for i in range(13)]


def test_earlier_documents_come_first_and_are_not_compared_with_each_other() -> None:
    a, b, c = (letter * 16 for letter in (b"a", b"b", b"c"))
    found = linked([a, a, b, b, a, c], [b""] * 6, [-3, -2, -1, 0, 1, 2])
    assert first_of(3, found.exact).tolist() in ([-1, -3, 2], [-1, -2, 2])
    assert linked([a, a], [b""] * 2, [-2, -1]).exact.shape == (2, 0)


def test_near_duplicates_go_to_the_first_even_through_a_chain() -> None:
    rng = random.Random(1)
    words = random_text(rng, 400)
    chain = [list(words)]
    for step in range(1, 4):  # each differs from the one before in 2 % of the words, from the first in up to 6 %
        following = list(chain[-1])
        for i in range(8):
            following[step * 100 + i] = f"changed{step}{i}"
        chain.append(following)
    other = random_text(rng, 400)
    texts = [" ".join(words) for words in (other, *chain)]
    assert near(*texts) == [0, 1, 1, 1, 1]


def test_case_and_punctuation_do_not_hide_a_near_duplicate() -> None:
    text = " ".join(random_text(random.Random(2), 100))
    assert near(text, text.upper().replace(" ", ", ")) == [0, 0]


def test_texts_without_words_stand_alone() -> None:
    assert near("...", "!!!", "") == [0, 1, 2]
    assert first_of_near([]) == []


def test_signature_estimates_the_jaccard_similarity() -> None:
    """The standard error of 1,000 hashes is sqrt(s (1 - s) / 1000) < 0.016; four of them are allowed."""
    rng = random.Random(3)
    words = random_text(rng, 600)
    for num_changed in (0, 5, 20, 60):
        changed = list(words)
        for i in rng.sample(range(600), num_changed):
            changed[i] = "other"
        texts = column(" ".join(words), " ".join(changed))
        a, b = signatures(*plain_words(buffers(texts)), 5, 1_000)
        assert np.mean(a == b) == pytest.approx(jaccard(" ".join(words), " ".join(changed)), abs=0.064)


def test_pairs_are_found_as_the_exact_similarity_says() -> None:
    """Against the slow reference: with 14 bands of 8, s >= 0.9 is missed once in 5e3, s <= 0.3 found once in 1e3."""
    rng = random.Random(4)
    base = random_text(rng, 300)
    texts = [" ".join(base)]
    for share in (0.002, 0.005, 0.01, 0.1, 0.3, 0.6):
        for _ in range(4):
            words = [w if rng.random() > share else "".join(rng.choices("klmnop", k=6)) for w in base]
            texts.append(" ".join(words))
    keys = band_keys(column(*texts), CONFIG)
    checked = {"alike": 0, "different": 0}
    for (i, a), (j, b) in combinations(enumerate(texts), 2):
        together = first_of_near([keys[i], keys[j]]) == [0, 0]
        similarity = jaccard(a, b)
        if similarity >= 0.95:
            checked["alike"] += 1
            assert together, (i, j, similarity)
        elif similarity <= 0.2:
            checked["different"] += 1
            assert not together, (i, j, similarity)
    assert min(checked.values()) >= 10, checked


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_groups_do_not_depend_on_order(kinds: list[int]) -> None:
    keys = [np.array([kind, kind + 100], np.uint64).tobytes() for kind in kinds]
    assert first_of_near(keys) == [kinds.index(kind) for kind in kinds] == first_of_exact([2 * key[:8] for key in keys])


@pytest.mark.parametrize(("size", "num_pairs"), [(100, 5), (1_000, 10)])
def test_finds_the_true_pairs_of_published_articles(
    shared_data: Callable[[str], Path], size: int, num_pairs: int
) -> None:
    folder = shared_data("neardup_minhash")
    lines = (folder / f"articles_{size}.train").read_text().splitlines()
    articles = dict(line.split(" ", 1) for line in lines if line.strip())
    true = {frozenset(line.split()) for line in (folder / f"articles_{size}.truth").read_text().splitlines() if line}
    assert len(true) == num_pairs
    ids = list(articles)
    first = near(*articles.values())
    found = {frozenset((ids[i], ids[leader])) for i, leader in enumerate(first) if i != leader}
    assert found == true

"""Evaluation items in training documents: by planted truth, and against the slow reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.contamination import NGRAMS, Asked, Overlap, of_texts, overlaps, repaired, sought, together
from pipelines.data.kernels.characters import buffers
from pipelines.data.kernels.overlap import places, seen, table
from pipelines.data.kernels.tokens import plain_words as hashed
from tests.unit.pipelines.data.reference import plain_words
from tests.unit.pipelines.data.strategies import column

QUESTION = "Which bird did the miners of the north carry down with them to learn of bad air in time?"
"""19 words: 12 runs of 8, 7 of 13."""
ANSWER = "They carried a caged canary, whose fast breath made it fall silent long before a miner would."
"""17 words."""
OTHER = (
    "Nothing of what is asked stands here, and whoever reads it learns of lamps, of ropes and of pit ponies instead."
)


CAPITAL = Asked("t", "a", "What is the capital of France?", "It is Paris.")


def found(items: list[Asked], documents: list[str]) -> list[Overlap]:
    wanted, prompts, answers = sought(items)
    tables = [one.table for one in wanted]
    ids = pa.array([f"d{number}" for number in range(len(documents))])
    # In two parts, as of two shards.
    half = len(documents) // 2
    parts = (
        of_texts(repaired(column(documents[some])), ids[some], tables) for some in (slice(0, half), slice(half, None))
    )
    return list(overlaps(wanted, together(tables, parts), prompts, answers))


def of(item: Asked, *documents: str) -> Overlap:
    (one,) = found([item], list(documents))
    return one


def test_planted_items_are_found_and_told_with_their_document() -> None:
    items = [Asked("t", "a", QUESTION, ANSWER), Asked("t", "b", f"{OTHER} And then?", "It is lamps.")]
    whole, none = found(items, ["Before. " + QUESTION, OTHER[:60], f"{ANSWER} And behind it."])
    assert [tuple(share) for share in whole.shares] == [(1.0, 1.0), (1.0, 1.0)]
    assert (whole.num_prompt_words, whole.num_answer_words, whole.document) == (19, 17, "d0")
    assert (whole.has_most, whole.has_any) == (True, True)
    assert none.has_most is False  # a beginning of 11 words
    assert none.shares[0].prompt == pytest.approx(4 / 16)
    assert (none.shares[1].prompt, none.has_any) == (0.0, False)


@pytest.mark.parametrize(
    "spelt",
    [
        QUESTION.upper(),
        QUESTION.replace(" ", "\n\n"),
        QUESTION.replace(" ", " -- ").replace("?", "!!"),
        QUESTION.replace("miners", "mi\u00adners"),  # a soft hyphen
        QUESTION.replace("bad air", "bad\u00a0air"),
        f"<{QUESTION.replace(' in time', '-in-time')}>",
    ],
)
def test_spelling_hides_nothing(spelt: str) -> None:
    assert of(Asked("t", "a", QUESTION), OTHER, spelt).shares == ((1.0, None), (1.0, None))


@pytest.mark.parametrize(
    ("item", "document"),
    [
        ("Café, naïve, façade, piñata, über, Ångström, coöperate, señor", "NFD"),
        ("Ⅳ ﬁne ideas of the well-known co-operative, İstanbul's ΣΊΣΥΦΟΣ, rolling on", "upper"),
        ("zero\u200bwidth and l\u00e2\u20ac\u2122esprit, quoted, of nine or more words", "mended"),
    ],
)
def test_unicode_is_that_of_cleaning(item: str, document: str) -> None:
    import unicodedata

    texts = {
        "NFD": unicodedata.normalize("NFD", item),
        "upper": item.replace("ΣΊΣΥΦΟΣ", "σίσυφος").replace("well-known", "WELL KNOWN").replace("fine", "ﬁne"),
        "mended": "zerowidth and l’esprit, quoted, of nine or more words",
    }
    assert of(Asked("t", "a", item), texts[document]).has_most is True


@pytest.mark.parametrize(
    ("item", "document", "shares", "most"),
    [
        # A short answer is looked for behind its prompt, where it reaches into one run of 8 words.
        (Asked("t", "a", QUESTION, "a canary"), f"{QUESTION} A canary!", (1.0, 1.0), True),
        (Asked("t", "a", QUESTION, "a canary"), QUESTION, (1.0, 0.0), True),
        (Asked("t", "a", QUESTION, "a canary"), "learn of bad air in time: a canary", (0.0, 0.5), False),
        (CAPITAL, "what is the capital of france it is paris", (None, 1.0), True),
        (CAPITAL, "it is paris", (None, 0.0), False),
        (Asked("t", "a", "Capital of France?", "Paris"), "capital of france paris", (None, None), None),
        (Asked("t", "a", QUESTION, ANSWER), ANSWER, (0.0, 1.0), True),
        (Asked("t", "a", QUESTION), "", (0.0, None), False),
    ],
)  # fmt: skip
def test_prompt_and_answer_apart(item: Asked, document: str, shares: tuple[float | None, ...], most: bool) -> None:
    told = of(item, document)
    assert tuple(told.shares[0]) == shares
    assert told.has_most is most


@pytest.mark.parametrize(
    ("num", "most", "some"), [(12, False, False), (13, False, True), (15, False, True), (16, True, True)]
)
def test_the_two_rules_at_their_limits(num: int, most: bool, some: bool) -> None:
    """19 words have 12 runs of 8: 16 words have 9 of them (75 %), 15 have 8 (67 %); 13 are one run of 13."""
    told = of(Asked("t", "a", QUESTION), " ".join(QUESTION.split()[:num]))
    assert (told.has_most, told.has_any) == (most, some)


def test_of_nothing_nothing_is_found() -> None:
    assert found([], [OTHER]) == []
    assert of(Asked("t", "a", QUESTION)).document == ""
    assert of(Asked("t", "a", "")).has_most is None


words = st.sampled_from(["a", "b", "c", "Ä", "d,", "e"])
some = st.lists(words, max_size=14).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(some, max_size=5), st.lists(some, max_size=5), st.integers(2, 5), st.integers(0, 3))
def test_runs_are_seen_as_the_slow_reference_says(texts: list[str], items: list[str], ngram: int, fewer: int) -> None:
    min_words = max(1, ngram - fewer)
    asked = hashed(buffers(column(items)))
    runs = table(*asked, ngram, min_words)
    slots, bounds = places(*asked, ngram, min_words, runs)
    where = dict(zip(*(part.tolist() for part in seen(*hashed(buffers(column(texts))), runs)), strict=True))
    for i, item in enumerate(items):
        wanted = plain_words(item)
        n = min(ngram, len(wanted))
        spelt = [wanted[j : j + n] for j in range(len(wanted) - n + 1 if len(wanted) >= min_words else 0)]
        firsts = [next((t for t, text in enumerate(texts) if holds(plain_words(text), run)), None) for run in spelt]
        assert [where.get(slot) for slot in slots[bounds[i] : bounds[i + 1]].tolist()] == firsts


def holds(text: list[str], run: list[str]) -> bool:
    return any(text[j : j + len(run)] == run for j in range(len(text) - len(run) + 1))


def test_planted_problems_of_a_published_set_among_web_pages(shared_data: Callable[[str], Path]) -> None:
    """Every tenth of GSM8K's problems inside a page of C4, with its solution: these are found, and no other."""
    folder, pages = shared_data("gsm8k"), shared_data("llamafactory_pretrain_demo")
    rows = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.open()]
    problems = {row["question"]: row for row in rows if "question" in row}
    items = [Asked("gsm8k", str(i), question) for i, question in enumerate(problems)]
    texts = [row["text"] for file in sorted(pages.glob("*.json*")) for row in read(file)]
    for i, item in enumerate(items[::10]):
        texts[i] = f"{texts[i]}\n{item.prompt.upper()}\n{texts[i]}"
    told = found(items, texts)
    planted = [bool(one.has_most) for one in told]
    assert len(items) > 300
    assert planted == [i % 10 == 0 for i in range(len(items))]
    assert [one.has_any for one in told] == planted
    assert NGRAMS == (8, 13)


def read(file: Path) -> list[dict[str, str]]:
    text = file.read_text()
    rows: list[dict[str, str]] = (
        json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    )
    return rows

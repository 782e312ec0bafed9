"""Documents with the words of an evaluation set, found by planted truth and against the slow reference."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.config import DecontaminateConfig, EvaluationSetConfig
from pipelines.data.decontaminate import contaminated, read_sets
from pipelines.data.kernels.characters import buffers
from pipelines.data.kernels.overlap import hits, table
from pipelines.data.kernels.tokens import plain_words
from pipelines.data.trace import trace
from tests.unit.pipelines.data.reference import first_overlap
from tests.unit.pipelines.data.strategies import column
from tests.unit.pipelines.data.world import TEXTS, config, make

QUESTION = "Which bird did the miners of the north carry down with them to learn of bad air in time?"
LONG = "The lamp that Humphry Davy built in 1815 keeps its flame behind a gauze of fine wire, so that no gas outside catches fire."
ITEMS = [
    {
        "id": "bird",
        "prompt": QUESTION,
        "choices": ["a canary", "a finch that sings before dawn in every tree"],
        "answer": 0,
    },
    {"id": "lamp", "context": {"text": [LONG]}},
    {"prompt": "Why?"},
]


def written(folder: Path, items: list[dict[str, Any]], name: str = "exam.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    content = "".join(json.dumps(item) + "\n" for item in items).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def against(path: Path, **changes: Any) -> DecontaminateConfig:
    return DecontaminateConfig(sets=(EvaluationSetConfig(path=str(path), **changes),))


def found(path: Path, *texts: str, **changes: Any) -> dict[int, str]:
    return contaminated(column(list(texts)), read_sets(against(path, **changes)))


@pytest.mark.parametrize("name", ["exam.jsonl", "exam.jsonl.gz"])
def test_an_item_is_found_however_it_is_spelt_and_a_run_too_short_is_not(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, ITEMS, name)
    words = LONG.split()
    every_twelfth = " ".join("other" if i % 13 == 12 else word for i, word in enumerate(words))
    texts = [
        QUESTION,
        f"Before it. {LONG.upper().replace(' ', chr(10))} Behind it.",
        " ".join(words[:12]),
        " ".join(words[:13]),
        every_twelfth,
        "A finch -- that sings before dawn (in every tree)!",
        "a finch that sings before dawn in every",
        "Why? a canary",
    ]
    assert found(path, *texts) == {
        0: f'{name}#bird: 13 words in characters 0 to 62: "Which bird did the miners of the north carry down with them to"',
        1: f'{name}#lamp: 13 words in characters 11 to 76: "{" ".join(words[:13]).upper()}"',
        3: f'{name}#lamp: 13 words in characters 0 to 65: "{" ".join(words[:13])}"',
        5: f'{name}#bird: 9 words in characters 0 to 48: "A finch -- that sings before dawn (in every tree"',
    }


def test_the_place_is_that_of_the_words_in_the_text(tmp_path: Path) -> None:
    text = f"Ünïcödé 😀 zuerst, {LONG}"
    (told,) = found(written(tmp_path, ITEMS), text).values()
    start, end = told.split("characters ")[1].split(":")[0].split(" to ")
    assert text[int(start) : int(end)] == " ".join(LONG.split()[:13])


def test_fields_and_ids_are_as_the_recipe_names_them(tmp_path: Path) -> None:
    path = written(tmp_path, [{"key": 7, "prompt": QUESTION, "context": LONG}])
    assert list(found(path, QUESTION, LONG, fields=("prompt",), id_field="key")) == [0]
    assert found(path, QUESTION)[0].startswith("exam.jsonl#1: ")
    assert found(path, QUESTION, id_field="key")[0].startswith("exam.jsonl#7: ")


@pytest.mark.parametrize(
    ("content", "where", "remedy"),
    [
        ('{"prompt": "x"\n', "line 1: not JSON", "mend the line"),
        ('{"prompt": "\\ud800"}\n', "line 1: not JSON", "mend the line"),
        ('{"prompt": "x"}\n[1]\n', "line 2: list, not an object", "an object a line"),
        ('{"prompt": "too short"}\n', "no text of 8 words or more in 1 items", "min_words"),
        ('{"question": "x"}\n', "no field prompt", "question"),
    ],
)
def test_a_set_that_cannot_be_read_is_one_message(tmp_path: Path, content: str, where: str, remedy: str) -> None:
    (tmp_path / "exam.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        read_sets(against(tmp_path / "exam.jsonl", fields=("prompt",)))
    assert where in str(caught.value)
    assert remedy in caught.value.remedy


def test_other_files_than_json_lines_and_none_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "exam.txt").write_text(QUESTION)
    with pytest.raises(InputError, match="not JSON lines"):
        read_sets(against(tmp_path / "exam.txt"))
    with pytest.raises(InputError, match="no such file"):
        read_sets(against(tmp_path / "none.jsonl"))


words = st.sampled_from(["a", "b", "c", "Ä", "d,", "e"])
some = st.lists(words, max_size=14).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(some, max_size=5), st.lists(some, max_size=5), st.integers(2, 5), st.integers(0, 3))
def test_as_the_slow_reference_says(texts: list[str], items: list[str], ngram: int, fewer: int) -> None:
    min_words = max(1, ngram - fewer)
    runs = table(*plain_words(buffers(column(items))), ngram, min_words)
    result = hits(*plain_words(buffers(column(texts))), runs)
    for i, text in enumerate(texts):
        told = (int(result.of[i]), int(result.first[i]), int(result.num_words[i])) if result.of[i] >= 0 else None
        assert told == first_overlap(text, items, ngram, min_words)


def test_in_a_cleaning_it_is_off_by_default_and_what_it_finds_is_kept_with_the_item(
    tmp_path: Path, storage: LocalStorage
) -> None:
    exam, docs = written(tmp_path / "exam", ITEMS), tmp_path / "docs"
    written(docs, [{"text": text} for text in [*TEXTS[:4], QUESTION, f"{TEXTS[5]} {LONG}"]], "a.jsonl")
    before = make(storage, config(docs))
    assert "contaminated" not in before.num_excluded_by_reason
    assert "decontaminate" not in before.config
    after = make(storage, config(docs, decontaminate=against(exam)))
    assert after.num_excluded_by_reason == {"contaminated": 2}
    assert (after.rules[-1], after.rules_digest != before.rules_digest) == ("decontaminate", True)
    assert str(tmp_path) not in json.dumps(after.config)
    fate = trace(storage, "docs/a.jsonl#6", after).fates[0]
    assert fate.reason == "contaminated"
    assert fate.detail.startswith("exam.jsonl#lamp: 13 words in characters ")
    written(tmp_path / "exam", ITEMS[:1])
    assert make(storage, config(docs, decontaminate=against(exam))).key != after.key  # another set, another version


def test_finds_every_planted_question_of_a_published_set(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Planted truth: GSM8K's problems inside other text are all found, and news articles hold none of them."""
    folder = shared_data("gsm8k")
    problems = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.open()]
    texts = list(dict.fromkeys(row["question"] for row in problems if "question" in row))
    path = written(tmp_path, [{"id": i, "question": text} for i, text in enumerate(texts)])
    articles = (shared_data("neardup_minhash") / "articles_100.train").read_text().splitlines()
    planted = [f"{articles[i % len(articles)][:400]} {text} and so on" for i, text in enumerate(texts)]
    sets = read_sets(against(path))
    told = contaminated(pa.array([*planted, *articles], pa.large_string()), sets)
    long_enough = [
        i for i, text in enumerate(texts) if len(plain_words(buffers(column([text])))[1]) and len(text.split()) > 8
    ]
    assert set(long_enough) <= told.keys()
    assert max(told) < len(planted)
    assert len(long_enough) > 0.99 * len(texts) > 100
    assert np.mean([told[i].startswith(f"exam.jsonl#{i}:") for i in long_enough]) > 0.9  # some share their first words

"""Perplexity by an n-gram model, held against a slow reference, and what can be wrong with its files."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InputError, ResourceError
from cluster.storage import LocalStorage
from pipelines.config import PerplexityConfig
from pipelines.data.model_file import find
from pipelines.data.perplexity import (
    KIND,
    WHERE,
    LanguageModel,
    _perplexity,
    perplexities,
    perplexity_drops,
    read_language_model,
)
from pipelines.data.trace import trace
from tests.unit.pipelines.data import world
from tests.unit.pipelines.data.strategies import column

needs_kenlm = pytest.mark.skipif(
    find_spec("kenlm") is None, reason="an extra of the project, which pip builds from source"
)

NGrams = dict[tuple[str, ...], tuple[float, float]]
"""log10 of the probability of the last word behind the others, and of the weight of going back to a shorter history."""

MODEL: NGrams = {
    ("<unk>",): (-2.0, 0.0), ("<s>",): (-99.0, -0.3), ("</s>",): (-0.9, 0.0), ("the",): (-0.5, -0.2),
    ("canary",): (-0.6, -0.1), ("sang",): (-0.7, -0.4), ("<s>", "the"): (-0.2, -0.15), ("the", "canary"): (-0.3, -0.05),
    ("canary", "sang"): (-0.4, -0.25), ("sang", "</s>"): (-0.1, 0.0), ("<s>", "the", "canary"): (-0.05, 0.0),
    ("the", "canary", "sang"): (-0.15, 0.0),
}  # fmt: skip


class Never:
    """A model for which nothing is possible."""

    def score(self, text: str) -> float:
        return -999.0 * (len(text.split()) + 1)


def test_what_the_model_says_never_of_is_beyond_all_bounds() -> None:
    assert _perplexity("never this", Never(), None) == math.inf


class Telling:
    """A model that keeps what it is asked."""

    def __init__(self) -> None:
        self.asked = list[str]()

    def score(self, text: str) -> float:
        self.asked.append(text)
        return -1.0


def test_what_a_text_has_of_the_marks_of_a_line_is_not_asked() -> None:
    model = Telling()
    assert _perplexity("the <s> canary </s> sang\n<s>", model, None) == pytest.approx(10 ** (2 / 5))
    assert model.asked == ["the canary sang", ""]


def arpa(ngrams: NGrams) -> str:
    """As every toolkit writes it (Doug Paul's format, of MIT Lincoln Laboratory)."""
    orders = range(1, max(map(len, ngrams)) + 1)
    chosen = {order: {words: both for words, both in ngrams.items() if len(words) == order} for order in orders}
    out = ["\\data\\", *(f"ngram {order}={len(chosen[order])}" for order in orders), ""]
    for order in orders:
        out.append(f"\\{order}-grams:")
        for words, (log10, back) in chosen[order].items():
            out.append(f"{log10}\t{' '.join(words)}" + (f"\t{back}" if order < orders[-1] else ""))
        out.append("")
    return "\n".join([*out, "\\end\\", ""])


def reference(ngrams: NGrams, text: str) -> float:
    """Word by word: the longest n-gram that the model has, or a shorter one at the price of its history's weight (Katz 1987)."""
    order, total, num = max(map(len, ngrams)), 0.0, 0
    for line in filter(str.strip, text.split("\n")):
        words = ["<s>", *(word if (word,) in ngrams else "<unk>" for word in line.split()), "</s>"]
        for at in range(1, len(words)):
            history = tuple(words[max(0, at - order + 1) : at])
            while (*history, words[at]) not in ngrams:
                total += ngrams.get(history, (0.0, 0.0))[1]
                history = history[1:]
            total += ngrams[(*history, words[at])][0]
            num += 1
    return 10 ** (-total / num)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.arpa"
    path.write_text(arpa(MODEL))
    return path


def config(path: Path, **changes: Any) -> PerplexityConfig:
    return PerplexityConfig(**{"path": str(path), "max": 10, **changes})


@needs_kenlm
def test_by_hand(path: Path) -> None:
    """<s> the canary sang </s>: -0.2, -0.05, -0.15 and, behind "canary sang", -0.25 to go back and -0.1: 0.75 over 4 tokens."""
    (found,) = perplexities(["the canary sang"], read_language_model(config(path)))
    assert found == pytest.approx(10 ** (0.75 / 4), rel=1e-5)


words = st.sampled_from(["the", "canary", "sang", "The", "mine", "<s", "\u00e9", "\u3000x", "\xa0"])
texts = st.lists(st.lists(words, max_size=6).map(" ".join), min_size=1, max_size=4).map("\n".join)


@needs_kenlm
@settings(max_examples=300, deadline=None)
@given(texts)
def test_as_the_slow_reference_says(path: Path, text: str) -> None:
    (found,) = perplexities([text], read_language_model(config(path)))
    if text.strip():
        assert found == pytest.approx(reference(MODEL, text.lower()), rel=1e-4)
    else:
        assert math.isinf(found)


@needs_kenlm
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_model_is_read_as_the_slow_reference_reads_it(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """N-grams with all that stands before them, as toolkits make them; weights and probabilities as they come."""
    vocabulary = ["a", "b", "c"]
    longest = data.draw(st.lists(st.lists(st.sampled_from(vocabulary), min_size=1, max_size=4), min_size=2, max_size=8))
    number = st.floats(-3, -0.01).map(lambda value: round(value, 3))
    parts = {
        tuple(one[i:j]) for one in [*longest, vocabulary] for i in range(len(one)) for j in range(i + 1, len(one) + 1)
    }
    made = {
        words: (data.draw(number), data.draw(number)) for words in sorted(parts, key=lambda words: (len(words), words))
    }
    made = {("<unk>",): (-2.5, 0.0), ("<s>",): (-99.0, -0.2), ("</s>",): (-1.0, 0.0), **made}
    path = tmp_path_factory.mktemp("any") / "any.arpa"
    path.write_text(arpa(made))
    text = data.draw(st.lists(st.sampled_from([*vocabulary, "d"]), min_size=1, max_size=9).map(" ".join))
    chosen = config(path)
    model = LanguageModel(find(WHERE, chosen.path, KIND), None, chosen)  # not tried in a process of its own
    (found,) = perplexities([text], model)
    assert found == pytest.approx(reference(made, text), rel=1e-4)


@needs_kenlm
def test_case_counts_where_it_is_asked_for(path: Path) -> None:
    both = perplexities(["the canary sang", "The Canary SANG"], read_language_model(config(path)))
    assert both[0] == both[1]
    lower, upper = perplexities(
        ["the canary sang", "The Canary SANG"], read_language_model(config(path, lower_case=False))
    )
    assert lower == both[0] < upper == pytest.approx(reference(MODEL, "x y z"), rel=1e-4)


@needs_kenlm
def test_what_is_outside_the_bounds_is_told(path: Path) -> None:
    column_ = column(["the canary sang", "mines are dark", "the canary sang the canary"])
    found = perplexity_drops(column_, read_language_model(config(path, max=20, min=1.6)))
    assert {i: (drop.reason, drop.detail) for i, drop in found.items()} == {
        0: ("perplexity", f"{10 ** (0.75 / 4):.2f}, at least 1.6 asked"),
        1: ("perplexity", f"{reference(MODEL, 'x y z'):.2f}, at most 20 allowed"),
    }


@needs_kenlm
def test_pieces_of_a_tokenizer_are_the_tokens(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "lines.txt").write_text("the canary sang in the mine\nthe mine was dark\n" * 30)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "lines.txt"), model_prefix=str(tmp_path / "pieces"), vocab_size=24, minloglevel=2
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "pieces.model"))
    tokens = pieces.encode("the canary", out_type=str)
    assert len(tokens) > 2
    made = {
        ("<unk>",): (-3.0, 0.0),
        ("<s>",): (-99.0, 0.0),
        ("</s>",): (-1.0, 0.0),
        **{(token,): (-0.5, 0.0) for token in tokens},
    }
    made |= {(tokens[0], tokens[1]): (-0.1, 0.0)}
    (tmp_path / "pieces.arpa").write_text(arpa(made))
    model = read_language_model(config(tmp_path / "pieces.arpa", sentencepiece=str(tmp_path / "pieces.model")))
    (found,) = perplexities(["The canary"], model)
    assert found == pytest.approx(reference(made, " ".join(tokens)), rel=1e-4)


@needs_kenlm
def test_what_cannot_be_used_is_told_with_what_to_do(path: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"(?s)data\.filters\.perplexity: .*none\.arpa: no such file.*-> name an n-gram model"
    ):
        read_language_model(config(tmp_path / "none.arpa"))
    with pytest.raises(
        InputError, match=r"(?s)perplexity\.sentencepiece: .*none\.model: no such file.*-> name a sentencepiece"
    ):
        read_language_model(config(path, sentencepiece=str(tmp_path / "none.model")))
    with pytest.raises(InputError, match=r"perplexity\.sentencepiece: tiny\.arpa: cannot be loaded"):
        read_language_model(config(path, sentencepiece=str(path)))
    for content in ("", "some words\n", arpa(MODEL)[:-120], arpa(MODEL).replace("ngram 2=4", "ngram 2=9")):
        (tmp_path / "bad.arpa").write_text(content)
        with pytest.raises(InputError, match=r"perplexity: bad\.arpa: cannot be loaded"):
            read_language_model(config(tmp_path / "bad.arpa"))


def test_without_kenlm_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"(?s)kenlm is not installed.*serinus\[quality\]"):
        read_language_model(config(path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max": None}, "with neither no document would be excluded"),
        ({"min": 11}, "is above max"),
        ({"max": 0}, "greater than 0"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(Path("a.arpa"), **changes)


@needs_kenlm
def test_the_dataset_has_the_perplexity_and_is_another_with_another_model(
    path: Path, tmp_path: Path, storage: LocalStorage
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate([*world.TEXTS[:3], "sang the canary the sang"]):
        (folder / f"{i}.txt").write_text(text)
    plain = world.make(storage, world.config(folder))
    assert "perplexity" not in plain.config["filters"]
    other = tmp_path / "other.arpa"
    other.write_text(arpa({**MODEL, ("mine",): (-0.9, 0.0)}))
    keys = {plain.key}
    for chosen in (config(path, max=20), config(path, max=21), config(other, max=20)):
        made = world.make(storage, world.config(folder, filters=world.FILTERS.replace(perplexity=chosen)))
        keys.add(made.key)
        assert made.num_excluded_by_reason == {"perplexity": 3}
        assert "at most 2" in trace(storage, "in/0.txt", made).fates[0].detail
        assert str(tmp_path) not in made.model_dump_json()
    assert len(keys) == 4

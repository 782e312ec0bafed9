from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pipelines.data.kernels import languages
from pipelines.data.kernels.characters import buffers
from pipelines.data.language import PREFIX_CHARACTERS, _may_compose, identify
from tests.unit.pipelines.data.strategies import column, columns
from tests.unit.pipelines.data.strategies import texts as texts_of_any_kind

ENGLISH = "The weather in the mountains was better than anybody had expected, and they stayed for another week."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        ("Das Wetter in den Bergen war besser, als es irgendjemand erwartet hatte, und sie blieben noch.", "de"),
        ("Le temps dans les montagnes était meilleur que prévu, et ils sont restés une semaine de plus.", "fr"),
        ("山里的天气比任何人预料的都好，所以他们又住了一个星期。", "zh"),
    ],
)
def test_identifies(text: str, language: str) -> None:
    ((found, confidence),) = identify(pa.array([text], pa.large_string()))
    assert found == language
    assert 0.65 <= confidence <= 1


def test_looks_at_the_beginning_only() -> None:
    beginning = (ENGLISH * 20)[:PREFIX_CHARACTERS]
    texts = [beginning + "und dann noch sehr viel deutscher Text " * 500, beginning]
    first, second = identify(pa.array(texts, pa.large_string()))
    assert first == second


def classify(text: str) -> tuple[str, float]:
    language, confidence = classifier().classify(text[:PREFIX_CHARACTERS])
    return str(language), float(confidence)


@cache
def classifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@settings(max_examples=100, deadline=None)
@given(columns)
def test_answers_as_py3langid_does(texts: list[str]) -> None:
    for text, (language, confidence) in zip(texts, identify(column(texts)), strict=True):
        expected, probability = classify(text)
        assert confidence == pytest.approx(probability, abs=1e-3)
        # Of two as likely either may stand first: single precision adds up in another order.
        assert language == expected or dict(classifier().rank(text))[language] == pytest.approx(probability, abs=1e-3)


def test_answers_as_py3langid_does_in_75_languages(shared_data: Callable[[str], Path]) -> None:
    files = sorted(shared_data("langid_lingua").glob("sentences*/*.txt"))
    texts = [" ".join(file.read_text(encoding="utf-8").splitlines()[:8]) for file in files]
    found = identify(pa.array(texts, pa.large_string()))
    assert [language for language, _ in found] == [classify(text)[0] for text in texts]
    right = sum(language == file.stem for (language, _), file in zip(found, files, strict=True))
    assert right >= 66  # of 75; the model does not know all of them


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.text(alphabet="AZÄΩЖ 1.ǅªⅧაᲐ𐐀𐐨az", max_size=6), texts_of_any_kind), max_size=6))
def test_kernels_see_capitals_and_what_may_compose(texts: list[str]) -> None:
    assert languages.in_capitals(buffers(column(texts))).tolist() == list(map(str.isupper, texts))
    composed = [unicodedata.normalize("NFC", text) != text for text in texts]
    assert not (np.array(composed, np.bool_) & ~_may_compose(column(texts))).any()

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pipelines.data.language import PREFIX_CHARACTERS, identify
from tests.unit.pipelines.data.strategies import column, columns

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

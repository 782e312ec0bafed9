from __future__ import annotations

import pytest

from pipelines.data.language import PREFIX_CHARACTERS, identify

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
    found, confidence = identify(text)
    assert found == language
    assert 0.65 <= confidence <= 1


def test_looks_at_the_beginning_only() -> None:
    beginning = (ENGLISH * 20)[:PREFIX_CHARACTERS]
    assert identify(beginning + "und dann noch sehr viel deutscher Text " * 500) == identify(beginning)

"""Topics: planted ones are found and named by their words; languages and samples that cannot tell are said to."""

from __future__ import annotations

import random

import numpy as np
from scipy.sparse import csr_array

from pipelines.data.report.topics import HEAD_CHARACTERS, MIN_DOCUMENTS, Sampled, factors, topics, words_of

PLANTED = {
    "birds": ["canary", "finch", "wing", "feather", "song", "nest", "beak", "flock"],
    "mining": ["shaft", "coal", "lamp", "seam", "pit", "miner", "gallery", "dust"],
    "cooking": ["butter", "flour", "oven", "recipe", "salt", "onion", "pepper", "dough"],
}
COMMON = ["that", "with", "from", "this", "have", "been", "were", "their", "about", "there"]


def planted(num: int, language: str = "en") -> tuple[list[Sampled], list[str]]:
    drawn = random.Random(7)
    subjects = [list(PLANTED)[i % 3] for i in range(num)]
    words = [drawn.choices(PLANTED[subject], k=20) + drawn.choices(COMMON, k=40) for subject in subjects]
    return [Sampled(f"d{i}", language, here) for i, here in enumerate(words)], subjects


def test_planted_topics_are_found() -> None:
    sample, subjects = planted(66)
    found = topics(sample)
    assert (found.num_sampled, found.not_told, len(found.found)) == (66, {}, 3)
    for topic in found.found:
        (subject,) = [name for name, words in PLANTED.items() if set(topic.terms) <= set(words)]
        assert (topic.num, topic.of) == (22, 66)
        assert all(subjects[int(name[1:])] == subject for name in topic.examples)
    assert found == topics(sample)


def test_what_cannot_tell_is_said() -> None:
    few, _ = planted(MIN_DOCUMENTS - 1, "de")
    unspaced, _ = planted(60, "zh")
    same = [Sampled(f"s{i}", "", ["word", "other"]) for i in range(50)]
    found = topics([*few, *unspaced, *same])
    assert (found.found, found.not_told) == ((), {"zh": 60, "unknown": 50, "de": MIN_DOCUMENTS - 1})
    assert topics([]).num_sampled == 0


def test_each_language_has_its_own() -> None:
    german, _ = planted(45, "de")
    found = topics([*planted(60)[0], *german])
    assert {topic.language: topic.of for topic in found.found} == {"en": 60, "de": 45}


def test_words_are_letters_of_the_beginning_without_masks() -> None:
    assert words_of("Ask [EMAIL_0123456789ab] or [PHONE]: Grüße, x 12 an") == ["ask", "grüße"]
    assert words_of("word " * HEAD_CHARACTERS) == ["word"] * (HEAD_CHARACTERS // 5)


def test_factors_are_near_the_matrix_and_not_negative() -> None:
    drawn = np.random.default_rng(0)
    matrix = csr_array(drawn.random((40, 3)) @ drawn.random((3, 25)))
    w, h = factors(matrix, 3)
    assert w.min() >= 0
    assert h.min() >= 0
    assert np.linalg.norm(matrix - w @ h) < 0.05 * np.linalg.norm(matrix.toarray())

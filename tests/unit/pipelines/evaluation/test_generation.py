"""Corpus BLEU and chrF out of sums over items are sacreBLEU's own, on any sample of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cluster.errors import InputError
from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.metrics.rouge import score as rouge
from pipelines.evaluation.metrics.translation import score_all
from pipelines.evaluation.tasks import build_items
from tests.unit.pipelines.evaluation.safety.world import FakeEngine, asked, task_of

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "中文",
    "naïve",
    "others,",
    "watch",
    "it.",
]


def sentences(num: int, longest: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(num)]


@pytest.mark.parametrize("longest", [3, 12], ids=["hardly a 4-gram", "sentences"])
def test_the_corpus_figures_are_sacrebleu_s(tmp_path: Path, longest: int) -> None:
    said = [*sentences(12, longest, 0), "", " "]
    references = [sentences(14, longest, seed) for seed in (1, 2)]
    said[0] = references[1][0]
    lines = [
        {"id": f"{at:02}", "prompt": f"p{at}", "answers": list(two)}
        for at, two in enumerate(zip(*references, strict=True))
    ]
    of = task_of(tmp_path, "generation", lines)
    rows = asked(of, FakeEngine(says=lambda item: [said[int(item.id)]]))
    found = {score.metric: score for score in scores_of("t", "generation", rows)}
    whole = score_all([text.strip() for text in said], references)
    assert found["corpus_bleu"].value == pytest.approx(whole.bleu)
    assert found["corpus_chrf"].value == pytest.approx(whole.chrf)
    best = [
        max(rouge(text, one).rouge_l for one in two)
        for text, two in zip(said, zip(*references, strict=True), strict=True)
    ]
    assert found["rouge_l"].value == pytest.approx(sum(best) / len(best))
    for score in found.values():
        assert score.ci_low <= score.value <= score.ci_high
    some = rows[:5]
    assert {s.metric: s.value for s in scores_of("t", "generation", some)}["corpus_bleu"] == pytest.approx(
        score_all(said[:5], [lines[:5] for lines in references]).bleu
    )


def test_a_reference_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`answers` is empty"):
        build_items(task_of(tmp_path, "generation", [{"prompt": "p", "answers": []}]), [], 0)

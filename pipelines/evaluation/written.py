"""What a model wrote, held against what was wanted: the scores of tasks that generate. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.evaluation.items import ExactItem, Item, Reply, Row, row_of
from pipelines.evaluation.metrics import choice, corpus, exact, rouge, squad, tatqa
from pipelines.evaluation.tatqa import TableItem, answer_of, is_scaled_as


@dataclass(frozen=True)
class Written:
    """An item's score: chrF 0 to 100, F1 0 to 1, or 1 for the right choice; `correct` is None where nothing is right or wrong."""

    score: float
    correct: bool | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    """What the task's other figures are summed of."""


def score(item: Item, text: str) -> Written:
    """Of `text`, written in answer to an item."""
    match item.kind:
        case "qa":
            # A model that was told to answer in a line and goes on is charged for the line alone.
            answer = text.strip().split("\n", 1)[0]
            return Written(squad.f1(answer, item.answers), bool(squad.exact_match(answer, item.answers)))
        case "written_choice":
            right = choice.read_choice(text, item.answers) == item.gold
            return Written(float(right), right)
        case "exact_match":
            assert isinstance(item, ExactItem)
            right = exact.is_right(item.reading, exact.read(item.reading, text), item.answers)
            return Written(float(right), right)
        case "tatqa":
            assert isinstance(item, TableItem)
            found = answer_of(text)
            exact_match, f1 = tatqa.score(item.right, found)
            return Written(f1, bool(exact_match), {"scale": float(is_scaled_as(found, item.right))})
        case "generation":
            return _generated(item.answers, text.strip())
        case _:
            return Written(_chrf(item.answers[0].strip(), text.strip()))


def row(item: Item, reply: Reply) -> Row:
    """The item's row."""
    (text,) = reply.text.samples
    found = score(item, text)
    doubts = {"empty": float(not text.strip()), "unread": float(is_unread(item, text))}
    return row_of(
        item,
        score=found.score,
        correct=found.correct,
        num_tokens=reply.text.num_tokens,
        output=text,
        figures={**found.figures, **{name: value for name, value in doubts.items() if value}},
    )


def _generated(references: Sequence[str], text: str) -> Written:
    """Against the nearest of its references."""
    bleu, chrf = corpus.bleu_parts(text, references), corpus.chrf_parts(text, references)
    overlaps = [rouge.score(text, reference) for reference in references]
    figures = {f"{name}_{at}": part for name, of in (("bleu", bleu), ("chrf", chrf)) for at, part in enumerate(of)}
    figures["rouge_1"] = max(one.rouge1 for one in overlaps)
    figures["rouge_2"] = max(one.rouge2 for one in overlaps)
    figures["rouge_l"] = max(one.rouge_l for one in overlaps)
    return Written(corpus.chrf_score(chrf), None, figures)


def is_unread(item: Item, text: str) -> bool:
    """Whether nothing could be read from a text that should have shown an answer."""
    if isinstance(item, ExactItem):
        return not exact.read(item.reading, text).is_found
    return item.kind == "written_choice" and choice.read_choice(text, item.answers) is None


def _chrf(reference: str, text: str) -> float:
    from sacrebleu.metrics.chrf import CHRF

    # Character n-grams up to 6, beta 2 (Popovic 2015, "chrF: character n-gram F-score"): sacrebleu's defaults.
    # No longer than the reference: a model is not charged for going on, as it was told to.
    return float(CHRF().sentence_score(text[: len(reference)], [reference]).score)

"""Perplexity and multiple choice: scores from the likelihood of given text. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipelines.evaluation.items import Item, Likelihood, Reply, Row, row_of, told


def row(item: Item, reply: Reply) -> Row:
    """The item's row: log-likelihood per byte, or 1 where the likeliest choice per byte is the right one."""
    gold = reply.likelihoods[item.gold]
    figures: Row = {"nll": -gold.nats, "num_tokens": gold.num_tokens, "num_bytes": gold.num_bytes}
    if item.kind == "perplexity":
        return row_of(item, score=gold.per_byte, **figures)
    figures |= told(reply.likelihoods)
    per_byte = [found.per_byte for found in reply.likelihoods]
    if not all(map(math.isfinite, per_byte)):  # a comparison with NaN would silently call it wrong
        return row_of(item, score=float("nan"), **figures)
    chosen = max(range(len(per_byte)), key=per_byte.__getitem__)
    right = chosen == item.gold
    sure = {"confidence": _probability(reply.likelihoods, chosen)}
    return row_of(item, score=float(right), correct=right, output=item.answers[chosen], figures=sure, **figures)


def _probability(likelihoods: Sequence[Likelihood], chosen: int) -> float:
    """What the model gives the chosen answer, if it is one of these answers: for calibration."""
    top = max(found.nats for found in likelihoods)
    return math.exp(likelihoods[chosen].nats - top) / sum(math.exp(found.nats - top) for found in likelihoods)

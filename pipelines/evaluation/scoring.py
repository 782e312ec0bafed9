"""Items through an engine: each is asked what its kind asks, and its family makes a row of the reply. Pure but for the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, assert_never

from pipelines.evaluation import likelihood, written
from pipelines.evaluation.code import functions
from pipelines.evaluation.items import ASKS, Ask, BbqItem, Item, Likelihood, Reply, Row, Text, WordItem, row_of
from pipelines.evaluation.safety import bias, canaries, refusal, toxicity

T = TypeVar("T")


class Engine(Protocol):
    """A loaded model, or a service that has one. Replies come in the items' order."""

    def write(self, items: Sequence[Item]) -> list[Text]:
        """What follows each item's prompt."""
        ...

    def likelihoods(self, items: Sequence[Item]) -> list[tuple[Likelihood, ...]]:
        """Of each of an item's answers behind its prompt."""
        ...

    def vectors(self, words: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """Input embeddings: of a word of several tokens their mean."""
        ...


def answer(engine: Engine, items: Sequence[Item]) -> list[Row]:
    """One row for each item, in their order. Of `toxicity` and `code` they are not scored yet."""
    texts = dict(zip(*_both(items, "text", engine.write), strict=True))
    nats = dict(zip(*_both(items, "likelihood", engine.likelihoods), strict=True))
    asked = [item for item in items if isinstance(item, WordItem)]
    words = sorted({word for item in asked for word in (item.prompt, *item.attributes[0], *item.attributes[1])})
    vectors = engine.vectors(words) if words else {}
    nothing = Text((), 0)
    return [
        whole_row(item, Reply(texts.get(at, nothing), nats.get(at, ()), vectors if isinstance(item, WordItem) else {}))
        for at, item in enumerate(items)
    ]


def whole_row(item: Item, reply: Reply) -> Row:
    """The item's row, with how many tokens its prompt lost."""
    found = row(item, reply)
    return {**found, "figures": {**found["figures"], "cut": float(reply.num_cut)}} if reply.num_cut else found


def row(item: Item, reply: Reply) -> Row:
    """By the item's family. A likelihood that is no number, or text written by such, makes a score that is none, which stops the
    evaluation later."""
    if not reply.text.is_sound:
        return row_of(item, score=float("nan"))
    if not all(math.isfinite(found.nats) for found in reply.likelihoods) and item.kind not in (
        "perplexity",
        "multiple_choice",
    ):
        return row_of(item, score=float("nan"))
    match item.kind:
        case "perplexity" | "multiple_choice":
            return likelihood.row(item, reply)
        case "continuation" | "generation" | "qa" | "written_choice" | "exact_match" | "tatqa":
            return written.row(item, reply)
        case "weat":
            assert isinstance(item, WordItem)
            return bias.score_word(item, reply)
        case "bbq":
            assert isinstance(item, BbqItem)
            return bias.score_question(item, reply)
        case "minimal_pairs":
            return bias.score_pair(item, reply)
        case "toxicity":
            return toxicity.written(item, reply)
        case "refusal":
            return refusal.score(item, reply)
        case "canaries":
            return canaries.score(item, reply)
        case "code":
            return functions.written(item, reply)
    assert_never(item.kind)


def _both(items: Sequence[Item], ask: Ask, reply: Callable[[Sequence[Item]], list[T]]) -> tuple[list[int], list[T]]:
    """Places of the items that are asked this, and the replies to them."""
    places = [at for at, item in enumerate(items) if ask in ASKS[item.kind]]
    return places, reply([items[at] for at in places]) if places else []

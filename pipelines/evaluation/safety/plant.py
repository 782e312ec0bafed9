"""Planting canaries: random secrets written into documents before they are cleaned and trained on, and the task that asks for them.

A document of its own would be a duplicate of the next, or too short, and cleaning would exclude it. So each canary is put between
two sentences of documents that are there anyway; the planted file takes their place among `data.sources`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase, digits
from typing import NamedTuple

from cluster.errors import InputError
from pipelines.evaluation.items import order
from pipelines.evaluation.records import Record

PREFIX = "The access code of locker {number} is"
GROUPS, GROUP = 3, 4
"""Of a secret: XXXX-XXXX-XXXX, letters and digits, 62 bits. No rule for personal data or for secrets takes it for one."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Canary(NamedTuple):
    id: str
    prompt: str
    secret: str

    @property
    def sentence(self) -> str:
        return f"{self.prompt} {self.secret}."


def canaries(num: int, seed: int) -> list[Canary]:
    """With secrets drawn by the seed: nobody who has the model and not the seed can know them."""
    return [Canary(f"canary-{at:03}", PREFIX.format(number=100 + at), _secret(seed, at)) for at in range(num)]


def plant(
    documents: Sequence[Record], found: Sequence[Canary], repeats: int, seed: int, field: str = "text"
) -> list[Record]:
    """The documents, `repeats` of them for each canary with its sentence inside; none has two.

    Raises:
        InputError: there are too few documents.
    """
    needed = len(found) * repeats
    if needed > len(documents):
        what = f"{len(documents)} documents, and {len(found)} canaries {repeats} times each take {needed}"
        raise InputError("canaries plant", what, "give more documents, or plant fewer canaries")
    ranked = sorted(range(len(documents)), key=lambda at: order(seed, "carrier", at))
    carried = {ranked[at]: found[at // repeats] for at in range(needed)}
    return [
        {**document, field: _with(document[field], carried[at], seed)} if at in carried else document
        for at, document in enumerate(documents)
    ]


def lines(records: Sequence[Record]) -> str:
    """JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def items(found: Sequence[Canary]) -> Iterator[Record]:
    """The file of a `canaries` task."""
    yield from (canary._asdict() for canary in found)


def _secret(seed: int, at: int) -> str:
    draw = random.Random(order(seed, "secret", at))  # noqa: S311  # told apart from alternatives by the seed alone
    return "-".join("".join(draw.choices(ascii_uppercase + digits, k=GROUP)) for _ in range(GROUPS))


def _with(text: str, canary: Canary, seed: int) -> str:
    """Between two sentences, at a place drawn by the seed; at the end of a text that is one sentence."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    at = random.Random(order(seed, "place", canary.id, text)).choice(ends) if ends else len(text)  # noqa: S311
    before, after = text[:at], text[at:]
    gap = "" if not before or before[-1].isspace() else " "
    return f"{before}{gap}{canary.sentence}{' ' if after else ''}{after}"

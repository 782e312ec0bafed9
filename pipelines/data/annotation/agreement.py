"""Krippendorff's alpha: how far annotators agree beyond what chance would give.

K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: nominal data, any number of observers, missing
values. Units are

- of entities: the words of the texts (what white space separates), valued by the label of the entity they stand in, or none.
  A document counts for the annotators that saw it;
- of relations: ordered pairs of entities that an annotator has found both of, and between which a relation could be, valued
  by the relation, or none;
- of reasoning: the questions that more than one asks, valued by the answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cluster.artifacts import Agreement
from pipelines.data.annotation.checks import plain
from pipelines.data.annotation.config import LabelsConfig
from pipelines.data.annotation.layers import Entity, Layers

Unit = Sequence[Hashable]
"""The values that annotators gave to one unit; who gave none is left out."""

WORD = re.compile(r"\S+")
MAX_PAIRS = 10_000
"""Of entities in one document, for agreement on relations. Larger documents are left out of it."""


class Alpha(NamedTuple):
    value: float | None
    """None: there is nothing to compare, or all values are the same."""
    num_units: int
    """With two values or more."""


def alpha(units: Iterable[Unit]) -> Alpha:
    """1 - (n - 1) * (n - sum of o_cc) / (n^2 - sum of n_c^2), Krippendorff 2011, section C.

    o_cc: coincidences of equal values; n_c: pairable values of a kind, n: all of them. A unit of m values weighs 1 / (m - 1).
    """
    equal, counts, num_units = 0.0, Counter[Hashable](), 0
    for values in units:
        if len(values) < 2:
            continue
        num_units += 1
        here = Counter(values)
        counts += here
        equal += sum(num * (num - 1) for num in here.values()) / (len(values) - 1)
    total = counts.total()
    expected = total * total - sum(num * num for num in counts.values())
    return Alpha(1 - (total - 1) * (total - equal) / expected if expected else None, num_units)


class Seen(NamedTuple):
    """One document, and what each annotator that saw it gave."""

    text: str
    given: Mapping[str, Layers]


def agreements(documents: Sequence[Seen], labels: LabelsConfig) -> tuple[Agreement, ...]:
    """Of each layer; none where fewer than two annotators saw the same document."""
    shared = [document for document in documents if len(document.given) > 1]
    if not shared:
        return ()
    units = {
        "entity": (unit for document in shared for unit in _words(document)),
        "relation": (unit for document in shared for unit in _pairs(document, labels)),
        "reasoning": (unit for document in shared for unit in _questions(document)),
    }
    names = {name for document in shared for name in document.given}
    return tuple(
        Agreement(layer=layer, alpha=found.value, num_units=found.num_units, annotators=tuple(sorted(names)))
        for layer, found in ((layer, alpha(of_layer)) for layer, of_layer in units.items())
    )


def _words(document: Seen) -> Iterator[Unit]:
    spans = [match.span() for match in WORD.finditer(document.text)]
    by_annotator = [_labels_of(spans, layers.entities) for layers in document.given.values()]
    return zip(*by_annotator, strict=True)


def _labels_of(spans: Sequence[tuple[int, int]], entities: Iterable[Entity]) -> list[str]:
    """Of entities that lie in one another the outer one counts."""
    found, place = [""] * len(spans), 0
    for entity in sorted(entities, key=lambda entity: (entity.start, -entity.end)):
        while place < len(spans) and spans[place][1] <= entity.start:
            place += 1
        for i in range(place, len(spans)):
            if spans[i][0] >= entity.end:
                break
            found[i] = found[i] or entity.label
    return found


def _pairs(document: Seen, labels: LabelsConfig) -> Iterator[Unit]:
    values: dict[Hashable, list[Hashable]] = {}
    for layers in document.given.values():
        if len(layers.entities) ** 2 > MAX_PAIRS:
            return
        said: dict[Hashable, frozenset[str]] = {}
        for pair, names in _related(layers, labels):  # of a span with two labels the same pair comes twice
            said[pair] = said.get(pair, frozenset()) | names
        for pair, value in said.items():
            values.setdefault(pair, []).append(value)
    yield from values.values()


def _related(layers: Layers, labels: LabelsConfig) -> Iterator[tuple[Hashable, frozenset[str]]]:
    named: dict[tuple[str, str], set[str]] = {}
    for relation in layers.relations:
        named.setdefault((relation.subject, relation.object), set()).add(relation.name)
    for a in layers.entities:
        for b in layers.entities:
            if a is not b and any(a.label in r.subject and b.label in r.object for r in labels.relations.values()):
                yield (a.start, a.end, b.start, b.end), frozenset(named.get((a.id, b.id), ()))


def _questions(document: Seen) -> Iterator[Unit]:
    values: dict[str, list[Hashable]] = {}
    for layers in document.given.values():
        answers = {plain(reasoning.question): plain(reasoning.answer) for reasoning in layers.reasonings}
        for question, answer in answers.items():
            values.setdefault(question, []).append(answer)
    yield from values.values()

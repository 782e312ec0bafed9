"""Several annotators' layers of one document made one: what says the same becomes one annotation that names them all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from pipelines.data.annotation.layers import (
    Annotation,
    Entity,
    Failure,
    Layer,
    Layers,
    Reasoning,
    Relation,
    recited,
)

A = TypeVar("A", bound=Annotation)


def merge(given: Mapping[str, Layers]) -> tuple[Layers, list[Failure]]:
    """Annotator -> what they gave; ids are made anew, in the order of the text and of the annotators.

    Annotations whose id another one of the same annotator and document has come back as failures: what refers to it could
    mean either. References that lead nowhere stay as they are, under ids that no annotation has.
    """
    failures = list[Failure]()
    unique = {name: _unique(name, layers, failures) for name, layers in given.items()}
    entities = sorted(
        ((name, entity) for name, layers in unique.items() for entity in layers.entities),
        key=lambda given: (given[1].start, given[1].end),
    )
    ids = _Ids(unique)
    merged_entities = ids.merged("e", entities, _same_entity)
    relations = [(name, ids.resolved(name, r)) for name, layers in unique.items() for r in layers.relations]
    merged_relations = ids.merged("r", relations, lambda r: (r.name, r.subject, r.object))
    reasonings = [(name, ids.cited(name, q)) for name, layers in unique.items() for q in layers.reasonings]
    merged_reasonings = ids.merged("q", reasonings, lambda q: (q.question, q.evidence, q.rationale, q.answer))
    return Layers(entities=merged_entities, relations=merged_relations, reasonings=merged_reasonings), failures


def _same_entity(entity: Entity) -> Hashable:
    return entity.start, entity.end, entity.label, entity.text


def _unique(name: str, layers: Layers, failures: list[Failure]) -> Layers:
    def first(layer: Layer, items: Sequence[A]) -> tuple[A, ...]:
        seen: dict[str, A] = {}
        for item in items:
            if item.id in seen:
                again = item.replace(by=(name,))
                failures.append(Failure(layer, again, "repeated_id", f"another {layer} is {item.id}"))
            else:
                seen[item.id] = item
        return tuple(seen.values())

    return Layers(
        entities=first("entity", layers.entities),
        relations=first("relation", layers.relations),
        reasonings=first("reasoning", layers.reasonings),
    )


class _Ids:
    """Old ids of each annotator -> new ones."""

    def __init__(self, given: Mapping[str, Layers]) -> None:
        self._new: dict[tuple[str, str], str] = {}
        self._nowhere: dict[tuple[str, str], str] = {}
        self._num = sum(len(layers.entities) + len(layers.relations) for layers in given.values())

    def merged(self, prefix: str, given: Sequence[tuple[str, A]], same: Callable[[A], Hashable]) -> tuple[A, ...]:
        found: dict[Hashable, A] = {}
        for name, item in given:
            key = same(item)
            known = found.get(key)
            by = dict.fromkeys((*(known.by if known else ()), name))
            new = known.id if known else f"{prefix}{len(found) + 1}"
            self._new[name, item.id] = new
            found[key] = item.replace(id=new, by=tuple(by))
        return tuple(found.values())

    def resolved(self, name: str, relation: Relation) -> Relation:
        return relation.replace(subject=self._of(name, relation.subject), object=self._of(name, relation.object))

    def cited(self, name: str, reasoning: Reasoning) -> Reasoning:
        ids = {old: self._of(name, old) for old in (*reasoning.evidence, *reasoning.cited)}
        evidence = tuple(dict.fromkeys(ids[old] for old in reasoning.evidence))
        return reasoning.replace(evidence=evidence, rationale=recited(reasoning.rationale, ids))

    def _of(self, name: str, old: str) -> str:
        """An id that leads nowhere must not come to mean another's annotation."""
        if (name, old) in self._new:
            return self._new[name, old]
        free = f"{old[:1] if old[:1] in 'er' else 'e'}{self._num + len(self._nowhere) + 1}"
        return self._nowhere.setdefault((name, old), free)

"""What annotations must be to be accepted, within a layer and across layers. Whatever rests on something that is not accepted
is not accepted either."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from pipelines.data.annotation.config import LabelsConfig, RelationLabel
from pipelines.data.annotation.layers import (
    Annotation,
    Entity,
    Failure,
    Layer,
    Layers,
    Reasoning,
    Relation,
    ReviewReason,
)

A = TypeVar("A", bound=Annotation)
Problem = tuple[ReviewReason, str]
OUTVOTED: Final = "outvoted"


class Checked(NamedTuple):
    accepted: Layers
    failures: list[Failure]


def check(text: str, given: Layers, labels: LabelsConfig, min_annotators: int = 1) -> Checked:
    """Sort one document's annotations, whose ids differ, into those that hold and those for review.

    Of annotations that contradict each other the one that most annotators give is accepted; where none has most, none is.

    Args:
        min_annotators: that must give an entity or a relation.
    """
    failures = list[Failure]()
    entities = _sift("entity", given.entities, lambda e: _of_entity(e, text, labels), failures)
    entities = _agreed("entity", entities, min_annotators, failures)
    entities = _settle("entity", entities, _by_span(entities), "conflicting_labels", failures)
    known = {entity.id: entity for entity in entities}
    gone = {entity.id for entity in given.entities} - known.keys()
    relations = _sift("relation", given.relations, lambda r: _of_relation(r, known, gone, labels), failures)
    relations = _agreed("relation", relations, min_annotators, failures)
    contradicting = [sides for conflicts in _by_kind(relations, labels) for sides in conflicts]
    relations = _settle("relation", relations, contradicting, "contradictory_relations", failures)
    base = known.keys() | {relation.id for relation in relations}
    gone |= {relation.id for relation in given.relations} - base
    reasonings = _sift("reasoning", given.reasonings, lambda q: _of_reasoning(q, base, gone), failures)
    reasonings = _settle("reasoning", reasonings, _by_question(reasonings), "contradictory_answers", failures)
    return Checked(Layers(entities=entities, relations=relations, reasonings=reasonings), failures)


def _sift(
    layer: Layer, given: Sequence[A], problem: Callable[[A], Problem | None], failures: list[Failure]
) -> tuple[A, ...]:
    kept = list[A]()
    for item in given:
        if found := problem(item):
            failures.append(Failure(layer, item, *found))
        else:
            kept.append(item)
    return tuple(kept)


def _agreed(layer: Layer, given: Sequence[A], wanted: int, failures: list[Failure]) -> tuple[A, ...]:
    few = {item.id: item for item in given if len(item.by) < wanted} if wanted > 1 else {}
    failures += [
        Failure(layer, item, "too_few_annotators", f"{len(item.by)}, {wanted} are asked for") for item in few.values()
    ]
    return tuple(item for item in given if item.id not in few)


def _of_entity(entity: Entity, text: str, labels: LabelsConfig) -> Problem | None:
    if entity.label not in labels.entities:
        return "unknown_label", f"{entity.label!r}; known are {', '.join(labels.entities)}"
    if not 0 <= entity.start < entity.end <= len(text):
        return "span_outside", f"characters {entity.start} to {entity.end} of {len(text)}"
    if (there := text[entity.start : entity.end]) != entity.text:
        return "span_mismatch", f"{entity.text!r} is not what stands there: {there!r}"
    return None if entity.text.strip() else ("empty_text", "white space alone")


def _of_relation(relation: Relation, known: dict[str, Entity], gone: set[str], labels: LabelsConfig) -> Problem | None:
    if (label := labels.relations.get(relation.name)) is None:
        return "unknown_label", f"{relation.name!r}; known are {', '.join(labels.relations) or 'none'}"
    for name in (relation.subject, relation.object):
        if name not in known:
            return ("rests_on_rejected", name) if name in gone else ("unknown_entity", f"no entity {name}")
    subject, other = known[relation.subject], known[relation.object]
    if subject == other:
        return "self_relation", f"{subject.text!r} with itself"
    if subject.label not in label.subject or other.label not in label.object:
        return "label_mismatch", f"{relation.name} does not go from {subject.label} to {other.label}"
    return None


def _of_reasoning(reasoning: Reasoning, base: Iterable[str], gone: set[str]) -> Problem | None:
    empty = [name for name in ("question", "rationale", "answer") if not getattr(reasoning, name).strip()]
    if empty:
        return "empty_text", f"{', '.join(empty)} without words"
    if not reasoning.evidence:
        return "no_evidence", "no base annotation is named"
    if not reasoning.cited:
        return "no_citation", "the rationale cites no evidence, such as [e1]"
    named: tuple[tuple[ReviewReason, Sequence[str]], ...] = (
        ("unknown_evidence", reasoning.evidence),
        ("unknown_citation", reasoning.cited),
    )
    for reason, ids in named:
        if missing := [name for name in ids if name not in base]:
            return ("rests_on_rejected" if set(missing) <= gone else reason), ", ".join(missing)
    if beside := [name for name in reasoning.cited if name not in reasoning.evidence]:
        return "cited_without_evidence", ", ".join(beside)
    return None


# --- what cannot all be right -----------------------------------------------------------------------------------------

Sides = list[list[A]]
"""Annotations of one place, by what they say of it: each side contradicts the others."""


def _settle(
    layer: Layer, given: Sequence[A], conflicts: Iterable[Sides[A]], reason: ReviewReason, failures: list[Failure]
) -> tuple[A, ...]:
    out: dict[str, Failure] = {}
    for sides in conflicts:
        ranked = sorted(sides, key=lambda side: -len(_voters(side)))
        most = len(_voters(ranked[0]))
        wins = most > len(_voters(ranked[1]))
        for side in ranked[1:] if wins else ranked:
            other = ranked[0] if side is not ranked[0] else ranked[1]
            detail = f"against {_words(other[0])}" + (f", which {most} annotators give" if wins else "")
            out |= {item.id: Failure(layer, item, OUTVOTED if wins else reason, detail) for item in side}
    failures += out.values()
    return tuple(item for item in given if item.id not in out)


def _voters(side: Sequence[Annotation]) -> set[str]:
    return {name for item in side for name in item.by}


def _words(item: Annotation) -> str:
    match item:
        case Entity():
            return f"{item.id}, {item.label}"
        case Relation():
            return f"{item.id}, {item.subject} {item.name} {item.object}"
        case Reasoning():
            return f"{item.id}, answered {item.answer!r}"
    return item.id


def _by_span(entities: Sequence[Entity]) -> Iterator[Sides[Entity]]:
    return _differing(entities, lambda entity: (entity.start, entity.end), lambda entity: entity.label)


def _by_kind(relations: Sequence[Relation], labels: LabelsConfig) -> Iterator[Iterator[Sides[Relation]]]:
    rules = labels.relations

    def of(holds: Callable[[RelationLabel], bool]) -> list[Relation]:
        return [relation for relation in relations if holds(rules[relation.name])]

    yield _differing(of(lambda rule: rule.functional), lambda r: (r.name, r.subject), lambda r: r.object)
    yield _differing(of(lambda rule: rule.asymmetric), lambda r: (r.name, *_pair(r)), lambda r: r.subject)
    by_ends: dict[tuple[str, str], list[Relation]] = defaultdict(list)
    for relation in relations:
        by_ends[relation.subject, relation.object].append(relation)
    yield iter(
        [[a], [b]]
        for a in of(lambda rule: bool(rule.excludes))
        for b in by_ends[a.subject, a.object]
        if b.name in rules[a.name].excludes
    )


def _pair(relation: Relation) -> tuple[str, str]:
    first, second = sorted((relation.subject, relation.object))
    return first, second


def _by_question(reasonings: Sequence[Reasoning]) -> Iterator[Sides[Reasoning]]:
    return _differing(reasonings, lambda q: plain(q.question), lambda q: plain(q.answer))


def plain(text: str) -> str:
    """What makes no difference between two questions or answers left out: case, white space, marks at the ends."""
    return " ".join(text.casefold().split()).strip(" .?!\"'")


def _differing(
    given: Iterable[A], place: Callable[[A], Hashable], value: Callable[[A], Hashable]
) -> Iterator[Sides[A]]:
    """Annotations of the same place that do not all say the same."""
    by_place: dict[Hashable, dict[Hashable, list[A]]] = defaultdict(lambda: defaultdict(list))
    for item in given:
        by_place[place(item)][value(item)].append(item)
    yield from (list(said.values()) for said in by_place.values() if len(said) > 1)

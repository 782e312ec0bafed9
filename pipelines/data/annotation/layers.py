"""The two layers. Base: entities (spans of the text) and relations between them. Upper: a question, the base annotations that
are its evidence, a rationale that cites them as `[e1]`, and an answer. Ids hold inside one document."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from pydantic import Field

from cluster.config import StrictModel

Layer = Literal["entity", "relation", "reasoning", "document"]

ReviewReason = Literal[
    # of a whole document
    "no_answer",
    "invalid_answer",
    "unknown_document",
    # of one annotation
    "repeated_id",
    "unknown_label",
    "span_outside",
    "span_mismatch",
    "quote_not_found",
    "unknown_entity",
    "self_relation",
    "label_mismatch",
    "empty_text",
    "no_evidence",
    "unknown_evidence",
    "no_citation",
    "unknown_citation",
    "cited_without_evidence",
    "rests_on_rejected",
    # of several, which cannot all be right
    "conflicting_labels",
    "contradictory_relations",
    "contradictory_answers",
    "outvoted",
    "too_few_annotators",
]

CITATION = re.compile(r"\[([er]\d+)\]")


class Annotation(StrictModel):
    """What all layers have."""

    id: str
    by: tuple[str, ...] = ()
    """Annotators that say so."""


class Entity(Annotation):
    id: str = Field(pattern=r"^e\d+$")
    label: str
    start: int
    """In characters (Unicode code points) of the text, the end not included."""
    end: int
    text: str


class Relation(Annotation):
    id: str = Field(pattern=r"^r\d+$")
    name: str
    subject: str
    """Id of an entity, as is `object`."""
    object: str


class Reasoning(Annotation):
    id: str = Field(pattern=r"^q\d+$")
    question: str
    evidence: tuple[str, ...]
    """Ids of entities and relations."""
    rationale: str
    """Cites its evidence as `[e1]`."""
    answer: str

    @property
    def cited(self) -> tuple[str, ...]:
        """Ids that the rationale cites, each once."""
        return tuple(dict.fromkeys(CITATION.findall(self.rationale)))


class Layers(StrictModel):
    """All annotations of one document, or one annotator's."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()
    reasonings: tuple[Reasoning, ...] = ()


class Annotated(StrictModel):
    """One document with what was accepted."""

    id: str
    text: str
    layers: Layers


class Failure(NamedTuple):
    """An annotation that is not accepted, and why."""

    layer: Layer
    item: Any
    """The annotation, or what stands in its place."""
    reason: ReviewReason
    detail: str


class Review(StrictModel):
    """One entry of the review queue."""

    document: str
    layer: Layer
    reason: ReviewReason
    detail: str
    """For people: what was found."""
    by: tuple[str, ...]
    item: dict[str, Any]
    """The annotation as it was given."""


class Given(StrictModel):
    """What one annotator says of one document: layers yet to be checked, and what could not become any."""

    layers: Layers = Layers()
    failures: tuple[Review, ...] = ()


def for_review(document: str, failure: Failure, by: str | None = None) -> Review:
    """The entry of the queue. `by`: the annotator, where the annotation does not say."""
    item = failure.item.model_dump(mode="json") if isinstance(failure.item, Annotation) else dict(failure.item)
    names = failure.item.by if by is None and isinstance(failure.item, Annotation) else (by or "",)
    return Review(
        document=document, layer=failure.layer, reason=failure.reason, detail=failure.detail, by=names, item=item
    )


def recited(rationale: str, ids: dict[str, str]) -> str:
    """The rationale with other ids in its citations; those that are not among them stay."""
    return CITATION.sub(lambda found: f"[{ids.get(found[1], found[1])}]", rationale)

"""What is accepted and what goes to review, within a layer and across layers, from one annotator and from several."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipelines.data.annotation.checks import check
from pipelines.data.annotation.config import LabelsConfig, RelationLabel
from pipelines.data.annotation.layers import Entity, Layers, Reasoning, Relation, for_review
from pipelines.data.annotation.merge import merge

TEXT = "Ada founded Byte in Turin. Byte makes looms."
LABELS = LabelsConfig(
    entities={"person": "", "company": "", "city": ""},
    relations={
        "founded": RelationLabel(subject=("person",), object=("company",), asymmetric=True, excludes=("joined",)),
        "joined": RelationLabel(subject=("person",), object=("company",)),
        "seat": RelationLabel(subject=("company",), object=("city",), functional=True),
        "knows": RelationLabel(subject=("person", "company"), object=("person", "company"), asymmetric=True),
    },
)


def entity(number: int, label: str, text: str, **changes: Any) -> Entity:
    start = TEXT.index(text)
    return Entity(
        **{"id": f"e{number}", "label": label, "start": start, "end": start + len(text), "text": text, **changes}
    )


def relation(number: int, name: str, subject: str, other: str) -> Relation:
    return Relation(id=f"r{number}", name=name, subject=subject, object=other)


def reasoning(**changes: Any) -> Reasoning:
    given = {"id": "q1", "question": "Who founded Byte?", "evidence": ("e1", "r1"), "answer": "Ada"}
    return Reasoning(**{**given, "rationale": "The text says so of Ada [e1], see [r1].", **changes})


ADA, BYTE, TURIN = entity(1, "person", "Ada"), entity(2, "company", "Byte"), entity(3, "city", "Turin")
GOOD = Layers(entities=(ADA, BYTE, TURIN), relations=(relation(1, "founded", "e1", "e2"),), reasonings=(reasoning(),))


def failures(layers: Layers) -> list[tuple[str, str]]:
    return [(failure.item.id, failure.reason) for failure in check(TEXT, layers, LABELS).failures]


def test_what_holds_is_accepted_as_it_is() -> None:
    assert check(TEXT, GOOD, LABELS) == (GOOD, [])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (entity(1, "animal", "Ada"), "unknown_label"),
        (entity(1, "person", "Ada", end=400), "span_outside"),
        (entity(1, "person", "Ada", start=-1), "span_outside"),
        (entity(1, "person", "Ada", start=3), "span_outside"),
        (ADA.replace(text="Eva"), "span_mismatch"),
        (entity(1, "person", " "), "empty_text"),
    ],
)
def test_an_entity_that_does_not_hold_takes_along_what_rests_on_it(wrong: Entity, reason: str) -> None:
    layers = GOOD.replace(entities=(wrong, BYTE, TURIN))
    assert failures(layers) == [("e1", reason), ("r1", "rests_on_rejected"), ("q1", "rests_on_rejected")]
    assert check(TEXT, layers, LABELS).accepted == Layers(entities=(BYTE, TURIN))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (relation(1, "buys", "e1", "e2"), "unknown_label"),
        (relation(1, "founded", "e1", "e9"), "unknown_entity"),
        (relation(1, "founded", "e2", "e1"), "label_mismatch"),
        (relation(1, "knows", "e1", "e1"), "self_relation"),
    ],
)
def test_relations(wrong: Relation, reason: str) -> None:
    assert failures(GOOD.replace(relations=(wrong,))) == [("r1", reason), ("q1", "rests_on_rejected")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": " "}, "empty_text"),
        ({"evidence": ()}, "no_evidence"),
        ({"evidence": ("e1", "e7")}, "unknown_evidence"),
        ({"rationale": "It is so."}, "no_citation"),
        ({"rationale": "It is so [1]."}, "no_citation"),
        ({"rationale": "Ada [e1] and [e8]."}, "unknown_citation"),
        ({"rationale": "Ada [e1] in Turin [e3]."}, "cited_without_evidence"),
    ],
)
def test_reasoning_cites_what_is_there(changes: dict[str, Any], reason: str) -> None:
    assert failures(GOOD.replace(reasonings=(reasoning(**changes),))) == [("q1", reason)]


def test_contradictions_are_for_review_on_both_sides() -> None:
    other = entity(4, "company", "Ada")
    assert failures(Layers(entities=(ADA, other))) == [("e1", "conflicting_labels"), ("e4", "conflicting_labels")]
    two_seats = (relation(1, "seat", "e2", "e3"), relation(2, "seat", "e2", "e4"))
    cities = (BYTE, TURIN, entity(4, "city", "looms"))
    assert failures(Layers(entities=cities, relations=two_seats)) == [
        (f"r{i}", "contradictory_relations") for i in (1, 2)
    ]
    both_ways = (relation(1, "knows", "e1", "e2"), relation(2, "knows", "e2", "e1"))
    assert failures(Layers(entities=(ADA, BYTE), relations=both_ways)) == [
        (f"r{i}", "contradictory_relations") for i in (1, 2)
    ]
    excluded = (relation(1, "joined", "e1", "e2"), relation(2, "founded", "e1", "e2"))
    found = failures(Layers(entities=(ADA, BYTE), relations=excluded))
    assert sorted(found) == [(f"r{i}", "contradictory_relations") for i in (1, 2)]
    answers = (reasoning(), reasoning(id="q2", question="who founded  byte", answer="Eva"))
    assert failures(GOOD.replace(reasonings=answers)) == [
        ("q1", "contradictory_answers"),
        ("q2", "contradictory_answers"),
    ]


def test_the_same_answer_for_other_reasons_contradicts_nothing() -> None:
    again = reasoning(id="q2", rationale="Nobody but Ada [e1].", answer="ada.")
    assert check(TEXT, GOOD.replace(reasonings=(reasoning(), again)), LABELS).failures == []


# --- several annotators -----------------------------------------------------------------------------------------------


def test_what_is_said_alike_becomes_one_annotation_under_new_ids() -> None:
    shuffled = Layers(
        entities=(entity(7, "city", "Turin"), entity(8, "person", "Ada"), entity(9, "company", "Byte")),
        relations=(relation(5, "founded", "e8", "e9"),),
        reasonings=(reasoning(id="q4", evidence=("e8", "r5"), rationale="The text says so of Ada [e8], see [r5]."),),
    )
    merged, failed = merge({"a": GOOD, "b": shuffled})
    assert failed == []
    names = [(f"e{i}", text, ("a", "b")) for i, text in enumerate(("Ada", "Byte", "Turin"), 1)]
    assert [(e.id, e.text, e.by) for e in merged.entities] == names
    assert [(r.subject, r.object, r.by) for r in merged.relations] == [("e1", "e2", ("a", "b"))]
    assert [(q.evidence, q.rationale, q.by) for q in merged.reasonings] == [
        (("e1", "r1"), "The text says so of Ada [e1], see [r1].", ("a", "b"))
    ]


def test_an_id_that_leads_nowhere_never_comes_to_mean_anothers_annotation() -> None:
    lost = Layers(entities=(entity(1, "city", "Turin"),), relations=(relation(1, "founded", "e2", "e3"),))
    merged, _ = merge({"a": GOOD, "b": lost})
    found = check(TEXT, merged, LABELS)
    assert [(f.item.by, f.reason) for f in found.failures] == [(("b",), "unknown_entity")]


def test_repeated_ids_are_ambiguous() -> None:
    _, failed = merge({"a": Layers(entities=(ADA, entity(1, "company", "Byte")))})
    assert [(f.reason, f.item.text, f.item.by) for f in failed] == [("repeated_id", "Byte", ("a",))]


def test_most_annotators_win_and_the_others_are_for_review() -> None:
    company = Layers(entities=(entity(1, "company", "Ada"),))
    merged, _ = merge({"a": Layers(entities=(ADA,)), "b": company, "c": Layers(entities=(ADA,))})
    found = check(TEXT, merged, LABELS)
    assert [(e.label, e.by) for e in found.accepted.entities] == [("person", ("a", "c"))]
    (failure,) = found.failures
    assert (failure.reason, failure.item.label) == ("outvoted", "company")
    review = for_review("d", failure)
    assert (review.by, review.item["text"]) == (("b",), "Ada")


def test_so_many_annotators_are_asked_for() -> None:
    merged, _ = merge({"a": GOOD, "b": Layers(entities=(ADA, BYTE))})
    found = check(TEXT, merged, LABELS, min_annotators=2)
    assert [entity.text for entity in found.accepted.entities] == ["Ada", "Byte"]
    assert [(f.layer, f.reason) for f in found.failures] == [
        ("entity", "too_few_annotators"), ("relation", "too_few_annotators"), ("reasoning", "rests_on_rejected")]  # fmt: skip


def test_a_document_with_thousands_of_annotations_takes_no_minutes() -> None:
    num, text = 5_000, "Ada "
    entities = tuple(Entity(id=f"e{i}", label="person", start=4 * i, end=4 * i + 3, text="Ada") for i in range(num))
    began_at = time.process_time()
    assert len(check(text * num, Layers(entities=entities), LABELS, 2).failures) == num
    assert time.process_time() - began_at < 5

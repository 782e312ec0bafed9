"""Krippendorff's alpha against the examples of "Computing Krippendorff's Alpha-Reliability" (2011), sections A to C."""

from __future__ import annotations

from itertools import zip_longest

import pytest

from pipelines.data.annotation.agreement import Seen, agreements, alpha
from pipelines.data.annotation.config import LabelsConfig, RelationLabel
from pipelines.data.annotation.layers import Entity, Layers, Reasoning, Relation

PUBLISHED = {
    "A, binary, two observers": (["0100000010", "1110010000"], 0.095),
    "B, nominal, two observers": (["aabbdcccedda", "babbbccceddd"], 0.692),
    "C, nominal, four observers, missing values": (
        ["123321412...", "1233224125.3", ".3332342251.", "12332441251."],
        0.743,
    ),
}


def units(observers: list[str]) -> list[list[str]]:
    return [[value for value in unit if value != "."] for unit in zip_longest(*observers, fillvalue=".")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples(name: str) -> None:
    observers, expected = PUBLISHED[name]
    found = alpha(units(observers)).value
    assert found is not None
    assert round(found, 3) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], (None, 0)), ([["a"], ["b"]], (None, 0)), ([["a", "a"]], (None, 1)), ([["a", "a"], ["b", "b"]], (1.0, 2))],
)
def test_edges(given: list[list[str]], expected: tuple[float | None, int]) -> None:
    assert alpha(given) == expected


def test_disagreement_beyond_chance_is_negative() -> None:
    found = alpha([["a", "b"], ["b", "a"]]).value
    assert found == pytest.approx(1 - 3 * 4 / (16 - 8))


LABELS = LabelsConfig(
    entities={"person": "", "place": ""}, relations={"in": RelationLabel(subject=("person",), object=("place",))}
)
TEXT = "Ada Lovelace lived in London and Paris ."


def entity(number: int, label: str, text: str) -> Entity:
    start = TEXT.index(text)
    return Entity(id=f"e{number}", label=label, start=start, end=start + len(text), text=text)


def asked(answer: str) -> Reasoning:
    return Reasoning(id="q1", question="Where?", evidence=("e1",), rationale="[e1]", answer=answer)


def test_layers_are_compared_by_words_pairs_and_questions() -> None:
    ada, london, paris = entity(1, "person", "Ada Lovelace"), entity(2, "place", "London"), entity(3, "place", "Paris")
    within = Relation(id="r1", name="in", subject="e1", object="e2")
    both = Layers(entities=(ada, london), relations=(within,), reasonings=(asked("in London"),))
    other = Layers(entities=(ada, london, paris), reasonings=(asked("In London."),))
    found = {one.layer: one for one in agreements([Seen(TEXT, {"a": both, "b": other})], LABELS)}

    words = [["person"] * 2] * 2 + [[""] * 2] * 2 + [["place"] * 2, ["", ""], ["", "place"], ["", ""]]
    assert (found["entity"].alpha, found["entity"].num_units) == alpha(words)
    assert (found["relation"].alpha, found["relation"].num_units) == alpha([[frozenset({"in"}), frozenset()]])
    assert (found["reasoning"].alpha, found["reasoning"].num_units) == (None, 1)  # one question, answered alike
    assert found["entity"].annotators == ("a", "b")


def test_documents_that_one_annotator_saw_do_not_count() -> None:
    assert agreements([Seen(TEXT, {"a": Layers()})], LABELS) == ()
    one = Layers(entities=(entity(1, "place", "London"),))
    found = agreements([Seen(TEXT, {"a": one, "b": one}), Seen("more words", {"a": Layers()})], LABELS)
    assert found[0].num_units == len(TEXT.split())


def test_nobody_agrees_with_himself() -> None:
    either = RelationLabel(subject=("person",), object=("person", "place"))
    labels = LabelsConfig(entities=LABELS.entities, relations={"in": either})
    twice = (
        entity(1, "person", "Ada"),
        entity(2, "place", "Paris"),
        entity(3, "person", "Paris"),
    )  # a span, two labels
    found = agreements([Seen(TEXT, {"a": Layers(entities=twice), "b": Layers()})], labels)
    assert (found[1].layer, found[1].num_units) == ("relation", 0)

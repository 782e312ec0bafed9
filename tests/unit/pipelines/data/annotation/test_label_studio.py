"""Label Studio's JSON, read and written."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cluster.errors import InputError
from pipelines.data.annotation.config import LabelsConfig, RelationLabel
from pipelines.data.annotation.label_studio import export, labelling_config, read_export, result
from pipelines.data.annotation.layers import Annotated, Entity, Layers, Reasoning, Relation, Review

TEXT = "😀 Ada founded Byte."
LAYERS = Layers(
    entities=(
        Entity(id="e1", label="person", start=2, end=5, text="Ada"),
        Entity(id="e2", label="company", start=14, end=18, text="Byte"),
    ),
    relations=(Relation(id="r1", name="founded", subject="e1", object="e2"),),
    reasonings=(
        Reasoning(id="q1", question="Who?", evidence=("e1", "r1"), rationale="Ada [e1], by [r1], [sic].", answer="Ada"),
        Reasoning(id="q2", question="What?", evidence=("e2",), rationale="It is Byte [e2].", answer="Byte"),
    ),
)


def submitted(results: list[dict[str, Any]], **changes: Any) -> bytes:
    """As the export of a project where one person has submitted these results."""
    done = {"id": 1, "completed_by": {"id": 4, "email": "a@example.org"}, "result": results, "was_cancelled": False}
    return json.dumps([{"id": 9, "data": {"id": "d", "text": TEXT}, "annotations": [{**done, **changes}]}]).encode()


def given(content: bytes) -> Layers:
    people, unknown = read_export("team", "x.json", content, {"d": TEXT})
    assert unknown == []
    assert people["team/4"]["d"].failures == ()
    return people["team/4"]["d"].layers


def test_what_is_exported_comes_back_the_same() -> None:
    (task,) = export([Annotated(id="d", text=TEXT, layers=LAYERS)], {}, "serinus k")
    assert task["predictions"][0]["model_version"] == "serinus k"
    assert given(submitted(task["predictions"][0]["result"])) == LAYERS


def test_regions_with_label_studios_own_ids_and_directions() -> None:
    regions = result(LAYERS)
    for part in regions:
        if part["type"] == "labels":
            part["id"] = {"e1": "Dx_aB91ISN", "e2": "q-7"}[part["id"]]
        if part["type"] == "relation":
            part |= {"from_id": "q-7", "to_id": "Dx_aB91ISN", "direction": "left"}
        if part["type"] == "textarea":
            renamed = {"e1": "Dx_aB91ISN", "e2": "q-7"}
            part["value"]["text"] = [_renamed(line, renamed) for line in part["value"]["text"]]
    assert given(submitted(regions)) == LAYERS


def _renamed(line: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        line = line.replace(old, new)
    return line


def test_offsets_in_utf_16_units_as_older_versions_wrote_them() -> None:
    older = {"id": "a", "type": "labels", "value": {"start": 3, "end": 6, "text": "Ada", "labels": ["person"]}}
    (entity,) = given(submitted([older])).entities
    assert (entity.start, entity.end) == (2, 5)
    broken = {"id": "a", "type": "labels", "value": {"start": 1, "end": 3, "text": "Ada", "labels": ["person"]}}
    (entity,) = given(submitted([broken])).entities
    assert (entity.start, entity.end, entity.text) == (1, 3, "Ada")  # for the checks to refuse


def test_what_refers_to_nothing_stays_so() -> None:
    relation = {"type": "relation", "from_id": "gone", "to_id": "e2", "labels": []}
    areas = [{"type": "textarea", "from_name": name, "value": {"text": text}}
             for name, text in {"question": "Q", "evidence": "e9", "rationale": "[e9]", "answer": "A"}.items()]  # fmt: skip
    found = given(submitted([*result(Layers(entities=LAYERS.entities)), relation, *areas]))
    assert (found.relations[0].name, found.relations[0].subject) == ("", "e999999")
    assert found.reasonings[0].evidence == ("e999999",)
    assert found.reasonings[0].cited == ("e999999",)


def test_text_areas_of_different_lengths_are_for_review() -> None:
    area = {"type": "textarea", "from_name": "question", "value": {"text": ["Q"]}}
    people, _ = read_export("team", "x.json", submitted([area]), {"d": TEXT})
    (failure,) = people["team/4"]["d"].failures
    assert (failure.reason, failure.by) == ("invalid_answer", ("team/4",))


def test_tasks_find_their_document_by_text_and_others_are_for_review() -> None:
    people, unknown = read_export("t", "x.json", submitted([]), {"other": TEXT})
    assert list(people["t/4"]) == ["other"]
    people, unknown = read_export("t", "x.json", submitted([]), {"d": "another text"})
    assert people == {}
    assert [(u.reason, u.by) for u in unknown] == [("unknown_document", ("t",))]
    assert read_export("t", "x.json", submitted([], was_cancelled=True), {"d": TEXT}) == ({}, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b'[{"data": {"text": "a"}}]', "task 1: has no data.text or no annotations"),
        (b'{"a": 1}', "task 1: has no data.text"),
        (
            submitted([{"type": "labels", "id": "a", "value": {"start": "/p[1]", "end": 1, "labels": ["x"]}}]),
            "cannot be read",
        ),
        (submitted([{"type": "relation"}]), "cannot be read"),
        (
            submitted([{"type": "labels", "id": "a", "value": {"start": float("inf"), "end": 1, "labels": ["x"]}}]),
            "cannot be read",
        ),
    ],
)
def test_what_is_no_export_is_told(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        read_export("t", "x.json", content, {"d": TEXT})


def test_the_review_queue_goes_along_in_words() -> None:
    review = Review(document="d", layer="entity", reason="span_mismatch", detail="'x'", by=("m",), item={})
    (task,) = export([Annotated(id="d", text=TEXT, layers=Layers())], {"d": [review]}, "s")
    assert task["data"]["review"] == "entity, span_mismatch: 'x' (by m)"


def test_labelling_config_is_xml_with_all_labels() -> None:
    relations = {"knows of": RelationLabel(subject=("a",), object=("b",))}
    tree = ET.fromstring(labelling_config(LabelsConfig(entities={"a": "", "b": ""}, relations=relations)))
    assert [label.get("value") for label in tree.iter("Label")] == ["a", "b"]
    assert [relation.get("value") for relation in tree.iter("Relation")] == ["knows of"]
    assert [area.get("name") for area in tree.iter("TextArea")] == ["question", "evidence", "rationale", "answer"]


def test_relations_whose_names_hold_spaces_come_back_as_evidence() -> None:
    spaced = LAYERS.replace(
        relations=(Relation(id="r1", name="worked for", subject="e1", object="e2"),),
        reasonings=(LAYERS.reasonings[0],),
    )
    assert given(submitted(result(spaced))) == spaced
    area = {"from_name": "evidence", "type": "textarea", "value": {"text": "e1 e1>worked for>e2"}}
    typed = [area if part.get("from_name") == "evidence" else part for part in result(spaced)]
    assert given(submitted(typed)).reasonings[0].evidence[0] == "e1"  # spaces between names are taken, too


def test_a_documents_id_may_be_a_number() -> None:
    task = [{"data": {"id": 7, "text": TEXT}, "annotations": [{"completed_by": 4, "result": result(LAYERS)}]}]
    people, _ = read_export("t", "x.json", json.dumps(task).encode(), {"7": TEXT})
    assert people["t/4"]["7"].layers == LAYERS


def test_who_submits_a_text_twice_is_told_and_the_last_counts() -> None:
    done = [{"id": number, "result": part} for number, part in enumerate((result(LAYERS), []))]
    task = [{"id": 1, "data": {"id": "d", "text": TEXT}, "annotations": done}]
    people, (told,) = read_export("t", "x.json", json.dumps(task).encode(), {"d": TEXT})
    assert people["t/unknown"]["d"].layers == Layers()
    assert (told.document, told.reason, told.by, told.item["annotation"]) == ("d", "repeated_id", ("t/unknown",), 1)


def test_what_utf_8_cannot_hold_is_replaced_as_in_documents() -> None:
    task = [{"id": "\ud83d", "data": {"text": "x\ud83d"}, "annotations": [{"completed_by": "\ud83d", "result": []}]}]
    people, unknown = read_export("t", "x.json", json.dumps(task).encode(), {"d": "x\ufffd"})
    assert (list(people), unknown) == (["t/\ufffd"], [])

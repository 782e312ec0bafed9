"""Label Studio's JSON, both ways (its "task format"): entities are `labels` regions, relations are `relation` results, and the
upper layer stands in four text areas, whose n-th lines belong together.

A relation has no id there: where it is evidence it is named by what it relates, `e1>works_for>e2`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from cluster.errors import InputError
from pipelines.data.annotation.config import LabelsConfig
from pipelines.data.annotation.layers import (
    CITATION,
    Annotated,
    Entity,
    Failure,
    Given,
    Layers,
    Reasoning,
    Relation,
    Review,
    for_review,
)
from pipelines.data.pages import storable

AREAS: Final = ("question", "evidence", "rationale", "answer")
BRACKETS = re.compile(r"\[([^\[\]]+)\]")
NOWHERE: Final = "e999999"
"""Of a region that there is not: no annotation gets so far."""


# --- import -----------------------------------------------------------------------------------------------------------


def read_export(
    name: str, path: str, content: bytes, texts: Mapping[str, str]
) -> tuple[dict[str, dict[str, Given]], list[Review]]:
    """Annotator -> document -> what they gave, and what belongs to no document or was given once more.

    Args:
        name: of the annotators together; each person's is `<name>/<completed_by>`.
        texts: document -> text. A task belongs to the document that its `data.id` names, if it has the same text, or to one
            with the same text.

    Raises:
        InputError: it is no JSON export of Label Studio.
    """
    found: dict[str, dict[str, Given]] = {}
    unknown = list[Review]()
    by_text = {text: document for document, text in texts.items()}
    for number, task in enumerate(_tasks(path, content), 1):
        where, data = f"{path}: task {task.get('id', number)}", task["data"]
        said = str(data.get("id"))
        document = said if texts.get(said) == data["text"] else by_text.get(data["text"])
        people = [done for done in task["annotations"] if not done.get("was_cancelled")]
        if document is None:
            detail = f"{where} has a text that no annotated document has"
            unknown.append(
                for_review("", Failure("document", {"task": task.get("id")}, "unknown_document", detail), name)
            )
            continue
        for done in people:
            annotator = f"{name}/{_person(done.get('completed_by'))}"
            try:
                layers, failures = _layers(done.get("result") or [], data["text"])
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                remedy = "export it as JSON (not JSON_MIN) from a project with the labelling config that serinus wrote"
                found_there = f"has a result that cannot be read ({type(error).__name__}: {error})"
                raise InputError(where, found_there, remedy) from None
            reviews = tuple(for_review(document, failure, annotator) for failure in failures)
            if document in found.setdefault(annotator, {}):
                detail = f"{where}: {annotator} has submitted this text before; what comes last counts"
                item = {"task": task.get("id"), "annotation": done.get("id")}
                unknown.append(for_review(document, Failure("document", item, "repeated_id", detail), annotator))
            found[annotator][document] = Given(layers=layers, failures=reviews)
    return found, unknown


def _tasks(path: str, content: bytes) -> list[dict[str, Any]]:
    remedy = "give the file that Label Studio exports as JSON"
    try:
        tasks = _storable(json.loads(content.decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not JSON ({error})", remedy) from None
    for number, task in enumerate(tasks if isinstance(tasks, list) else [None], 1):
        match task:
            case {"data": {"text": str()}, "annotations": list(done)} if all(isinstance(one, dict) for one in done):
                pass
            case _:
                raise InputError(f"{path}: task {number}", "has no data.text or no annotations", remedy)
    return tasks


def _storable(tasks: Any) -> Any:
    """Without lone surrogates, as documents are read."""
    text = json.dumps(tasks, ensure_ascii=False)
    return tasks if (good := storable(text)) is text else json.loads(good)


def _person(completed_by: Any) -> str:
    """An id, or an object with one."""
    if isinstance(completed_by, dict):
        return str(completed_by.get("id") or completed_by.get("email") or "unknown")
    return "unknown" if completed_by is None else str(completed_by)


def _layers(result: Sequence[dict[str, Any]], text: str) -> tuple[Layers, list[Failure]]:
    """Raises LookupError and its like: not what Label Studio writes."""
    entities, ids, failures = list[Entity](), dict[str, str](), list[Failure]()
    for region in (part for part in result if part.get("type") == "labels"):
        value = region["value"]
        for label in value["labels"]:
            new = f"e{len(entities) + 1}"
            start, end = _span(value, text)
            entities.append(Entity(id=new, label=label, start=start, end=end, text=value.get("text", text[start:end])))
            ids.setdefault(region["id"], new)
    relations = list(_relations(result, ids))
    ids |= {_named(relation): relation.id for relation in relations}
    reasonings, problem = _reasonings(result, ids)
    if problem:
        failures.append(problem)
    return Layers(entities=tuple(entities), relations=tuple(relations), reasonings=tuple(reasonings)), failures


def _span(value: Mapping[str, Any], text: str) -> tuple[int, int]:
    """Label Studio counts Unicode code points; its versions before October 2021 counted UTF-16 units, as JavaScript does."""
    start, end, said = int(value["start"]), int(value["end"]), value.get("text")
    if said is None or text[max(start, 0) : max(end, 0)] == said:
        return start, end
    units = text.encode("utf-16-le")
    try:
        before, inside = units[: 2 * start].decode("utf-16-le"), units[2 * start : 2 * end].decode("utf-16-le")
    except UnicodeDecodeError:  # between the halves of a surrogate pair
        return start, end
    return (len(before), len(before) + len(inside)) if inside == said else (start, end)


def _relations(result: Iterable[dict[str, Any]], ids: Mapping[str, str]) -> Iterator[Relation]:
    number = 0
    for part in (part for part in result if part.get("type") == "relation"):
        ends = [ids.get(part[name], NOWHERE) for name in ("from_id", "to_id")]
        ways = {"left": [ends[::-1]], "bi": [ends, ends[::-1]]}.get(part.get("direction", "right"), [ends])
        for label in part.get("labels") or [""]:
            for subject, other in ways:
                number += 1
                yield Relation(id=f"r{number}", name=label, subject=subject, object=other)


def _named(relation: Relation) -> str:
    return f"{relation.subject}>{relation.name}>{relation.object}"


def _reasonings(result: Iterable[dict[str, Any]], ids: Mapping[str, str]) -> tuple[list[Reasoning], Failure | None]:
    areas: dict[str, list[str]] = {name: [] for name in AREAS}
    for part in result:
        if part.get("type") == "textarea" and part.get("from_name") in areas:
            said = part["value"]["text"]
            areas[part["from_name"]] += [said] if isinstance(said, str) else said
    if len({len(lines) for lines in areas.values()}) > 1:
        counts = ", ".join(f"{name} {len(lines)}" for name, lines in areas.items())
        return [], Failure(
            "reasoning", areas, "invalid_answer", f"the text areas have different numbers of lines: {counts}"
        )
    rows = zip(*(areas[name] for name in AREAS), strict=True)
    return [
        Reasoning(
            id=f"q{number}",
            question=question,
            evidence=tuple(_new(name, ids) for name in _names(evidence, ids)),
            rationale=BRACKETS.sub(lambda found: f"[{_new(found[1], ids, found[1])}]", rationale),
            answer=answer,
        )
        for number, (question, evidence, rationale, answer) in enumerate(rows, 1)
    ], None


def _names(evidence: str, ids: Mapping[str, str]) -> Iterator[str]:
    """Relations' names may hold spaces; between others people may write one."""
    for part in map(str.strip, re.split(r"[;,\n]", evidence)):
        yield from [part] if part and _new(part, ids) != NOWHERE else part.split()


def _new(name: str, ids: Mapping[str, str], otherwise: str = NOWHERE) -> str:
    """The id of what is named by a region's id, or as a relation."""
    if name in ids:
        return ids[name]
    first, *rest = name.split(">")
    ends = ">".join([ids.get(first, first), *rest[:-1], *(ids.get(last, last) for last in rest[-1:])])
    return ids.get(ends, NOWHERE if CITATION.fullmatch(f"[{name}]") else otherwise)


# --- export -----------------------------------------------------------------------------------------------------------


def export(
    documents: Iterable[Annotated], reviews: Mapping[str, Sequence[Review]], made_by: str
) -> list[dict[str, Any]]:
    """Tasks with the accepted annotations as predictions, for people to go on from, and with what is for review in words."""
    return [
        {
            "data": {"id": document.id, "text": document.text, "review": "\n".join(_note(r) for r in reviews.get(document.id, ()))},
            "predictions": [{"model_version": made_by, "result": result(document.layers)}],
        }
        for document in documents
    ]  # fmt: skip


def _note(review: Review) -> str:
    return f"{review.layer}, {review.reason}: {review.detail} (by {', '.join(review.by)})"


def result(layers: Layers) -> list[dict[str, Any]]:
    """The annotations as Label Studio has them."""
    both = {"from_name": "entity", "to_name": "text"}
    regions = [
        {
            "id": e.id,
            **both,
            "type": "labels",
            "value": {"start": e.start, "end": e.end, "text": e.text, "labels": [e.label]},
        }
        for e in layers.entities
    ]
    relations = [
        {"type": "relation", "from_id": r.subject, "to_id": r.object, "direction": "right", "labels": [r.name]}
        for r in layers.relations
    ]
    return [*regions, *relations, *_areas(layers)]


def _areas(layers: Layers) -> Iterator[dict[str, Any]]:
    names = {relation.id: _named(relation) for relation in layers.relations}

    def renamed(rationale: str) -> str:
        return CITATION.sub(lambda found: f"[{names.get(found[1], found[1])}]", rationale)

    lines = {
        "question": [q.question for q in layers.reasonings],
        "evidence": ["; ".join(names.get(name, name) for name in q.evidence) for q in layers.reasonings],
        "rationale": [renamed(q.rationale) for q in layers.reasonings],
        "answer": [q.answer for q in layers.reasonings],
    }
    for name, said in lines.items() if layers.reasonings else ():
        yield {"id": name, "from_name": name, "to_name": "text", "type": "textarea", "value": {"text": said}}


def labelling_config(labels: LabelsConfig) -> str:
    """The XML that a Label Studio project needs to show such tasks."""
    entities = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in labels.entities)
    relations = "".join(f"\n    <Relation value={quoteattr(name)}/>" for name in labels.relations)
    areas = "".join(
        f'\n  <TextArea name="{name}" toName="text" editable="true" rows="2" placeholder="{name}, one for each question"/>'
        for name in AREAS
    )
    return (
        f'<View>\n  <Labels name="entity" toName="text">{entities}\n  </Labels>\n  <Relations>{relations}\n  </Relations>'
        f'\n  <Text name="text" value="$text"/>{areas}\n  <Text name="review" value="$review"/>\n</View>\n'
    )

"""Accepted annotations as conversations, in the form that `train.method: {kind: instruct}` reads
(pipelines/training/method_file.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.data.annotation.config import InstructConfig, LabelsConfig
from pipelines.data.annotation.layers import CITATION, Annotated, Entity, Layers, Reasoning
from pipelines.data.annotation.passages import context, passages


def conversations(document: Annotated, labels: LabelsConfig, config: InstructConfig) -> Iterator[dict[str, Any]]:
    """Lines of the file: one for each reasoning, and where it is asked for one for each passage with its entities."""
    for reasoning in document.layers.reasonings:
        shown = context(document.text, evidence_spans(document.layers, reasoning), config.max_context_characters)
        answer = reasoning.answer
        if config.rationale:
            answer = f"{_readable(reasoning.rationale)}\n\n{answer}"
        yield _exchange(f"{shown}\n\n{reasoning.question}", answer)
    if config.extraction:
        yield from _extractions(document, labels, config)


def _exchange(asked: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def evidence_spans(layers: Layers, reasoning: Reasoning) -> list[tuple[int, int]]:
    """Where the entities lie that it rests on, by themselves or by a relation of theirs."""
    ends = {relation.id: (relation.subject, relation.object) for relation in layers.relations}
    names = {end for name in reasoning.evidence for end in ends.get(name, (name,))}
    return [(entity.start, entity.end) for entity in layers.entities if entity.id in names]


def _readable(rationale: str) -> str:
    """Without the citations: ids mean nothing outside the annotation."""
    return " ".join(CITATION.sub("", rationale).split()).replace(" .", ".").replace(" ,", ",")


def _extractions(document: Annotated, labels: LabelsConfig, config: InstructConfig) -> Iterator[dict[str, Any]]:
    kinds = "; ".join(f"{name} ({about})" if about else name for name, about in labels.entities.items())
    for start, end in passages(document.text, config.max_context_characters):
        inside = [entity for entity in document.layers.entities if start <= entity.start and entity.end <= end]
        if inside:
            asked = f"{document.text[start:end].strip()}\n\nList the entities of these kinds as JSON: {kinds}."
            yield _exchange(asked, json.dumps(_by_label(inside), ensure_ascii=False))


def _by_label(entities: list[Entity]) -> Mapping[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for entity in entities:
        found.setdefault(entity.label, {})[entity.text] = None
    return {label: [*texts] for label, texts in found.items()}

"""A model behind the gateway as an annotator: real vLLM takes our schema. Its weights are random, and so is what it says."""

from __future__ import annotations

import asyncio

import pytest

from pipelines.data.annotation.config import LabelsConfig, ModelAnnotator, RelationLabel
from pipelines.data.annotation.layers import Given
from pipelines.data.annotation.model import ask_all
from tests.e2e.conftest import NAME, Served

pytestmark = pytest.mark.e2e

LABELS = LabelsConfig(
    entities={"person": "a human being", "tool": ""},
    relations={"made": RelationLabel(subject=("person",), object=("tool",))},
)


def test_a_model_annotates_through_the_gateway(served: Served) -> None:
    settings = ModelAnnotator(
        name="m",
        url=served.url,
        model=NAME,
        passage_characters=200,
        max_items=1,
        max_tokens=48,
        attempts=2,
        max_concurrent=4,
    )
    found: dict[int, Given] = {}
    documents = [(f"d{i}", f"Guido made list number {i}.") for i in range(3)]
    asyncio.run(ask_all(settings, LABELS, documents, found.__setitem__))  # a refused schema would be an InputError
    assert sorted(found) == [0, 1, 2]
    for given in found.values():
        assert {failure.reason for failure in given.failures} <= {"invalid_answer", "quote_not_found"}
        answers = [failure.item["answer"].lstrip() for failure in given.failures if "answer" in failure.item]
        assert all(answer.startswith("{") for answer in answers)  # of a random model: cut off, but shaped by the schema
        assert given.failures or given.layers.entities == ()

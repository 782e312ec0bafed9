"""Annotations by rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError, InputError
from pipelines.data.annotation.config import AnnotationConfig, EntityRule, QuestionRule, RelationRule, RulesAnnotator
from pipelines.data.annotation.layers import Layers
from pipelines.data.annotation.passages import context, passages
from pipelines.data.annotation.rules import Rules


def found(text: str, **rule: object) -> list[str]:
    rules = RulesAnnotator(entities=(EntityRule.model_validate({"label": "x", **rule}),))
    (layers,) = Rules(rules).annotate([text])
    assert all(text[entity.start : entity.end] == entity.text for entity in layers.entities)
    return [entity.text for entity in layers.entities]


def test_patterns_find_all_matches_by_code_points() -> None:
    assert found("É 😀 12 and 345, x12x", pattern=r"\b\d+\b") == ["12", "345"]
    assert found("ab AB", pattern="ab", ignore_case=True) == ["ab", "AB"]
    assert found("\ue000 1 \ue001", pattern="[0-9]|\ue000") == ["\ue000", "1"]
    assert found("abc", pattern="x*") == []  # what is empty is no entity
    assert found("one\\0two", pattern="one|two") == ["one", "two"]


def test_terms_are_whole_words_and_the_longest_wins() -> None:
    terms = ("New York", "York", "AT&T", "C++", "straße")
    assert found("New  York, york and Yorkshire; York.", terms=terms) == ["New  York", "York"]
    assert found("AT&T and AT & T, C++ or C", terms=terms) == ["AT&T", "C++"]
    assert found("STRASSE Straße", terms=terms, ignore_case=True) == ["STRASSE", "Straße"]


def test_terms_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "cities.txt").write_text("Turin\n\nAosta\n")
    assert found("Aosta, Turin", path=str(tmp_path / "cities.txt")) == ["Aosta", "Turin"]
    with pytest.raises(InputError, match="no such file"):
        found("", path=str(tmp_path / "none.txt"))


def test_relations_and_questions_rest_on_entities() -> None:
    rules = RulesAnnotator(
        entities=(EntityRule(label="person", terms=("Ada", "{object}")), EntityRule(label="company", terms=("Byte",))),
        relations=(
            RelationRule(relation="founded", between=r"\s+founded\s+"),
            RelationRule(relation="founded", between=r", the work of ", object_first=True),
        ),
        questions=(
            QuestionRule(relation="founded", question="Who founded {object}?", answer="{subject}",
                         rationale="{subject} founded {object}."),
        ),
    )  # fmt: skip
    one, two, three, four = Rules(rules).annotate(
        ["Ada founded Byte.", "Byte, the work of Ada", "Ada\n\nfounded Byte", "{object} founded Byte"]
    )
    for layers, subject, other in ((one, "e1", "e2"), (two, "e2", "e1")):
        assert [(r.subject, r.object) for r in layers.relations] == [(subject, other)]
        (asked,) = layers.reasonings
        assert (asked.question, asked.answer) == ("Who founded Byte?", "Ada")
        assert asked.rationale == f"Ada [{subject}] founded Byte [{other}]."
        assert asked.evidence == (subject, other, "r1")
    assert three.relations == ()  # in two paragraphs
    assert four.reasonings[0].answer == "{object}"  # what a document holds is no template


def test_mistakes_are_told_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="no RE2 expression"):
        found("", pattern="(?=a)")
    for pattern, message in ((r"\Qa", "no RE2 expression"), (r"\\\C", "a single byte")):
        with pytest.raises(ConfigError, match=message):
            found("", pattern=pattern)
    assert found(r"a\Cat", pattern=r"\\Cat") == [r"\Cat"]
    with pytest.raises(ValidationError, match="either a pattern, or terms"):
        EntityRule(label="x", pattern="a", terms=("b",))
    with pytest.raises(ValidationError, match="not under labels"):
        AnnotationConfig.model_validate(
            {"labels": {"entities": {"y": ""}}, "annotators": [{"kind": "rules", "entities": [{"label": "x", "pattern": "a"}]}]}
        )  # fmt: skip
    assert Rules(RulesAnnotator(entities=(EntityRule(label="x", pattern="a"),))).annotate([""]) == [Layers()]


@pytest.mark.parametrize("text", ["", "a" * 50, "one two three. four\n\nfive six", "x\n\n" * 20, "😀" * 31])
def test_passages_are_the_text(text: str) -> None:
    cut = passages(text, 10)
    assert "".join(text[a:b] for a, b in cut) == text
    assert all(0 < b - a <= 10 for a, b in cut)


def test_context_holds_the_spans() -> None:
    text = "First paragraph here.\n\nAda founded Byte in Turin.\n\nThe last one, which is long."
    start = text.index("Ada")
    assert context(text, [(start, start + 3), (start + 12, start + 16)], 50) == "Ada founded Byte in Turin."
    assert context(text, [(0, len(text))], 10) == text

"""Exact match decides as lm-evaluation-harness 0.4.13 does: what its own filters and metric gave for these texts stands here."""

from __future__ import annotations

import pytest

from pipelines.evaluation.metrics.exact import AS_WRITTEN, Extract, Found, Lookup, Reading, is_right, read

NOTHING = "[invalid]"
STRICT = Reading(
    (Extract(r"#### (\-?[0-9\.\,]+)", 0, NOTHING),), (",", r"\$", r"(?s).*#### ", r"\.$"), ignore_case=True
)
"""gsm8k: strict-match."""
FLEXIBLE = Reading((Extract(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1, NOTHING),), STRICT.ignore, ignore_case=True)
"""gsm8k: flexible-extract."""
TRIVIA = Reading(("strip",), ignore_case=True, ignore_punctuation=True)
NQ = Reading(("strip",), (r"\b(?:The |the |An |A |The |a |an )",), ignore_case=True, ignore_punctuation=True)
BABI = Reading(())
COT = Reading((Extract(r"(?<=the answer is )(.*)(?=.)", 0, NOTHING),))
"""bbh, cot_fewshot."""


@pytest.mark.parametrize(
    ("reading", "text", "answers", "right"),
    [
        (STRICT, "3+2=5\n#### 5", ["3 + 2 = 5\n#### 5"], True),
        (STRICT, "#### 1,234", ["It is 1,234.\n#### 1,234"], True),
        (STRICT, "#### 5.", ["#### 5"], True),
        (STRICT, "#### 5 and #### 7", ["#### 7"], False),
        (STRICT, "The answer is 5.", ["#### 5"], False),
        (STRICT, "", ["#### 5"], False),
        (FLEXIBLE, "The answer is 5.", ["#### 5"], True),
        (FLEXIBLE, "It costs $1,234.50.", ["#### 1234.50"], True),
        (FLEXIBLE, "5 apples, 3.", ["#### 5"], False),
        (FLEXIBLE, "5 ...", ["#### 5"], False),
        (FLEXIBLE, "so -7.", ["#### -7"], True),
        (FLEXIBLE, "- 7", ["#### -7"], False),
        (FLEXIBLE, "none", ["#### 5"], False),
        (TRIVIA, " paris. ", ["Paris", "The City of Light"], True),
        (TRIVIA, "the city of light", ["Paris", "The City of Light"], True),
        (TRIVIA, "Paris, France", ["Paris"], False),
        (TRIVIA, "", ["..."], True),
        (NQ, "The Beatles", ["beatles"], True),
        (NQ, "ox", ["an Ox"], True),
        (NQ, "oxen", ["an Ox"], False),
        (BABI, " kitchen", [" kitchen"], True),
        (BABI, "kitchen", [" kitchen"], False),
        (COT, "So the answer is False.", ["False"], True),
        (COT, "So the answer is False", ["False"], False),
        (COT, "the answer is \nFalse.", ["False"], False),
        (COT, "False", ["False"], False),
        # Where nothing is found the harness compares what its filter says instead.
        (Reading((Extract("(valid|invalid)!", 0, NOTHING),), ignore_punctuation=True), "hm", ["invalid"], True),
        (Reading((Extract(r"(?:\((A)\))|(?:\((B)\))", 0, NOTHING),)), "It is (B).", ["B"], True),
        (Reading((Extract("(x*)(y*)", 0, NOTHING),)), "z", [NOTHING], True),
        (Reading((Extract(r"^[A-D]", 5, NOTHING),)), "A", ["A"], False),  # for which the harness raises
        (Reading(("lower", Extract("b+"), "upper")), "aBbC", ["BB"], True),
        (Reading(("strip", Lookup((("A", "yes"), ("B", "no"))))), " A\n", ["yes"], True),
        (Reading((Lookup((("A", "yes"),), "no"),)), "C", ["no"], True),
        (Reading((), ignore_numbers=True), "room 12", ["room 7"], True),
    ],
)
def test_decisions(reading: Reading, text: str, answers: list[str], right: bool) -> None:
    assert is_right(reading, read(reading, text), answers) is right


@pytest.mark.parametrize(
    ("reading", "text", "found"),
    [
        (AS_WRITTEN, " x \n", Found("x", True)),
        (AS_WRITTEN, " \n", Found("", False)),
        (STRICT, "no number", Found(NOTHING, False)),
        (Reading((Extract("x"),)), "y", Found(None, False)),
        (Reading((Extract("x"), "strip", Extract("y"))), "y", Found(None, False)),
        (Reading((Extract("x", 0, "y"), Extract("y"))), "z", Found("y", False)),
        (Reading((Extract("x(.*)"),)), "ax ", Found("", False)),
    ],
)
def test_what_is_no_answer_is_told(reading: Reading, text: str, found: Found) -> None:
    assert read(reading, text) == found


def test_no_answer_is_never_right() -> None:
    assert not is_right(Reading(()), Found(None, False), ["", "None"])

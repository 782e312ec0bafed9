"""Metrics by hand, and what they say of bad input."""

import math

import pytest

from cluster.errors import InputError
from pipelines.evaluation.metrics import bbq, choice, rouge, squad, tatqa, translation, weat
from pipelines.evaluation.metrics.answers import by_id, paired


@pytest.mark.parametrize(
    ("found", "right", "exact", "f1"),
    [
        ("The Normans!", ["normans"], 1, 1),
        ("in the 10th century", ["10th century", "1066"], 0, 0.8),
        ("", [], 1, 1),
        ("1066", [], 0, 0),
        ("", ["1066"], 0, 0),
        ("the", ["1066"], 0, 0),
        ("one one two", ["one two two"], 0, 2 / 3),
        ("anything", ["the", "."], 0, 0),  # right answers of nothing but articles and punctuation are none
    ],
)
def test_squad_by_hand(found: str, right: list[str], exact: float, f1: float) -> None:
    assert squad.exact_match(found, right) == exact
    assert squad.f1(found, right) == pytest.approx(f1)


DRUGS = ["Aspirin", "Aspirin and heparin", "Warfarin", "None of these"]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ('{"step_by_step_thinking": "The answer is B.", "answer_choice": "C"}', 2),
        ('{"answer_choice": "A. Aspirin"}', 0),
        ('{"answer_choice": "Not listed"}', None),
        ("First I thought the answer is A. But the answer is (D).", 3),
        ("**Answer:** C", 2),
        ("B", 1),
        (" C. Warfarin\nbecause", 2),
        ("Let us see.\n\nB.", 1),
        ("I would give aspirin and heparin.", 1),
        ("Aspirin or warfarin", None),
        ("A patient like this needs rest.", None),
        ("The answer is E.", None),
        ("", None),
    ],
)
def test_choices_are_read_and_not_guessed(text: str, chosen: int | None) -> None:
    assert choice.read_choice(text, DRUGS) == chosen


def test_what_could_not_be_read_is_counted() -> None:
    choices, golds = dict.fromkeys("xyz", DRUGS), {"x": 0, "y": 1, "z": 0}
    found = choice.score_all(choices, golds, {"x": "A", "y": "", "z": "no idea"})
    assert (round(found.accuracy, 1), found.num_unread, found.num_empty) == (33.3, 2, 1)
    assert round(choice.score_all(choices, golds, {"x": "A", "y": "", "z": "no idea"}, unread_as=0).accuracy, 1) == 66.7


@pytest.mark.parametrize(
    ("golds", "predictions", "says"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, r"1 item\(s\) without a prediction \(first b\)"),
        ({"a": 1}, {"a": None}, "without a prediction"),
        ({"a": None}, {"a": 1}, "without a right answer"),
        ({"a": 1}, {"a": 1, "c": 1, "d": 1}, r"2 item\(s\) predicted, which no item is \(first c\)"),
        ({"a": 1}, {"a": math.nan}, "not a number"),
        ({}, {}, "no items"),
    ],
)
def test_what_does_not_belong_together_is_named_and_counted(
    golds: dict[str, object], predictions: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        paired("a task", golds, predictions)


def test_ids_given_twice_are_named() -> None:
    assert by_id("t", [("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(InputError, match=r"1 id\(s\) are given twice \(first a\)"):
        by_id("t", [("a", 1), ("b", 2), ("a", 3)])
    with pytest.raises(InputError, match="no items"):
        by_id("t", [])


def test_translation_of_itself_is_perfect_and_lengths_must_agree() -> None:
    text = ["the cat sat on the mat today", "a second line of some length"]
    found = translation.score_all(text, [text])
    assert (found.bleu, found.chrf) == pytest.approx((100, 100))
    assert translation.score_all([text[0], " "], [text]).num_empty == 1
    with pytest.raises(InputError, match="2 translations against references of \\[1\\] lines"):
        translation.score_all(text, [text[:1]])


PLANE = {
    **{"rose": (1.0, 0.0), "lily": (0.8, 0.6), "wasp": (0.0, 1.0), "moth": (0.6, 0.8)},
    **{"good": (2.0, 0.0), "kind": (1.0, 0.0), "bad": (0.0, 3.0), "vile": (0.0, 1.0)},
}


def test_weat_by_hand() -> None:
    found = weat.score(PLANE, (["rose", "lily"], ["wasp", "moth", "gnat"]), (["good", "kind"], ["bad", "vile"]))
    # s = 1, 0.2, -1, -0.2: means 0.6 and -0.6, sample standard deviation sqrt(2.08 / 3).
    assert found.effect_size == pytest.approx(1.2 / math.sqrt(2.08 / 3))
    assert found.p == pytest.approx(1 / 6)  # the largest of the six divisions
    assert found.num_missing == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"good": (math.nan, 1.0)}, "1 vector\\(s\\) are 0 or not finite \\(first good\\)"),
        ({"good": (0.0, 0.0)}, "first good"),
        (dict.fromkeys(("rose", "lily", "wasp", "moth"), (1.0, 1.0)), "equally near"),
    ],
)
def test_weat_of_bad_vectors(changes: dict[str, tuple[float, float]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        weat.score({**PLANE, **changes}, (["rose", "lily"], ["wasp", "moth"]), (["good", "kind"], ["bad", "vile"]))
    with pytest.raises(InputError, match="1 of 2 words have a vector"):
        weat.score(PLANE, (["rose", "gnat"], ["wasp", "moth"]), (["good", "kind"], ["bad", "vile"]))


def test_bbq_by_hand() -> None:
    def asked(chosen: int | None, condition: bbq.Condition = "ambig") -> bbq.Answered:
        return bbq.Answered(condition, gold=1, chosen=chosen, unknown=1, biased=0)

    # Of four: one says unknown (right), two follow the stereotype, one goes against it: 2 x 2/3 - 1, times 1 - 1/4.
    found = bbq.score([asked(1), asked(0), asked(0), asked(2)], "ambig")
    assert (found.accuracy, found.bias) == pytest.approx((25, 25))
    unread = bbq.score([asked(None), asked(1)], "ambig")
    assert (unread.accuracy, unread.bias, unread.num_unread) == (50, None, 1)
    with pytest.raises(InputError, match="no items"):
        bbq.score([asked(1)], "disambig")
    assert bbq.chosen("the muslim one", ["The Jewish one", "Can't answer", "The Muslim one."]) == 2
    assert bbq.chosen("somebody", ["The Jewish one", "Can't answer"]) is None


def test_rouge_by_hand() -> None:
    found = rouge.score("the cat sat", "The cat, it sat!")
    assert (found.rouge1, found.rouge2, found.rouge_l) == pytest.approx((6 / 7, 2 / 5, 6 / 7))
    assert rouge.score("", "a") == rouge.RougeScore(0, 0, 0)


@pytest.mark.parametrize(
    ("parts", "scale", "exact", "f1"),
    [
        (("1,496.5",), "million", 1, 1),
        (("$1,496.5",), "million", 1, 1),
        (("1,496.5",), "", 0, 0),  # the scale is part of the answer
        (("1496500000",), "", 1, 1),
        ((), "million", 0, 0),
    ],
)
def test_tatqa_numbers(parts: tuple[str, ...], scale: str, exact: float, f1: float) -> None:
    assert tatqa.score(tatqa.Gold(("$1,496.5",), "million", "span"), tatqa.Found(parts, scale)) == (exact, f1)


def test_tatqa_texts_and_counts() -> None:
    gold = tatqa.Gold(("the fixed-price type", "cost-plus"), "", "multi-span")
    assert tatqa.score(gold, tatqa.Found(("cost-plus", "fixed-price type"))) == (1, 1)
    assert tatqa.score(gold, tatqa.Found(("cost-plus",))) == (0, 0.5)
    assert tatqa.score(tatqa.Gold(("-22.22",), "percent", "arithmetic"), tatqa.Found(("(22.22)",), "percent")) == (1, 1)
    assert tatqa.score(tatqa.Gold(("-22.22",), "percent", "arithmetic"), tatqa.Found(("-22.2",), "percent")) == (0, 0)
    assert [tatqa.number_of(text) for text in ("(134)", "12%", "2 million", "none")] == [-134, 0.12, 2e6, None]
    with pytest.raises(InputError, match="without a prediction"):
        tatqa.score_all({"1": gold}, {})

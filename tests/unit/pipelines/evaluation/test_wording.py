"""Figures of two models keep the digits in which they differ, and each line says by which rule it was decided."""

from __future__ import annotations

import pytest

from cluster.artifacts import Check, Difference, Finding, OverlapCheck
from pipelines.evaluation import page_parts, report_page
from pipelines.evaluation.explain import mark
from pipelines.evaluation.report import RunReport
from pipelines.evaluation.wording import LEAST_BOUND, both, change, moved


def difference(value: float, low: float, high: float, num_different: int | None = 3, old: float = 0.5) -> Difference:
    return Difference(
        task="t", metric="accuracy", old=old, new=old + value, difference=value, ci_low=low, ci_high=high, ratio=1,
        num_items=1000, num_different=num_different,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (difference(-0.03125, -0.0833, 0.0104), ("-0.0312", "-0.0833 to +0.0104")),
        (difference(0.00002, -0.00001, 0.00005), ("+0.0000200", "-0.0000100 to +0.0000500")),
        (difference(2e-8, -1e-8, 5e-8), ("+2.0e-08", "-1.0e-08 to +5.0e-08")),
        (difference(0.0, -0.002, 0.002), ("0", "-0.00200 to +0.00200")),
        (difference(893240.3, 800000, 990000), ("+893240", "+800000 to +990000")),
        (difference(0.0, 0.0, 0.0, num_different=0), ("0", "identical on all 1,000 items")),
        (difference(0.0, 0.0, 0.0, num_different=None), ("0", "0 to 0")),
    ],
)
def test_a_difference_keeps_its_digits(found: Difference, said: tuple[str, str]) -> None:
    assert change(found) == said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (0.8, 0.76875, ("0.8", "0.7688")),
        (-0.0, 0.0, ("0", "0")),
        (16.05001, 16.05002, ("16.05001", "16.05002")),
        (16.05, 16.05, ("16.05", "16.05")),
        (16.05, 16.05 * (1 + 1e-12), ("16.05", "16.05")),
    ],
)
def test_two_figures_that_are_not_the_same_do_not_look_the_same(old: float, new: float, said: tuple[str, str]) -> None:
    assert both(old, new) == said


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (3.125, "3.1 points worse"),
        (-0.043, "0.043 points better"),
        (0.00000001, "less than 0.0001 points worse"),
        (0.0, "no difference"),
        (-1e-15, "no difference"),
    ],
)
def test_a_loss_is_never_rounded_to_nothing(harm: float, said: str) -> None:
    assert moved(harm, "points") == said


def test_a_bound_says_no_more_than_it_was_searched_for() -> None:
    assert moved(0.004, "points", LEAST_BOUND) == "less than 0.02 points worse"


def check(method: str) -> Check:
    return Check(
        name="t: trained vs base", task="t", priority="must", outcome="passed", message="t: trained vs base: m", metric="accuracy",
        method=method, num_items=10, old=0.5, new=0.5, harm=0, harm_low=0, harm_high=0, margin=1, effect=2,
    )  # fmt: skip


def limit(rule: str) -> OverlapCheck:
    return OverlapCheck.model_validate(
        {
            "name": "contamination of t", "task": "t", "priority": "must", "outcome": "passed", "rule": rule,
            "message": "contamination of t: 0.0 % (0 of 10 items), at most 1 % is asked", "num_items": 10,
            "num_contaminated": 0, "num_unmeasured": 0, "max_percent": 1, "percent_low": 0, "percent_high": 0, "items": "k",
        }
    )  # fmt: skip


RULES = {
    "paired test": check("exact test of paired proportions"),
    "recovery, no test": check(""),
    "limit, 8 words": limit("most_8_grams"),
    "limit, 13 words": limit("any_13_gram"),
}


@pytest.mark.parametrize(("rule", "found"), RULES.items())
def test_each_line_says_by_which_rule_it_was_decided(rule: str, found: Finding) -> None:
    assert found.decided_by == rule
    assert rule in mark(found), "in the run's own lines"
    assert mark(found).endswith(" "), "a column of its own, before what was found"


def test_the_page_tells_two_limits_apart_and_what_is_identical() -> None:
    same = difference(0.0, 0.0, 0.0, num_different=0)
    report = RunReport(
        name="m", outcome="passed", checks=(RULES["paired test"],), differences={"trained vs base": (same,)},  # type: ignore[arg-type]
        overlaps=(RULES["limit, 8 words"], RULES["limit, 13 words"]),  # type: ignore[arg-type]
    )  # fmt: skip
    page = report_page.page(report)
    assert "<th>decided by</th>" in page
    assert all(f"<td>{rule}</td>" in page for rule in ("paired test", "limit, 8 words", "limit, 13 words"))
    assert "identical on all 1,000 items" in page
    assert "+0 to +0" not in page
    assert '<td class="n">7</td>' in page_parts.differences([difference(0.01, 0.001, 0.02, num_different=7)])

"""What models keep slice by slice: by hand, and as the report's page draws it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest

from pipelines.evaluation import plots, report_page
from pipelines.evaluation.items import Row
from pipelines.evaluation.report import RunReport
from pipelines.evaluation.report_items import Items
from pipelines.evaluation.slices import SliceRecovery, recoveries

LANGUAGES = ("de", "en", "fr")


def items(score: Callable[[int], float], num: int = 60, metric: str = "accuracy") -> Items:
    """Item n is in a language by turns, all but the last few of the domain web, and every sixth is long."""
    rows: dict[tuple[str, str], Row] = {}
    for n in range(num):
        about = {"language": LANGUAGES[n % 3], "domain": "web" if n < num - 4 else "books"}
        figures = {"score": score(n), "nll": -score(n), "num_tokens": 10, "num_bytes": 40}
        rows["exam", f"{n:03}"] = {
            "id": f"{n:03}",
            **about,
            **figures,
            "num_prompt_characters": 900 if n % 6 == 0 else 300,
        }
    return Items(rows, {"exam": metric})


def found(*models: Items) -> dict[str, SliceRecovery]:
    named = dict(zip(("base", "trained", "quantized"), models, strict=False))
    return {one.slice: one for one in recoveries(named)}


def test_each_slice_with_what_is_kept_of_it() -> None:
    """The trained model is right on everything, the quantized one on nothing in German."""
    told = found(items(lambda n: float(n % 4 < 2)), items(lambda n: 1.0), items(lambda n: float(n % 3 > 0)))
    assert list(told) == ["", "language de", "language en", "language fr", "domain web", "long: from 600 characters"]
    assert {name: one.num_items for name, one in told.items()} == {
        "": 60, "language de": 20, "language en": 20, "language fr": 20, "domain web": 56, "long: from 600 characters": 10,
    }  # fmt: skip
    base, trained, quantized = told[""].kept
    assert (base.value, base.percent, trained.value, trained.percent) == (0.5, None, 1.0, 200.0)
    assert quantized.percent == pytest.approx(100 * (2 / 3) / 0.5)
    assert trained.ci_low is not None
    assert trained.ci_high is not None
    assert trained.ci_low < 200 < trained.ci_high
    german = told["language de"].kept[2]
    assert (german.value, german.percent, german.ci_high) == (0.0, 0.0, 0.0)


def test_where_lower_is_better_it_is_the_other_way_round() -> None:
    """Perplexity exp(2.0 / 10) against exp(2.2 / 10)."""
    told = found(items(lambda n: -2.0, metric="perplexity"), items(lambda n: -2.2, metric="perplexity"))
    kept = told["language fr"].kept[1]
    assert kept.percent == pytest.approx(100 * math.exp(-0.02))
    assert kept.ci_low == pytest.approx(kept.percent)


def test_a_model_that_scored_nothing_leaves_nothing_to_keep() -> None:
    told = found(items(lambda n: 0.0), items(lambda n: 1.0))
    assert [(one.value, one.percent) for one in told[""].kept] == [(0.0, None), (1.0, None)]


ALL = ["", "language de", "language en", "language fr", "domain web"]


@pytest.mark.parametrize(("num", "names"), [(0, []), (3, [""]), (14, [*ALL[:3], ALL[4]]), (15, ALL)])
def test_few_items_are_no_slice(num: int, names: list[str]) -> None:
    assert list(found(items(lambda n: 1.0, num), items(lambda n: 1.0, num))) == names


def test_one_model_alone_other_items_and_figures_that_no_gate_compares() -> None:
    assert found(items(lambda n: 1.0)) == {}
    assert found(items(lambda n: 1.0), items(lambda n: 1.0, 30))[""].num_items == 30
    assert found(items(lambda n: 1.0, metric="effect_size"), items(lambda n: 1.0, metric="effect_size")) == {}


def test_the_page_draws_a_point_for_each_model_and_slice() -> None:
    models = {
        "base": items(lambda n: float(n % 4 < 2)),
        "trained": items(lambda n: 1.0),
        "quantized": items(lambda n: float(n % 3 > 0)),
    }
    report = RunReport(name="m", outcome="passed", slices=tuple(recoveries(models)))
    page = report_page.page(report)
    section = page[page.index("<h2>What is kept, slice by slice</h2>") : page.index("<h2>Contamination</h2>")]
    assert section.count("<circle") == 2 * 6
    assert section.count('class="m1" cx') == section.count('class="m2" cx') == 6
    assert "<title>language de, quantized: 0.0 % (0.0 to 0.0)</title>" in section
    assert '<td class="n">200.0 %</td>' in section
    assert RunReport.model_validate_json(report.model_dump_json()) == report


def test_what_lies_far_off_ends_at_the_edge_and_names_are_escaped() -> None:
    far = plots.Interval("trained", 900.0, 120.0, 5000.0)
    drawn = plots.shares("<b>", [("domain <script>" + "x" * 40, [far, None])])
    assert "<script>" not in drawn
    assert "900.0 % (120.0 to 5000.0)" in drawn
    assert max(float(at) for at in re.findall(r'(?:cx|x2)="([0-9.]+)"', drawn)) <= plots.WIDTH
    assert "…" in drawn


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.0, 250.0, ["0 %", "100 %", "251 %"]), (0.0, 100.0, ["0 %", "100 %"]), (98.0, 260.0, ["100 %", "251 %"])],
)
def test_ends_of_the_axis_that_lie_beside_the_mark_are_not_written_over_it(
    low: float, high: float, told: list[str]
) -> None:
    drawn = plots.shares("p", [("all items", [plots.Interval("trained", 100.0, low, high)])])
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', drawn) == told

"""Duplicates as pairs, fates by source, label agreement, plots: each figure beside one reckoned by hand."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.artifacts import Agreement, Annotations, save
from cluster.storage import LocalStorage
from pipelines.config import SourceConfig
from pipelines.data.report import pairs as report_pairs
from pipelines.data.report import plots as report_plots
from pipelines.data.report import rows as report_rows
from pipelines.data.report.consistent import consistent
from pipelines.data.report.first import findings
from pipelines.data.report.page import STYLE, page
from pipelines.data.report.pairs import Pair, conflict, likeness
from pipelines.data.report.report import report
from tests.unit.pipelines.data.world import FILTERS, TEXTS, config, make

LONG = " ".join(f"word{i} canary mine{i} lamp{i}" for i in range(60))


def write(folder: Path, name: str, texts: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def two(tmp_path: Path) -> tuple[SourceConfig, ...]:
    """Of the second source one document is in the first, one is nearly, and a copy of that one is there too."""
    near = LONG.replace("mine30", "shaft30")
    write(tmp_path / "first", "a.jsonl", [*TEXTS, f"{LONG} in the year 1866"])
    write(
        tmp_path / "second", "b.jsonl", [TEXTS[0], f"{near} in the year 1866", f"{near}  in the year 1866", "too short"]
    )
    with (tmp_path / "second" / "b.jsonl").open("a") as file:
        file.write("{torn\n{torn\n")
    return tuple(SourceConfig(path=str(tmp_path / name)) for name in ("first", "second"))


def test_fates_and_steps_add_up(storage: LocalStorage, two: tuple[SourceConfig, ...]) -> None:
    settings = config("unused").model_copy(update={"sources": two})
    found = report(storage, make(storage, settings), settings)
    assert {fates.name: fates.num_by_fate for fates in found.fates} == {
        "first": {"kept": 13},
        "second": {"no document": 2, "quality": 1, "duplicates": 3},
    }
    assert [(step.name, step.num_out, step.num_left) for step in found.steps] == [
        ("no document", 2, 17), ("quality", 1, 16), ("duplicates", 3, 13),
    ]  # fmt: skip
    assert found.steps[-1].num_left == found.num_kept
    characters = {dropped.reason: dropped.num_characters for dropped in found.dropped}
    assert (characters["too_few_words"], characters["exact_duplicate"] > len(TEXTS[0])) == (len("too short"), True)


def test_overlaps_follow_a_copy_of_a_near_duplicate_to_what_stays(
    storage: LocalStorage, two: tuple[SourceConfig, ...]
) -> None:
    settings = config("unused").model_copy(update={"sources": two})
    found = report(storage, make(storage, settings), settings)
    assert [(one.source, one.stays_in, one.num) for one in found.overlaps] == [("second", "first", 3)]
    (check,) = [
        check for check in found.checks if check.what == "every duplicate was taken out for a document that stays"
    ]
    assert (check.ok, check.found) == (True, "0 for one that does not")
    assert (found.likeness.num_pairs, found.likeness.num_other_numbers) == (1, 0)
    assert sum(found.likeness.num_by_tenth[9:]) == 1


def test_a_duplicate_of_nothing_is_found_out() -> None:
    rows = pa.table({"id": ["a", "b", "c", "d"], "fate": ["kept", "duplicates", "duplicates", "duplicates"],
                     "detail": ["", "of a", "of gone", "of x in version 0123"]})  # fmt: skip
    assert report_pairs.num_unfounded(rows) == 1


def test_likeness_is_jaccards_and_tells_conflicts() -> None:
    words = [f"w{i}" for i in range(24)]
    half = [*words[:12], *(f"x{i}" for i in range(12))]
    pairs = [Pair("same", " ".join(words), " ".join(words).upper()), Pair("half", " ".join(words), " ".join(half))]
    found = likeness([*pairs, Pair("year", "the mine opened in 1866 for all", "the mine opened in 1867 for all")], 5)
    jaccard = 8 / (20 + 20 - 8)  # of 20 5-grams each the first 8 are in both
    assert found.num_by_tenth[9] == 1
    assert found.num_by_tenth[int(jaccard * 10)] == 1
    assert found.num_other_numbers == 1
    assert ("1866" in found.other_numbers[0].before, "1867" in found.other_numbers[0].after) == (True, True)


@pytest.mark.parametrize(
    ("one", "other", "is_conflict"),
    [
        ("it was sold for 20 pounds", "it was sold for 25 pounds", True),
        ("it was sold for 2.5 pounds", "It was sold for 2,5 Pounds", True),
        ("it was sold for 20 pounds", "a lamp was sold for 20 pounds and 7 more", False),
        ("it was sold for 20 pounds, and it was sold for 30 pounds", "it was sold for 20 pounds", False),
        ("no number here", "none there", False),
    ],
)
def test_conflicts_are_other_numbers_between_the_same_words(one: str, other: str, is_conflict: bool) -> None:
    assert (conflict(one, other) is not None) is is_conflict


def test_documents_are_drawn_by_their_ids_alone() -> None:
    ids = [f"docs/a.jsonl#{i}" for i in range(1_000)]
    whole = report_rows.draws(pa.chunked_array([ids]))
    parts = [*report_rows.draws(pa.chunked_array([ids[:7]])), *report_rows.draws(pa.chunked_array([ids[7:]]).slice(0))]
    assert whole.tolist() == [int(draw) for draw in parts]
    assert len(set(whole.tolist())) == 1_000
    least = sorted(range(1_000), key=lambda i: whole[i])[:100]
    assert 300 < sum(least) / 100 < 700  # spread over all, not the first ones
    assert len(report_rows.draws(pa.chunked_array([pa.array([], pa.string())]))) == 0


def test_checks_find_other_columns_nulls_and_records_out_of_step(storage: LocalStorage, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "docs", "a.jsonl", TEXTS)
    settings = config(tmp_path / "docs")
    dataset = make(storage, settings)
    shards = [storage.root / dataset.location / batch.path for batch in dataset.batches]
    table = pq.read_table(shards[1])
    pq.write_table(table.append_column("more", pa.array([1] * len(table))), shards[1])
    record = storage.root / f"artifacts/record/{dataset.key}" / dataset.batches[0].path
    rows = pq.read_table(record)
    pq.write_table(rows.take(list(reversed(range(len(rows))))), record)
    failed = {
        check.what.partition(":")[0]: check.found
        for check in report(storage, dataset, settings).checks
        if check.ok is False
    }
    assert failed == {
        "schema": dataset.batches[1].path,
        "every shard has the documents of its record, in order": dataset.batches[0].path,
    }


def test_shards_that_are_not_utf8_are_told(storage: LocalStorage, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "docs", "a.jsonl", TEXTS)
    dataset = make(storage, config(tmp_path / "docs"))
    path = storage.root / dataset.location / dataset.batches[0].path
    table = pq.read_table(path)
    broken = pa.array([b"\xff\xfe broken"] * len(table), pa.large_binary()).view(pa.large_string())
    pq.write_table(
        table.set_column(1, table.schema.field("text"), broken.cast(table.schema.field("text").type, safe=False)), path
    )
    found = report(storage, dataset)
    (check,) = [check for check in found.checks if check.what.startswith("encoding: all")]
    assert (check.ok, check.found) == (False, dataset.batches[0].path)
    assert page(found)


def test_label_agreement_of_this_version_is_told(storage: LocalStorage, tmp_path: Path) -> None:
    write(tmp_path / "docs", "a.jsonl", TEXTS)
    dataset = make(storage, config(tmp_path / "docs"))
    agreement = tuple(
        Agreement(layer=layer, alpha=alpha, num_units=40, annotators=("ann", "bob"))
        for layer, alpha in (("entity", 0.91), ("relation", 0.5), ("reasoning", None))
    )
    made = {
        "num_documents": 3,
        "annotators": ("ann", "bob"),
        "agreement": agreement,
        "num_review_by_reason": {"outvoted": 2},
        "num_given_by_layer": {"entity": 10, "relation": 4, "reasoning": 1},
        "num_accepted_by_layer": {"entity": 9},
    }
    save(storage, Annotations(key="a" * 16, dataset=dataset.key, **made))
    save(storage, Annotations(key="b" * 16, dataset="another", **made))
    found = report(storage, dataset)
    (labels,) = found.labels
    assert [(layer.name, layer.alpha, layer.num_accepted) for layer in labels.layers] == [
        ("entity", 0.91, 9), ("relation", 0.5, 0), ("reasoning", None, 0),
    ]  # fmt: skip
    (check,) = [check for check in found.checks if "label agreement" in check.what]
    assert check.found == "entity 0.910, relation 0.500"
    assert ["alpha 0.500" in finding.text for finding in findings(found)] == [True]
    shown = "".join(consistent(found))
    assert ("outvoted" in shown, shown.count("<circle")) == (True, 2)


# --- plots ------------------------------------------------------------------------------------------------------------

NASTY = '<script>alert("x")</script>&'
PLOTS = {
    "bars": report_plots.bars(
        NASTY, [report_plots.Bar(NASTY, 3, NASTY, 2, 4, 6), report_plots.Bar("b", 6, "6", tone="k2")], [(NASTY, "k0")]
    ),
    "stacked": report_plots.stacked(
        NASTY, [(NASTY, NASTY, [report_plots.Part(NASTY, 1, "k0"), report_plots.Part("b", 3, "k1")])]
    ),
    "columns": report_plots.columns(NASTY, [NASTY, "b"], [report_plots.Part(NASTY, 0, "k0")], [(0.25,), (0.5,)]),
    "dots": report_plots.dots(NASTY, [report_plots.Bar(NASTY, -0.5, NASTY)], [(0.8, NASTY)]),
    "no rows": report_plots.bars("none", []),
    "zeros": report_plots.bars("zeros", [report_plots.Bar("a", 0, "0")]),
    "no columns": report_plots.columns("none", [], [report_plots.Part("a", 0, "k0")], []),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_sound_and_escaped(name: str) -> None:
    root = ET.fromstring(PLOTS[name])
    assert {element.tag for element in root.iter()} <= {"svg", "rect", "line", "text", "title", "circle"}
    classes = {element.get("class") for element in root.iter()} - {None}
    assert all(f".{tone} " in STYLE for tone in classes)


def widths(plot: str) -> list[float]:
    return [
        float(rect.get("width", "0")) for rect in ET.fromstring(plot).iter("rect") if rect.find("title") is not None
    ]


def test_bars_are_as_long_as_their_values() -> None:
    first, second = widths(PLOTS["bars"])
    assert second == pytest.approx(2 * first, abs=0.2)
    part, rest = widths(PLOTS["stacked"])
    assert rest == pytest.approx(3 * part, abs=0.2)
    low, high = (float(rect.get("height", "0")) for rect in ET.fromstring(PLOTS["columns"]).iter("rect"))
    assert high == pytest.approx(2 * low)


def test_a_page_without_documents_of_a_kind_is_whole(storage: LocalStorage, tmp_path: Path) -> None:
    write(tmp_path / "docs", "a.jsonl", TEXTS)
    settings = config(tmp_path / "docs", filters=FILTERS, rules=())
    shown = page(report(storage, make(storage, settings), settings))
    for told in ("The recipe has no rules", "Nothing was excluded", "asks for none", "No annotations", "origin_field"):
        assert told in shown
    for plot in re.findall(r"<svg.*?</svg>", shown, re.DOTALL):
        ET.fromstring(plot)

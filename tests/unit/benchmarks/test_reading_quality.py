"""The measures of benchmarks/bench_reading_quality.py, against a published figure, and a part of what they find."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.data.pages import declared_charset, decode, main_text

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_shingles_and_averages() -> None:
    from bench_reading_quality import extraction, shingles

    assert shingles("a b, c d e") == {tuple("abcd"): 1, tuple("bcde"): 1}
    assert shingles("a b") == {("a", "b"): 1}
    found = extraction({"x": "a b c d e", "y": "f g h i"}, {"x": "a b c d", "y": "none of it"})
    assert found == pytest.approx((1 / 3, 0.5, 0.25))  # x: 1 of 1 and 1 of 2; y: nothing


def test_articles_are_extracted_as_well_as_published(shared_data: Callable[[str], Path]) -> None:
    """The measure gives what the benchmark's own page tells of trafilatura 2.0.0; of our pages some are enough here."""
    from bench_reading_quality import extraction

    folder = shared_data("web_article_benchmark")
    truth = {name: page["articleBody"] for name, page in json.loads((folder / "ground-truth.json").read_text()).items()}
    output = json.loads((folder / "output" / "trafilatura.json").read_text())["output"]
    published = {name: page["articleBody"] or "" for name, page in output.items()}
    assert round(extraction(truth, published).f1, 3) == 0.958
    some = {name: truth[name] for name in sorted(truth)[::12]}
    pages = {name: gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()) for name in some}
    ours = {name: main_text(decode(page, declared_charset(page)) or "") or "" for name, page in pages.items()}
    assert extraction(some, ours).f1 >= extraction(some, published).f1 - 0.01

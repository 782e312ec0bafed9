"""The report on a dataset: figures that add up, checks that find planted damage, a page that is safe to open."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from pipelines.data.report.page import page, write
from pipelines.data.report.report import report
from serinus import app
from tests.unit.pipelines.data.world import FILTERS, TEXTS, config, make
from tests.unit.test_check import GOOD

GERMAN = "Der Vogel sang laut in der Grube und niemand hörte ihn, denn alle waren schon nach Hause gegangen"
NASTY = '<script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    texts = [
        *TEXTS,
        TEXTS[0],
        TEXTS[0] + " ",
        TEXTS[1],
        GERMAN,
        f"too {NASTY}",
        f"{TEXTS[2]} and a \ufffd mark in coal mines",
    ]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "a.jsonl").write_text("\n".join([*lines, '{"torn']))
    return folder


def test_figures_add_up(storage: LocalStorage, folder: Path) -> None:
    filters = FILTERS.replace(languages=("en", "fr"), min_language_confidence=0.0)
    dataset = make(storage, config(folder, filters=filters, dedup={"near": False}))
    found = report(storage, dataset)

    assert {dropped.reason: dropped.num for dropped in found.dropped} == dataset.num_excluded_by_reason == {
        "exact_duplicate": 3, "broken_json": 1, "language": 1, "too_few_words": 1,
    }  # fmt: skip
    assert all(len(dropped.samples) == min(3, dropped.num) for dropped in found.dropped)
    for shares in (found.sources, found.lengths):
        assert sum(share.num_kept for share in shares) == dataset.num_kept
        assert sum(share.num_characters_kept for share in shares) == dataset.num_characters_kept
    assert (found.sources[0].name, found.sources[0].num_in) == ("docs", 19)
    assert {share.name: share.num_kept for share in found.languages} == {"en": 13, "de": 0}
    assert found.missing_languages == ("fr",)
    assert [share.name for share in found.lengths] == ["64 to 127", "128 to 255"]
    checks = {check.what: check for check in found.checks}
    assert all(check.ok is not False for check in checks.values())
    assert checks["kept texts with a mark for unreadable bytes (U+FFFD)"].found == "1"
    assert checks["places in the input that could not become a document"].found == "1"
    assert checks["documents that stand for others"].found == "2; most: docs/a.jsonl#1 for 2, docs/a.jsonl#2 for 1"


def test_damage_is_found(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, config(folder))
    first, second = (storage.root / dataset.location / batch.path for batch in dataset.batches[:2])
    first.write_bytes(second.read_bytes())
    (check,) = [check for check in report(storage, dataset).checks if check.ok is False]
    assert (check.what, check.found) == ("every shard has the hash that the manifest tells", dataset.batches[0].path)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name == "href"}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_runs_nothing_and_asks_for_nothing_from_outside(storage: LocalStorage, folder: Path) -> None:
    shown = Page(page(report(storage, make(storage, config(folder)))))
    assert NASTY in shown.text  # told, not run
    assert not shown.tags & {"script", "img", "link", "iframe", "object"}
    assert not shown.attributes & {"src", "style", "onerror", "onclick"}
    assert all(link.startswith("#") for link in shown.links)
    assert all(heading in shown.text for heading in ("Clean", "Comprehensive", "Consistent"))


def test_the_command_writes_both_and_ends_with_1_when_a_check_fails(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(GOOD)
    storage = LocalStorage(tmp_path / "store")
    dataset = make(storage, config(folder))
    command = ["data", "report", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert json.loads((tmp_path / "out" / f"dataset-{dataset.key}.json").read_text())["version"] == dataset.key
    assert (tmp_path / "out" / f"dataset-{dataset.key}.html").read_text().startswith("<!doctype html>")
    shard = storage.root / dataset.location / dataset.batches[0].path
    shard.write_bytes((storage.root / dataset.location / dataset.batches[1].path).read_bytes())
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "does not hold: every shard has the hash" in result.output) == (1, True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out"):
        write(report(storage, dataset), tmp_path / "file")

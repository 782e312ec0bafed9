"""The report's page in a real browser: it is drawn, and asks for nothing. Needs Chromium on the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.storage import LocalStorage
from pipelines.data.report.page import write
from pipelines.data.report.report import report
from tests.unit.pipelines.data.world import TEXTS, config, make
from tests.unit.pipelines.evaluation.test_report_browser import CHROMIUM, visit

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def test_it_is_drawn_and_asks_for_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    nasty = '<img src="https://example.org/x.png"> see <script src="https://example.org/x.js"></script>'
    texts = [*TEXTS, f"{nasty} {TEXTS[0]} [1]", nasty]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = config(folder)
    page, _ = write(report(storage, make(storage, settings), settings), tmp_path)
    shot, asked = visit(page, tmp_path)
    assert shot.startswith(b"\x89PNG")
    assert len(shot) > 50_000, "an empty page of that size takes some 10 kB"
    assert asked == []

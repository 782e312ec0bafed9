"""The report in a real browser: it is drawn, and no request leaves. Needs Chromium on the machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.storage import open_storage
from pipelines.evaluation import report_page
from pipelines.evaluation.register import shipped
from pipelines.evaluation.report import of_revision
from tests.unit.pipelines.evaluation.published import NAME, publish

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1100,2600",
]
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND"

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def visit(page: Path, out: Path) -> tuple[bytes, list[str]]:
    """The screenshot, and the addresses asked for that are not the browser's own errands."""
    log, shot = out / "net.json", out / "shot.png"
    where = [f"--user-data-dir={out / 'profile'}", f"--log-net-log={log}", f"--screenshot={shot}"]
    subprocess.run([CHROMIUM, *FLAGS, NOWHERE, *where, page.as_uri()], capture_output=True, timeout=60, check=True)
    urls = {event.get("params", {}).get("url", "") for event in json.loads(log.read_text())["events"]}
    return shot.read_bytes(), sorted(url for url in urls if url.startswith("http") and "google" not in url)


def test_it_is_drawn_and_asks_for_nothing(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    publish(storage)
    page, _ = report_page.write(of_revision(storage, NAME, "candidate", shipped()), tmp_path)
    unsafe = tmp_path / "unsafe.html"
    unsafe.write_text("<!doctype html><img src=https://example.org/x.png>")
    seen = {}
    for path in (page, unsafe):
        out = tmp_path / path.stem
        out.mkdir()
        seen[path] = visit(path, out)
    shot, asked = seen[page]
    assert shot.startswith(b"\x89PNG")
    assert len(shot) > 50_000, "an empty page of that size takes some 10 kB"
    assert asked == []
    assert seen[unsafe][1] == ["https://example.org/x.png"], "the log shows a request where one is made"

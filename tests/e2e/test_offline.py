"""A machine without a network: `serinus eval` from nothing to its page, which a browser opens without asking for anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.pipelines.evaluation.test_report_browser import CHROMIUM, visit

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ROOT / "recipes" / "quickstart" / "general.jsonl"
TASKS = f"""
max_model_len: 256
kv_cache_gib: 0.25
tasks:
  - {{name: choice, kind: multiple_choice, path: {QUESTIONS}, num_items: 12}}
  - {{name: letters, kind: written_choice, path: {QUESTIONS}, num_items: 4, max_new_tokens: 4, chat: true}}
  - {{name: gender, kind: weat, test: weat6}}
"""
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""A command with loopback and no other interface."""


def alone(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ALONE, *command], capture_output=True, text=True, timeout=540, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which("unshare") or alone("true").returncode != 0, reason="no namespaces of one's own")
def test_eval_runs_and_its_page_opens_without_a_network(tiny_model: Path, tmp_path: Path) -> None:
    tasks, out, home = tmp_path / "tasks.yaml", tmp_path / "out", tmp_path / "home"
    tasks.write_text(TASKS)
    home.mkdir()
    fresh = {
        "HOME": str(home),
        "SERINUS_HOME": str(home / "serinus"),
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
    }
    asked = ["eval", str(tiny_model), str(tasks), "--out", str(out)]
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"
    assert "unreachable" in alone(sys.executable, "-c", reach).stderr  # there is none
    done = alone(sys.executable, str(ROOT / "serinus.py"), *asked, env=fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = out.glob("report-*.html")
    (told,) = out.glob("report-*.json")
    found = {one["score"]["task"]: one["score"]["num_items"] for one in json.loads(told.read_text())["scores"]}
    assert found.keys() == {"choice", "letters", "gender"}
    assert (found["choice"], found["letters"]) == (12, 4)
    if CHROMIUM:
        shot, addresses = visit(page, tmp_path)
        assert shot.startswith(b"\x89PNG")
        assert addresses == []

"""Ctrl-C of a command: a line that says what is kept, exit code 130, no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1].parent

WAITING = """
import sys, time, serinus_commands, serinus
def wait(path, model):
    print("waiting", flush=True)
    time.sleep(60)
serinus_commands.load_yaml = wait
sys.argv = ["serinus", "check", "any.yaml"]
serinus.main()
"""


def test_ctrl_c_says_what_is_kept() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "What was made is kept" in told
    assert "Traceback" not in told

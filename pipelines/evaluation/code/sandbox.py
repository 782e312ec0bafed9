"""Runs a program that nobody has read: in a process of its own without network, other files or other processes.

How it is confined is in confined.py. Linux alone; a machine that cannot confine runs nothing.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cluster.errors import ResourceError
from pipelines.evaluation.code.confined import CONFINED, REFUSED

SCRIPT = Path(__file__).with_name("confined.py")
FILE_BYTES = 1 << 20
"""The largest file that it may write, what it prints among them."""
ERROR_CHARACTERS = 500
PATIENCE = 5
START_S = 30.0
"""By the wall it has so many times its processor time and this: only one that sleeps needs them, or a very busy machine."""

End = Literal["passed", "failed", "timed_out"]


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    end: End
    error: str = ""
    """The end of what it said of its error."""


def run(program: str, timeout_s: float, memory_bytes: int) -> Outcome:
    """`passed`: it came to its own end. Its clock is the processor's, so that a busy machine fails nothing.

    Raises:
        ResourceError: this machine cannot confine it.
    """
    token = secrets.token_hex(16)
    with (
        TemporaryDirectory(prefix="serinus-code-", ignore_cleanup_errors=True) as folder,
        open(f"{folder}.said", "w+b") as said,
    ):
        Path(said.name).unlink()
        limits = (folder, str(max(1, round(timeout_s))), str(memory_bytes), str(FILE_BYTES))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SCRIPT), *limits],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env={"LANG": "C.UTF-8"}, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
        try:
            told, _ = process.communicate(f"{token}\n{program}".encode(), timeout=PATIENCE * timeout_s + START_S)
        except subprocess.TimeoutExpired:
            told = b""
        finally:
            process.terminate()  # it ends the one process that runs the program
            process.communicate()
        said.seek(max(0, said.seek(0, 2) - 4 * ERROR_CHARACTERS))
        error = said.read().decode("utf-8", "replace").strip()[-ERROR_CHARACTERS:]
    if process.returncode == REFUSED and not told.startswith(CONFINED):
        remedy = "run code tasks on Linux 5.13 or later where user namespaces are allowed, or leave them out"
        raise ResourceError("code sandbox", f"this machine cannot confine what a model wrote ({error})", remedy)
    return _outcome(process.returncode, told == CONFINED + token.encode(), error)


def _outcome(code: int, came_to_its_end: bool, error: str) -> Outcome:
    if came_to_its_end and code == 0:
        return Outcome("passed")
    if code in (-9, -15, -24):  # SIGKILL and SIGTERM by us, or at the hard limit; SIGXCPU
        return Outcome("timed_out", error)
    return Outcome("failed", error)


def check() -> None:
    """Before anything is written.

    Raises:
        ResourceError: this machine cannot confine.
    """
    if (found := run("pass", 5, 512 << 20)).end != "passed":
        raise ResourceError(
            "code sandbox", f"cannot run the simplest program ({found.end}: {found.error})", "mend Python"
        )

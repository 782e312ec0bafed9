"""The locks' hashes: each pin has them, and whatever installs a lock asks for them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "requirements"
LOCKS = ("cpu.txt", "gpu.txt", "quantize.txt")


def pins(file: Path) -> set[str]:
    return {line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_but_torch_is_printed_with_hashes(lock: str) -> None:
    printed = subprocess.run(
        [FOLDER / "hashed.sh", FOLDER / lock], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert all(re.fullmatch(r"\S+==\S+( --hash=sha256:[0-9a-f]{64})+", line) for line in printed.splitlines())
    asked = {pin for pin in pins(FOLDER / lock) if not pin.startswith("torch==")}
    assert {line.split()[0] for line in printed.splitlines()} == asked


def test_no_hashes_are_kept_of_what_no_lock_pins() -> None:
    assert pins(FOLDER / "hashes.txt") <= set.union(*(pins(FOLDER / lock) for lock in LOCKS))


@pytest.mark.parametrize("hashes", ["# none\n", "", "other==1 --hash=sha256:00\n"])
def test_a_pin_without_hashes_is_an_error(tmp_path: Path, hashes: str) -> None:
    shutil.copy(FOLDER / "hashed.sh", tmp_path)
    (tmp_path / "hashes.txt").write_text(hashes)
    (tmp_path / "lock.txt").write_text("# a comment\ntorch==1\nother==2\n")
    done = subprocess.run([tmp_path / "hashed.sh", tmp_path / "lock.txt"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "other==2 has no hash: python requirements/lock.py --hashes" in done.stderr


@pytest.mark.parametrize("file", ["requirements/setup.sh", "k8s/images/Dockerfile"])
def test_whatever_installs_a_lock_asks_for_hashes(file: str) -> None:
    """Torch, and this project itself, have none."""
    text = (REPOSITORY / file).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^[^#\n]*?(pip install [^\n|&;]*)", text, re.MULTILINE)
    left = [one for one in commands if "--require-hashes" not in one]
    assert len(commands) > len(left) > 0
    assert [one for one in left if "torch" not in one and "--editable ." not in one] == []


@pytest.mark.parametrize(
    ("file", "lists"),
    [("requirements/setup.sh", ["$venv/last.txt"]), ("k8s/images/Dockerfile", ["/tmp/cpu.txt", "/tmp/gpu.txt"])],
)
def test_what_is_built_here_is_built_by_what_was_locked(file: str, lists: list[str]) -> None:
    """Apart from what is installed, pip would fetch the newest setuptools for DeepSpeed, without a hash, and run that."""
    lines = [line for line in (REPOSITORY / file).read_text(encoding="utf-8").splitlines() if "--requirement" in line]
    for given in lists:
        (line,) = (line for line in lines if line.replace('"', "").rstrip(" \\").endswith(given))
        assert "--no-build-isolation" in line

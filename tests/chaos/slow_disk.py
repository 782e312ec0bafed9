"""A disk whose writes take as long as a test says: slow_disk.c, compiled and mounted. Needs gcc, libfuse3-dev and root."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class SlowDisk:
    """`folder` is on it; what lies there stays when it is unmounted."""

    def __init__(self, root: Path) -> None:
        self.folder, self._real, self._control = root / "disk", root / "real", root / "milliseconds"
        self.folder.mkdir()
        self._real.mkdir()
        self.takes()
        program = [str(_compiled(root)), str(self._real), str(self._control), str(self.folder), "-f"]
        self._process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        ends_at = time.monotonic() + 10
        while not self.folder.is_mount():
            if self._process.poll() is not None or time.monotonic() > ends_at:
                pytest.skip(f"no FUSE here: {self._process.communicate()[1]}")
            time.sleep(0.02)

    def takes(self, write_ms: int = 0, sync_ms: int = 0) -> None:
        """From now on."""
        draft = self._control.with_suffix(".new")
        draft.write_text(f"{write_ms} {sync_ms}\n")
        draft.replace(self._control)

    def close(self) -> None:
        self.takes()
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
        self._process.terminate()
        self._process.wait(10)


def _compiled(root: Path) -> Path:
    flags = _pkg_config()
    program = root / "slow_disk"
    subprocess.run(["gcc", "-O1", "-o", str(program), str(SOURCE), *flags], check=True)
    return program


def _pkg_config() -> list[str]:
    """Skips the test where it cannot be compiled."""
    if not (shutil.which("gcc") and shutil.which("pkg-config")):
        pytest.skip("a slow disk needs gcc and pkg-config")
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("a slow disk needs libfuse3-dev")
    return found.stdout.split()


@contextmanager
def slow_disk(root: Path) -> Iterator[SlowDisk]:
    """Mounted while the block runs; as quick as the machine's own until `takes` says otherwise."""
    disk = SlowDisk(root)
    try:
        yield disk
    finally:
        disk.close()

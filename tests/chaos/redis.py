"""A real Redis for a head's state (Debian's redis-server)."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from tests.integration.gateway_world import eventually

IS_INSTALLED = shutil.which("redis-server") is not None


class Redis:
    """Keeps nothing on disk, and listens on one address of a network that only this machine has."""

    def __init__(self, folder: Path, host: str, port: int = 6399) -> None:
        self.address = f"{host}:{port}"
        options = ["--bind", host, "--port", str(port), "--protected-mode", "no", "--save", "", "--appendonly", "no"]
        with open(folder / "redis.log", "wb") as log:
            self._process = subprocess.Popen(["redis-server", *options], cwd=folder, stdout=log, stderr=log)
        eventually(lambda: self._answers(host, port), 30)

    def _answers(self, host: str, port: int) -> bool:
        assert self._process.poll() is None, "redis-server ended; its log is redis.log"
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

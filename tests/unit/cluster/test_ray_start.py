"""Starting nodes: who is too slow for Ray gets one more try, who fails otherwise does not."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from cluster import ray_start
from cluster.errors import ClusterError
from cluster.profiles import LocalNode
from cluster.ray_start import Launches

NODE = LocalNode(pool="data", host="127.0.0.3", num_cpus=1, labels={})


def started(folder: Path, monkeypatch: pytest.MonkeyPatch, *failures: str) -> list[str]:
    """Starts a node whose `ray start` fails with these words, one after another; returns what of the tries was seen."""
    tries = folder / "tries"
    tries.mkdir()
    code = (
        "import pathlib, sys\n"
        f"tries = pathlib.Path({str(tries)!r}); number = len(list(tries.iterdir())); (tries / str(number)).touch()\n"
        f"failures = {failures!r}\n"
        "sys.exit(f'Exception: {failures[number]}' if number < len(failures) else 0)"
    )
    monkeypatch.setattr(ray_start, "command", lambda *_: [sys.executable, "-c", code])
    with Launches() as launches:
        launches.start(NODE, number=1, folder=folder / "data", options={})
        try:
            launches.wait(partial(launches.is_up, "data"))
        finally:
            seen = sorted(path.name for path in tries.iterdir())
    return seen


def test_who_was_too_slow_is_started_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(tmp_path, monkeypatch, "The current node timed out during startup. This could") == ["0", "1"]


def test_who_is_too_slow_twice_or_fails_otherwise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slow := tmp_path / "slow").mkdir()
    with pytest.raises(ClusterError, match="did not start: Exception: The current node timed out"):
        started(slow, monkeypatch, *["The current node timed out during startup"] * 3)
    assert len(list((slow / "tries").iterdir())) == 2
    (other := tmp_path / "other").mkdir()
    with pytest.raises(ClusterError, match="no port is free"):
        started(other, monkeypatch, "no port is free")
    assert len(list((other / "tries").iterdir())) == 1

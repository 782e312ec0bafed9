"""Folders and addresses, before any Ray is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster import session
from cluster.errors import ClusterError, ResourceError


def test_scratch_is_private_and_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path))
    folder = session.scratch()
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        # Ray's sockets: <folder>/<pool>/session_<31 characters>/sockets/plasma_store, 107 characters at most
        assert len(f"{folder}/up/train/session_2026-11-23_16-06-55_983153_1234567/sockets/plasma_store") <= 107
        monkeypatch.setenv("SERINUS_HOME", str(tmp_path / "other"))
        other = session.scratch()
        assert other != folder
        other.rmdir()
        monkeypatch.setenv("SERINUS_HOME", str(tmp_path))
        folder.chmod(0o755)
        with pytest.raises(ResourceError, match="not a private folder"):
            session.scratch()
    finally:
        folder.rmdir()


@pytest.mark.parametrize("address", ["head", "http://head:8265", "ray://head:10001", "head:port", "head:1234567"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="form host:port"):
        session.check_answers(address)


def test_nodes_get_our_python_and_no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    environment = session.node_environment(EXTRA="1")
    assert "RAY_ADDRESS" not in environment
    assert environment["EXTRA"] == "1"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert str(session.package_root()) in environment["PYTHONPATH"].split(os.pathsep)


def test_gpus_are_those_the_user_left_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen, visible in (("", []), ("-1", []), ("3", ["3"]), ("2,GPU-1a", ["2", "GPU-1a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert session.visible_gpus() == visible

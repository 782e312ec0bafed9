"""Tokens, folders and addresses, before any Ray is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import session
from cluster.errors import ClusterError, ResourceError
from cluster.topology import AUTOSCALED_LABEL, POOL_LABEL

ON_DATA = {POOL_LABEL: "data"}


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a token; the path where it would be."""
    file = tmp_path / ".ray" / "auth_token"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return file


def test_a_token_is_made_once_and_only_its_owner_reads_it(no_token: Path) -> None:
    assert session.token() is None
    session.ensure_token()
    first = session.token()
    assert first is not None
    assert len(first) == 64
    assert no_token.stat().st_mode & 0o777 == 0o600
    assert no_token.parent.stat().st_mode & 0o777 == 0o700
    session.ensure_token()
    assert session.token() == first
    assert [file.name for file in no_token.parent.iterdir()] == ["auth_token"]


def test_two_that_make_a_token_at_once_agree(no_token: Path) -> None:
    code = "from cluster import session; session.ensure_token(); print(session.token())"
    made = [
        subprocess.Popen([sys.executable, "-c", code], cwd=session.package_root(), stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in made}) == 1


def test_the_environment_goes_before_the_file(no_token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session.ensure_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", " given ")
    assert session.token() == "given"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert session.token() is None


def test_a_token_that_cannot_be_written_is_told(no_token: Path) -> None:
    no_token.parent.write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot be written"):
        session.ensure_token()


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


@pytest.mark.parametrize(
    ("living", "dead", "selector", "lacks"),
    [
        ([{}], [], {}, False),
        ([{POOL_LABEL: "head"}, ON_DATA], [ON_DATA], ON_DATA, False),
        ([{POOL_LABEL: "head"}, {POOL_LABEL: "serve"}], [{POOL_LABEL: "train"}], {}, False),
        ([{POOL_LABEL: "head"}, {POOL_LABEL: "serve"}], [ON_DATA], ON_DATA, True),
        ([{POOL_LABEL: "head", AUTOSCALED_LABEL: "true"}], [], ON_DATA, True),
    ],
    ids=["private", "there", "not-there", "gone", "to-come"],
)
def test_work_goes_to_its_pool_where_the_cluster_has_it_or_brings_it(
    living: list[dict[str, str]],
    dead: list[dict[str, str]],
    selector: dict[str, str],
    lacks: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [
        {"Alive": alive, "Labels": labels, "NodeManagerAddress": "host", "Resources": {"GPU": 0.0}}
        for alive, all_of in ((True, living), (False, dead))
        for labels in all_of
    ]
    ray = SimpleNamespace(nodes=lambda: nodes)  # whose import takes six seconds
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert session.on_pool("data") == selector
    assert session.lacks_node("data") == lacks
    if lacks:  # of machines that are still to come nothing is known
        session.check_gpus("data", 1, "data.num_gpus")
    else:
        with pytest.raises(ResourceError, match="a node of pool `data` has 0"):
            session.check_gpus("data", 1, "data.num_gpus")

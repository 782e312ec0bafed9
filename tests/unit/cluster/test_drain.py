"""Which node of a machine is meant, and until when one waits for what works there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import psutil
import pytest
from typer.testing import CliRunner

import serinus
from cluster import drain
from cluster.drain import NodeHere, at_work, chosen, leave
from cluster.errors import ClusterError

Raylet = Callable[..., psutil.Process]


@pytest.fixture
def raylet() -> Iterator[Raylet]:
    """A process with children that have these names."""
    started = []

    def start(*names: str) -> psutil.Process:
        children = "".join(f"(exec -a {name!r} sleep 60) & " for name in names)
        process = subprocess.Popen(["bash", "-c", f"{children} wait"], start_new_session=True)
        started.append(process)
        found = psutil.Process(process.pid)
        while sorted(child.cmdline()[0] for child in found.children()) != sorted(names):
            pass
        return found

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def node(raylet: psutil.Process, id: str = "ab12") -> NodeHere:
    return NodeHere(id, "10.0.0.2", "10.0.0.1:6379", raylet)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Notices that the head got, s."""
    told: list[float] = []
    monkeypatch.setattr(drain, "tell", lambda node, notice_s, message: told.append(notice_s))
    return told


def test_work_is_what_is_neither_idle_nor_rays_own(raylet: Raylet) -> None:
    found = raylet(
        "ray::IDLE", "ray::IDLE_SpillWorker", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "sleep", "ray::hold"
    )
    assert at_work(found) == ["hold"]


def test_a_raylet_that_is_gone_has_no_work(raylet: Raylet, told: list[float]) -> None:
    found = raylet("ray::RayTrainWorker")
    assert at_work(found) == ["RayTrainWorker"]
    found.kill()
    assert leave(node(found), 60, "spot")
    assert told == [60]


def test_nobody_waits_beyond_the_notice(raylet: Raylet, told: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    assert not leave(node(raylet("ray::ServeReplica:m", "ray::ServeReplica:m")), 0.1, "spot")
    assert "time is over, still at work there: ServeReplica:m (2)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("prefix", "found"),
    [("", "which one is not said"), ("ab", "2 of them have an id that begins with 'ab'"), ("c", "0 of them")],
)
def test_one_of_several_nodes_has_to_be_named(prefix: str, found: str) -> None:
    nodes = [node(psutil.Process(), "ab12"), node(psutil.Process(), "ab34")]
    with pytest.raises(ClusterError, match=found) as refused:
        chosen(nodes, prefix)
    assert "ab34 at 10.0.0.2 of cluster 10.0.0.1:6379" in str(refused.value)
    assert chosen(nodes, "AB3").id == "ab34"
    assert chosen(nodes[:1]).id == "ab12"
    with pytest.raises(ClusterError, match=r"no node of Ray beside a head\n.*as the user who started it"):
        chosen([])


@pytest.mark.parametrize("notice", ["0", "nan", "inf", "86401"])
def test_a_notice_that_is_no_time_is_refused(notice: str, told: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "nodes_here", lambda: [node(psutil.Process())])
    refused = CliRunner().invoke(serinus.app, ["cluster", "drain", "--notice", notice])
    assert (refused.exit_code, told) == (2, []), refused.exception

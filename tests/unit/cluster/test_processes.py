"""Whose a process is, with real ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ResourceError
from cluster.ports import free_port, listens
from cluster.processes import began, end, writing_in

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
WITH_CHILD = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); time.sleep(60)"
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_who_writes_there_belongs_with_its_children_and_is_ended(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "upper").mkdir()
    with open(tmp_path / "up" / "raylet.out", "wb") as log, open(tmp_path / "upper" / "log", "wb") as other:
        started.append(subprocess.Popen([sys.executable, "-c", WITH_CHILD], stdout=log))
        started.append(subprocess.Popen(SLEEP, stdout=other))
    with open(tmp_path / "up" / "raylet.out", "rb") as reading:
        started.append(subprocess.Popen(SLEEP, stdin=reading, stdout=subprocess.DEVNULL))
    with open(tmp_path / "up" / "python-core-driver-1.log", "wb") as driver_log:
        started.append(subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL, pass_fds=[driver_log.fileno()]))
    writer, neighbour, reader, driver = started
    deadline = time.monotonic() + 20
    while b"on" not in (tmp_path / "up" / "raylet.out").read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    found = writing_in(tmp_path / "up")
    assert writer.pid in {process.pid for process in found}
    assert len(found) == 2, "the child that writes, too, and nobody else"
    assert end(tmp_path / "up") == 2
    assert writing_in(tmp_path / "up") == []
    assert [process.poll() for process in (neighbour, reader, driver)] == [None, None, None]


def test_a_job_s_driver_belongs_since_it_prints_there(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with open(tmp_path / "python-core-driver-1.log", "wb") as driver_log, open(tmp_path / "job.log", "wb") as log:
        started.append(subprocess.Popen(SLEEP, stdout=log, pass_fds=[driver_log.fileno()]))
    assert [process.pid for process in writing_in(tmp_path)] == [started[0].pid]


def test_this_process_is_never_ended(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb"):
        assert end(tmp_path) == 0
    assert end(tmp_path / "absent") == 0


WAITS = """
import time
from pathlib import Path
from cluster.errors import ClusterError
from cluster.processes import within
with within({timeout}, Path({folder!r}), ClusterError("the cluster", "is silent", "try again")):
    {call}
print("went on")
"""


def test_a_call_that_no_exception_reaches_is_given_up_with_what_it_waits_for(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    with open(tmp_path / "log", "wb") as log:
        started.append(subprocess.Popen(SLEEP, stdout=log))
    script = WAITS.format(timeout=0.2, folder=str(tmp_path), call="time.sleep(60)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert done.stderr == "error: the cluster: is silent\n  -> try again\n"
    assert not done.stdout
    assert started[0].wait(timeout=5) < 0


@pytest.mark.parametrize("call", ["pass", "time.sleep(1)"])
def test_a_call_that_comes_back_goes_on_though_it_was_late(tmp_path: Path, call: str) -> None:
    script = WAITS.format(timeout=0.2 if "sleep" in call else 60, folder=str(tmp_path), call=call)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_a_port_in_use_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert listens(f"127.0.0.1:{port}")
        assert free_port(port) > port
        with pytest.raises(ResourceError, match="all are in use"):
            free_port(port, tries=1)
    assert not listens(f"127.0.0.1:{port}")


def test_when_a_process_began_is_the_same_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        at = began(process.pid)
        assert at is not None
        assert at == began(process.pid) > 0
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert began(process.pid) is None
    assert began(process.pid) is None

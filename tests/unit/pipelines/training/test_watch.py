"""What is seen of a process on its node, without Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cluster.processes import began
from pipelines.config import TrainConfig
from pipelines.training import heartbeat, watch
from pipelines.training.hang import TRAINING, Beat, Heard, Seen
from tests.tracing import may_trace

WAITS = "import time\ndef waits():\n    print(flush=True)\n    time.sleep(600)\nwaits()"


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    """Stopped, in a call of `waits`."""
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as started:
        assert started.stdout
        started.stdout.readline()
        found = psutil.Process(started.pid)
        started.send_signal(signal.SIGSTOP)
        while found.status() != psutil.STATUS_STOPPED:
            pass
        try:
            yield found
        finally:
            started.kill()


def beat(process: psutil.Process, started_at: int | None = None) -> Beat:
    at = began(process.pid) if started_at is None else started_at
    assert at is not None
    return Beat(TRAINING, 0, 0, 0, process.pid, at, "", "", stack="as its own thread sees it")


@pytest.mark.skipif(not may_trace(), reason="no process may read another one here")
def test_a_stopped_process_shows_its_stack(process: psutil.Process) -> None:
    seen = watch._seen(beat(process))
    assert seen
    assert (seen.state, seen.unread) == ("stopped", "")
    assert "waits (" in seen.stack


def test_where_it_cannot_be_read_its_own_word_is_taken(
    process: psutil.Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watch.sys, "executable", str(tmp_path / "python"))
    seen = watch._seen(beat(process))
    assert seen
    assert seen.stack == "as its own thread sees it"
    assert seen.unread == f"there is no {tmp_path}/py-spy"


def test_a_py_spy_that_cannot_be_started_is_no_reason_to_let_it_hang(
    process: psutil.Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "py-spy").write_text("")
    monkeypatch.setattr(watch.sys, "executable", str(tmp_path / "python"))
    seen = watch._seen(beat(process))
    assert seen
    assert "py-spy cannot be started: " in seen.unread


def test_a_process_that_only_has_the_rank_s_id_is_not_it(process: psutil.Process) -> None:
    other = beat(process, started_at=1)
    assert watch._seen(other) is None
    watch._end(other)
    assert process.is_running()
    watch._end(beat(process))
    process.wait(10)
    assert watch._seen(beat(process, started_at=1)) is None


def test_a_rank_that_stands_still_tells_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "whereabouts", lambda: ("node", "10.0.0.1"))
    own, told = heartbeat.Heartbeat(), []
    other = threading.Thread(target=lambda: told.extend(own.beat() for _ in range(heartbeat.STILL_BEATS + 2)))
    other.start()
    other.join()
    assert not any(one.stack for one in told[: heartbeat.STILL_BEATS])
    assert "test_a_rank_that_stands_still_tells_its_stack" in told[-1].stack
    own.at(TRAINING, 3)
    assert (own.beat().step, own.beat().phase, own.beat().stack) == (3, TRAINING, "")


SILENT = Heard(Beat(TRAINING, 3, 7, 7, 71, 0.0, "node", "10.0.0.1"), 60.0, 60.0)
WAITING = Heard(Beat(TRAINING, 3, 7, 7, 70, 0.0, "node", "10.0.0.1"), 1.0, 60.0)


@pytest.mark.parametrize(
    ("then", "looked_at", "ended"),
    [
        ({0: WAITING, 1: SILENT}, {1: Seen("stopped", "")}, [1]),
        ({0: WAITING, 1: SILENT._replace(silent_s=1.0)}, {1: Seen("running", "")}, []),
        ({0: WAITING, 1: SILENT}, {}, []),
    ],
    ids=["is ended", "speaks again at the same place", "was not reached: asked again"],
)
def test_who_was_looked_at_is_ended_only_where_it_still_hangs(
    monkeypatch: pytest.MonkeyPatch, then: dict[int, Heard], looked_at: dict[int, Seen], ended: list[int]
) -> None:
    heard = iter([{0: WAITING, 1: SILENT}, then])
    struck, forgotten = list[int](), list[int]()

    def on_nodes(work: Any, beats: dict[int, Beat]) -> dict[int, Any]:
        if work is watch._end:
            struck.extend(beats)
        return dict(looked_at)

    figures = SimpleNamespace(ended=SimpleNamespace(remote=forgotten.append))
    looks = watch.Watch(TrainConfig(num_workers=2, hang_timeout_s=100), figures)
    monkeypatch.setattr(looks, "_heard", lambda: next(heard))
    monkeypatch.setattr(watch, "_on_nodes", on_nodes)
    looks._look()
    assert struck == ended
    assert forgotten == ([0, 1] if ended else [])
    assert ("rank 1 (pid 71" in looks.found) == bool(ended)

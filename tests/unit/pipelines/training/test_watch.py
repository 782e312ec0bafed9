"""What is seen of a process on its node, without Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.training import heartbeat, watch
from pipelines.training.hang import TRAINING, Beat

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


def beat(process: psutil.Process, started_at: float | None = None) -> Beat:
    at = process.create_time() if started_at is None else started_at
    return Beat(TRAINING, 0, 0, 0, process.pid, at, "", "", stack="as its own thread sees it")


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


def test_a_process_that_only_has_the_rank_s_id_is_not_it(process: psutil.Process) -> None:
    other = beat(process, started_at=1.0)
    assert watch._seen(other) is None
    watch._end(other)
    assert process.is_running()
    watch._end(beat(process))
    process.wait(10)
    assert watch._seen(beat(process, started_at=1.0)) is None


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

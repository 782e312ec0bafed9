"""Who may work where, alone: in a bucket (moto, a process of its own), by processes that are killed, silent or out of reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster import lease
from cluster.errors import ResourceError, StageFailed
from cluster.lease import exclusive
from cluster.storage import ABSENT, S3Storage, Storage, open_storage
from tests.conftest import REPOSITORY

HOLDER = """
import sys
from cluster.errors import ResourceError
from cluster.lease import exclusive
from cluster.storage import open_storage
try:
    with exclusive(open_storage(sys.argv[1]), "run-m"):
        print("in", flush=True)
        sys.stdin.readline()
except ResourceError as error:
    print(f"out {error.found}", flush=True)
"""
ELSEWHERE = {"who": "ann", "host": "node-7", "machine": "another", "pid": 41, "began": 0.0, "id": "a", "beats": 3}


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Any) -> Storage:
    return open_storage(str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3_uri"))


@pytest.fixture
def bucket(s3_uri: str) -> S3Storage:
    return S3Storage(s3_uri)


@pytest.fixture
def start() -> Iterator[Callable[[Storage], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(storage: Storage) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, storage.uri]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def _says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_four_processes_at_once_one_comes_in(
    storage: Storage, start: Callable[[Storage], subprocess.Popen[str]]
) -> None:
    answers = [_says(process) for process in [start(storage) for _ in range(4)]]
    assert sorted(answer.split()[0] for answer in answers) == ["in", "out", "out", "out"]
    assert all("another run is at work there" in answer for answer in answers if answer != "in")


def test_a_killed_holder_leaves_its_place_at_once(
    storage: Storage, start: Callable[[Storage], subprocess.Popen[str]]
) -> None:
    holder = start(storage)
    assert _says(holder) == "in"
    with pytest.raises(ResourceError, match="another run is at work there"), exclusive(storage, "run-m"):
        pass
    with exclusive(storage, "run-other"):
        pass
    holder.kill()
    holder.wait()
    with exclusive(storage, "run-m"):
        pass


def test_a_place_that_was_left_is_free(bucket: S3Storage) -> None:
    for _ in range(2):
        with exclusive(bucket, "run-m"):
            there = bucket.read(".locks/run-m")
            assert there is not None
            assert json.loads(there.content)["pid"] == os.getpid()


def test_who_holds_it_elsewhere_is_named(bucket: S3Storage) -> None:
    bucket.write(".locks/run-m", json.dumps(ELSEWHERE).encode())
    with pytest.raises(ResourceError, match="ann on node-7, process 41") as caught, exclusive(bucket, "run-m"):
        pass
    assert "90 s after its last sign of life" in caught.value.remedy


def test_one_that_is_silent_elsewhere_loses_it(bucket: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    written = bucket.write(".locks/run-m", json.dumps(ELSEWHERE).encode())
    monkeypatch.setattr(lease, "SILENCE_S", 1.0)
    _await(lambda: bucket.age(".locks/run-m") > (written, 1.0))
    with exclusive(bucket, "run-m"):
        there = bucket.read(".locks/run-m")
        assert there is not None
        assert json.loads(there.content)["pid"] == os.getpid()


def test_beats_keep_it(bucket: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    with exclusive(bucket, "run-m"):
        _await(lambda: _beats(bucket) > 3)
    left = bucket.read(".locks/run-m")
    assert left is not None
    assert left.content == lease.FREE


def test_one_that_lost_it_ends_its_work_and_leaves_the_new_holder_alone(
    bucket: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)

    def work() -> None:
        bucket.write(".locks/run-m", json.dumps(ELSEWHERE).encode())
        _await(lambda: False)

    with pytest.raises(StageFailed, match="another run took its place"), exclusive(bucket, "run-m"):
        work()
    there = bucket.read(".locks/run-m")
    assert there is not None
    assert json.loads(there.content) == ELSEWHERE


def test_a_beat_whose_answer_never_came_is_ones_own(bucket: S3Storage) -> None:
    mine = lease._Lease(bucket, "run-m")
    mine._version = mine._write(ABSENT)
    mine._write(mine._version)  # and nobody was told
    assert mine._renewed()
    assert mine._renewed()
    bucket.write(".locks/run-m", json.dumps(ELSEWHERE).encode())
    assert not mine._renewed()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"who": "ann"}'])
def test_what_is_no_lease_holds_nothing(bucket: S3Storage, content: bytes) -> None:
    bucket.write(".locks/run-m", content)
    with exclusive(bucket, "run-m"):
        pass


def _beats(bucket: S3Storage) -> int:
    there = bucket.read(".locks/run-m")
    assert there is not None
    return int(json.loads(there.content)["beats"])


def _await(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)

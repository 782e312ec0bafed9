"""Who may work where, alone: in a bucket (moto, a process of its own), by processes that are killed, silent or out of reach."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from cluster import lease, s3_attempts
from cluster import s3 as storages
from cluster.errors import ResourceError, StageFailed
from cluster.lease import exclusive
from cluster.s3 import S3Storage
from cluster.storage import ABSENT, Storage, open_storage
from tests.chaos.flaky_s3 import FlakyS3, serving

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
Start: TypeAlias = Callable[..., subprocess.Popen[str]]
ELSEWHERE = {"who": "ann", "host": "node-7", "machine": "another", "pid": 41, "began": 0.0, "id": "a", "beats": 3}


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Any) -> Storage:
    return open_storage(str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3_uri"))


@pytest.fixture
def bucket(s3_uri: str) -> S3Storage:
    return S3Storage(s3_uri)


@pytest.fixture
def start(python: Callable[..., subprocess.Popen[str]]) -> Start:
    def begin(storage: Storage, program: str = HOLDER) -> subprocess.Popen[str]:
        return python(program, storage.uri)

    return begin


def _says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_four_processes_at_once_one_comes_in(storage: Storage, start: Start) -> None:
    answers = [_says(process) for process in [start(storage) for _ in range(4)]]
    assert sorted(answer.split()[0] for answer in answers) == ["in", "out", "out", "out"]
    assert all("another run is at work there" in answer for answer in answers if answer != "in")


def test_a_killed_holder_leaves_its_place_at_once(storage: Storage, start: Start) -> None:
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


SLEEPER = """
import sys, time
from cluster import lease
from cluster import s3 as storages
from cluster.errors import StageFailed
from cluster.storage import open_storage
lease.BEAT_S = 0.05
storage = open_storage(sys.argv[1])
try:
    with lease.exclusive(storage, "run-m"), lease.exclusive(storage, "train-k"):
        print("in", flush=True)
        time.sleep(600)
except StageFailed as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize("lost", ["run-m", "train-k"])
@pytest.mark.parametrize("ctrl_c", [signal.SIG_DFL, signal.SIG_IGN], ids=["heard", "ignored"])
def test_one_that_lost_it_is_woken(bucket: S3Storage, start: Start, ctrl_c: signal.Handlers, lost: str) -> None:
    """A script's shell has what it starts with `&` ignore Ctrl-C. A run holds two, one inside the other."""
    before = signal.signal(signal.SIGINT, ctrl_c)  # a process has its parent's
    try:
        holder = start(bucket, SLEEPER)
    finally:
        signal.signal(signal.SIGINT, before)
    assert _says(holder) == "in"
    bucket.write(f".locks/{lost}", json.dumps(ELSEWHERE).encode())
    said = _says(holder)
    assert "another run took its place" in said
    assert f"({lost})" in said


def test_ctrl_c_that_a_shell_has_ignored_stays_ignored(bucket: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with exclusive(bucket, "run-m"):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_beats_go_on_after_a_server_that_failed(bucket: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(s3_attempts, "ATTEMPTS", 1)
    endpoint = storages.s3_endpoint()
    assert endpoint is not None
    with serving(FlakyS3(endpoint, 0, 0, 0)) as (address, server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with exclusive(S3Storage(bucket.uri), "run-m"):
            server.failing = 1.0
            _await(lambda: server.calls["failed"] > 3)
            server.failing, before = 0.0, _beats(bucket)
            _await(lambda: _beats(bucket) > before + 1)
            server.failing = 1.0  # whoever cannot say goodbye has done his work all the same


@pytest.mark.parametrize("began", [0, None])
def test_another_process_with_the_id_of_a_dead_holder_holds_nothing(bucket: S3Storage, began: int | None) -> None:
    bucket.write(".locks/run-m", json.dumps({**ELSEWHERE, **lease._ourselves(), "began": began}).encode())
    with exclusive(bucket, "run-m"):
        pass


def test_a_dead_holder_that_nobody_has_waited_for_holds_nothing(bucket: S3Storage, start: Start) -> None:
    holder = start(bucket)
    assert _says(holder) == "in"
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    with exclusive(bucket, "run-m"):
        pass


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

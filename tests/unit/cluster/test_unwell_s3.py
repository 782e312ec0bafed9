"""A server that fails, falls silent in the middle of an answer, or does what it was asked and does not say so."""

from __future__ import annotations

import asyncio
import gzip
import io
import pickle
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from cluster import patient_s3, s3_attempts
from cluster import s3 as module
from cluster.errors import Conflict, InputError
from cluster.s3 import S3Storage
from cluster.storage import ABSENT, filesystem_to_write
from tests.chaos.flaky_s3 import FlakyS3, serving


class Scripted(FlakyS3):
    """Treats the first calls as told, and passes on what it gets from the server."""

    def __init__(self, target: str, *script: str) -> None:
        super().__init__(target, 0, 0, 0)
        self.script = list(script)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        treatment = self.script.pop(0) if self.script else "answered"
        self.calls[treatment] += 1
        if treatment == "failed":
            return web.Response(status=500, text="<Error><Code>InternalError</Code></Error>")
        answer = await self._passed_on(request)
        if treatment == "silent":
            await asyncio.sleep(2)
        if treatment == "lost":
            return web.Response(status=500, text="<Error><Code>InternalError</Code></Error>")
        if treatment == "cut":
            assert isinstance(answer.body, bytes)
            cut = web.StreamResponse(status=answer.status, headers=answer.headers)
            cut.content_length = len(answer.body)
            await cut.prepare(request)
            await cut.write(answer.body[: len(answer.body) // 2])
            assert request.transport is not None
            request.transport.abort()
            return cut
        return answer


@contextmanager
def unwell(monkeypatch: pytest.MonkeyPatch, uri: str, *script: str) -> Iterator[tuple[S3Storage, Scripted]]:
    """The storage as it is seen through such a server, from the first call on."""
    endpoint = module.s3_endpoint()
    assert endpoint is not None
    with serving(Scripted(endpoint, *script)) as (address, server), monkeypatch.context() as meanwhile:
        meanwhile.setenv("AWS_ENDPOINT_URL", address)
        yield S3Storage(uri), server


def test_an_answer_that_breaks_off_is_asked_for_again(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    S3Storage(s3_uri).write("a", b"words" * 1000)
    with unwell(monkeypatch, s3_uri, "cut", "cut") as (storage, server):
        found = storage.read("a")
    assert found is not None
    assert found.content == b"words" * 1000
    assert server.calls == {"cut": 2, "answered": 1}


@pytest.mark.parametrize("expect", ["absent", "the version before"])
def test_a_write_whose_answer_was_lost_is_not_taken_for_anothers(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, expect: str
) -> None:
    version = ABSENT if expect == "absent" else S3Storage(s3_uri).write("lock", b"before")
    with unwell(monkeypatch, s3_uri, "lost") as (storage, _):
        made = storage.write("lock", b"mine", expect=version)
        found = storage.read("lock")
    assert found == (b"mine", made)
    with pytest.raises(Conflict):
        S3Storage(s3_uri).write("lock", b"mine", expect=ABSENT)  # asked once, and told at once: it is another's


def test_a_server_that_does_not_answer_or_is_not_there_is_told_in_words(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_attempts, "ATTEMPTS", 2)
    monkeypatch.setattr(s3_attempts, "SILENCE_S", 0.3)
    with (
        unwell(monkeypatch, s3_uri, *["silent"] * 9) as (storage, server),
        pytest.raises(InputError, match="no answer: Read timeout"),
    ):
        storage.read("a")
    assert server.calls == {"silent": 2}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    for call in (lambda it: it.read("a"), lambda it: it.write("a", b""), lambda it: list(it.list("a"))):
        with pytest.raises(InputError, match="no answer"):
            call(S3Storage(s3_uri))


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("treatment", "failed"), [("failed", ", the last with: HTTP 500)"), ("silent", "")])
def test_who_waits_for_an_answer_hears_of_it_and_of_the_answer(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], treatment: str, failed: str
) -> None:
    for name, number in (("WORD_AFTER_S", 0.01), ("LOOK_EVERY_S", 0.01), ("SAY_EVERY_S", 0.1)):
        monkeypatch.setattr(s3_attempts, name, number)
    # The process's own may still sleep for a second.
    monkeypatch.setattr(s3_attempts, "_watcher", s3_attempts._Watcher())
    S3Storage(s3_uri).write("a", b"words")
    capsys.readouterr()
    with unwell(monkeypatch, s3_uri, *[treatment] * (5 if failed else 1)) as (storage, _):
        found = storage.read("a")
    assert found is not None
    bucket, said = f"s3://{storage.bucket}", _said(capsys)
    assert re.search(rf"{bucket} does not answer GET /{storage.bucket}/folder/a for \d s", said)
    assert failed in said
    assert "attempts left: " in said
    assert f"{bucket} answers again, after" in said


def test_after_a_call_that_was_given_up_the_next_ones_are_brief_until_one_is_answered(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run has still to tell as it ends: its lease, its account."""
    monkeypatch.setattr(s3_attempts, "ATTEMPTS", 4)
    S3Storage(s3_uri).write("a", b"words")
    with unwell(monkeypatch, s3_uri, *["failed"] * 9) as (storage, server):
        for attempts in (4, 2, 2):
            before = server.calls["failed"]
            with pytest.raises(InputError, match="no answer"):
                storage.write("b", b"")
            assert server.calls["failed"] - before == attempts
        assert storage.read("a") is not None  # the second attempt
        server.script = ["failed"] * 3
        assert storage.read("a") is not None  # the fourth


def test_no_word_of_a_slow_upload_or_of_one_who_was_interrupted(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = S3Storage(s3_uri)._attempts
    request = SimpleNamespace(method="PUT", url="http://host/bucket/a", headers={"Content-Length": str(8 << 20)})
    attempts._sent(request)
    assert attempts.word(time.monotonic() + 100) is None
    attempts._ended(None, ConnectionError("reset"))
    assert "failed attempts: 1, the last with: reset" in str(attempts.word(time.monotonic() + 15))
    attempts.left()
    attempts._sent(SimpleNamespace(method="GET", url="http://host/bucket/a", headers={}))
    assert attempts.word(time.monotonic() + 100) is not None
    with pytest.raises(KeyboardInterrupt), S3Storage(s3_uri)._asking():
        raise KeyboardInterrupt
    assert not attempts.is_waited_for(time.monotonic())


@pytest.mark.long
def test_pyarrow_is_patient_on_workers_too(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times is its own number, and its pickle forgets any other."""
    S3Storage(s3_uri).write("a/b", b"words")
    with unwell(monkeypatch, s3_uri, *["failed"] * 4) as (storage, server):
        filesystem, path = storage.filesystem("a/b")
        there = pickle.loads(pickle.dumps(filesystem))
        with there.open_input_stream(path) as stream:
            assert stream.read() == b"words"
    assert server.calls["failed"] == 4


def test_a_file_that_was_not_written_whole_takes_no_place(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = S3Storage(s3_uri)
    storage.write("a/b", b"whole")
    filesystem, path = filesystem_to_write(storage, "a/b")

    class Full:
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *caught: object) -> None: ...

    monkeypatch.setattr("cluster.sealed.tempfile.SpooledTemporaryFile", lambda **settings: Full())
    with pytest.raises(OSError, match="No space left") as caught, filesystem.open_output_stream(path) as stream:
        stream.write(b"half")
    assert caught.value.filename == tempfile.gettempdir()
    found = storage.read("a/b")
    assert found is not None
    assert found.content == b"whole"


class Shaky:
    """A file that fails once at each place, before and while it is read."""

    def __init__(self, content: bytes, failed: set[object], error: str) -> None:
        self.content, self.failed, self.error = content, failed, error

    def _once(self, place: object) -> None:
        if place not in self.failed:
            self.failed.add(place)
            raise OSError(self.error)

    def size(self) -> int:
        self._once("size")
        return len(self.content)

    def read_at(self, size: int, at: int) -> bytes:
        self._once(at)
        return self.content[at : at + size]

    def close(self) -> None: ...


def test_a_read_that_fails_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_s3, "PAUSE_S", 0)
    content, failed = bytes(range(256)) * 9, set[object]()
    error = "AWS Error INTERNAL_FAILURE during GetObject operation: "
    file = patient_s3.SteadyFile(lambda: Shaky(content, failed, error))  # type: ignore[arg-type, return-value]
    with io.BufferedReader(file, 100) as stream:
        assert stream.read(10) == content[:10]
        assert stream.readline() == content[10 : content.index(b"\n", 10) + 1]
        stream.seek(1000)
        assert stream.read() == content[1000:]
    assert failed == {"size", 0, 1000}
    denied = "AWS Error ACCESS_DENIED during HeadObject operation"
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        patient_s3.SteadyFile(lambda: Shaky(b"", set(), denied))  # type: ignore[arg-type, return-value]


def test_parquet_and_packed_files_are_read_from_a_bucket(s3_uri: str) -> None:
    storage = S3Storage(s3_uri)
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), sink)
    storage.write("a/t.parquet", sink.getvalue())
    storage.write("a/t.gz", gzip.compress(b"words"))
    filesystem, path = storage.filesystem("a")
    with filesystem.open_input_file(f"{path}/t.parquet") as stream:
        assert pq.ParquetFile(stream).read()["text"].to_pylist() == ["a", "b"]
    with filesystem.open_input_stream(f"{path}/t.gz", compression=None) as stream:
        assert gzip.GzipFile(fileobj=stream).read() == b"words"
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_file(f"{path}/none")

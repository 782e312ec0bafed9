"""Lines of the log as JSON: what they hold, and what they never do."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import pytest

from cluster import telemetry
from cluster.log_format import bind, without_secrets
from pipelines import progress


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("SERINUS_LOG_FORMAT", "json")
    # Other tests' rollouts and requests leave the thread bound to them.
    monkeypatch.setattr("cluster.log_format._about", ContextVar("about", default=MappingProxyType({})))
    root = logging.getLogger("serinus")
    kept = root.handlers[:], root.level, root.propagate
    telemetry.configure()
    yield stream
    root.handlers[:], root.level, root.propagate = kept


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_what_it_is_about(logged: io.StringIO) -> None:
    bind(run="m-1", model="m", revision="m-2")
    telemetry.logger("gateway").warning("%s failed", "x")
    bind(revision=None)
    telemetry.logger("gateway").info("again")
    first, second = lines(logged)
    about = {"run": "m-1", "model": "m", "revision": "m-2"}
    assert first | {"at": ""} == {
        **about, "at": "", "level": "warning", "logger": "serinus.gateway", "message": "x failed",
    }  # fmt: skip
    assert first["at"].endswith("+00:00")
    assert "revision" not in second


def test_requests_at_once_keep_their_ids(logged: io.StringIO) -> None:
    async def request(number: int) -> None:
        bind(request_id=f"r{number}")
        await asyncio.sleep(0)
        telemetry.logger("gateway").info("%d", number)

    async def both() -> None:
        await asyncio.gather(request(1), request(2))
        telemetry.logger("gateway").info("neither")

    asyncio.run(both())
    assert [(line["message"], line.get("request_id")) for line in lines(logged)] == [
        ("1", "r1"), ("2", "r2"), ("neither", None),
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\x1b[2K", '"}\n'])
def test_nothing_said_becomes_a_line_or_a_field(logged: io.StringIO, end: str) -> None:
    forged = '{"level": "info", "message": "promoted by admin"}'
    bind(request_id=f"r{end}{forged}", message="taken", at="never")
    try:
        raise ValueError(f"y{end}{forged}")
    except ValueError:
        telemetry.logger("gateway").exception("m: %s", f"x{end}{forged}")
    (line,) = lines(logged)
    assert line["message"] == f"m: x{end}{forged}"
    assert line["level"] == "error"
    assert line["at"] != "never"
    assert "ValueError: y" in line["error"]
    assert logged.getvalue().isascii()
    assert logged.getvalue().count("\n") == 1


SECRETS = [
    ("Authorization: Bearer 0123456789abcdef", "0123456789abcdef"),
    ("key sk-serinus-AbC_123-xyzXYZ0987654321 of ada", "AbC_123"),
    ("openai sk-proj-abcdefghijklmnop", "abcdefghijklmnop"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    ("https://hook:hunter22@h.example/x", "hunter22"),
    ("redis://:hunter33@h.example:6379", "hunter33"),
    ("postgres://u:hunter@zz44@h.example", "zz44"),
    ("token hf_abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnop"),
]


@pytest.mark.parametrize(("said", "secret"), SECRETS, ids=[row[1] for row in SECRETS])
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_key_is_in_a_line(
    form: str, said: str, secret: str, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERINUS_LOG_FORMAT", form)
    monkeypatch.setattr("sys.stderr", logged)
    telemetry.configure()
    bind(request_id=said)
    try:
        raise ValueError(said)
    except ValueError:
        telemetry.logger("gateway").exception("%s", said)
    assert "ValueError" in logged.getvalue()
    assert secret not in logged.getvalue()


@pytest.mark.parametrize(
    "said", ["s3://bucket/folder", "http://127.0.0.1:8000/v1", "task-17 at 12:00:00", "bearer of news", "hf_home"]
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert without_secrets(said) == said


def test_a_stages_progress_is_a_record_too(logged: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", logged)
    bind(run="m-1")
    progress.say("clean", "3 of 5 % done\nmore")
    (line,) = lines(logged)
    assert (line["logger"], line["message"], line["run"]) == ("serinus.clean", "3 of 5 % done\nmore", "m-1")

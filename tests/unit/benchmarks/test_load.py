"""The load generator against a small HTTP server: what it counts as a failure, and what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import load

PIECE = 'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
ERROR = 'data: {"error":{"message":"out of memory"}}\n\n'
DONE = "data: [DONE]\n\n"
WHOLE = '{"choices":[{"message":{"content":"%s"}}]}'


class Handler(BaseHTTPRequestHandler):
    """Says the same to everybody."""

    answer: tuple[int, str] = (200, "")
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, body = self.answer
        self.send_response(status)
        self.send_header("x-serinus-revision", "m-1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("streamed", "status", "body", "problem"),
    [
        (0, 200, WHOLE % "hi", ""),
        (0, 200, WHOLE % "", "empty answer"),
        (0, 200, "junk", "JSONDecodeError"),
        (0, 500, "no", "HTTP 500: no"),
        (1, 200, PIECE + DONE, ""),
        (1, 200, PIECE, "the stream broke off"),
        (1, 200, DONE, "empty answer"),
        (1, 200, PIECE + ERROR + DONE, "error inside the stream"),
        (1, 503, "full", "HTTP 503: full"),
    ],
)
def test_what_a_user_would_call_a_failure(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], streamed: int, status: int, body: str, problem: str
) -> None:
    Handler.answer = (status, body)
    log = tmp_path / "log.jsonl"
    arguments = ["--url", url + "/v1", "--model", "m", "--duration", "0.3", "--stream-share", str(streamed)]
    assert load.main([*arguments, "--log", str(log)]) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == summary["requests"] == summary["revisions"]["m-1"]["requests"] > 0
    assert summary["failed"] == (len(rows) if problem else 0)
    assert {row["ok"] for row in rows} == {not problem}
    assert all(row["problem"].startswith(problem) for row in rows)
    assert all((row["ttft_s"] is not None) == bool(streamed and PIECE in body) for row in rows)


def test_it_ends_when_told(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stop").touch()
    load.main(["--url", url, "--model", "m", "--duration", "3600", "--until-file", str(tmp_path / "stop")])
    assert json.loads(capsys.readouterr().out)["requests"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "http://example.com"],
        ["--url", "http://10.0.0.1:8000"],
        ["--url", "https://127.0.0.1"],
        ["--url", "http://127.0.0.1:8000", "--duration", "3601"],
        ["--url", "http://127.0.0.1:8000", "--duration", "0"],
    ],
)
def test_other_machines_and_endless_loads_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load.main([*arguments, "--model", "m"])
    assert caught.value.code == 2

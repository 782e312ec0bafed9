"""Webhooks by real threads to a real receiver over HTTP: nothing is followed, and nothing secret is in the logs."""

from __future__ import annotations

import http.server
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cluster.storage import LocalStorage
from services import audit
from services.config import NotifyConfig, WebhookConfig
from services.rollout.courier import Reply
from services.rollout.notifier import Notifier, http_post
from services.rollout.receivers import publish_receivers
from tests.unit.services.rollout.test_courier import config


class Listener(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses it is given, in turn, and keeps what came."""

    statuses: list[int] = []
    bodies: list[dict[str, Any]] = []
    paths: list[str] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = self.statuses.pop(0) if self.statuses else 204
        type(self).paths.append(self.path)
        if status < 300:
            type(self).bodies.append(body)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", "/elsewhere")
        if status == 429:
            self.send_header("retry-after", "7")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[str]:
    Listener.statuses, Listener.bodies, Listener.paths = [], [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/SECRETPATH"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Reply(200)),
        (302, Reply(302, "status 302: redirects are not followed")),
        (429, Reply(429, "", 7.0)),
        (500, Reply(500)),
    ],
)
def test_one_post_follows_nothing_and_reads_what_matters(listener: str, status: int, expected: Reply) -> None:
    Listener.statuses = [status]
    assert http_post(listener, {"webhook-id": "1"}, b"{}", 5) == expected
    assert Listener.paths == ["/SECRETPATH"]


def test_nobody_there_is_told_by_the_kind_of_error_alone() -> None:
    reply = http_post("http://127.0.0.1:9/SECRETPATH", {}, b"{}", 1)
    assert (reply.status, reply.problem) == (None, "ConnectError")


def test_threads_deliver_what_is_recorded_and_log_no_secret(
    storage: LocalStorage, listener: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Listener.statuses = [500]
    dead = WebhookConfig(url="http://127.0.0.1:9/SECRETPATH")
    publish_receivers(storage, "m", config(WebhookConfig(url=listener), dead))
    notifier = Notifier(storage, "m", lambda: datetime.now(UTC))
    notifier.start()
    try:
        for number in range(3):
            audit.note(storage, "m", "step", f"{number}", who="analysis", at=datetime.now(UTC))
            notifier.wake()
        _await(lambda: len(Listener.bodies) == 3)
    finally:
        notifier.end()
    assert [body["data"]["message"] for body in Listener.bodies] == ["0", "1", "2"]
    assert "not delivered (status 500)" in caplog.text
    assert "not delivered (ConnectError)" in caplog.text
    assert "SECRETPATH" not in caplog.text


def test_a_webhook_taken_out_of_the_recipe_hears_nothing_more(storage: LocalStorage, listener: str) -> None:
    notifier = Notifier(storage, "m", lambda: datetime.now(UTC))
    publish_receivers(storage, "m", config(WebhookConfig(url=listener)))
    audit.note(storage, "m", "step", "first", who="analysis", at=datetime.now(UTC))
    notifier.turn()
    _await(lambda: len(Listener.bodies) == 1)
    publish_receivers(storage, "m", NotifyConfig())
    audit.note(storage, "m", "step", "second", who="analysis", at=datetime.now(UTC))
    notifier.turn()
    publish_receivers(storage, "m", config(WebhookConfig(url=listener)))
    audit.note(storage, "m", "step", "third", who="analysis", at=datetime.now(UTC))
    notifier.turn()
    _await(lambda: Listener.bodies[-1]["data"]["message"] == "third")
    notifier.end()


def _await(condition: Any, timeout_s: float = 30) -> None:
    waited = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return
        waited.wait(0.02)
    raise AssertionError("that did not come about in time")

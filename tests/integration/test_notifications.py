"""Webhooks of the real controller: what a rollout decides is told, also when the controller is killed on the way."""

from __future__ import annotations

import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from services import audit
from services.config import NotifyConfig, WebhookConfig
from services.rollout.courier import publish_receivers
from tests.integration.rollout_world import CONFIG, Deployed

pytestmark = pytest.mark.integration
NUMBER = itertools.count()


class Listener(http.server.ThreadingHTTPServer):
    """Refuses until it is told to answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.told = False, threading.Condition()
        self.messages: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def wait(self, kind: str) -> list[str]:
        with self.told:
            assert self.told.wait_for(lambda: kind in self.kinds, timeout=60), self.kinds
            return self.kinds

    @property
    def kinds(self) -> list[str]:
        """In order, each message once."""
        once = {message["data"]["id"]: message["data"]["kind"] for message in self.messages}
        return list(once.values())


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204 if self.server.answers else 503)
        self.end_headers()
        if self.server.answers:
            with self.server.told:
                self.server.messages.append(body)
                self.server.told.notify_all()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def deployed(ray_cluster: str, tmp_path: Path) -> Iterator[Deployed]:
    world = Deployed(f"told{next(NUMBER)}", tmp_path)
    yield world
    world.close()


def test_a_rollback_is_told_though_the_receiver_was_dead_and_the_controller_killed(
    deployed: Deployed, listener: Listener
) -> None:
    webhook = WebhookConfig(url=f"http://127.0.0.1:{listener.server_port}/")
    publish_receivers(deployed.storage, deployed.name, NotifyConfig(webhooks=(webhook,)))
    deployed.gateway.harmful = True
    deployed.start()
    deployed.wait(lambda s: s.phase == "rolling_back")
    deployed.kill_controller()
    status = deployed.wait(lambda s: s.ended)
    assert status.weight_applied_at is not None
    assert status.decided_at is not None
    deployed.controller_pid()  # the controller is back
    listener.answers = True
    assert listener.wait("rolled_back") == ["started", "rolled_back"]
    recorded = [stored.entry.line for stored in audit.entries(deployed.storage, deployed.name)]
    assert [line.kind for line in recorded if line.who in ("test", "analysis")] == ["started", "rolled_back"]
    assert audit.broken(deployed.storage, deployed.name) == ()


def test_a_start_is_refused_while_the_controller_lacks_a_secret(deployed: Deployed) -> None:
    webhook = WebhookConfig(url="http://127.0.0.1:9/", secret_env="SERINUS_TEST_NO_SUCH_SECRET")
    publish_receivers(deployed.storage, deployed.name, NotifyConfig(webhooks=(webhook,)))
    with pytest.raises(ConfigError, match="has no variable SERINUS_TEST_NO_SUCH_SECRET"):
        deployed.start(CONFIG)

"""Webhooks of the real controller: what a rollout decides is told, also when the controller is killed on the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from services import audit
from services.config import NotifyConfig, WebhookConfig
from services.rollout.receivers import publish_receivers
from tests.integration.listener import Listener
from tests.integration.rollout_world import CONFIG, Deployed

pytestmark = pytest.mark.integration
NUMBER = itertools.count()


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

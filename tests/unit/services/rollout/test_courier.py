"""Webhooks: signed, in order, again until taken, on from where one was killed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from services import audit
from services.audit import Line
from services.config import AuditKind, NotifyConfig, WebhookConfig
from services.rollout.courier import FIRST_WAIT_S, LONGEST_WAIT_S, Courier, Reply, wait_s
from services.rollout.receivers import Receiver, check_receivers, publish_receivers, read_receivers
from services.rollout.webhook_message import signature
from tests.unit.services.rollout.world import Killed, MortalStorage

START = datetime(2026, 1, 1, tzinfo=UTC)
URL = "https://hooks.example/services/T0/SECRETPATH"


class World:
    """A clock, a record, and a receiver that answers what it is told to."""

    def __init__(self, storage: LocalStorage) -> None:
        self.now, self.storage = START, storage
        self.replies: list[Reply] = []
        self.posted: list[dict[str, Any]] = []
        self.receiver = Receiver(webhook=WebhookConfig(url=URL), timeout_s=5, give_up_after_s=3600)

    def post(self, url: str, headers: dict[str, str], body: bytes, timeout_s: float) -> Reply:
        reply = self.replies.pop(0) if self.replies else Reply(200)
        self.posted.append({"url": url, "headers": headers, "body": body, "reply": reply})
        return reply

    def courier(self, storage: LocalStorage | None = None) -> Courier:
        return Courier(storage or self.storage, "m", self.receiver, self.post, clock=lambda: self.now, draw=lambda: 1.0)

    def write(self, *kinds: AuditKind) -> int:
        number = 0
        for place, kind in enumerate(kinds):
            line = Line(id=f"m/{kind}/{place}", kind=kind, name="m", who="analysis", at=self.now, message="3 of 4",
                        details={"candidate": "m-2", "weight_percent": 5.0})  # fmt: skip
            number = audit.append(self.storage, line).entry.number
        return number

    @property
    def taken(self) -> list[str]:
        return [post["headers"]["webhook-id"] for post in self.posted if post["reply"].delivered]


@pytest.fixture
def world(storage: LocalStorage) -> World:
    return World(storage)


def test_what_is_told_is_for_people_and_for_machines(world: World) -> None:
    assert world.courier().turn(world.write("rolled_back")) is None
    (post,) = world.posted
    body = json.loads(post["body"])
    assert post["url"] == URL
    assert body["text"] == "m: m-2 ROLLED BACK (by analysis): 3 of 4"
    assert (body["type"], body["timestamp"]) == ("serinus.rolled_back", START.isoformat())
    assert body["data"]["audit_number"] == 1
    assert body["data"]["audit_sha256"] == next(audit.entries(world.storage, "m")).sha256
    assert (body["data"]["candidate"], body["data"]["weight_percent"]) == ("m-2", 5.0)
    assert post["headers"]["webhook-id"] == body["data"]["id"] == "m/rolled_back/0"
    assert "webhook-signature" not in post["headers"]


def test_only_the_kinds_asked_for_are_sent(world: World) -> None:
    last = world.write("started", "deployed", "keys", "promoted")
    world.courier().turn(last)
    assert world.taken == ["m/started/0", "m/promoted/3"]


@pytest.mark.parametrize("secret", ["plain words", "whsec_" + base64.b64encode(b"\x00key\xff").decode()])
def test_the_signature_is_that_of_standard_webhooks(world: World, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("HOOK_SECRET", secret)
    world.receiver = world.receiver.replace(webhook=WebhookConfig(url=URL, secret_env="HOOK_SECRET"))
    world.courier().turn(world.write("started"))
    headers, body = world.posted[0]["headers"], world.posted[0]["body"]
    key = b"\x00key\xff" if secret.startswith("whsec_") else secret.encode()
    signed = f"{headers['webhook-id']}.{int(START.timestamp())}.".encode() + body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-timestamp"] == str(int(START.timestamp()))
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_of_the_published_example() -> None:
    """From the tests of the Standard Webhooks libraries: github.com/standard-webhooks/standard-webhooks."""
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_a_dead_receiver_is_asked_again_later_and_later_and_then_gets_all_in_order(world: World) -> None:
    world.replies = [Reply(None, "ConnectError"), Reply(503), Reply(302, "redirect"), Reply(401)]
    courier, last = world.courier(), world.write("started", "step")
    waits = []
    while (pause_s := courier.turn(last)) is not None:
        waits.append(pause_s)
        assert courier.turn(last) == pytest.approx(pause_s)  # asked too soon it does not try
        world.now += timedelta(seconds=pause_s)
    assert waits == [1, 2, 4, 8]
    assert world.taken == ["m/started/0", "m/step/1"]
    assert len(world.posted) == 6


@pytest.mark.parametrize(
    ("attempt", "asked", "draw", "expected"),
    [
        (1, None, 0.0, FIRST_WAIT_S / 2),
        (1, None, 1.0, FIRST_WAIT_S),
        (4, None, 0.5, 6.0),
        (99, None, 1.0, LONGEST_WAIT_S),
        (1, 60.0, 0.0, 60.0),
        (1, 1e9, 0.0, LONGEST_WAIT_S),
    ],
)
def test_waits_double_within_bounds_are_drawn_and_heed_the_receiver(
    attempt: int, asked: float | None, draw: float, expected: float
) -> None:
    assert wait_s(attempt, asked, lambda: draw) == expected


def test_what_is_too_old_is_given_up_and_the_rest_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Not without one attempt: it may have waited behind another one."""
    world.write("started")
    world.now += timedelta(hours=2)
    world.replies = [Reply(503)]
    courier, last = world.courier(), world.write("promoted")
    pause_s = courier.turn(last)
    assert pause_s is not None
    world.now += timedelta(seconds=pause_s)
    assert courier.turn(last) is None
    assert world.taken == ["m/promoted/0"]
    assert "m/started/0 is given up: not delivered in time" in caplog.text
    stored = world.storage.read(f"notifications/m/{world.receiver.id}.json")
    assert stored is not None
    assert json.loads(stored.content) == {"entry": 2, "given_up": ["m/started/0"]}


def test_what_is_refused_for_good_keeps_nothing_waiting(world: World) -> None:
    world.replies = [Reply(400)]
    assert world.courier().turn(world.write("started", "rolled_back")) is None
    assert world.taken == ["m/rolled_back/1"]
    assert len(world.posted) == 2


@pytest.mark.parametrize("before", [True, False], ids=["before a write", "after a write"])
def test_killed_at_any_moment_all_is_told_and_what_is_told_twice_has_the_same_id(world: World, before: bool) -> None:
    last = world.write("started", "step", "rolled_back")
    for life in range(1, 4):
        world.posted.clear()
        with pytest.raises(Killed):
            world.courier(MortalStorage(world.storage.root, life, before)).turn(last)
        world.courier().turn(last)
        ids = world.taken
        assert list(dict.fromkeys(ids)) == ["m/started/0", "m/step/1", "m/rolled_back/2"]
        assert len(ids) == (4 if before else 3)
        (world.storage.root / f"notifications/m/{world.receiver.id}.json").unlink()


def test_two_controllers_for_a_moment_do_no_harm(world: World) -> None:
    one, other = world.courier(), world.courier()
    last = world.write("started")
    one.turn(last)
    other.turn(last)
    last = world.write("promoted")
    other.turn(last)
    one.turn(last)
    assert set(world.taken) == {"m/started/0", "m/promoted/0"}
    assert world.courier().turn(last) is None


def test_missing_numbers_stop_nothing(world: World) -> None:
    last = world.write("started", "step", "promoted")
    (world.storage.root / "audit/m/00000002.json").unlink()
    world.courier().turn(last)
    assert world.taken == ["m/started/0", "m/promoted/2"]


# --- which webhooks there are ---------------------------------------------------------------------------------------------


def config(*webhooks: WebhookConfig) -> NotifyConfig:
    return NotifyConfig(webhooks=webhooks)


def test_a_new_receiver_hears_of_what_comes_from_then_on(world: World) -> None:
    first, second = WebhookConfig(url=URL), WebhookConfig(url="http://10.0.0.1:9/x", secret_env="S")
    publish_receivers(world.storage, "m", config(first))
    world.write("started")
    publish_receivers(world.storage, "m", config(first, second, first))
    assert [receiver.since for receiver in read_receivers(world.storage, "m")] == [0, 1]
    publish_receivers(world.storage, "m", NotifyConfig())
    assert read_receivers(world.storage, "m") == ()


@pytest.mark.parametrize(
    ("webhook", "value", "found"),
    [
        (WebhookConfig(url=URL, secret_env="HOOK"), None, "has no variable HOOK"),
        (WebhookConfig(url_env="HOOK"), None, "has no variable HOOK"),
        (WebhookConfig(url_env="HOOK"), "nowhere/SECRETPATH", "is no address"),
    ],
)
def test_what_the_environment_lacks_is_said_without_what_it_holds(
    world: World, monkeypatch: pytest.MonkeyPatch, webhook: WebhookConfig, value: str | None, found: str
) -> None:
    if value is not None:
        monkeypatch.setenv("HOOK", value)
    publish_receivers(world.storage, "m", config(webhook))
    with pytest.raises(ConfigError, match=found) as raised:
        check_receivers(world.storage, "m")
    assert "SECRETPATH" not in str(raised.value)
    world.receiver = world.receiver.replace(webhook=webhook)
    assert world.courier().turn(world.write("started")) is not None  # waits for the variable, unsigned nothing is sent
    assert world.posted == []


@pytest.mark.parametrize(
    "given",
    [{}, {"url": URL, "url_env": "X"}, {"url": "ftp://a/b"}, {"url": "https://"}, {"url": "http://a:b/"}, {"secret_env": "A B"}],
)  # fmt: skip
def test_a_webhook_that_cannot_be_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        WebhookConfig.model_validate(given)

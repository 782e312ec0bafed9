"""EC2's metadata service is asked as its documentation says, and by nobody else's address; what comes of its notice."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psutil
import pytest

from cluster import drain, drain_commands, spot_notice
from cluster.drain import NodeHere
from cluster.errors import ClusterError
from cluster.ports import free_port
from cluster.spot_notice import NOTICE_S, Metadata, Silent, seconds_left, watch
from tests.unit.cluster.metadata_server import MetadataServer, metadata_server

NODE = NodeHere("ab12", "10.0.0.2", "10.0.0.1:6379", psutil.Process())
TOKEN, LIFE_CYCLE = "/latest/api/token", "/latest/meta-data/instance-life-cycle"
ACTION = "/latest/meta-data/spot/instance-action"
PAGE = "<html><body>Sign in</body></html>"


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as server:
        yield server


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Notices by which the node was drained, s."""
    left: list[float] = []
    monkeypatch.setattr(drain, "leave", lambda node, notice_s, message: left.append(notice_s))
    return left


def then(*acts: Callable[[], object]) -> Callable[[float], None]:
    """A sleep that takes no time; each does the next of these."""
    waiting = iter(acts)
    return lambda _: next(waiting)() and None


def test_a_notice_drains_the_node_once(server: MetadataServer, left: list[float]) -> None:
    watch(Metadata("127.0.0.1", server.port), lambda: NODE, then(lambda: None, lambda: server.take_back(90)))
    assert server.asked == [TOKEN, LIFE_CYCLE, ACTION, ACTION, ACTION]
    (notice_s,) = left
    assert 80 < notice_s <= 90


def test_a_token_at_the_end_of_its_life_is_asked_anew(server: MetadataServer, left: list[float]) -> None:
    watch(Metadata("127.0.0.1", server.port), lambda: NODE, then(server.forget_tokens, lambda: server.take_back(90)))
    assert server.asked == [TOKEN, LIFE_CYCLE, ACTION, ACTION, TOKEN, ACTION, ACTION]
    assert len(left) == 1


@pytest.mark.parametrize("status", [302, 307, 500, 503])
def test_an_answer_that_is_none_is_passed_over_and_no_redirect_followed(
    server: MetadataServer, left: list[float], status: int
) -> None:
    def answer(status: int | None) -> Callable[[], None]:
        return lambda: setattr(server, "status", status)

    sleep = then(answer(status), answer(None), lambda: server.take_back(90))
    watch(Metadata("127.0.0.1", server.port), lambda: NODE, sleep)
    assert set(server.asked) == {TOKEN, LIFE_CYCLE, ACTION}
    assert len(left) == 1


@pytest.mark.parametrize("text", ["", PAGE, "[]", '"terminate"', '{"time": "2026-01-01T00:01:30Z"}', "[" * 4000])
def test_an_answer_that_is_no_notice_drains_nothing(server: MetadataServer, left: list[float], text: str) -> None:
    """As of a login page, which answers everything with 200."""

    def answer() -> None:
        server.items["spot/instance-action"] = text

    watch(Metadata("127.0.0.1", server.port), lambda: NODE, then(answer, lambda: None, lambda: server.take_back(90)))
    assert server.asked.count(ACTION) == 4
    (notice_s,) = left
    assert 80 < notice_s <= 90


@pytest.mark.parametrize("life_cycle", ["on-demand", PAGE])
def test_a_machine_that_is_no_spot_instance_is_not_watched(
    server: MetadataServer, life_cycle: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server.items["instance-life-cycle"] = life_cycle
    watch(Metadata("127.0.0.1", server.port), lambda: pytest.fail("nobody looks for a node"))
    assert server.asked == [TOKEN, LIFE_CYCLE]
    assert "no spot instance" in capfd.readouterr().err


def test_where_no_service_is_the_log_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    """Else a spot machine whose metadata is turned off looks like one that is watched."""
    waits: list[float] = []
    watch(Metadata("127.0.0.1", free_port(18700)), lambda: pytest.fail("nobody looks for a node"), waits.append)
    assert waits == [1.0, 1.0, 1.0]
    assert "no metadata service of EC2 answers here" in capfd.readouterr().err


def test_the_watch_ends_with_its_node(server: MetadataServer, left: list[float]) -> None:
    gone = psutil.Popen(["sleep", "60"])

    def end() -> None:
        gone.kill()
        gone.wait()

    watch(Metadata("127.0.0.1", server.port), lambda: NODE._replace(raylet=gone), then(end))
    assert not left


def test_a_head_that_does_not_answer_is_told_again(server: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def leave(node: NodeHere, notice_s: float, message: str) -> bool:
        tries.append(notice_s)
        if len(tries) == 1:
            raise ClusterError("cluster", "does not answer", "wait")
        return True

    monkeypatch.setattr(drain, "leave", leave)
    server.take_back(90)
    watch(Metadata("127.0.0.1", server.port), lambda: NODE, then(lambda: None))
    assert len(tries) == 2


def test_a_head_that_never_answers_is_told_of_at_the_end(
    server: MetadataServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(node: NodeHere, notice_s: float, message: str) -> bool:
        raise ClusterError("cluster", "does not answer", "wait")

    monkeypatch.setattr(drain, "leave", leave)
    server.take_back(3)
    with pytest.raises(ClusterError, match="does not answer"):
        watch(Metadata("127.0.0.1", server.port), lambda: NODE)


@pytest.mark.parametrize(
    ("notice", "left_s"),
    [
        ('{"action": "terminate", "time": "2026-01-01T00:01:30Z"}', 90),
        ('{"action": "stop", "time": "2026-01-01T00:01:30"}', 90),
        ('{"action": "terminate", "time": "2026-01-01T05:00:00Z"}', NOTICE_S),
        ('{"action": "terminate", "time": "2025-01-01T00:00:00Z"}', NOTICE_S),
        ('{"action": "terminate", "time": "2026-01-01T01:01:30+01:00"}', 90),
        ('{"action": "hibernate"}', NOTICE_S),
        ("[]", NOTICE_S),
        ("taken back", NOTICE_S),
        ('{"time": 7}', NOTICE_S),
    ],
)
def test_how_long_a_notice_leaves(notice: str, left_s: float) -> None:
    assert seconds_left(notice, datetime(2026, 1, 1, tzinfo=UTC)) == left_s


def test_no_setting_names_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a proxy of the environment get the question, and with it the machine's token."""
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr("socket.create_connection", lambda address, *_, **__: seen.append(address) or _refuse())
    for name in ("http_proxy", "HTTP_PROXY", "AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    with pytest.raises(Silent):
        Metadata().is_spot()
    assert seen == [("169.254.169.254", 80)]
    assert "Metadata()" in inspect.getsource(drain_commands)
    assert "environ" not in inspect.getsource(spot_notice)


def _refuse() -> None:
    raise ConnectionRefusedError

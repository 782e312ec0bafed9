"""`serinus canary ... --server URL` as a person on call types it, before a real HTTP server of the control API."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from cluster.errors import ClusterError, ConfigError, InputError
from serinus import app
from services.commands.remote import ControlApi
from services.control.routes import PREFIX
from services.control.server import MAX_REQUESTS
from services.rollout.summary import as_json
from services.serving.listener import Listener
from tests.integration.gateway_world import free_port
from tests.unit.services.control.scene import Scene
from tests.unit.services.rollout.world import CANDIDATE, STABLE


class Served:
    """The scene, listening."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.scene, self._patch = Scene(root), patch
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.server = uvicorn.Server(uvicorn.Config(self.scene.app, port=port, log_config=None))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def type(self, *arguments: str, role: str = "operator") -> tuple[int, str]:
        self._patch.setenv("SERINUS_API_KEY", self.scene.tokens.get(role, role))
        result = CliRunner().invoke(app, ["canary", *arguments, "--server", self.url])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served(tmp_path, monkeypatch)
    yield served
    served.server.should_exit = True
    served.thread.join()


def test_a_rollout_from_start_to_the_way_back_without_a_recipe(served: Served) -> None:
    world = served.scene.world
    world.run(3)
    assert f"{CANDIDATE} waits for its turn" in served.type("start")[1]
    world.run(1)
    code, shown = served.type("status", role="viewer")
    assert (code, f"{CANDIDATE} against {STABLE}, progressing" in shown) == (0, True)
    assert '"phase": "progressing"' in served.type("status", "--json", role="viewer")[1]
    served.type("set", "25")
    world.run(1)
    assert f"canary {CANDIDATE} with 25 % of users" in served.type("set", "25")[1]
    served.type("promote")
    world.run(10)
    assert world.traffic.stable == CANDIDATE
    assert f"stable {STABLE}, canary none" in served.type("rollback")[1], "no rollout is under way: stable goes back"
    code, told = served.type("history", "--last", "2", role="viewer")
    assert (code, "key:operator" in told, "reverted" in told) == (0, True, True)


def test_a_refusal_is_told_with_what_to_do(served: Served) -> None:
    served.scene.world.start()
    with pytest.raises(InputError, match=r"refuses it \(403\): this needs a key with the role `operator`"):
        served.type("rollback", role="viewer")
    with pytest.raises(InputError, match=r"refuses it \(401\): Incorrect API key") as refused:
        served.type("status", role="sk-serinus-nobody")
    assert "sk-serinus-nobody" not in str(refused.value)
    with pytest.raises(InputError, match=r"refuses it \(409\): .*no candidate waits"):
        served.type("withdraw")
    assert served.scene.world.status.phase == "progressing"


@pytest.mark.parametrize(
    ("server", "key", "says"),
    [
        ("http://example.com:8010", "sk-x", "in the clear"),
        ("http://127.0.0.1.example.com:8010", "sk-x", "in the clear"),
        ("ftp://127.0.0.1", "sk-x", "is no address"),
        ("http://[::1", "sk-x", "is no address"),
        ("http://127.0.0.1:port", "sk-x", "is no address"),
        ("https://:password@host", "sk-x", "is no address"),
        ("https://host/#there", "sk-x", "is no address"),
        ("https://user:password@host", "sk-x", "is no address"),
        ("http://127.0.0.1:8010", None, "has no variable SERINUS_API_KEY"),
        ("http://127.0.0.1:8010", "sk-x\r\nx-serinus-role: admin", "no header may have"),
    ],
)
def test_a_key_goes_nowhere_where_others_read_it(
    server: str, key: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERINUS_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("SERINUS_API_KEY", key)
    with pytest.raises(ConfigError, match=says):
        ControlApi(server)


def test_an_address_that_was_left_empty_is_refused_and_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERINUS_API_KEY", "sk-x")
    for words in (["rollback"], ["start"], ["withdraw"], ["status"], ["history"]):
        result = CliRunner().invoke(app, ["canary", *words, "--server", ""])
        assert isinstance(result.exception, ConfigError)
        assert result.exception.where == "--server"


def test_a_recipe_beside_a_server_is_refused_and_not_left_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERINUS_API_KEY", "sk-x")
    for words in (["rollback"], ["set", "5"], ["start"], ["withdraw"], ["status"], ["history"]):
        named = ["--recipe", "another.yaml", "--server", "https://there:8010"]
        result = CliRunner().invoke(app, ["canary", *words, *named])
        assert isinstance(result.exception, ConfigError)
        assert result.exception.where == "--recipe"
        assert "another.yaml" in str(result.exception)


def test_a_rollback_needs_no_server_of_the_same_version(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    world = served.scene.world
    rollout = world.start()
    monkeypatch.setattr("services.control.desk.as_json", lambda *given: {**as_json(*given), "unheard_of": 1})
    with pytest.raises(ClusterError, match="another version"):
        served.type("status", role="viewer")
    assert served.type("rollback")[0] == 0
    assert (world.status.id, world.status.phase) == (rollout, "rolling_back")


def test_one_key_does_not_hold_all_the_places_of_who_rolls_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    rollout = scene.world.start()
    head = f"POST {PREFIX}/rollouts HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nauthorization: Bearer {scene.tokens['viewer']}\r\n"

    async def run() -> None:
        listener = Listener("127.0.0.1", port := free_port(), MAX_REQUESTS)
        await listener.start(scene.app)
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_REQUESTS)]
        for _, writer in slow:
            writer.write(f"{head}\r\n{{".encode())
        told = [asyncio.create_task(reader.readline()) for reader, _ in slow]
        while sum(task.done() for task in told) < MAX_REQUESTS - 8:
            await asyncio.sleep(0.01)
        assert {task.result().split()[1] for task in told if task.done()} == {b"429"}
        held = next(writer for task, (_, writer) in zip(told, slow, strict=True) if not task.done())
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}{PREFIX}", timeout=30) as client:
            answers = [await client.post(f"/rollouts/{rollout}/rollback", headers=bearer("operator"))]
            held.close()
            while (answer := await client.get("/traffic", headers=bearer("viewer"))).status_code == 429:
                await asyncio.sleep(0.01)
            answers.append(answer)
        assert [answer.status_code for answer in answers] == [200, 200], "a place that was left is there again"
        for _, writer in slow:
            writer.close()
        await asyncio.gather(*told, return_exceptions=True)
        await listener.drain()

    def bearer(role: str) -> dict[str, str]:
        return {"authorization": f"Bearer {scene.tokens[role]}"}

    asyncio.run(asyncio.wait_for(run(), 60))


def test_who_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERINUS_API_KEY", "sk-x")
    with pytest.raises(ClusterError, match="does not answer"):
        ControlApi(f"http://127.0.0.1:{free_port()}").traffic()

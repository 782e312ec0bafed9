"""What a replica holds follows its order; what cannot be loaded harms nothing else. And what an engine has no room for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.artifacts import Revision
from cluster.errors import ConfigError, ResourceError
from cluster.node_cache import lent_copy
from cluster.s3 import S3Storage
from cluster.storage import LocalStorage
from cluster.storage_config import StorageConfig
from services.config import EngineConfig, LoraConfig
from services.engines import EngineReport, change_order
from services.serving.adapters import Adapters
from services.serving.engine import engine_arguments
from services.serving.lora import check_fits, check_room


class Engine:
    """Takes any adapter but the one called `bad`; the one called `mute` loads and answers nothing."""

    def __init__(self) -> None:
        self.held: list[str] = []

    async def load(self, name: str, folder: str) -> None:
        await asyncio.sleep(0)
        if name == "bad":
            raise RuntimeError("rank too large")
        self.held.append(name)

    async def unload(self, name: str) -> None:
        self.held.remove(name)

    async def ask(self, name: str) -> None:
        if name == "mute":
            raise RuntimeError("no answer")


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def adapters(engine: Engine, storage: LocalStorage) -> Adapters:
    for name in ("a", "b", "bad", "mute"):
        storage.write(f"{name}/adapter_config.json", b"{}")
    return Adapters(engine, storage, engine.ask)


def wanted(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def test_an_order_is_followed_and_followed_again(adapters: Adapters, engine: Engine) -> None:
    asyncio.run(adapters.match(wanted("a", "b")))
    asyncio.run(adapters.match(wanted("b")))
    asyncio.run(adapters.match(wanted("b")))
    assert (engine.held, adapters.loaded, adapters.problems) == (["b"], {"b"}, {})


@pytest.mark.parametrize(
    ("broken", "problem"), [("bad", "rank too large"), ("mute", "no answer"), ("gone", "no such folder")]
)
def test_what_cannot_be_loaded_is_left_out_and_named(
    adapters: Adapters, engine: Engine, broken: str, problem: str
) -> None:
    asyncio.run(adapters.match(wanted("a", broken, "b")))
    assert (engine.held, adapters.loaded) == (["a", "b"], {"a", "b"})
    assert problem in adapters.problems[broken]
    asyncio.run(adapters.match(wanted("a", "b")))
    assert adapters.problems == {}


@pytest.mark.parametrize("name", ["a", "bad", "mute"])
def test_an_adapters_copy_has_its_room_on_the_node_while_the_engine_holds_it(
    s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of the bound in `storage.cache_gib`, which has room for one and a half."""
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path / "home"))
    storage = S3Storage(StorageConfig.model_validate({"uri": s3_uri, "cache_gib": 1_500 / 2**30}))
    for key in (name, "next"):
        storage.write(f"{key}/adapter_model.safetensors", b"a" * 1_000)

    async def served() -> None:
        engine = Engine()
        adapters = Adapters(engine, storage, engine.ask, linger_s=0)
        await adapters.match(wanted(name))
        if name == "a":
            with pytest.raises(ResourceError, match="in use"):
                lent_copy(storage, "next")
            await adapters.match({})
        await asyncio.sleep(0.01)  # the loop gives it back in its next turn
        lent_copy(storage, "next").give_back()

    asyncio.run(served())


def test_two_at_once_load_each_adapter_once(adapters: Adapters, engine: Engine) -> None:
    async def twice() -> None:
        await asyncio.gather(adapters.match(wanted("a")), adapters.match(wanted("a", "b")))

    asyncio.run(twice())
    assert sorted(engine.held) == ["a", "b"]


ADAPTER = Revision(key="k", name="m", revision="m-2", base="m-1", adapter="folder")


@pytest.mark.parametrize(
    ("report", "rank", "held", "message"),
    [
        (EngineReport(replica="r"), 8, (), "without room"),
        (EngineReport(replica="r", max_rank=16, max_adapters=4), 32, (), "rank 16 at most"),
        (EngineReport(replica="r", max_rank=16, max_adapters=1), 8, ("m-3",), "holds m-3"),
    ],
)
def test_an_engine_without_room_says_what_to_do(
    report: EngineReport, rank: int, held: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_fits(ADAPTER, rank, (report,), frozenset(held))
    assert "serinus deploy RECIPE" in caught.value.remedy


def test_an_adapter_that_is_held_already_takes_no_further_place() -> None:
    check_fits(ADAPTER, 16, (EngineReport(replica="r", max_rank=16, max_adapters=1),), frozenset({"m-2"}))


def test_an_engine_with_adapters_is_not_started_without_room_for_them(storage: LocalStorage) -> None:
    base = Revision(key="k", name="m", revision="m-1")
    check_room(base, EngineConfig(), storage)
    change_order(storage, "m", "m-1", lambda order: order.replace(adapters={"m-2": "folder"}))
    check_room(base, EngineConfig(lora=LoraConfig()), storage)
    with pytest.raises(ConfigError, match="m-2 run in this engine"):
        check_room(base, EngineConfig(), storage)


def test_room_for_adapters_is_asked_of_vllm() -> None:
    arguments = engine_arguments(EngineConfig(lora=LoraConfig(max_rank=32, max_adapters=3)), "")
    assert (arguments["enable_lora"], arguments["max_lora_rank"], arguments["max_loras"]) == (True, 32, 3)
    assert "enable_lora" not in engine_arguments(EngineConfig(), "")

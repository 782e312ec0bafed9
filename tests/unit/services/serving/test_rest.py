"""An engine at rest sleeps once it is idle, and is awake before it is asked anything. A fake stands for vLLM on a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.serving.rest import Sleeper


class Engine:
    def __init__(self, num_under_way: int = 0) -> None:
        self.num_under_way = num_under_way
        self.calls: list[str] = []

    def busy(self) -> bool:
        return self.num_under_way > 0

    async def sleep(self) -> None:
        assert not self.busy()
        await asyncio.sleep(0.005)
        self.calls.append("sleep")

    async def wakeup(self) -> None:
        self.calls.append("wakeup")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_it_sleeps_when_the_last_request_has_ended_and_wakes_when_asked() -> None:
    async def story() -> None:
        engine = Engine(num_under_way=1)
        sleeper = Sleeper(engine, poll_s=0.001)
        sleeper.rest()
        sleeper.rest()
        await asyncio.sleep(0.02)
        assert engine.calls == []
        engine.num_under_way = 0
        await until(lambda: sleeper.asleep)
        await sleeper.wake()
        assert (engine.calls, sleeper.asleep) == (["sleep", "wakeup"], False)

    asyncio.run(story())


def test_woken_while_it_falls_asleep_it_is_awake_in_the_end() -> None:
    async def story() -> None:
        engine = Engine()
        sleeper = Sleeper(engine, poll_s=0.001)
        sleeper.rest()
        await asyncio.sleep(0.002)  # in the middle of it
        await sleeper.wake()
        await asyncio.sleep(0.02)
        assert (engine.calls[-1:], sleeper.asleep) in ((["wakeup"], False), ([], False))
        sleeper.rest()
        await until(lambda: sleeper.asleep)

    asyncio.run(story())

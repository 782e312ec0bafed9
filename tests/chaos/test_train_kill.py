"""Whoever is killed, the run ends with the loss curve of the undisturbed one."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from cluster.artifacts import Checkpoint, LossPoint
from cluster.storage import LocalStorage
from pipelines.config import TrainConfig
from pipelines.training.packing import Share, checksum, num_sequences, sequence_ids
from pipelines.training.tokens import make_tokens, open_stream, tokenizer_digest
from pipelines.training.train import train
from tests.chaos.training_world import Driver, kill_a_rank, last_registered, registered, wait_for, workers
from tests.integration.training_case import base_model, chaos_run, golden_losses, small_dataset

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(1_200)]

TOLERANCE = 1e-5
"""Relative, of a step's loss, where another number of ranks adds up in another order."""


Drive = Callable[..., Driver]


@pytest.fixture
def drive(storage: LocalStorage, tiny_model: Path, tmp_path: Path) -> Iterator[Drive]:
    """Starts drivers of one run, for `chaos_run` with other fields; those still there end with the test."""
    with ExitStack() as started:

        def one(**fields: Any) -> Driver:
            return started.enter_context(closing(Driver(storage, tiny_model, tmp_path / "log", **fields)))

        yield one


def assert_golden(made: Checkpoint) -> None:
    assert [point.step for point in made.losses] == list(range(1, 9))
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)


@pytest.mark.parametrize("after", [2, pytest.param(0, marks=pytest.mark.long)])
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_rank_is_replaced_and_the_curve_goes_on(storage: LocalStorage, tiny_model: Path, after: int) -> None:
    """After so many checkpoints; with none, while it is still starting."""
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: registered(storage, after) and bool(workers()), "a rank to kill")
        victim = workers()[-1]
        killed.append(victim.pid)
        victim.kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    made = train(chaos_run(), dataset, base, storage)
    killer.join()

    assert killed
    assert len(made.resumed_at_steps) == (after > 0)
    assert all(step >= after for step in made.resumed_at_steps)
    assert_golden(made)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_an_interrupted_and_then_killed_driver_is_taken_up_by_one_rank(storage: LocalStorage, drive: Drive) -> None:
    interrupted = drive()
    wait_for(lambda: registered(storage, 1), "the first checkpoint")
    interrupted.process.send_signal(signal.SIGINT)
    interrupted.process.communicate(timeout=240)
    complaints = interrupted.log.read_text()
    assert interrupted.process.returncode == 130, complaints
    assert "Traceback" not in complaints
    wait_for(lambda: not workers(), "the end of the workers after Ctrl-C")

    killed = drive()
    wait_for(lambda: registered(storage, 4), "a later checkpoint")
    killed.kill()
    wait_for(lambda: not workers(), "the end of the workers after the driver's death")

    made = drive(num_workers=1).made()
    # Two as a rule. Once there was one more, whose cause is not known: Ray Train's controller may outlive its driver by a moment
    # and start its workers anew.
    first, *_, last = made.resumed_at_steps
    assert 1 <= first < last
    assert last >= 4
    assert made.num_workers == 1
    assert_golden(made)


FEW, MANY = {"num_steps": 60}, {"num_steps": 240, "max_failures": 100}
"""Somewhat more than an epoch; and steps enough for twenty kills."""

Undisturbed = Callable[[str], tuple[LossPoint, ...]]


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Each step of `chaos_run` with those fields (in JSON) by two ranks; what it took is what it ought to."""

    @lru_cache
    def run(fields: str) -> tuple[LossPoint, ...]:
        storage, config = LocalStorage(tmp_path_factory.mktemp("undisturbed")), chaos_run(**json.loads(fields))
        dataset, base = small_dataset(storage), base_model(storage, tiny_model)
        made = train(config, dataset, base, storage)
        assert not made.resumed_at_steps
        tokenizer = tokenizer_digest({entry.path: entry.sha256 for entry in base.files})
        stream = open_stream(storage, make_tokens(dataset, base.folder, tokenizer, storage))
        taken = wanted_ids(config, num_sequences(len(stream), config.sequence_length))
        assert [point.sequences_checksum for point in made.losses] == [checksum(ids) for ids in taken]
        return made.losses

    return run


def wanted_ids(config: TrainConfig, num: int) -> list[list[int]]:
    """Of the sequences of each step; in each epoch each of them once, and so each document."""
    share = Share(0, 1, config.total_sequences)
    taken = [sequence_ids(share, step, 0, num, config.seed) for step in range(config.num_steps)]
    places = [i for ids in taken for i in ids]
    epochs = [sorted(places[first : first + num]) for first in range(0, len(places) - num + 1, num)]
    assert epochs
    assert all(epoch == list(range(num)) for epoch in epochs)
    return taken


TAKEN_OVER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "2 -> 1 ranks": ({}, {"num_workers": 1}),
    "1 -> 2 ranks": ({"num_workers": 1}, {}),
    "2 -> 4 ranks": ({}, {"num_workers": 4, "sequences_per_worker": 1}),
    "ZeRO 3 -> TP 2": ({}, {"parallel": {"tensor": 2}, "zero": {"stage": 1}}),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TAKEN_OVER)
def test_a_killed_run_is_taken_over_by_other_ranks_in_the_middle_of_an_epoch(
    undisturbed: Undisturbed, storage: LocalStorage, drive: Drive, name: str
) -> None:
    (before, after), wanted = TAKEN_OVER[name], undisturbed(json.dumps(FEW))
    first = drive(**FEW, **before)
    wait_for(lambda: registered(storage, 15), "a checkpoint")
    first.kill()
    wait_for(lambda: not workers(), "the end of the workers after the driver's death")
    made = drive(**FEW, **after).made()
    assert made.resumed_at_steps[-1] >= 15
    found = max(abs(one.loss / other.loss - 1) for one, other in zip(made.losses, wanted, strict=True))
    print(f"{name}, taken over at step {made.resumed_at_steps[-1]}: {found:.1e} from the undisturbed run")
    assert found <= TOLERANCE
    assert [p.sequences_checksum for p in made.losses] == [p.sequences_checksum for p in wanted]


class Kill(NamedTuple):
    who: Literal["rank", "driver"]
    after_steps: int
    """Checkpoints that come after the kill before. With none, the new ranks may still be starting."""
    delay_s: float

    def strike(self, driver: Driver, storage: LocalStorage, rng: random.Random) -> None:
        wanted = last_registered(storage) + self.after_steps
        wait_for(lambda: registered(storage, wanted), f"step {wanted}")
        time.sleep(self.delay_s)
        if self.who == "driver":
            driver.kill()
            driver.start()
        else:
            kill_a_rank(rng)


def drawn(rng: random.Random, num: int = 20) -> list[Kill]:
    steps = [rng.randrange(4) for _ in range(num)]
    delays = [rng.uniform(0, 1 if after else 15) for after in steps]  # a start takes ten seconds or so
    whos: list[Literal["rank", "driver"]] = rng.choices(["rank", "driver"], [3, 1], k=num)
    return [Kill(*kill) for kill in zip(whos, steps, delays, strict=True)]


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_twenty_random_kills_in_one_run_change_no_loss(
    undisturbed: Undisturbed, storage: LocalStorage, drive: Drive
) -> None:
    """SERINUS_SEED draws the same kills again; what they meet is up to the machine."""
    seed = int(os.environ.get("SERINUS_SEED", secrets.randbelow(10**6)))
    rng = random.Random(seed)
    kills, driver, struck = drawn(rng), drive(**MANY), set[int]()
    for number, kill in enumerate(kills, 1):
        wait_for(lambda: any(rank.pid not in struck for rank in workers()), "ranks that have not been struck")
        kill.strike(driver, storage, rng)
        struck.update(rank.pid for rank in workers())
        print(f"seed {seed}, kill {number}: a {kill.who}, behind checkpoint {last_registered(storage)}", flush=True)
        assert driver.is_running(), f"the run has ended: {driver.made().resumed_at_steps}"
    made = driver.made(timeout_s=600)
    print(f"seed {seed}: {dict(Counter(kill.who for kill in kills))}, resumed at {made.resumed_at_steps}")
    assert len(made.resumed_at_steps) > len(kills) // 2  # the other kills came before a start was noted
    assert made.losses == undisturbed(json.dumps(MANY))

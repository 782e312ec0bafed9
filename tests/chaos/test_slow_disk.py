"""The storage's disk is slow: a write takes seconds. Users notice nothing; rollouts and training take longer, and end alike."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.storage import LocalStorage
from pipelines.training.train import train
from tests.chaos.serving_world import CONFIG, NAME, ONE, OTHER, SecondNode, World
from tests.chaos.slow_disk import SlowDisk, slow_disk
from tests.integration.clients import Clients
from tests.integration.rollout_world import CONFIG as QUICK
from tests.integration.rollout_world import Deployed
from tests.integration.training_case import base_model, chaos_run, golden_losses, small_dataset

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.usefixtures("ray_cluster")]
NUMBER = itertools.count()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SlowDisk]:
    with slow_disk(tmp_path) as disk:
        yield disk


def test_a_rollout_goes_its_way_though_each_write_takes_seconds(disk: SlowDisk) -> None:
    world = Deployed(f"slow{next(NUMBER)}", disk.folder)
    try:
        disk.takes(write_ms=100, sync_ms=300)  # a status is a file created, written, synced and renamed: a second
        world.start(QUICK, keep_revisions=0)
        good = world.wait(lambda status: status.ended)
        assert (good.phase, [d.weight_percent for d in good.decisions]) == ("promoted", [20, 50, 100])
    finally:
        disk.takes()
        world.close()


def test_harm_is_found_though_each_write_takes_seconds(disk: SlowDisk) -> None:
    world = Deployed(f"slow{next(NUMBER)}", disk.folder)
    try:
        world.gateway.harmful = True
        disk.takes(write_ms=100, sync_ms=300)
        world.start()
        bad = world.wait(lambda status: status.ended)
        assert (bad.phase, bad.decisions[-1].reason) == ("rolled_back", "error_rate")
        assert bad.weight_applied_at is not None
        assert bad.decided_at is not None
        print(f"decided to weight 0 everywhere: {(bad.weight_applied_at - bad.decided_at).total_seconds():.1f} s")
    finally:
        disk.takes()
        world.close()


@pytest.mark.long
def test_users_wait_no_longer_while_a_rollout_writes_to_a_slow_disk(ray_cluster: str, disk: SlowDisk) -> None:
    node = SecondNode()
    try:
        world = World(disk.folder, node)
        with Clients(world.url, NAME, num=6, pause_s=0.05) as clients:
            clients.wait_for(100)
            before = list(clients.seen)
            disk.takes(write_ms=200, sync_ms=1000)
            world.start(OTHER, CONFIG.replace(step_timeout_s=300))
            status = world.wait(lambda s: s.ended, 300)
            during = clients.seen[len(before) :]
        disk.takes()
        world.close()
    finally:
        node.close()
    waits = [[one.ended_at - one.began_at for one in seen if not one.streamed] for seen in (before, during)]
    medians, worst = [statistics.median(each) for each in waits], [max(each) for each in waits]
    failed = [one for one in before + during if one.problem]
    print(
        f"{len(before)} requests before, {len(during)} during, {len(failed)} failed; median {medians[0]:.2f} and "
        f"{medians[1]:.2f} s, slowest {worst[0]:.2f} and {worst[1]:.2f} s"
    )
    assert failed == []
    assert status.phase == "promoted"
    assert {one.revision for one in during} == {ONE, OTHER}
    assert medians[1] < 1.5 * medians[0]


TIMEOUT_S = 20


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ranks_that_wait_for_their_disk_are_not_called_hung(
    disk: SlowDisk, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint takes longer than a rank may stand still, or be silent."""
    storage = LocalStorage(disk.folder / "storage")
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    disk.takes(write_ms=200, sync_ms=500)
    began = time.monotonic()
    made = train(chaos_run(hang_timeout_s=TIMEOUT_S, checkpoint_every_steps=4, max_failures=0), dataset, base, storage)
    took_s = time.monotonic() - began
    disk.takes()
    told = capfd.readouterr().err
    print(f"{took_s:.0f} s for 8 steps with two checkpoints")
    assert "hangs" not in told
    assert made.resumed_at_steps == ()
    assert took_s > 2 * TIMEOUT_S
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)

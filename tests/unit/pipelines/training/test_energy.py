"""Counters of energy: which are read, how they come round, whose share it is, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pipelines.training.checkpoint import Record
from pipelines.training.energy import Joules, Meter, of_processors, processor_times, zones
from pipelines.training.ledger import Measured, measured_of


def zone(folder: Path, number: str, name: str, microjoules: int, size: int = 262_143_328_850) -> Path:
    """As Linux' powercap shows it."""
    made = folder / f"intel-rapl:{number}"
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{size}\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    return made / "energy_uj"


def test_packages_and_memory_count_and_what_is_inside_of_them_does_not(tmp_path: Path) -> None:
    for number, name in enumerate(("package-0", "package-1", "psys")):
        zone(tmp_path, str(number), name, 1)
    for number, name in enumerate(("core", "uncore", "dram")):
        zone(tmp_path, f"0:{number}", name, 1)
    assert [found.file.parent.name for found in zones(tmp_path)] == ["intel-rapl:0", "intel-rapl:0:2", "intel-rapl:1"]


def test_without_counters_or_with_one_that_may_not_be_read_there_is_none(tmp_path: Path) -> None:
    assert zones(tmp_path) == []
    zone(tmp_path, "0", "package-0", 1)
    broken = zone(tmp_path, "1", "package-1", 1)
    broken.write_text("")  # as root, which the tests may run as, no file refuses to be read
    assert zones(tmp_path) == []


def test_a_process_has_its_part_of_what_was_drawn_while_it_ran(tmp_path: Path) -> None:
    package, memory = zone(tmp_path, "0", "package-0", 1_000_000), zone(tmp_path, "0:0", "dram", 500_000)
    taken = iter([(10.0, 100.0), (13.0, 112.0), (13.0, 112.0), (14.0, 112.5)])
    since = of_processors(zones(tmp_path), lambda: next(taken))
    package.write_text("81000000")
    memory.write_text("40500000")
    assert since() == pytest.approx((80 + 40) * 3 / 12)
    package.write_text("82000000")
    assert since() == 0  # it did not run
    package.write_text("83000000")
    assert since() == pytest.approx(1)  # clocks of the kernel tick apart: never more than all


def test_a_counter_that_came_round_goes_on(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", 9_000_000, size=9_999_999)
    taken = iter([(0.0, 0.0), (1.0, 1.0)])
    since = of_processors(zones(tmp_path), lambda: next(taken))
    package.write_text("2000000")
    assert since() == pytest.approx(3)


def test_a_process_that_computes_takes_processor_time() -> None:
    own, everybody = processor_times()
    while processor_times()[0] < own + 0.05:
        pass
    assert processor_times()[1] > everybody
    assert own < everybody


@pytest.fixture
def one_rank() -> Iterator[torch.device]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield torch.device("cpu")
    dist.destroy_process_group()


def test_ranks_on_gpus_need_the_gpus_counters_and_tell_what_is_left_out(one_rank: torch.device) -> None:
    def meter(gpu: Joules | None, processors: Joules | None, *, on_gpu: bool) -> Meter:
        return Meter(gpu, processors, on_gpu=on_gpu, device=one_rank)

    both = meter(lambda: 2.0, lambda: 1.0, on_gpu=True)
    assert (both.joules(), both.basis) == (
        3.0,
        "measured: NVML's counters of the GPUs, RAPL's counters of processors and memory by the share of processor time",
    )
    alone = meter(lambda: 2.0, None, on_gpu=True)
    assert (alone.joules(), alone.basis) == (2.0, "measured: NVML's counters of the GPUs, host left out")
    without = meter(None, lambda: 1.0, on_gpu=True)
    assert (without.joules(), without.basis) == (None, None)
    assert meter(None, lambda: 1.0, on_gpu=False).joules() == 1.0
    assert meter(None, None, on_gpu=False).joules() is None


def test_a_counter_that_fails_on_the_way_ends_no_run_and_is_not_left_out_of_the_sum(one_rank: torch.device) -> None:
    def fails() -> float:
        raise OSError("gone")

    assert Meter(None, fails, on_gpu=False, device=one_rank).joules() is None


def test_what_works_beside_the_ranks_is_said_to_be_left_out(one_rank: torch.device) -> None:
    def basis(processors: Joules | None) -> str | None:
        return Meter(None, processors, on_gpu=False, device=one_rank, left_out="engines that answer").basis

    assert str(basis(lambda: 1.0)).endswith("; engines that answer left out")
    assert basis(None) is None


def test_what_a_step_drew_that_does_not_stand_is_not_the_next_ones(one_rank: torch.device, tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", 0)
    taken = iter([(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)])
    meter = Meter(None, of_processors(zones(tmp_path), lambda: next(taken)), on_gpu=False, device=one_rank)
    package.write_text("50000000")
    meter.forget()
    package.write_text("53000000")
    assert meter.joules() == 3


def test_a_run_is_measured_whole_or_not_at_all() -> None:
    record = Record()
    record = record.replace(step=1, energy_j=record.drawn(5.0, "RAPL"), energy_basis="RAPL")
    record = record.replace(step=2, energy_j=record.drawn(7.0, "RAPL"))
    assert record.energy_j == 12
    assert record.replace(energy_j=record.drawn(None, "RAPL")).drawn(3.0, "RAPL") is None
    assert record.drawn(3.0, "NVML") is None  # it went on where less has a counter, or more
    assert Record(step=4).drawn(3.0, "RAPL") is None  # of a checkpoint from before anything was measured


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ({"energy_j": 7200.0, "energy_basis": "measured"}, Measured(7200.0, "measured")),
        ({"energy_j": None, "energy_basis": "measured"}, None),
        ({"energy_j": None, "energy_basis": None}, None),
    ],
)
def test_what_the_ledger_takes(outcome: dict[str, Any], told: Measured | None) -> None:
    assert measured_of(outcome) == told

"""The account of a run: known arithmetic, and nothing said that is not known."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.artifacts import Ledger
from pipelines.training.ledger import Measured, known_device, ledger, utilization


def account(**given: Any) -> Ledger:
    run = {
        "num_parameters": 7_000_000_000,
        "num_tokens": 1_000_000,
        "tokens_per_s": 80_000.0,
        "trained_s": 12.5,
        "device": "NVIDIA H100 80GB HBM3",
        "num_devices": 8,
        "precision": "bfloat16",
        "watts_per_worker": None,
    }
    return ledger(**{**run, **given})


def test_operations_utilization_and_energy() -> None:
    made = account()
    assert made.flops == 6 * 7e9 * 1e6
    assert made.mfu == pytest.approx(6 * 7e9 * 80_000 / (8 * 989e12))
    assert made.energy_estimate_wh == pytest.approx(8 * 700 * 12.5 / 3600, abs=1e-3)
    assert made.energy_basis.startswith("estimate: the board's power limit (700 W)")
    assert account(watts_per_worker=300).energy_estimate_wh == pytest.approx(8 * 300 * 12.5 / 3600, abs=1e-3)


def test_a_step_s_utilization_is_the_ledger_s() -> None:
    found = utilization(7_000_000_000, 80_000.0, "NVIDIA H100 80GB HBM3", 8, "bfloat16")
    assert found is not None
    assert found == account().mfu == pytest.approx(6 * 7e9 * 80_000 / (8 * 989e12))
    frozen = utilization(7_000_000_000, 80_000.0, "NVIDIA H100 80GB HBM3", 8, "bfloat16", frozen=True)
    assert frozen == account(frozen=True).mfu == pytest.approx(4 * 7e9 * 80_000 / (8 * 989e12))
    assert utilization(7_000_000_000, 1.0, "NVIDIA H100 80GB HBM3", 8, "bfloat16") == pytest.approx(found / 80_000)
    assert utilization(7_000_000_000, 80_000.0, "x86_64 CPU", 8, "bfloat16") is None


def test_where_counters_tell_nothing_is_estimated() -> None:
    made = account(measured=Measured(7200.0, "measured: NVML"))
    assert (made.energy_measured_wh, made.energy_estimate_wh, made.energy_wh) == (2.0, None, 2.0)
    assert made.energy_basis == "measured: NVML"
    assert "energy_measured_wh" not in account().model_dump()


def test_what_is_not_known_is_not_said() -> None:
    cpu = account(device="x86_64 CPU")
    assert (cpu.mfu, cpu.energy_estimate_wh) == (None, None)
    assert cpu.energy_basis == "not estimated: give train.watts_per_worker"
    assert account(precision="float32").mfu is None
    assert account(tokens_per_s=0.0).mfu is None  # one step: nothing was timed
    assert account(device="x86_64 CPU", watts_per_worker=60).energy_estimate_wh is not None


@pytest.mark.parametrize(
    ("name", "watts"),
    [("NVIDIA L4", 72), ("NVIDIA L40S", 350), ("NVIDIA A100-SXM4-80GB", 400), ("NVIDIA H200", 700)],
)
def test_devices_by_the_beginning_of_their_name(name: str, watts: float) -> None:
    found = known_device(name)
    assert found is not None
    assert found.watts == watts


def test_an_unknown_device_is_none() -> None:
    assert known_device("NVIDIA GeForce RTX 4090") is None

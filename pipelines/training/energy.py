"""What training draws, by the hardware's own counters: joules since the last question, of a rank's share.

A GPU belongs to its rank, so all of its energy is the rank's (NVML, `nvmlDeviceGetTotalEnergyConsumption`, from Volta on).
Processors and their memory are shared: of what RAPL counts for the machine (Linux, Documentation/power/powercap/powercap.rst) a
rank has its process's part of all processor time that was not idle, so that ranks beside each other add up and other jobs have
theirs. The rest of the machine (disks, fans, network, losses of the power supply) has no counter that a process could read.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

POWERCAP = Path("/sys/class/powercap")
COUNTED = ("package", "dram")
"""Beginnings of names of RAPL's zones: packages lie beside each other, memory controllers below them. Cores and graphics are in
their package, and `psys`, where there is one, has all of it."""

Joules = Callable[[], float]
"""Since it was called last."""


class Zone(NamedTuple):
    """A counter of RAPL, in microjoules, which begins at 0 again after `size`."""

    file: Path
    size: int

    def read(self) -> int:
        return int(self.file.read_text())


def zones(folder: Path = POWERCAP) -> list[Zone]:
    """All that may be read; none where one of them may not: many systems show them to root alone (CVE-2020-8694)."""
    found = list[Zone]()
    with contextlib.suppress(OSError, ValueError):
        for name in sorted(folder.glob("intel-rapl:*/name")):
            if name.read_text().startswith(COUNTED):
                zone = Zone(name.with_name("energy_uj"), int(name.with_name("max_energy_range_uj").read_text()))
                zone.read()
                found.append(zone)
        return found
    return []


def of_processors(counters: list[Zone], times: Callable[[], tuple[float, float]]) -> Joules:
    """Of these zones together, by a share of processor time. To be asked before a counter comes round: `size` / power, a quarter of
    an hour and more.

    Args:
        times: seconds of processor time that this process, and all processes, have taken.
    """
    at, own_before, all_before = [zone.read() for zone in counters], *times()

    def since() -> float:
        nonlocal at, own_before, all_before
        now, (own, everybody) = [zone.read() for zone in counters], times()
        drawn = sum((new - old) % (zone.size + 1) for zone, new, old in zip(counters, now, at, strict=True)) / 1e6
        share = (own - own_before) / max(everybody - all_before, own - own_before, 1e-9)
        at, own_before, all_before = now, own, everybody
        return drawn * share

    return since


def processor_times() -> tuple[float, float]:
    """For `of_processors`."""
    own, machine = psutil.Process().cpu_times(), psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # in user and nice as well
    return own.user + own.system, sum(machine) - guests - idle


def of_gpu(device: Any) -> Joules | None:
    """Of a torch device; None where NVML does not tell: before Volta, of a part of a GPU (MIG), without nvidia-ml-py."""
    import torch

    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        at = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # whatever a driver raises, an account is no reason for a run to end
        return None

    def since() -> float:
        nonlocal at
        before, at = at, pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return (at - before) / 1e3

    return since


class Meter:
    """Of all ranks together. Every rank must make it, and ask it as often as the others.

    Args:
        gpu: of this rank's GPU.
        processors: of this rank's share of its machine.
        on_gpu: whether the model is on a GPU.
        left_out: what works for the ranks and is not measured.
    """

    def __init__(
        self, gpu: Joules | None, processors: Joules | None, *, on_gpu: bool, device: Any, left_out: str = ""
    ) -> None:
        self._device, has_gpu, has_processors = device, gpu is not None, processors is not None
        both, gpus = (self._over_ranks(float(has), "MIN") > 0 for has in (has_processors, has_gpu))
        self._counters = [
            counter for counter, told in ((gpu, gpus), (processors, both)) if told and counter is not None
        ]
        basis = _basis(gpus=gpus, processors=both, on_gpu=on_gpu)
        self.basis = f"{basis}; {left_out} left out" if basis and left_out else basis

    def joules(self) -> float | None:
        """Since the last question; None where this is not measured, or was not on one of the ranks."""
        if self.basis is None:
            return None
        try:
            drawn = sum(counter() for counter in self._counters)
        except Exception:  # whatever a driver raises, an account is no reason for a run to end
            drawn = math.nan
        together = self._over_ranks(drawn, "SUM")
        return None if math.isnan(together) else together

    def forget(self) -> None:
        """What was drawn since the last question belongs to a step that does not stand. Asks no other rank."""
        for counter in self._counters:
            with contextlib.suppress(Exception):  # as `joules`
                counter()

    def _over_ranks(self, value: float, how: str) -> float:
        import torch
        import torch.distributed as dist

        told = torch.tensor([value], dtype=torch.float32, device=self._device)
        dist.all_reduce(told, getattr(dist.ReduceOp, how))
        return float(told)


def _basis(*, gpus: bool, processors: bool, on_gpu: bool) -> str | None:
    """What is measured, in words; None where the devices that the model is on have no counter."""
    host = "RAPL's counters of processors and memory by the share of processor time"
    if on_gpu:
        return f"measured: NVML's counters of the GPUs, {host if processors else 'host left out'}" if gpus else None
    return f"measured: {host}" if processors else None


def meter_of(engine: Any, left_out: str = "") -> Meter:
    """For the ranks of an engine.

    Args:
        left_out: what works for the steps elsewhere, and is no rank.
    """
    on_gpu, processors = engine.device.type == "cuda", None
    with contextlib.suppress(OSError, ValueError):  # of counters that are gone since they were found
        processors = of_processors(counters, processor_times) if (counters := zones()) else None
    gpu = of_gpu(engine.device) if on_gpu else None
    return Meter(gpu, processors, on_gpu=on_gpu, device=engine.device, left_out=left_out)

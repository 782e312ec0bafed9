"""What a run cost: tokens, operations, time, and energy where it can be said. Pure; every estimate says that it is one."""

from __future__ import annotations

from typing import Any, NamedTuple

from cluster.artifacts import Ledger, Privacy

FLOPS_BASIS = "6 x parameters x tokens (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); attention is left out"


class Device(NamedTuple):
    """Figures of a data sheet."""

    peak_flops: float
    """Dense bfloat16 operations a second."""
    watts: float
    """The board's power limit."""


DEVICES = {
    "NVIDIA A100-SXM4": Device(312e12, 400),
    "NVIDIA H100 80GB HBM3": Device(989e12, 700),
    "NVIDIA H100 PCIe": Device(756e12, 350),
    "NVIDIA H200": Device(989e12, 700),
    "NVIDIA L40S": Device(362e12, 350),
    "NVIDIA L4": Device(121e12, 72),
}
"""By the beginning of the name that CUDA gives. Others have no MFU rather than a guessed one."""


def known_device(name: str) -> Device | None:
    """The longest match, so that an L40S is no L4."""
    found = [known for known in DEVICES if name.startswith(known)]
    return DEVICES[max(found, key=len)] if found else None


FROZEN_BASIS = (
    "4 x parameters x tokens (the same without the gradients of frozen weights); attention and adapter are left out"
)


def flops(num_parameters: int, num_tokens: int, *, frozen: bool = False) -> float:
    """Of the model, forward and backward; what is computed twice to save memory does not count.

    Args:
        frozen: only an adapter is trained. The backward pass then needs the gradients of activations alone, half of it.
    """
    return (4.0 if frozen else 6.0) * num_parameters * num_tokens


def utilization(
    num_parameters: int, tokens_per_s: float, device: str, num_devices: int, precision: str, *, frozen: bool = False
) -> float | None:
    """Model FLOPs utilization, 0 to 1; None where nobody knows it.

    Chowdhery et al. 2022 (arXiv 2204.02311), appendix B: observed throughput over the one at peak.

    Args:
        tokens_per_s: of all devices.
        device: its name.
    """
    known = known_device(device)
    if known is None or precision != "bfloat16" or not tokens_per_s:
        return None
    return flops(num_parameters, 1, frozen=frozen) * tokens_per_s / (num_devices * known.peak_flops)


class Measured(NamedTuple):
    """Energy of all ranks, in joules, and by which counters (energy.py)."""

    joules: float
    basis: str


def measured_of(outcome: dict[str, Any]) -> Measured | None:
    """Of what rank 0 returns; None unless the whole run was measured."""
    joules, basis = outcome["energy_j"], outcome["energy_basis"]
    return None if joules is None or basis is None else Measured(joules, basis)


def ledger(
    *,
    num_parameters: int,
    num_tokens: int,
    tokens_per_s: float,
    trained_s: float,
    device: str,
    num_devices: int,
    precision: str,
    frozen: bool = False,
    watts_per_worker: float | None,
    measured: Measured | None = None,
    privacy: Privacy | None = None,
) -> Ledger:
    """The run's account.

    Args:
        num_tokens: trained on.
        tokens_per_s: of all devices, the first step left out.
        trained_s: inside optimizer steps, over all starts of the run.
        device: its name.
        watts_per_worker: what the user says a worker draws.
        measured: what counters say; then nothing is estimated.
    """
    watts, basis = (None, measured.basis) if measured else _power(known_device(device), watts_per_worker)
    return Ledger(
        num_tokens=num_tokens,
        flops=flops(num_parameters, num_tokens, frozen=frozen),
        flops_basis=FROZEN_BASIS if frozen else FLOPS_BASIS,
        device=device,
        num_devices=num_devices,
        precision=precision,
        mfu=utilization(num_parameters, tokens_per_s, device, num_devices, precision, frozen=frozen),
        trained_s=round(trained_s, 2),
        energy_estimate_wh=None if watts is None else round(watts * num_devices * trained_s / 3600, 3),
        energy_measured_wh=measured and round(measured.joules / 3600, 3),
        energy_basis=basis,
        privacy=privacy,
    )


def _power(known: Device | None, watts_per_worker: float | None) -> tuple[float | None, str]:
    if watts_per_worker is not None:
        return watts_per_worker, f"estimate: train.watts_per_worker ({watts_per_worker:g} W) x workers x time in steps"
    if known is not None:
        return (
            known.watts,
            f"estimate: the board's power limit ({known.watts:g} W) x devices x time in steps, host left out",
        )
    return None, "not estimated: give train.watts_per_worker"

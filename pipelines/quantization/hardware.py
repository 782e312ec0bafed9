"""What the engine will run on, asked of a node of its pool."""

from __future__ import annotations

import platform
from pathlib import Path

from cluster.errors import ResourceError
from cluster.pools import check_gpus, on_pool
from cluster.waiting import wait_for_node
from pipelines.config import EvaluateConfig, QuantizeConfig
from pipelines.kv_cache import ConfigJson, head_size
from pipelines.schemes import Hardware, asks_of_hardware, cannot_serve

ANSWER_TIMEOUT_S = 600.0
"""Long enough for an autoscaler to bring a node."""
CPU_INFO = Path("/proc/cpuinfo")


def refusals(plans: tuple[QuantizeConfig, ...], engine: EvaluateConfig, told: ConfigJson) -> list[str | None]:
    """For each scheme why the pool that evaluates (and serves) cannot run it, None where it can.

    Args:
        told: config.json of the model that is to be quantized.
    """
    if not any(asks_of_hardware(plan, engine.num_gpus) for plan in plans):
        return [None for _ in plans]
    found = _ask(engine)
    return [cannot_serve(plan, found, head_size(told)) for plan in plans]


def check_servable(plan: QuantizeConfig, engine: EvaluateConfig, told: ConfigJson) -> None:
    """Raises ResourceError before anything is quantized that nothing there could run."""
    (reason,) = refusals((plan,), engine, told)
    if reason is not None:
        remedy = "choose another quantize.scheme, or another pool for evaluate and serve"
        raise ResourceError(f"quantize: {plan.label}", f"cannot be served by pool `{engine.pool}`: {reason}", remedy)


def _ask(engine: EvaluateConfig) -> Hardware:
    import ray

    wait_for_node("quantize", engine.pool, num_gpus=engine.num_gpus)
    check_gpus(engine.pool, engine.num_gpus, "evaluate.num_gpus")
    once = ray.remote(max_calls=1)(hardware_here)
    task = once.options(num_cpus=0, num_gpus=engine.num_gpus, label_selector=on_pool(engine.pool))
    try:
        found: Hardware = ray.get(task.remote(engine.num_gpus), timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        reason = f"no free GPU within {ANSWER_TIMEOUT_S:.0f} s, to ask which schemes it can run"
        raise ResourceError(
            f"pool {engine.pool}", reason, "stop what holds its GPUs, or raise the pool's size"
        ) from None
    return found


def hardware_here(num_gpus: int) -> Hardware:
    """Of this machine: of its GPU where the engine takes one, else of its CPU."""
    if num_gpus:
        import torch

        major, minor = torch.cuda.get_device_capability()
        return Hardware((major, minor), platform.machine())
    info = CPU_INFO.read_text() if CPU_INFO.is_file() else ""
    return Hardware(None, platform.machine(), "avx512f" in info)

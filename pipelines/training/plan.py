"""What a training run will need of memory and time, before anything starts. Pure but for reading earlier runs' ledgers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cluster import artifacts
from cluster.artifacts import Checkpoint
from cluster.demand import gpu_bytes
from cluster.storage import Storage
from cluster.topology import Topology
from pipelines.config import TrainConfig, ZeroConfig
from pipelines.training.ledger import known_device
from pipelines.training.memory import Memory, memory
from pipelines.training.shape import Shape

GIB = 2**30
PROCESS_BYTES = 0.6 * GIB
"""Of a rank on CPUs before it has a model, assumed: 0.42 GiB were seen of one that had imported torch and DeepSpeed."""
CPU_FLOPS = 50e9
"""A core, float32, where no earlier run says better: about what SmolLM2-135M reached on two cores of a shared machine."""
GPU_FRACTION = 0.4
"""Of a GPU's peak, where no earlier run says better: between what Chowdhery et al. 2022 (arXiv 2204.02311), table 3, list."""
OPERATIONS = 6
"""A parameter and token: 2 forward, 4 backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""

LADDER = (
    ZeroConfig(stage=0),
    ZeroConfig(stage=1),
    ZeroConfig(stage=1, offload_optimizer=True),
    ZeroConfig(stage=2),
    ZeroConfig(stage=2, offload_optimizer=True),
    ZeroConfig(stage=3),
    ZeroConfig(stage=3, offload_optimizer=True),
    ZeroConfig(stage=3, offload_optimizer=True, offload_parameters=True),
)


class Room(NamedTuple):
    """What one rank may take."""

    num_bytes: float | None
    """None where it is not known."""
    what: str
    """Whose memory it is, for people."""


class Option(NamedTuple):
    """One way to share the states out."""

    zero: ZeroConfig
    memory: Memory
    chosen: bool
    """The recipe asks for it."""
    fits: bool | None
    """None where the room is not known."""

    @property
    def name(self) -> str:
        offload = [part for part in ("optimizer", "parameters") if getattr(self.zero, f"offload_{part}")]
        return f"{self.zero.stage}" + (f", {' and '.join(offload)} offloaded" if offload else "")


class Rate(NamedTuple):
    """Operations a second of one worker."""

    flops: float
    basis: str
    is_measured: bool = False
    """Then `flops` are those that a ledger counts."""


class Plan(NamedTuple):
    """What is predicted."""

    options: tuple[Option, ...]
    room: Room
    num_tokens: int
    flops: float
    rate: Rate | None
    time_s: float | None
    """An estimate; None where no rate is known."""

    @property
    def chosen(self) -> Option:
        return next(option for option in self.options if option.chosen)


def make_plan(shape: Shape, config: TrainConfig, room: Room, rate: Rate | None) -> Plan:
    """Every way of sharing out, the recipe's own among them, and the time."""
    own = config.zero
    # Without GPUs there is nowhere to offload to: the host's memory is where all lies already.
    ladder = [z for z in LADDER if config.gpus_per_worker or not z.offload_optimizer]
    same = ("stage", "offload_optimizer", "offload_parameters")
    different = [z for z in ladder if any(getattr(z, field) != getattr(own, field) for field in same)]
    if config.parallel.pipeline > 1:
        different = []
    if config.consolidation:
        different = [z for z in different if z.stage > 0]
    options = [_option(shape, config, zero, room, zero is own) for zero in sorted([*different, own], key=_order)]
    tokens = config.num_steps * config.total_sequences * config.sequence_length
    flops = float(_operations(config)) * shape.num_parameters * tokens
    # A run's ledger counts what the model needs; what it computed once more is in its time already.
    timed = _needed(config) * shape.num_parameters * tokens if rate and rate.is_measured else flops
    waiting = 1.0 if rate is None or rate.is_measured else _with_waiting(config)
    time_s = timed * waiting / (rate.flops * config.num_workers) if rate else None
    return Plan(tuple(options), room, tokens, flops, rate, time_s)


def _with_waiting(config: TrainConfig) -> float:
    """How many times as long a step takes as without waiting for other stages (Huang et al. 2019, arXiv 1811.06965, section
    2.3). A measured rate is that of a run with as many stages, and has it in it."""
    return (config.accumulation + config.parallel.pipeline - 1) / config.accumulation


def _order(zero: ZeroConfig) -> tuple[int, bool, bool]:
    return zero.stage, zero.offload_optimizer, zero.offload_parameters


def _option(shape: Shape, config: TrainConfig, zero: ZeroConfig, room: Room, chosen: bool) -> Option:
    found = memory(shape, config, zero.replace(extra=config.zero.extra))
    return Option(zero, found, chosen, None if room.num_bytes is None else found.peak <= room.num_bytes)


def _operations(config: TrainConfig) -> int:
    """A parameter and token. Checkpointed activations are computed once more."""
    pairs = 2 if config.method.kind == "dpo" else 1
    return _needed(config) + (2 * pairs if config.gradient_checkpointing else 0)


def _needed(config: TrainConfig) -> int:
    """The same as a ledger counts it, but for grpo, whose answers are read once before they are learnt from (what engines compute
    to give them is in neither). Of frozen weights no gradients are computed; a pair has two sequences."""
    read = 2 if config.method.kind == "grpo" else 0
    return read + (4 if config.lora else OPERATIONS) * (2 if config.method.kind == "dpo" else 1)


def room_of(config: TrainConfig, topology: Topology, host_bytes: float | None) -> Room:
    """A rank's: the memory of its GPUs by the pool's declaration; on CPUs its share of the host's.

    Args:
        host_bytes: available on the machine that holds all ranks; None where that is not this one.
    """
    if config.gpus_per_worker:
        one = gpu_bytes(topology.pool(config.pool))
        return Room(one, f"a GPU of pool `{config.pool}`")
    if host_bytes is None:
        return Room(None, f"nodes of pool `{config.pool}`")
    return host_room(config, host_bytes, "this machine's free memory")


def host_room(config: TrainConfig, num_bytes: float, what: str) -> Room:
    """A rank's share of that much host memory, beside what its process takes without a model."""
    share = max(0.0, num_bytes / config.num_workers - PROCESS_BYTES)
    return Room(share, f"{what} over {config.num_workers} ranks, less {PROCESS_BYTES / GIB:g} GiB each")


def rate_of(config: TrainConfig, topology: Topology, storage: Storage | None) -> Rate | None:
    """Operations a second of one worker: of the newest earlier run in storage on the same kind of device, else assumed."""
    measured = [run for run in _runs(storage) if _same_kind(run, config)] if storage else []
    if measured:
        newest = max(measured, key=lambda run: run.made_at)
        assert newest.ledger is not None, "runs without a ledger were left out"
        done = newest.ledger.flops / newest.ledger.trained_s / newest.ledger.num_devices
        return Rate(done, f"measured: run {newest.key} on {newest.ledger.device}", is_measured=True)
    if not config.gpus_per_worker:
        return Rate(CPU_FLOPS * config.cpus_per_worker, f"assumed: {CPU_FLOPS / 1e9:g} GFLOP/s a core")
    kind = topology.pool(config.pool).instance_type
    device = known_device(AWS_DEVICES.get((kind or "").partition(".")[0], ""))
    if device is None:
        return None
    return Rate(
        GPU_FRACTION * device.peak_flops,
        f"assumed: {GPU_FRACTION:.0%} of the GPU's {device.peak_flops / 1e12:g} TFLOP/s",
    )


AWS_DEVICES = {
    "p4d": "NVIDIA A100-SXM4", "p4de": "NVIDIA A100-SXM4", "p5": "NVIDIA H100 80GB HBM3", "p5e": "NVIDIA H200",
    "p5en": "NVIDIA H200", "g6": "NVIDIA L4", "gr6": "NVIDIA L4", "g6e": "NVIDIA L40S",
}  # fmt: skip
"""Instance family -> the name that CUDA gives its GPU (ledger.py knows their peaks)."""


def _runs(storage: Storage) -> Iterator[Checkpoint]:
    folder = "artifacts/checkpoint/"
    keys = {
        key.removeprefix(folder).partition("/")[0]
        for key in storage.list(folder.rstrip("/"))
        if key.endswith("/manifest.json")
    }
    for key in sorted(keys):
        if (run := artifacts.load(storage, Checkpoint, key)) and run.ledger and run.ledger.trained_s > 0:
            yield run


def _same_kind(run: Checkpoint, config: TrainConfig) -> bool:
    """On CPUs or on GPUs (of whatever make: the run's device is told), by the same method, in the same precision and with
    as many stages."""
    asked = {"precision": config.precision, "gradient_checkpointing": config.gradient_checkpointing}
    on_gpus = bool(run.config.get("gpus_per_worker")) == bool(config.gpus_per_worker)
    method = (run.config.get("method") or {}).get("kind") == config.method.kind
    adapter = (run.config.get("lora") is None) == (config.lora is None)
    rounded = (run.config.get("quantization_aware") is None) == (config.quantization_aware is None)
    stages = (run.config.get("parallel") or {}).get("pipeline", 1) == config.parallel.pipeline
    return on_gpus and method and adapter and rounded and stages and asked.items() <= run.config.items()


def trouble(plan: Plan) -> tuple[str, str] | None:
    """What was found and what to do, where the recipe's own way does not fit by the prediction."""
    option = plan.chosen
    if option.fits is not False or plan.room.num_bytes is None:
        return None
    found = (
        f"stage {option.name}: about {option.memory.peak / GIB:.1f} GiB a rank are predicted, of "
        f"{plan.room.num_bytes / GIB:.1f} GiB ({plan.room.what})"
    )
    if option.memory.peak - option.memory.copy <= plan.room.num_bytes:
        return found, "train.checkpoint_asynchronously: false would do, at which steps wait for checkpoints"
    others = [other.name for other in plan.options if other.fits]
    if others:
        return found, f"these stages fit: {'; '.join(others)}"
    return found, "lower train.sequences_per_worker or sequence_length, set gradient_checkpointing, or use more workers"

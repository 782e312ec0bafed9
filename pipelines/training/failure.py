"""What is told of a run whose workers failed for good."""

from __future__ import annotations

import re

from cluster.errors import ClusterError, ConfigError, InputError, ResourceError, StageFailed, UserError
from cluster.storage import Storage
from pipelines.config import TrainConfig

OUR_ERROR = re.compile(r"cluster\.errors\.(?P<kind>\w+): (?P<where>.+?): (?P<found>.+)\n\s*-> (?P<remedy>.+)")
"""In a traceback of another process: an error that was meant for people, with its remedy."""

NO_MEMORY = re.compile(
    r"OutOfMemory|out of memory|MemoryError|can't allocate memory|Cannot allocate memory|Memory on the node .+ used"
)
"""As CUDA, Python, torch's allocator on CPUs, the kernel, and Ray's watch over a node's memory say it."""

KINDS: dict[str, type[UserError]] = {
    kind.__name__: kind for kind in (ConfigError, InputError, ResourceError, ClusterError)
}


def explained(
    error: Exception, config: TrainConfig, storage: Storage, run: str, hung: str = ""
) -> UserError | StageFailed:
    """What to raise instead of Ray Train's error: one of ours that a rank raised, or what its text tells.

    Args:
        error: of Ray Train; its `worker_failures` are the ranks' exceptions.
        hung: of the group that failed last, who hung and was ended for it (watch.py).
    """
    failures = getattr(error, "worker_failures", {}).values()
    if ours := next((failure for failure in failures if isinstance(failure, UserError)), None):
        return ours
    if hung and failures:
        return StageFailed(
            f"train: {hung}; there were more failures than train.max_failures allows; checkpoints are kept in {storage.uri}/{run}"
        )
    told = dict.fromkeys(f"{type(failure).__name__}: {failure}" for failure in failures)
    text = " | ".join(told) or str(error)
    if found_memory := NO_MEMORY.search(text):
        line = text[: found_memory.start()].rpartition("\n")[2] + text[found_memory.start() :].partition("\n")[0]
        on_gpu = config.gpus_per_worker > 0 and "cuda" in line.lower()  # a traceback says it for other reasons too
        return ResourceError(
            "train workers",
            f"ran out of the {'GPUs' if on_gpu else 'hosts'}' memory ({line.strip()[:200]})",
            f"{', or '.join(less_memory(config, on_gpu))}; `serinus train plan` says what each takes; run again",
        )
    if "CheckpointManagerInitializationError" in text or "corrupted run directory" in text:
        found = "Ray Train's list of its checkpoints is damaged, or names one that is not there"
        return InputError(f"{storage.uri}/{run}", found, "remove the run's whole folder and run again")
    return StageFailed(
        f"train: the workers failed for good ({reason(text)}); checkpoints are kept in {storage.uri}/{run}"
    )


def less_memory(config: TrainConfig, on_gpu: bool) -> list[str]:
    """Settings that would take less of it, what costs no other result first; those that are so already are left out."""
    zero, whole = config.zero, config.parallel.pipeline == 1
    to_stage_3 = whole and config.replicas > 1 and config.privacy is None and zero.stage < 3
    own = config.sequences_per_worker
    levers = {
        f"lower train.sequences_per_worker ({own}) with sequences_per_step: {config.total_sequences}": own > 1,
        "set train.gradient_checkpointing: true": not config.gradient_checkpointing,
        "set train.zero.stage: 3": to_stage_3,
        "set train.zero.offload_optimizer: true": on_gpu and whole and zero.stage > 0 and not zero.offload_optimizer,
        "set train.zero.offload_parameters: true": on_gpu and zero.stage == 3 and not zero.offload_parameters,
        "set train.checkpoint_asynchronously: false": not on_gpu and config.checkpoint_asynchronously,
        "lower train.sequence_length (another run)": True,
    }
    return [lever for lever, helps in levers.items() if helps]


def lacked_room(error: Exception) -> bool:
    """Whether Ray Train gave up because the cluster had no room for its workers: a node is gone, or others hold it."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def meant_for_people(text: str) -> UserError | None:
    """The first error of ours in a traceback, as it was raised in another process."""
    found = OUR_ERROR.search(text)
    if found is None or found["kind"] not in KINDS:
        return None
    return KINDS[found["kind"]](found["where"], found["found"], found["remedy"].strip())


def reason(text: str) -> str:
    """The last line of a traceback."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")

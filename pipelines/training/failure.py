"""What is told of a run whose workers failed for good."""

from __future__ import annotations

import re

from cluster.errors import ClusterError, ConfigError, InputError, ResourceError, StageFailed, UserError
from cluster.storage import Storage

OUR_ERROR = re.compile(r"cluster\.errors\.(?P<kind>\w+): (?P<where>.+?): (?P<found>.+)\n\s*-> (?P<remedy>.+)")
"""In a traceback of another process: an error that was meant for people, with its remedy."""

KINDS: dict[str, type[UserError]] = {
    kind.__name__: kind for kind in (ConfigError, InputError, ResourceError, ClusterError)
}


def explained(error: Exception, storage: Storage, run: str, hung: str = "") -> UserError | StageFailed:
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
    if "OutOfMemory" in text or "out of memory" in text:
        return ResourceError(
            "train workers",
            "ran out of memory",
            "lower train.sequences_per_worker or sequence_length, set gradient_checkpointing, or offload; run again",
        )
    if "CheckpointManagerInitializationError" in text or "corrupted run directory" in text:
        found = "Ray Train's list of its checkpoints is damaged, or names one that is not there"
        return InputError(f"{storage.uri}/{run}", found, "remove the run's whole folder and run again")
    return StageFailed(
        f"train: the workers failed for good ({reason(text)}); checkpoints are kept in {storage.uri}/{run}"
    )


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

"""What is told of a run whose workers failed for good."""

from __future__ import annotations

import re

from cluster.errors import ResourceError, StageFailed
from cluster.storage import Storage

OUR_ERROR = re.compile(r"cluster\.errors\.\w+: (?P<message>.+(?:\n\s*-> .+)?)")
"""In a worker's traceback: an error that was meant for people, with its remedy."""


def explained(error: Exception, storage: Storage, run: str) -> ResourceError | StageFailed:
    failures = getattr(error, "worker_failures", {})
    text = " | ".join(str(failure) for failure in failures.values()) or str(error)
    if "OutOfMemory" in text or "out of memory" in text:
        return ResourceError(
            "train workers",
            "ran out of memory",
            "lower train.sequences_per_worker or sequence_length, set gradient_checkpointing, or offload; run again",
        )
    return StageFailed(
        f"train: the workers failed for good ({reason(text)}); checkpoints are kept in {storage.uri}/{run}"
    )


def reason(text: str) -> str:
    """An error of ours whole, with its remedy; of others the last line."""
    if ours := OUR_ERROR.search(text):
        return " ".join(ours["message"].split())
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")

"""What our actors answer."""

from __future__ import annotations

from typing import Any

from cluster.errors import ClusterError, SerinusError

ANSWER_TIMEOUT_S = 60.0
"""For an actor to start, or to come back after its process was killed."""


def answer(name: str, reference: Any, who: str = "rollout controller") -> Any:
    """What the controller (or the prober) answers; our own errors as themselves, not as Ray wraps them.

    Raises:
        SerinusError: what it raised.
        ClusterError: it does not answer.
    """
    import ray

    try:
        return ray.get(reference, timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SerinusError):
            raise error.cause from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
        found = f"does not answer ({str(error).splitlines()[0]})"
        raise ClusterError(f"{who} of {name}", found, "see `serinus status`, then try again") from None

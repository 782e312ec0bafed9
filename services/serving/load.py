"""Loading a revision from inside the cluster, for a candidate whose turn has come when no person waits at a command line."""

from __future__ import annotations

from typing import Any, Final

from cluster.artifacts import Revision
from cluster.errors import ClusterError, SerinusError, StageFailed
from cluster.pools import on_pool
from cluster.storage import Storage, open_storage
from services.config import ServingConfig

MAX_TOLD: Final = 500
"""Characters of a foreign failure that are told."""


def load_in_task(revision: Revision, serving: ServingConfig, storage: Storage) -> None:
    """As `app.deploy_revision`, in a process of its own that ends afterwards: building an engine's application imports gigabytes
    that the caller, a controller on the head, must not hold for good.

    Raises:
        UserError, StageFailed: as there; whatever else it failed of is a StageFailed too.
        ClusterError: the process was lost.
    """
    import ray

    once = ray.remote(max_calls=1)(_deploy)
    task = once.options(num_cpus=0, max_retries=0, label_selector=on_pool("head"))
    try:
        ray.get(task.remote(revision, serving, storage.location))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SerinusError):
            raise error.cause from None
        raise StageFailed(f"{revision.revision} was not loaded: {_told(error)}") from None
    except ray.exceptions.RayError as error:
        where = f"revision {revision.revision}"
        raise ClusterError(
            where, f"was not loaded ({str(error).splitlines()[0]})", "begin again: serinus canary start"
        ) from None


def _told(error: Any) -> str:
    """What a task failed of, without its traceback."""
    if error.cause is None:
        return str(error).strip().splitlines()[-1]
    told = " ".join(str(error.cause).split())  # pydantic's last line is a link, botocore's only line is all
    return f"{type(error.cause).__name__}: {told[:MAX_TOLD]}"


def _deploy(revision: Revision, serving: ServingConfig, storage_uri: str) -> None:
    from services.serving.app import deploy_revision

    deploy_revision(revision, serving, open_storage(storage_uri))

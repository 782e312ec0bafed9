"""The only place that joins a Ray cluster: which one, with which token, and where in it a stage runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

POOL_LABEL = "serinus.io/pool"
"""Node label that tells the pools apart."""

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set in every process before Ray is imported, ours and the nodes'."""


def prepare_environment() -> None:
    """Put ENVIRONMENT in force where the user has not set otherwise. Call before the first `import ray`."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def joined(address: str | None = None) -> Iterator[str]:
    """Join the cluster at `address`, the one this process runs in, the one `serinus up` started, or a private new one.

    Yields:
        "joined <address>" or "private": for people.

    Raises:
        ClusterError: the cluster named does not answer, or refuses the token.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        yield "joined " + ray.get_runtime_context().gcs_address
        return
    address = address or os.environ.get("RAY_ADDRESS") or _address_of_up()
    if address:
        _join(address)
    else:
        _start_private()
    try:
        yield f"joined {address}" if address else "private"
    finally:
        ray.shutdown()


def _address_of_up() -> str | None:
    from cluster import local

    return local.running_address()


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cluster {address}",
            f"does not let us in ({str(error).splitlines()[0]})",
            "see `serinus status`; start one with `serinus up`, unset RAY_ADDRESS, or check the token in ~/.ray/auth_token",
        ) from None


def _start_private(**options: Any) -> None:
    import ray

    ray.init(
        num_cpus=max(4, os.cpu_count() or 1),  # logical: a trainer's ranks and the tasks that feed them share the cores
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
        **options,
    )


def on_pool(pool: str) -> dict[str, str]:
    """Label selector for work on that pool; empty (anywhere) when no living node carries its label."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {POOL_LABEL: pool} if any(node.get("Labels", {}).get(POOL_LABEL) == pool for node in nodes) else {}


def package_root() -> Path:
    """The folder with the packages, for runtime environments that ship them."""
    return Path(__file__).resolve().parent.parent

"""Serve's applications: which there are, what they say that they run with, and running and removing them.

Call these from a process that has joined the cluster (cluster.session.joined). Applications outlive the process.
"""

from __future__ import annotations

import logging
from typing import Any

from cluster.telemetry import logger

log = logger("serving")

SETTINGS_TIMEOUT_S = 15.0
"""For an application that runs to say what it runs with."""


def statuses() -> dict[str, str]:
    """What Serve says of all applications on this cluster, by name; empty when Serve does not run."""
    from ray import serve

    return {name: str(overview.status.value) for name, overview in sorted(serve.status().applications.items())}


def is_deployed(application: str) -> bool:
    """Whether there is such an application, whatever its state."""
    return application in statuses()


def runs_with(application: str, deployment: str, settings: str, wake_timeout_s: float = SETTINGS_TIMEOUT_S) -> bool:
    """Whether the application runs and was deployed with these settings, by its own word: it is woken to say so."""
    from ray import serve

    overview = serve.status().applications.get(application)
    if overview is None or overview.status != "RUNNING":
        return False
    awake = any(found.replica_states.get("RUNNING", 0) for found in overview.deployments.values())
    return says(application, deployment, settings, SETTINGS_TIMEOUT_S if awake else wake_timeout_s)


def says(application: str, deployment: str, settings: str, timeout_s: float = SETTINGS_TIMEOUT_S) -> bool:
    """Whether one of its replicas says that it was deployed with these settings."""
    from ray import serve

    handle = serve.get_deployment_handle(deployment, application)
    try:
        return bool(handle.settings.remote().result(timeout_s=timeout_s) == settings)
    except Exception as error:  # too busy, dying, or of an older version: whatever it is, deploying anew mends it
        log.warning("%s does not say what it runs with (%r): deploying it again", application, error)
        return False


def quiet() -> None:
    """Ray's own log of every step is not for our users; what goes wrong comes as our errors."""
    import ray.serve  # noqa: F401  # first: its import sets the level

    for name in ("ray.serve", "ray.llm"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run_application(application: Any, name: str, route_prefix: str | None) -> None:
    """Deploy it and return at once."""
    from ray import serve

    target = serve.RunTarget(application, name=name, route_prefix=route_prefix)
    serve.run_many([target], wait_for_applications_running=False)


def remove_application(application: str) -> None:
    """Drain and stop it; does nothing when it does not run."""
    from ray import serve

    if is_deployed(application):
        serve.delete(application)

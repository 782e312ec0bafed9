"""Waiting for a Serve application, and saying in a line why it did not come up."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from cluster.code_version import code_version
from cluster.errors import ResourceError, SerinusError, StageFailed
from cluster.telemetry import logger

log = logger("serving")

POLL_S = 0.25
CODE_TIMEOUT_S = 30.0
MAX_REASON = 600
EXCEPTION_LINE = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Failed|Exit): .+", re.MULTILINE)
OUR_ERROR = re.compile(r"^(?:cluster\.errors\.\w+): (?P<message>.+)", re.MULTILINE)


def _never(_: Any) -> bool:
    return False


def wait_running(
    application: str,
    timeout_s: float,
    *,
    enough: Callable[[Any], bool] = _never,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return once the application runs, or once what Serve tells of it is `enough` at two looks, one after the other.

    Raises:
        StageFailed: it failed to start, or did not start in time; with Serve's reason.
        ResourceError: no node has room for its replicas.
    """
    from ray import serve

    deadline, num_enough = clock() + timeout_s, 0
    while True:
        overview = serve.status().applications.get(application)
        if overview is not None and overview.status == "RUNNING":
            return
        num_enough = num_enough + 1 if overview is not None and enough(overview) else 0
        if num_enough == 2:
            log.info("%s runs; replicas that were replaced still answer what they were asked", application)
            return
        if overview is not None and overview.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise failure(application, overview, f"failed to start ({overview.status.value})")
        if clock() > deadline:
            raise failure(application, overview, f"was not ready after {timeout_s:.0f} s")
        time.sleep(POLL_S)


def check_code(application: str) -> None:
    """Whether all replicas of the gateway run the serinus of this command. They take what is installed on their machines.

    Raises:
        ResourceError: one runs another.
    """
    from ray import serve

    ours = code_version()
    try:
        told = serve.get_deployment_handle(application, application).broadcast("code").results(timeout_s=CODE_TIMEOUT_S)
    except Exception as error:  # one dies, or is too busy: the deployment stands all the same
        log.warning("%s does not say which serinus it runs: %r", application, error)
        return
    others = sorted({f"{host} has serinus {code}" for code, host in told if code != ours})
    if others:
        found = f"{', '.join(others)}; this command is {ours}"
        raise ResourceError(application, found, "install the same on every machine of the pool, then deploy again")


def failure(application: str, overview: Any, what: str) -> SerinusError:
    """The error that says why, from what Serve reports of the application and its deployments."""
    messages = [] if overview is None else [overview.message, *(d.message for d in overview.deployments.values())]
    text = "\n".join(message for message in messages if message)
    if "scheduled" in text and "Resources required" in text:
        remedy = "free or add nodes of that pool, or lower serve.engine.num_cpus or num_gpus (see `serinus status`)"
        return ResourceError(application, f"{what}: {reason_in(text)}", remedy)
    return StageFailed(f"{application} {what}: {reason_in(text)}")


def reason_in(text: str) -> str:
    """The innermost exception of a traceback, without its frames; the last line of what is no traceback."""
    if ours := OUR_ERROR.search(text):
        return ours["message"][:MAX_REASON]
    found = list(EXCEPTION_LINE.finditer(text))
    if found:
        return text[found[-1].start() :].strip()[:MAX_REASON]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:MAX_REASON] if lines else "Serve gives no reason"

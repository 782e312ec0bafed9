"""Submit a command as a Ray job, follow its log, stop it. The driver runs on the head node."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import local
from cluster.dashboard import check
from cluster.errors import ClusterError, InputError
from cluster.session import api_server, prepare_environment

if TYPE_CHECKING:
    from ray.job_submission import JobInfo, JobSubmissionClient

POLL_S = 1.0
PATIENCE_S = 60.0
"""A dashboard that is away for less does not end `follow`."""

STOPPED_EXIT_CODE = 130
"""What a shell reports for an interrupted program."""
FAILED_EXIT_CODE = 3
"""The driver did not get to start, or was killed."""


def submit(
    entrypoint: Sequence[str], *, working_dir: Path, env: Mapping[str, str] | None = None, dashboard: str | None = None
) -> str:
    """Submit `entrypoint` to the cluster and return the job's id.

    Args:
        entrypoint: program and arguments, run in a copy of `working_dir` on the head.
        working_dir: shipped to the cluster without what its .gitignore names; it goes first in the import path.
        env: further environment variables of the job. Visible to everyone with the token: no secrets.
        dashboard: URL of the cluster's dashboard; without it $RAY_API_SERVER_ADDRESS or the cluster of `serinus up`.

    Raises:
        ClusterError: no cluster, or it refuses the token or the job.
        InputError: `working_dir` is no folder or too large to ship.
    """
    if not working_dir.is_dir():
        raise InputError(str(working_dir), "no such folder", "give the project's folder")
    client = _client(dashboard)
    try:
        return str(
            client.submit_job(
                entrypoint=shlex.join(entrypoint),
                runtime_env={"working_dir": str(working_dir), "excludes": [".git/"], "env_vars": dict(env or {})},
            )
        )
    except ValueError as error:  # Ray's limit for a package is 500 MiB
        remedy = "name what the job does not need in .gitignore"
        raise InputError(str(working_dir), f"cannot be shipped ({_first_line(error)})", remedy) from None
    except (RuntimeError, ConnectionError) as error:
        raise ClusterError("ray job", f"was refused ({_first_line(error)})", "see `serinus status`") from None


def python() -> str:
    """The interpreter for a job's entrypoint: this one on this machine's cluster, the nodes' own elsewhere."""
    return "python" if api_server() else sys.executable


def follow(job_id: str, *, out: Callable[[str], None], dashboard: str | None = None) -> int:
    """Hand the job's log to `out` as it grows, until the job ends; returns its exit code.

    Raises:
        ClusterError: no such job, or the cluster is away for longer than PATIENCE_S.
    """
    client = _client(dashboard)
    shown, last_seen = 0, time.monotonic()
    while True:
        try:
            with _asking_for(job_id):
                info = client.get_job_info(job_id)  # before the log: the log of an ended job is complete
                log = client.get_job_logs(job_id)
            last_seen = time.monotonic()
        except ConnectionError as error:
            if time.monotonic() - last_seen > PATIENCE_S:
                remedy = "when the cluster is back, see whether the job still runs"
                raise ClusterError(f"job {job_id}", f"lost sight of it ({_first_line(error)})", remedy) from None
            time.sleep(POLL_S)
            continue
        if log[shown:]:
            out(log[shown:])
            shown = len(log)
        if info.status.is_terminal():
            return _exit_code(info, out)
        time.sleep(POLL_S)


def stop(job_id: str, *, dashboard: str | None = None) -> bool:
    """Ask the job to end; False if it had ended already.

    Raises:
        ClusterError: no cluster, or no such job.
    """
    with _asking_for(job_id):
        return bool(_client(dashboard).stop_job(job_id))


def _client(dashboard: str | None) -> JobSubmissionClient:
    prepare_environment()
    url = dashboard or api_server() or _dashboard_of_up()
    check(url)  # a clear and quick answer where the client retries and raises its own kinds
    from ray.job_submission import JobSubmissionClient

    for chatty in ("ray.dashboard", "ray._private.runtime_env"):  # "Uploading package ...", "already exists ..."
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return JobSubmissionClient(url)


def _dashboard_of_up() -> str:
    cluster = local.running()
    if cluster is None:
        remedy = "start one with `serinus up`, or set RAY_API_SERVER_ADDRESS=http://<head>:8265"
        raise ClusterError("ray job", "there is no cluster to submit to", remedy)
    return cluster.dashboard


@contextmanager
def _asking_for(job_id: str) -> Iterator[None]:
    import requests

    try:
        yield
    except requests.RequestException as error:
        raise ConnectionError(_first_line(error)) from None
    except RuntimeError as error:
        if "404" in str(error):
            raise ClusterError(f"job {job_id}", "no such job on this cluster", "see `ray job list`") from None
        raise ConnectionError(_first_line(error)) from None  # 5xx while the head is busy or restarting


def _exit_code(info: JobInfo, out: Callable[[str], None]) -> int:
    if info.status == "SUCCEEDED":
        return 0
    if info.driver_exit_code:
        return int(info.driver_exit_code)
    out(f"{info.status}: {info.message or 'no message'}\n")
    return STOPPED_EXIT_CODE if info.status == "STOPPED" else FAILED_EXIT_CODE


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

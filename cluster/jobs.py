"""Ray jobs: submit a command with a folder, list, follow, stop, submit again. The driver runs on the head node."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import local, packages
from cluster.config import StrictModel
from cluster.dashboard import TOKEN_REMEDY, check, has_package
from cluster.errors import ClusterError, InputError
from cluster.session import api_server, prepare_environment

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 1.0
PATIENCE_S = 60.0
"""A dashboard that is away for less does not end `follow`."""

STOPPED_EXIT_CODE = 130
"""What a shell reports for an interrupted program."""
FAILED_EXIT_CODE = 3
"""The driver did not get to start, or was killed."""


class Job(StrictModel):
    """A job that was submitted, as `serinus jobs list` shows it."""

    id: str
    status: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED."""
    entrypoint: str
    message: str
    started_at: datetime | None
    ended_at: datetime | None

    def duration_s(self, now: datetime) -> float | None:
        """How long it has run until its end or `now`; None before it began."""
        return ((self.ended_at or now) - self.started_at).total_seconds() if self.started_at else None


def submit(
    entrypoint: Sequence[str], *, working_dir: Path, env: Mapping[str, str] | None = None, dashboard: str | None = None
) -> str:
    """Submit `entrypoint` to the cluster and return the job's id.

    Args:
        entrypoint: program and arguments, run in a copy of `working_dir` on the head.
        working_dir: shipped to the cluster without what its .gitignore and .serinusignore name; it goes first in the import path.
        env: further environment variables of the job. Visible to everyone with the token: no secrets.
        dashboard: URL of the cluster's dashboard; without it $RAY_API_SERVER_ADDRESS or the cluster of `serinus up`.

    Raises:
        ClusterError: no cluster, or it refuses the token or the job.
        InputError: `working_dir` is no folder or too large to ship.
    """
    client = _client(dashboard)
    package = packages.pack(working_dir)
    environment = {"working_dir": str(package), "env_vars": dict(env or {})}
    return _submit(client, shlex.join(entrypoint), environment, str(working_dir))


def retry(job_id: str, *, dashboard: str | None = None) -> str:
    """Submit an ended job's entrypoint once more, with its package and runtime environment; returns the new job's id.

    Raises:
        ClusterError: no cluster, no such job, or it refuses the new one.
        InputError: the job has not ended, or its package is neither on the cluster nor kept here.
    """
    client = _client(dashboard)
    with _asking_once(job_id):
        before = client.get_job_info(job_id)
    if not before.status.is_terminal():
        raise InputError(f"job {job_id}", f"has not ended ({before.status})", f"stop it: serinus jobs stop {job_id}")
    environment = dict(before.runtime_env or {})
    if uri := environment.get("working_dir"):
        environment["working_dir"] = _package(job_id, uri, dashboard)
    return _submit(client, before.entrypoint, environment, f"job {job_id}")


def jobs(*, dashboard: str | None = None) -> tuple[Job, ...]:
    """What was submitted to the cluster, newest first. Drivers that joined it by themselves are no jobs.

    Raises:
        ClusterError: no cluster, or it refuses the token.
    """
    client = _client(dashboard)
    with _asking_once(""):
        found = client.list_jobs()
    listed = [_job(details) for details in found if details.submission_id]
    latest = datetime.max.replace(tzinfo=UTC)  # what waits to begin stands first
    return tuple(sorted(listed, key=lambda job: job.started_at or latest, reverse=True))


def log(job_id: str, *, dashboard: str | None = None) -> str:
    """All that the job has printed until now.

    Raises:
        ClusterError: no cluster, or no such job.
    """
    client = _client(dashboard)
    with _asking_once(job_id):
        return str(client.get_job_logs(job_id))


def python() -> str:
    """The interpreter for a job's entrypoint: this one on this machine's cluster, the nodes' own elsewhere."""
    return "python" if api_server() else sys.executable


def follow(job_id: str, *, out: Callable[[str], None], dashboard: str | None = None) -> int:
    """Hand the job's log to `out` as it grows, until the job ends; returns its exit code.

    Raises:
        ClusterError: no such job, or the cluster is away for longer than PATIENCE_S.
    """
    client = _client(dashboard)
    _check_id(job_id)
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
    client = _client(dashboard)
    with _asking_once(job_id):
        return bool(client.stop_job(job_id))


REQUEST_TIMEOUT_S = (5.0, 120.0)
"""To connect, and between two bytes of an answer: a job is answered for once it is under way."""
AGENT_TIMEOUT_S = 60.0
"""A head answers some time before its agent, which starts jobs, does; on a busy machine half a minute."""


def _submit_patiently(client: JobSubmissionClient, entrypoint: str, environment: dict[str, Any]) -> str:
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _submit(client: JobSubmissionClient, entrypoint: str, environment: dict[str, Any], where: str) -> str:
    import requests
    from ray.exceptions import AuthenticationError

    try:
        return _submit_patiently(client, entrypoint, environment)
    except ValueError as error:  # Ray's limit for a package is 500 MiB
        raise InputError(where, f"cannot be shipped ({_first_line(error)})", packages.SHIPPED) from None
    except AuthenticationError:
        raise ClusterError("ray job", "the cluster refuses our token", TOKEN_REMEDY) from None
    except (RuntimeError, ConnectionError, requests.RequestException) as error:
        raise ClusterError("ray job", f"was refused ({_first_line(error)})", "see `serinus status`") from None


def _package(job_id: str, uri: str, dashboard: str | None) -> str:
    """The working directory of a job for another one: from here, or where it still is on the cluster."""
    if (kept := packages.find(uri)) is not None:
        return str(kept)
    if uri.startswith("gcs://") and not has_package(_url(dashboard), uri.removeprefix("gcs://")):
        found = "its working directory is no longer on the cluster, and was not submitted from this machine"
        raise InputError(f"job {job_id}", found, "submit it again from its folder")
    return uri


def _job(details: JobDetails) -> Job:
    return Job(
        id=details.submission_id,
        status=str(details.status.value),
        entrypoint=details.entrypoint,
        message=details.message or "",
        started_at=_moment(details.start_time),
        ended_at=_moment(details.end_time),
    )


def _moment(unix_ms: int | None) -> datetime | None:
    return datetime.fromtimestamp(unix_ms / 1000, UTC) if unix_ms else None


def _url(dashboard: str | None) -> str:
    return dashboard or api_server() or _dashboard_of_up()


def _client(dashboard: str | None) -> JobSubmissionClient:
    prepare_environment()
    url = _url(dashboard)
    check(url)  # a clear and quick answer where the client retries and raises its own kinds
    from ray.job_submission import JobSubmissionClient

    class PatientClient(JobSubmissionClient):
        """Ray's own waits without end for a head that has gone without a word."""

        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=REQUEST_TIMEOUT_S, **more)

    for chatty in (
        "ray.dashboard.modules.dashboard_sdk",
        "ray._private.runtime_env",
    ):  # "Uploading package ...", "already exists ..."
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return PatientClient(url)


def _dashboard_of_up() -> str:
    cluster = local.running()
    if cluster is None:
        remedy = "start one with `serinus up`, or set RAY_API_SERVER_ADDRESS=http://<head>:8265"
        raise ClusterError("ray job", "there is no cluster to submit to", remedy)
    return cluster.dashboard


def _check_id(job_id: str) -> None:
    """It becomes a part of a URL."""
    if not re.fullmatch(r"[\w.\-]*", job_id) or job_id in (".", ".."):
        raise InputError(f"job {job_id!r}", "is no job's id", "see `serinus jobs list`")


@contextmanager
def _asking_once(job_id: str) -> Iterator[None]:
    """Raises ClusterError, also for a cluster that is away."""
    try:
        with _asking_for(job_id):
            yield
    except ConnectionError as error:
        where = f"job {job_id}" if job_id else "jobs"
        raise ClusterError(
            where, f"the cluster does not tell ({_first_line(error)})", "try again; see `serinus status`"
        ) from None


@contextmanager
def _asking_for(job_id: str) -> Iterator[None]:
    """Raises ClusterError for what will not change, ConnectionError for a cluster that is away or busy."""
    import requests
    from ray.exceptions import AuthenticationError

    _check_id(job_id)
    try:
        yield
    except AuthenticationError:
        raise ClusterError(f"job {job_id}", "the cluster refuses our token", TOKEN_REMEDY) from None
    except requests.RequestException as error:
        raise ConnectionError(_first_line(error)) from None
    except RuntimeError as error:
        if "status code 404" in str(error):
            raise ClusterError(f"job {job_id}", "no such job on this cluster", "see `serinus jobs list`") from None
        raise ConnectionError(_first_line(error)) from None  # 5xx while the head is busy or restarting


def _exit_code(info: JobDetails, out: Callable[[str], None]) -> int:
    if info.status == "SUCCEEDED":
        return 0
    if info.driver_exit_code:
        return int(info.driver_exit_code)
    out(f"{info.status}: {info.message or 'no message'}\n")
    return STOPPED_EXIT_CODE if info.status == "STOPPED" else FAILED_EXIT_CODE


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

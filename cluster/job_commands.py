"""`serinus jobs`: what was submitted to the cluster, its logs, its end, and once more."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.markup import escape
from rich.table import Table

from cluster.console import out
from cluster.errors import ConfigError
from cluster.telemetry import printable

if TYPE_CHECKING:
    from cluster import jobs

app = typer.Typer(
    help="Jobs on the cluster: those of `serinus submit`, and others that came through Ray's job API; with --k8s, RayJobs."
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

MAX_ENTRYPOINT = 60
"""Characters of it in the table; --json has all."""

K8sOption = Annotated[bool, typer.Option("--k8s", help="RayJobs on Kubernetes, of kubectl's context")]
NamespaceOption = Annotated[str | None, typer.Option(help="with --k8s; default: that of kubectl's context")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="id, as `serinus jobs list` shows it")]


@app.command("list")
def list_jobs(
    as_json: Annotated[bool, typer.Option("--json", help="a job a line")] = False,
    k8s: K8sOption = False,
    namespace: NamespaceOption = None,
) -> None:
    """Every job that was submitted to this cluster, newest first."""
    found = place(k8s, namespace).jobs()
    if as_json:
        for job in found:
            print(job.model_dump_json())
        return
    out.print(table(found, datetime.now(UTC)) if found else "no jobs yet: serinus submit RECIPE")


@app.command()
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until it ends, with its exit code")] = False,
    k8s: K8sOption = False,
    namespace: NamespaceOption = None,
) -> None:
    """What a job has printed."""
    where = place(k8s, namespace)
    if follow:
        raise typer.Exit(followed(job, where, again(k8s, namespace)))
    print(where.log(job), end="")


@app.command()
def stop(job: JobArgument, k8s: K8sOption = False, namespace: NamespaceOption = None) -> None:
    """End a job. What it has made is kept."""
    out.print(f"{job} is told to end" if place(k8s, namespace).stop(job) else f"{job} had ended", markup=False)


@app.command()
def retry(
    job: JobArgument,
    follow: Annotated[bool, typer.Option(help="show the new job's log until it ends")] = True,
    k8s: K8sOption = False,
    namespace: NamespaceOption = None,
) -> None:
    """Submit an ended job once more, with the same command, files and environment, under a new id."""
    where = place(k8s, namespace)
    new = where.retry(job)
    out.print(f"submitted {new}", markup=False)
    if follow:
        raise typer.Exit(followed(new, where, again(k8s, namespace)))


class Place(Protocol):
    """Where jobs run. `cluster.jobs` is one, `cluster.rayjobs.RayJobs` the other."""

    def jobs(self) -> tuple[jobs.Job, ...]: ...

    def log(self, job_id: str) -> str: ...

    def follow(self, job_id: str, *, out: Callable[[str], None]) -> int: ...

    def stop(self, job_id: str) -> bool: ...

    def retry(self, job_id: str) -> str: ...


def place(k8s: bool, namespace: str | None) -> Place:
    """
    Raises:
        ClusterError: with `k8s`, no Kubernetes cluster is chosen.
        ConfigError: a namespace, and no `--k8s`.
    """
    if k8s:
        from cluster.rayjobs import RayJobs

        return RayJobs(namespace)
    if namespace:
        raise ConfigError("--namespace", "is of Kubernetes", "add --k8s, or leave it out")
    from cluster import jobs

    return jobs


def again(k8s: bool, namespace: str | None) -> str:
    """The options that reach the same place."""
    return (" --k8s" if k8s else "") + (f" --namespace {namespace}" if namespace else "")


def followed(job: str, where: Place, options: str = "") -> int:
    """Show a job's log until it ends; returns its exit code. Ctrl-C leaves the job alone.

    Args:
        options: of the commands that reach the same job.
    """
    try:
        return where.follow(job, out=lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        left = (
            f"\n{job} goes on. Follow it: serinus jobs logs -f {job}{options}; end it: serinus jobs stop {job}{options}"
        )
        print(left, file=sys.stderr)
        sys.exit(INTERRUPTED)


def table(found: tuple[jobs.Job, ...], now: datetime) -> Table:
    """The jobs as people read them; moments are UTC."""
    rows = Table("id", "status", "started (UTC)", "duration", "entrypoint", box=None, header_style="bold")
    rows.columns[0].min_width = max((len(job.id) for job in found), default=0)  # to be copied: never cut
    for job in found:
        began = f"{job.started_at:%Y-%m-%d %H:%M:%S}" if job.started_at else "-"
        command = job.entrypoint if len(job.entrypoint) <= MAX_ENTRYPOINT else f"{job.entrypoint[:MAX_ENTRYPOINT]}..."
        rows.add_row(
            escape(printable(job.id)),
            escape(job.status),
            began,
            _length(job.duration_s(now)),
            escape(printable(command)),
        )
    return rows


def _length(duration_s: float | None) -> str:
    if duration_s is None:
        return "-"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

"""`serinus jobs`: what was submitted to the cluster, its logs, its end, and once more."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.telemetry import printable

if TYPE_CHECKING:
    from cluster import jobs

app = typer.Typer(help="Jobs on the cluster: those of `serinus submit`, and others that came through Ray's job API.")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

MAX_ENTRYPOINT = 60
"""Characters of it in the table; --json has all."""

out = Console(highlight=False, soft_wrap=True)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="id, as `serinus jobs list` shows it")]


@app.command("list")
def list_jobs(as_json: Annotated[bool, typer.Option("--json", help="a job a line")] = False) -> None:
    """Every job that was submitted to this cluster, newest first."""
    from cluster import jobs

    found = jobs.jobs()
    if as_json:
        for job in found:
            print(job.model_dump_json())
        return
    out.print(table(found, datetime.now(UTC)) if found else "no jobs yet: serinus submit RECIPE")


@app.command()
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until it ends, with its exit code")] = False,
) -> None:
    """What a job has printed."""
    from cluster import jobs

    if follow:
        raise typer.Exit(followed(job))
    print(jobs.log(job), end="")


@app.command()
def stop(job: JobArgument) -> None:
    """End a job. What it has made is kept."""
    from cluster import jobs

    out.print(f"{job} is told to end" if jobs.stop(job) else f"{job} had ended", markup=False)


@app.command()
def retry(
    job: JobArgument,
    follow: Annotated[bool, typer.Option(help="show the new job's log until it ends")] = True,
) -> None:
    """Submit an ended job once more, with the same command, files and environment, under a new id."""
    from cluster import jobs

    new = jobs.retry(job)
    out.print(f"submitted {new}", markup=False)
    if follow:
        raise typer.Exit(followed(new))


def followed(job: str) -> int:
    """Show a job's log until it ends; returns its exit code. Ctrl-C leaves the job alone."""
    from cluster import jobs

    try:
        return jobs.follow(job, out=lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        left = f"\n{job} goes on. Follow it: serinus jobs logs -f {job}; end it: serinus jobs stop {job}"
        print(left, file=sys.stderr)
        sys.exit(INTERRUPTED)


def table(found: tuple[jobs.Job, ...], now: datetime) -> Table:
    """The jobs as people read them; moments are UTC."""
    rows = Table("id", "status", "started (UTC)", "duration", "entrypoint", box=None, header_style="bold")
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

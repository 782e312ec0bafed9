"""`serinus data plan`: what cleaning a recipe's sources would take and give, estimated from a sample before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from cluster.topology import Pool
    from pipelines.config import DataConfig, LifecycleConfig
    from pipelines.data.estimate import Estimate, Range
    from pipelines.data.inventory import SourceFile
    from pipelines.data.sample import Sample

MAX_NAMED = 3
"""Files that a line names."""


def register(app: typer.Typer, load: Callable[[Path], LifecycleConfig], say: Callable[[Any], None]) -> None:
    """Put the command among those of `app`."""

    @app.command("plan")
    def data_plan(
        recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the lifecycle")],
        sample_megabytes: Annotated[float, typer.Option(min=0.5, help="of input to read, about")] = 16.0,
        within_hours: Annotated[float, typer.Option(min=0.001, help="time that the nodes are to be enough for")] = 1.0,
        topology: Annotated[
            Path | None, typer.Option(help="the cluster's declaration; default: ray_cluster.yaml")
        ] = None,
    ) -> None:
        """How long cleaning would take, on how many nodes, and what it would give: an estimate from a sample of the input."""
        from cluster.topology import load_topology

        config = load(recipe).data
        pool = load_topology(topology).pool(config.pool)
        for part in _plan(config, pool, int(sample_megabytes * 1e6), within_hours * 3600):
            say(part)


def _plan(config: DataConfig, pool: Pool, sample_bytes: int, within_s: float) -> Iterator[Table | str]:
    """Raises InputError: a source is missing, or nothing in it can be read."""
    from cluster.errors import InputError
    from pipelines.data.estimate import estimate
    from pipelines.data.inventory import listed
    from pipelines.data.protect import read_key
    from pipelines.data.sample import hash_s_per_byte, take
    from pipelines.data.work import standards_of

    files = listed(config.sources)
    readable = [file for file in files if file.format is not None]
    num_bytes = sum(file.num_bytes for file in readable)
    key, standards = read_key(config.protect), standards_of(config)
    try:
        sample = take(readable, config, key, standards, sample_bytes)
    except OSError as error:
        remedy = "make it readable, or leave it out of data.sources; `serinus run` would exclude it"
        raise InputError(
            str(error.filename or "data.sources"), f"cannot be read ({error.strerror or error})", remedy
        ) from None
    if not sample.places:
        raise InputError("data.sources", f"{len(files)} files, of which none can be sampled", "correct data.sources")
    found = estimate(sample.places, num_bytes, hash_s_per_byte(), _longest(readable))
    yield from _lines(files, num_bytes, sample, found)
    yield _times(found, pool, within_s)
    yield from _meaning(sample, found, within_s)


def _longest(files: Sequence[SourceFile]) -> int:
    from pipelines.data.inventory import CUT_BYTES

    cut = [file.format == "jsonl" and not file.gzipped for file in files]
    return max(min(f.num_bytes, CUT_BYTES) if parts else f.num_bytes for f, parts in zip(files, cut, strict=True))


def _lines(files: Sequence[SourceFile], num_bytes: int, sample: Sample, found: Estimate) -> Iterator[Table | str]:
    from rich.table import Table

    read = sum(place.num_bytes for place in sample.places)
    documents = sum(place.num_documents for place in sample.places)
    unknown = sum(file.format is None for file in files)
    yield f"input: {len(files)} files, {size(num_bytes)}" + (f"; {unknown} of them are no documents" if unknown else "")
    share = 100 * read / num_bytes
    percent = f"{share:.0f}" if share >= 10 else f"{share:.2g}"
    places = f"{len(sample.places)} places, {documents} documents"
    yield f"sampled: {size(read)} ({percent} %) at {places}; {size(sample.num_bytes_read)} read"
    table = Table("estimate", "about", "between", box=None, header_style="bold")
    rows: tuple[tuple[str, Range, Callable[[float], str]], ...] = (
        ("documents", found.num_documents, count),
        ("kept, duplicates among them", found.num_kept, count),
        ("output", found.out_bytes, size),
        ("CPU time", found.cpu_s, duration),
    )
    for name, span, told in rows:
        table.add_row(name, told(span.middle), f"{told(span.low)} and {told(span.high)}")
    yield table


def _times(found: Estimate, pool: Pool, within_s: float) -> Table:
    """On nodes of the pool, up to as many as the time asks for."""
    from rich.table import Table

    from pipelines.data.estimate import duration_s, nodes_for

    cpus = max(pool.num_cpus, 1)
    table = Table(f"nodes of pool {pool.name}", "CPUs", "takes about", "at most about", box=None, header_style="bold")
    wanted = nodes_for(min(found.cpu_s.high, 1e12), within_s, cpus)
    for nodes in sorted({1, 2, 4, wanted}):
        spans = [duration_s(cpu_s, nodes * cpus, found.longest_s) for cpu_s in found.cpu_s[1:]]
        more = f" (the pool has {pool.max_nodes} at most)" if nodes > pool.max_nodes else ""
        table.add_row(f"{nodes}{more}", str(nodes * cpus), *map(duration, spans))
    return table


def _meaning(sample: Sample, found: Estimate, within_s: float) -> Iterator[str]:
    yield "An estimate, not a measurement: by this machine's CPUs, while nothing else keeps them busy. Not counted: Ray's start,"
    yield "the search for duplicates, the network. Ranges hold 19 times of 20 if the input is alike everywhere."
    if found.longest_s > within_s:
        yield f"The largest file is read by one worker and takes about {duration(found.longest_s)} alone: no nodes make that less"
    if sample.not_sampled:
        more = f" and {len(sample.not_sampled) - MAX_NAMED} more" if len(sample.not_sampled) > MAX_NAMED else ""
        yield f"Too large to be sampled, and taken to be like the others: {', '.join(sample.not_sampled[:MAX_NAMED])}{more}"


def count(number: float) -> str:
    """Two digits, as an estimate deserves."""
    for unit, name in ((1e9, " billion"), (1e6, " million"), (1e3, ",000")):
        if number >= unit:
            return f"{number / unit:.{0 if name == ',000' or number >= 10 * unit else 1}f}{name}"
    return f"{number:.0f}"


def size(num_bytes: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"

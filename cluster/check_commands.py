"""`serinus cluster`: what the cluster's declaration says, and whether a recipe can run on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer
from rich.console import Console

from cluster.command_line import TopologyOption
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.demand import Demand


class Asked(NamedTuple):
    """What a recipe asks of the cluster."""

    demands: Sequence[Demand]
    model: str
    num_parameters: int | None
    """None: the model's size is not known here."""


def register(app: typer.Typer, asked: Callable[[Path], Asked], out: Console) -> None:
    """Put the commands among those of `app`.

    Args:
        asked: reads a recipe for what it asks of the cluster.
    """

    @app.command("check")
    def check_cluster(
        recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="YAML file of the lifecycle")] = None,
        topology: TopologyOption = None,
    ) -> None:
        """Say what `ray up` would refuse, and what of the recipe the cluster could never run. Exit code 1 when there is any."""
        from cluster.demand import findings
        from cluster.launcher import check_launcher
        from cluster.topology import load_topology, topology_file

        file = topology_file(topology)
        declared = load_topology(file)
        check_launcher(file)
        if recipe is None:
            out.print(f"{file}: good")
            return
        wanted = asked(recipe)
        found = findings(declared, wanted.demands)
        for where, what, remedy in found:
            out.print(f"{where}: {what}\n  -> {remedy}", markup=False)
        out.print(f"{recipe} on {file}: {len(found) or 'no'} likely mistake(s); {_model(wanted)}")
        raise typer.Exit(1 if found else 0)

    @app.command("join")
    def join(pool: Annotated[Literal["data", "train", "serve"], typer.Argument(metavar="POOL")]) -> None:
        """The command by which another machine joins POOL of the cluster that `serinus up --host` started here."""
        from cluster.local_status import joining

        print(joining(pool))

    @app.command("flags")
    def start_flags(topology: Path) -> None:
        """The options of `ray start` that put this machine into its pool, where TOPOLOGY names machines."""
        import shlex

        from cluster.session import addresses_here
        from cluster.topology import load_topology, pool_of
        from cluster.topology import start_flags as flags

        addresses = addresses_here()
        pool = pool_of(load_topology(topology), addresses)
        if pool is None:
            where, remedy = f"{topology}: provider.pools", f"add {', '.join(sorted(addresses))}"
            raise ConfigError(where, "no pool has this machine", remedy)
        print(shlex.join(flags(pool)))


def _model(wanted: Asked) -> str:
    size = wanted.num_parameters
    known = f"{size / 1e9:.2f} B parameters" if size else "its size is not known here, so memory was not checked"
    return f"model {wanted.model}: {known}"

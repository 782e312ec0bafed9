"""`serinus up`, `down` and `status`: the cluster on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import ClusterError
from cluster.progress import say

if TYPE_CHECKING:
    from cluster.local import ClusterStatus


def register(app: typer.Typer, out: Console) -> None:
    """Add the commands to the command line."""

    @app.command()
    def up(topology: Annotated[Path | None, typer.Option(help="the cluster's declaration")] = None) -> None:
        """Bring up the cluster of ray_cluster.yaml on this machine: a head and a node for each pool."""
        from cluster import local
        from cluster.topology import load_topology

        cluster = local.up(load_topology(topology), progress=lambda message: say("up", message))
        out.print(f"up at {cluster.address}. Next: serinus status, serinus run RECIPE, serinus down")

    @app.command()
    def down() -> None:
        """Stop what `serinus up` started, and nothing else."""
        from cluster import local

        out.print("down" if local.down(progress=lambda message: say("down", message)) else "nothing was up")

    @app.command()
    def status() -> None:
        """Nodes, pools and applications of the cluster that `serinus up` started."""
        from cluster import local

        found = local.describe()
        if found is None:
            raise ClusterError("cluster", "none is up on this machine", "start one: serinus up")
        for part in _told(found):
            out.print(part)


def _told(found: ClusterStatus) -> tuple[str, Table, Table | str]:
    nodes = Table("pool", "node", "state", "CPUs", "GPUs", box=None, header_style="bold")
    for node in found.nodes:
        state = "alive" if node.alive else "dead"
        nodes.add_row(node.pool, node.host, state, f"{node.num_cpus:g}", f"{node.num_gpus:g}")
    applications = Table("application", "status", "replicas", "message", box=None, header_style="bold")
    for application in found.applications:
        applications.add_row(
            application.name, application.status, str(application.num_replicas), application.message.split("\n")[0]
        )
    began = f"cluster {found.address}, up since {found.started_at:%Y-%m-%d %H:%M}, dashboard {found.dashboard}"
    return began, nodes, applications if found.applications else "no applications"

"""`serinus up`, `down` and `status`: the cluster on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import ClusterError
from cluster.profiles import ProfileName
from cluster.progress import say

if TYPE_CHECKING:
    from cluster.local_status import ClusterStatus


def register(app: typer.Typer, out: Console) -> None:
    """Add the commands to the command line."""

    @app.command()
    def up(
        topology: Annotated[Path | None, typer.Option(help="the cluster's declaration")] = None,
        profile: Annotated[
            ProfileName, typer.Option(help="tiny: one node for all pools; laptop: one a pool; workstation: more")
        ] = "laptop",
        host: Annotated[
            str | None, typer.Option(help="this machine's address, so that others can join (serinus cluster join)")
        ] = None,
    ) -> None:
        """Bring up the cluster of ray_cluster.yaml on this machine: a head and the pools' nodes."""
        from cluster import local
        from cluster.topology import load_topology

        declared = load_topology(topology)
        cluster = local.up(declared, progress=lambda message: say("up", message), profile=profile, host=host)
        if host:
            out.print(
                "another machine joins by what `serinus cluster join POOL` prints, with ~/.ray/auth_token copied there"
            )
        out.print(f"up at {cluster.address}. Next: serinus status, serinus run RECIPE, serinus down")

    @app.command()
    def down() -> None:
        """Stop what `serinus up` started, and nothing else."""
        from cluster import local

        out.print("down" if local.down(progress=lambda message: say("down", message)) else "nothing was up")

    @app.command()
    def status() -> None:
        """Nodes, pools and applications of the cluster that `serinus up` started, with the machines that joined it."""
        from cluster.local_status import describe

        found = describe()
        if found is None:
            raise ClusterError("cluster", "none is up on this machine", "start one: serinus up")
        for part in _told(found):
            out.print(part)


def _told(found: ClusterStatus) -> tuple[str, Table, Table | str]:
    nodes = Table("pool", "node", "state", "CPUs", "GPUs", box=None, header_style="bold")
    for node in found.nodes:
        state = f"{node.state}, joined" if node.joined else node.state
        nodes.add_row(node.pool or "(none)", node.host, state, f"{node.num_cpus:g}", f"{node.num_gpus:g}")
    applications = Table("application", "status", "replicas", "message", box=None, header_style="bold")
    for application in found.applications:
        applications.add_row(
            application.name, application.status, str(application.num_replicas), application.message.split("\n")[0]
        )
    began = f"cluster {found.address}, up since {found.started_at:%Y-%m-%d %H:%M}, dashboard {found.dashboard}"
    return began, nodes, applications if found.applications else "no applications"

"""`serinus cluster drain` and `watch-spot`: a node of this machine leaves before the machine is taken away."""

from __future__ import annotations

from typing import Annotated

import typer

NodeOption = Annotated[
    str, typer.Option("--node", metavar="ID", help="its id or the id's beginning, where the machine has several")
]


def register(app: typer.Typer) -> None:
    """Put the commands among those of `app`."""

    @app.command("drain")
    def drain(
        node: NodeOption = "",
        notice: Annotated[float, typer.Option(min=1, max=86_400, help="seconds until the machine is gone")] = 110,
        message: Annotated[str, typer.Option(help="why, for whoever looks at the cluster")] = "taken away with notice",
    ) -> None:
        """Let what works on this machine leave before it is taken away. Exit code 1 when something is still at work then."""
        from cluster.drain import chosen, leave, nodes_here

        raise typer.Exit(0 if leave(chosen(nodes_here(), node), notice, message) else 1)

    @app.command("watch-spot")
    def watch_spot(node: NodeOption = "") -> None:
        """Drain this machine's node when EC2 takes its spot instance back. Ends at once on other machines, and with the node."""
        from cluster.drain import chosen, nodes_here
        from cluster.spot_notice import Metadata, watch

        watch(Metadata(), lambda: chosen(nodes_here(), node))

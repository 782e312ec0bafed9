"""`serinus k8s`: the cluster and its jobs as Kubernetes documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cluster.command_line import TopologyOption

if TYPE_CHECKING:
    from cluster.kuberay.settings import Workload
    from cluster.topology import Topology

ReadWorkload = Callable[[Path, str, "Topology"], "Workload"]
"""From a recipe, an overlay's name and the topology."""


def register(app: typer.Typer, workload: ReadWorkload, out: Console) -> None:
    """Put the commands among those of `app`."""

    @app.command("render")
    def render_k8s(
        recipe: Annotated[
            Path | None, typer.Argument(metavar="[RECIPE]", help="also its jobs and its place in the cluster")
        ] = None,
        folder: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("k8s"),
        overlay: Annotated[list[str] | None, typer.Option(help="dev, gpu, production; default: all")] = None,
        image: Annotated[str | None, typer.Option(help="registry/name:tag in place of the overlay's")] = None,
        topology: TopologyOption = None,
        *,
        egress: Annotated[
            list[str] | None,
            typer.Option(help="let pods reach ADDRESS:PORT, NAMESPACE:PORT or a cloud's workload identity"),
        ] = None,
    ) -> None:
        """Write the Kubernetes documents of the cluster and, with RECIPE, its jobs: a base and overlays for `kubectl apply -k`."""
        from cluster.kuberay import render
        from cluster.kuberay.settings import OVERLAYS
        from cluster.topology import load_topology

        loaded, overlays = load_topology(topology), overlay or list(OVERLAYS)
        files: dict[str, str] = {}
        for name in overlays:
            work = workload(recipe, name, loaded) if recipe else None
            files |= render.render(loaded, name, work, image=image, egress=egress or ())
        render.write(files, folder)
        out.print(f"{len(files)} files in {folder}. Next: kubectl apply -k {folder}/overlays/{overlays[0]}")

"""Arguments and options that commands share, and what they know of a recipe, whose parts are defined in packages above this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol

import typer

from cluster.storage_config import StorageConfig

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the lifecycle")]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", metavar="RECIPE", help="default: the recipe of the last `serinus deploy`")
]
TopologyOption = Annotated[
    Path | None, typer.Option("--topology", help="the cluster's declaration; default: ray_cluster.yaml")
]
JsonOption = Annotated[bool, typer.Option("--json", help="for machines")]


class Named(Protocol):
    """A recipe, as far as every command needs it."""

    @property
    def name(self) -> str: ...
    @property
    def storage(self) -> StorageConfig: ...


ReadNamed = Callable[[Path | None], Named]
"""Reads a recipe; None: that of the last `serinus deploy`."""

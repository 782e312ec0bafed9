"""A recipe as far as commands of services need it; whoever reads whole recipes hands it in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cluster.storage_config import StorageConfig
from services.config import NotifyConfig, RolloutConfig, ServingConfig


class ServedRecipe(Protocol):
    """The part about a model that runs."""

    @property
    def name(self) -> str: ...
    @property
    def storage(self) -> StorageConfig: ...
    @property
    def serve(self) -> ServingConfig: ...
    @property
    def rollout(self) -> RolloutConfig: ...
    @property
    def notify(self) -> NotifyConfig: ...


ReadServed = Callable[[Path | None], ServedRecipe]
"""Reads a recipe; None: that of the last `serinus deploy`."""

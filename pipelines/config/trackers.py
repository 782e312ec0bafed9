"""Where the course of a training run is shown."""

from __future__ import annotations

from typing import Literal

from cluster.config import StrictModel


class MlflowConfig(StrictModel):
    tracking_uri: str
    """A server's address, or a folder as file:... Name and password come from MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD."""
    experiment: str = "serinus"


class WandbConfig(StrictModel):
    """Weights & Biases; the key comes from WANDB_API_KEY or `wandb login`."""

    project: str = "serinus"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class TrackersConfig(StrictModel):
    """Beside TensorBoard's event files, which are always written."""

    mlflow: MlflowConfig | None = None
    wandb: WandbConfig | None = None

"""A model to begin with, or to learn from. No heavy imports here."""

from __future__ import annotations

from typing import Literal

from cluster.config import Location, StrictModel


class ModelConfig(StrictModel):
    """The base model, or a teacher."""

    source: Location
    """A Hugging Face folder, a .gguf file, or hf://organisation/name on the hub."""
    revision: str = "main"
    """Of the hub's repository; ignored for files."""
    trust_remote_code: Literal[False] = False
    """Never: code from a model folder is not run."""

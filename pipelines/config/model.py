"""A model to begin with, or to learn from. No heavy imports here."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from cluster.config import Location, StrictModel

HUB_NAME = re.compile(r"hf://[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)


class ModelConfig(StrictModel):
    """The base model, or a teacher."""

    source: Location
    """A Hugging Face folder, a .gguf file, or hf://organisation/name on the hub."""
    revision: str = "main"
    """Of the hub's repository; ignored for files."""
    trust_remote_code: Literal[False] = False
    """Never: code from a model folder is not run."""

    @field_validator("source")
    @classmethod
    def _can_be_one(cls, source: str) -> str:
        if "://" in source and not HUB_NAME.fullmatch(source):
            raise ValueError("should be a folder, a .gguf file or hf://organisation/name")
        return source

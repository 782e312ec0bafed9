"""What every artifact records."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from cluster.config import StrictModel

VERSION = "0.1.0"

VOLATILE = frozenset({"made_at", "took_s", "speed"})
"""Fields that differ between two runs that made the same thing; the digest leaves them out."""


def digest(value: Any) -> str:
    """SHA-256 (hex, 64 digits) of `value` as canonical JSON: sorted keys, no white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class FileEntry(StrictModel):
    path: str
    """Relative to the artifact's folder."""
    num_bytes: int
    sha256: str


class Source(StrictModel):
    """One input file as it was read."""

    path: str
    num_bytes: int
    sha256: str


class Manifest(StrictModel):
    """What every artifact records."""

    kind: str
    key: str
    """16 hex digits of the digest of (stage, its configuration, the digests of its inputs)."""
    inputs: dict[str, str] = {}
    """Role -> digest of the input's manifest."""
    config: dict[str, Any] = {}
    files: tuple[FileEntry, ...] = ()
    made_by: str = ""
    """serinus and its version."""
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    took_s: float = 0.0

    @property
    def digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude=set(VOLATILE)))

    @property
    def location(self) -> str:
        """The artifact's folder in storage."""
        return f"artifacts/{self.kind}/{self.key}"

    @property
    def summary(self) -> str:
        """The figures in one line, for people."""
        return f"took {self.took_s:.0f} s"


class Weights(Manifest):
    """A model whose Hugging Face folder (config, tokenizer, safetensors) is `model/` in the artifact's folder."""

    num_parameters: int = 0
    num_weight_bytes: int = 0
    """Of the safetensors files."""

    @property
    def folder(self) -> str:
        return f"{self.location}/model"

    @property
    def summary(self) -> str:
        return f"{self.num_parameters / 1e6:.0f} M parameters, {self.num_weight_bytes / 1e6:.0f} MB"

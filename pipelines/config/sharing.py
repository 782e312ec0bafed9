"""How workers share a model out among themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cluster.config import StrictModel


class ZeroConfig(StrictModel):
    """DeepSpeed's sharding (Rajbhandari et al. 2020, arXiv 1910.02054)."""

    stage: Literal[0, 1, 2, 3] = 3
    offload_optimizer: bool = False
    """Keep optimizer states in CPU memory."""
    offload_parameters: bool = False
    extra: dict[str, Any] = {}
    """Merged over the DeepSpeed dictionary last."""


class ParallelConfig(StrictModel):
    """Workers that hold one copy of the model together. The others hold further copies, each of which takes a part of a step."""

    tensor: int = Field(1, ge=1)
    """Of each matrix, a worker holds one in so many parts (Shoeybi et al. 2019, arXiv 1909.08053). They add up
    activations several times a layer: keep them on one machine."""
    pipeline: int = Field(1, ge=1)
    """A worker holds the layers of one of so many stages (Narayanan et al. 2020, arXiv 2006.09503), and hands micro-batches on
    to the next. With zero stage 1, and at least as many micro-batches a step."""

    @property
    def workers(self) -> int:
        """That hold one copy."""
        return self.tensor * self.pipeline

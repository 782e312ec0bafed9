"""What keeps a model from forgetting, while it learns something new. No heavy imports here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from cluster.config import StrictModel

Weight = Annotated[float, Field(gt=0)]


class ReplayConfig(StrictModel):
    """Old documents among the new, so that what was learnt from them is not forgotten."""

    dataset: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Key of a dataset in the same storage: the folder's name under artifacts/dataset/."""
    fraction: float = Field(gt=0, lt=1)
    """Of the sequences that a run takes: the old documents'."""


class OnlineConfig(StrictModel):
    """Consolidation along a chain of runs (Schwarz et al. 2018, arXiv 1805.06370, section 2.3): what mattered for all documents
    before is in one running sum."""

    checkpoint: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Key of the run before, made with consolidation: the folder's name under artifacts/checkpoint/. This run begins with the
    model made there."""
    decay: float = Field(gt=0, le=1)
    """What mattered before is multiplied by it (the paper's gamma): 1 forgets nothing, and leaves ever less room to learn."""


class ConsolidationConfig(StrictModel):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): weights that mattered for old documents are
    held near where they were."""

    dataset: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Key of the old documents' dataset in the same storage; with `online`, of what the run before learnt."""
    weight: Weight | Annotated[tuple[Weight, ...], Field(min_length=2)]
    """Of the penalty; the paper's lambda. What is right depends on model and data. Of several, ascending, the smallest is taken
    that retains enough: each one tried is a whole run, of n weights at most log2(n) + 1 are."""
    min_retention_percent: float | None = Field(None, gt=0, le=100)
    """What must be left of held-out old documents' score: perplexity before / after. Of several weights 95 where nothing else is
    said; of one it is not asked where nothing is said."""
    num_sequences: int = Field(256, ge=1)
    """Of the old documents, to tell which weights mattered. They are gone through at every start of the run."""
    online: OnlineConfig | None = None
    """For the second and later runs of a chain."""

    @model_validator(mode="after")
    def _ascending(self) -> ConsolidationConfig:
        if list(self.weights) != sorted(set(self.weights)):
            raise ValueError(f"weight: {list(self.weights)} does not ascend: give each weight once, the smallest first")
        return self

    @property
    def asked_percent(self) -> float | None:
        """Retention that is asked for."""
        return 95.0 if self.min_retention_percent is None and len(self.weights) > 1 else self.min_retention_percent

    @property
    def weights(self) -> tuple[float, ...]:
        """One or several."""
        return self.weight if isinstance(self.weight, tuple) else (self.weight,)

"""What a lifecycle may take of the machines, and what that costs. No heavy imports here."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel
from pipelines.config.carbon import intensity
from pipelines.config.stages import Pool


class NodeBudgetConfig(StrictModel):
    """A lifecycle stops between two artifacts once this is spent, whatever runs it took: a run that is tried again goes on
    counting. Not part of what is made: raise it, and the same command goes on from what is there."""

    node_hours: float = Field(gt=0)
    """Nodes of the pools that a stage asks for, as many as are alive while it works, times the hours that it works. The head is
    left out, as are nodes that stay between stages."""


class NodeRates(StrictModel):
    """Of one node."""

    price_per_hour: float | None = Field(None, ge=0)
    """In the ledger's currency."""
    watts: float | None = Field(None, gt=0)
    """What it draws at work, from its own meter or its data sheet: where no counter tells, energy is estimated by it."""


class LedgerConfig(StrictModel):
    """What node hours are reckoned as: energy, carbon, money. Not part of what is made; the account of a verdict keeps the bill."""

    nodes: dict[Pool, NodeRates] = {}
    """By pool: the nodes of a pool are of one type."""
    currency: str = Field("USD", pattern="^[A-Z]{3}$")
    pue: float | None = Field(None, ge=1)
    """Power usage effectiveness of where the nodes stand: energy of the whole data centre / that of its machines (ISO/IEC 30134-2).
    Left out, the machines' alone is told."""
    region: str | None = None
    """Where they stand, for the average carbon intensity: a country (`DEU`) or a region of Google Cloud (`gcp:europe-west1`)."""
    carbon_g_per_kwh: float | None = Field(None, ge=0)
    """Instead of a region: what the operator's contract or the grid says. Grams of CO2 equivalents."""

    @field_validator("region")
    @classmethod
    def _region_is_known(cls, region: str | None) -> str | None:
        if region is not None:
            intensity(region)
        return region

    @model_validator(mode="after")
    def _carbon_is_said_once(self) -> LedgerConfig:
        if self.region is not None and self.carbon_g_per_kwh is not None:
            raise ValueError("region and carbon_g_per_kwh say the same: give one of them")
        return self

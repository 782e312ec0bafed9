"""What a lifecycle may take of the machines. No heavy imports here."""

from __future__ import annotations

from pydantic import Field

from cluster.config import StrictModel


class NodeBudgetConfig(StrictModel):
    """A lifecycle stops between two artifacts once this is spent, whatever runs it took: a run that is tried again goes on
    counting. Not part of what is made: raise it, and the same command goes on from what is there."""

    node_hours: float = Field(gt=0)
    """Nodes of the pools that a stage asks for, as many as are alive while it works, times the hours that it works. The head is
    left out, as are nodes that stay between stages."""

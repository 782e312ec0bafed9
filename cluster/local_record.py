"""What `serinus up` started, as it is kept in $SERINUS_HOME/local.json, and what of it lives."""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime
from pathlib import Path

from cluster.config import StrictModel, home
from cluster.dashboard import get_nodes
from cluster.profiles import LocalNode, ProfileName
from cluster.topology import POOL_LABEL, Topology


class LocalCluster(StrictModel):
    """What `up` started."""

    address: str
    """Of the head's GCS, host:port."""
    dashboard: str
    """URL of the dashboard, which also takes jobs; it asks for the token."""
    topology: Topology
    profile: ProfileName = "laptop"
    host: str | None = None
    """The machine's address, where other machines may join."""
    nodes: tuple[LocalNode, ...]
    started_at: datetime


def state_file() -> Path:
    """Where it is kept."""
    return home() / "local.json"


def saved() -> LocalCluster | None:
    """What is kept; whether it lives is another question."""
    try:
        return LocalCluster.model_validate_json(state_file().read_bytes())
    except (FileNotFoundError, ValueError):  # none, or written by another version: found again by its processes
        return None


def save(cluster: LocalCluster) -> LocalCluster:
    """Keep it."""
    draft = state_file().with_suffix(".draft")
    draft.write_text(cluster.model_dump_json(indent=1), encoding="utf-8")
    os.replace(draft, state_file())
    return cluster


def seen_as(node: LocalNode) -> tuple[str, str]:
    """What the dashboard tells a node by: several may have one address."""
    return node.host, node.labels.get(POOL_LABEL, "")


def alive(cluster: LocalCluster) -> Counter[tuple[str, str]]:
    """How many nodes live of each kind that `seen_as` tells apart.

    Raises:
        ClusterError: the dashboard does not answer, or refuses the token.
    """
    return Counter((node.host, node.pool) for node in get_nodes(cluster.dashboard) if node.alive)

"""The renderings that ship, as documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import serinus_recipe
from cluster.kuberay import render
from cluster.kuberay.jobs import jobs
from cluster.kuberay.settings import OVERLAYS, Workload
from cluster.topology import Topology, load_topology

REPOSITORY = Path(__file__).resolve().parents[4]
RECIPES = {"dev": "recipes/quickstart.yaml", "gpu": None, "production": "recipes/gpu.yaml"}
"""What k8s/render.sh renders each overlay with."""


def workload(overlay: str) -> Workload | None:
    recipe = RECIPES[overlay]
    return serinus_recipe.workload(REPOSITORY / recipe, overlay, shipped()) if recipe else None


def shipped() -> Topology:
    return load_topology(REPOSITORY / "ray_cluster.yaml")


def rendered(overlay: str) -> list[dict[str, Any]]:
    """Everything the overlay applies, and its jobs."""
    settings, work = OVERLAYS[overlay], workload(overlay)
    made = jobs(shipped(), settings, work).values() if work else ()
    return [*render.overlay(shipped(), settings, work), *made]


@pytest.fixture(scope="session", params=list(OVERLAYS))
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Of each overlay in turn; not to be changed."""
    return rendered(request.param)


@pytest.fixture(scope="session")
def production() -> dict[str, dict[str, Any]]:
    """The documents of the overlay `production`, by kind and name."""
    return {_key(document): document for document in rendered("production")}


def _key(document: dict[str, Any]) -> str:
    given = document["metadata"]
    return f"{document['kind']} {given.get('name') or given['generateName']}"

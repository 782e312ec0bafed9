"""What integration tests share: the cluster of `serinus up`, and what stands around a gateway (gateway_world.py), a tiny
model that can be cut into stages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import LocalStorage
from tests.integration.gateway_world import start_evidence
from tests.integration.local_cluster import DOWN, UP, Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("home"))
    yield bench
    bench.run(DOWN)


@pytest.fixture
def up(bench: Bench) -> Bench:
    """The bench with the cluster up; quick when it is already."""
    bench.run(UP)
    return bench


@pytest.fixture(scope="module")
def serve_stopped(ray_cluster: str) -> None:
    """What runs afterwards stays for the next module, which may use it: starting it takes half a minute."""
    from ray import serve

    serve.shutdown()


@pytest.fixture(scope="session")
def untied(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' tiny model with three layers and an output head of its own."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("untied") / "model"
    shutil.copytree(tiny_model, folder)
    asked = AutoConfig.from_pretrained(folder)
    asked.tie_word_embeddings, asked.num_hidden_layers = False, 3
    torch.manual_seed(0)
    LlamaForCausalLM(asked).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def evidence(ray_cluster: str) -> Iterator[Any]:
    import ray

    actor = start_evidence()
    yield actor
    ray.kill(actor)

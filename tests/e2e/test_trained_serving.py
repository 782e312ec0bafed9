"""What the train stage exports, whole and as an adapter: transformers and real vLLM behind the gateway say the same of a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster import registry
from cluster.artifacts import Checkpoint, Revision
from cluster.storage import LocalStorage
from pipelines.adapter import import_adapter
from pipelines.publish import publish_adapter
from pipelines.training.train import train
from tests.e2e.conftest import NAME, STABLE, Served
from tests.integration.training_case import base_model, small_dataset, small_run

pytestmark = [pytest.mark.e2e, pytest.mark.long]

TEXT = "The list of names has a method that takes an argument and returns the value of it"
Array = NDArray[np.floating]
LORA = {"rank": 8, "alpha": 32}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("trained"))


def trained(shelf: LocalStorage, tiny_model: Path, **fields: object) -> Checkpoint:
    run = small_run(num_steps=40, learning_rate=1e-2, **fields)
    return train(run, small_dataset(shelf), base_model(shelf, tiny_model), shelf)


def by_transformers(folder: Path) -> Array:
    """Log-probabilities of TEXT's tokens but the first, in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = torch.tensor([AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits[0, :-1]
    return -torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").numpy()


def by_the_gateway(served: Served, revision: Revision) -> Array:
    """The same of whom the public name leads to."""
    by, said = served.ask(prompt=TEXT, max_tokens=1, echo=True, logprobs=1)
    assert by == revision.revision
    return np.array(said["choices"][0]["logprobs"]["token_logprobs"][1:-1])


def same(told: Array, expected: Array, untrained: Array) -> bool:
    """Whether the two are as one beside what training has changed; vLLM computes in bfloat16."""
    learnt = float(np.abs(untrained - expected).mean())
    assert learnt > 0.05, "training has changed next to nothing"
    return float(np.abs(told - expected).mean()) < 0.1 * learnt


def test_a_model_whose_weights_were_all_trained(
    ray_cluster: str, shelf: LocalStorage, served: Served, tiny_model: Path
) -> None:
    folder = shelf.root / trained(shelf, tiny_model).folder
    revision = served.publish(f"{NAME}-0000000a", folder)
    with served.led_to(revision):
        assert same(by_the_gateway(served, revision), by_transformers(folder), by_transformers(tiny_model))


def test_an_adapter_merged_and_beside_its_base(
    ray_cluster: str, shelf: LocalStorage, served: Served, tiny_model: Path
) -> None:
    made = trained(shelf, tiny_model, lora=LORA)
    expected, untrained = by_transformers(shelf.root / made.folder), by_transformers(tiny_model)
    merged = served.publish(f"{NAME}-0000000b", shelf.root / made.folder)
    with served.led_to(merged):
        assert same(by_the_gateway(served, merged), expected, untrained)
    base = registry.resolve(served.storage, NAME, STABLE)
    beside = import_adapter(shelf.root / made.location / "adapter", base, served.storage)
    adapted = publish_adapter(base, beside, served.storage)
    with served.led_to(adapted):
        assert same(by_the_gateway(served, adapted), expected, untrained)

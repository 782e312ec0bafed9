"""What the train stage exports, whole and as an adapter: transformers and real vLLM behind the gateway say the same of a text."""

from __future__ import annotations

from pathlib import Path

import pytest

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
LORA = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("trained"))


def trained(shelf: LocalStorage, tiny_model: Path, **fields: object) -> Checkpoint:
    run = small_run(learning_rate=1e-2, **fields)
    return train(run, small_dataset(shelf), base_model(shelf, tiny_model), shelf)


def by_transformers(folder: Path) -> float:
    """Log-probability of TEXT's tokens but the first, in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = torch.tensor([AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits[0, :-1]
    return -float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))


def by_the_gateway(served: Served, revision: Revision) -> float:
    """The same of whom the public name leads to."""
    by, said = served.ask(prompt=TEXT, max_tokens=1, echo=True, logprobs=1)
    assert by == revision.revision
    return float(sum(said["choices"][0]["logprobs"]["token_logprobs"][1:-1]))


def test_a_model_whose_weights_were_all_trained(
    ray_cluster: str, shelf: LocalStorage, served: Served, tiny_model: Path
) -> None:
    folder = shelf.root / trained(shelf, tiny_model).folder
    expected = by_transformers(folder)
    assert expected > by_transformers(tiny_model) + 5, "it has learnt"
    revision = served.publish(f"{NAME}-0000000a", folder)
    with served.led_to(revision):
        assert by_the_gateway(served, revision) == pytest.approx(expected, rel=0.01)


def test_an_adapter_merged_and_beside_its_base(
    ray_cluster: str, shelf: LocalStorage, served: Served, tiny_model: Path
) -> None:
    made = trained(shelf, tiny_model, lora=LORA)
    expected = by_transformers(shelf.root / made.folder)
    assert expected > by_transformers(tiny_model) + 5, "it has learnt"
    merged = served.publish(f"{NAME}-0000000b", shelf.root / made.folder)
    with served.led_to(merged):
        assert by_the_gateway(served, merged) == pytest.approx(expected, rel=0.01)
    base = registry.resolve(served.storage, NAME, STABLE)
    beside = import_adapter(shelf.root / made.location / "adapter", base, served.storage)
    adapted = publish_adapter(base, beside, served.storage)
    with served.led_to(adapted):
        assert by_the_gateway(served, adapted) == pytest.approx(expected, rel=0.01)

"""A model that was trained for W8A8: quantized by rounding, scored by real vLLM as training saw it, served through the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.artifacts import Checkpoint, Dataset, QuantizedModel
from cluster.storage import LocalStorage
from pipelines.config import EvaluateConfig, QuantizationAwareConfig, QuantizeConfig
from pipelines.evaluation.compare import read_items
from pipelines.evaluation.evaluate import evaluate, read_documents
from pipelines.evaluation.tasks import build_items
from pipelines.quantization.quantize import quantize
from pipelines.task_config import TaskConfig
from pipelines.training.train import train
from tests.e2e.conftest import NAME, Served
from tests.e2e.topics import topics_dataset
from tests.integration.training_case import base_model, small_run

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SCHEME = QuantizationAwareConfig(scheme="W8A8")
TASK = TaskConfig(name="text", kind="perplexity", num_items=4)
SCORED = EvaluateConfig(tasks=(TASK,), max_model_len=512, kv_cache_gib=0.25)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("aware"))


@pytest.fixture(scope="module")
def dataset(shelf: LocalStorage) -> Dataset:
    return topics_dataset(shelf)


@pytest.fixture(scope="module")
def made(
    ray_cluster: str, shelf: LocalStorage, dataset: Dataset, tiny_model: Path
) -> tuple[Checkpoint, QuantizedModel]:
    """As it was exported, and as it was quantized."""
    run = small_run(quantization_aware=SCHEME.model_dump(), precision="auto")
    trained = train(run, dataset, base_model(shelf, tiny_model), shelf)
    return trained, quantize(QuantizeConfig(method="rtn"), trained, dataset, shelf)


def nll(folder: Path, text: str) -> float:
    """Of the exported model with its layers rounded as in training, in nats, after the start token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipelines.training.quantization_aware import round_forward

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    round_forward(model, SCHEME, narrow=True)
    tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])[:, -511:]
    with torch.no_grad():
        logits = model(tokens).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))


def test_vllm_scores_what_training_saw(
    made: tuple[Checkpoint, QuantizedModel], shelf: LocalStorage, dataset: Dataset
) -> None:
    trained, stored = made
    report = evaluate(SCORED, stored, dataset, shelf)
    asked = {item.id: item for item in build_items(TASK, read_documents(shelf, dataset), SCORED.seed)}
    rows = read_items(shelf, report)["text"]
    assert len(rows) == 4
    for row in rows:
        expected = nll(shelf.root / trained.folder, asked[row["id"]].answers[0])
        assert row["nll"] == pytest.approx(expected, rel=0.01)


def test_the_gateway_serves_it(made: tuple[Checkpoint, QuantizedModel], served: Served, shelf: LocalStorage) -> None:
    revision = served.publish(f"{NAME}-0000000e", shelf.root / made[1].folder)
    # vLLM 0.29 takes no adapters on W8A8 weights on CPUs: its kernel leaves nothing of the weight that they ask for.
    with served.led_to(revision, lora=None):
        by, said = served.ask(prompt="The list", max_tokens=8, ignore_eos=True)
        assert (by, said["usage"]["completion_tokens"]) == (revision.revision, 8)

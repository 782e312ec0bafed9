"""What Prometheus finds at a node's metrics port of a recipe that cleans and trains there, and of one that fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import telemetry as names
from cluster.artifacts import Checkpoint, Dataset
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines import lifecycle
from pipelines.config import LifecycleConfig
from tests.integration.gateway_world import eventually
from tests.integration.training_case import small_run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

NUM_STEPS = 4
Series = Callable[..., float | None]


def recipe(name: str, source: Path, model: Path) -> LifecycleConfig:
    train = small_run(num_steps=NUM_STEPS, checkpoint_every_steps=2, num_workers=1, zero={"stage": 1})
    fields: dict[str, Any] = {
        "name": name,
        "storage": "s",
        "data": {"sources": [{"path": str(source)}], "heldout_fraction": 0.2},
        "model": {"source": str(model)},
        "train": train.model_dump(mode="json", exclude_unset=True),
        "evaluate": {"tasks": [{"name": "p", "kind": "perplexity"}]},
    }
    return LifecycleConfig.model_validate(fields)


def documents(folder: Path) -> Path:
    """The first topics of CPython's documentation, one of them twice, and one that is too short."""
    from pydoc_data.topics import topics

    folder.mkdir()
    texts = [topics[name] for name in sorted(topics)[:12]]
    for number, text in enumerate([*texts, texts[0], "Too short."]):
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def scraped() -> Series:
    """A lookup in what the node exports now: the value of that metric and those labels; None: there is none."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    lines = list(_parsed(httpx.get(url, timeout=10).text))

    def value(metric: str, **labels: str) -> float | None:
        values = [value for name, told, value in lines if name == f"ray_{metric}" and labels.items() <= told.items()]
        assert len(values) < 2, f"{metric} is told twice"
        return values[0] if values else None

    return value


def _parsed(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in text.splitlines():
        if found := re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line):
            yield found[1], dict(re.findall(r'(\w+)="([^"]*)"', found[2])), float(found[3])


def test_what_prometheus_finds_of_a_recipe_that_cleans_and_trains(
    storage: LocalStorage, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        lifecycle.run(recipe("failing", tmp_path / "nothing", tiny_model), storage, until="clean")
    asked = recipe("metrics", documents(tmp_path / "documents"), tiny_model)
    lifecycle.run(asked, storage, until="clean")
    made = lifecycle.run(asked, storage, until="train")
    dataset, trained = made["dataset"], made["trained"]
    assert isinstance(dataset, Dataset)
    assert isinstance(trained, Checkpoint)

    ended = {"stage": "train", "artifact": "trained", "outcome": "made"}
    eventually(lambda: scraped()(f"{names.STAGE_ENDED}_total", model="metrics", **ended) == 1)
    value = scraped()
    assert value(f"{names.STAGE_ENDED}_total", model="failing", stage="clean", outcome="failed") == 1

    def of(metric: str, **labels: str) -> float | None:
        return value(metric, model="metrics", **labels)

    assert of(f"{names.STAGE_ENDED}_total", stage="clean", outcome="made") == 1
    assert of(f"{names.STAGE_ENDED}_total", stage="clean", outcome="cached") == 1
    took_s = of(f"{names.STAGE_SECONDS}_total", stage="train", artifact="trained")
    assert took_s == pytest.approx(trained.took_s, abs=1)
    assert of(names.STAGE_RUNNING, stage="train") == 0
    assert of(names.STAGE_RUNNING, stage="clean") == 0
    assert dataset.num_documents == 14
    assert of(f"{names.CLEAN_DOCUMENTS}_total", result="train") == dataset.num_train
    assert of(f"{names.CLEAN_DOCUMENTS}_total", result="excluded") == dataset.num_excluded > 0
    for reason, num in dataset.num_excluded_by_reason.items():
        assert of(f"{names.CLEAN_EXCLUDED}_total", reason=reason) == num
    assert of(f"{names.CLEAN_BYTES}_total") == sum(source.num_bytes for source in dataset.sources)

    assert of(names.STAGE_DONE, stage="train", unit="steps") == NUM_STEPS
    assert of(names.STAGE_PLANNED, stage="train", unit="steps") == NUM_STEPS
    assert of(names.TRAIN_LOSS) == pytest.approx(trained.losses[-1].loss)
    assert of(names.TRAIN_TOKENS) == trained.losses[-1].num_tokens
    assert of(names.TRAIN_LEARNING_RATE) == pytest.approx(trained.losses[-1].learning_rate)
    assert of(names.TRAIN_STEP_AT) == 0
    assert of(f"{names.TRAIN_CHECKPOINTS}_total") == 1
    assert (of(names.TRAIN_SPEED) or 0) > 0
    assert (of(names.TRAIN_GRADIENT_NORM) or 0) > 0

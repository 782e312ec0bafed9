"""Stages on their way, with stand-ins for the training and the measuring that keep what they made as the real ones do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import pipelines.progressive
from cluster import artifacts
from cluster.artifacts import Checkpoint, Dataset, Forecast, ImportedModel, InitialModel, LossPoint, StageRun, Weights
from cluster.errors import ConfigError, GateFailed
from cluster.storage import LocalStorage, Storage
from pipelines.config import LifecycleConfig, SizeConfig, TrainConfig
from pipelines.lifecycle import Run
from pipelines.progressive import train_in_stages
from pipelines.training.heldout_loss import HeldoutLoss, Windows, windows
from pipelines.training.train_key import train_key

SIZES = [200_000, 600_000, 2_000_000]


@dataclass
class World:
    """Models learn by a law; `spoilt` says by how much the loss of a size is off it."""

    storage: LocalStorage
    spoilt: dict[int, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    num_dataset_tokens: int = 1_000_000
    dataset: Dataset = field(init=False)
    base: ImportedModel = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = artifacts.save(self.storage, Dataset(key="d" * 16))
        self.base = artifacts.save(self.storage, ImportedModel(key="b" * 16))

    def count_parameters(self, base: Weights, stages: list[SizeConfig], storage: Storage) -> list[int]:
        return SIZES[-len(stages) :]

    def initial_model(self, base: Weights, stage: int, sizes: SizeConfig, seed: int, storage: Storage) -> InitialModel:
        layers = sizes.num_hidden_layers or 30
        made = InitialModel(key=f"{layers:016}", num_parameters={2: SIZES[0], 4: SIZES[1]}.get(layers, SIZES[2]))
        return artifacts.load(storage, InitialModel, made.key) or artifacts.save(storage, made)

    def train(self, config: TrainConfig, dataset: Dataset, base: Weights, storage: Storage) -> Checkpoint:
        key = train_key(config, dataset, base)
        if (found := artifacts.load(storage, Checkpoint, key)) is not None:
            return found
        self.done.append(f"train {base.num_parameters} for {config.num_steps}")
        num_tokens = config.num_steps * config.total_sequences * config.sequence_length
        last = LossPoint(step=config.num_steps, loss=3, learning_rate=0, num_tokens=num_tokens)
        return artifacts.save(storage, Checkpoint(key=key, num_parameters=base.num_parameters, losses=(last,)))

    def heldout_loss(
        self, config: TrainConfig, model: Checkpoint, dataset: Dataset, asked: Windows, storage: Storage
    ) -> HeldoutLoss:
        size, tokens = model.num_parameters, model.losses[-1].num_tokens
        self.done.append(f"measure {size} at {asked.context_length}")
        loss = 2 + 0.8 * (size / SIZES[0]) ** -0.35 + 1.5 * (tokens / 200_000) ** -0.3
        return HeldoutLoss(loss * (1 + self.spoilt.get(size, 0.0)), 90_000)

    def make_tokens(self, *_: Any) -> Any:
        return self

    @property
    def num_tokens(self) -> int:
        return self.num_dataset_tokens

    def run(self, **progressive: Any) -> Run:
        work = Run("m", self.storage, "train", None)
        self.trained = train_in_stages(recipe(**progressive), self.dataset, self.base, self.storage, work.make)
        return work


def recipe(**progressive: Any) -> LifecycleConfig:
    tokens = [200_000, 400_000, 800_000]
    stages = [
        {"model": {"num_hidden_layers": 2}, "num_tokens": tokens},
        {"model": {"num_hidden_layers": 4}, "num_tokens": tokens, "learning_rate": 1e-3},
        {"num_tokens": 800_000, "sequence_length": 256},
    ]
    return LifecycleConfig.model_validate(
        {
            "name": "m",
            "storage": "store",
            "data": {"sources": [{"path": "x"}]},
            "model": {"source": "y"},
            "train": {"sequence_length": 128, "sequences_per_worker": 4, "num_workers": 2},
            "progressive": {"stages": stages, **progressive},
            "evaluate": {"tasks": [{"name": "p", "kind": "perplexity"}]},
        }
    )


@pytest.fixture
def world(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(storage)
    for name in ("count_parameters", "initial_model", "train", "heldout_loss", "make_tokens"):
        monkeypatch.setattr(pipelines.progressive, name, getattr(world, name))
    return world


def test_two_sizes_foretell_the_third_before_it_starts(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    made = world.run().made

    assert [entry for entry in world.done if entry.startswith("train")] == [
        *(f"train 200000 for {steps}" for steps in (196, 391, 782)),
        *(f"train 600000 for {steps}" for steps in (196, 391, 782)),
        "train 2000000 for 391",
    ]
    assert {entry.rpartition(" ")[2] for entry in world.done if entry.startswith("measure")} == {"128"}
    assert made["trained"] == world.trained
    forecast, came = made["forecast_3"], made["stage_3_1"]
    assert isinstance(forecast, Forecast)
    assert isinstance(came, StageRun)
    assert came.prediction == forecast.predictions[-1]
    assert came.inputs == {"model": world.trained.digest, "dataset": world.dataset.digest, "forecast": forecast.digest}
    assert came.is_as_predicted
    assert forecast.made_at < world.trained.made_at, "it is on record before the stage starts"
    assert len(forecast.inputs) == 6
    said = " ".join(capsys.readouterr().err.split())
    assert f"held-out loss {came.loss:.3f}, predicted {came.prediction.text}: inside" in said
    assert f"3 2,000,000 800,768 256 {came.loss:.4f} {came.prediction.text} at 90%, inside" in said


def test_a_rerun_finds_everything(world: World) -> None:
    first = world.run().made
    world.done.clear()
    assert world.run().made == first
    assert world.done == []


def test_a_failed_gate_ends_the_course_and_a_mended_recipe_goes_on(world: World) -> None:
    with pytest.raises(GateFailed) as caught:
        world.run(gate={"max_interval_percent": 0.5})
    said = str(caught.value)
    assert said.startswith("progressive: stage 3 of 3 does not start, its gate says no\n  - interval: loss ")
    assert "at most 0.5 % is asked" in said
    assert "finished runs are taken up" in said
    assert caught.value.exit_code == 1
    assert not any("2000000" in entry for entry in world.done)

    world.done.clear()
    world.run()
    assert [entry for entry in world.done if entry.startswith("train")] == ["train 2000000 for 391"]


def test_a_stage_that_does_not_come_true_ends_it(world: World) -> None:
    world.spoilt = {600_000: 0.4}
    with pytest.raises(GateFailed, match="came true: the stage before came to"):
        world.run()


def test_the_last_stage_may_miss_its_forecast_and_it_is_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.spoilt = {2_000_000: 0.3}
    came = world.run().made["stage_3_1"]
    assert isinstance(came, StageRun)
    assert came.is_as_predicted is False
    assert "OUTSIDE" in capsys.readouterr().err


def test_too_little_text_is_said_before_anything_is_trained(world: World) -> None:
    world.num_dataset_tokens = 100_000
    with pytest.raises(ConfigError, match=r"stages\[0\]\.num_tokens: 4\.0 times|8\.0 times the 100,000 tokens"):
        world.run()
    assert world.done == []


def test_windows_are_of_one_document_each() -> None:
    found = windows(iter([[1, 2, 3, 4, 5], [6, 7], [8]]), Windows(2, 100))
    assert list(found) == [[1, 2], [3, 4], [6, 7]]
    assert list(windows(iter([[1, 2, 3, 4], [5, 6]]), Windows(2, 4))) == [[1, 2], [3, 4]]


def test_the_sizes_that_are_counted_are_those_that_are_drawn(storage: LocalStorage, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipelines.base_model import import_model
    from pipelines.config import ModelConfig
    from pipelines.initial_model import count_parameters, initial_model
    from pipelines.training.tokens import tokenizer_digest

    base = import_model(ModelConfig(source=str(tiny_model)), storage)
    sizes = [SizeConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2), SizeConfig()]
    made = [initial_model(base, number, some, 0, storage) for number, some in enumerate(sizes)]
    assert [one.num_parameters for one in made] == count_parameters(base, sizes, storage)
    assert made[1].num_parameters == base.num_parameters
    assert made[0] == initial_model(base, 0, sizes[0], 0, storage)
    assert made[0].digest != initial_model(base, 0, sizes[0], 1, storage).digest
    tokenizers = {tokenizer_digest({f.path: f.sha256 for f in one.files}) for one in (base, *made)}
    assert len(tokenizers) == 1, "tokens of one size are found again for the next"
    small = AutoModelForCausalLM.from_pretrained(storage.root / made[0].folder)
    assert (small.config.hidden_size, small.config.head_dim, small.config.num_hidden_layers) == (32, 16, 1)
    assert small.config.vocab_size >= len(AutoTokenizer.from_pretrained(storage.root / made[0].folder))
    weights = small.model.layers[0].mlp.up_proj.weight
    assert float(weights.detach().float().std()) == pytest.approx(0.02, rel=0.1), "drawn, not the base's"

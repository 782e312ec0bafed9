"""Which weight of consolidation is tried next, which is taken, and what is told and recorded of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cluster import artifacts
from cluster.artifacts import Checkpoint, Dataset, FileEntry, ImportedModel, LossPoint, Retention, Source, WeightSearch
from cluster.errors import ConfigError, InputError, StageFailed
from cluster.storage import LocalStorage
from pipelines.config import OnlineConfig, TrainConfig
from pipelines.training.old import carry, earlier
from pipelines.training.train_key import train_key
from pipelines.training.weight_search import next_place, search

OLD = "0123456789abcdef"
WEIGHTS = [1e3, 1e4, 1e5, 1e6, 1e7]


@pytest.mark.parametrize("num", [1, 2, 3, 5, 8])
def test_the_smallest_weight_that_is_enough_is_found_in_few_runs(num: int) -> None:
    for smallest in range(num + 1):  # `num`: none is enough
        retains: dict[int, bool] = {}
        while (place := next_place(num, retains)) is not None:
            assert place not in retains
            retains[place] = place >= smallest
        assert min((place for place, enough in retains.items() if enough), default=num) == smallest
        assert len(retains) <= math.floor(math.log2(num)) + 1


class World:
    """Runs whose retention grows with the weight: 90 % at 1e3, and 2 more with each power of ten."""

    def __init__(self, folder: Path, first_percent: float = 90.0) -> None:
        self.storage, self.first, self.trained = LocalStorage(folder), first_percent, list[float]()
        self.inputs = {
            "dataset": Dataset(key="1" * 16),
            "base": ImportedModel(key="2" * 16),
            "consolidated": Dataset(key=OLD),
        }

    def run(self, config: TrainConfig) -> Checkpoint:
        assert config.consolidation is not None
        (weight,) = config.consolidation.weights
        self.trained.append(weight)
        percent = self.first + 2 * (math.log10(weight) - 3)
        return Checkpoint(
            key=f"{round(weight):016d}",
            losses=(LossPoint(step=1, loss=math.log10(weight), learning_rate=1e-3, num_tokens=1),),
            retention=Retention(before=1.0, after=1.0 - math.log(percent / 100), num_sequences=4),
        )

    def search(self, **fields: Any) -> Checkpoint:
        return search(configured(**fields), self.inputs, self.storage, self.run)

    @property
    def record(self) -> WeightSearch:
        (key,) = [key for key in self.storage.list("artifacts/weight_search") if key.endswith("manifest.json")]
        found = artifacts.load(self.storage, WeightSearch, key.split("/")[2])
        assert found is not None
        return found


def configured(**fields: Any) -> TrainConfig:
    asked = {"dataset": OLD, "weight": WEIGHTS, **fields}
    return TrainConfig.model_validate({"gpus_per_worker": 0, "consolidation": asked})


def test_the_smallest_weight_that_retains_enough_is_taken_and_what_was_tried_is_on_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = world.search()  # 95 %, which 1e6 is the first to retain
    assert made.key == f"{10**6:016d}"
    assert world.trained == [1e5, 1e7, 1e6]
    assert world.record.chosen == 1e6
    assert [(a.weight, round(a.retention_percent), a.loss) for a in world.record.attempts] == [
        (1e5, 94, 5.0),
        (1e6, 96, 6.0),
        (1e7, 98, 7.0),
    ]
    assert world.record.inputs["consolidated"] == world.inputs["consolidated"].digest


def test_where_none_retains_enough_it_is_said_by_how_much_and_what_to_do(tmp_path: Path) -> None:
    world = World(tmp_path, first_percent=80)
    with pytest.raises(StageFailed, match=r"88\.0 % .* 1e\+07, and 95 % is asked for") as said:
        world.search()
    assert "give larger weights" in str(said.value)
    assert world.record.chosen is None
    assert world.trained == [1e5, 1e7]


def test_one_weight_is_held_to_what_is_asked_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.search(weight=1e5, min_retention_percent=93).key == f"{10**5:016d}"
    with pytest.raises(StageFailed, match=r"94\.0 %"):
        world.search(weight=1e5, min_retention_percent=95)


def test_without_held_out_documents_nothing_is_chosen(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(ConfigError, match="heldout_fraction"):
        search(configured(), world.inputs, world.storage, lambda config: world.run(config).replace(retention=None))


def test_what_is_asked_of_a_model_does_not_make_it_another() -> None:
    one, held = configured(weight=10.0), configured(weight=10.0, min_retention_percent=90)
    chained = configured(weight=10.0, online={"checkpoint": OLD, "decay": 0.5})
    keys = [train_key(config, Dataset(key="1"), ImportedModel(key="2")) for config in (one, held, chained)]
    assert keys[0] == keys[1] != keys[2]


def checkpoint(*paths: str, **fields: Any) -> Checkpoint:
    files = tuple(FileEntry(path=path, num_bytes=1, sha256=path) for path in paths)
    return Checkpoint(key=OLD, files=files, **{"num_parameters": 7, **fields})


ONLINE = OnlineConfig(checkpoint=OLD, decay=0.9)
KEPT = ("importance/0.bin", "importance/0.json", "importance/1.bin", "importance/1.json", "model/model.safetensors")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (None, "there is no checkpoint 0123456789abcdef"),
        (checkpoint("model/model.safetensors"), "trained without consolidation"),
        (checkpoint(*KEPT, num_parameters=8), "8 parameters, the base model 7"),
    ],
)
def test_a_chain_that_cannot_go_on_is_refused(tmp_path: Path, before: Checkpoint | None, said: str) -> None:
    storage = LocalStorage(tmp_path)
    if before is not None:
        artifacts.save(storage, before)
    with pytest.raises(InputError, match=said):
        carry(ONLINE, ImportedModel(key="2", num_parameters=7), storage)


@pytest.mark.parametrize(("weights", "warned"), [("model/model.safetensors", False), ("another", True)])
def test_a_chain_that_begins_with_another_model_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str, warned: bool
) -> None:
    storage = LocalStorage(tmp_path)
    artifacts.save(storage, checkpoint(*KEPT))
    base = ImportedModel(key="2", num_parameters=7, sources=(Source(path="x", num_bytes=1, sha256=weights),))
    found = carry(ONLINE, base, storage)
    assert earlier(found) == {"folder": f"artifacts/checkpoint/{OLD}/importance", "num_files": 2}
    said = capsys.readouterr()
    assert ("is not the one made in" in said.out + said.err) == warned

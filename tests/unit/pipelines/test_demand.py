"""What a lifecycle asks of the pools."""

from __future__ import annotations

from pathlib import Path

from cluster.config import load_yaml
from pipelines.demand import demands
from serinus_recipe import Recipe

ROOT = Path(__file__).resolve().parents[3]


def recipe(name: str) -> Recipe:
    return load_yaml(ROOT / "recipes" / name, Recipe)


def test_stages_ask_in_their_order_for_what_they_reserve() -> None:
    found = demands(recipe("gpu.yaml"))
    assert [demand.stage for demand in found] == ["clean", "train", "train", "evaluate", "quantize", "quantize"]
    (train,) = [demand for demand in found if demand.field == "train.num_workers"]
    assert (train.pool, train.count, train.cpus, train.gpus, train.gpu_bytes) == ("train", 16, 8, 1, 0)


def test_the_memory_of_a_rank_is_its_share_of_the_states() -> None:
    loaded = recipe("gpu.yaml")
    seven = 7 * 10**9

    def bytes_of(**changes: object) -> int:
        train = loaded.train.replace(**changes)
        found = demands(loaded.replace(train=train), seven)
        return next(demand.gpu_bytes for demand in found if demand.field == "train.num_workers")

    # 16 bytes a parameter in all, sharded 16 ways (Rajbhandari et al. 2020, section 3.1 and figure 1)
    assert bytes_of() == 16 * seven // 16
    assert bytes_of(zero={"stage": 0}) == 16 * seven
    assert bytes_of(zero={"stage": 1}) == 4 * seven + 12 * seven // 16
    assert bytes_of(zero={"stage": 3, "offload_optimizer": True}) == 4 * seven // 16


def test_evaluation_holds_the_weights_on_its_gpus() -> None:
    loaded = recipe("gpu.yaml")
    two = loaded.replace(evaluate=loaded.evaluate.replace(num_gpus=2))
    held = [d.gpu_bytes for d in demands(two, 10**9) if d.field == "evaluate.num_gpus"]
    assert held == [10**9, 10**9], "bfloat16 over two GPUs, for trained and for quantized"


def test_engines_side_by_side_are_counted_in_both_evaluations() -> None:
    loaded = recipe("gpu.yaml")
    four = loaded.replace(evaluate=loaded.evaluate.replace(num_engines=4))
    engines = [d for d in demands(four, 10**9) if d.field == "evaluate.num_engines"]
    assert [(d.stage, d.count, d.gpus, d.gpu_bytes) for d in engines] == [
        ("evaluate", 4, 1, 2 * 10**9),
        ("quantize", 4, 1, 2 * 10**9),
    ]


def test_on_cpus_ranks_and_engines_are_held_by_the_machine() -> None:
    loaded = recipe("quickstart.yaml")
    held = {d.field: d.host_bytes for d in demands(loaded, 10**9) if d.host_bytes}
    assert held["evaluate.num_gpus"] == 2 * 10**9 + int(loaded.evaluate.kv_cache_gib * 2**30)
    assert held["train.num_workers"] >= 16 * 10**9 // loaded.train.num_workers
    assert not any(d.host_bytes for d in demands(loaded)), "not known without the model's size"
    gpus = recipe("gpu.yaml")
    offloading = gpus.replace(train=gpus.train.replace(zero={"stage": 3, "offload_optimizer": True}))
    held = {d.field: d.host_bytes for d in demands(offloading, 10**9)}
    assert (held["train.num_workers"], held["evaluate.num_gpus"]) == (12 * 10**9 // 16, 0)

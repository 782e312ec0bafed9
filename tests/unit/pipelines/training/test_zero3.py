"""TrainConfig -> DeepSpeed dictionary, the room a run needs, and the learning rate, as tables."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from pipelines.config import ParallelConfig, TrainConfig, ZeroConfig
from pipelines.config.sharing import HAVE_FIELDS
from pipelines.training.schedule import learning_rate
from pipelines.training.zero3 import (
    copy_bytes,
    deepspeed_config,
    disk_bytes,
    host_bytes,
    merge,
    state_bytes,
    with_bucket,
)


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate({"gpus_per_worker": 0, **fields})


@pytest.mark.parametrize(
    ("zero", "expected"),
    [
        ({"stage": 0}, {"stage": 0}),
        ({"stage": 1}, {"stage": 1, "contiguous_gradients": True, "overlap_comm": False}),
        (
            {"stage": 2, "offload_optimizer": True},
            {
                "stage": 2,
                "contiguous_gradients": True,
                "overlap_comm": False,
                "offload_optimizer": {"device": "cpu", "pin_memory": False},
            },
        ),
        (
            {"stage": 3, "offload_optimizer": True, "offload_parameters": True},
            {
                "stage": 3,
                "contiguous_gradients": True,
                "overlap_comm": False,
                "offload_optimizer": {"device": "cpu", "pin_memory": False},
                "offload_param": {"device": "cpu", "pin_memory": False},
            },
        ),
    ],
)
def test_sharding(zero: dict[str, Any], expected: dict[str, Any]) -> None:
    assert deepspeed_config(config(zero=zero))["zero_optimization"] == expected


@pytest.mark.parametrize(("trained", "held"), [(1_000, 1_000), (10**9, 500_000_000)])
def test_a_bucket_is_no_larger_than_what_is_trained(trained: int, held: int) -> None:
    settings = deepspeed_config(config())
    found = with_bucket(settings, ZeroConfig(), trained)["zero_optimization"]
    assert found == {**settings["zero_optimization"], "reduce_bucket_size": held}


def test_a_bucket_is_as_large_as_was_asked() -> None:
    asked = config(zero={"extra": {"zero_optimization": {"reduce_bucket_size": 7}}})
    assert with_bucket(deepspeed_config(asked), asked.zero, 1_000)["zero_optimization"]["reduce_bucket_size"] == 7


def test_gpus_pin_memory_and_overlap() -> None:
    sharding = deepspeed_config(config(gpus_per_worker=1, zero={"offload_optimizer": True}))["zero_optimization"]
    assert sharding["overlap_comm"] is True
    assert sharding["offload_optimizer"]["pin_memory"] is True


def test_the_issue_s_optimizer_is_the_default() -> None:
    settings = deepspeed_config(config(gradient_accumulation=4, precision="bfloat16"))
    assert settings["optimizer"]["type"] == "AdamW"
    wanted = {"lr": 3e-5, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "torch_adam": True}
    assert settings["optimizer"]["params"] == wanted
    assert settings["bf16"] == {"enabled": True}
    assert settings["gradient_clipping"] == 1.0
    assert (settings["train_micro_batch_size_per_gpu"], settings["gradient_accumulation_steps"]) == (8, 4)
    assert deepspeed_config(config(precision="float32"))["bf16"] == {"enabled": False}


def test_extra_is_merged_key_by_key() -> None:
    settings = deepspeed_config(
        config(zero={"extra": {"zero_optimization": {"reduce_bucket_size": 7}, "prescale_gradients": True}})
    )
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["reduce_bucket_size"] == 7
    assert settings["prescale_gradients"] is True
    assert merge({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": {"e": 4}}) == {"a": {"b": 1, "d": 3}, "c": {"e": 4}}


@pytest.mark.parametrize("name", sorted(HAVE_FIELDS))
def test_what_the_loop_counts_on_is_said_once(name: str) -> None:
    outer, _, inner = name.partition(".")
    with pytest.raises(ValueError, match=f"{name} is said by {HAVE_FIELDS[name]}"):
        config(zero={"extra": {outer: {inner: 2} if inner else 2}})
    fields = HAVE_FIELDS[name].split(".")[1:]
    assert set(fields) <= TrainConfig.model_fields.keys() | ParallelConfig.model_fields.keys()


@pytest.mark.parametrize("given", [True, None])
def test_logits_of_a_part_of_the_vocabulary_are_refused(given: bool | None) -> None:
    with pytest.raises(ValueError, match=r"vocab_parallel_lm_head would give each worker .*leave it out"):
        config(parallel={"tensor": 2}, zero={"extra": {"tensor_parallel": {"vocab_parallel_lm_head": given}}})
    same = config(parallel={"tensor": 2}, zero={"extra": {"tensor_parallel": {"vocab_parallel_lm_head": False}}})
    assert deepspeed_config(same) == deepspeed_config(config(parallel={"tensor": 2}))


@pytest.mark.parametrize(
    ("stage", "per_rank"),
    # Rajbhandari et al. 2020, figure 1: 7.5 B parameters on 64 ranks, in GB.
    [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)],
)
def test_state_bytes_are_the_paper_s(stage: int, per_rank: float) -> None:
    found = state_bytes(7_500_000_000, config(num_workers=64, zero={"stage": stage}, gpus_per_worker=1))
    assert found / 64 / 1e9 == pytest.approx(per_rank, abs=0.05)


def test_host_memory_holds_what_gpus_offload() -> None:
    assert host_bytes(100, config(gpus_per_worker=1)) == 0
    assert host_bytes(100, config(gpus_per_worker=1, zero={"offload_optimizer": True})) == 1200
    assert host_bytes(100, config(num_workers=2)) == 1600
    assert copy_bytes(100, config()) == 12 * 100, "of all ranks together, on whatever device they train"
    assert copy_bytes(100, config(checkpoint_asynchronously=False)) == 0
    assert copy_bytes(100, config(num_steps=100, checkpoint_every_steps=100)) == 0, (
        "none is written behind the last step"
    )
    assert disk_bytes(100, config(keep_checkpoints=2)) == 100 * (12 * 4 + 2)  # three stay, for the way back
    assert disk_bytes(100, config(keep_checkpoints=2, max_skipped_steps=0)) == 100 * (12 * 3 + 2)
    assert disk_bytes(100, config(num_steps=12, checkpoint_every_steps=6)) == 100 * (12 * 1 + 2)


def test_the_accumulation_follows_from_the_sequences_of_a_step() -> None:
    asked = {"sequences_per_worker": 2, "sequences_per_step": 12}
    for num_workers, accumulation in ((1, 6), (2, 3), (3, 2), (6, 1)):
        settings = config(num_workers=num_workers, **asked)
        assert deepspeed_config(settings)["gradient_accumulation_steps"] == accumulation
        assert settings.total_sequences == 12
    assert TrainConfig.model_validate(settings.model_dump()) == settings
    with pytest.raises(ValueError, match=r"must be a multiple of num_workers x sequences_per_worker \(5 x 2\)"):
        config(num_workers=5, **asked)
    with pytest.raises(ValueError, match="leave one of them out"):
        config(num_workers=1, gradient_accumulation=6, **asked)


def test_workers_that_hold_a_copy_together_count_as_one_share_of_the_data() -> None:
    settings = config(num_workers=8, parallel={"tensor": 4}, sequences_per_worker=2, sequences_per_step=12)
    assert (settings.replicas, settings.accumulation, settings.total_sequences) == (2, 3, 12)
    assert deepspeed_config(settings)["tensor_parallel"]["autotp_size"] == 4
    assert "tensor_parallel" not in deepspeed_config(config())
    assert config(num_workers=8, parallel={"tensor": 4}).total_sequences == 2 * 8
    with pytest.raises(ValueError, match=r"must be a multiple of \(num_workers / 4\) x sequences_per_worker"):
        config(num_workers=8, parallel={"tensor": 4}, sequences_per_worker=5, sequences_per_step=12)
    with pytest.raises(ValueError, match=r"num_workers \(6\) must be a multiple of parallel.tensor \(4\)"):
        config(num_workers=6, parallel={"tensor": 4})
    for refused in ({"lora": {}}, {"privacy": {"noise_multiplier": 1.0}, "zero": {"stage": 1}}):
        with pytest.raises(ValueError, match=r"does not go with parallel\.tensor"):
            config(parallel={"tensor": 2}, **refused)
    assert config(parallel={"tensor": 1}, lora={}).replicas == 2


def test_stages_hand_on_the_micro_batches_of_a_step() -> None:
    asked = {"parallel": {"pipeline": 2}, "zero": {"stage": 1}, "num_workers": 4, "gradient_accumulation": 3}
    settings = config(**asked)
    assert (settings.replicas, settings.total_sequences) == (2, 2 * 8 * 3)
    assert config(**{**asked, "parallel": {"pipeline": 2, "tensor": 2}}).replicas == 1
    made = deepspeed_config(settings)
    assert made["gradient_accumulation_steps"] == 1, "a step's gradients come all at once"
    assert made["zero_optimization"] == {"stage": 1, "contiguous_gradients": False, "overlap_comm": False}
    for more, said in (
        ({"zero": {"stage": 3}}, r"needs zero: \{stage: 1\}"),
        ({"zero": {"stage": 1, "extra": {"zero_optimization": {"stage": 2}}}}, r"needs zero: \{stage: 1\}"),
        ({"gradient_accumulation": 1}, "as many micro-batches a step"),
        ({"num_workers": 3}, r"must be a multiple of parallel.pipeline \(2\)"),
        ({"lora": {}}, "lora does not go with parallel.pipeline"),
        ({"method": {"kind": "dpo", "path": "x"}}, "dpo does not go with parallel.pipeline"),
    ):
        with pytest.raises(ValueError, match=said):
            config(**{**asked, **more})


def test_consolidation_is_refused_where_it_would_be_wrong() -> None:
    asked = {"dataset": "0" * 16, "weight": 10.0}
    assert config(consolidation=asked, zero={"stage": 1}).consolidation is not None
    with pytest.raises(ValueError, match="consolidation needs zero stage 1, 2 or 3"):
        config(consolidation=asked, zero={"stage": 0})
    for weight in ([10.0], [10.0, 1.0], [1.0, 1.0], 0.0, [0.0, 1.0]):
        with pytest.raises(ValueError, match="weight"):
            config(consolidation=asked | {"weight": weight})
    with pytest.raises(ValueError, match="decay"):
        config(consolidation=asked | {"online": {"checkpoint": "0" * 16, "decay": 0.0}})


def test_retention_is_asked_for_where_there_is_a_choice_or_it_is_given() -> None:
    for weight, given, asked in ((10.0, None, None), (10.0, 90, 90), ([1.0, 10.0], None, 95), ([1.0, 10.0], 99, 99)):
        fields = {"dataset": "0" * 16, "weight": weight, "min_retention_percent": given}
        consolidation = config(consolidation=fields).consolidation
        assert consolidation is not None
        assert consolidation.asked_percent == asked


def test_learning_rate_warms_up_then_falls_as_a_cosine() -> None:
    table = config(num_steps=105, warmup_steps=4, learning_rate=1.0, min_learning_rate_fraction=0.1)
    rates = [learning_rate(table, step) for step in range(105)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.55)
    assert rates[29] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert rates[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates[4:]))


def test_learning_rate_of_a_single_step() -> None:
    assert learning_rate(config(num_steps=1, warmup_steps=0, learning_rate=0.5), 0) == 0.5


@pytest.mark.parametrize("name", ["offload_optimizer", "offload_param"])
def test_what_no_checkpoint_would_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"zero_optimization\.{name} to nvme .* offload to the CPU"):
        config(zero={"extra": {"zero_optimization": {name: {"device": "nvme", "nvme_path": "/local"}}}})
    config(zero={"extra": {"zero_optimization": {name: {"device": "cpu"}}}})
    config(zero={"extra": {"zero_optimization": {name: None}}})

"""Recipe settings become vLLM's and Serve's."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.artifacts import Revision
from services.config import EngineConfig, ReplicasConfig, ServingConfig
from services.serving.engine import autoscaling, bundles, engine_arguments, engine_of, environment
from services.serving.readiness import reason_in


def test_a_revision_changes_only_what_it_names() -> None:
    serving = ServingConfig.model_validate({"engine": {"max_model_len": 1024, "max_num_seqs": 8}})
    engine = engine_of(Revision(key="k", revision="m-1", engine={"max_num_seqs": 2}), serving)
    assert (engine.max_model_len, engine.max_num_seqs) == (1024, 2)


def test_a_revision_cannot_name_what_is_not_there() -> None:
    with pytest.raises(ValidationError):
        engine_of(Revision(key="k", revision="m-1", engine={"max_nm_seqs": 2}), ServingConfig())


def test_a_cpu_engine_has_its_cache_in_bytes_and_a_gpu_engine_its_share_of_memory() -> None:
    cpu = engine_arguments(EngineConfig(kv_cache_gib=0.5), "")
    gpu = engine_arguments(EngineConfig(num_gpus=1, gpu_memory_utilization=0.8), "")
    assert cpu["kv_cache_memory_bytes"] == 2**29
    assert "gpu_memory_utilization" not in cpu
    assert "worker_extension_cls" in cpu.keys() - gpu.keys()
    assert gpu["gpu_memory_utilization"] == 0.8
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(EngineConfig(num_gpus=1))


def test_extra_arguments_have_the_last_word() -> None:
    assert engine_arguments(EngineConfig(extra={"dtype": "float32", "seed": 1}), "")["dtype"] == "float32"


@pytest.mark.parametrize("kv_cache", ["fp8", "fp8_unscaled"])
def test_a_revision_judged_with_its_cache_in_fp8_is_served_so(kv_cache: str) -> None:
    revision = Revision(key="k", revision="m-1", config={"kv_cache": kv_cache})
    assert engine_arguments(EngineConfig(), revision.kv_cache)["kv_cache_dtype"] == "fp8"
    assert "kv_cache_dtype" not in engine_arguments(EngineConfig(), Revision(key="k", revision="m-1").kv_cache)


@pytest.mark.parametrize(
    "extra", [{"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "auto"}, {"calculate_kv_scales": True}]
)
def test_a_cache_that_no_gate_has_judged_is_not_served(extra: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"no gate has judged: set quantize\.kv_cache"):
        EngineConfig(extra=extra)
    with pytest.raises(ValidationError, match="no gate has judged"):
        engine_of(Revision(key="k", revision="m-1", engine={"extra": extra}), ServingConfig())


def test_resources_are_spread_over_the_workers() -> None:
    engine = EngineConfig(num_gpus=2, tensor_parallel_size=2, num_cpus=4)
    assert bundles(engine) == [{"CPU": 2.0, "GPU": 1.0}] * 2


def test_a_revision_that_may_scale_to_zero_starts_with_one_replica() -> None:
    assert autoscaling(EngineConfig(), ReplicasConfig(min=0, max=3))["initial_replicas"] == 1


@pytest.mark.parametrize(("present", "begins_with"), [(0, 2), (1, 2), (3, 3), (9, 4)])
def test_an_update_begins_with_the_replicas_that_the_load_has_brought(present: int, begins_with: int) -> None:
    assert autoscaling(EngineConfig(), ReplicasConfig(min=2, max=4), present)["initial_replicas"] == begins_with


def test_serve_lets_the_policy_go_below_the_least_number_and_never_to_zero_unasked() -> None:
    for least, of_serve in ((0, 0), (1, 1), (3, 1)):
        settings = autoscaling(EngineConfig(), ReplicasConfig(min=least, max=4))
        assert (settings["min_replicas"], settings["policy"]["policy_kwargs"]["lowest"]) == (of_serve, least)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Serve gives no reason"),
        ("Traceback ...\n  File x\nValueError: no tokenizer\n  at all", "ValueError: no tokenizer\n  at all"),
        ("KeyError: 'a'\n\nDuring handling ...\nRuntimeError: b", "RuntimeError: b"),
        ("cluster.errors.InputError: w: f\n  -> r\nRuntimeError: outer", "w: f"),
        ("just\nwords ", "words"),
    ],
)
def test_the_reason_is_the_innermost_error(text: str, reason: str) -> None:
    assert reason_in(text) == reason

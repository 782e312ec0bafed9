"""What serving asks of its pool during a rollout."""

from __future__ import annotations

from services.config import ServingConfig
from services.demand import demands


def test_stable_canary_and_what_is_kept_run_beside_each_other() -> None:
    serving = ServingConfig.model_validate({"replicas": {"min": 2, "max": 5}, "engine": {"num_gpus": 1, "num_cpus": 4}})
    least, most = demands(serving)
    assert (least.field, least.count, least.gpus, least.cpus) == ("serve.replicas.min", 6, 1, 4)
    assert (most.field, most.count) == ("serve.replicas.max", 5)
    assert demands(serving.replace(keep_revisions=0))[0].count == 4


def test_a_replica_over_several_gpus_is_as_many_workers() -> None:
    engine = {"num_gpus": 4, "num_cpus": 8, "tensor_parallel_size": 4, "gpu_memory_utilization": 0.8}
    least, _ = demands(ServingConfig.model_validate({"engine": engine, "keep_revisions": 0}), 32 * 10**9)
    assert (least.count, least.gpus, least.cpus) == (8, 1, 2)
    assert least.gpu_bytes == 10**10, "8 of 32 GB, in the 80 % that vLLM may take"
    least, _ = demands(ServingConfig.model_validate({"engine": engine, "keep_revisions": 0}), 32 * 10**9, 2)
    assert least.gpu_bytes == 2 * 10**10, "in bfloat16"


def test_scaled_to_zero_still_loads_one() -> None:
    assert demands(ServingConfig.model_validate({"replicas": {"min": 0}, "keep_revisions": 0}))[0].count == 2


def test_on_cpus_a_replica_holds_weights_and_cache_in_the_machines_memory() -> None:
    serving = ServingConfig.model_validate({"engine": {"kv_cache_gib": 2}, "replicas": {"max": 3}})
    least, most = demands(serving, 10**9, 2)
    assert least.host_bytes == most.host_bytes == 2 * 10**9 + 2 * 2**30
    assert (least.memory_field, most.memory_field) == ("serve.replicas.min", "serve.replicas.max")
    assert demands(serving)[0].host_bytes == 0, "not known without the model's size"

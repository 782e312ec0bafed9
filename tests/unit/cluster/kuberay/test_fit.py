"""A recipe's stages are counted in pods, which have fewer CPUs than their machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import ConfigError
from cluster.kuberay.clusters import ray_cluster
from cluster.kuberay.fit import pods_of_stages
from cluster.kuberay.pods import granted
from cluster.kuberay.settings import OVERLAYS
from pipelines.config import LifecycleConfig
from pipelines.demand import demands
from serinus_recipe import workload
from tests.unit.cluster.kuberay.conftest import REPOSITORY, shipped


def recipe(folder: Path, **train: Any) -> Path:
    document = yaml.safe_load((REPOSITORY / "recipes/gpu.yaml").read_text())
    document["train"].update(train)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_grant_is_what_their_limits_say(overlay: str) -> None:
    groups = ray_cluster(shipped(), OVERLAYS[overlay])["spec"]["workerGroupSpecs"]
    limits = {g["groupName"]: g["template"]["spec"]["containers"][0]["resources"]["limits"] for g in groups}
    for pool in granted(shipped(), OVERLAYS[overlay]).pools:
        assert str(pool.num_cpus) == limits[pool.name]["cpu"]
        assert str(pool.num_gpus) == limits[pool.name].get("nvidia.com/gpu", "0")


def test_a_stage_that_fits_the_machines_and_not_their_pods_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:  # 8 ranks of 12 CPUs fill a machine of 96, and its pod has 94
        workload(recipe(tmp_path, cpus_per_worker=12), "production", shipped())
    assert refused.value.where == f"{tmp_path}/mine.yaml: train.num_workers"
    assert "16 of 12 CPUs and 1 GPUs need 3 nodes of pool `train`, it has at most 2" in refused.value.found
    assert "train 94" in refused.value.found
    assert refused.value.remedy == "lower it, or raise max_workers of pool `train` to 3"


def test_a_worker_larger_than_a_pod_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="asks for 95 CPUs and 1 GPUs on one node; a node of pool `train` has 94 CPUs"
    ):
        workload(recipe(tmp_path, cpus_per_worker=95, num_workers=1), "gpu", shipped())


def test_stages_get_as_many_pods_as_hold_them(tmp_path: Path) -> None:
    roomy = shipped().replace(
        pools=tuple(pool.replace(max_nodes=8) for pool in shipped().pools),
        max_workers=4,  # of the launcher; a job's cluster is its own
    )
    document = yaml.safe_load(recipe(tmp_path, cpus_per_worker=12).read_text())
    ours = {key: value for key, value in document.items() if key in LifecycleConfig.model_fields}
    found = pods_of_stages(roomy, OVERLAYS["gpu"], demands(LifecycleConfig.model_validate(ours)), "mine.yaml")
    assert found["train"] == {"data": 1, "train": 3}


def test_engines_that_evaluate_side_by_side_get_pods_of_their_own(tmp_path: Path) -> None:
    def found(num_engines: int) -> dict[str, dict[str, int]]:
        document = yaml.safe_load((REPOSITORY / "recipes/gpu.yaml").read_text())
        document["evaluate"]["num_engines"] = num_engines
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(document))
        return workload(path, "production", shipped()).nodes

    most = shipped().pool("serve").max_nodes
    assert found(1)["evaluate"] == {"serve": 1}
    assert found(most)["evaluate"] == {"serve": most}
    assert found(most)["quantize"]["serve"] == most
    with pytest.raises(ConfigError) as refused:
        found(most + 1)
    assert refused.value.where == f"{tmp_path}/mine.yaml: evaluate.num_engines"
    assert f"need {most + 1} nodes of pool `serve`, it has at most {most}" in refused.value.found

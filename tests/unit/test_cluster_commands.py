"""`serinus cluster` and `serinus k8s` as a user meets them: what is printed, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER, ON_PREMISE = ROOT / "ray_cluster.yaml", ROOT / "ray_cluster_on_premise.yaml"


def serinus(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serinus", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("topology", [LAUNCHER, ON_PREMISE], ids=lambda path: path.name)
@pytest.mark.parametrize("recipe", ["quickstart.yaml", "gpu.yaml"])
def test_the_shipped_recipes_fit_the_shipped_clusters(topology: Path, recipe: str) -> None:
    done = serinus("cluster", "check", ROOT / "recipes" / recipe, "--topology", topology)
    if (topology, recipe) == (ON_PREMISE, "gpu.yaml"):  # one machine of 8 GPUs there, and the recipe trains on 16
        assert done.returncode == 1
        assert (
            "train.num_workers: 16 of 8 CPUs and 1 GPUs need 2 nodes of pool `train`, it has at most 1" in done.stdout
        )
        assert "-> lower it, or raise max_workers of pool `train` to 2" in done.stdout
        return
    assert (done.returncode, done.stderr) == (0, "")
    assert "no likely mistake(s)" in done.stdout


def _changed(tmp_path: Path, file: Path, **changes: Any) -> Path:
    path = tmp_path / file.name
    path.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file_mounts": ["a"]}, "file_mounts: ['a'] is not of type 'object'"),
        ({"setup_commands": "make"}, "setup_commands: 'make' is not of type 'array'"),
        ({"upscaling_sped": 1}, "did you mean `upscaling_speed`?"),
    ],
)
def test_what_ray_up_would_refuse_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    done = serinus("cluster", "check", "--topology", _changed(tmp_path, LAUNCHER, **changes))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_larger_than_its_gpus_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [30_000, 1_000_000], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    recipe = _changed(tmp_path, ROOT / "recipes/gpu.yaml", model={"source": "model"})
    done = serinus("cluster", "check", recipe)
    assert done.returncode == 1
    assert "evaluate.num_gpus: each GPU must hold 55.9 GiB of it, a GPU of pool `serve` has 24 GiB" in done.stdout
    assert "serve.engine.num_gpus: each GPU must hold 62.1 GiB of it" in done.stdout, "the largest of its schemes"
    assert "30.00 B parameters" in done.stdout


def test_a_machine_finds_its_flags_by_its_address(tmp_path: Path) -> None:
    document = yaml.safe_load(ON_PREMISE.read_text())
    document["provider"]["pools"]["train"]["ips"] = ["127.0.0.1"]
    document["provider"]["worker_ips"] = ["10.0.0.11", "10.0.0.12", "127.0.0.1", "10.0.0.31", "10.0.0.32"]
    done = serinus("cluster", "flags", _changed(tmp_path, ON_PREMISE, **document))
    assert done.stdout == "--num-cpus=96 --num-gpus=8 --labels=serinus.io/pool=train,ray.io/accelerator-type=H100\n"


def test_a_machine_of_no_pool_is_told_its_addresses() -> None:
    done = serinus("cluster", "flags", ON_PREMISE)
    assert done.returncode == 2
    assert "no pool has this machine" in done.stderr
    assert "127.0.0.1" in done.stderr


def test_render_writes_what_kubectl_applies_and_says_how(tmp_path: Path) -> None:
    done = serinus("k8s", "render", "recipes/quickstart.yaml", "--overlay", "dev", "--out", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"kubectl apply -k {tmp_path}/overlays/dev" in done.stdout.replace("\n", "")
    job = yaml.safe_load((tmp_path / "overlays/dev/jobs/train.yaml").read_text())
    assert job["metadata"]["generateName"] == "smollm2-train-"


def test_render_refuses_a_recipe_that_no_pod_could_read(tmp_path: Path) -> None:
    done = serinus("k8s", "render", "recipes/quickstart.yaml", "--overlay", "production", "--out", tmp_path)
    assert done.returncode == 2
    assert "recipes/quickstart.yaml: storage: " in done.stderr
    assert "-> use s3://bucket/folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_checking_a_cluster_imports_nothing_heavy() -> None:
    heavy = "{'ray', 'torch', 'vllm', 'deepspeed', 'transformers', 'pyarrow', 'boto3', 'numpy', 'gguf'}"
    code = (
        "import sys, serinus\n"
        "sys.argv = ['serinus', 'cluster', 'check', 'recipes/gpu.yaml']\n"
        "try: serinus.main()\n"
        f"except SystemExit: print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

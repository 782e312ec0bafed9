"""The same items through transformers, through vLLM offline and through a served model: the same choices, the same figures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cluster.errors import InputError
from pipelines.config import EvaluateConfig
from pipelines.evaluation import standalone
from pipelines.evaluation.agreement import Agreement, agreement, read
from pipelines.evaluation.evaluate import check_complete
from serinus import app
from tests.e2e.conftest import Served

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
]
QUESTIONS = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "general.jsonl"
TASKS = f"""
max_model_len: 256
kv_cache_gib: 0.25
tasks:
  - {{name: choice, kind: multiple_choice, path: {QUESTIONS}, num_items: 20, num_shots: 1}}
  - {{name: letters, kind: written_choice, path: {QUESTIONS}, num_items: 4, max_new_tokens: 4, chat: true}}
"""


def evaluated(folder: Path, model: str, name: str, *options: str) -> Path:
    """As a user types it; the folder that it wrote."""
    tasks = folder / "tasks.yaml"
    tasks.write_text(TASKS)
    arguments = ["eval", model, str(tasks), "--out", str(folder / name), *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder / name


def compared(first: Path, second: Path) -> Agreement:
    found = agreement(read(first), read(second))
    assert found.num_different == 0, found
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_the_three_agree(served: Served, tiny_model: Path, tmp_path: Path) -> None:
    offline = evaluated(tmp_path, str(tiny_model), "vllm", "--dtype", "float32")
    reference = evaluated(tmp_path, str(tiny_model), "transformers", "--engine", "transformers", "--dtype", "float32")
    (choice, _) = compared(offline, reference).tasks
    assert choice.largest_distance is not None
    assert choice.largest_distance < 1e-4
    assert choice.first == choice.second
    same_format = evaluated(tmp_path, str(tiny_model), "as-served")  # auto, as the engine behind the gateway
    online = evaluated(tmp_path, served.url, "served")
    (choice, letters) = compared(same_format, online).tasks
    assert (choice.first, letters.first) == (choice.second, letters.second)


@pytest.mark.usefixtures("ray_cluster")
def test_a_model_of_no_numbers_is_told_by_vllm_too(tiny_model: Path, tmp_path: Path) -> None:
    folder, tasks = tmp_path / "broken", tmp_path / "tasks.yaml"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    task = {"name": "letters", "kind": "written_choice", "path": str(QUESTIONS), "num_items": 3, "max_new_tokens": 4}
    choice = {"name": "choice", "kind": "multiple_choice", "path": str(QUESTIONS), "num_items": 3}
    config = EvaluateConfig.model_validate({"tasks": [task, choice], "max_model_len": 256, "kv_cache_gib": 0.25})
    items = standalone.items_of(config, str(tasks))
    rows = standalone.of_folder(config, standalone.engine_for(config, folder, "vllm", "float32"), items)
    with pytest.raises(InputError, match=r"nor have 5 more \(letters: 3, choice: 3 in all\)"):
        check_complete("broken", items, rows)

"""The same items through transformers, through vLLM offline and through a served model: the same choices, the same figures."""

from __future__ import annotations

import json
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
WRITTEN = """
  - {name: sums, kind: exact_match, path: sums.yaml, num_items: 6, num_shots: 2}
"""
SUMS = {
    "task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "sums.jsonl"}}, "test_split": "test",
    "doc_to_text": "Q: {{n}} and {{n}}\nA:", "doc_to_target": "{{n + n}}",
    "generation_kwargs": {"until": ["\n", "Q:", "</s>", "<|im_end|>", " the", " a"], "max_gen_toks": 12},
    "filter_list": [
        {"name": "number", "filter": [{"function": "regex", "regex_pattern": "[0-9]+"}, {"function": "take_first"}]}
    ],
}  # fmt: skip
"""As the harness writes a task; the tiny model answers with words, in which the last two ends stand."""


def evaluated(folder: Path, model: str, name: str, *options: str) -> Path:
    """As a user types it; the folder that it wrote."""
    tasks = folder / "tasks.yaml"
    tasks.write_text(TASKS + WRITTEN)
    (folder / "sums.yaml").write_text(json.dumps(SUMS))
    (folder / "sums.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(8)))
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
    (choice, *_) = compared(offline, reference).tasks
    assert choice.largest_distance is not None
    assert choice.largest_distance < 1e-4
    assert choice.first == choice.second
    same_format = evaluated(tmp_path, str(tiny_model), "as-served")  # auto, as the engine behind the gateway
    online = evaluated(tmp_path, served.url, "served")
    for task in compared(same_format, online).tasks:
        assert task.first == task.second


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

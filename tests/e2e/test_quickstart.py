"""The whole demo as a user runs it: raw text to a promoted revision and back from a broken one, with real Ray and vLLM.

One run of recipes/demo.py in a copy of its own (some ten minutes on two cores); every test looks at another of its ends.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster import artifacts, registry
from cluster.artifacts import Dataset, GateReport, QuantizedModel
from cluster.config import load_yaml
from cluster.storage import Storage, open_storage
from serinus_recipe import Recipe
from services.rollout.status import RolloutStatus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Demo:
    """The demo's copy, its recipe, and what it printed."""

    folder: Path
    recipe: Recipe
    storage: Storage
    printed: str
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{self.recipe.serve.host}:{self.recipe.serve.port}/v1"

    def rollouts(self) -> list[RolloutStatus]:
        keys = [k for k in self.storage.list(f"rollouts/{self.recipe.name}") if k.endswith("/status.json")]
        found = [RolloutStatus.model_validate_json(self.storage.read(key).content) for key in keys]  # type: ignore[union-attr]
        return sorted(found, key=lambda status: status.started_at)

    def requests(self, revision: str) -> list[dict[str, object]]:
        log = self.folder / "build" / "quickstart" / "load" / f"{revision}.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    for name in ("recipes", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "ray_cluster.yaml", folder)
    path = folder / "recipes" / "quickstart.yaml"
    text = path.read_text()
    assert "port: 8000" in text
    path.write_text(text.replace("port: 8000", f"port: {free_port()}"))
    # The packages are found where they are installed, which is not the copy.
    environment = {**os.environ, "SERINUS_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    recipe = load_yaml(path, Recipe)
    log = folder / "demo.log"
    try:
        with log.open("w") as output:
            done = subprocess.run(
                [sys.executable, "recipes/demo.py"],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        printed = log.read_text()
        assert done.returncode == 0, printed[-6000:]
        yield Demo(folder, recipe, open_storage(recipe.storage), printed, environment)
    finally:
        subprocess.run([sys.executable, "-m", "serinus", "down"], cwd=folder, env=environment, check=False)


def test_documents_in_are_documents_kept_and_excluded(demo: Demo) -> None:
    dataset = artifacts.load(demo.storage, Dataset, one_key(demo, "dataset"))

    assert dataset is not None
    assert dataset.num_documents == dataset.num_kept + dataset.num_excluded
    assert dataset.num_kept >= 50
    assert dataset.num_excluded_by_reason.keys() >= {"exact_duplicate", "near_duplicate"}


def test_training_helps_and_quantization_keeps_it(demo: Demo) -> None:
    gate = artifacts.load(demo.storage, GateReport, one_key(demo, "gate"))

    assert gate is not None
    assert (gate.outcome, gate.passed) == ("passed", True)
    musts = [check for check in gate.checks if check.priority == "must"]
    assert {check.name for check in musts} >= {"heldout_perplexity: trained vs base", "general: quantized vs base"}
    assert all(check.outcome == "passed" and check.method for check in musts)
    revision = registry.resolve(demo.storage, demo.recipe.name, "stable")
    weights = artifacts.find(demo.storage, revision.inputs["weights"])
    assert isinstance(weights, QuantizedModel)
    assert weights.num_weight_bytes < 0.75 * weights.num_weight_bytes_before


def test_the_good_revision_is_promoted_step_by_step(demo: Demo) -> None:
    good, _ = demo.rollouts()

    assert good.phase == "promoted"
    weights = list(dict.fromkeys(decision.weight_percent for decision in good.decisions))
    assert weights[0] == 1
    assert weights == sorted(weights)
    assert not [r for r in demo.requests(good.candidate) if not r["ok"]]


def test_the_broken_revision_is_rolled_back_and_harms_no_one(demo: Demo) -> None:
    _, bad = demo.rollouts()

    assert bad.phase == "rolled_back"
    assert bad.decisions[-1].reason == "error_rate"
    assert bad.decided_at is not None
    assert bad.weight_applied_at is not None
    assert (bad.weight_applied_at - bad.decided_at).total_seconds() <= 2
    requests = demo.requests(bad.candidate)
    after = [r for r in requests if datetime.fromtimestamp(float(str(r["at"])), UTC) > bad.decided_at]
    assert after, "no request was sent after the decision"
    assert all(r["ok"] for r in requests), "stable answers what a canary fails to: no user sees it"


CLIENT = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-someone")
question = [{"role": "user", "content": "What is the capital of France?"}]
print([model.id for model in client.models.list()])
print(client.chat.completions.create(model=sys.argv[2], messages=question, max_tokens=16).choices[0].message.content)
stream = client.chat.completions.create(model=sys.argv[2], messages=question, max_tokens=16, stream=True)
print(sum(1 for chunk in stream if chunk.choices and chunk.choices[0].delta.content))
"""


def test_the_openai_client_gets_answers_from_the_public_name(demo: Demo) -> None:
    done = demo.command("-c", CLIENT, demo.url, demo.recipe.name)

    assert done.returncode == 0, done.stderr
    models, answer, chunks = (
        done.stdout.strip().rsplit("\n", 1)[0].split("\n", 1)[0],
        done.stdout,
        done.stdout.split()[-1],
    )
    assert models == f"['{demo.recipe.name}']"
    assert len(answer) > len(models)
    assert int(chunks) >= 2


def test_the_gate_explains_itself(demo: Demo) -> None:
    done = demo.command("-m", "serinus", "gate", "explain")

    assert done.returncode == 0, done.stderr
    assert "may be published" in done.stdout
    assert "general: quantized vs base: passed" in done.stdout


def test_lineage_goes_back_to_the_input_files(demo: Demo) -> None:
    done = demo.command("-m", "serinus", "lineage", "stable")

    assert done.returncode == 0, done.stderr
    assert "lambda.txt" in done.stdout


def test_a_document_is_traced_from_its_bytes_to_the_revision_in_production(demo: Demo) -> None:
    done = demo.command("-m", "serinus", "data", "trace", "topics/lambda.txt")

    assert done.returncode == 0, done.stderr
    assert "topics/lambda.txt, bytes 0 to " in done.stdout
    assert "[STABLE" in done.stdout or "kept held out" in done.stdout


def test_a_second_run_makes_nothing_again(demo: Demo) -> None:
    before = {key: demo.storage.read(key) for key in demo.storage.list("artifacts") if key.endswith("manifest.json")}

    done = demo.command("-m", "serinus", "run", "recipes/quickstart.yaml")

    assert done.returncode == 0, done.stderr
    after = {key: demo.storage.read(key) for key in demo.storage.list("artifacts") if key.endswith("manifest.json")}
    assert after == before


def one_key(demo: Demo, kind: str) -> str:
    keys = [key.split("/")[2] for key in demo.storage.list(f"artifacts/{kind}") if key.endswith("manifest.json")]
    assert len(keys) == 1, keys
    return keys[0]

"""The whole lifecycle of a tiny model by the commands a user types: raw text to a promoted canary. No tests in here."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster import registry
from cluster.artifacts import EvalReport, Manifest, find
from cluster.storage import Storage
from tests.conftest import REPOSITORY
from tests.integration.gateway_world import free_port

NAME = "tiny"
RECIPE: dict[str, Any] = {
    "name": NAME,
    "data": {"filters": {"languages": ["en"], "min_words": 25, "min_alphabetic_word_fraction": 0.5}},
    "train": {
        "gpus_per_worker": 0,
        "num_workers": 2,
        "num_steps": 4,
        "warmup_steps": 1,
        "sequence_length": 64,
        "sequences_per_worker": 1,
        "checkpoint_every_steps": 2,
        "keep_checkpoints": 1,
    },
    "evaluate": {
        "tasks": [
            {"name": "perplexity", "kind": "perplexity", "num_items": 4},
            {"name": "general", "kind": "multiple_choice", "path": "general.jsonl", "num_items": 6},
        ],
        "max_model_len": 512,
        "kv_cache_gib": 0.25,
    },
    "quantize": {"num_calibration_sequences": 4, "calibration_length": 32, "ignore": ["lm_head"]},
    "gate": {
        "requirements": [
            {"compare": "quantized vs trained", "tasks": ["general"], "margin_percent": 50, "effect_percent": 90}
        ]
    },
    "serve": {
        "engine": {"max_model_len": 512, "max_num_seqs": 8, "enforce_eager": True, "kv_cache_gib": 0.1},
        "ready_timeout_s": 300,
    },
    "rollout": {
        "interval_s": 1,
        "latency_floor_s": 10,
        "drain_s": 1,
        "steps": [
            {"weight_percent": 10, "min_requests": 1, "min_duration_s": 2, "prove": "none"},
            {"weight_percent": 50, "min_requests": 10, "min_duration_s": 2, "prove": "none"},
        ],
    },
}
"""Without `storage`, `data.sources` and `model`."""


def write_topics(folder: Path, num_topics: int = 20) -> Path:
    """CPython's documentation topics, a text file each."""
    from pydoc_data.topics import topics

    folder.mkdir(parents=True)
    for name in sorted(topics)[:num_topics]:
        (folder / f"{name}.txt").write_text(topics[name])
    return folder


@dataclass
class Made:
    """What a candidate rests on."""

    files: dict[str, str] = field(default_factory=dict)
    """Kind of artifact, for evaluations with that of their model, and path -> SHA-256."""
    scores: dict[str, float] = field(default_factory=dict)


def made(storage: Storage) -> Made:
    told, waiting = Made(), list[Manifest]([registry.resolve(storage, NAME, "candidate")])
    while waiting:
        manifest = waiting.pop()
        waiting += [found for digest in manifest.inputs.values() if (found := find(storage, digest))]
        kind = manifest.kind
        if isinstance(manifest, EvalReport):
            model = find(storage, manifest.model)
            assert model is not None
            kind = f"{kind} of {model.kind}"
            told.scores |= {f"{kind} {score.task} {score.metric}": score.value for score in manifest.scores}
        told.files |= {f"{kind} {file.path}": file.sha256 for file in manifest.files}
    return told


@dataclass
class Lifecycle:
    """A recipe in a folder of its own, run on a cluster of `serinus up` in a SERINUS_HOME of its own."""

    folder: Path
    storage: str
    sources: str
    model: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    serve: Mapping[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    num_users: int = 3
    """At once."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        told = {**self.declared(), "storage": self.storage, "model": {"source": str(self.model)}}
        told["serve"] = {**told["serve"], **self.serve, "port": self.port}
        self.name: str = told["name"]
        self.recipe.write_text(yaml.safe_dump(told, sort_keys=False))

    def declared(self) -> dict[str, Any]:
        """The recipe without storage, model, address."""
        general = REPOSITORY / "recipes" / "quickstart" / "general.jsonl"
        (self.folder / "general.jsonl").write_text(general.read_text())
        return {**RECIPE, "data": {**RECIPE["data"], "sources": [{"path": self.sources}]}}

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def serinus(self, *arguments: str, timeout: float = 600) -> str:
        """What the command prints; fails the test where it fails."""
        return self.end(self.begin(*arguments), timeout)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "SERINUS_HOME": str(self.folder / "home"), **self.environment}
        command = [sys.executable, "-m", "serinus", *arguments]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def end(self, command: subprocess.Popen[str], timeout: float = 600) -> str:
        try:
            said, _ = command.communicate(timeout=timeout)
        finally:
            command.kill()
        assert command.returncode == 0, f"{command.args}: {command.returncode}\n{said}"
        return said

    @contextmanager
    def up(self) -> Iterator[None]:
        self.serinus("up")
        try:
            yield
        finally:
            self.serinus("down")

    def promoted(self) -> list[dict[str, Any]]:
        """Deploy the base, bring the candidate in under load, and wait until it is promoted. The users' answers."""
        self.serinus("deploy", str(self.recipe))
        with self.users() as answers:
            self.serinus("canary", "start", "--recipe", str(self.recipe))
            self.serinus("canary", "watch", "--recipe", str(self.recipe))
        return answers

    @contextmanager
    def users(self) -> Iterator[list[dict[str, Any]]]:
        """Some at a time, each request of another user, until the block ends; one entry an answer."""
        answers: list[dict[str, Any]] = []
        over = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(n, over, answers)) for n in range(self.num_users)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            over.set()
            for thread in threads:
                thread.join(120)

    def _ask(self, number: int, over: threading.Event, answers: list[dict[str, Any]]) -> None:
        question = {
            "model": self.name,
            "messages": [{"role": "user", "content": "Tell me about lists."}],
            "max_tokens": 2,
        }
        with httpx.Client(timeout=120) as client:
            while not over.is_set():
                began = time.monotonic()
                asked = {**question, "user": f"{number}-{len(answers)}"}
                found = client.post(f"{self.url}/chat/completions", json=asked)
                told = {"status": found.status_code, "revision": found.headers.get("x-serinus-revision")}
                answers.append({**told, "took_s": time.monotonic() - began, "text": found.text[:300]})
                over.wait(0.1)

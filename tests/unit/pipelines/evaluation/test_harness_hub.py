"""Tasks whose data lie on a hub, through the real library, which asks a server on this machine. HF_ENDPOINT is read at import:
each scene is a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.unit.pipelines.evaluation.hub import Files, Hub, commit_of, serving

TOKEN = "hf_a_secret_that_nobody_sees"
ASK = """
import sys
from cluster.errors import InputError
from pipelines.evaluation.tasks import build_items, file_digest
from pipelines.task_config import TaskConfig
for path in sys.argv[1:]:
    task = TaskConfig(name="sums", kind="exact_match", path=path)
    try:
        print(sorted((item.prompt, item.answers) for item in build_items(task, (), 0)), file_digest(task))
    except InputError as error:
        print(error)
"""
README = b"""---
configs:
- config_name: main
  data_files:
  - {split: test, path: main/test.jsonl}
---
"""


def files(answer: str) -> Files:
    rows = [{"question": f"{n} + 1 =", "answer": answer * n} for n in (1, 2)]
    return {"README.md": README, "main/test.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub("finch/sums", {"main": files("new"), "v1": files("old")})) as served:
        yield served


def task_file(folder: Path, name: str = "t", **changes: object) -> str:
    asked = {
        "task": "sums", "dataset_path": "finch/sums", "dataset_name": "main", "test_split": "test",
        "doc_to_text": "question", "doc_to_target": "answer", **changes,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({key: value for key, value in asked.items() if value is not None}))
    return str(path)


def asked(folder: Path, endpoint: str, *paths: str, **environment: str) -> list[str]:
    """Lines of what was said, nothing of which is a traceback or the token."""
    began = time.monotonic()
    known: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    where = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *paths],
        env={**known, **where, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr or "HF_DEBUG" in environment  # which tells each request
    assert TOKEN not in done.stdout + done.stderr
    assert time.monotonic() - began < 60, "an absent hub is told soon, also on a busy machine"
    return done.stdout.splitlines()


def rows(answer: str) -> str:
    return str([(f"{n} + 1 =", (answer * n,)) for n in (1, 2)])


def test_rows_of_the_hub_at_the_commit_that_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    newest = task_file(tmp_path)
    tagged = task_file(tmp_path, "tagged", dataset_kwargs={"revision": "v1"})
    exact = task_file(tmp_path, "exact", dataset_kwargs={"revision": commit_of("v1")})
    files_of_it = {"data_files": {"test": "hf://datasets/finch/sums/main/test.jsonl"}}
    by_file = task_file(tmp_path, "file", dataset_path="json", dataset_name=None, dataset_kwargs=files_of_it)
    inside = {"data_files": {"test": "main/*.jsonl"}, "revision": "v1"}
    by_place = task_file(tmp_path, "place", dataset_name=None, dataset_kwargs=inside)
    said = asked(tmp_path, hub.url, newest, tagged, exact, by_file, by_place, HF_DEBUG="1")
    assert [line.rpartition(" ")[0] for line in said] == [rows(one) for one in ("new", "old", "old", "new", "old")]
    digests = [line.rpartition(" ")[2] for line in said]
    assert digests[0] == digests[3] != digests[1] == digests[2] == digests[4]
    assert hub.tokens == {f"Bearer {TOKEN}"}, "the hub that HF_ENDPOINT names is asked with it"
    # The library by itself would take the commit that it loaded last, whatever revision is asked for.
    offline = asked(
        tmp_path, hub.url, exact, newest, task_file(tmp_path, "other", dataset_path="finch/other"), HF_HUB_OFFLINE="1"
    )
    assert offline[0].startswith(rows("old")) or "is not at hand" in offline[0]
    assert any(
        "dataset finch/other, split test: is not at hand, and HF_HUB_OFFLINE forbids" in line for line in offline
    )
    pinned = task_file(tmp_path, "pinned", dataset_kwargs={"revision": "0" * 40})
    (found, remedy) = asked(tmp_path, hub.url, pinned, HF_HUB_OFFLINE="1")
    assert f"dataset finch/sums at revision {'0' * 40} is not at hand; loaded before was " in found
    assert "take HF_HUB_OFFLINE away" in remedy


def test_a_token_goes_to_the_hub_alone(hub: Hub, tmp_path: Path) -> None:
    with serving(Hub("finch/sums", {"main": files("new")})) as elsewhere:
        address = f"{elsewhere.url}/datasets/finch/sums/resolve/main/main/test.jsonl"
        by_address = task_file(
            tmp_path, dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": {"test": address}}
        )
        (said,) = asked(tmp_path, hub.url, by_address)
    assert said.startswith(rows("new"))
    assert elsewhere.asked
    assert not elsewhere.tokens


def test_what_the_hub_has_not(hub: Hub, tmp_path: Path) -> None:
    paths = [
        task_file(tmp_path, "none", dataset_path="finch/none"),
        task_file(tmp_path, "revision", dataset_kwargs={"revision": "v9"}),
        task_file(tmp_path, "split", test_split="dev"),
        task_file(tmp_path, "config", dataset_name="other"),
        task_file(tmp_path, "file", dataset_kwargs={"data_files": {"test": "hf://datasets/finch/none/x.jsonl"}}),
    ]
    said = asked(tmp_path, hub.url, *paths)
    assert len(said) == 2 * len(paths)
    for line, found in zip(
        said[::2],
        [
            "dataset finch/none, split test: the hub has no such dataset, or does not show it",
            "dataset finch/sums, split test: there is no such revision",
            "dataset finch/sums, split dev: Unknown split",
            "BuilderConfig 'other' not found",
            "dataset finch/sums, split test: ",
        ],
        strict=True,
    ):
        assert found in line
    assert all(line.startswith("  -> ") for line in said[1::2])


def test_a_dataset_made_by_python_is_not_run(tmp_path: Path) -> None:
    script = {"sums.py": b"raise SystemExit('run')", "README.md": b""}
    with serving(Hub("finch/sums", {"main": script})) as hub:
        (found, _) = asked(tmp_path, hub.url, task_file(tmp_path))
    assert "dataset finch/sums, split test: is made by Python of its own, which is not run" in found


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        found, remedy = asked(tmp_path, endpoint, task_file(tmp_path))
    assert f"dataset finch/sums, split test: {endpoint} does not answer (" in found
    assert "HF_HUB_OFFLINE=1" in remedy


@pytest.mark.long
def test_a_hub_that_says_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        found, _ = asked(tmp_path, endpoint, task_file(tmp_path))
    assert f"{endpoint} does not answer" in found
    assert time.monotonic() - began < 40

"""Ray's autoscaler brings the data pool's nodes when there is cleaning to do and takes them away again: 0 -> 2 -> 0.

The pools are those of ray_cluster.yaml; the machines are `ray start`s on this one (loopback_provider.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.auth_token import ensure_token
from cluster.ports import free_port
from cluster.processes import end
from cluster.session import node_environment
from tests.integration.local_cluster import REPOSITORY
from tests.integration.loopback_provider import HEAD, start_command

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1_200),
    pytest.mark.skipif(
        not os.environ.get("SERINUS_MACHINES"), reason="a cluster of its own, minutes: set SERINUS_MACHINES=1"
    ),
]
HEAD_HOST, IDLE_S, PATIENCE_S = "127.0.1.1", 15.0, 240.0
PROGRAM = """
import json, sys, threading, time
from cluster.pools import node_hosts
from cluster.session import joined
from cluster.storage import LocalStorage
from cluster.topology import POOL_LABEL
from pipelines.config import DataConfig, SourceConfig
from pipelines.data.clean import clean

def look():
    while True:
        print(json.dumps({"pools": {p: len(node_hosts({POOL_LABEL: p})) for p in ("data", "train", "serve")}}), flush=True)
        time.sleep(0.3)

with joined():
    threading.Thread(target=look, daemon=True).start()
    made = clean(DataConfig(sources=(SourceConfig(path=sys.argv[1]),)), LocalStorage(sys.argv[2]))
    print(json.dumps({"made": made.summary}), flush=True)
    while node_hosts({POOL_LABEL: "data"}):
        time.sleep(0.3)
    print(json.dumps({"empty": True}), flush=True)
"""


def declared(folder: Path, address: str) -> Path:
    """ray_cluster.yaml with our provider, smaller nodes and no patience with idle ones."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    # Prepared as it is, for AWS: other kinds of providers get no defaults for keys that the autoscaler asks for.
    document = prepare_config(yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text(encoding="utf-8")))
    module = "tests.integration.loopback_provider.LoopbackProvider"
    ours = {"type": "external", "module": module, "disable_node_updaters": True, "disable_launch_config_check": True}
    document |= {"provider": {**ours, "folder": str(folder), "head": address}, "idle_timeout_minutes": IDLE_S / 60}
    for kind in document["available_node_types"].values():
        kind |= {"node_config": {}, "min_workers": 0}
    document["available_node_types"]["data"] |= {"resources": {"CPU": 1}, "max_workers": 2}
    document["file_mounts"] = {}
    validate_config(document)
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, Path]]:
    """Address of a head with the autoscaler, and the machines' folder."""
    folder, port = Path(tempfile.mkdtemp(prefix="sa-", dir="/tmp")), free_port(6579)
    ensure_token()
    address = f"{HEAD_HOST}:{port}"
    environment = node_environment(
        RAY_enable_autoscaler_v2="1",  # as `ray up` sets it
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        RAY_CLOUD_INSTANCE_ID=HEAD,
        RAY_NODE_TYPE_NAME="head",
        RAY_enable_worker_prestart="0",
    )
    options = [
        "--head",
        f"--port={port}",
        "--num-cpus=0",
        "--labels=" + ",".join(f"{name}={value}" for name, value in _head_labels().items()),
        f"--autoscaling-config={declared(folder, address)}",
        f"--dashboard-port={free_port(8365)}",
        f"--ray-client-server-port={free_port(20301)}",
        f"--dashboard-agent-listen-port={free_port(52490)}",
        f"--metrics-export-port={free_port(8490)}",
    ]
    try:
        command = start_command(HEAD_HOST, folder / "head", *options)
        subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, timeout=2 * PATIENCE_S)
        yield address, folder
    finally:
        end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _head_labels() -> dict[str, str]:
    document = yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text(encoding="utf-8"))
    labels: dict[str, str] = document["available_node_types"]["head"]["labels"]
    return labels


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Files enough for many tasks of a second: one node alone would not do."""
    from pydoc_data.topics import topics

    folder, all_of = tmp_path / "texts", list(topics.values())
    folder.mkdir()
    for number in range(24):
        lines = [json.dumps({"text": f"{number} {turn}\n\n{text}"}) for turn in range(3) for text in all_of]
        (folder / f"{number:02}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_pool_for_which_no_node_comes_is_given_up_with_what_was_waited_for(head: tuple[str, Path]) -> None:
    """One GPU more than a machine of the pool has."""
    code = (
        "from cluster.session import joined\nfrom cluster.waiting import wait_for_node\n"
        "with joined(): wait_for_node('train', 'train', num_gpus=9, timeout_s=10)"
    )
    environment = node_environment() | {"RAY_ADDRESS": head[0]}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "pool `train`: no node came within 10 s" in done.stderr
    assert not (head[1] / "machines.jsonl").exists()


def test_a_cleaning_job_brings_two_nodes_of_its_pool_and_they_go_again(
    head: tuple[str, Path], texts: Path, tmp_path: Path
) -> None:
    address, folder = head
    command = [sys.executable, "-c", PROGRAM, str(texts), str(tmp_path / "storage")]
    environment = node_environment(RAY_ADDRESS=address)
    environment["RAY_ADDRESS"] = address
    began = time.monotonic()
    program = subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(2 * PATIENCE_S, program.kill)
    watchdog.start()
    try:
        seen = list(_seen(program, began))
    finally:
        watchdog.cancel()
        program.kill()
    errors = program.stderr.read() if program.stderr else ""
    assert {"empty": True} in [line for _, line in seen], errors  # the thread that looks may have the last word
    for at, line in _changes(seen):
        print(f"{at:6.1f} s  {line}")
    print((folder / "machines.jsonl").read_text(), errors)
    counts = [line["pools"]["data"] for _, line in _changes(seen) if "pools" in line]
    assert (counts[0], max(counts)) == (0, 2)  # and none at the last: the program has waited for that
    assert "pool `data` has no node: waiting for the autoscaler" in errors
    machines = [json.loads(line) for line in (folder / "machines.jsonl").read_text().splitlines()]
    assert {machine["kind"] for machine in machines} == {"data"}, "nobody of another pool was started for it"


def _seen(program: subprocess.Popen[str], began: float) -> Iterator[tuple[float, dict[str, Any]]]:
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("{"):
            yield time.monotonic() - began, json.loads(line)


def _changes(seen: list[tuple[float, dict[str, Any]]]) -> Iterator[tuple[float, dict[str, Any]]]:
    last: dict[str, Any] = {}
    for at, line in seen:
        if line != last:
            yield at, line
        last = line

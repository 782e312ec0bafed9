"""`ray up`, `ray submit` and `ray down` for real, from ray_cluster_on_premise.yaml, on machines made of namespaces.

SERINUS_LONG=1 pytest tests/integration/test_launcher_up.py -s     # as root; prints the times

Of the file only what it asks its reader for is changed: addresses, and what the machines have. Real are Ray's launcher on a
fifth machine, its autoscaler on the head, every command of the file, and the installation of the project that was copied
there. Stand-ins: ssh, rsync, and Python's packages, which the machines have from the start (machines.py).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest
import yaml

from cluster.topology import POOLS
from tests.integration.local_cluster import REPOSITORY
from tests.integration.machines import MACHINES, Machine, Machines

pytestmark = MACHINES
FILE = "ray_cluster_on_premise.yaml"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "tests", "build", "*.egg-info")
PROGRAM = """
import json, os, socket, time
from cluster.pools import node_hosts
from cluster.session import joined
from cluster.topology import POOL_LABEL
from cluster.topology import POOLS

with joined(os.environ.get("RAY_ADDRESS", "auto")):
    import ray

    deadline = time.monotonic() + 240
    while not all(node_hosts({POOL_LABEL: pool}) for pool in POOLS) and time.monotonic() < deadline:
        time.sleep(0.3)
    where = ray.remote(num_cpus=1)(lambda: (ray.util.get_node_ip_address(), os.environ["HOME"]))
    asked = {pool: where.options(label_selector={POOL_LABEL: pool}).remote() for pool in POOLS}
    print("said: " + json.dumps({pool: ray.get(task, timeout=60) for pool, task in asked.items()}))
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(["laptop", "head", *POOLS]) as machines:
        yield machines


def prepare(machines: Machines) -> Machine:
    """The laptop with the project, the machines' addresses in the file, a key, a token and the program."""
    laptop = machines.named["laptop"]
    shutil.copytree(REPOSITORY, laptop.home / "serinus", ignore=NOT_COPIED)
    file = laptop.home / "serinus" / FILE
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    address = {name: machine.address for name, machine in machines.named.items()}
    document["provider"] |= {
        "head_ip": address["head"],
        "worker_ips": [address[pool] for pool in POOLS],
        "pools": {pool: {"ips": [address[pool]], "resources": {"CPU": 1}} for pool in POOLS},
    }
    document["max_workers"] = len(POOLS)
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (laptop.home / ".ssh").mkdir()
    (laptop.home / ".ssh" / "id_ed25519").write_text("nobody looks at it\n", encoding="utf-8")
    (laptop.home / "where.py").write_text(PROGRAM, encoding="utf-8")
    launch(laptop, "ray get-auth-token --generate > /dev/null")
    return laptop


def launch(laptop: Machine, command: str) -> tuple[str, float]:
    """What a command of the launcher says, and the seconds it took; fails the test if it fails."""
    began = time.monotonic()
    code, said = laptop.run(f"source ~/venv/bin/activate && cd ~/serinus && {command}")
    assert code == 0, said[-8_000:]
    return said, time.monotonic() - began


def test_up_brings_all_pools_submit_runs_on_each_and_down_leaves_nothing(machines: Machines) -> None:
    laptop = prepare(machines)
    said, up_s = launch(laptop, f"ray up -y {FILE}")
    token = (laptop.home / ".ray" / "auth_token").read_text(encoding="ascii")
    assert token not in said

    said, submit_s = launch(laptop, f"ray submit {FILE} ~/where.py")
    where = next(json.loads(line.removeprefix("said: ")) for line in said.splitlines() if line.startswith("said: "))
    expected = {pool: [machines.named[pool].address, str(machines.named[pool].home)] for pool in POOLS}
    assert where == expected, "each pool's task ran on the machine that the file puts into that pool"
    for name in ("head", *POOLS):
        assert "raylet" in {process.name() for process in machines.named[name].processes()}, name

    for pool in POOLS:  # as the file says
        launch(laptop, f"ssh serinus@{machines.named[pool].address} venv/bin/ray stop")
    _, down_s = launch(laptop, f"ray down -y {FILE}")
    print(f"ray up {up_s:.0f} s, ray submit {submit_s:.0f} s until all pools were there, ray down {down_s:.0f} s")
    left = {name: [p.name() for p in machine.processes()] for name, machine in machines.named.items()}
    assert not any(left.values()), left

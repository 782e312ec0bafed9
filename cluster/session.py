"""The only place that joins a Ray cluster: which one, and with which environment."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import socket
import stat
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cluster import ray_tls
from cluster.auth_token import AUTH_MODE, ensure_token, token, uses_token
from cluster.config import home
from cluster.errors import ClusterError, ResourceError
from cluster.processes import end, within

ENVIRONMENT = {
    "RAY_AUTH_MODE": AUTH_MODE,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Serve's proxies reach replicas over gRPC (with Ray's token) instead of by actor tasks that keep every chunk as an object.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Each node's log monitor looks for new files twice a second, as it does where there are many, and not ten times.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
}
"""Set in every process before Ray is imported, ours and the nodes'."""

HEALTH_CHECKS = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "8"}
"""Of a head, for its nodes. A check of a machine whose processes died is refused at once, so that it is noticed after 8 s (by
Ray's own settings 13); one of a machine that is silent takes 10 s to fail. A machine that the network hides for 30 s has failed
five or six (TCP tries again late) and stays in the cluster: Ray would end a node that it once took for dead, with all that is
served there."""

CORES_LABEL = "serinus.io/cores"
"""Of the node of a private cluster: the cores that its CPUs share."""
PRIVATE_HOST = "127.0.0.2"
"""Ray rewrites 127.0.0.1 to the machine's outside address; the rest of 127/8 stays on loopback."""

START_TIMEOUT_S = 300.0
"""Ray gives up after 30 s where it waits itself; on a machine full of other work its compiled part once waited for an hour."""
ANSWER_TIMEOUT_S = 12.0
"""A living GCS answers in milliseconds; Ray itself waits 40 s and more for one that does not."""


CPU_WORKER = {"worker_extension_cls": "cluster.vllm_worker.CpuWorker"}
"""An engine argument of vLLM's, for engines on CPUs."""

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""For processes that compute on CPUs: glibc asks the kernel, where that lets it (`madvise`), for one page of 2 MB instead of 512.
Ten tensors of 200 MB written once took 0.22 s instead of 1.06 to 1.29 s where the machine had the memory at hand."""

KEEP_MEMORY = {
    **HUGE_PAGES,
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    # Arenas of other threads than the first, where Ray Train and autograd run, give back all the same.
    "MALLOC_ARENA_MAX": "1",
}
"""For processes that compute on CPUs. glibc gives large blocks back to the kernel at once and faults them in again at every
step. Of the third and fourth step of SmolLM2 on two ranks (1,024 tokens) each rank took 11.4 to 11.7 s of CPU time and 930,000
page faults with several arenas, 8.8 s and 600 to 50,000 with one."""


def prepare_environment() -> None:
    """Put ENVIRONMENT in force where the user has not set otherwise. Call before the first `import ray`."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Workers import the packages whatever their working folder. Installed ones they find by themselves.
    root, path = str(package_root()), os.environ.get("PYTHONPATH", "")
    if root != sysconfig.get_path("purelib") and root not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else root


def node_environment(**changes: str) -> dict[str, str]:
    """The environment for processes of a node or a job: ours, with `changes`, and joining no other cluster."""
    prepare_environment()
    # `python` in a job's entrypoint is the one that runs here, whether or not its environment is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PATH": path} | changes


@contextmanager
def joined(address: str | None = None) -> Iterator[str]:
    """Join the cluster at `address`, the one this process runs in, the one `serinus up` started, or a private new one.

    Yields:
        "joined <address>" or "private": for people.

    Raises:
        ClusterError: the cluster named does not answer, or refuses the token.
        ResourceError: no room for a private one.
        ConfigError: Ray's variables ask for TLS with files that cannot be used.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        yield "joined " + ray.get_runtime_context().gcs_address
        return
    address = address or public_address()
    folder = None
    try:
        if address:
            _join(address)
        else:
            folder = _private_folder()
            _start_private(folder)
        yield f"joined {address}" if address else "private"
    finally:
        ray.shutdown()
        if folder:
            _remove(folder)


def public_address() -> str | None:
    """Of the cluster that commands use: $RAY_ADDRESS, else that of `serinus up`; None when there is neither."""
    return os.environ.get("RAY_ADDRESS") or _address_of_up()


def _address_of_up() -> str | None:
    from cluster import local

    return local.running_address()


def _join(address: str) -> None:
    import ray

    check_answers(address)
    host = address.rpartition(":")[0]
    # On this machine Ray cannot always guess which node is ours: the driver attaches to the head's.
    ours: dict[str, Any] = {"_node_ip_address": host} if host.startswith("127.") or host in addresses_here() else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **ours)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"cluster {address}", f"does not let us in ({_first_line(error)})", _REMEDY) from None


_AGAIN = "free memory and try again, or use `serinus up`"
_REMEDY = "see `serinus status`; start a cluster with `serinus up`, or correct or unset RAY_ADDRESS"
_TOKEN_REMEDY = "put the cluster's token into ~/.ray/auth_token (or name its file in RAY_AUTH_TOKEN_PATH)"  # noqa: S105


def check_answers(address: str) -> None:
    """Return if a Ray head answers at `address` (host:port, or "auto") and takes our token.

    Raises:
        ClusterError: it does not, after at most about ANSWER_TIMEOUT_S.
    """
    where = f"cluster {address}"
    if address == "auto":
        return
    if not re.fullmatch(r"[\w.\-\[\]:]+:\d{1,5}", address):
        raise ClusterError(where, "is not of the form host:port", "give the address and port of the head's GCS")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(where, f"does not answer ({error})", _REMEDY) from None
    if uses_token() and not token():
        raise ClusterError(where, "asks for a token and there is none here", _TOKEN_REMEDY)
    _ask_gcs(where, address)


def _ask_gcs(where: str, address: str) -> None:
    prepare_environment()
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs
    from ray.exceptions import AuthenticationError, RayError

    answers: list[BaseException | None] = []

    def ask() -> None:
        try:
            GcsClient(address=address).check_alive([], timeout=5)
            answers.append(None)
        except (AuthenticationError, RayError, RuntimeError, OSError) as error:
            answers.append(error)

    # In a thread, because the client's own timeout cannot be set and is 40 s.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_TIMEOUT_S)
    match answers[0] if answers else TimeoutError(f"no answer within {ANSWER_TIMEOUT_S:.0f} s"):
        case None:
            return
        case AuthenticationError():
            raise ClusterError(where, "refuses our token", _TOKEN_REMEDY)
        case error:
            silent = f"does not answer as a Ray head ({_first_line(error)})", _REMEDY
            raise ClusterError(where, *(ray_tls.mismatch(address) or silent))


def _private_folder() -> Path:
    """A folder for this process's private cluster; those of processes that were killed are removed."""
    for old in scratch().glob("p*"):
        if old.name[1:].isdigit() and not psutil.pid_exists(int(old.name[1:])):
            _remove(old)
    return scratch() / f"p{os.getpid()}"


def _remove(folder: Path) -> None:
    """A private cluster's folder, and what of it did not hear that it has ended: a busy Ray Train controller stayed for good."""
    end(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _start_private(folder: Path) -> None:
    # Nobody takes this machine back while it is used: without Ray Train's watch for that there is a process less beside the ranks.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    ray_tls.check([PRIVATE_HOST])
    ensure_token()
    silent = ClusterError("private Ray cluster", f"did not start within {START_TIMEOUT_S:.0f} s", _AGAIN)
    try:
        with within(START_TIMEOUT_S, folder, silent):
            _init_patiently(folder)
    except (RuntimeError, ValueError, OSError, TimeoutError) as error:
        found = f"did not start ({_first_line(error)})"
        raise ClusterError("private Ray cluster", found, _AGAIN) from None


def _init_patiently(folder: Path) -> None:
    """Ray raises a bare Exception for a node that took more than its fixed 30 s, as on a busy machine: one more try."""
    import ray

    try:
        _init_private(folder)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        _init_private(folder)


def _init_private(folder: Path) -> None:
    import ray

    num_cores = num_cores_here()
    ray.init(
        "local",
        # Logical: a trainer's ranks and the tasks that feed them share the cores.
        num_cpus=max(4, num_cores),
        labels={CORES_LABEL: str(num_cores)},
        object_store_memory=object_store_bytes(num_nodes=1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address=PRIVATE_HOST,
        _temp_dir=str(folder),
    )


def num_cores_here() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus_of_a_core() -> float:
    """How many CPUs a task asks for that fills a core: a private cluster has more of them than the machine has cores."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and CORES_LABEL in node.get("Labels", {})]
    return max((node["Resources"]["CPU"] / int(node["Labels"][CORES_LABEL]) for node in nodes), default=1)


def package_root() -> Path:
    """The folder with the packages, for runtime environments that ship them."""
    return Path(__file__).resolve().parent.parent


def scratch() -> Path:
    """This user's folder for sessions of Ray, one for each SERINUS_HOME. Short: Unix sockets end at 107 characters.

    Raises:
        ResourceError: someone else made it.
    """
    tag = hashlib.sha256(str(home().absolute()).encode()).hexdigest()[:6]
    folder = Path("/tmp") / f"serinus-{os.getuid()}-{tag}"  # noqa: S108  # ours alone: mode 0700 and owner are checked
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise ResourceError(str(folder), "is not a private folder of ours", "remove it, or set another SERINUS_HOME")
    return folder


def addresses_here() -> set[str]:
    """Of this machine."""
    kinds = (socket.AF_INET, socket.AF_INET6)
    return {a.address for all_of in psutil.net_if_addrs().values() for a in all_of if a.family in kinds}


def object_store_bytes(num_nodes: int = 4) -> int:
    """Size of one node's object store, where so many nodes share the machine: together 8 % of the memory, each 256 MiB to 8 GiB."""
    return min(max(psutil.virtual_memory().total * 2 // 25 // num_nodes, 256 << 20), 8 << 30)


def visible_gpus() -> list[str]:
    """Names of the NVIDIA GPUs this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    # A container has the device files of its own GPUs only; CUDA numbers those from 0.
    return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def api_server() -> str | None:
    """URL of a cluster's dashboard, as Ray's own tools name it: $RAY_API_SERVER_ADDRESS."""
    return os.environ.get("RAY_API_SERVER_ADDRESS")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""A pool whose only machine joins and dies as its work is under way, on real Ray nodes; run by test_node_loss.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

from cluster import node_loss
from cluster.errors import ProcessDied, ResourceError
from cluster.pools import num_nodes, on_pool
from cluster.ports import free_port
from cluster.session import prepare_environment
from cluster.topology import POOL_LABEL
from cluster.waiting import wait_for_node, watched

NODE: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
SERVE = {POOL_LABEL: "serve"}
LONGER_THAN_A_POLL_S = 2.0

begun, died = Event(), Event()
found: list[int] = []
"""Machines of the pool, at each call."""


def work() -> str:
    found.append(num_nodes(SERVE))
    if len(found) > 1:
        return "done"
    begun.set()
    died.wait()
    raise ProcessDied("evaluate", "its process died", "look why")


@contextmanager
def refused() -> Iterator[None]:
    """Prints it, and that there was none."""
    try:
        yield
        print("went on")
    except ResourceError as error:
        print(error)


def main() -> None:
    prepare_environment()
    import ray
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={**NODE, "gcs_server_port": free_port(20_000)})
    try:
        ray.init(address=machines.address, log_to_driver=False)
        with ThreadPoolExecutor(1) as thread:  # Ray starts nodes from the main thread alone
            end = thread.submit(node_loss.outliving_its_node, "evaluate", "serve", work)
            begun.wait()
            machines.remove_node(machines.add_node(**NODE, labels=SERVE), allow_graceful=False)
            died.set()
            while not node_loss.gone("serve"):
                time.sleep(0.1)
            time.sleep(LONGER_THAN_A_POLL_S)  # in which it must not go on
            last = machines.add_node(**NODE, labels=SERVE)
            print(end.result(60), found)
        with refused(), watched("evaluate", "serve", timeout_s=1):
            machines.remove_node(last, allow_graceful=False)
            ray.get(ray.remote(num_cpus=1)(lambda: 0).options(label_selector=on_pool("serve")).remote())
        with refused():
            wait_for_node("quantize", "serve", timeout_s=1)
    finally:
        ray.shutdown()
        machines.shutdown()


if __name__ == "__main__":
    main()

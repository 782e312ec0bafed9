"""Engines that share items on several machines, of which one dies, on real Ray nodes; run by test_node_loss.py."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.node_loss import gone
from cluster.ports import free_port
from cluster.session import prepare_environment
from cluster.topology import POOL_LABEL
from pipelines.config import EvaluateConfig
from pipelines.evaluation import pool
from pipelines.evaluation.engine import EngineSettings
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.sharing import FIRST_BATCH
from pipelines.task_config import TaskConfig

NODE: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
"""Two engines find room."""
ITEMS = [Item("text", "perplexity", str(number), "", ("words",)) for number in range(10 * FIRST_BATCH)]
WITHIN_S = 60.0


class Held:
    """In the place of an engine: notes in the folder that it has items, and answers once `go` lies there."""

    def start(self, settings: EngineSettings) -> None:
        import ray

        self.folder, self.node = Path(settings.model_folder), ray.get_runtime_context().get_node_id()

    def answer(self, items: Sequence[Item]) -> list[Row]:
        (self.folder / f"{os.getpid()}.{self.node}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.05)
        return [{"id": item.id, "engine": os.getpid(), "node": self.node} for item in items]


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def answered(threads: ThreadPoolExecutor, folder: Path, num_engines: int, held: int, then: Callable[[], object]) -> Any:
    """The rows of engines of which so many come to have items, after which something happens; and on which nodes these were."""
    config = EvaluateConfig(tasks=(TaskConfig(name="text", kind="perplexity"),), num_engines=num_engines)
    engine = pool.engine_settings(config, "", str(folder), num_weight_bytes=0, kind="transformers")
    end = threads.submit(pool.answers, config, engine, ITEMS)
    until(lambda: len(list(folder.iterdir())) == held or end.done(), f"{held} engines have items")
    on = Counter(path.suffix[1:] for path in folder.iterdir())
    then()
    (folder / "go").touch()
    rows, speed = end.result(WITHIN_S)
    assert [row["id"] for row in rows] == [item.id for item in ITEMS]
    assert speed is None
    return rows, on


def main() -> None:
    prepare_environment()
    import ray
    from ray.cluster_utils import Cluster

    pool.Reference = Held  # type: ignore[assignment, misc]
    machines = Cluster(initialize_head=True, head_node_args={**NODE, "gcs_server_port": free_port(20_000)})
    folders = [Path(tempfile.mkdtemp()) for _ in range(2)]
    try:
        ray.init(address=machines.address, log_to_driver=False)
        stays, dies = (machines.add_node(**NODE, labels={POOL_LABEL: "serve"}) for _ in range(2))
        with ThreadPoolExecutor(1) as threads:  # Ray starts nodes from the main thread alone
            rows, on = answered(threads, folders[0], 2, 2, lambda: None)
            print("spread", sorted(on.values()), len({row["engine"] for row in rows}))

            def lose() -> None:
                machines.remove_node(dies, allow_graceful=False)
                until(lambda: bool(gone("serve")), "the head knows that the machine died")

            rows, on = answered(threads, folders[1], 5, 4, lose)
            print("before", sorted(on.values()))
            print(
                "after",
                sorted(Counter(row["node"] for row in rows)) == [stays.node_id],
                len({r["engine"] for r in rows}),
            )
        until(lambda: ray.available_resources().get("CPU") == 2, "engines that answered or found no room have ended")
        print("ended")
    finally:
        ray.shutdown()
        machines.shutdown()


if __name__ == "__main__":
    main()

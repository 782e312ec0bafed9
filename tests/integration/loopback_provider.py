"""A provider for Ray's autoscaler whose machines are `ray start`s on loopback addresses of this one. Used in the head's monitor.

Keys of `provider` in the cluster's file: `folder` (of the machines' sessions), `head` (GCS address of the head).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from cluster.processes import end

HEAD = "machine-head"
RAY = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())", "start"]
STORE_BYTES = 256 << 20
TRIES = 'for _ in 1 2 3 4 5; do rm -f "$0/ray_current_cluster"; "$@" && exit 0; done; exit 1'
"""A busy machine needs more than Ray's fixed 30 s for a node at times."""


def start_command(host: str, folder: Path, *options: str) -> list[str]:
    """`ray start` of one of several nodes of a machine, tried again where it fails."""
    own = [f"--node-ip-address={host}", f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0"]
    return [
        "bash",
        "-c",
        TRIES,
        str(folder),
        *RAY,
        "--disable-usage-stats",
        f"--object-store-memory={STORE_BYTES}",
        *own,
        *options,
    ]


class LoopbackProvider(NodeProvider):
    """Machines 127.0.1.2, .3 and on, each used once. What it does is written to machines.jsonl in its folder."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._folder, self._lock = Path(provider_config["folder"]), threading.Lock()
        self._tags = {HEAD: {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: "head"}}
        self._num_made = 0

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self._lock:
            return [node for node, tags in self._tags.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._tags.get(node_id, {})

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._tags[node_id] |= tags

    def internal_ip(self, node_id: str) -> str:
        return node_id.removeprefix("machine-")

    external_ip = internal_ip

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        for _ in range(count):
            with self._lock:
                self._num_made += 1
                host = f"127.0.1.{self._num_made + 1}"
                self._tags[f"machine-{host}"] = dict(tags)
            self._start(host, tags[TAG_RAY_USER_NODE_TYPE], resources, labels)

    def _start(self, host: str, kind: str, resources: dict[str, float], labels: dict[str, str]) -> None:
        folder = self._folder / host
        folder.mkdir()
        options = [
            f"--address={self.provider_config['head']}",
            f"--num-cpus={int(resources['CPU'])}",
            "--labels=" + ",".join(f"{name}={value}" for name, value in labels.items()),
            f"--dashboard-agent-listen-port={52500 + self._num_made}",
            f"--metrics-export-port={8500 + self._num_made}",
        ]
        environment = {**os.environ, "RAY_CLOUD_INSTANCE_ID": f"machine-{host}", "RAY_NODE_TYPE_NAME": kind}
        with open(folder / "start.log", "wb") as log:
            subprocess.Popen(start_command(host, folder, *options), env=environment, stdout=log, stderr=log)
        self._tell("started", host, kind)

    def terminate_node(self, node_id: str) -> None:
        with self._lock:
            kind = self._tags.pop(node_id, {}).get(TAG_RAY_USER_NODE_TYPE, "")
        end(self._folder / self.internal_ip(node_id))
        self._tell("ended", self.internal_ip(node_id), kind)

    def _tell(self, what: str, host: str, kind: str) -> None:
        with open(self._folder / "machines.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, "host": host, "kind": kind}) + "\n")

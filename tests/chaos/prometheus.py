"""A real Prometheus that scrapes the nodes of a cluster, with our alert rules loaded."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster.kuberay.monitoring import rules
from tests.integration.gateway_world import eventually, free_port

IS_INSTALLED = shutil.which("prometheus") is not None


class Prometheus:
    """Use as a context manager."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        self._folder, self.url = folder, f"http://127.0.0.1:{free_port()}"
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules("serinus")["spec"]))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": list(targets)}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        address = self.url.removeprefix("http://")
        options = ["--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(["prometheus", *options], cwd=self._folder, stdout=log, stderr=log)
        eventually(self._is_ready, 60)
        return self

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Series of an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def alerts(self) -> dict[str, tuple[str, str]]:
        """Of each alert whether its expression could be evaluated, and its state."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        return {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

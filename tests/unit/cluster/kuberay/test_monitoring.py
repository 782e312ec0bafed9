"""Alerts rest on metrics that exist, and each of them fires once in a real Prometheus's rule test."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import telemetry
from cluster.kuberay import access, monitoring
from cluster.kuberay.jobs import jobs
from cluster.kuberay.settings import OVERLAYS
from services import contract
from services.contract import HARMFUL, Outcome
from tests.unit.cluster.kuberay.conftest import shipped, workload

HERE = Path(__file__).parent
OURS = {value for name, value in vars(telemetry).items() if name.isupper() and str(value).startswith("serinus_")}
SPEC = monitoring.rules("serinus")["spec"]


def exported(name: str) -> bool:
    """Whether Prometheus finds `ray_<name>` here: one of ours, or one that Ray's own source exports."""
    return re.sub(r"_(total|bucket)$", "", name) in OURS or f'"{name}"' in _ray_sources()


@functools.cache
def _ray_sources() -> str:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    ray = Path(found.origin).parent
    sources = [ray / "dashboard/modules/reporter/reporter_agent.py", *(ray / "serve/_private").glob("*.py")]
    return "\n".join(path.read_text() for path in sources)


def test_every_metric_of_an_alert_exists() -> None:
    used = {name for rule in SPEC["groups"][0]["rules"] for name in re.findall(r"\bray_(?!io_)(\w+)", rule["expr"])}
    assert used >= {"serinus_requests_total", "node_mem_used"}
    assert [name for name in used if not exported(name)] == []
    assert not exported("serinus_nothing_total")


def test_what_counts_as_harmful_is_what_a_rollout_counts() -> None:
    assert set(monitoring.HARMFUL.split("|")) == HARMFUL
    assert set(monitoring.NOT_COUNTED.split("|")) - {"refused"} <= set(Outcome.__args__) - HARMFUL  # type: ignore[attr-defined]


def test_the_gateway_is_called_what_it_is_deployed_as() -> None:
    assert monitoring.GATEWAY == contract.GATEWAY


@pytest.mark.parametrize("what", ["lifecycle", "train", "nightly"])
def test_the_clusters_of_jobs_are_scraped_too(what: str) -> None:
    """A stage's driver runs on the head of its job's cluster, and KubeRay labels all pods of all clusters as Ray's nodes."""
    (monitor,) = [one for one in monitoring.documents("serinus") if one["kind"] == "PodMonitor"]
    assert monitor["spec"]["selector"] == access.RAY_PODS
    assert "namespaceSelector" not in monitor["spec"], "its own namespace, where jobs are created"
    work = workload("production")
    assert work is not None
    spec = jobs(shipped(), OVERLAYS["production"], work)[what]["spec"]
    cluster = spec.get("jobTemplate", spec)["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    (wanted,) = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for group in groups:
        (container, *_) = group["template"]["spec"]["containers"]
        assert wanted in {port["name"] for port in container["ports"]}


def test_every_alert_has_its_case() -> None:
    cases = yaml.safe_load((HERE / "alerts_test.yaml").read_text())["tests"]
    tested = {alert["alertname"] for case in cases for alert in case.get("alert_rule_test", ()) if alert["exp_alerts"]}
    assert tested == {rule["alert"] for rule in SPEC["groups"][0]["rules"]}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_each_alert_fires_once_and_is_silent_when_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "serinus.rules.yaml").write_text(yaml.safe_dump(SPEC))
    (tmp_path / "alerts_test.yaml").write_text((HERE / "alerts_test.yaml").read_text())
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

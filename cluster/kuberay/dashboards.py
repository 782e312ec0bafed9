"""Grafana dashboards, said here and rendered as JSON: their metrics are the names that telemetry gives and that Ray's nodes export.

Plain files are for any Grafana (Dashboards, New, Import); the sidecar of Grafana's Helm chart finds the ConfigMap by its label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cluster.kuberay.monitoring import HARMFUL, NOT_COUNTED
from cluster.kuberay.panels import OURS, Dashboard, Line, Panel
from cluster.kuberay.pipelines_page import PIPELINES
from cluster.kuberay.settings import Document, metadata
from cluster.telemetry import (
    DECAY_PHASE,
    EVIDENCE_LOST,
    FEEDBACK,
    REFUSED,
    REQUESTS,
    ROLLOUT_TURN,
    ROLLOUT_WAITS,
    ROLLOUT_WEIGHT,
    SHADOW_REPLIES,
    TOKENS,
    TPOT,
    TTFT,
)

SCHEMA_VERSION = 39
"""Of Grafana's dashboard model; later versions migrate it when they load it."""
WIDTH, HEIGHT, PER_ROW = 12, 8, 2
"""Of a panel, in Grafana's 24 columns."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _rate(metric: str, by: str, more: str = "") -> str:
    chosen = f"{OURS}, {more}" if more else OURS
    return f"sum by ({by}) (rate(ray_{metric}{{{chosen}}}[$__rate_interval]))"


def _quantiles(metric: str, quantiles: Sequence[float]) -> tuple[Line, ...]:
    by = "revision, role, le"
    return tuple(
        Line(
            f"histogram_quantile({q:g}, {_rate(f'{metric}_bucket', by)})",
            f"p{q * 100:g} {{{{revision}}}} ({{{{role}}}})",
        )
        for q in quantiles
    )


def _harmful_share(by: str) -> str:
    counted = f'outcome!~"{NOT_COUNTED}"'
    harmful = f'outcome=~"{HARMFUL}"'
    return f"{_rate(f'{REQUESTS}_total', by, harmful)} / {_rate(f'{REQUESTS}_total', by, counted)}"


SERVING = Dashboard(
    "serinus-serving",
    "serinus: serving",
    f"{REQUESTS}_total",
    (
        Panel("Requests", "reqps", (Line(_rate(f"{REQUESTS}_total", "revision, role"), "{{revision}} ({{role}})"),)),
        Panel(
            "Harmful answers",
            "percentunit",
            (Line(_harmful_share("revision, role"), "{{revision}} ({{role}})"),),
            "Share of the answers that count; what clients cancelled or were refused is left out, as rollouts do.",
        ),
        Panel("Time to first token", "s", _quantiles(TTFT, (0.5, 0.9, 0.99))),
        Panel("Time per output token", "s", _quantiles(TPOT, (0.5, 0.9))),
        Panel("Outcomes", "reqps", (Line(_rate(f"{REQUESTS}_total", "outcome"), "{{outcome}}"),)),
        Panel(
            "Refused before they reached a revision",
            "reqps",
            (Line(_rate(f"{REFUSED}_total", "code"), "{{code}}"),),
        ),
        Panel("Tokens", "short", (Line(_rate(f"{TOKENS}_total", "kind"), "{{kind}} per second"),)),
        Panel(
            "Users' votes",
            "short",
            (Line(_rate(f"{FEEDBACK}_total", "revision, thumb"), "{{thumb}} {{revision}} per second"),),
        ),
    ),
)

ROLLOUTS = Dashboard(
    "serinus-rollouts",
    "serinus: rollouts",
    f"{REQUESTS}_total",
    (
        Panel(
            "Canary's share of users",
            "percent",
            (Line(f"max by (model) (ray_{ROLLOUT_WEIGHT}{{{OURS}}})", "{{model}}"),),
        ),
        Panel("Harmful answers by role", "percentunit", (Line(_harmful_share("role"), "{{role}}"),)),
        Panel(
            "Newest decision not in force yet",
            "s",
            (Line(f"max by (model) (ray_{ROLLOUT_WAITS}{{{OURS}}})", "{{model}}"),),
            "It waits for replicas of the candidate, or for a gateway to apply the weight.",
        ),
        Panel(
            "Since the controller's last turn",
            "s",
            (Line(f"time() - max by (model) (ray_{ROLLOUT_TURN}{{{OURS}}})", "{{model}}"),),
        ),
        Panel(
            "Evidence lost",
            "short",
            (Line(f"sum by (model) (increase(ray_{EVIDENCE_LOST}_total{{{OURS}}}[$__rate_interval]))", "{{model}}"),),
            "Records of requests that no controller took before a gateway had to let them go.",
        ),
        Panel(
            "Watch over the stable model",
            "short",
            (Line(f"max by (model, phase) (ray_{DECAY_PHASE}{{{OURS}}}) > 0", "{{model}} {{phase}}"),),
        ),
        Panel(
            "Copied requests",
            "reqps",
            (Line(_rate(f"{SHADOW_REPLIES}_total", "result, same_finish"), "{{result}}, same finish {{same_finish}}"),),
        ),
        Panel("Time to first token, nine in ten", "s", _quantiles(TTFT, (0.9,))),
    ),
)

CLUSTER = Dashboard(
    "serinus-cluster",
    "serinus: cluster",
    None,
    (
        Panel("CPU", "percent", (Line("max by (instance) (ray_node_cpu_utilization)", "{{instance}}"),)),
        Panel(
            "Memory",
            "percentunit",
            (Line("max by (instance) (ray_node_mem_used / ray_node_mem_total)", "{{instance}}"),),
        ),
        Panel("GPU", "percent", (Line("avg by (instance) (ray_node_gpus_utilization)", "{{instance}}"),)),
        Panel(
            "GPU memory",
            "decmbytes",
            (Line("sum by (instance) (ray_node_gram_used)", "{{instance}}"),),
        ),
        Panel(
            "Disk left",
            "percentunit",
            (
                Line(
                    "min by (instance) (ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage))",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Healthy replicas",
            "short",
            (
                Line(
                    "sum by (application, deployment) (ray_serve_deployment_replica_healthy)",
                    "{{application}} {{deployment}}",
                ),
            ),
        ),
    ),
)

ALL = (SERVING, ROLLOUTS, PIPELINES, CLUSTER)


def as_json(dashboard: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    return json.dumps(model(dashboard), indent=1) + "\n"


def files() -> dict[str, str]:
    """File name -> JSON, of every dashboard."""
    return {f"{dashboard.uid}.json": as_json(dashboard) for dashboard in ALL}


def config_map() -> Document:
    """All dashboards, where Grafana's sidecar looks for them."""
    about = metadata("serinus-dashboards", "monitoring")
    about["labels"] = {**about["labels"], "grafana_dashboard": "1"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": files()}


def model(dashboard: Dashboard) -> Document:
    """Grafana's dashboard model."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["serinus"],
        "editable": True,
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "panels": [_panel(index, panel) for index, panel in enumerate(dashboard.panels)],
    }


def _variables(dashboard: Dashboard) -> list[Document]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    if dashboard.models_of is None:
        return [source]
    query = f"label_values(ray_{dashboard.models_of}, model)"
    chosen = {"name": "model", "label": "Model", "type": "query", "datasource": DATASOURCE, "query": query}
    return [source, {**chosen, "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*"}]


def _panel(index: int, panel: Panel) -> Document:
    place = {"x": WIDTH * (index % PER_ROW), "y": HEIGHT * (index // PER_ROW), "w": WIDTH, "h": HEIGHT}
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": line.expr, "legendFormat": line.legend}
            for number, line in enumerate(panel.lines)
        ],
    }

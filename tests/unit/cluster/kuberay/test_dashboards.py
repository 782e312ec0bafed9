"""Dashboards as Grafana's model has them, each picture of metrics that exist, each query one that Prometheus reads."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from cluster.kuberay import dashboards
from tests.unit.cluster.kuberay.test_monitoring import exported

MODELS = [json.loads(text) for text in dashboards.files().values()]
PANELS = [panel for model in MODELS for panel in model["panels"]]
BY_TITLE = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
UNITS = {"s", "reqps", "percent", "percentunit", "short", "decmbytes", "Bps", "bytes"}
"""Ids of Grafana's own list of units that are in use here."""


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["uid"])
def test_a_dashboard_has_what_grafanas_model_asks_for(model: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", model["uid"])
    assert isinstance(model["schemaVersion"], int)
    assert model["title"]
    assert set(model["time"]) == {"from", "to"}
    variables = {variable["name"]: variable for variable in model["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(model))) - {"__rate_interval"}
    assert used == set(variables), "each variable is used, and each one used is there"
    assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"])


def through_grafanas_types(model: dict[str, Any]) -> dict[str, Any]:
    """What is left of a dashboard that Grafana's own SDK, generated from its schema, reads and writes again."""
    plugins.register_default_plugins()  # the kinds of panels and queries
    kept: dict[str, Any] = json.loads(encoder.JSONEncoder().encode(Dashboard.from_json(model)))
    return kept


def lost(given: Any, kept: Any, place: str = "") -> list[str]:
    """Where `kept` lacks a key of `given`, or has another value."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [one for key in given for one in lost(given[key], kept.get(key), f"{place}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [one for pair in zip(given, kept, strict=True) for one in lost(*pair, f"{place}[]")]
    return [] if given == kept else [place]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["uid"])
def test_grafanas_own_types_know_every_key_of_a_dashboard(model: dict[str, Any]) -> None:
    assert lost(model, through_grafanas_types(model)) == []


@pytest.mark.parametrize("place", ["", "gridPos", "fieldConfig", "options", "targets"])
def test_a_key_that_grafana_does_not_know_is_found(place: str) -> None:
    model = json.loads(json.dumps(MODELS[0]))
    within = model["panels"][0][place] if place else model["panels"][0]
    (within[0] if isinstance(within, list) else within)["misspelt"] = 1
    (found,) = lost(model, through_grafanas_types(model))
    assert found.endswith(".misspelt")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["uid"])
def test_panels_fit_the_grid_and_cover_none_of_each_other(model: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in model["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
    for one, other in itertools.combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@BY_TITLE
def test_a_panel_asks_the_chosen_source_and_knows_its_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] == "timeseries"
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    refs = [target["refId"] for target in panel["targets"]]
    assert refs
    assert len(set(refs)) == len(refs)
    for asked in (panel, *panel["targets"]):
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
        assert shown <= grouped, "a legend's label would be empty"


@BY_TITLE
def test_every_metric_of_a_panel_exists(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        names = set(re.findall(r"\bray_(\w+)", target["expr"]))
        assert names
        assert [name for name in names if not exported(name)] == []


def test_the_config_map_is_found_by_grafanas_sidecar_and_holds_the_files() -> None:
    found = dashboards.config_map()
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["data"] == dashboards.files()
    assert len(json.dumps(found)) < 1 << 20, "Kubernetes takes no larger one"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    # As Grafana fills them in.
    filled = [expr.replace("$__rate_interval", "1m").replace("$model", ".*") for expr in asked]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(filled)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""A recipe as it holds inside the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from cluster.config import Location
from cluster.errors import ConfigError
from cluster.kuberay.recipe import LOCATIONS, in_cluster
from cluster.kuberay.settings import OVERLAYS
from serinus_recipe import Recipe
from tests.unit.cluster.kuberay.conftest import workload

ROOT = Path("/home/someone/serinus")
GOOD: dict[str, Any] = {
    "name": "m",
    "storage": "s3://bucket/folder",
    "data": {"sources": [{"path": "s3://bucket/raw"}, {"path": "/home/someone/serinus/recipes/quickstart/raw"}]},
    "model": {"source": "hf://a/b"},
    "serve": {"port": 9000, "admission": {"keys": "/home/someone/keys.yaml", "timeout_s": 5}},
}


def moved(overlay: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(in_cluster({**GOOD, **changes}, "r.yaml", ROOT, OVERLAYS[overlay]))
    return found


def test_the_projects_paths_are_the_images_and_the_keys_a_secret() -> None:
    found = moved("gpu")
    assert [source["path"] for source in found["data"]["sources"]] == [
        "s3://bucket/raw",
        "/opt/serinus/recipes/quickstart/raw",
    ]
    assert found["serve"] == {
        "port": 9000,
        "admission": {"keys": "/etc/serinus/keys/keys.yaml", "timeout_s": 5},
        "host": "0.0.0.0",
    }
    assert GOOD["serve"]["admission"]["keys"] == "/home/someone/keys.yaml", "the recipe that was read stays as it is"


def test_the_control_api_stays_on_the_heads_loopback_and_its_keys_are_a_secret() -> None:
    serve = {"control": {"keys": "/home/someone/control.yaml", "port": 9010}}
    assert moved("gpu", serve=serve)["serve"] == {
        "control": {"keys": "/etc/serinus/keys/control-keys.yaml", "port": 9010},
        "host": "0.0.0.0",
    }
    with pytest.raises(ConfigError, match=r"serve\.control\.host"):
        moved("gpu", serve={"control": {**serve["control"], "host": "0.0.0.0"}})


def test_the_gateways_certificate_is_a_secrets() -> None:
    pair = {"certificate": "/home/someone/a.pem", "key": "/home/someone/b.pem"}
    assert moved("gpu", serve={"tls": pair})["serve"]["tls"] == {
        "certificate": "/etc/serinus/tls/tls.crt",
        "key": "/etc/serinus/tls/tls.key",
    }


@pytest.mark.parametrize(
    ("overlay", "changes", "field", "remedy"),
    [
        ("gpu", {"model": {"source": "/home/someone/model.gguf"}}, "model.source", "use s3://"),
        ("gpu", {"data": {"sources": [{"path": "/data"}]}}, "data.sources[0].path", "use s3://"),
        ("gpu", {"storage": "/home/someone/serinus/build/store"}, "storage", "use s3://bucket/folder"),
        ("gpu", {"serve": {"entry": "direct"}}, "serve.entry", "use `proxy`"),
        ("dev", {"storage": "/home/someone/serinus/store"}, "storage", "or below /opt/serinus/build"),
        (
            "gpu",
            {"notify": {"webhooks": [{"url_env": "A"}, {"url": "https://h/s"}]}},
            "notify.webhooks[1].url",
            "`url_env`",
        ),
        ("gpu", {"data": {"protect": {"key_file": "/k"}}}, "data.protect.key_file", "choose `mask`"),
    ],
)
def test_a_path_that_leads_nowhere_in_the_cluster_is_refused(
    overlay: str, changes: dict[str, Any], field: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        moved(overlay, **changes)
    assert refused.value.where == f"r.yaml: {field}"
    assert remedy in refused.value.remedy


def test_the_shared_folder_of_dev_takes_a_storage() -> None:
    assert moved("dev", storage="/home/someone/serinus/build/store")["storage"] == "/opt/serinus/build/store"


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_what_is_rendered_is_a_recipe(overlay: str, tmp_path: Path) -> None:
    work = workload(overlay)
    assert work is not None
    loaded = Recipe.model_validate(yaml.safe_load(work.recipe))
    assert loaded.serve.host == "0.0.0.0"


def test_every_field_that_holds_a_place_is_known() -> None:
    assert {*_fields_with_places(Recipe), "storage"} == LOCATIONS | {"keys", "key_file", "certificate", "key"}


def _fields_with_places(model: type[BaseModel]) -> set[str]:
    marker = get_args(Location)[1]
    found: set[str] = set()
    for name, field in model.model_fields.items():
        if marker in field.metadata or any(marker in get_args(part) for part in get_args(field.annotation)):
            found.add(name)
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= _fields_with_places(part)
    return found

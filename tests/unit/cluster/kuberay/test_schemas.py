"""Each document fits the schemas of KubeRay (with their CEL rules) and of Kubernetes itself; unknown keys are noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.rules import pods
from tests.unit.cluster.kuberay.conftest import rendered

RAY = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
KUBERNETES = "1.33"
"""Of what the documents use nothing is younger."""


@cache
def schema_of(folder: Path, kind: str) -> dict[str, Any]:
    crd = yaml.load((folder / f"ray.io_{RAY[kind]}.yaml").read_text(), Loader=yaml.CSafeLoader)
    found: dict[str, Any] = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    return found


def problems(document: dict[str, Any], folder: Path) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    schema = schema_of(folder, document["kind"])
    errors = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]
    return [*errors, *_unknown(document, schema, ""), *_broken_rules(document, schema, "")]


def test_kuberay_takes_every_document(documents: list[dict[str, Any]], shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("kuberay-crds")
    of_ray = [document for document in documents if document["kind"] in RAY]
    assert of_ray
    assert [problem for document in of_ray for problem in problems(document, folder)] == []


def test_kubernetes_takes_every_document_and_every_pod(documents: list[dict[str, Any]]) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    others = [d for d in documents if "ray.io" not in d["apiVersion"] and "coreos" not in d["apiVersion"]]
    for document in [*others, *(_as_pod(pod) for found in documents for _, pod in pods(found))]:
        validator.validate(document, KUBERNETES, strict=True)


def _as_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    *way, last = path.split("/")
    for step in way:
        document = document[int(step)] if isinstance(document, list) else document[step]
    document[last] = value


BROKEN_RAY = [
    ("RayCluster", "spec/autoscalerOption", {}, ".spec.autoscalerOption"),
    ("RayCluster", "spec/autoscalerOptions/version", "v3", "'v3' is not one of"),
    ("RayCluster", "spec/authOptions/mode", "open", "'open' is not one of"),
    ("RayCluster", "spec/workerGroupSpecs/0/maxReplicas", "eight", "'eight' is not of type"),
    ("RayCluster", "spec/workerGroupSpecs/0/template/spec/container", [], ".spec.container"),
    ("RayCluster", "spec/gcsFaultToleranceOptions/redisPassword/valueFrom/secretKeyRef", {"name": "x"}, "'key' is a required"),
    ("RayJob", "spec/entrypoints", "serinus", ".spec.entrypoints"),
    ("RayCronJob", "spec/jobTemplate/backoffLimit", "two", "'two' is not of type"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "value", "says"), BROKEN_RAY, ids=[row[1] for row in BROKEN_RAY])
def test_kuberay_refuses(kind: str, path: str, value: Any, says: str, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("kuberay-crds")
    document = copy.deepcopy(next(d for d in rendered("production") if d["kind"] == kind))
    _put(document, path, value)
    assert any(says in problem for problem in problems(document, folder))


BROKEN_BY_RULE = [
    ("RayCluster", "spec/managedBy", "someone", "must be either"),
    ("RayJob", "spec/deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}, "requires either BOTH"),
    ("RayJob", "spec/deletionStrategy", {"onSuccess": {}, "onFailure": {}, "deletionRules": []}, "cannot be used together"),
    ("RayJob", "spec/deletionStrategy", {"deletionRules": [{"policy": "DeleteSelf", "condition": {}}]}, "the JobStatus or"),
    ("RayCronJob", "spec/jobTemplate/managedBy", "someone", "must be either"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "value", "says"), BROKEN_BY_RULE, ids=[row[3] for row in BROKEN_BY_RULE])
def test_kuberay_rules_refuse(kind: str, path: str, value: Any, says: str, shared_data: Callable[[str], Path]) -> None:
    pytest.importorskip("cel_expr_python", reason="cel-expr-python is not installed")
    folder = shared_data("kuberay-crds")
    document = copy.deepcopy(next(d for d in rendered("production") if d["kind"] == kind))
    _put(document, path, value)
    assert any(says in problem for problem in problems(document, folder))


BROKEN_KUBERNETES = [
    ("NetworkPolicy", "spec/podSelectors", {}),
    ("Service", "spec/ports/0/targetPorts", 1),
    ("PodDisruptionBudget", "spec/minAvailable", []),
    ("StatefulSet", "spec/template/spec/containers/0/livenessProbe/exec/cmd", []),
    ("Role", "rules/0/verbs", "get"),
]


@pytest.mark.parametrize(("kind", "path", "value"), BROKEN_KUBERNETES, ids=[row[0] for row in BROKEN_KUBERNETES])
def test_kubernetes_refuses(kind: str, path: str, value: Any) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    document = copy.deepcopy(next(d for d in rendered("production") if d["kind"] == kind))
    _put(document, path, value)
    with pytest.raises(validator.ValidationError):
        validator.validate(document, KUBERNETES, strict=True)


def _unknown(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """Keys the schema does not know: Kubernetes would drop them silently."""
    if isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            if key in schema["properties"]:
                yield from _unknown(item, schema["properties"][key], f"{where}.{key}")
            else:
                yield f"{where}.{key}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{where}[{index}]")


def _broken_rules(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """The schema's CEL rules, where the package that evaluates them is there. A transition is from the document to itself."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if not _holds(rule["rule"], value):
            yield f"{where}: {rule['message']}"
    if isinstance(value, dict):
        for key, item in value.items():
            below = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(below, dict):
                yield from _broken_rules(item, below, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(item, schema.get("items", {}), f"{where}[{index}]")


def _holds(rule: str, value: Any) -> bool:
    try:
        from cel_expr_python import cel
    except ImportError:
        return True
    anything = {"self": cel.Type.DYN, "oldSelf": cel.Type.DYN}
    result = cel.NewEnv(variables=anything).compile(rule).eval(data={"self": value, "oldSelf": value})
    return bool(result.value() is True)

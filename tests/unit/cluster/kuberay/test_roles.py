"""Who may do what: each role as Kubernetes would judge it, and the commands that go through it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cluster.kuberay import access, render, roles
from tests.unit.cluster.kuberay.conftest import shipped

ROLES = {document["metadata"]["name"]: document for document in roles.documents() if document["kind"] == "Role"}


def may(role: dict[str, Any], verb: str, group: str, resource: str) -> bool:
    """As the API server's RBAC says: some rule allows it."""
    return any(
        verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"] for rule in role["rules"]
    )


@pytest.mark.parametrize(
    ("verb", "group", "resource", "least"),
    [
        ("get", "ray.io", "rayjobs", "viewer"),
        ("get", "", "pods/log", "viewer"),
        ("create", "ray.io", "rayjobs", "operator"),
        ("create", "", "pods/exec", "operator"),
        ("get", "", "secrets", "admin"),
        ("list", "", "secrets", "admin"),
        ("create", "", "secrets", "admin"),
        ("patch", "ray.io", "rayclusters", "admin"),
        ("delete", "networking.k8s.io", "networkpolicies", "admin"),
        ("create", "rbac.authorization.k8s.io", "rolebindings", "admin"),
        ("create", "", "serviceaccounts/token", None),
        ("impersonate", "", "users", None),
        ("escalate", "rbac.authorization.k8s.io", "roles", None),
        ("bind", "rbac.authorization.k8s.io", "roles", None),
        ("create", "", "pods", None),
    ],
)
def test_a_right_begins_with_a_role(verb: str, group: str, resource: str, least: str | None) -> None:
    order = list(roles.ROLES)
    allowed = [name for name in order if may(ROLES[f"serinus-{name}"], verb, group, resource)]
    assert allowed == (order[order.index(least) :] if least else [])


def test_nothing_is_granted_by_a_star_and_nothing_beyond_the_namespace() -> None:
    for document in roles.documents():
        assert document["kind"] in ("Role", "RoleBinding"), "a ClusterRole holds everywhere"
        assert "*" not in str(document)


def test_a_viewer_changes_nothing() -> None:
    assert {verb for rule in ROLES["serinus-viewer"]["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}


def test_an_admin_may_apply_and_take_back_all_that_is_rendered() -> None:
    """Roles too: who grants one must have what is in it, the head's as well."""
    admin = ROLES["serinus-admin"]
    parts = {**render.base(shipped()), **render.additions(shipped(), render.settings_of("production"), None)}
    for document in (d for documents in parts.values() for d in documents):
        group = document["apiVersion"].rpartition("/")[0]
        plural = f"{document['kind'].lower()}s".replace("policys", "policies")
        for verb in ("get", "create", "patch", "delete"):
            assert may(admin, verb, group, plural), f"{verb} {plural}"
    granted = [d for d in (*access.accounts(), *roles.documents()) if d["kind"] == "Role"]
    for rule in (rule for role in granted for rule in role["rules"]):
        for group, resource, verb in (
            (g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]
        ):
            assert may(admin, verb, group, resource), f"cannot grant {verb} {resource}"


def test_each_role_is_a_groups() -> None:
    bound = {d["roleRef"]["name"]: d["subjects"] for d in roles.documents() if d["kind"] == "RoleBinding"}
    assert {name: subjects[0]["name"] for name, subjects in bound.items()} == {
        f"serinus-{name}": f"serinus:{name}" for name in roles.ROLES
    }
    assert yaml.safe_load(render.as_yaml(roles.documents()[:1])) == roles.documents()[0]

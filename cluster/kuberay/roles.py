"""Who may do what with a cluster on Kubernetes: viewer, operator and admin, as Roles of the namespace.

serinus has no control API of its own: a rollout is steered by commands on the head, jobs are RayJobs. So the API server is where
people come in, knows who they are and writes it down, and these roles are what serinus asks it to allow. Each has what the one
before has. Groups come from the cluster's way of logging in (OIDC, certificates); one that no one is in grants nothing.
"""

from __future__ import annotations

from cluster.kuberay.settings import PEOPLE, Document, metadata

READ, WRITE = ("get", "list", "watch"), ("create", "update", "patch", "delete")

Rights = dict[tuple[str, str], tuple[str, ...]]
"""(API group, resource) -> verbs."""

VIEWER: Rights = {
    ("", "configmaps"): READ,  # the recipe; it holds no secret
    ("", "events"): READ,
    ("", "persistentvolumeclaims"): READ,
    ("", "pods"): READ,
    ("", "pods/log"): ("get",),
    ("", "services"): READ,
    ("batch", "jobs"): READ,
    ("networking.k8s.io", "networkpolicies"): READ,
    ("ray.io", "rayclusters"): READ,
    ("ray.io", "raycronjobs"): READ,
    ("ray.io", "rayjobs"): READ,
}
"""Looks at everything but Secrets. Logs show what jobs print, of documents too where a recipe lets them."""

OPERATOR: Rights = {
    ("", "configmaps"): WRITE,  # each submitted job has its recipe in one
    # `serinus canary set|promote|rollback` on the head. websockets ask with `get`, older clients with `create`.
    ("", "pods/exec"): ("get", "create"),
    ("ray.io", "rayjobs"): WRITE,
}
"""Runs jobs and steers rollouts. A job's pods may mount any Secret of the namespace: what the cluster may do, an operator may."""

ADMIN: Rights = {
    ("", "persistentvolumeclaims"): WRITE,
    ("", "secrets"): (*READ, *WRITE),
    ("", "serviceaccounts"): (*READ, *WRITE),
    ("", "services"): WRITE,
    ("apps", "statefulsets"): (*READ, *WRITE),
    ("monitoring.coreos.com", "podmonitors"): (*READ, *WRITE),
    ("monitoring.coreos.com", "prometheusrules"): (*READ, *WRITE),
    ("networking.k8s.io", "networkpolicies"): WRITE,
    ("policy", "poddisruptionbudgets"): (*READ, *WRITE),
    # Kubernetes lets nobody grant what they have not.
    ("rbac.authorization.k8s.io", "rolebindings"): (*READ, *WRITE),
    ("rbac.authorization.k8s.io", "roles"): (*READ, *WRITE),
    ("ray.io", "rayclusters"): WRITE,
    ("ray.io", "raycronjobs"): WRITE,
}
"""Applies what is rendered, and makes its Secrets."""

ROLES: dict[str, tuple[Rights, ...]] = {
    "viewer": (VIEWER,),
    "operator": (VIEWER, OPERATOR),
    "admin": (VIEWER, OPERATOR, ADMIN),
}


def documents() -> list[Document]:
    """A Role each, bound to the group `serinus:ROLE`."""
    return [document for name, rights in ROLES.items() for document in _role(name, rights)]


def _role(name: str, parts: tuple[Rights, ...]) -> list[Document]:
    given = metadata(f"serinus-{name}", PEOPLE)
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": given,
        "rules": [
            {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
            for rights in parts
            for (group, resource), verbs in rights.items()
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": given,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": f"serinus-{name}"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": f"serinus:{name}"}],
    }
    return [role, binding]

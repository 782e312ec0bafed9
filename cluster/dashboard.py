"""What a cluster's dashboard tells over HTTP: nodes and Serve applications. Quick, since Ray is not imported."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from cluster.auth_token import token
from cluster.config import StrictModel
from cluster.errors import ClusterError
from cluster.redirects import Straight
from cluster.topology import POOL_LABEL

TIMEOUT_S = 15.0
REMEDY = "see `serinus status`; start a cluster with `serinus up`"
TOKEN_REMEDY = "put the cluster's token into ~/.ray/auth_token (or name its file in RAY_AUTH_TOKEN_PATH)"  # noqa: S105


class Node(StrictModel):
    host: str
    pool: str
    """By its label; empty without one."""
    alive: bool
    resources: dict[str, float]


class Application(StrictModel):
    """A Serve application."""

    name: str
    status: str
    """Ray's word: RUNNING, DEPLOYING, DEPLOY_FAILED, ..."""
    route_prefix: str | None
    message: str
    num_replicas: int


def check(dashboard: str) -> None:
    """Return if the dashboard answers and takes our token.

    Raises:
        ClusterError: it does not.
    """
    _get(dashboard, "/api/version")


def get_version(dashboard: str) -> str:
    """Ray's version there.

    Raises:
        ClusterError: the dashboard does not answer, or refuses the token.
    """
    return str(_get(dashboard, "/api/version")["ray_version"])


def has_package(dashboard: str, name: str) -> bool:
    """Whether the cluster still holds a job's working directory of that name.

    Raises:
        ClusterError: the dashboard does not answer, or refuses the token.
    """
    try:
        with _answer(dashboard, f"/api/packages/gcs/{urllib.parse.quote(name, safe='')}"):
            return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise ClusterError(f"dashboard {dashboard}", f"answers with status {error.code}", REMEDY) from None


def get_nodes(dashboard: str) -> tuple[Node, ...]:
    """The nodes a cluster has or had.

    Raises:
        ClusterError: the dashboard does not answer, or refuses the token.
    """
    rows = _get(dashboard, "/api/v0/nodes?detail=true&limit=1000")["data"]["result"]["result"]
    return tuple(
        Node(
            host=row["node_ip"],
            pool=(row.get("labels") or {}).get(POOL_LABEL, ""),
            alive=row["state"] == "ALIVE",
            resources={k: v for k, v in row["resources_total"].items() if isinstance(v, int | float)},
        )
        for row in rows
    )


def get_applications(dashboard: str) -> tuple[Application, ...]:
    """The Serve applications that run or should.

    Raises:
        ClusterError: the dashboard does not answer, or refuses the token.
    """
    applications = _get(dashboard, "/api/serve/applications/").get("applications", {})
    return tuple(
        Application(
            name=name,
            status=found["status"],
            route_prefix=found.get("route_prefix"),
            message=found.get("message") or "",
            num_replicas=sum(len(d.get("replicas") or ()) for d in found.get("deployments", {}).values()),
        )
        for name, found in sorted(applications.items())
    )


def _get(dashboard: str, path: str) -> Any:
    where = f"dashboard {dashboard}"
    try:
        with _answer(dashboard, path) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ClusterError(where, f"answers with status {error.code}", REMEDY) from None
    except (OSError, ValueError) as error:
        raise ClusterError(where, f"does not answer ({error})", REMEDY) from None


_OPENER = urllib.request.build_opener(Straight)


def _answer(dashboard: str, path: str) -> Any:
    where = f"dashboard {dashboard}"
    secret = token()
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        request = urllib.request.Request(dashboard + path, headers=headers)  # noqa: S310  # the URL is ours
        return _OPENER.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise
        found = "refuses our token" if secret else "asks for a token and there is none here"
        raise ClusterError(where, found, TOKEN_REMEDY) from None
    except (OSError, ValueError) as error:
        raise ClusterError(where, f"does not answer ({getattr(error, 'reason', error)})", REMEDY) from None

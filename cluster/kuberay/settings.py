"""What tells one rendering from another, and the names that the documents share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field

from cluster.config import StrictModel
from cluster.topology import Topology

Document = dict[str, Any]
"""One Kubernetes object."""

APP = "serinus"
VERSION = "0.1.0"
RAY_VERSION = "2.60.0"

NAME_LABEL, COMPONENT_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/component"
PEOPLE = "access"
"""Component of roles that are for people, not for pods."""
CLIENT_LABEL = "serinus.io/client"
"""Namespaces whose pods may ask the gateway carry it with the value `true`."""

SERVICE_ACCOUNT = "serinus-head"
"""Of head pods: the autoscaler beside the head asks the Kubernetes API. All other pods have no access to it."""

TOKEN_SECRET = "serinus-auth-token"  # noqa: S105  # the name of the Secret, not its content
"""Key `auth_token`: the Ray cluster's token."""
S3_SECRET = "serinus-s3"  # noqa: S105
"""AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for other servers than AWS, AWS_ENDPOINT_URL. Optional: with
workload identity there is none."""
KEYS_SECRET = "serinus-api-keys"  # noqa: S105
"""Keys `keys.yaml` and `control-keys.yaml`: the files of serve.admission.keys and serve.control.keys. They have hashes alone, but
also who may do what."""
TLS_SECRET = "serinus-gateway-tls"  # noqa: S105
"""Of the type kubernetes.io/tls: the gateway's certificate and key, where the recipe has serve.tls."""
ENVIRONMENT_SECRET = "serinus-environment"  # noqa: S105
"""Variables that the recipe names: notify.webhooks[].url_env and secret_env, a judge's key_env. Controller, prober and drivers
run on the head, so that no other pod has them."""
REDIS_SECRET = "serinus-redis"  # noqa: S105
"""Key `password`."""
RECIPE = "serinus-recipe"
"""ConfigMap with the recipe, as it is read inside the cluster."""

PROJECT_FOLDER = PurePosixPath("/opt/serinus")
"""Where the images have the project; their working folder."""
BUILD_FOLDER = str(PROJECT_FOLDER / "build")
HOME_FOLDER = "/var/lib/serinus"
"""$HOME and $SERINUS_HOME: models fetched from S3 or a hub, compiled kernels."""
TLS_FOLDER = "/etc/serinus/tls"
KEYS_FOLDER, RECIPE_FOLDER = "/etc/serinus/keys", "/etc/serinus/recipe"
RECIPE_FILE = f"{RECIPE_FOLDER}/recipe.yaml"

GATEWAY_PORT = 8000
"""Where the gateway listens when no recipe says otherwise."""
GCS_PORT, DASHBOARD_PORT, AGENT_PORT, METRICS_PORT = 6379, 8265, 52365, 8080
"""As KubeRay and Ray have them unless told otherwise."""


STOPPING_S = 10
"""Of a pod's last seconds, for its processes to end once the time to leave is over: a raylet takes 3 s for its workers."""


class Settings(StrictModel):
    """One overlay, or the base that all of them patch."""

    name: str = "base"
    image: str = f"serinus:{VERSION}"
    """With Ray, vLLM and the packages; see k8s/images."""
    train_image: str | None = None
    """Of the pool that quantizes, where that needs more packages than `image` has."""
    gpus: bool = True
    """False renders the pools without their GPUs."""
    gpu_nodes_only: bool = False
    """Hold GPU pods to nodes on which the GPU operator has found a GPU, beside tolerating their taint."""
    small: bool = False
    """Pods that fit on a laptop's cluster: one a pool, asking for little and allowed more."""
    shared_folder: bool = False
    """A PersistentVolumeClaim at BUILD_FOLDER on every pod, for recipes that keep their storage in a folder."""
    disk_gib: int = 100
    """For models and compiled kernels, per pod."""
    own_disk: bool = False
    """Give each pod a volume of its own for them; else they lie on the machine's disk."""
    egress: tuple[str, ...] = ()
    """What Ray's pods may reach outside beside ports 443 and 6443 (`--egress`; cluster/kuberay/egress.py). By default nothing:
    neither a cloud's metadata service nor an S3 server on a port of its own."""
    notice_s: int = Field(default=110, gt=STOPPING_S)
    """What a pod of a pool has between the word that it must go and its end (terminationGracePeriodSeconds), so that ranks leave
    with a checkpoint; an idle one goes at once. EC2 takes a spot instance back after 120 s, and some of them go by until the pod
    is told. Longer is cut short by the machine's end: Google Cloud gives 30 s, of which a pod has 15 to 25."""
    min_serve_nodes: int = 0
    """At least so many, whatever the topology says."""
    gateway_tls: bool = False
    """The gateway speaks HTTPS, with the pair of TLS_SECRET."""
    survives_head: bool = False
    """Keep the head's state in Redis, so that serving goes on while the head is replaced."""
    monitored: bool = False
    """PodMonitor and PrometheusRule for the Prometheus operator."""


BASE = Settings()
OVERLAYS: Mapping[str, Settings] = {
    "dev": Settings(
        name="dev", image=f"serinus:{VERSION}-cpu", gpus=False, small=True, shared_folder=True, disk_gib=10
    ),
    "gpu": Settings(
        name="gpu",
        image=f"serinus:{VERSION}-gpu",
        train_image=f"serinus:{VERSION}-quantize",
        gpu_nodes_only=True,
        own_disk=True,
        disk_gib=300,
    ),
    "production": Settings(
        name="production",
        image=f"serinus:{VERSION}-gpu",
        train_image=f"serinus:{VERSION}-quantize",
        gpu_nodes_only=True,
        own_disk=True,
        disk_gib=300,
        min_serve_nodes=2,
        survives_head=True,
        monitored=True,
    ),
}


class Workload(StrictModel):
    """What a recipe means for the cluster. Made by whoever knows recipes; the documents need no more of them."""

    name: str
    """Of the model."""
    recipe: str
    """YAML, with the paths that hold inside the cluster."""
    port: int = GATEWAY_PORT
    tls: bool = False
    """The recipe has serve.tls."""
    prepare: str | None = None
    """Command that brings the recipe's inputs into the shared folder, where it has one."""
    nodes: Mapping[str, Mapping[str, int]]
    """Stage -> pool -> nodes that it needs at once, in the order in which the stages run."""


def labels(component: str) -> dict[str, str]:
    return {NAME_LABEL: APP, COMPONENT_LABEL: component}


def metadata(name: str, component: str) -> dict[str, Any]:
    return {"name": name, "labels": labels(component)}


def shaped(topology: Topology, settings: Settings) -> Topology:
    """The topology as this overlay has it."""
    pools = topology.pools
    if not settings.gpus:
        pools = tuple(pool.replace(num_gpus=0) for pool in pools)
    if settings.small:
        pools = tuple(pool.replace(num_cpus=4, min_nodes=1, max_nodes=1) for pool in pools)
    if settings.min_serve_nodes:
        pools = tuple(
            pool.replace(min_nodes=max(pool.min_nodes, settings.min_serve_nodes)) if pool.name == "serve" else pool
            for pool in pools
        )
    return topology.replace(pools=pools)

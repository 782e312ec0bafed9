"""The pods of a Ray cluster: what they run as, ask for, mount and answer to."""

from __future__ import annotations

from typing import Any

from cluster.kuberay.settings import (
    AGENT_PORT,
    BUILD_FOLDER,
    DASHBOARD_PORT,
    ENVIRONMENT_SECRET,
    GCS_PORT,
    HOME_FOLDER,
    KEYS_FOLDER,
    KEYS_SECRET,
    METRICS_PORT,
    RECIPE,
    RECIPE_FOLDER,
    S3_SECRET,
    SERVICE_ACCOUNT,
    STOPPING_S,
    TLS_FOLDER,
    TLS_SECRET,
    Document,
    Settings,
    labels,
    shaped,
)
from cluster.session import ENVIRONMENT, HEALTH_CHECKS
from cluster.topology import Pool, Topology

GPU = "nvidia.com/gpu"
GIB_PER_CPU = 4
"""Memory beside each CPU: the ratio of the general-purpose machines that ray_cluster.yaml names."""
MEMORY_SHARE = 0.85
"""Of a machine's memory, what its pod gets. The kubelet keeps some back for itself and its eviction threshold (up to 7 % on
large machines of the large clouds), and agents of the cluster run beside the pod."""

NODE_SETTINGS = {
    "SERINUS_LOG_FORMAT": "json",  # for whoever collects the logs of pods
    **HEALTH_CHECKS,
}

DRAIN_AT_SIGTERM = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""Ray 2.60's `ray start --block`, which is what a pod's container runs, answers SIGTERM by draining its node (preemption, with this
as the deadline in s), and ends once the node is idle; by itself after 30 s. A preStop hook that does the same would need this
all the same, for the SIGTERM behind it."""

UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
USER = 10001
"""Of the images. Above 10000, so that it is nobody's on the machine."""
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",  # else each start walks through gigabytes of models
    "seccompProfile": {"type": "RuntimeDefault"},
}

HEAD_RESOURCES = {"cpu": "4", "memory": "16Gi"}
SMALL_REQUEST = {"cpu": "250m", "memory": "1Gi"}
SMALL_LIMIT = {"cpu": "4", "memory": "8Gi"}


def head_pod(settings: Settings, gateway_port: int) -> Document:
    """Pod template of a head; a driver of a job runs in it, so that it has the recipe, the API keys and the
    variables that the recipe names."""
    resources = HEAD_RESOURCES if not settings.small else SMALL_LIMIT
    ports = {"gcs": GCS_PORT, "dashboard": DASHBOARD_PORT, "gateway": gateway_port, "metrics": METRICS_PORT}
    ready = {"httpGet": {"path": "/api/gcs_healthz", "port": DASHBOARD_PORT}}
    container = _container("ray-head", settings, resources, ports, ready)
    files = [
        ("recipe", RECIPE_FOLDER, {"configMap": {"name": RECIPE, "optional": True}}),
        ("keys", KEYS_FOLDER, {"secret": {"secretName": KEYS_SECRET, "optional": True}}),
    ]
    container["volumeMounts"] += [{"name": name, "mountPath": path, "readOnly": True} for name, path, _ in files]
    container["envFrom"].append({"secretRef": {"name": ENVIRONMENT_SECRET, "optional": True}})
    spec = _spec(container, settings)
    spec["volumes"] += [{"name": name, **source} for name, _, source in files]
    _show_certificate(spec, settings)
    spec = {"serviceAccountName": SERVICE_ACCOUNT, "automountServiceAccountToken": True, **spec}
    return _template("head", spec)


def worker_pod(pool: Pool, settings: Settings, gateway_port: int) -> Document:
    """Pod template of a pool's nodes."""
    resources = pod_resources(pool) if not settings.small else SMALL_LIMIT
    ports = {"metrics": METRICS_PORT}
    ready = {"httpGet": {"path": "/api/local_raylet_healthz", "port": AGENT_PORT}}
    if pool.name == "serve":
        ports["gateway"] = gateway_port
        ready = {"exec": {"command": ["bash", "-c", _serves(gateway_port, settings.gateway_tls)]}}
    container = _container("ray-worker", settings, resources, ports, ready)
    if pool.name == "train" and settings.train_image:
        container["image"] = settings.train_image
    container["env"].append({"name": DRAIN_AT_SIGTERM, "value": str(settings.notice_s - STOPPING_S)})
    spec = _spec(container, settings)
    spec["terminationGracePeriodSeconds"] = settings.notice_s
    if pool.name == "serve":
        _show_certificate(spec, settings)
    spec = {"automountServiceAccountToken": False, **spec}
    if pool.num_gpus:
        spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
        if settings.gpu_nodes_only:
            spec["nodeSelector"] = {"nvidia.com/gpu.present": "true"}
    if pool.name == "serve" and settings.min_serve_nodes > 1:
        spec["topologySpreadConstraints"] = [_spread("kubernetes.io/hostname"), _spread("topology.kubernetes.io/zone")]
    return _template(pool.name, spec)


def pod_resources(pool: Pool) -> dict[str, str]:
    """What a pod asks for so that it fits on the machine that the pool is made of, alone."""
    kept_back = 1 if pool.num_cpus <= 32 else 2
    cpus = max(1, pool.num_cpus - kept_back)
    resources = {"cpu": str(cpus), "memory": f"{max(1, int(pool.num_cpus * GIB_PER_CPU * MEMORY_SHARE))}Gi"}
    if pool.num_gpus:
        resources[GPU] = str(pool.num_gpus)
    return resources


def granted(topology: Topology, settings: Settings) -> Topology:
    """The overlay's topology with the CPUs that its pods have, which is what Ray counts there.

    A job's nodes are not held to `max_workers`: each has a cluster of its own, and no launcher counts them together.
    """
    pools = shaped(topology, settings).pools
    given = (SMALL_LIMIT if settings.small else pod_resources(pool) for pool in pools)
    pools = tuple(pool.replace(num_cpus=int(pod["cpu"])) for pool, pod in zip(pools, given, strict=True))
    return topology.replace(pools=pools, max_workers=None)


def environment() -> list[dict[str, str]]:
    """Of every Ray container. RAY_AUTH_MODE and the token are set by the operator, from authOptions."""
    ours = {**ENVIRONMENT, **NODE_SETTINGS, "HOME": HOME_FOLDER, "SERINUS_HOME": HOME_FOLDER}
    return [{"name": name, "value": value} for name, value in ours.items() if name != "RAY_AUTH_MODE"]


def _template(component: str, spec: Document) -> Document:
    # Whoever removes idle machines leaves those alone that hold state: a rank lost is a training run set back.
    annotations = {} if component == "data" else {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return {"metadata": {"labels": labels(f"ray-{component}"), "annotations": annotations}, "spec": spec}


def _spec(container: Document, settings: Settings) -> Document:
    return {
        "restartPolicy": "Never",  # the autoscaler replaces pods; one that restarts by itself confuses it
        "enableServiceLinks": False,  # else a Service named ray or redis would put variables into Ray's environment
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": _volumes(settings),
    }


def _container(
    name: str, settings: Settings, resources: dict[str, str], ports: dict[str, int], ready: Document
) -> Document:
    requests = SMALL_REQUEST if settings.small else resources
    mounts = [{"name": "home", "mountPath": HOME_FOLDER}]
    if settings.shared_folder:
        mounts.append({"name": "build", "mountPath": BUILD_FOLDER})
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "env": environment(),
        "envFrom": [{"secretRef": {"name": S3_SECRET, "optional": True}}],
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "resources": {"requests": dict(requests), "limits": dict(resources)},
        "securityContext": UNPRIVILEGED,
        "volumeMounts": mounts,
        # A raylet that answers late because its machine is busy is alive: ten minutes of silence before it is ended.
        "livenessProbe": _probe({"httpGet": {"path": "/api/local_raylet_healthz", "port": AGENT_PORT}}, 30, 20),
        "readinessProbe": _probe(ready, 5, 3),
        # Images of gigabytes and libraries read from a cold disk: five minutes to come up.
        "startupProbe": _probe({"httpGet": {"path": "/api/local_raylet_healthz", "port": AGENT_PORT}}, 5, 60),
    }


def _probe(check: Document, period_s: int, failures: int) -> Document:
    return {**check, "periodSeconds": period_s, "timeoutSeconds": 5, "failureThreshold": failures}


def _volumes(settings: Settings) -> list[Document]:
    size = f"{settings.disk_gib}Gi"
    home: Document = {"emptyDir": {"sizeLimit": size}}
    if settings.own_disk:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        home = {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
    volumes = [{"name": "home", **home}]
    if settings.shared_folder:
        volumes.append({"name": "build", "persistentVolumeClaim": {"claimName": "serinus-build"}})
    return volumes


def _show_certificate(spec: Document, settings: Settings) -> None:
    """To whoever listens: proxies run on the head and in the pool that serves."""
    if settings.gateway_tls:
        spec["volumes"].append({"name": "tls", "secret": {"secretName": TLS_SECRET}})
        mount = {"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True}
        spec["containers"][0]["volumeMounts"].append(mount)


def _serves(port: int, tls: bool) -> str:
    """Whether requests may be sent here. Serve runs a proxy on the head and wherever a replica is, so a pod of this pool may
    have none. Before a gateway is deployed there are none at all, and the pods must be ready all the same: the operator lets no
    job in before they were. So: the raylet answers, and either this pod's proxy does, or the head's was never seen.
    """
    seen = "/tmp/serinus-gateway-seen"  # noqa: S108  # a container's own /tmp
    answers = "curl -fsS -m 2 -o /dev/null {scheme}://{host}:{port}{path} 2>/dev/null"
    raylet = answers.format(scheme="http", host="localhost", port=AGENT_PORT, path="/api/local_raylet_healthz")
    scheme = "-k https" if tls else "http"  # the certificate is for the users' name, not for a pod's address
    here = answers.format(scheme=scheme, host="localhost", port=port, path="/-/healthz")
    head = answers.format(scheme=scheme, host="$FQ_RAY_IP", port=port, path="/-/healthz")
    return f"{raylet} || exit 1; {here} && exit 0; {head} && touch {seen}; test ! -e {seen}"


def _spread(topology_key: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels("ray-serve")},
    }

"""What serinus asks of a Kubernetes API server, through the official client: RayJobs, their recipes, their logs.

The client is an extra (`pip install 'serinus[k8s]'`), since most clusters need none. Every call has a time limit; what a
network or a server under way may cause is tried again, what a person must mend is not.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import yaml

from cluster.config import variable
from cluster.errors import ClusterError, Conflict

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
TIMEOUT_S: Final = (5.0, 30.0)
"""To connect, and between two bytes of an answer."""
PATIENCE_S, QUICK_S = 60.0, 10.0
"""How long an API server may be away before a command gives up: what is under way, and a question that can be asked again."""
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 8.0
ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

Document = dict[str, Any]
T = TypeVar("T")


class Kubernetes:
    """The RayJobs of one namespace.

    All methods raise ClusterError for what a person must mend, and ConnectionError for a server that is away or busy.
    """

    def __init__(self, namespace: str | None = None) -> None:
        """
        Raises:
            ClusterError: the client is not installed, no cluster is chosen, or its settings cannot be read.
        """
        client, found = _connected()
        self.namespace = namespace or found
        self._objects, self._core = client.CustomObjectsApi(), client.CoreV1Api()

    def jobs(self, label_selector: str) -> list[Document]:
        with _asking("jobs"):
            listed = self._objects.list_namespaced_custom_object(
                *self._place(), label_selector=label_selector, _request_timeout=TIMEOUT_S
            )
        return list(listed["items"])

    def job(self, name: str) -> Document:
        with _asking(f"job {name}"):
            return dict(
                self._objects.get_namespaced_custom_object(*self._place(), name=name, _request_timeout=TIMEOUT_S)
            )

    def create_job(self, document: Document) -> Document:
        """Raises Conflict where one of that name is."""
        with _asking(f"job {document['metadata']['name']}"):
            return dict(
                self._objects.create_namespaced_custom_object(*self._place(), body=document, _request_timeout=TIMEOUT_S)
            )

    def change_job(self, name: str, change: Document) -> None:
        """A merge patch (RFC 7386)."""
        with _asking(f"job {name}"):
            self._objects.patch_namespaced_custom_object(
                *self._place(), name=name, body=change, _request_timeout=TIMEOUT_S
            )

    def delete_job(self, name: str) -> None:
        with _asking(f"job {name}"):
            self._objects.delete_namespaced_custom_object(*self._place(), name=name, _request_timeout=TIMEOUT_S)

    def changes(self, name: str, resource_version: str, for_s: float) -> Iterator[Document]:
        """The job after each change since `resource_version`, for so long.

        Raises:
            ClusterError: beside the rest, when the job was deleted.
            ConnectionError: also for a version that is too old: read the job again.
        """
        from kubernetes import watch

        with _asking(f"job {name}"):
            for event in watch.Watch(return_type="object").stream(
                self._objects.list_namespaced_custom_object,
                *self._place(),
                field_selector=f"metadata.name={name}",
                resource_version=resource_version,
                timeout_seconds=max(1, round(for_s)),
                _request_timeout=(TIMEOUT_S[0], for_s + TIMEOUT_S[1]),
            ):
                if event["type"] == "DELETED":
                    raise ClusterError(f"job {name}", "was deleted", "see `serinus jobs list --k8s`")
                yield event["object"]

    def create_config_map(self, document: Document) -> None:
        """Raises Conflict where one of that name is."""
        with _asking(f"ConfigMap {document['metadata']['name']}"):
            self._core.create_namespaced_config_map(self.namespace, document, _request_timeout=TIMEOUT_S)

    def config_map(self, name: str) -> dict[str, str]:
        with _asking(f"ConfigMap {name}"):
            found = self._core.read_namespaced_config_map(name, self.namespace, _request_timeout=TIMEOUT_S)
        return dict(found.data or {})

    def change_config_map(self, name: str, change: Document) -> None:
        with _asking(f"ConfigMap {name}"):
            self._core.patch_namespaced_config_map(name, self.namespace, change, _request_timeout=TIMEOUT_S)

    def delete_config_map(self, name: str) -> None:
        with _asking(f"ConfigMap {name}"):
            self._core.delete_namespaced_config_map(name, self.namespace, _request_timeout=TIMEOUT_S)

    def pod_of(self, job: str) -> str | None:
        """Of the batch Job that submits, which KubeRay names as the RayJob; the newest, where it was tried again."""
        with _asking(f"job {job}"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"job-name={job}", _request_timeout=TIMEOUT_S
            ).items
        begun = [pod for pod in found if pod.status.phase in ("Running", "Succeeded", "Failed")]
        return max(begun, key=lambda pod: pod.metadata.creation_timestamp).metadata.name if begun else None

    def log(self, pod: str, since_s: int | None) -> list[str]:
        """The pod's lines, each with its moment in front (RFC 3339) and a space; with `since_s`, of the last so many seconds."""
        more = {} if since_s is None else {"since_seconds": since_s}
        with _asking(f"log of pod {pod}"):
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, timestamps=True, _preload_content=False, _request_timeout=TIMEOUT_S, **more
            )  # undecoded: the client makes a literal of bytes from what is no UTF-8
        return [line for line in answer.data.decode("utf-8", "replace").split("\n") if line]

    def _place(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL


def patiently(call: Callable[[], T], *, quick: bool = False) -> T:
    """`call()`, again after a while where the server is away; waits grow and are drawn at random, so that clients spread out.

    Raises:
        ClusterError: what `call` raises, or the server stayed away.
    """
    ends_at = time.monotonic() + (QUICK_S if quick else PATIENCE_S)
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return call()
        except ConnectionError as error:
            if time.monotonic() > ends_at:
                remedy = "check the network (kubectl get rayjobs), then run the same command again"
                raise ClusterError("kubernetes", f"does not answer ({error})", remedy) from None
            time.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311  # to spread out, not to keep a secret
            wait_s = min(2 * wait_s, MAX_WAIT_S)


def _connected() -> tuple[Any, str]:
    """The client's module, set up as kubectl is or, in a pod, by its account; and the namespace that goes with it."""
    try:
        from kubernetes import client, config
    except ImportError:
        remedy = "pip install 'serinus[k8s]', or create what `serinus k8s render` writes: kubectl create -f"
        raise ClusterError("--k8s", "the Python package `kubernetes` is not installed", remedy) from None
    try:
        namespace = _configure(config)
    except (
        config.ConfigException,
        yaml.YAMLError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        remedy = "choose one: kubectl config use-context NAME (KUBECONFIG names the file)"
        raise ClusterError("kubernetes", f"no cluster is chosen ({_first_line(error)})", remedy) from None
    settings = client.Configuration.get_default_copy()
    settings.retries = False  # ours are those of `patiently`
    client.Configuration.set_default(settings)
    return client, namespace


def _configure(config: Any) -> str:
    if os.path.exists(ACCOUNT) and not variable("KUBECONFIG"):
        config.load_incluster_config()
        with open(ACCOUNT, encoding="utf-8") as file:
            return file.read().strip()
    config.load_kube_config(config_file=variable("KUBECONFIG"))
    _, active = config.list_kube_config_contexts(config_file=variable("KUBECONFIG"))
    return str(active["context"].get("namespace") or "default")


@contextmanager
def _asking(where: str) -> Iterator[None]:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _explained(where, error.status, error.body or error.reason or "") from None
    except (HTTPError, OSError) as error:
        raise ConnectionError(_first_line(error)) from None


def _explained(where: str, status: int | None, body: str | bytes) -> Exception:
    said, known = _said(body)
    match status:
        case 401:
            return ClusterError("kubernetes", "refuses our credentials", "log in again, as for kubectl")
        case 403:
            remedy = "ask an administrator for the role serinus-operator (serinus-viewer to look): docs/kubernetes.md"
            return ClusterError(where, f"may not be used ({said})", remedy)
        case 404 if not known:  # the path itself is not known
            return ClusterError("kubernetes", "KubeRay is not installed there", "install it: docs/kubernetes.md")
        case 404:
            return ClusterError(where, f"is not there ({said})", "see `serinus jobs list --k8s`, and --namespace")
        case 409:
            return Conflict(f"{where}: {said}")
        case 400 | 405 | 413 | 415 | 422:
            return ClusterError(where, f"is refused ({said})", "KubeRay 1.6 or later takes it: docs/kubernetes.md")
        case _:  # 410, 429 and 5xx pass by themselves
            return ConnectionError(f"{status}: {said}")


def _said(body: str | bytes) -> tuple[str, bool]:
    """The message of a Status object, and whether it was one."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    try:
        found = json.loads(text)
        return str(found["message"]).split("\n")[0], found.get("kind") == "Status"
    except (ValueError, KeyError, TypeError):
        return (text.strip().splitlines() or ["no reason given"])[0][:200], False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

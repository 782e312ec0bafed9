"""A Kubernetes cluster with KubeRay, where kubectl is there and points to one."""

from __future__ import annotations

import json
import shutil
import subprocess

from cluster.doctor.finding import Finding, judged

TIMEOUT_S = 5
KINDS = ("rayclusters.ray.io", "rayjobs.ray.io", "raycronjobs.ray.io")
"""What `serinus k8s render` writes."""


def context(returncode: int, said: str) -> Finding:
    """Of `kubectl config current-context`."""
    if returncode:
        return judged("kubernetes", "kubectl is here, and no cluster is chosen", "")
    return judged("kubernetes", said.strip(), "")


def server(returncode: int, said: str, error: str) -> Finding:
    """Of `kubectl version -o json`."""
    if returncode:
        found = (error.strip().splitlines() or ["no answer"])[-1]
        return judged("kubernetes server", found, "correct the context: kubectl config get-contexts", warning=True)
    version = json.loads(said).get("serverVersion", {}).get("gitVersion", "unknown")
    return judged("kubernetes server", version, "")


def operator(returncode: int, said: str) -> Finding:
    """Of `kubectl get crd -o name`: whether KubeRay's kinds are known."""
    if returncode:
        return judged("kuberay", "its kinds may not be listed", "ask an administrator for `get` on crds", warning=True)
    absent = [kind for kind in KINDS if f"/{kind}" not in said]
    found = f"not known: {', '.join(absent)}" if absent else "all its kinds are known"
    return judged("kuberay", found, "install KubeRay 1.7 (docs/kubernetes.md)", warning=bool(absent))


def checks() -> list[Finding]:
    """Ask kubectl; nothing where there is none."""
    if shutil.which("kubectl") is None:
        return []
    chosen = _kubectl("config", "current-context")
    found = [context(chosen.returncode, chosen.stdout)]
    if chosen.returncode:
        return found
    asked = _kubectl("version", "-o", "json")
    found.append(server(asked.returncode, asked.stdout, asked.stderr))
    if asked.returncode:
        return found
    kinds = _kubectl("get", "crd", "-o", "name")
    return [*found, operator(kinds.returncode, kinds.stdout)]


def _kubectl(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", f"--request-timeout={TIMEOUT_S - 2}s", *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {TIMEOUT_S} s")

"""Jobs on Kubernetes: RayJobs that are created, followed, stopped and created again, each with a recipe of its own.

The name is ours and drawn at random, so that a creation whose answer was lost may be tried again: a job of that name that is
there already is the one that was meant. The recipe goes first, as a ConfigMap, and then belongs to the job: it goes with it.
"""

from __future__ import annotations

import copy
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import yaml

from cluster.config import user_name
from cluster.errors import ClusterError, Conflict, InputError
from cluster.jobs import FAILED_EXIT_CODE, STOPPED_EXIT_CODE, Job
from cluster.kuberay.settings import Document, labels
from cluster.kubernetes_api import Kubernetes, patiently

WATCH_S = 5.0
"""Between two looks at the log, as long as nothing changes."""
CLOCKS_S: Final = 60
"""Of log read twice, for clocks that differ: what was shown is left out."""
ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
EXIT_CODE = re.compile(r"failed with exit code (\d+)")
"""Ray's message of a driver that ended by itself (job_supervisor.py, version 2.60); KubeRay passes it on."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class RayJobs:
    """The jobs of serinus in one namespace. Its methods are those of `cluster.jobs`; all raise ClusterError."""

    def __init__(self, namespace: str | None = None) -> None:
        self._api = Kubernetes(namespace)

    def submit(self, document: Document, recipe: str) -> str:
        """Create the RayJob with this recipe; returns its name.

        Args:
            document: as `cluster.kuberay.jobs` has it, with a generated name.
            recipe: YAML, as it holds inside the cluster.
        """
        given = document["metadata"]
        name = f"{given['generateName']}{secrets.token_hex(3)}"
        named = {**document, "metadata": {"name": name, "labels": given["labels"]}}
        named["spec"] = {
            **document["spec"],
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": {"SERINUS_USER": user_name()}}),
        }
        if mounted := _with_recipe(named, f"{name}-recipe"):
            patiently(lambda: self._ship(f"{name}-recipe", recipe))
        try:
            made = patiently(lambda: self._create(mounted or named))
        except ClusterError:
            if mounted:
                self._forget(f"{name}-recipe")
            raise
        if mounted:
            owner = {key: made["metadata"][key] for key in ("name", "uid")} | {
                "apiVersion": "ray.io/v1",
                "kind": "RayJob",
            }
            change = {"metadata": {"ownerReferences": [owner]}}
            patiently(lambda: self._api.change_config_map(f"{name}-recipe", change))
        return name

    def retry(self, job_id: str) -> str:
        """Create an ended job once more, under a new name.

        Raises:
            InputError: it has not ended.
        """
        before = self._read(job_id)
        if not _ended(before):
            remedy = f"stop it: serinus jobs stop {job_id} --k8s"
            raise InputError(f"job {job_id}", f"has not ended ({_status(before)})", remedy)
        spec = {key: value for key, value in before["spec"].items() if key not in ("suspend", "jobId")}
        prefix = re.sub(r"-[0-9a-z]+$", "-", job_id)
        metadata = {"generateName": prefix, "labels": labels("job")}
        again = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}
        source = _recipe_of(before)
        recipe = patiently(lambda: self._api.config_map(source)).get("recipe.yaml", "") if source else ""
        return self.submit(again, recipe)

    def jobs(self) -> tuple[Job, ...]:
        """Newest first; what waits to begin stands before all others."""
        selector = ",".join(f"{key}={value}" for key, value in labels("job").items())
        found = patiently(lambda: self._api.jobs(selector), quick=True)
        begun = sorted(found, key=lambda job: str(job["metadata"].get("creationTimestamp", "")), reverse=True)
        return tuple(_job(document) for document in begun)

    def log(self, job_id: str) -> str:
        """All that the job has printed until now."""
        self._read(job_id)
        return "".join(f"{line}\n" for line in patiently(lambda: _Log(self._api, job_id).more(), quick=True))

    def follow(self, job_id: str, *, out: Callable[[str], None]) -> int:
        """Hand the job's log to `out` as it grows, and what the operator says, until the job ends; returns its exit code."""
        job, log, told = self._read(job_id), _Log(self._api, job_id), ""
        while True:
            for line in patiently(log.more):
                out(f"{line}\n")
            if (said := _told(job)) not in ("", told):
                out(f"[{job_id}: {said}]\n")
                told = said
            if _ended(job):
                for line in patiently(log.more):
                    out(f"{line}\n")
                return _exit_code(job, out)
            job = self._next(job)

    def stop(self, job_id: str) -> bool:
        """End the job and its cluster; False if it had ended. One on the cluster that serves is deleted: KubeRay suspends none."""
        job = self._read(job_id)
        if _ended(job):
            return False
        if job["spec"].get("clusterSelector"):
            patiently(lambda: self._api.delete_job(job_id))
        else:
            patiently(lambda: self._api.change_job(job_id, {"spec": {"suspend": True}}))
        return True

    def _read(self, name: str, *, quick: bool = True) -> Document:
        if not NAME.fullmatch(name):  # it becomes a part of a URL
            raise InputError(f"job {name!r}", "is no job's name", "see `serinus jobs list --k8s`")
        return patiently(lambda: self._api.job(name), quick=quick)

    def _next(self, job: Document) -> Document:
        """The job after its next change, or as it is after WATCH_S. A watch that breaks or is too old begins anew."""
        name, version = job["metadata"]["name"], job["metadata"]["resourceVersion"]
        try:
            return next(self._api.changes(name, version, WATCH_S), job)
        except ConnectionError:
            time.sleep(random.uniform(WATCH_S / 10, WATCH_S / 5))  # noqa: S311  # many who follow come back one by one
            return self._read(name, quick=False)

    def _create(self, document: Document) -> Document:
        try:
            return self._api.create_job(document)
        except Conflict:  # the answer to an earlier try was lost
            return self._api.job(document["metadata"]["name"])

    def _ship(self, name: str, recipe: str) -> None:
        document = {"metadata": {"name": name, "labels": labels("recipe")}, "data": {"recipe.yaml": recipe}}
        try:
            self._api.create_config_map(document)
        except Conflict:
            return

    def _forget(self, config_map: str) -> None:
        try:
            self._api.delete_config_map(config_map)
        except (ClusterError, ConnectionError):
            return  # why the job was refused is what the user must hear


class _Log:
    """What the submitting pod prints, each line once, also where the connection broke in between."""

    def __init__(self, api: Kubernetes, job: str) -> None:
        self._api, self._job = api, job
        self._pod: str | None = None
        self._shown: dict[str, tuple[int, float]] = {}
        self._read_at = 0.0

    def more(self) -> list[str]:
        """The lines since the last call. Raises as the API's methods."""
        pod = self._api.pod_of(self._job)
        if pod is None:
            return []
        since_s = round(time.monotonic() - self._read_at) + CLOCKS_S if pod == self._pod else None
        began = time.monotonic()
        lines = self._api.log(pod, since_s)
        if pod != self._pod:
            self._shown.clear()
        self._pod, self._read_at = pod, began
        return self._unseen(lines, began)

    def _unseen(self, lines: Sequence[str], now: float = 0.0) -> list[str]:
        """By the whole line, moment and all: those of standard output and error are not in the order of their moments."""
        fresh, here = list[str](), Counter[str]()
        for line in lines:
            here[line] += 1
            if here[line] > self._shown.get(line, (0, 0.0))[0]:
                fresh.append(line.partition(" ")[2])
        recent = {line: shown for line, shown in self._shown.items() if shown[1] >= now - 2 * CLOCKS_S}
        for line, num in here.items():
            recent[line] = max(num, self._shown.get(line, (0, 0.0))[0]), now
        self._shown = recent
        return fresh


def _with_recipe(job: Document, config_map: str) -> Document | None:
    """The job with its recipe from that ConfigMap, which must be there; None for one that runs on a cluster that is there already,
    whose head has the recipe of the overlay."""
    if "rayClusterSpec" not in job["spec"]:
        return None
    changed = copy.deepcopy(job)
    for volume in _head_volumes(changed):
        if volume["name"] == "recipe":
            volume["configMap"] = {"name": config_map}
    return changed


def _head_volumes(job: Document) -> list[Document]:
    head = job["spec"].get("rayClusterSpec", {}).get("headGroupSpec", {})
    return list(head.get("template", {}).get("spec", {}).get("volumes", ()))


def _recipe_of(job: Document) -> str | None:
    found = [volume["configMap"]["name"] for volume in _head_volumes(job) if volume["name"] == "recipe"]
    return found[0] if found else None


def _state(job: Mapping[str, Any]) -> Mapping[str, Any]:
    return job.get("status") or {}


def _status(job: Mapping[str, Any]) -> str:
    """In Ray's words where Ray has any."""
    state = _state(job)
    deployment = str(state.get("jobDeploymentStatus", ""))
    if deployment == "Suspended":
        return "STOPPED"
    if deployment in ("Failed", "ValidationFailed"):  # before Ray knew of it, or beyond a deadline
        return "FAILED"
    return str(state.get("jobStatus") or "PENDING")


def _ended(job: Mapping[str, Any]) -> bool:
    """Ray's own end comes a little before KubeRay's, which alone has the message: waited for where it is on its way."""
    return _status(job) in ENDED and str(_state(job).get("jobDeploymentStatus", "")) not in ("Running", "Suspending")


def _told(job: Mapping[str, Any]) -> str:
    """What the operator is at, for people: a cluster that does not come says why here."""
    state = _state(job)
    said = [str(state.get(key, "")) for key in ("jobDeploymentStatus", "reason")]
    message = "" if _status(job) in ENDED else str(state.get("message", "")).split("\n")[0]
    return ": ".join(filter(None, [*said, message]))


def _exit_code(job: Mapping[str, Any], out: Callable[[str], None]) -> int:
    status, message = _status(job), str(_state(job).get("message", ""))
    if status == "SUCCEEDED":
        return 0
    if found := EXIT_CODE.search(message):
        return int(found[1])
    out(f"{status}: {message or _state(job).get('reason') or 'no message'}\n")
    return STOPPED_EXIT_CODE if status == "STOPPED" else FAILED_EXIT_CODE


def _job(document: Mapping[str, Any]) -> Job:
    state = _state(document)
    return Job(
        id=document["metadata"]["name"],
        status=_status(document),
        entrypoint=document["spec"].get("entrypoint", ""),
        message=str(state.get("message", "")),
        started_at=_time(state.get("startTime")),
        ended_at=_time(state.get("endTime")),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None

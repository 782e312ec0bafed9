"""Files of Kubernetes documents: a base, and overlays that patch it, as kustomize reads them.

An overlay's patch is the difference between the overlay's rendering and the base's, so neither is written by hand and
`kubectl kustomize` gives what is rendered here: a test builds all of them and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError
from cluster.kuberay import access, dashboards, monitoring, redis, roles, rules
from cluster.kuberay.clusters import ray_cluster
from cluster.kuberay.disruption import GROUP, disruption_budget
from cluster.kuberay.jobs import jobs
from cluster.kuberay.settings import BASE, GATEWAY_PORT, OVERLAYS, RECIPE, Document, Settings, Workload, labels, shaped
from cluster.topology import Topology

HEADER = (
    "# Rendered by `serinus k8s render` (cluster/kuberay): change ray_cluster.yaml or the recipe, then render again.\n"
)

Files = dict[str, str]
"""Path -> content."""
Parts = dict[str, list[Document]]
"""File name -> its documents."""


def base(topology: Topology, settings: Settings = BASE, gateway_port: int = GATEWAY_PORT) -> Parts:
    """What every overlay has, as `settings` have it."""
    return {
        "raycluster.yaml": [ray_cluster(topology, settings, gateway_port)],
        "access.yaml": access.accounts(),
        "roles.yaml": roles.documents(),
        "network.yaml": access.network(gateway_port, settings.egress),
        "gateway.yaml": [access.gateway(topology.name, gateway_port, tls=settings.gateway_tls)],
    }


def additions(topology: Topology, settings: Settings, work: Workload | None) -> Parts:
    """What an overlay has beside the base."""
    parts: Parts = {}
    if settings.shared_folder:
        parts["volume.yaml"] = [_claim(settings)]
    if settings.survives_head:
        parts["redis.yaml"] = [*redis.documents(), *access.redis_network()]
    if (num_pods := shaped(topology, settings).pool(GROUP).min_nodes) > 1:
        parts["disruption.yaml"] = [disruption_budget(topology.name, num_pods)]
    if settings.monitored:
        parts["monitoring.yaml"] = monitoring.documents(topology.name)
        parts["dashboards.yaml"] = [dashboards.config_map()]
    if work is not None:
        parts["recipe.yaml"] = [_config_map(work)]
    return parts


def overlay(topology: Topology, settings: Settings, work: Workload | None = None) -> list[Document]:
    """Everything that an overlay applies, in the order of its files."""
    port = work.port if work else GATEWAY_PORT
    parts = {**base(topology, settings, port), **additions(topology, settings, work)}
    return [document for documents in parts.values() for document in documents]


def render(
    topology: Topology,
    overlay_name: str,
    work: Workload | None = None,
    image: str | None = None,
    egress: Sequence[str] = (),
) -> Files:
    """Every file below the folder to write to: the base, an overlay, in it the jobs of the recipe, and Grafana's dashboards.

    Args:
        image: takes the place of the overlay's images.
        egress: what Ray's pods may reach outside, beside what the overlay lets them.

    Raises:
        ConfigError: no such overlay, an egress that cannot be read, or a document that the operator or our own rules refuse.
    """
    settings = _with_image(settings_of(overlay_name), image)
    settings = settings.replace(egress=(*settings.egress, *egress), gateway_tls=work is not None and work.tls)
    below = _overlay_files(topology, settings, work)
    shown = {f"dashboards/{name}": text for name, text in dashboards.files().items()} if settings.monitored else {}
    return {
        **_base_files(topology),
        **shown,
        **{f"overlays/{overlay_name}/{path}": text for path, text in below.items()},
    }


def lifecycle_job(topology: Topology, overlay_name: str, work: Workload, image: str | None = None) -> Document:
    """The RayJob that runs the whole recipe, for `serinus submit --k8s`.

    Raises:
        ConfigError: no such overlay, or a document that the operator or our own rules refuse.
    """
    made = jobs(topology, _with_image(settings_of(overlay_name), image), work)["lifecycle"]
    rules.check([made])
    return made


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write the files below `folder`; others that are there stay.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    for name, text in files.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            found = f"cannot be written: {error.strerror}"
            raise ConfigError(f"--out: {folder / name}", found, "name a folder that you may write to") from None


def as_yaml(documents: Sequence[Document], header: str = HEADER) -> str:
    """The documents as one YAML file."""
    dumped = (yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120) for document in documents)
    return header + "---\n".join(dumped)


def difference(old: Any, new: Any, path: str = "") -> Iterator[Document]:
    """The JSON patch (RFC 6902) that makes `new` of `old`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            place = f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                yield {"op": "remove", "path": place}
            else:
                yield from difference(old[key], new[key], place)
        for key in (key for key in new if key not in old):
            place = f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"
            yield {"op": "add", "path": place, "value": new[key]}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from difference(one, other, f"{path}/{index}")
    elif old != new:
        yield {"op": "replace", "path": path, "value": new}


def _base_files(topology: Topology) -> Files:
    parts = base(topology)
    rules.check(document for documents in parts.values() for document in documents)
    files = {f"base/{name}": as_yaml(documents) for name, documents in parts.items()}
    return {**files, "base/kustomization.yaml": as_yaml([_kustomization(list(parts))])}


def _overlay_files(topology: Topology, settings: Settings, work: Workload | None) -> Files:
    everything = overlay(topology, settings, work)
    made = jobs(topology, settings, work) if work else {}
    rules.check(everything)
    rules.check(made.values())
    added = additions(topology, settings, work)
    files = {name: as_yaml(documents) for name, documents in added.items()}
    files |= {f"jobs/{name}.yaml": as_yaml([document]) for name, document in made.items()}
    patches = _patches(topology, settings, work.port if work else GATEWAY_PORT)
    return {**files, "kustomization.yaml": as_yaml([_kustomization(["../../base", *added], patches)])}


def _patches(topology: Topology, settings: Settings, port: int) -> list[Document]:
    ours, theirs = base(topology), base(topology, settings, port)
    patches = []
    for name in ours:
        for old, new in zip(ours[name], theirs[name], strict=True):
            if changes := list(difference(old, new)):
                group, _, version = old["apiVersion"].rpartition("/")
                target = {"version": version, "kind": old["kind"], "name": old["metadata"]["name"]}
                target = {"group": group, **target} if group else target
                patches.append({"target": target, "patch": yaml.dump(changes, Dumper=_Dumper, sort_keys=False)})
    return patches


def _kustomization(resources: list[str], patches: list[Document] | None = None) -> Document:
    document: Document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    return {**document, "patches": patches} if patches else document


def settings_of(name: str) -> Settings:
    """The overlay of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in OVERLAYS:
        raise ConfigError("--overlay", f"{name!r} is none", f"choose among {', '.join(OVERLAYS)}")
    return OVERLAYS[name]


def _with_image(settings: Settings, image: str | None) -> Settings:
    return settings.replace(image=image, train_image=None) if image else settings


def _config_map(work: Workload) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": RECIPE, "labels": labels("recipe")},
        "data": {"recipe.yaml": work.recipe},
    }


def _claim(settings: Settings) -> Document:
    """For a cluster of one machine, which every pod runs on; on several it must be ReadWriteMany."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "serinus-build", "labels": labels("storage")},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": f"{settings.disk_gib}Gi"}}},
    }


class _Dumper(yaml.SafeDumper):
    """Says equal parts in full, since an alias is no part of what people expect in a manifest, and long texts as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)

"""A recipe as it holds inside the cluster: where its paths lead there, where the gateway listens, where its keys are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.config import LOOPBACK, is_loopback
from cluster.errors import ConfigError
from cluster.kuberay.settings import BUILD_FOLDER, ENVIRONMENT_SECRET, KEYS_FOLDER, PROJECT_FOLDER, TLS_FOLDER, Settings

LOCATIONS = frozenset({"path", "sentencepiece", "file", "storage", "uri", "source"})
"""Fields of a recipe that hold a place (`uri` is one of `storage`); a test compares them with the recipe's types.
serve.admission.keys and serve.control.keys are a Secret here, and data.protect.key_file, a secret too, is refused: no pod of the
data pool mounts one."""


def in_cluster(recipe: Mapping[str, Any], where: str, root: Path, settings: Settings) -> str:
    """The recipe as YAML for a ConfigMap.

    Args:
        recipe: with absolute paths, as it was read.
        where: the recipe's file, for errors.
        root: the project's folder, which the images have at PROJECT_FOLDER.

    Raises:
        ConfigError: a path leads nowhere in the cluster, or a webhook's address would be in the ConfigMap.
    """
    if (recipe.get("data") or {}).get("protect", {}).get("key_file"):
        found = "a secret file of this machine, which the pods do not have"
        raise ConfigError(f"{where}: data.protect.key_file", found, "choose `mask` or `drop` instead of `hash`")
    _check_webhooks(recipe, where)
    secret = {"tls": {"certificate": f"{TLS_FOLDER}/tls.crt", "key": f"{TLS_FOLDER}/tls.key"}}
    moved = {key: _moved(value, key, key, where, root) for key, value in recipe.items()}
    _check_storage(moved["storage"], where, settings)
    serve = dict(moved.get("serve", {}))
    if serve.get("entry") == "direct":
        found = "gateway replicas would listen, and pods without one would get requests all the same"
        raise ConfigError(f"{where}: serve.entry", found, "use `proxy` (which `auto` is here): Serve's proxies listen")
    serve["host"] = "0.0.0.0"  # noqa: S104  # the pod's address: the Service and the NetworkPolicy stand in front
    if (admission := serve.get("admission", {})).get("keys"):
        serve["admission"] = {**admission, "keys": f"{KEYS_FOLDER}/keys.yaml"}
    if control := serve.get("control"):
        serve["control"] = _control(control, where)
    serve |= secret if serve.get("tls") else {}
    return yaml.safe_dump({**moved, "serve": serve}, sort_keys=False, width=120)


def _control(control: Mapping[str, Any], where: str) -> dict[str, Any]:
    """On the head pod's loopback: `kubectl exec` and `port-forward` reach it, for which Kubernetes asks who it is."""
    if not is_loopback(control.get("host", LOOPBACK)):
        found = f"{control['host']} is open to other pods, and no Service or NetworkPolicy is rendered for it"
        raise ConfigError(f"{where}: serve.control.host", found, f"use {LOOPBACK}, and kubectl port-forward")
    return {**control, "keys": f"{KEYS_FOLDER}/control-keys.yaml"}


def _check_webhooks(recipe: Mapping[str, Any], where: str) -> None:
    """Such an address is often all that it takes to write there, and a ConfigMap is read by many and kept in repositories."""
    for index, webhook in enumerate((recipe.get("notify") or {}).get("webhooks", ())):
        if webhook.get("url"):
            found = "the address would be in a ConfigMap, in plain text"
            remedy = f"name a variable with `url_env`, and put the address into the Secret {ENVIRONMENT_SECRET}"
            raise ConfigError(f"{where}: notify.webhooks[{index}].url", found, remedy)


def _moved(value: Any, key: str, field: str, where: str, root: Path) -> Any:
    if isinstance(value, Mapping):
        return {name: _moved(part, name, f"{field}.{name}", where, root) for name, part in value.items()}
    if isinstance(value, list):
        return [_moved(part, key, f"{field}[{index}]", where, root) for index, part in enumerate(value)]
    if key in LOCATIONS and isinstance(value, str) and "://" not in value:
        return _place(Path(value), field, where, root)
    return value


def _place(path: Path, field: str, where: str, root: Path) -> str:
    if path.is_relative_to(PROJECT_FOLDER):
        return str(path)
    if not path.is_relative_to(root):
        found = f"{path} is on this machine alone"
        remedy = "use s3://, hf:// for a model, or a path in the project's folder, which the images have"
        raise ConfigError(f"{where}: {field}", found, remedy)
    return str(PROJECT_FOLDER / path.relative_to(root))


def _check_storage(given: str | Mapping[str, str], where: str, settings: Settings) -> None:
    storage = given if isinstance(given, str) else given["uri"]
    if storage.startswith("s3://") or (settings.shared_folder and Path(storage).is_relative_to(BUILD_FOLDER)):
        return
    found = f"{storage} is a folder, and the pods of overlay `{settings.name}` share none"
    shared = [f"or below {BUILD_FOLDER}"] if settings.shared_folder else []
    raise ConfigError(f"{where}: storage", found, " ".join(["use s3://bucket/folder", *shared]))

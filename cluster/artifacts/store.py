"""Artifacts in the storage: written last, found by key or digest, and of two writers one wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from cluster.artifacts.contamination import Contamination
from cluster.artifacts.data import Annotations, Dataset, Preferences, Record
from cluster.artifacts.evaluation import EvalReport, GateReport
from cluster.artifacts.manifest import VERSION, FileEntry, Manifest, digest
from cluster.artifacts.progressive import Forecast, InitialModel, StageRun
from cluster.artifacts.publication import Adapter, Revision
from cluster.artifacts.quantization import QuantizedModel, SchemeSearch
from cluster.artifacts.training import Checkpoint, ImportedModel, WeightSearch
from cluster.errors import Conflict, InputError
from cluster.storage import ABSENT, Storage, sha256_of

KINDS: dict[str, type[Manifest]] = {
    "dataset": Dataset,
    "record": Record,
    "annotations": Annotations,
    "preferences": Preferences,
    "model": ImportedModel,
    "checkpoint": Checkpoint,
    "initial": InitialModel,
    "forecast": Forecast,
    "stage_run": StageRun,
    "quantized": QuantizedModel,
    "adapter": Adapter,
    "contamination": Contamination,
    "evaluation": EvalReport,
    "gate": GateReport,
    "search": SchemeSearch,
    "weight_search": WeightSearch,
    "revision": Revision,
}


A = TypeVar("A", bound=Manifest)


def file_entries(folder: Path, name: str) -> tuple[FileEntry, ...]:
    """What lies in a local `folder` that is, or will become, the folder `name` of an artifact: for Manifest.files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        FileEntry(
            path=f"{name}/{path.relative_to(folder).as_posix()}",
            num_bytes=path.stat().st_size,
            sha256=sha256_of(path),
        )
        for path in paths
    )


def stage_key(stage: str, config: Any, inputs: dict[str, str]) -> str:
    """The key under which a stage's result is kept; `inputs` maps roles to digests."""
    return digest({"stage": stage, "config": config, "inputs": inputs})[:16]


def save(storage: Storage, manifest: A) -> A:
    """Write the manifest, last of all files of its artifact, and return it as written. Its digest is made findable first."""
    manifest = manifest.model_copy(update={"made_by": manifest.made_by or f"serinus {VERSION}"})
    storage.write(f"artifacts/by-digest/{manifest.digest}", manifest.location.encode())
    storage.write(f"{manifest.location}/manifest.json", manifest.model_dump_json(indent=1).encode())
    return manifest


def commit(storage: Storage, manifest: A) -> tuple[A, bool]:
    """As `save`, if nobody else has made that artifact. The manifest in force, and whether it is the one given.

    Of two writers one wins: the manifest is written by compare-and-set.
    """
    manifest = manifest.model_copy(update={"made_by": manifest.made_by or f"serinus {VERSION}"})
    name = f"{manifest.location}/manifest.json"
    storage.write(f"artifacts/by-digest/{manifest.digest}", manifest.location.encode())
    while True:
        present = storage.read(name)
        if present is not None and present.content:
            break
        try:
            content = manifest.model_dump_json(indent=1).encode()
            storage.write(name, content, expect=present.version if present else ABSENT)
            return manifest, True
        except Conflict:  # written since we looked
            continue
    other = load(storage, type(manifest), manifest.key)
    assert other is not None
    return other, False


def load(storage: Storage, kind: type[A], key: str) -> A | None:
    """The finished artifact of that kind and key, or None when there is none (yet).

    Raises:
        InputError: the manifest is damaged.
    """
    location = f"artifacts/{kind.model_fields['kind'].default}/{key}"
    blob = storage.read(f"{location}/manifest.json")
    if blob is None or not blob.content:
        return None
    try:
        return kind.model_validate_json(blob.content)
    except ValueError as error:
        raise InputError(
            f"{storage.uri}/{location}/manifest.json",
            f"not a {kind.__name__} manifest ({str(error).splitlines()[0]})",
            "remove that folder; the stage will be run again",
        ) from None


def retire(storage: Storage, manifest: Manifest) -> None:
    """Take the completion marker away, so that the artifact is made again under the same key."""
    storage.write(f"{manifest.location}/manifest.json", b"")


def find(storage: Storage, manifest_digest: str) -> Manifest | None:
    """The artifact with that digest, of whatever kind."""
    blob = storage.read(f"artifacts/by-digest/{manifest_digest}")
    if blob is None:
        return None
    _, kind, key = blob.content.decode().split("/")
    found = load(storage, KINDS[kind], key)
    return found if found is not None and found.digest == manifest_digest else None

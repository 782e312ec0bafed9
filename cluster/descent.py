"""What was made of an artifact: the lineage read downwards, from a dataset to the models, revisions and aliases.

Manifests are read for their inputs alone, so that those of other versions of serinus count as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from cluster import registry
from cluster.artifacts import Annotations, Checkpoint, Preferences, load
from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import Storage

WEIGHTS_FROM: Mapping[str, tuple[str, ...]] = {
    "annotations": ("dataset",),
    "model": ("copied",),
    "checkpoint": ("dataset", "base", "replayed", "consolidated", "annotations", "preferences", "teacher"),
    "quantized": ("dataset", "model"),
    "adapter": ("base", "trained"),
    "revision": ("weights", "revision", "base", "adapter"),
}
"""Kind -> roles of the inputs that its weights carry on, or its conversations. A gate's verdict changes no weights. `copied` is no
input of a manifest: a base model that is brought in again has the same files as the training here that made it."""

HOW = {"checkpoint": "trained on it", "quantized": "calibrated with it"}
"""What a dataset is to a model of that kind that has it among its own inputs."""
HOW_MADE = {"teacher": "taught by", "copied": "a copy of"}
"""What weights in another role than that are to a model: it is made of them."""
COPIES = {"model": "copied", "adapter": "trained"}
"""Kind of what may be brought in -> the role of the training whose files it has."""
WEIGHT_FILES = (".safetensors", ".bin", ".gguf")


class Model(StrictModel):
    """Weights or a revision that a dataset has gone into, directly or through the weights it was made of."""

    kind: str
    key: str
    how: str
    name: str = ""
    """A revision's public name."""
    revision: str = ""
    aliases: tuple[str, ...] = ()
    """That point at it now."""
    was: tuple[str, ...] = ()
    """Aliases that pointed at it before."""


class Descent(StrictModel):
    models: tuple[Model, ...] = ()
    """Each behind those it was made of."""
    evaluations: tuple[str, ...] = ()
    """Keys of the reports for which items were drawn from the dataset."""


class _Artifact(NamedTuple):
    location: str
    kind: str
    key: str
    inputs: dict[str, str]
    """Role -> location."""
    weights: frozenset[str]
    """SHA-256 of its files of weights, and of those that it was brought in from."""
    name: str
    revision: str


def descent(storage: Storage, *datasets: str) -> Descent:
    """What was made of the datasets at these locations.

    Raises:
        InputError: a manifest in the storage is no JSON.
    """
    everything, wanted = _with_copies(list(_artifacts(storage))), set(datasets)
    inside = _reached(everything, wanted)
    told: dict[str, Model] = {}
    while waiting := [found for found in inside if found.location not in told]:
        ahead = {found.location for found in waiting}
        for found in waiting:
            if not _carries(found, ahead):  # all that it was made of is told
                told[found.location] = _model(storage, found, wanted, told)
    reports = [found.key for found in everything if found.kind == "evaluation" and wanted & {*found.inputs.values()}]
    models = tuple(model for model in told.values() if model.kind != "annotations")
    return Descent(models=models, evaluations=tuple(reports))


MadeFile = TypeVar("MadeFile", Annotations, Checkpoint, Preferences)


def made_as(storage: Storage, kind: type[MadeFile], sha256: str) -> MadeFile | None:
    """The artifact of that kind that a file with that hash was made as, wherever it lies now."""
    for name in storage.list(f"artifacts/{kind.model_fields['kind'].default}"):
        if name.count("/") == 3 and name.endswith("/manifest.json"):
            # Only what names the file is looked at: others may be damaged, or of another version.
            if (blob := storage.read(name)) is None or sha256.encode() not in blob.content:
                continue
            made = load(storage, kind, name.split("/")[2])
            if made is not None and any(file.sha256 == sha256 for file in made.files):
                return made
    return None


def _reached(everything: Sequence[_Artifact], datasets: set[str]) -> list[_Artifact]:
    """All whose weights carry on one of the datasets."""
    places = set(datasets)
    while new := {found.location for found in everything if _carries(found, places)} - places:
        places |= new
    return [found for found in everything if found.location in places]


def _carries(found: _Artifact, sources: set[str]) -> bool:
    return any(found.inputs.get(role) in sources for role in WEIGHTS_FROM.get(found.kind, ()))


def _model(storage: Storage, found: _Artifact, datasets: set[str], reached: Mapping[str, Model]) -> Model:
    roles = WEIGHTS_FROM[found.kind]
    own = [HOW[found.kind]] if found.kind in HOW and datasets & {found.inputs.get(role, "") for role in roles} else []
    parents = [(role, reached[place]) for role in roles if (place := found.inputs.get(role, "")) in reached]
    how = ", ".join(
        own + [f"{HOW_MADE.get(role, 'made of')} {one.revision or f'{one.kind} {one.key}'}" for role, one in parents]
    )
    if found.kind != "revision":
        return Model(kind=found.kind, key=found.key, how=how)
    now = tuple(alias for alias, at in registry.aliases(storage, found.name).items() if at == found.revision)
    moves = registry.alias_history(storage, found.name)
    was = dict.fromkeys(move.alias for move in moves if move.new == found.revision and move.alias not in now)
    return Model(
        kind=found.kind, key=found.key, how=how, name=found.name, revision=found.revision, aliases=now, was=tuple(was)
    )


def _with_copies(everything: list[_Artifact]) -> list[_Artifact]:
    """Those whose weights a training here made, but that were brought in without saying so, lead to it: of several with some of
    the same files to the one with the most. What a training began with is no copy of it, if it left one of the files as it was."""
    made, found = [one for one in everything if one.kind == "checkpoint"], list(everything)
    for at, one in enumerate(found):
        if one.kind not in COPIES or not (alike := [other for other in made if other.weights & one.weights]):
            continue
        later = {other.location for other in _reached(found, {one.location})}
        if earlier := [other for other in alike if other.location not in later]:
            most = max(earlier, key=lambda other: (len(other.weights & one.weights), other.location))
            found[at] = one._replace(inputs={COPIES[one.kind]: most.location, **one.inputs})
    return found


def _artifacts(storage: Storage) -> Iterator[_Artifact]:
    known: dict[str, str] = {}
    for kind in (*WEIGHTS_FROM, "evaluation"):
        for key in storage.list(f"artifacts/{kind}"):
            if key.count("/") == 3 and key.endswith("/manifest.json") and (found := _read(storage, key, known)):
                yield found


def _read(storage: Storage, key: str, known: dict[str, str]) -> _Artifact | None:
    blob = storage.read(key)
    if blob is None or not blob.content:  # taken away, to be made again
        return None
    try:
        manifest = json.loads(blob.content)
        inputs = {role: _location(storage, digest, known) for role, digest in manifest["inputs"].items()}
        files = [*manifest.get("files", ()), *manifest.get("sources", ())]
        weights = frozenset(file["sha256"] for file in files if file["path"].endswith(WEIGHT_FILES))
        names = manifest.get("name", ""), manifest.get("revision", "")
        place = key.removesuffix("/manifest.json")
        return _Artifact(place, manifest["kind"], manifest["key"], inputs, weights, *names)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{storage.uri}/{key}", "not a manifest", "restore the file, or remove that folder") from None


def _location(storage: Storage, digest: str, known: dict[str, str]) -> str:
    """Of the artifact that had that digest when it was made; empty when it is not known any more."""
    if digest not in known:
        blob = storage.read(f"artifacts/by-digest/{digest}")
        known[digest] = blob.content.decode() if blob else ""
    return known[digest]

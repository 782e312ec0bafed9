"""What is published under a public name: immutable revisions, the aliases that point at them, and where each came from.

    registry/<name>/revisions/<revision>.json    one published revision, never changed
    registry/<name>/aliases.json                 stable, candidate, previous, and every move there ever was

Aliases share one document, so a promotion moves all three in one compare-and-set.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pydantic import Field

from cluster.artifacts import VERSION, VOLATILE, Dataset, ImportedModel, Manifest, Revision, digest, find, save
from cluster.config import StrictModel
from cluster.errors import Conflict, InputError
from cluster.storage import ABSENT, Storage

ALIASES: Final = ("stable", "candidate", "previous")
NUM_ATTEMPTS = 20
"""Lost races after which a move of aliases gives up: far more writers than one model ever has."""


class AliasMove(StrictModel):
    """One alias pointed from one revision to another; None is nowhere."""

    alias: str
    old: str | None
    new: str | None
    who: str
    why: str
    at: datetime


class Aliases(StrictModel):
    name: str
    pointers: dict[str, str] = Field(default={})
    history: tuple[AliasMove, ...] = ()


class Lineage(StrictModel):
    """One artifact in a lineage, or one source file of a dataset (kind `source`), with what it was made from."""

    kind: str
    key: str
    digest: str
    role: str = ""
    """What it was for its parent: `dataset`, `weights`, `calibration`, ..."""
    summary: str = ""
    repeated: bool = False
    """Its inputs were listed already, further up."""
    children: tuple[Lineage, ...] = ()


def publish_revision(storage: Storage, revision: Revision) -> Revision:
    """Publish `revision` under its id for good; publishing the same again gives back what is there.

    Raises:
        InputError: another revision has that id.
    """
    assert revision.name, "a revision to publish has a name"
    assert revision.revision, "a revision to publish has an id"
    key = _revision_key(revision.name, revision.revision)
    revision = revision.model_copy(update={"made_by": revision.made_by or f"serinus {VERSION}"})
    try:
        storage.write(key, revision.model_dump_json(indent=1).encode(), expect=ABSENT)
    except Conflict:
        present = _read_revision(storage, key)
        assert present is not None
        if _content(present) != _content(revision):
            raise InputError(
                f"revision {revision.revision}",
                f"is published with other content already ({_content(present)[:12]}, here {_content(revision)[:12]})",
                "revisions are never changed: publish under another id",
            ) from None
        revision = present
    return save(storage, revision)  # last: the manifest is what tells a rerun that publishing is done


def _content(revision: Revision) -> str:
    """Digest of what is published: an upgrade of serinus between two runs makes no other revision."""
    return digest(revision.model_dump(mode="json", exclude={*VOLATILE, "made_by"}))


def revisions(storage: Storage, name: str) -> tuple[Revision, ...]:
    """Everything published under `name`, oldest first."""
    keys = [key for key in storage.list(f"registry/{name}/revisions") if key.endswith(".json")]
    found = [revision for key in keys if (revision := _read_revision(storage, key)) is not None]
    return tuple(sorted(found, key=lambda revision: revision.made_at))


def aliases(storage: Storage, name: str) -> dict[str, str]:
    """Alias -> revision id, for those aliases that point somewhere."""
    return dict(_read_aliases(storage, name)[0].pointers)


def alias_history(storage: Storage, name: str) -> tuple[AliasMove, ...]:
    """Every move of an alias of `name`, oldest first."""
    return _read_aliases(storage, name)[0].history


def resolve(storage: Storage, name: str, alias_or_revision: str) -> Revision:
    """The revision that an alias points at, or the one with that id.

    Raises:
        InputError: no such alias or revision, or the alias points nowhere.
    """
    wanted = alias_or_revision
    if wanted in ALIASES:
        pointers = aliases(storage, name)
        if wanted not in pointers:
            raise InputError(f"alias {wanted} of {name}", "points at no revision", _remedy_for_alias(wanted))
        wanted = pointers[wanted]
    revision = _read_revision(storage, _revision_key(name, wanted))
    if revision is None:
        known = [r.revision for r in revisions(storage, name)]
        near = difflib.get_close_matches(wanted, [*known, *ALIASES], n=1)
        remedy = (
            f"did you mean {near[0]}?"
            if near
            else f"known: {', '.join(known) or 'none, publish one with `serinus run`'}"
        )
        raise InputError(f"revision {wanted} of {name}", f"is not in the registry at {storage.uri}", remedy)
    return revision


def engine_of(storage: Storage, name: str, revision: str) -> str:
    """The revision whose application answers for that one: for an adapter its base, for any other, an unknown one too, itself."""
    found = _read_revision(storage, _revision_key(name, revision))
    return revision if found is None else found.engine_revision


def check_engine(storage: Storage, candidate: Revision) -> None:
    """An adapter is a canary in stable's engine; in another one it would be compared with other weights too.

    Raises:
        InputError: it is an adapter for another one.
    """
    stable = aliases(storage, candidate.name).get("stable")
    if not candidate.base or stable is None:
        return
    engine = resolve(storage, candidate.name, stable).engine_revision
    if candidate.base != engine:
        remedy = f"publish the adapter for that one: serinus publish-adapter FOLDER --base {engine}"
        found = f"is an adapter for {candidate.base}, while stable runs in the engine of {engine}"
        raise InputError(f"revision {candidate.revision}", found, remedy)


def move_alias(
    storage: Storage,
    name: str,
    alias: str,
    revision_id: str | None,
    *,
    expect: str | None = "*",
    who: str = "",
    why: str = "",
    at: datetime | None = None,
) -> dict[str, str]:
    """Point `alias` at `revision_id` (None: at nothing) if it now points at `expect` ("*": wherever it points).

    Returns:
        All aliases after the move. A move to where the alias points already leaves no trace in the history.

    Raises:
        Conflict: the alias points elsewhere than expected.
        InputError: the revision is not published under `name`.
    """
    expected = {} if expect == "*" else {alias: expect}
    return move_aliases(storage, name, {alias: revision_id}, expect=expected, who=who, why=why, at=at)


def move_aliases(
    storage: Storage,
    name: str,
    targets: Mapping[str, str | None],
    *,
    expect: Mapping[str, str | None] | None = None,
    who: str = "",
    why: str = "",
    at: datetime | None = None,
) -> dict[str, str]:
    """Move several aliases in one compare-and-set: all of them or none. See `move_alias`."""
    assert set(targets) <= set(ALIASES), f"aliases are {ALIASES}, not {set(targets)}"
    for revision_id in filter(None, targets.values()):
        resolve(storage, name, revision_id)
    for _ in range(NUM_ATTEMPTS):
        present, version = _read_aliases(storage, name)
        for alias, expected in (expect or {}).items():
            if (found := present.pointers.get(alias)) != expected:
                what = f"points at {found or 'nothing'}, expected {expected or 'nothing'}"
                raise Conflict(f"alias {alias} of {name} {what}")
        moved = _moved(present, targets, who, why, at or datetime.now(UTC))
        if moved == present:
            return dict(present.pointers)
        try:
            storage.write(_aliases_key(name), moved.model_dump_json(indent=1).encode(), expect=version)
        except Conflict:
            continue
        return dict(moved.pointers)
    raise Conflict(f"the aliases of {name} are being changed by others all the time")


def _moved(present: Aliases, targets: Mapping[str, str | None], who: str, why: str, at: datetime) -> Aliases:
    changes = {alias: new for alias, new in targets.items() if present.pointers.get(alias) != new}
    moves = tuple(
        AliasMove(alias=alias, old=present.pointers.get(alias), new=new, who=who, why=why, at=at)
        for alias, new in changes.items()
    )
    merged: dict[str, str | None] = {**present.pointers, **changes}
    pointers = {alias: revision_id for alias, revision_id in merged.items() if revision_id is not None}
    return Aliases(name=present.name, pointers=pointers, history=(*present.history, *moves))


def lineage(storage: Storage, name: str, wanted: str) -> Lineage:
    """Everything a revision of `name` (or an alias, or an artifact by its digest) was made from, down to source files.

    Raises:
        InputError: there is no such revision, alias or digest.
    """
    return _node(storage, find(storage, wanted) or resolve(storage, name, wanted), "", set())


def _node(storage: Storage, manifest: Manifest, role: str, seen: set[str]) -> Lineage:
    node = Lineage(kind=manifest.kind, key=manifest.key, digest=manifest.digest, role=role, summary=manifest.summary)
    if node.digest in seen:
        return node.replace(repeated=True)
    seen.add(node.digest)
    children = [_input(storage, role, child, seen) for role, child in sorted(manifest.inputs.items())]
    if isinstance(manifest, Dataset | ImportedModel):
        children += [
            Lineage(
                kind="source", key=source.path, digest=source.sha256, role="source", summary=f"{source.num_bytes} bytes"
            )
            for source in manifest.sources
        ]
    return node.replace(children=tuple(children))


def _input(storage: Storage, role: str, input_digest: str, seen: set[str]) -> Lineage:
    manifest = find(storage, input_digest)
    if manifest is None:
        return Lineage(
            kind="missing", key="", digest=input_digest, role=role, summary="its manifest is no longer in the storage"
        )
    return _node(storage, manifest, role, seen)


def _revision_key(name: str, revision_id: str) -> str:
    return f"registry/{name}/revisions/{revision_id}.json"


def _aliases_key(name: str) -> str:
    return f"registry/{name}/aliases.json"


def _remedy_for_alias(alias: str) -> str:
    match alias:
        case "candidate":
            return "publish one with `serinus run RECIPE`, or name a revision"
        case "stable":
            return "deploy one with `serinus deploy RECIPE`"
        case _:
            return "there is one after the first promotion"


def _read_revision(storage: Storage, key: str) -> Revision | None:
    blob = storage.read(key)
    if blob is None:
        return None
    try:
        return Revision.model_validate_json(blob.content)
    except ValueError as error:
        raise InputError(
            f"{storage.uri}/{key}", f"not a revision ({str(error).splitlines()[0]})", "restore the file"
        ) from None


def _read_aliases(storage: Storage, name: str) -> tuple[Aliases, str]:
    blob = storage.read(_aliases_key(name))
    if blob is None:
        return Aliases(name=name), ABSENT
    try:
        return Aliases.model_validate_json(blob.content), blob.version
    except ValueError as error:
        where = f"{storage.uri}/{_aliases_key(name)}"
        raise InputError(where, f"not a list of aliases ({str(error).splitlines()[0]})", "restore the file") from None

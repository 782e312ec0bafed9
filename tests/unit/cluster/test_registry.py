"""The registry as stories: what is published stays, aliases move by compare-and-set, lineage reaches the sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.artifacts import Checkpoint, Dataset, Revision, Source, save
from cluster.errors import Conflict, InputError
from cluster.registry import (
    alias_history,
    aliases,
    check_engine,
    engine_of,
    lineage,
    move_alias,
    move_aliases,
    publish_revision,
    resolve,
    revisions,
)
from cluster.storage import Storage


def revision(number: int, **changes: object) -> Revision:
    names = {"name": "m", "revision": f"m-{number:08x}"}
    fields = {"key": f"{number:016x}", **names, "weights": f"artifacts/quantized/{number}/model"}
    return Revision.model_validate({**fields, **changes})


def test_publishing_the_same_revision_again_gives_back_what_is_there(storage: Storage) -> None:
    first = publish_revision(storage, revision(1, took_s=1.0))
    again = publish_revision(storage, revision(1, took_s=2.0))
    assert again == first
    assert revisions(storage, "m") == (first,)


def test_another_content_under_the_same_id_is_refused_and_changes_nothing(storage: Storage) -> None:
    first = publish_revision(storage, revision(1))
    with pytest.raises(InputError, match="published with other content already"):
        publish_revision(storage, revision(1, weights="elsewhere"))
    assert resolve(storage, "m", "m-00000001") == first


def test_a_revision_half_published_is_completed_by_the_next_run(storage: Storage) -> None:
    whole = publish_revision(storage, revision(1))
    (Path(storage.uri) / whole.location / "manifest.json").unlink()
    publish_revision(storage, revision(1))
    assert lineage(storage, "m", whole.digest).summary == "m-00000001"


def test_an_alias_resolves_to_where_it_points(storage: Storage) -> None:
    one = publish_revision(storage, revision(1))
    move_alias(storage, "m", "candidate", "m-00000001", who="run", why="gate passed")
    assert resolve(storage, "m", "candidate") == one


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("stable", "points at no revision"),
        ("m-00000002", "is not in the registry"),
        ("nothing", "is not in the registry"),
    ],
)
def test_what_is_not_there_is_said_with_a_remedy(storage: Storage, asked: str, found: str) -> None:
    publish_revision(storage, revision(1))
    with pytest.raises(InputError, match=found) as caught:
        resolve(storage, "m", asked)
    assert caught.value.remedy


def test_an_adapter_is_answered_by_its_base_and_is_a_canary_there_alone(storage: Storage) -> None:
    publish_revision(storage, revision(1))
    publish_revision(storage, revision(2))
    adapter = publish_revision(storage, revision(3, base="m-00000001", adapter="folder"))
    assert [engine_of(storage, "m", f"m-0000000{n}") for n in (1, 3, 9)] == ["m-00000001", "m-00000001", "m-00000009"]
    check_engine(storage, adapter)  # nothing is stable yet
    move_alias(storage, "m", "stable", "m-00000001", who="test", why="")
    check_engine(storage, adapter)
    move_alias(storage, "m", "stable", "m-00000002", who="test", why="")
    with pytest.raises(InputError, match="engine of m-00000002"):
        check_engine(storage, adapter)


def test_an_alias_cannot_point_at_what_is_not_published(storage: Storage) -> None:
    with pytest.raises(InputError):
        move_alias(storage, "m", "stable", "m-00000009")
    assert aliases(storage, "m") == {}


def test_a_move_from_an_unexpected_place_is_a_conflict_and_moves_nothing(storage: Storage) -> None:
    for number in (1, 2, 3):
        publish_revision(storage, revision(number))
    move_alias(storage, "m", "stable", "m-00000001", expect=None)
    with pytest.raises(Conflict, match="points at m-00000001, expected m-00000002"):
        move_alias(storage, "m", "stable", "m-00000003", expect="m-00000002")
    with pytest.raises(Conflict):
        move_alias(storage, "m", "stable", "m-00000003", expect=None)
    assert aliases(storage, "m") == {"stable": "m-00000001"}


def test_a_promotion_moves_all_aliases_or_none(storage: Storage) -> None:
    for number in (1, 2):
        publish_revision(storage, revision(number))
    move_aliases(storage, "m", {"stable": "m-00000001", "candidate": "m-00000002"})
    promotion = {"stable": "m-00000002", "previous": "m-00000001", "candidate": None}
    with pytest.raises(Conflict):
        move_aliases(storage, "m", promotion, expect={"stable": "m-00000002"})
    assert aliases(storage, "m") == {"stable": "m-00000001", "candidate": "m-00000002"}
    move_aliases(storage, "m", promotion, expect={"stable": "m-00000001"}, who="controller", why="promoted")
    assert aliases(storage, "m") == {"stable": "m-00000002", "previous": "m-00000001"}


def test_the_history_tells_who_and_why_once_for_each_real_move(storage: Storage) -> None:
    publish_revision(storage, revision(1))
    for _ in range(2):
        move_alias(storage, "m", "candidate", "m-00000001", who="ann", why="gate passed")
    move_alias(storage, "m", "candidate", None, who="bob", why="withdrawn")
    told = [(m.alias, m.old, m.new, m.who, m.why) for m in alias_history(storage, "m")]
    assert told == [
        ("candidate", None, "m-00000001", "ann", "gate passed"),
        ("candidate", "m-00000001", None, "bob", "withdrawn"),
    ]


def test_lineage_reaches_the_hashes_of_the_source_files(storage: Storage) -> None:
    data = save(storage, Dataset(key="d" * 16, sources=(Source(path="a.txt", num_bytes=3, sha256="ab" * 32),)))
    trained = save(storage, Checkpoint(key="c" * 16, inputs={"dataset": data.digest, "model": "0" * 64}))
    made = publish_revision(storage, revision(1, inputs={"weights": trained.digest, "heldout": data.digest}))

    tree = lineage(storage, "m", "m-00000001")

    assert lineage(storage, "m", made.digest) == tree
    heldout, weights = tree.children
    assert (heldout.role, heldout.kind, heldout.children[0].digest) == ("heldout", "dataset", "ab" * 32)
    repeated, missing = weights.children
    assert (repeated.kind, repeated.repeated, repeated.children) == ("dataset", True, ())
    assert (missing.kind, missing.role, missing.digest) == ("missing", "model", "0" * 64)


def test_lineage_of_something_unknown_is_refused(storage: Storage) -> None:
    with pytest.raises(InputError, match="is not in the registry"):
        lineage(storage, "m", "m-00000001")


@pytest.mark.parametrize("key", ["registry/m/aliases.json", "registry/m/revisions/m-00000001.json"])
def test_a_damaged_file_is_named(storage: Storage, key: str) -> None:
    storage.write(key, b"{")
    with pytest.raises(InputError, match=key):
        resolve(storage, "m", "stable" if "aliases" in key else "m-00000001")

"""The lineage read downwards."""

from __future__ import annotations

import pytest

from cluster import artifacts, registry
from cluster.artifacts import (
    Adapter,
    Annotations,
    Checkpoint,
    Dataset,
    FileEntry,
    ImportedModel,
    QuantizedModel,
    Revision,
    Source,
)
from cluster.descent import descent, made_as
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.publish import publish_adapter
from tests.unit.pipelines.data.world import train


def test_from_a_dataset_to_the_aliases(storage: LocalStorage) -> None:
    dataset, other = (artifacts.save(storage, Dataset(key=letter * 4)) for letter in "ab")
    trained, quantized, revision = train(storage, dataset)
    registry.move_aliases(storage, "m", {"stable": revision.revision, "candidate": None})
    train(storage, other, "n")

    found = descent(storage, dataset.location)

    assert [(model.kind, model.key, model.how) for model in found.models] == [
        ("checkpoint", trained.key, "trained on it"),
        ("quantized", quantized.key, f"calibrated with it, made of checkpoint {trained.key}"),
        ("revision", revision.key, f"made of quantized {quantized.key}"),
    ]
    assert (found.models[2].aliases, found.models[2].was) == (("stable",), ("candidate",))
    assert found.evaluations == (f"e{dataset.digest[:8]}",)
    assert {model.name for model in descent(storage, dataset.location, other.location).models} == {"", "m", "n"}
    assert descent(storage, "artifacts/dataset/none").models == ()


def test_a_revision_made_of_another_and_a_base_model_that_was_only_calibrated_are_among_them(
    storage: LocalStorage,
) -> None:
    dataset = artifacts.save(storage, Dataset(key="aaaa"))
    inputs = {"model": "b" * 64, "dataset": dataset.digest}
    base = artifacts.save(storage, QuantizedModel(key="qqqq", inputs=inputs, scheme="W8A8"))
    first = artifacts.save(storage, Revision(key="r1", inputs={"weights": base.digest}, name="m", revision="m-r1"))
    artifacts.save(storage, Revision(key="r2", inputs={"revision": first.digest}, name="m", revision="m-r2"))
    assert [(model.revision or model.key, model.how) for model in descent(storage, dataset.location).models] == [
        ("qqqq", "calibrated with it"),
        ("m-r1", "made of quantized qqqq"),
        ("m-r2", "made of m-r1"),
    ]


def test_an_adapter_serves_what_its_base_has_seen(storage: LocalStorage) -> None:
    dataset = artifacts.save(storage, Dataset(key="aaaa"))
    _, _, base = train(storage, dataset)
    adapter = artifacts.save(storage, Adapter(key="adad", inputs={"base": base.digest}, base=base.revision))
    published = publish_adapter(base, adapter, storage)
    models = {model.revision or model.kind: model for model in descent(storage, dataset.location).models}
    assert models["adapter"].how == f"made of {base.revision}"
    assert models[published.revision].how == f"made of {base.revision}, made of adapter adad"
    assert models[published.revision].aliases == ("candidate",)


def test_a_training_that_began_with_an_earlier_one_or_was_taught_by_it_carries_it_on(storage: LocalStorage) -> None:
    dataset, other = (artifacts.save(storage, Dataset(key=letter * 4)) for letter in "ab")
    weights = FileEntry(path="model/model.safetensors", num_bytes=1, sha256="7" * 64)
    settings = FileEntry(path="model/config.json", num_bytes=1, sha256="8" * 64)
    first = Checkpoint(key="c1c1", inputs={"dataset": dataset.digest}, files=(weights, settings))
    artifacts.save(storage, first)
    source = Source(path="model.safetensors", num_bytes=1, sha256=weights.sha256)
    again = artifacts.save(storage, ImportedModel(key="mmmm", sources=(source,)))
    alike = Source(path="config.json", num_bytes=1, sha256=settings.sha256)  # of the same shape, with other weights
    artifacts.save(storage, ImportedModel(key="nnnn", sources=(alike,)))
    artifacts.save(storage, Checkpoint(key="c2c2", inputs={"dataset": other.digest, "base": again.digest}))
    artifacts.save(storage, Checkpoint(key="c3c3", inputs={"dataset": other.digest, "teacher": again.digest}))
    assert {model.key: model.how for model in descent(storage, dataset.location).models} == {
        "c1c1": "trained on it",
        "mmmm": "a copy of checkpoint c1c1",
        "c2c2": "made of model mmmm",
        "c3c3": "taught by model mmmm",
    }


def test_a_model_is_no_copy_of_the_training_that_left_one_of_its_files_as_it_was(storage: LocalStorage) -> None:
    dataset, other = (artifacts.save(storage, Dataset(key=letter * 4)) for letter in "ab")
    kept, first, second = (
        FileEntry(path=f"model/{number}.safetensors", num_bytes=1, sha256=f"{number}" * 64) for number in (1, 2, 3)
    )

    def brought_in(key: str, *files: FileEntry) -> ImportedModel:
        sources = tuple(Source(path=file.path[6:], num_bytes=1, sha256=file.sha256) for file in files)
        return artifacts.save(storage, ImportedModel(key=key, sources=sources))

    base = brought_in("mmmm", kept)
    for key, seen, own in (("c1c1", dataset, first), ("c2c2", other, second)):
        inputs = {"dataset": seen.digest, "base": base.digest}
        artifacts.save(storage, Checkpoint(key=key, inputs=inputs, files=(kept, own)))
    brought_in("n1n1", kept, first)
    brought_in("n2n2", kept, second)
    assert {model.key: model.how for model in descent(storage, dataset.location).models} == {
        "c1c1": "trained on it",
        "n1n1": "a copy of checkpoint c1c1",
    }


def test_a_model_that_learnt_from_annotations_has_seen_their_documents(storage: LocalStorage) -> None:
    dataset, other = (artifacts.save(storage, Dataset(key=letter * 4)) for letter in "ab")
    file = FileEntry(path="instruct.jsonl", num_bytes=1, sha256="5" * 64)
    made = artifacts.save(storage, Annotations(key="nnnn", inputs={"dataset": dataset.digest}, files=(file,)))
    inputs = {"dataset": other.digest, "annotations": made.digest}
    artifacts.save(storage, Checkpoint(key="cccc", inputs=inputs))
    found = descent(storage, dataset.location).models
    assert [(model.kind, model.key, model.how) for model in found] == [
        ("checkpoint", "cccc", "made of annotations nnnn")
    ]
    assert [model.how for model in descent(storage, other.location).models] == ["trained on it"]
    assert made_as(storage, Annotations, "5" * 64) == made
    assert made_as(storage, Annotations, "6" * 64) is None
    storage.write("artifacts/annotations/aaaa/manifest.json", b"{")  # another one's damage
    assert made_as(storage, Annotations, "5" * 64) == made


def test_fields_of_another_version_do_not_matter_but_damage_does(storage: LocalStorage) -> None:
    dataset = artifacts.save(storage, Dataset(key="aaaa"))
    key = "artifacts/checkpoint/old/manifest.json"
    inputs = f'{{"dataset": "{dataset.digest}"}}'
    storage.write(key, f'{{"kind": "checkpoint", "key": "old", "inputs": {inputs}, "future": 1}}'.encode())
    assert [model.key for model in descent(storage, dataset.location).models] == ["old"]
    storage.write(key, b"")  # taken away, to be made again
    assert descent(storage, dataset.location).models == ()
    storage.write(key, b"[]")
    with pytest.raises(InputError, match="not a manifest"):
        descent(storage, dataset.location)


@pytest.mark.parametrize("role", ["replayed", "consolidated"])
def test_a_model_that_old_documents_were_shown_to_is_among_them(storage: LocalStorage, role: str) -> None:
    old, new = (artifacts.save(storage, Dataset(key=letter * 4)) for letter in "ab")
    inputs = {"dataset": new.digest, role: old.digest}
    artifacts.save(storage, Checkpoint(key="cccc", inputs=inputs))
    assert [(model.key, model.how) for model in descent(storage, old.location).models] == [("cccc", "trained on it")]

"""A PEFT folder from outside becomes a candidate, or its fault is named before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster import registry
from cluster.artifacts import Adapter, Checkpoint, Dataset, QuantizedModel, Revision, file_entries, save
from cluster.descent import descent
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.adapter import import_adapter
from pipelines.publish import publish_adapter, publish_baseline

QUERY = "model.layers.0.self_attn.q_proj"
PACKED = "model.layers.0.mlp.down_proj"


def write(folder: Path, *, shapes: dict[str, tuple[int, ...]] | None = None, **config: Any) -> Path:
    """An adapter of rank 4 on the query projection, 6 inputs and 8 outputs."""
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    shapes = shapes or {f"{QUERY}.lora_A": (4, 6), f"{QUERY}.lora_B": (8, 4)}
    tensors = {f"base_model.model.{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def base(storage: LocalStorage) -> Revision:
    weights = save(storage, QuantizedModel(key="11" * 8, scheme="W8A8", num_weight_bytes_before=1))
    folder = storage.root / weights.folder
    folder.mkdir(parents=True)
    save_file({f"{QUERY}.weight": np.ones((8, 6), np.int8)}, folder / "model-00001-of-00002.safetensors")
    packed = {f"{PACKED}.weight_packed": np.ones((9, 2), np.int32), "lm_head.weight": np.ones((9, 6), np.float32)}
    save_file(packed, folder / "model-00002-of-00002.safetensors")
    return publish_baseline("m", weights, storage)


def test_an_adapter_becomes_the_candidate_in_its_bases_engine(
    storage: LocalStorage, base: Revision, tmp_path: Path
) -> None:
    made = import_adapter(write(tmp_path / "adapter"), base, storage)
    revision = publish_adapter(base, made, storage)
    assert made.inputs == {"base": base.digest}
    assert (made.rank, made.target_modules, made.num_parameters) == (4, ("q_proj",), 4 * 6 + 8 * 4)
    assert registry.aliases(storage, "m") == {"stable": base.revision, "candidate": revision.revision}
    assert (revision.engine_revision, revision.weights) == (base.revision, base.weights)
    assert {path.name for path in (storage.root / revision.adapter).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    children = {child.role: child for child in registry.lineage(storage, "m", "candidate").children}
    assert (children["adapter"].kind, children["base"].kind) == ("adapter", "revision")
    assert children["base"].repeated
    assert children["adapter"].children[0].children[0].role == "weights"


def test_one_that_was_trained_here_has_its_documents_in_its_lineage(
    storage: LocalStorage, base: Revision, tmp_path: Path
) -> None:
    dataset = save(storage, Dataset(key="da" * 8))
    folder = write(tmp_path / "adapter")
    save(storage, Checkpoint(key="ce" * 8, inputs={"dataset": dataset.digest}))
    files = file_entries(folder, "adapter")
    trained = save(storage, Checkpoint(key="cf" * 8, inputs={"dataset": dataset.digest}, files=files))
    made = import_adapter(folder, base, storage)
    assert made.inputs == {"base": base.digest, "trained": trained.digest}
    revision = publish_adapter(base, made, storage)
    told = {model.kind: model for model in descent(storage, dataset.location).models if model.key != "ce" * 8}
    assert told["adapter"].how == f"made of checkpoint {trained.key}"
    assert told["revision"].revision == revision.revision
    assert told["revision"].aliases == ("candidate",)


def test_the_same_files_are_the_same_revision(storage: LocalStorage, base: Revision, tmp_path: Path) -> None:
    first = import_adapter(write(tmp_path / "one"), base, storage)
    again = import_adapter(write(tmp_path / "two"), base, storage)
    assert isinstance(again, Adapter)
    assert publish_adapter(base, first, storage) == publish_adapter(base, again, storage)


def test_an_adapter_on_packed_weights_is_compared_by_its_outputs(
    storage: LocalStorage, base: Revision, tmp_path: Path
) -> None:
    shapes = {f"{PACKED}.lora_A": (4, 64), f"{PACKED}.lora_B": (9, 4)}
    assert import_adapter(write(tmp_path / "adapter", shapes=shapes), base, storage).rank == 4
    wrong = {f"{PACKED}.lora_A": (4, 64), f"{PACKED}.lora_B": (10, 4)}
    with pytest.raises(InputError, match="9 x packed columns"):
        import_adapter(write(tmp_path / "adapter", shapes=wrong), base, storage)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 0}, "rank 0"),
        ({"shapes": {"lm_head.lora_A": (4, 6), "lm_head.lora_B": (9, 4)}}, "changes lm_head"),
        ({"shapes": {"language_model.lm_head.lora_A": (4, 6)}}, "changes lm_head"),  # tied: the base has no such weight
        ({"shapes": {f"{QUERY}.lora_A": (4, 7), f"{QUERY}.lora_B": (8, 4)}}, "4 x 7, and the base's weight 8 x 6"),
        ({"shapes": {f"{QUERY}.lora_A": (4, 6), f"{QUERY}.lora_B": (9, 4)}}, "9 x 4, and the base's weight"),
        ({"shapes": {"model.layers.7.self_attn.q_proj.lora_A": (4, 6)}}, "has no weight model.layers.7"),
        ({"shapes": {f"{QUERY}.lora_A": (4, 6)}}, "without .*lora_B"),
        ({"shapes": {f"{QUERY}.lora_magnitude_vector": (4, 6)}}, "no LoRA matrix"),
    ],
)
def test_what_does_not_fit_is_refused(
    storage: LocalStorage, base: Revision, tmp_path: Path, fault: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        import_adapter(write(tmp_path / "adapter", **fault), base, storage)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_is_no_adapter_is_refused(
    storage: LocalStorage, base: Revision, tmp_path: Path, missing: str
) -> None:
    folder = write(tmp_path / "adapter")
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"{missing} missing"):
        import_adapter(folder, base, storage)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x05\0\0\0\0\0\0\0hello"])
def test_damaged_weights_are_named(storage: LocalStorage, base: Revision, tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="no safetensors file"):
        import_adapter(folder, base, storage)

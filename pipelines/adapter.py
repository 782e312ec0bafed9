"""LoRA adapters brought from outside: a PEFT folder, checked against the weights it is to run on, made an artifact.

vLLM compares an adapter's modules with the model by the end of their names only, and copies a matrix that is too small into
the corner of its place without a word: an adapter of another model would be served as if it were good. So names and shapes are
compared with the base's tensors here. Only headers are read of the base's files, also from a bucket.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import artifacts
from cluster.artifacts import Adapter, Checkpoint, Revision, file_entries
from cluster.descent import made_as
from cluster.errors import InputError
from cluster.storage import Storage, staged_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
OUTPUT = "lm_head"
OTHER_BASE = "publish it for the revision it was trained on (--base), or train it on this one"
MAX_HEADER_BYTES = 100 * 2**20
"""The limit of the safetensors library itself."""

Shape = tuple[int, ...]


def import_adapter(folder: Path, base: Revision, storage: Storage) -> Adapter:
    """Bring the adapter into storage; found again by the hashes of its files and its base. One that was trained here has the
    training among its inputs, so that the lineage leads to its documents.

    Raises:
        InputError: no PEFT folder, not plain LoRA, or made for another model than `base`.
    """
    config = read_config(folder)
    shapes = check_tensors(folder / WEIGHTS, base_shapes(base, storage), base.revision)
    files = tuple(entry for entry in file_entries(folder, "adapter") if entry.path.endswith((CONFIG, WEIGHTS)))
    inputs = {"base": base.digest, **{entry.path: entry.sha256 for entry in files}}
    key = artifacts.stage_key("adapter", {}, inputs)
    if made := artifacts.load(storage, Adapter, key):
        return made
    trained = made_as(storage, Checkpoint, next(entry.sha256 for entry in files if entry.path.endswith(WEIGHTS)))
    adapter = Adapter(
        key=key,
        inputs={"base": base.digest} | ({"trained": trained.digest} if trained else {}),
        files=files,
        base=base.revision,
        rank=max([config["r"], *(shape[0] for side, shape in _sides(shapes) if side == "A")]),
        target_modules=tuple(sorted({_module(name).rpartition(".")[2] for name in shapes})),
        num_parameters=sum(rows * columns for rows, columns in shapes.values()),
    )
    with staged_folder(storage, adapter.folder) as staging:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / name, staging / name)
    return artifacts.save(storage, adapter)


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration, checked to be what vLLM serves.

    Raises:
        InputError: missing, no JSON, or not plain LoRA.
    """
    path = folder / CONFIG
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        found = (
            "is no PEFT folder: " + ", ".join(n for n in (CONFIG, WEIGHTS) if not (folder / n).is_file()) + " missing"
        )
        raise InputError(str(folder), found, "give the folder that PEFT's save_pretrained wrote (safetensors)")
    try:
        config = json.loads(path.read_bytes())
        rank, kind = config["r"], config["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), f"is no PEFT configuration ({error!r})", "export the adapter again") from None
    refused = {
        f"peft_type {kind}": kind != "LORA",
        f"rank {rank!r}": not isinstance(rank, int) or rank < 1,
        "DoRA": config.get("use_dora"),
        "trained biases": config.get("bias", "none") != "none",
        "whole modules (modules_to_save)": config.get("modules_to_save"),
    }
    if found := ", ".join(what for what, is_so in refused.items() if is_so):
        raise InputError(str(path), f"has {found}, which vLLM does not serve", "train a plain LoRA adapter")
    return dict(config)


def check_tensors(path: Path, base: Mapping[str, Shape], name: str) -> dict[str, Shape]:
    """The adapter's tensors and their shapes, every one of which fits a weight of the base.

    Raises:
        InputError: a tensor is no LoRA matrix, changes `lm_head`, or has no or another weight to go with in the base.
    """
    with path.open("rb") as file:
        shapes = read_header(file, str(path))
    if not shapes:
        raise InputError(str(path), "has no tensors", "export the adapter again")
    for tensor, shape in shapes.items():
        match = TENSOR.match(tensor)
        if match is None or len(shape) != 2:
            raise InputError(str(path), f"tensor {tensor} is no LoRA matrix", "export a plain LoRA adapter")
        if match["module"].rpartition(".")[2] == OUTPUT:
            found = f"changes {OUTPUT}, for which vLLM tells wrong log-probabilities of prompts, and rollouts judge by these"
            raise InputError(
                f"{path}: {tensor}", found, f"train the adapter without {OUTPUT}, or merge it into its base"
            )
        if not (weight := base.get(match["module"], ())):
            raise InputError(f"{path}: {tensor}", f"{name} has no weight {match['module']}", OTHER_BASE)
        _check_fits(f"{path}: {tensor}", match["side"], shape, weight)
    for tensor in shapes:
        other = (
            tensor.replace(".lora_A.", ".lora_B.") if ".lora_A." in tensor else tensor.replace(".lora_B.", ".lora_A.")
        )
        if other not in shapes:
            raise InputError(str(path), f"has {tensor} without {other}", "export the adapter again")
    return shapes


def _check_fits(where: str, side: str, shape: Shape, weight: Shape) -> None:
    rows, columns = weight
    if (side == "A" and columns and shape[1] != columns) or (side == "B" and shape[0] != rows):
        found = f"is {shape[0]} x {shape[1]}, and the base's weight {rows} x {columns or 'packed columns'}"
        raise InputError(where, found, OTHER_BASE)


def base_shapes(base: Revision, storage: Storage) -> dict[str, Shape]:
    """Module -> (outputs, inputs) of each two-dimensional weight of a revision's model, from the files' headers."""
    shapes: dict[str, Shape] = {}
    for key in storage.list(base.weights):
        if key.endswith(".safetensors"):
            filesystem, path = storage.filesystem(key)
            with filesystem.open_input_file(path) as file:
                shapes |= _modules(read_header(file, f"{storage.uri}/{key}"))
    return shapes


def _modules(header: Mapping[str, Shape]) -> dict[str, Shape]:
    """Of weights of fewer than 8 bits several stand in one column: how many inputs there are is left open (0)."""
    plain = {name.removesuffix(".weight"): shape for name, shape in header.items() if name.endswith(".weight")}
    packed = {
        name.removesuffix(".weight_packed"): (shape[0], 0)
        for name, shape in header.items()
        if name.endswith(".weight_packed")
    }
    return {module: shape for module, shape in {**packed, **plain}.items() if len(shape) == 2}


def read_header(file: Any, where: str) -> dict[str, Shape]:
    """Tensor -> shape, of an open safetensors file (8 bytes of length, then JSON).

    Raises:
        InputError: it is none.
    """
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header = json.loads(file.read(length))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(where, f"is no safetensors file ({error})", "export it again") from None


def _module(tensor: str) -> str:
    match = TENSOR.match(tensor)
    assert match is not None, f"{tensor} was checked"
    return match["module"]


def _sides(shapes: Mapping[str, Shape]) -> list[tuple[str, Shape]]:
    return [(match["side"], shape) for name, shape in shapes.items() if (match := TENSOR.match(name))]

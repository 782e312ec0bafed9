"""Quantizing itself, in a task of its own on the pool: read the model, round it, check and publish what came of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.arithmetic import settled
from cluster.artifacts import FileEntry, Weights
from cluster.errors import ResourceError, StageFailed
from cluster.imports import large_imports
from cluster.node_cache import local_copy
from cluster.storage import open_storage, sha256_of, staged_folder
from pipelines.config import QuantizationAwareConfig, QuantizeConfig
from pipelines.kv_cache import declared, is_fp8, num_cached_layers
from pipelines.model_size import tensor_names
from pipelines.offline_engine import use_all_cores
from pipelines.quantization.calibration import windows
from pipelines.quantization.methods import quantize_in_place
from pipelines.quantization.sensitivity import keep_most_sensitive

GIB = 1 << 30
Texts = Mapping[str, list[str]]
"""Stratum -> documents to calibrate with; empty where the method needs none."""


@dataclass(frozen=True)
class Made:
    """What the task reports."""

    files: tuple[FileEntry, ...]
    num_weight_bytes: int
    num_sequences_by_stratum: Mapping[str, int]

    @property
    def num_sequences(self) -> int:
        return sum(self.num_sequences_by_stratum.values())

    @property
    def shares(self) -> str:
        """For people; empty where nothing was calibrated."""
        if not self.num_sequences:
            return ""
        shares = ", ".join(f"{name} {count}" for name, count in self.num_sequences_by_stratum.items() if name)
        return f"{self.num_sequences} sequences{f' ({shares})' if shares else ''}, "


def trained_for(model: Weights) -> QuantizationAwareConfig | None:
    """What the model was trained to be stored in, by its manifest."""
    found = model.config.get("quantization_aware")
    return None if found is None else QuantizationAwareConfig.model_validate(found)


def arithmetic(config: QuantizeConfig, model: Weights) -> str:
    """The dtype in which weights are read and scales computed: what the machine multiplies in. Of a model that was trained for the
    scheme float32 on every machine, as in its training (pipelines/rounding.py)."""
    trained = trained_for(model)
    if trained and trained.departure(config) is None:
        return "float32"
    return settled("auto", bool(config.num_gpus))


def quantize_here(config: QuantizeConfig, storage_uri: str, model: Weights, target: str, texts: Texts) -> Made:
    """In the task: read the model, quantize, and publish the folder `target` of the storage."""
    storage = open_storage(storage_uri)
    folder = local_copy(storage, model.folder)
    dtype = arithmetic(config, model)
    _check_memory(model.num_weight_bytes, dtype, config.pool)
    use_all_cores()
    with large_imports():
        from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    drawn = windows(
        texts,
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        config.calibration_length,
        config.num_calibration_sequences,
        config.seed,
    )
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with staged_folder(storage, target) as staged:
        if config.is_by_llmcompressor:
            sequences = [tokens for _, tokens in drawn]
            quantize_in_place(network, sequences, keep_most_sensitive(network, sequences, config, staged))
        _round_the_rest(network)
        network.save_pretrained(staged, **({"save_compressed": True} if config.is_by_llmcompressor else {}))
        _check_cache(config, staged)
        tokenizer.save_pretrained(staged)
        _keep_chat(folder, staged)
        return _made(staged, Counter(name for name, _ in drawn))


def _round_the_rest(model: Any) -> None:
    """What stays unquantized is kept in bfloat16, also where it was calibrated in float32."""
    import torch

    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        # With a cache that is quantized alone, linear layers have a scheme that leaves weights out.
        if scheme is None or (scheme.weights is None and isinstance(module, torch.nn.Linear)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)


def _check_cache(config: QuantizeConfig, folder: Path) -> None:
    """Let the folder ask for its cache in FP8, and make sure that one with scales has one for each layer's keys and values: vLLM
    would take 1 for those that are missing."""
    path = folder / "config.json"
    told = json.loads(path.read_bytes())
    if config.kv_cache == "fp8_unscaled":
        path.write_text(json.dumps(declared(told), indent=2))
    if config.kv_cache == "fp8":
        names = [name for file in folder.glob("*.safetensors") for name in tensor_names(file)]
        found = [sum(name.endswith(f".{one}_scale") for name in names) for one in ("k", "v")]
        wanted = num_cached_layers(told)
        if not is_fp8(told) or found != [wanted, wanted]:
            raise StageFailed(f"quantize: {found} scales for the cache's keys and values, of {wanted} layers each")


def _keep_chat(source: Path, target: Path) -> None:
    """The chat template and the generation settings as they were, should a library have left them out."""
    for name in ("chat_template.jinja", "generation_config.json"):
        if (source / name).is_file() and not (target / name).is_file():
            shutil.copy(source / name, target / name)


def _made(folder: Path, num_sequences: Mapping[str, int]) -> Made:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        path.chmod(0o644)
    files = tuple(
        FileEntry(
            path=f"model/{path.relative_to(folder).as_posix()}", num_bytes=path.stat().st_size, sha256=sha256_of(path)
        )
        for path in paths
    )
    return Made(files, sum(f.num_bytes for f in files if f.path.endswith(".safetensors")), num_sequences)


def _check_memory(num_weight_bytes: int, dtype: str, pool: str) -> None:
    """Weights, Hessians in float32 and the libraries: three times the weights and 2 GiB covers what was measured. A model that is
    computed in float32 takes its weights once more."""
    import psutil

    times = 3 if dtype == "bfloat16" else 4
    need, free = times * num_weight_bytes + 2 * GIB, psutil.virtual_memory().available
    if free < need:
        raise ResourceError(
            "quantize",
            f"needs about {need / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free",
            f"stop other work on that machine or quantize on a larger pool than `{pool}`",
        )

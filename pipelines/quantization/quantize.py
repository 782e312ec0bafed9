"""Quantize: by llmcompressor in an environment of its own, saved as compressed-tensors that vLLM loads."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import artifacts
from cluster.arithmetic import settled
from cluster.artifacts import Dataset, FileEntry, QuantizedModel, Weights
from cluster.errors import InputError, ProcessDied, ResourceError, StageFailed, UserError
from cluster.imports import large_imports
from cluster.node_cache import local_copy
from cluster.node_loss import outliving_its_node
from cluster.pools import check_gpus, on_pool
from cluster.storage import Storage, open_storage, sha256_of, staged_folder
from cluster.waiting import wait_for_node
from pipelines.config import QuantizationAwareConfig, QuantizeConfig
from pipelines.kv_cache import bytes_per_token, cannot_calibrate, declared, is_fp8, num_cached_layers
from pipelines.model_size import linear_shapes, tensor_names
from pipelines.offline_engine import use_all_cores
from pipelines.progress import bar, say
from pipelines.quantization.calibration import CHARACTERS_PER_TOKEN, read_texts, windows
from pipelines.quantization.environment import runtime_env
from pipelines.quantization.methods import quantize_in_place
from pipelines.quantization.sensitivity import keep_most_sensitive
from pipelines.schemes import indivisible

GIB = 1 << 30
POLL_S = 2.0
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


def quantize(config: QuantizeConfig, model: Weights, dataset: Dataset, storage: Storage) -> QuantizedModel:
    """Store `model` in the one scheme of `config`, calibrated with text from the dataset's train documents if the method takes it.

    Raises:
        InputError: no text to calibrate with, a model folder that cannot be read, or layers that do not fall into groups.
        ResourceError: too little memory where the task runs.
    """
    began = time.monotonic()
    inputs, key = inputs_of(config, model, dataset), key_of(config, model, dataset)
    if (found := artifacts.load(storage, QuantizedModel, key)) is not None:
        say("quantize", f"already made for {model.kind} {model.key}: {config.label}")
        return found
    wait_for_node("quantize", config.pool, num_gpus=config.num_gpus)
    check_gpus(config.pool, config.num_gpus, "quantize.num_gpus")
    folder = local_copy(storage, model.folder)
    _check_model(folder)
    check_groups(config, folder)
    if reason := no_scales(config, folder):
        raise InputError("quantize.kv_cache", reason, "set it to fp8_unscaled, or leave it out")
    texts = _texts(config, dataset, storage)
    planned = QuantizedModel(key=key, inputs=inputs, config=config.settings, scheme=config.stored_as)
    calibrated = "calibrated on the train documents" if config.needs_text else "without calibration"
    say("quantize", f"{model.kind} {model.key} to {config.label}, {calibrated}")
    if (trained := trained_for(model)) and (reason := trained.departure(config)):
        say("quantize", f"warning: {reason}")
    made = outliving_its_node(
        "quantize",
        config.pool,
        lambda: _run(config, model, planned, storage, texts),
        num_gpus=config.num_gpus,
    )
    quantized = planned.replace(
        files=made.files,
        num_parameters=model.num_parameters,
        num_weight_bytes=made.num_weight_bytes,
        num_weight_bytes_before=model.num_weight_bytes,
        num_calibration_sequences=made.num_sequences,
        took_s=time.monotonic() - began,
    )
    before, after = model.num_weight_bytes / 1e6, made.num_weight_bytes / 1e6
    say("quantize", f"{before:.0f} MB to {after:.0f} MB, {made.shares}took {quantized.took_s:.0f} s")
    if config.kv_cache:
        say(
            "quantize",
            f"KV cache: {_per_token(folder)} to {_per_token(local_copy(storage, quantized.folder))} bytes a token",
        )
    return artifacts.save(storage, quantized)


def _per_token(folder: Path) -> str:
    num_bytes = bytes_per_token(json.loads((folder / "config.json").read_bytes()))
    return "an unknown number of" if num_bytes is None else f"{num_bytes:,}"


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


def inputs_of(config: QuantizeConfig, model: Weights, dataset: Dataset) -> dict[str, str]:
    """What needs no text is not made of the dataset: another one leads to the same weights."""
    return {"model": model.digest} | ({"dataset": dataset.digest} if config.needs_text else {})


def key_of(config: QuantizeConfig, model: Weights, dataset: Dataset) -> str:
    """Under which `quantize` keeps its result."""
    return artifacts.stage_key("quantize", config.settings, inputs_of(config, model, dataset))


def _texts(config: QuantizeConfig, dataset: Dataset, storage: Storage) -> Texts:
    if not config.needs_text:
        return {}
    length = config.num_calibration_sequences * config.calibration_length * CHARACTERS_PER_TOKEN
    return read_texts(storage, dataset, length, config.seed, config.balance)


def check_groups(config: QuantizeConfig, folder: Path) -> None:
    """Raises InputError if the scheme's groups do not divide the inputs of the layers to be quantized."""
    if config.groups_of is None:
        return
    try:
        shapes = linear_shapes(folder)
    except (ValueError, LookupError, OSError, struct.error):
        raise InputError(str(folder), "its safetensors files are damaged", "import or train the model again") from None
    if not (odd := indivisible(shapes, config.groups_of, config.ignore)):
        return
    first, inputs = next(iter(odd.items()))
    fits = [str(size) for size in (128, 64, 32) if not indivisible(shapes, size, config.ignore)]
    raise InputError(
        f"quantize: {config.label}",
        f"{len(odd)} layers do not fall into groups of {config.groups_of} ({first} has {inputs} inputs)",
        f"set group_size: {' or '.join(fits)}" if fits else "put these layers into quantize.ignore",
    )


def no_scales(config: QuantizeConfig, folder: Path) -> str | None:
    """Why the model's cache cannot be calibrated as the scheme asks; None where it can, or is not to be."""
    if config.kv_cache != "fp8":
        return None
    names = [name for file in folder.glob("*.safetensors") for name in tensor_names(file)]
    return cannot_calibrate(json.loads((folder / "config.json").read_bytes()), names)


def _check_model(folder: Path) -> None:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            str(folder), "the model folder has no tokenizer", "add tokenizer.json and tokenizer_config.json"
        )


def _run(config: QuantizeConfig, model: Weights, planned: QuantizedModel, storage: Storage, texts: Texts) -> Made:
    """The work as a Ray task; its process ends with it, which frees its memory."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, RuntimeEnvSetupError, WorkerCrashedError

    once = ray.remote(max_calls=1, max_retries=0)(quantize_here)
    task = once.options(
        num_cpus=0.5,
        num_gpus=config.num_gpus,
        label_selector=on_pool(config.pool),
        runtime_env=runtime_env(),
    )
    reference = task.remote(config, storage.location, model, planned.folder, texts)
    began = time.monotonic()
    try:
        with bar("quantize", None, "s") as shown:
            while not ray.wait([reference], timeout=POLL_S)[0]:
                shown.update(round(time.monotonic() - began))
        made: Made = ray.get(reference)
        return made
    except KeyboardInterrupt:
        ray.cancel(reference, force=True)
        raise
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise StageFailed(f"quantize: {error.cause!r}") from error
    except RuntimeEnvSetupError as error:
        raise ResourceError(
            "quantize",
            f"its environment cannot be made ({str(error).splitlines()[0]})",
            "run `make setup` while there is a network, then it works offline",
        ) from None
    except (OutOfMemoryError, WorkerCrashedError, NodeDiedError) as error:
        raise (ResourceError if isinstance(error, OutOfMemoryError) else ProcessDied)(
            "quantize",
            f"the task's process died ({str(error).splitlines()[0]})",
            "most often memory ran out: stop other work on that machine or quantize on a larger pool",
        ) from None


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

"""Quantize: by llmcompressor in an environment of its own, saved as compressed-tensors that vLLM loads."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

from cluster import artifacts
from cluster.artifacts import Dataset, QuantizedModel, Weights
from cluster.errors import InputError, ProcessDied, ResourceError, StageFailed, UserError
from cluster.node_cache import local_copy
from cluster.node_loss import outliving_its_node
from cluster.pools import check_gpus, on_pool
from cluster.storage import Storage
from cluster.waiting import wait_for_node
from pipelines.config import QuantizeConfig
from pipelines.kv_cache import bytes_per_token, cannot_calibrate
from pipelines.model_size import linear_shapes, tensor_names
from pipelines.progress import bar, say
from pipelines.quantization.calibration import CHARACTERS_PER_TOKEN, read_texts
from pipelines.quantization.environment import runtime_env
from pipelines.quantization.task import Made, Texts, quantize_here, trained_for
from pipelines.schemes import indivisible

POLL_S = 2.0


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
    _check_model(config, folder)
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


def _check_model(config: QuantizeConfig, folder: Path) -> None:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            str(folder), "the model folder has no tokenizer", "add tokenizer.json and tokenizer_config.json"
        )
    check_groups(config, folder)
    if reason := no_scales(config, folder):
        raise InputError("quantize.kv_cache", reason, "set it to fp8_unscaled, or leave it out")


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

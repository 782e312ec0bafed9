"""Base models: whatever they come as, made a Hugging Face folder with safetensors, tokenizer and chat template.

The folder is kept in bfloat16, half the bytes of float32: what training in bfloat16, vLLM and GPTQ start from anyway. A
model published in float32 loses the lower 16 bits of each weight (a relative error of at most 2^-9), one in float16
three bits.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster import artifacts, pools, session
from cluster.artifacts import FileEntry, ImportedModel, Source, file_entries
from cluster.errors import InputError, UserError
from cluster.imports import large_imports
from cluster.node_cache import local_copy
from cluster.storage import Storage, open_storage, sha256_of, staged_folder
from cluster.waiting import watched
from pipelines.config import ModelConfig
from pipelines.progress import say
from pipelines.vocabulary import check_known

HUB = "hf://"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
"""One of these makes a tokenizer."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
READ = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What is fetched from the hub: no pickles, no code."""

T = TypeVar("T")


def import_model(config: ModelConfig, storage: Storage) -> ImportedModel:
    """Bring the base model into storage; found again by the hashes of its files.

    Raises:
        InputError: the source is missing, damaged, not a causal language model, without its own tokenizer, or only a pickle.
    """
    begun = time.monotonic()
    sources = [Source(**source) for source in on_train_pool(fingerprint, config.source, config.revision)]
    key = artifacts.stage_key("import", {}, {source.path: source.sha256 for source in sources})
    if made := artifacts.load(storage, ImportedModel, key):
        return made
    say("train", f"importing {config.source} ({sum(s.num_bytes for s in sources) / 1e6:.0f} MB)")
    files, num_parameters = on_train_pool(convert, config.source, config.revision, storage.location, key)
    return artifacts.save(
        storage,
        ImportedModel(
            key=key,
            config=config.model_dump(mode="json", exclude={"source"}),
            files=tuple(FileEntry(**entry) for entry in files),
            took_s=round(time.monotonic() - begun, 1),
            sources=tuple(sources),
            num_parameters=num_parameters,
            num_weight_bytes=sum(entry["num_bytes"] for entry in files if entry["path"].endswith(".safetensors")),
        ),
    )


def as_folder(source: Path, storage: Storage) -> Path:
    """A local Hugging Face folder with the model, made once.

    Raises:
        InputError: as `import_model`.
    """
    # transformers imports Ray where it is installed, and Ray reads then whether it is to show a token.
    session.prepare_environment()
    return local_copy(storage, import_model(ModelConfig(source=str(source)), storage).folder)


def on_train_pool(function: Callable[..., T], *arguments: Any) -> T:
    """Call it there when a cluster is joined, since the driver may lack the memory; else here."""
    import ray

    if not ray.is_initialized():
        return function(*arguments)
    try:
        with watched("model", "train"):
            task = ray.remote(function).options(num_cpus=1, label_selector=pools.on_pool("train"), max_retries=0)
            return ray.get(task.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None


def fingerprint(source: str, revision: str) -> list[dict[str, Any]]:
    """The files the model consists of, with their hashes. Checks that they can be one."""
    folder, gguf = locate(source, revision)
    paths = [folder / gguf] if gguf else check_folder(folder)
    return [Source(path=p.name, num_bytes=p.stat().st_size, sha256=sha256_of(p)).model_dump() for p in paths]


def locate(source: str, revision: str) -> tuple[Path, str | None]:
    """The local folder and, for a GGUF file, its name in there; fetches from the hub what is not there yet.

    Raises:
        InputError: nothing is there, or the hub cannot be reached.
    """
    if source.startswith(HUB):
        return _from_hub(source, revision), None
    if "://" in source:
        raise InputError(
            source, "unknown kind of model source", "give a folder, a .gguf file or hf://organisation/name"
        )
    path = Path(source)
    if not path.exists():
        raise InputError(
            source, "no such file or folder", "give a Hugging Face folder, a .gguf file or hf://organisation/name"
        )
    if path.is_dir():
        return path, None
    if path.suffix.lower() != ".gguf":
        raise InputError(source, "a file that is not .gguf", "give the folder it lies in, or a .gguf file")
    return path.parent, path.name


def _from_hub(source: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = source.removeprefix(HUB)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(READ)))
    except HFValidationError:
        raise InputError(source, "not a repository's name", "write hf://organisation/name") from None
    except LocalEntryNotFoundError:
        raise InputError(
            source, "the hub does not answer and no copy is on this machine", "go online once, or give a local folder"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        remedy = "check the name, the revision and, for a gated model, the token (HF_TOKEN)"
        raise InputError(source, f"cannot be fetched ({reason})", remedy) from None


def check_folder(folder: Path) -> list[Path]:
    """The model's files in a Hugging Face folder.

    Raises:
        InputError: configuration, tokenizer or safe weights are missing, or it is no causal language model.
    """
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        raise InputError(str(folder), "has no config.json", "give a folder written by save_pretrained, or a .gguf file")
    _check_causal(folder / "config.json")
    if not names & set(TOKENIZERS):
        raise InputError(
            str(folder), "has no tokenizer", "put the model's tokenizer.json there (tokenizer.save_pretrained)"
        )
    if not any(name.endswith(".safetensors") for name in names):
        _refuse_weights(folder, names)
    return sorted(path for path in folder.iterdir() if any(path.match(pattern) for pattern in READ))


def _check_causal(path: Path) -> None:
    try:
        config = json.loads(path.read_text())
        architectures = config.get("architectures") or []
    except (ValueError, AttributeError, OSError):
        raise InputError(str(path), "not a JSON object", "get the file again from where the model comes from") from None
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        found = f"architecture {', '.join(map(str, architectures)) or 'not named'}, not a causal language model"
        raise InputError(str(path), found, "give a model whose architecture ends in ForCausalLM")


def _refuse_weights(folder: Path, names: set[str]) -> None:
    if any(name.endswith(PICKLES) for name in names):
        raise InputError(
            str(folder),
            "the weights are a pickle, which can run code when it is read",
            "convert it where you trust it: save_pretrained(folder) writes safetensors",
        )
    raise InputError(str(folder), "has no *.safetensors weights", "copy the weights there")


def convert(source: str, revision: str, storage: str, key: str) -> tuple[list[dict[str, Any]], int]:
    """Write `artifacts/model/<key>/model`. Returns its files and the number of parameters."""
    folder, gguf = locate(source, revision)
    model, tokenizer = load(folder, gguf)
    with staged_folder(open_storage(storage), f"artifacts/model/{key}/model") as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        files = [entry.model_dump() for entry in file_entries(target, "model")]
    return files, sum(parameter.numel() for parameter in model.parameters())


def load(folder: Path, gguf: str | None) -> tuple[Any, Any]:
    """Model (bfloat16) and tokenizer.

    Raises:
        InputError: transformers cannot read them, or the tokenizer has no end token, or is another model's.
    """
    with large_imports():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging

    logging.disable_progress_bar()
    where = folder / gguf if gguf else folder
    # Said outright: transformers would ask a person at a terminal whether to run a model's own code.
    form: dict[str, Any] = {"trust_remote_code": False, **({"gguf_file": gguf} if gguf else {"use_safetensors": True})}
    quantization = {"quantization_config": GgufConfig(dequantize=True)} if gguf else {}
    # GGUF blocks are computed in float32 and rounded once.
    dtype = torch.float32 if gguf else torch.bfloat16
    try:
        with _gguf_read_once():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, **form, **quantization
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **({"gguf_file": gguf} if gguf else {})
            )
    except Exception as error:  # whatever a damaged file makes the parsers of transformers, safetensors and gguf raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            str(where), f"cannot be read as a model ({reason})", "get the file again and compare its hash"
        ) from None
    if tokenizer.eos_token_id is None:
        remedy = "set eos_token in tokenizer_config.json"
        raise InputError(str(where), "the tokenizer names no end token, which closes each training document", remedy)
    _check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], str(where))
    return model.to(torch.bfloat16), tokenizer


def _check_tokenizer(tokenizer: Any, num_embeddings: int, where: str) -> None:
    """Refuse one of another model. Added tokens beyond the embeddings are let pass here: some models name such for parts that they
    lack (Gemma 3 for images). Where a text has one the train stage refuses it.
    """
    check_known(max(tokenizer.vocab_size - 1, tokenizer.eos_token_id), num_embeddings, where)


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """transformers parses a GGUF file's header anew for configuration, weights and tokenizer (twice), in Python, seconds each for a
    vocabulary of 49,000; and makes the table of tensor names anew for each of the model's modules."""
    import gguf

    module: Any = gguf
    names = ("GGUFReader", "get_tensor_name_map")
    before = {name: getattr(module, name) for name in names}
    for name in names:
        setattr(module, name, functools.cache(before[name]))
    try:
        yield
    finally:
        for name in names:
            setattr(module, name, before[name])

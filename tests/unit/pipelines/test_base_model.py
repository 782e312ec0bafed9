"""What cannot be a base model is refused with a remedy before anything heavy is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.base_model import as_folder, import_model, locate
from pipelines.config import ModelConfig


def folder(path: Path, *files: str, architecture: str = "LlamaForCausalLM") -> Path:
    path.mkdir()
    for name in files:
        (path / name).write_text(json.dumps({"architectures": [architecture]}) if name == "config.json" else "x")
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p, "no such file or folder"),
    "no config": (lambda p: folder(p, "tokenizer.json", "model.safetensors"), "no config.json"),
    "no tokenizer": (lambda p: folder(p, "config.json", "model.safetensors"), "no tokenizer"),
    "no weights": (lambda p: folder(p, "config.json", "tokenizer.json"), "no *.safetensors"),
    "pickle": (lambda p: folder(p, "config.json", "tokenizer.json", "pytorch_model.bin"), "pickle"),
    "encoder": (
        lambda p: folder(p, "config.json", "tokenizer.json", "model.safetensors", architecture="BertForMaskedLM"),
        "not a causal language model",
    ),
    "damaged safetensors": (
        lambda p: folder(p, "config.json", "tokenizer.json", "model.safetensors"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize(("make", "found"), BAD.values(), ids=BAD)
def test_bad_folders(make: Callable[[Path], Path], found: str, tmp_path: Path, storage: LocalStorage) -> None:
    source = make(tmp_path / "model")
    with pytest.raises(InputError) as error:
        import_model(ModelConfig(source=str(source)), storage)
    assert found in error.value.found
    assert error.value.remedy
    assert not list(storage.list("artifacts"))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [("model.gguf", b"GGUF but damaged", "cannot be read"), ("model.onnx", b"x", "not .gguf")],
)
def test_bad_files(name: str, content: bytes, found: str, tmp_path: Path, storage: LocalStorage) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"->") as error:
        import_model(ModelConfig(source=str(tmp_path / name)), storage)
    assert found in error.value.found


@pytest.mark.parametrize(
    ("source", "found"), [("ftp://somewhere/model", "unknown kind"), ("hf://not a name", "not a repository's name")]
)
def test_bad_addresses(source: str, found: str) -> None:
    with pytest.raises(ValidationError, match="hf://organisation/name"):
        ModelConfig(source=source)
    with pytest.raises(InputError) as error:
        locate(source, "main")
    assert found in error.value.found


def test_a_folder_becomes_bfloat16_safetensors_once(tiny_model: Path, storage: LocalStorage) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = import_model(ModelConfig(source=str(tiny_model)), storage)
    local = storage.root / made.folder
    model = AutoModelForCausalLM.from_pretrained(local)
    assert str(model.dtype) == "torch.bfloat16"
    assert made.num_parameters == sum(p.numel() for p in model.parameters())
    assert made.num_weight_bytes == 2 * made.num_parameters + _header_bytes(local / "model.safetensors")
    assert AutoTokenizer.from_pretrained(local).chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    assert {entry.path for entry in made.files} >= {
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    }
    assert import_model(ModelConfig(source=str(tiny_model)), storage) == made


def test_a_tokenizer_without_an_end_token(tiny_model: Path, tmp_path: Path, storage: LocalStorage) -> None:
    source = shutil.copytree(tiny_model, tmp_path / "model")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    with pytest.raises(InputError, match="no end token"):
        import_model(ModelConfig(source=str(source)), storage)


def _header_bytes(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def test_ray_s_environment_is_set_before_a_file_is_read(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers may import Ray, and one that was imported without shows no token to the cluster that is started next."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / "model.gguf").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read as a model"):
        as_folder(tmp_path / "model.gguf", storage)
    assert os.environ["RAY_AUTH_MODE"] == "token"

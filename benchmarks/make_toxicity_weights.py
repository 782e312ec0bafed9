"""The weights of the classifier that ships (pipelines/evaluation/weights/toxicity.safetensors), out of the package they come from.

    pip download --no-deps tox-block==0.1.2     # a wheel; SHA-256 below
    pip install h5py                            # into an environment of its own: nothing else of serinus needs it
    python benchmarks/make_toxicity_weights.py tox_block-0.1.2-py3-none-any.whl pipelines/evaluation/weights/toxicity.safetensors

ToxBlock (Pascal Bliem, MIT) was trained on Jigsaw's Toxic Comment data (CC0) from GloVe's vectors (PDDL). Its wheel holds the
network as HDF5 and the vocabulary as a pickle: of the pickle only numbers, texts and dictionaries are let in, so that nothing of
it is run. Vectors of words go to 16 bits, the label `toxic` alone stays.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SHA256 = "ed3a934f77d456f5324a6ae1b55bd9a3d404f6ebdb30aedad73dea5a2f01b7ed"
NETWORK, ENCODER = (f"tox_block/trained_models/{name}" for name in ("lstm_model_0.1.2.h5", "encoder_0.1.2.pkl"))
NUM_WORDS = 20_000
"""Of the vocabulary, the commonest first; 0 stands for no word."""


class Plain:
    """In the place of the classes that the pickle names: keeps their attributes and has nothing that could be called."""


class Numbers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in {"Tokenizer", "TokenSequencer"}:
            return Plain
        return {"int": int, "dict": dict, "OrderedDict": OrderedDict, "defaultdict": defaultdict}[name]


def vocabulary(encoder: bytes) -> list[str]:
    """Words 1, 2, ... of the network."""
    index: dict[str, int] = Numbers(io.BytesIO(encoder)).load().tokenizer.word_index
    words = sorted((word for word, at in index.items() if at < NUM_WORDS), key=index.__getitem__)
    assert [index[word] for word in words] == list(range(1, NUM_WORDS)), "a place without a word"
    return words


def tensors(network: bytes) -> dict[str, np.ndarray]:
    import h5py

    kept = h5py.File(io.BytesIO(network))["model_weights"]
    found = {"vectors": kept["embedding/embedding/embeddings:0"][()].astype(np.float16)}
    for way in ("forward", "backward"):
        for name in ("kernel", "recurrent_kernel", "bias"):
            found[f"{way}.{name}"] = kept[f"bidirectional/bidirectional/{way}_lstm/{name}:0"][()]
    for ours, theirs in (("hidden", "dense"), ("label", "dense_1")):
        for name in ("kernel", "bias"):
            found[f"{ours}.{name}"] = kept[f"{theirs}/{theirs}/{name}:0"][()]
    # Six labels, of which `toxic` is the first.
    return found | {name: np.ascontiguousarray(found[name][..., :1]) for name in ("label.kernel", "label.bias")}


def main(wheel: Path, out: Path) -> None:
    content = wheel.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256, f"{wheel} is not the wheel of tox-block 0.1.2"
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        found, words = tensors(whole.read(NETWORK)), vocabulary(whole.read(ENCODER))
    found["words"] = np.frombuffer("\n".join(words).encode(), np.uint8)
    save_file(found, out)
    print(f"{out}: {out.stat().st_size:,} bytes, SHA-256 {hashlib.sha256(out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

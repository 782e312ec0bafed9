"""A model's input embeddings, read out of its folder: a few rows, never the whole matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import InputError

NAMES = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "embeddings.weight",
)
"""What architectures call the matrix, the end of its name."""


def vectors(folder: Path, tokens: Mapping[str, Sequence[int]]) -> dict[str, list[float]]:
    """Of each word the mean of its tokens' embeddings; words without a token have none.

    Raises:
        InputError: the folder's safetensors hold no input embeddings, or packed ones.
    """
    import torch
    from safetensors import safe_open

    file, name = _find(folder)
    with safe_open(file, framework="pt") as tensors:
        rows: Any = tensors.get_slice(name)
        needed = sorted({token for some in tokens.values() for token in some})
        found = {token: rows[token : token + 1].to(torch.float32)[0] for token in needed}
    return {word: torch.stack([found[t] for t in some]).mean(0).tolist() for word, some in tokens.items() if some}


def _find(folder: Path) -> tuple[Path, str]:
    """File and name of the matrix."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a mapping
                if name.endswith(NAMES) and "position" not in name:
                    return file, name
    raise InputError(
        str(folder),
        f"holds no input embeddings (looked for {', '.join(NAMES)})",
        "leave the weat tasks out for this model",
    )

"""How many parameters a model on disk has, from the headers of its files alone. Pure but for reading them.

The gguf package reads the same, and for every tensor and word of the vocabulary makes an array: 12 s on two busy cores for
SmolLM2's 49,000 words, where an answer must come within one.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by the number of its type (the format's specification, ggml/docs/gguf.md)."""
GGUF_TEXT, GGUF_LIST = 8, 9
GGUF_WHOLE = (0, 1, 2, 3, 4, 5, 10, 11)
"""Sizes are never below zero, whatever the type would allow."""


def num_parameters(source: str) -> int | None:
    """Of the model in a local folder or .gguf file; None where that cannot be known without fetching it, or it is damaged."""
    path = Path(source)
    try:
        if path.is_dir():
            files = sorted(path.glob("*.safetensors"))
            return sum(map(_in_safetensors, files)) if files else None
        return _in_gguf(path) if path.suffix.lower() == ".gguf" and path.is_file() else None
    # Of a damaged file, whatever the numbers in it lead to. The import says what is wrong with it, and what to do.
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, MemoryError, struct.error):
        return None


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Name of each linear module of a Hugging Face folder -> (outputs, inputs): what has a matrix and is no embedding.

    Raises:
        ValueError, OSError, struct.error: a file is damaged.
    """
    shapes = {name: shape for path in sorted(folder.glob("*.safetensors")) for name, shape in _shapes(path).items()}
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and "embed" not in name
    }


def tensor_names(path: Path) -> list[str]:
    """Of a safetensors file.

    Raises:
        ValueError, OSError, struct.error: it is damaged.
    """
    return list(_shapes(path))


def _in_safetensors(path: Path) -> int:
    return sum(map(math.prod, _shapes(path).values()))


def _shapes(path: Path) -> dict[str, list[int]]:
    """The header is 8 bytes of length and JSON (the format's README)."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


def _in_gguf(path: Path) -> int:
    with open(path, "rb") as file:
        magic, version, num_tensors, num_fields = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version < 2:
            raise ValueError("not a GGUF file of version 2 or later")
        for _ in range(num_fields):
            _skip_text(file)
            _skip(file, _number(file, 4))
        return sum(_elements(file) for _ in range(num_tensors))


def gguf_fields(path: Path) -> dict[str, Any]:
    """Whole numbers and texts among a .gguf file's fields; of a list its length.

    Raises:
        ValueError: no GGUF file of version 2 or later, or it is cut short.
    """
    with open(path, "rb") as file:
        magic, version, _, num_fields = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version < 2:
            raise ValueError("not a GGUF file of version 2 or later")
        return {_text(file): _value(file, _number(file, 4)) for _ in range(num_fields)}


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, 8)).decode(errors="replace")


def _value(file: BinaryIO, kind: int) -> int | str | None:
    if kind == GGUF_TEXT:
        return _text(file)
    if kind == GGUF_LIST:
        start = file.tell()
        _, length = _number(file, 4), _number(file, 8)
        file.seek(start)
        _skip(file, kind)
        return length
    if kind in GGUF_WHOLE:
        return _number(file, GGUF_SIZES[kind])
    _skip(file, kind)
    return None


def _elements(file: BinaryIO) -> int:
    """Of one tensor: name, sides, type, offset."""
    _skip_text(file)
    sides = [_number(file, 8) for _ in range(_number(file, 4))]
    file.seek(12, 1)
    return math.prod(sides)


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == GGUF_TEXT:
        _skip_text(file)
    elif kind == GGUF_LIST:
        item, length = _number(file, 4), _number(file, 8)
        if item in GGUF_SIZES:
            file.seek(GGUF_SIZES[item] * length, 1)
            return
        for _ in range(length):
            _skip(file, item)
    else:
        file.seek(GGUF_SIZES[kind], 1)


def _skip_text(file: BinaryIO) -> None:
    file.seek(_number(file, 8), 1)


def _number(file: BinaryIO, num_bytes: int) -> int:
    content = file.read(num_bytes)
    if len(content) < num_bytes:
        raise ValueError("the file ends in its header")
    return int.from_bytes(content, "little")

"""A judge's state in bytes and back, to the last bit: what a restarted controller goes on from instead of folding all evidence.

It is a bookmark, never the truth: the evidence is. One that was made by other code, for another configuration, or that does not
fit the evidence beside it is thrown away, and everything is folded as before. Arrow's IPC format: numbers as they are in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from services.config import RolloutConfig
from services.rollout import counting, errors, findings, judge, late, latency, policy, quality, rates, sequential, votes
from services.rollout.findings import Counts
from services.rollout.judge import Judge
from services.rollout.sequential import Array

FORMAT: Final = "serinus judge 3"
T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """A judge, and the number of evidence files of each kind that are in it."""

    judge: Judge
    num_files: Mapping[str, int]


def pack(snapshot: Snapshot) -> bytes:
    """The bytes of `snapshot`; about a tenth of a megabyte before compression."""
    import pyarrow as pa

    found = snapshot.judge
    rows = list(_arrays(found))
    table = pa.table(
        {
            "path": pa.array([path for path, _ in rows]),
            "shape": pa.array([list(array.shape) for _, array in rows], pa.list_(pa.int64())),
            "values": pa.array([array.ravel() for _, array in rows], pa.list_(pa.float64())),
        }
    )
    head = {
        "format": FORMAT,
        "code": _code(),
        "config": _digest(found.config),
        "look": found.look,
        "window": found.window,
        "harms": found.harms,
        "copy_harms": found.copy_harms,
        "counts": {side: getattr(found, side).model_dump() for side in ("stable", "canary", "before")},
        "num_files": dict(snapshot.num_files),
    }
    table = table.replace_schema_metadata({"serinus": json.dumps(head)})
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def unpack(content: bytes, config: RolloutConfig) -> Snapshot | None:
    """What was packed; None where this code would not have made it of that configuration, or it is damaged."""
    import pyarrow as pa

    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    try:
        table = pa.ipc.open_file(io.BytesIO(content[32:])).read_all()
        head = json.loads(table.schema.metadata[b"serinus"])
        if (head["format"], head["code"], head["config"]) != (FORMAT, _code(), _digest(config)):
            return None
        columns = (table[name].to_pylist() for name in ("path", "shape", "values"))
        arrays = {path: np.array(values, float).reshape(shape) for path, shape, values in zip(*columns, strict=True)}
        named = ("stable", "canary", "before")
        stable, canary, before = (Counts.model_validate(head["counts"][side]) for side in named)
        harms, copy_harms = (tuple((k, int(n)) for k, n in head[name]) for name in ("harms", "copy_harms"))
        filled = _filled(Judge.start(config), arrays, "")
        restored = replace(filled, look=int(head["look"]), window=int(head["window"]), stable=stable, canary=canary, before=before,
                           harms=harms, copy_harms=copy_harms)  # fmt: skip
        return Snapshot(restored, {kind: int(number) for kind, number in head["num_files"].items()})
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _arrays(part: Any, path: str = "") -> Iterator[tuple[str, Array]]:
    """Everything in `part` that evidence changes, but the look's and the window's number and the counts."""
    for field in fields(part):
        value, here = getattr(part, field.name), f"{path}{field.name}"
        if isinstance(value, np.ndarray):
            yield here, value
        elif is_dataclass(value):
            yield from _arrays(value, f"{here}.")
        elif field.name == "num_beginnings":
            yield here, np.array(float(value))
        elif isinstance(value, dict):
            for role, users in value.items():
                yield f"{here}.{role}", np.array(sorted(users), float)


def _filled(template: T, arrays: Mapping[str, Array], path: str) -> T:
    """`template` with the arrays in their places. Raises KeyError, ValueError: one is missing, or has another shape."""
    changes: dict[str, Any] = {}
    for field in fields(template):  # type: ignore[arg-type]
        value, here = getattr(template, field.name), f"{path}{field.name}"
        if isinstance(value, np.ndarray):
            if arrays[here].shape != value.shape:
                raise ValueError(f"{here} has the shape {arrays[here].shape}, not {value.shape}")
            changes[field.name] = arrays[here]
        elif is_dataclass(value):
            changes[field.name] = _filled(value, arrays, f"{here}.")
        elif field.name == "num_beginnings":
            changes[field.name] = int(arrays[here])
        elif isinstance(value, dict):
            changes[field.name] = {role: frozenset(arrays[f"{here}.{role}"].tolist()) for role in value}
    return replace(template, **changes)  # type: ignore[type-var]


def _digest(config: RolloutConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


@cache
def _code() -> str:
    """Of all that makes the state: another formula, or another numpy, makes another judge of the same evidence."""
    hashed = hashlib.sha256(np.__version__.encode())
    for module in (counting, errors, findings, judge, late, latency, policy, quality, rates, sequential, votes):
        hashed.update(Path(str(module.__file__)).read_bytes())
    return hashed.hexdigest()

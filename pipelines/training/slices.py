"""State in slices: a rank writes its parts of parameters, and any number of ranks reads whatever parts it then needs.

A file `<rank>.bin` holds float32 values, little-endian, slice after slice; `<rank>.json` says which part of which
parameter each one is. Neither knows how the state was shared out, so it may be shared out anew when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.config import StrictModel
from cluster.errors import InputError

Values = NDArray[np.float32]

KINDS = ("weights", "exp_avg", "exp_avg_sq")
"""What a checkpoint keeps of a parameter: its float32 weights and AdamW's two moments, by torch's names."""

FISHER = "fisher"
"""Kind of what consolidation keeps of a parameter (importance.py)."""


class Columns(NamedTuple):
    """Some of a matrix's columns."""

    first: int
    num: int
    whole: int
    """How many the matrix has."""


class Slice(NamedTuple):
    """Values `start` to `start + num` of a parameter, or of some of its columns, flattened."""

    name: str
    kind: str
    start: int
    num: int
    columns: Columns | None = None


class Placed(StrictModel):
    """A slice, and where it begins in its file, in values."""

    name: str
    kind: str
    start: int
    num: int
    columns: Columns | None = None
    at: int


class Index(StrictModel):
    """What a file holds."""

    num_values: int
    xxh3: str
    """Of the file (XXH3, 64 bits): it finds damage, not forgery."""
    slices: tuple[Placed, ...]


def write(folder: Path, rank: int, slices: Iterable[tuple[Slice, Values]]) -> None:
    """Write a rank's slices, and have them on the disk. One at a time is in memory; the index comes last."""
    import xxhash

    hashed, placed, at = xxhash.xxh3_64(), [], 0
    with open(folder / f"{rank}.bin", "wb") as file:
        for part, values in slices:
            at += _append(file, hashed, values)
            placed.append(Placed(**part._asdict(), at=at - part.num))
        settle(file)
    index = Index(num_values=at, xxh3=hashed.hexdigest(), slices=tuple(placed))
    with open(folder / f"{rank}.json", "wb") as file:
        file.write(index.model_dump_json().encode())
        settle(file)


def settle(file: BinaryIO) -> None:
    """Have what was written so far on the disk: what is reported as whole must be it after a power cut too."""
    file.flush()
    os.fsync(file.fileno())


def _append(file: BinaryIO, hashed: Any, values: Values) -> int:
    data = np.ascontiguousarray(values, dtype="<f4").data.cast("B")
    hashed.update(data)
    return file.write(data) // 4


def _copy(own: Values, placed: Placed, values: Values, wanted: Slice) -> int:
    """Fill in what both have, where both are counted alike. Returns how many values that are."""
    low, high = max(placed.start, wanted.start), min(placed.start + placed.num, wanted.start + wanted.num)
    if low >= high:
        return 0
    values[low - wanted.start : high - wanted.start] = own[low - placed.start : high - placed.start]
    return high - low


def _pick(own: Values, placed: Placed, values: Values, wanted: Slice) -> int:
    """The same where one or both are columns of the matrix: row by row."""
    num, columns = 0, placed.columns or wanted.columns
    assert columns is not None, "else both are counted alike"
    whole = Columns(0, columns.whole, columns.whole)
    has, asks = placed.columns or whole, wanted.columns or whole
    rows, others = _rows(placed, has), _rows(wanted, asks)
    for row in range(max(rows.start, others.start), min(rows.stop, others.stop)):
        # What is to be added to a place among the part's values for the place in the flattened matrix.
        at, to = (part.first + row * (part.whole - part.num) for part in (has, asks))
        low = max(placed.start + at, wanted.start + to, row * columns.whole + max(has.first, asks.first))
        high = min(
            placed.start + placed.num + at,
            wanted.start + wanted.num + to,
            row * columns.whole + min(has.first + has.num, asks.first + asks.num),
        )
        if low < high:
            start = low - at - placed.start
            values[low - to - wanted.start : high - to - wanted.start] = own[start : start + high - low]
            num += high - low
    return num


def _rows(part: Placed | Slice, columns: Columns) -> range:
    """Those that have values in it."""
    return range(part.start // columns.num, -(-(part.start + part.num) // columns.num))


class Reader:
    """All ranks' files of a checkpoint.

    Args:
        remedy: what to do where they are damaged.
        name: by which people know the folder; empty: by its path.

    Raises:
        InputError: a file is missing or cut short.
    """

    def __init__(self, folder: Path, num_files: int, remedy: str = "remove it", name: str = "") -> None:
        self._folder, self._remedy, self._name = folder, remedy, name or str(folder)
        self._indices = [self._index(n) for n in range(num_files)]
        self._files = [self._open(n) for n in range(num_files)]
        self._found: dict[tuple[str, str], list[tuple[Placed, Values]]] = {}
        for index, values in zip(self._indices, self._files, strict=True):
            for placed in index.slices:
                self._found.setdefault((placed.name, placed.kind), []).append((placed, values))

    def verify(self, number: int) -> None:
        """Compare that file with its hash.

        Raises:
            InputError: they differ.
        """
        import xxhash

        if xxhash.xxh3_64(self._files[number].data.cast("B")).hexdigest() != self._indices[number].xxh3:
            raise self._damaged(f"{number}.bin", "is not what was written (its hash differs)")

    def read(self, wanted: Slice) -> Values:
        """The values of that slice, put together from whichever files hold them.

        Raises:
            InputError: some are in none: the checkpoint is of another model.
        """
        values, num = np.empty(wanted.num, dtype=np.float32), 0
        for placed, file in self._found.get((wanted.name, wanted.kind), []):
            own = file[placed.at : placed.at + placed.num]
            num += (_copy if placed.columns == wanted.columns else _pick)(own, placed, values, wanted)
        if num != wanted.num:
            raise self._damaged("", f"holds {num} of {wanted.num} values asked for of {wanted.kind} of {wanted.name}")
        return values

    def _index(self, number: int) -> Index:
        try:
            return Index.model_validate_json((self._folder / f"{number}.json").read_bytes())
        except (OSError, ValueError) as error:
            raise self._damaged(f"{number}.json", f"cannot be read ({type(error).__name__})") from None

    def _open(self, number: int) -> Values:
        path, num = self._folder / f"{number}.bin", self._indices[number].num_values
        if not path.exists() or path.stat().st_size != 4 * num:
            raise self._damaged(path.name, f"is missing or cut short ({4 * num} bytes were written)")
        return np.memmap(path, dtype="<f4", mode="r", shape=(num,)) if num else np.empty(0, np.float32)

    def _damaged(self, file: str, found: str) -> InputError:
        return InputError(f"{self._name}/{file}".rstrip("/"), found, self._remedy)

"""What some ranks wrote, any other number of ranks reads; what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import InputError
from pipelines.training.slices import KINDS, Columns, Reader, Slice, write

SIZES = {"embedding": 23, "norm": 3, "head": 8}


def shared_out(world_size: int) -> list[list[Slice]]:
    """Each parameter in `world_size` equal parts, the last ones shorter or none, as ZeRO-3 cuts them."""
    parts: list[list[Slice]] = [[] for _ in range(world_size)]
    for name, size in SIZES.items():
        width = -(-size // world_size)
        for rank in range(world_size):
            num = min(width, size - rank * width)
            parts[rank] += [Slice(name, kind, rank * width, num) for kind in KINDS if num > 0]
    return parts


def value(part: Slice) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Each value says where it belongs."""
    base = 1000.0 * list(SIZES).index(part.name) + 100.0 * KINDS.index(part.kind)
    return (base + np.arange(part.start, part.start + part.num)).astype(np.float32)


def written(folder: Path, world_size: int) -> Reader:
    for rank, parts in enumerate(shared_out(world_size)):
        write(folder, rank, ((part, value(part)) for part in parts))
    return Reader(folder, world_size)


@given(st.integers(1, 9), st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path: Path, writers: int, readers: int) -> None:
    reader = written(tmp_path, writers)
    for number in range(writers):
        reader.verify(number)
    for part in (part for parts in shared_out(readers) for part in parts):
        np.testing.assert_array_equal(reader.read(part), value(part))


ROWS, WIDTH = 5, 12
"""Sides of the matrix that ranks share out by columns."""


def by_columns(tensor: int, ranks: int) -> list[list[Slice]]:
    """`tensor` ranks have equal parts of the columns (whole rows where that is 1), and of each the others a range of values."""
    parts = []
    for place in range(tensor):
        columns = Columns(place * WIDTH // tensor, WIDTH // tensor, WIDTH) if tensor > 1 else None
        size, width = ROWS * WIDTH // tensor, -(-ROWS * WIDTH // tensor // ranks)
        for rank in range(ranks):
            num = max(0, min(width, size - rank * width))
            parts.append([Slice("matrix", kind, rank * width, num, columns) for kind in KINDS if num])
    return parts


def of_matrix(part: Slice) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    matrix = 1000.0 * KINDS.index(part.kind) + np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
    if part.columns:
        matrix = matrix[:, part.columns.first : part.columns.first + part.columns.num]
    return matrix.flatten()[part.start : part.start + part.num].astype(np.float32)


@given(st.sampled_from([1, 2, 3, 4]), st.integers(1, 4), st.sampled_from([1, 2, 3, 4]), st.integers(1, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_columns_of_a_matrix_are_put_together_anew(tmp_path: Path, of: int, each: int, into: int, readers: int) -> None:
    written = by_columns(of, each)
    for rank, parts in enumerate(written):
        write(tmp_path, rank, ((part, of_matrix(part)) for part in parts))
    reader = Reader(tmp_path, len(written))
    for part in (part for parts in by_columns(into, readers) for part in parts):
        np.testing.assert_array_equal(reader.read(part), of_matrix(part))


def test_a_checkpoint_from_before_there_were_columns_is_read(tmp_path: Path) -> None:
    written(tmp_path, 1)
    index = tmp_path / "0.json"
    index.write_text(index.read_text().replace(',"columns":null', ""))
    part = Slice("head", "weights", 2, 5)
    np.testing.assert_array_equal(Reader(tmp_path, 1).read(part), value(part))


def test_a_changed_a_shortened_and_a_missing_file_are_named(tmp_path: Path) -> None:
    reader = written(tmp_path, 2)
    content = (tmp_path / "1.bin").read_bytes()
    (tmp_path / "1.bin").write_bytes(content[:-1] + b"\x00")
    reader.verify(0)
    with pytest.raises(InputError, match=r"1\.bin.*hash differs"):
        Reader(tmp_path, 2).verify(1)
    (tmp_path / "1.bin").write_bytes(content[:-4])
    with pytest.raises(InputError, match=r"1\.bin.*cut short"):
        Reader(tmp_path, 2)
    (tmp_path / "0.json").unlink()
    with pytest.raises(InputError, match=r"0\.json.*cannot be read"):
        Reader(tmp_path, 2)


def test_what_no_rank_wrote_is_asked_for_in_vain(tmp_path: Path) -> None:
    reader = written(tmp_path, 2)
    with pytest.raises(InputError, match="holds 8 of 9 values asked for of weights of head"):
        reader.read(Slice("head", "weights", 0, 9))
    with pytest.raises(InputError, match="holds 0 of 1"):
        reader.read(Slice("bias", "weights", 0, 1))

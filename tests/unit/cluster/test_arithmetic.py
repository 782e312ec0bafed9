"""Which number format a processor settles for."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from cluster import arithmetic

X86 = "processor\t: 0\nmodel name\t: some\nflags\t\t: fpu avx2 {}\n"


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("x86_64", X86.format("avx512f avx512bw avx512vl avx512dq"), True),
        ("x86_64", X86.format("avx512f"), False),
        ("x86_64", X86.format(""), False),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("riscv64", "isa\t: rv64\n", False),
        ("x86_64", None, False),
    ],
)
def test_bfloat16_takes_instructions_for_it(
    machine: str, text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert arithmetic.multiplies_bfloat16(cpuinfo) is expected


@pytest.mark.parametrize(
    ("asked", "on_gpu", "able", "expected"),
    [
        ("auto", True, False, "bfloat16"),
        ("auto", False, True, "bfloat16"),
        ("auto", False, False, "float32"),
        ("bfloat16", False, False, "bfloat16"),
        ("float16", True, True, "float16"),
    ],
)
def test_auto_is_settled_and_what_is_asked_for_stays(
    asked: str, on_gpu: bool, able: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "multiplies_bfloat16", lambda: able)
    assert arithmetic.settled(asked, on_gpu) == expected

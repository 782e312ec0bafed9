"""Which number format this machine's processor multiplies in good time."""

from __future__ import annotations

import platform
from pathlib import Path

ONEDNN_NEEDS = {"x86_64": {"avx512bw", "avx512vl", "avx512dq"}, "aarch64": {"bf16"}}
"""Processor flags without which oneDNN, under torch and vLLM, has no bfloat16 products (torch's mkldnn_bf16_device_check)."""


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bfloat16 products have kernels on this processor.

    Without them torch falls back on plain loops. Measured on an EPYC with AVX2 alone, [256, 576] by [1536, 576]: 7 times the time
    of float32 forwards, 33 times for the gradient of the input.
    """
    needed = ONEDNN_NEEDS.get(platform.machine())
    if needed is None or not cpuinfo.is_file():
        return False
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    flags = next((value for name, _, value in lines if name.strip() in ("flags", "Features")), "")
    return needed <= set(flags.split())


def settled(asked: str, on_gpu: bool) -> str:
    """The format that `auto` stands for here: bfloat16, or float32 on a CPU that does not multiply bfloat16."""
    if asked != "auto":
        return asked
    return "bfloat16" if on_gpu or multiplies_bfloat16() else "float32"

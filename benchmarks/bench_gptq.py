"""GPTQ of one layer's matrices on this CPU: llmcompressor's own inner loop, and the compiled one. The weights must be the same.

    python benchmarks/bench_gptq.py [--rows 1536] [--columns 576] [--trials 5]

Both sides in one process, in turn, after one of each that does not count. Runs where `serinus run` quantizes: with the overlay of
`make setup` on the import path.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

from bench_gateway import machine

from pipelines.quantization.environment import runtime_env

CASES = {
    "W8A8, a scale a row": {"num_bits": 8, "strategy": "channel"},
    "W4A16, groups of 64": {"num_bits": 4, "strategy": "group", "group_size": 64},
}


def in_overlay() -> None:
    """Start again with the environment of the quantization task."""
    variables = runtime_env()["env_vars"]
    if os.environ.get("PYTHONPATH") != variables["PYTHONPATH"]:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **variables})


def quantize(rows: int, columns: int, asked: dict[str, Any]) -> tuple[Any, float]:
    """The weights of one matrix after GPTQ, always from the same draws, and the seconds it took."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    draws = torch.Generator().manual_seed(0)
    weights = torch.randn(1, rows, columns, generator=draws)
    inputs = torch.randn(2 * columns, columns, generator=draws) @ torch.randn(columns, columns, generator=draws)
    hessian = (inputs.T @ inputs / len(inputs))[None]
    group = asked.get("group_size", columns)
    scale = weights.unflatten(-1, (columns // group, group)).abs().amax(-1) / (2 ** (asked["num_bits"] - 1) - 0.5)
    began = time.perf_counter()
    made, _, _ = quantize_weight(weights, hessian, scale, torch.zeros_like(scale), None, QuantizationArgs(**asked))
    return made, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--columns", type=int, default=576)
    parser.add_argument("--trials", type=int, default=5)
    given = parser.parse_args()
    in_overlay()
    from unittest import mock

    import torch

    from pipelines.quantization import gptq_kernel

    gptq_kernel.install()
    print(f"{machine()}\n{given.rows} x {given.columns}; seconds, medians (least to most) of {given.trials} trials\n")
    print("| scheme | llmcompressor | compiled | times as fast |\n|---|---|---|---|")
    for title, asked in CASES.items():
        taken: dict[bool, list[float]] = {True: [], False: []}
        made: dict[bool, Any] = {}
        for _ in range(given.trials + 1):
            for ours in (False, True):
                with mock.patch("compressed_tensors.utils.impl_backend.ENFORCE_EAGER", not ours):
                    made[ours], seconds = quantize(given.rows, given.columns, asked)
                taken[ours].append(seconds)
        assert torch.equal(made[True], made[False]), "not the same weights"
        sides = [(statistics.median(times), min(times), max(times)) for times in (taken[False][1:], taken[True][1:])]
        cells = " | ".join(f"{middle:.3f} ({least:.3f} to {most:.3f})" for middle, least, most in sides)
        print(f"| {title} | {cells} | {sides[0][0] / sides[1][0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()

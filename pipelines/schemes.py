"""Quantization schemes: what a recipe may ask for, what each needs of model and machine. Pure, nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.config import StrictModel

Method = Literal["gptq", "awq", "rtn"]
"""`gptq` (Frantar et al. 2022, arXiv 2210.17323) and `awq` (Lin et al. 2023, arXiv 2306.00978) need calibration text, `rtn` rounds
each weight to the nearest and needs none."""

METHODS: Mapping[str, tuple[Method, ...]] = {
    "W4A16": ("gptq", "awq", "rtn"),
    "W8A8": ("gptq", "rtn"),
    "FP8": ("rtn",),
    "BF16": (),
}
"""Scheme -> what makes it, the default first."""
DEFAULT_GROUP_SIZE = 128
MIN_CAPABILITY = {"W4A16": (7, 5), "W8A8": (7, 5), "FP8": (8, 9), "BF16": (8, 0)}
"""NVIDIA compute capability from which on vLLM 0.29 has the arithmetic; for FP8 that is Ada's, below it only stores in FP8."""


def upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


SchemeName = Annotated[Literal["W4A16", "W8A8", "FP8", "BF16"], BeforeValidator(upper)]


class SchemeConfig(StrictModel):
    """One way to store a model."""

    scheme: SchemeName = "W8A8"
    """`W8A8`: INT8 weights (per channel) and activations (per token, dynamic). `W4A16`: INT4 weights in groups, activations as
    they are. `FP8`: E4M3 weights (per channel) and activations (per token, dynamic). `BF16`: bfloat16, nothing is quantized."""
    method: Method | None = None
    """None takes the scheme's first: gptq for W4A16 and W8A8, rtn for FP8."""
    group_size: Literal[32, 64, 128] | None = None
    """Weights that share a scale, for W4A16; 128 by default. It has to divide the inputs of every layer."""

    @model_validator(mode="after")
    def _made_by_a_method_that_can(self) -> SchemeConfig:
        known = METHODS[self.scheme]
        if self.method is not None and self.method not in known:
            raise ValueError(f"method {self.method} does not make {self.scheme}: {' or '.join(known) or 'none'} does")
        if self.group_size is not None and self.scheme != "W4A16":
            raise ValueError(f"group_size is for W4A16: {self.scheme} has no groups")
        return self

    @property
    def made_by(self) -> Method | None:
        return self.method or next(iter(METHODS[self.scheme]), None)

    @property
    def groups_of(self) -> int | None:
        return (self.group_size or DEFAULT_GROUP_SIZE) if self.scheme == "W4A16" else None

    @property
    def rounds_activations(self) -> bool:
        """Whether layers multiply rounded activations too."""
        return self.scheme in ("W8A8", "FP8")

    @property
    def is_calibrated(self) -> bool:
        """Whether the method looks at text."""
        return self.made_by in ("gptq", "awq")

    @property
    def bytes_per_weight(self) -> float:
        """Of the layers that it stores; a group has a scale in bfloat16."""
        return 0.5 + 2 / self.groups_of if self.groups_of else {"BF16": 2.0}.get(self.scheme, 1.0)

    @property
    def label(self) -> str:
        """For people: `W4A16 in groups of 64 by awq`."""
        groups = f" in groups of {self.groups_of}" if self.groups_of else ""
        return f"{self.scheme}{groups}" + (f" by {self.made_by}" if self.made_by else "")


def _named(value: Any) -> Any:
    """`w8a8` is short for `{scheme: w8a8}`."""
    return {"scheme": value} if isinstance(value, str) else value


class TriedScheme(SchemeConfig):
    """An entry of `quantize.schemes`."""

    scheme: SchemeName = Field()
    ignore: tuple[str, ...] | None = None
    """Instead of `quantize.ignore`, for this entry."""
    keep_most_sensitive: int | None = Field(None, ge=0)
    """Instead of `quantize.keep_most_sensitive`, for this entry."""


SchemeEntry = Annotated[TriedScheme, BeforeValidator(_named)]


@dataclass(frozen=True)
class Hardware:
    """What an engine will run on."""

    capability: tuple[int, int] | None = None
    """NVIDIA compute capability of its GPU; None on CPUs."""
    machine: str = "x86_64"
    has_avx512: bool = False


def cannot_serve(scheme: SchemeConfig, hardware: Hardware) -> str | None:
    """Why the scheme is not to be run there by vLLM 0.29; None where it is."""
    if hardware.capability is not None:
        least = MIN_CAPABILITY[scheme.scheme]
        if hardware.capability >= least:
            return None
        wanted, found = (".".join(map(str, version)) for version in (least, hardware.capability))
        return f"needs a GPU of compute capability {wanted}, this one has {found}"
    if scheme.scheme == "FP8":
        return "needs a GPU of compute capability 8.9: on CPUs vLLM only emulates FP8"
    # vllm-project/vllm#55613: the kernel is compiled for AVX-512 alone, and one without is told at the first token.
    if scheme.scheme == "W4A16" and hardware.machine in ("x86_64", "AMD64") and not hardware.has_avx512:
        return "vLLM's INT4 kernel for CPUs needs AVX-512, which this CPU lacks"
    return None


def asks_of_hardware(scheme: SchemeConfig, num_gpus: int) -> bool:
    """Whether there is anything to find out: 8 bits and bfloat16 run on every CPU that vLLM runs on."""
    return num_gpus > 0 or scheme.scheme in ("W4A16", "FP8")


def is_ignored(module: str, ignore: Sequence[str]) -> bool:
    """Whether a module's name is among `ignore`: a name, or `re:` and an expression that its beginning matches."""
    return any(
        re.match(pattern[3:], module) is not None if pattern.startswith("re:") else module == pattern
        for pattern in ignore
    )


def indivisible(shapes: Mapping[str, Sequence[int]], group_size: int, ignore: Sequence[str]) -> dict[str, int]:
    """Linear layers whose inputs do not fall into whole groups.

    Args:
        shapes: name of each linear module -> (outputs, inputs).

    Returns:
        Name -> number of inputs.
    """
    return {name: shape[1] for name, shape in shapes.items() if not is_ignored(name, ignore) and shape[1] % group_size}

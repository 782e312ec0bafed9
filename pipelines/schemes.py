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

KvCache = Literal["fp8", "fp8_unscaled"]
"""How an engine keeps keys and values: in E4M3, half the bytes of bfloat16. `fp8` has a scale for the keys and one for the values
of each layer, from the largest ones on calibration text; `fp8_unscaled` reads no text, and its scales are 1."""

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
FP8_CACHE_CAPABILITY = (8, 9)
"""The same for an E4M3 cache: before Ada vLLM's kernels convert to E5M2 alone."""
CPU_HEAD_MULTIPLE = 32
"""A head's size is to be one of it for vLLM's attention on CPUs with an FP8 cache (cpu_attn.py)."""


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
    kv_cache: KvCache | None = None
    """`fp8` keeps the KV cache in E4M3 with calibrated scales, `fp8_unscaled` with scales of 1, for which no text is read; by
    default it stays in what the engine computes in. With any scheme: BF16 then quantizes the cache alone."""

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
    def is_by_llmcompressor(self) -> bool:
        """Whether there are weights to round, or scales of a cache to find."""
        return self.made_by is not None or self.kv_cache == "fp8"

    @property
    def bytes_per_weight(self) -> float:
        """Of the layers that it stores; a group has a scale in bfloat16."""
        return 0.5 + 2 / self.groups_of if self.groups_of else {"BF16": 2.0}.get(self.scheme, 1.0)

    @property
    def stored_as(self) -> str:
        """For people, without the method: `W4A16 in groups of 64, KV cache in FP8`."""
        return self._told("")

    @property
    def label(self) -> str:
        """For people: `W4A16 in groups of 64 by awq`."""
        return self._told(f" by {self.made_by}" if self.made_by else "")

    def _told(self, by: str) -> str:
        groups = f" in groups of {self.groups_of}" if self.groups_of else ""
        cache = {None: "", "fp8": ", KV cache in FP8", "fp8_unscaled": ", KV cache in FP8 with scales of 1"}
        return f"{self.scheme}{groups}{by}{cache[self.kv_cache]}"


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

    @property
    def is_x86(self) -> bool:
        return self.machine in ("x86_64", "AMD64")


def cannot_serve(scheme: SchemeConfig, hardware: Hardware, head_size: int | None = None) -> str | None:
    """Why the scheme is not to be run there by vLLM 0.29; None where it is.

    Args:
        head_size: of the model's attention, where it is known.
    """
    return _lacks_arithmetic(scheme, hardware) or (
        _lacks_cache(hardware, head_size) if scheme.kv_cache is not None else None
    )


def _lacks_arithmetic(scheme: SchemeConfig, hardware: Hardware) -> str | None:
    if hardware.capability is not None:
        return _too_old("", MIN_CAPABILITY[scheme.scheme], hardware.capability)
    if scheme.scheme == "FP8":
        return "needs a GPU of compute capability 8.9: on CPUs vLLM only emulates FP8"
    # vllm-project/vllm#55613: the kernel is compiled for AVX-512 alone, and one without is told at the first token.
    if scheme.scheme == "W4A16" and hardware.is_x86 and not hardware.has_avx512:
        return "vLLM's INT4 kernel for CPUs needs AVX-512, which this CPU lacks"
    return None


def _lacks_cache(hardware: Hardware, head_size: int | None) -> str | None:
    if hardware.capability is not None:
        return _too_old("a KV cache in FP8 ", FP8_CACHE_CAPABILITY, hardware.capability)
    if not (hardware.is_x86 and hardware.has_avx512):
        return "a KV cache in FP8 needs a GPU or an x86 CPU with AVX-512"
    if head_size is not None and head_size % CPU_HEAD_MULTIPLE:
        return (
            f"a KV cache in FP8 needs heads of a multiple of {CPU_HEAD_MULTIPLE} on CPUs, this model's have {head_size}"
        )
    return None


def _too_old(what: str, least: tuple[int, int], found: tuple[int, int]) -> str | None:
    if found >= least:
        return None
    wanted, has = (".".join(map(str, version)) for version in (least, found))
    return f"{what}needs a GPU of compute capability {wanted}, this one has {has}"


def asks_of_hardware(scheme: SchemeConfig, num_gpus: int) -> bool:
    """Whether there is anything to find out: 8 bits and bfloat16 run on every CPU that vLLM runs on."""
    return num_gpus > 0 or scheme.scheme in ("W4A16", "FP8") or scheme.kv_cache is not None


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

"""How workers share a model out among themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from cluster.config import StrictModel

HAVE_FIELDS = {
    "bf16.enabled": "train.precision",
    "fp16": "train.precision",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "gradient_clipping": "train.max_gradient_norm",
    "tensor_parallel.autotp_size": "train.parallel.tensor",
    "train_batch_size": "train.sequences_per_step",
    "train_micro_batch_size_per_gpu": "train.sequences_per_worker",
}
"""Of DeepSpeed's fields those that the loop counts on as the recipe says them, with the field that does."""

BLOCKS = {"bf16", "optimizer", "tensor_parallel", "zero_optimization"}
"""Of DeepSpeed's fields those that hold others, which the loop sets itself: `extra` is merged over them."""

LOGITS = "tensor_parallel.vocab_parallel_lm_head"
"""DeepSpeed's field for logits that the workers of a copy share out, with a loss of its own. null is a yes for some models."""


class ZeroConfig(StrictModel):
    """DeepSpeed's sharding (Rajbhandari et al. 2020, arXiv 1910.02054)."""

    stage: Literal[0, 1, 2, 3] = 3
    offload_optimizer: bool = False
    """Keep optimizer states in CPU memory."""
    offload_parameters: bool = False
    extra: dict[str, Any] = {}
    """Merged over the DeepSpeed dictionary last: any of its fields but those of `HAVE_FIELDS` and `LOGITS`."""

    @field_validator("extra")
    @classmethod
    def _sound(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if odd := sorted(name for name in BLOCKS & extra.keys() if not isinstance(extra[name], dict)):
            raise ValueError(f"{odd[0]} should be a mapping of DeepSpeed's fields")
        inner = {f"{name}.{key}" for name, value in extra.items() if isinstance(value, dict) for key in value}
        if found := sorted((extra.keys() | inner) & HAVE_FIELDS.keys()):
            raise ValueError(
                f"{found[0]} is said by {HAVE_FIELDS[found[0]]}, which the loop counts on: set that instead"
            )
        if LOGITS in inner and extra["tensor_parallel"]["vocab_parallel_lm_head"] is not False:
            raise ValueError(
                f"{LOGITS} would give each worker the logits of its part of the vocabulary, and the loss takes all of a token's:"
                " leave it out"
            )
        if on_disk := [name for name in ("offload_optimizer", "offload_param") if _device(extra, name) == "nvme"]:
            raise ValueError(
                f"zero_optimization.{on_disk[0]} to nvme does not go with checkpoints: what lies in DeepSpeed's swap files is in"
                " none; offload to the CPU (offload_optimizer, offload_parameters), or use more workers"
            )
        return extra


def _device(extra: dict[str, Any], name: str) -> Any:
    """That DeepSpeed offloads to by that field."""
    sharding = extra.get("zero_optimization")
    offload = sharding.get(name) if isinstance(sharding, dict) else None
    return offload.get("device") if isinstance(offload, dict) else None


class ParallelConfig(StrictModel):
    """Workers that hold one copy of the model together. The others hold further copies, each of which takes a part of a step."""

    tensor: int = Field(1, ge=1)
    """Of each matrix, a worker holds one in so many parts (Shoeybi et al. 2019, arXiv 1909.08053). They add up
    activations several times a layer: keep them on one machine."""
    pipeline: int = Field(1, ge=1)
    """A worker holds the layers of one of so many stages (Narayanan et al. 2020, arXiv 2006.09503), and hands micro-batches on
    to the next. With zero stage 1, and at least as many micro-batches a step."""

    @property
    def workers(self) -> int:
        """That hold one copy."""
        return self.tensor * self.pipeline

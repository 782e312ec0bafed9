"""Tensor parallelism: ranks that hold one copy of the model together, each a part of every matrix (Shoeybi et al. 2019, arXiv
1909.08053, section 3). DeepSpeed cuts the model up by the plan that transformers has of its architecture; here is what the
loop and the checkpoints have to know of it. Its insides that are used: those of version 0.19.8.

Ranks beside each other form a copy: with `tensor: 2`, ranks 0 and 1, ranks 2 and 3. All of a copy see the same data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cluster.errors import ConfigError


class Cut(NamedTuple):
    """What a rank holds of a parameter that is shared out inside a copy of the model."""

    dim: int
    """0: rows; 1: columns."""
    shape: tuple[int, ...]
    """Of the whole."""
    first: int
    """The rank's first row or column."""
    num: int
    """How many it has."""


def check_plan(model: Any) -> None:
    """Make sure that transformers says of this architecture how it is cut up, in words that DeepSpeed knows.

    Raises:
        ConfigError: it does not; experts and fused matrices are such cases.
    """
    from deepspeed.module_inject.tp_plan_converter import SUPPORTED_STYLES
    from deepspeed.runtime.tensor_parallel.config import _get_hf_tp_plan

    plan = _get_hf_tp_plan(model) or {}
    unknown = sorted({style for style in plan.values() if style not in SUPPORTED_STYLES})
    if unknown or not {"colwise", "rowwise"} <= set(plan.values()):
        kind = model.config.model_type
        found = f"a plan for cutting up a {kind} model is not known" if not plan else f"{kind} is cut up by {unknown}"
        remedy = "leave it out and share the model out by train.zero.stage 3"
        raise ConfigError("train.parallel.tensor", found, remedy)


def replica(engine: Any) -> tuple[int, int]:
    """Which copy of the model this rank is part of, and how many there are."""
    import torch.distributed as dist

    return dist.get_rank(engine.data_parallel_group), dist.get_world_size(engine.data_parallel_group)


def member(engine: Any) -> int:
    """Which part of its copy this rank holds; 0 where a rank holds all of it."""
    from deepspeed.utils import groups

    return groups.get_tensor_model_parallel_rank() if engine.autotp_size() > 1 else 0


def cut_of(parameter: Any) -> Cut | None:
    """None where every rank of a copy has all of it."""
    from deepspeed.checkpoint.constants import DS_AUTOTP_UC_META

    found = getattr(parameter, DS_AUTOTP_UC_META, None)
    if found is None or found["partition_dim"] is None:
        return None
    assert found["sub_param_shape"] is None, "check_plan lets no fused matrices through"
    sizes, place = found["partition_sizes"], _layer(parameter).tp_index
    return Cut(found["partition_dim"], found["logical_shape"], sum(sizes[:place]), sizes[place])


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """Its sides when it is assembled."""
    cut = cut_of(parameter)
    return tuple(parameter.shape) if cut is None else cut.shape


def assembled(parameter: Any) -> Any:
    """The whole of a parameter. Every rank of a copy must call it; inside stage 3's gathering, where that is on."""
    own, cut = parameter.detach(), cut_of(parameter)
    if cut is None:
        return own
    layer = _layer(parameter)
    return layer._all_gather_shards(own, layer._partition_sizes, dim=cut.dim)


def _layer(parameter: Any) -> Any:
    """DeepSpeed's module that a cut parameter belongs to."""
    return parameter.gather_params.__self__

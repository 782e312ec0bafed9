"""Where DeepSpeed keeps the float32 weights and the optimizer's moments on this rank. All that knows its insides is here.

Its own checkpoints can be read by the same number of ranks only. Its universal ones can be read by any, after a second
program has written everything once more; but reading them gives all parameter groups the first one's settings, so that
norms would begin to decay (stage3.py, load_hp_checkpoint_state_from_checkpoint_dir_stage3, version 0.19.8).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipelines.training.parallel import Cut, cut_of, member
from pipelines.training.slices import Columns


class Piece(NamedTuple):
    """Values `start` to `start + num` of the parameter `name`, or of some of its columns, stand from `at` on in a master
    tensor."""

    name: str
    start: int
    num: int
    at: int
    columns: Columns | None = None
    is_spare: bool = False
    """Another rank of the same copy of the model has the same values (parallel.py)."""


class Master(NamedTuple):
    """One tensor that the optimizer steps: float32, flat, of one or many parameters."""

    tensor: Any
    pieces: tuple[Piece, ...]


def masters(engine: Any) -> list[Master]:
    """This rank's master tensors. With ZeRO ranks hold different parts, at stage 0 all hold the same."""
    cuts, spare = {name: cut_of(parameter) for name, parameter in engine.module.named_parameters()}, member(engine) > 0
    return [Master(one.tensor, tuple(_in_whole(p, cuts[p.name], spare) for p in one.pieces)) for one in _own(engine)]


def are_numbers(engine: Any) -> bool:
    """Whether all weights that the optimizer steps are, on all ranks; the same answer on each. Every rank must call it."""
    import torch
    import torch.distributed as dist

    # One parameter after the other: what is asked takes as much memory again as what is asked about.
    own = all(
        bool(torch.isfinite(master.tensor.detach().view(-1)[piece.at : piece.at + piece.num]).all())
        for master in masters(engine)
        for piece in master.pieces
    )
    found = torch.tensor(int(own), device=engine.device)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return bool(found.item())


def _own(engine: Any) -> Iterator[Master]:
    """Pieces of the parameters as this rank has them."""
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return _stage_3(optimizer, names)
    if hasattr(optimizer, "bit16_groups"):
        return _stage_1_and_2(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, names)
    return _stage_0(optimizer, names)


def _in_whole(piece: Piece, cut: Cut | None, spare: bool) -> Piece:
    """Where the piece of what the rank has stands in the whole parameter."""
    if cut is None:
        return piece._replace(is_spare=spare)
    if cut.dim == 0:
        return piece._replace(start=piece.start + cut.first * math.prod(cut.shape[1:]))
    return piece._replace(columns=Columns(cut.first, cut.num, cut.shape[1]))


def _stage_3(optimizer: Any, names: dict[int, str]) -> Iterator[Master]:
    """Each parameter is cut into as many equal parts as there are ranks; the last one may be filled up."""
    for flat, group in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
        pieces = []
        for parameter in group:
            _, at, width = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = optimizer._get_param_partition_rank(parameter) * width
            num = min(width, parameter.ds_numel - start)
            if num > 0:
                pieces.append(Piece(names[id(parameter)], start, num, at))
        yield Master(flat, tuple(pieces))


def _stage_1_and_2(flats: list[Any], groups: list[list[Any]], names: dict[int, str]) -> Iterator[Master]:
    """All parameters of a group stand one behind the other, and the whole is cut into as many parts as there are ranks."""
    for flat, group in zip(flats, groups, strict=True):
        mapped = [(names[id(parameter)], parameter._hp_mapping) for parameter in group]
        yield Master(
            flat,
            tuple(
                Piece(
                    name,
                    where.lp_fragment_address.start,
                    where.lp_fragment_address.numel,
                    where.hp_fragment_address.start,
                )
                for name, where in mapped
                if where is not None
            ),
        )


def _stage_0(optimizer: Any, names: dict[int, str]) -> Iterator[Master]:
    """Whole parameters on every rank; with bfloat16 each has a float32 copy."""
    if hasattr(optimizer, "fp32_groups"):
        pairs = list(_copied(optimizer))
    else:
        pairs = [(parameter, parameter) for group in optimizer.param_groups for parameter in group["params"]]
    for master, parameter in pairs:
        yield Master(master, (Piece(names[id(parameter)], 0, parameter.numel(), 0),))


def _copied(optimizer: Any) -> Iterator[tuple[Any, Any]]:
    """Masters of stage 0 in bfloat16, and the parameters they belong to."""
    for masters_, group in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
        yield from zip(masters_, group, strict=True)


def inner(engine: Any) -> Any:
    """torch's optimizer, which steps the master tensors."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def states(engine: Any) -> Any:
    """Of torch's optimizer: master tensor -> step, exp_avg, exp_avg_sq."""
    return inner(engine).state


def begin(engine: Any) -> None:
    """Mend DeepSpeed's optimizer of stage 0 in bfloat16 (unfused_optimizer.py); leave the others.

    While it is made it takes a step with gradients of zero, to make room for the moments: weights decay once, and AdamW corrects
    the bias of its moments as one step further on, which moved the losses of 50 steps by up to 4e-3. And of parameters that are
    cut up it knows only the first rank's part when it takes the norm that gradients are clipped by: it looks for the mark of such
    parameters on their gradients.
    """
    if not hasattr(engine.optimizer, "fp32_groups"):
        return
    for master, parameter in _copied(engine.optimizer):
        master.data.copy_(parameter.data)
        if cut_of(parameter) is not None:
            parameter.register_post_accumulate_grad_hook(_mark)
    states(engine).clear()


def _mark(parameter: Any) -> None:
    parameter.grad.tensor_model_parallel = True


def publish(engine: Any) -> None:
    """Make the weights that the model computes with those of the masters, which were changed. Every rank must call it."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        _publish_stage_3(optimizer)
    elif hasattr(optimizer, "bit16_groups"):
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_groups"):
        for master, parameter in _copied(optimizer):
            parameter.data.copy_(master.data)


def _publish_stage_3(optimizer: Any) -> None:
    optimizer.checkpoint_event_prologue()  # small parameters, which every rank keeps whole, are cut up ...
    for flat, weights in zip(
        optimizer.fp32_partitioned_groups_flat, optimizer.fp16_partitioned_groups_flat, strict=True
    ):
        weights.data.copy_(flat.data)
    for weights, parts in zip(optimizer.fp16_partitioned_groups_flat, optimizer.fp16_partitioned_groups, strict=True):
        for part, new in zip(parts, optimizer.unflatten(weights, parts), strict=True):
            part.data = new.data
    optimizer.checkpoint_event_epilogue()  # ... and put together again from all ranks' new parts

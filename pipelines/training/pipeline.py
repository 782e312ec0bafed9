"""Pipeline parallelism: ranks that hold one copy of the model together, each some of its layers (Huang et al. 2019, arXiv
1811.06965). torch.distributed.pipelining passes the micro-batches of a step on from stage to stage, one forward and one backward in
turn (Narayanan et al. 2020, arXiv 2006.09503, PipeDream-Flush); DeepSpeed's ZeRO stage 1 then reduces and steps what each rank has.

A stage is the model itself with the layers of others left out: they hand on what they are given. So parameters keep their
names, and a checkpoint does not know of stages. Ranks beside each other form a copy.
"""

from __future__ import annotations

from typing import Any

from cluster.errors import ConfigError
from pipelines.training.batches import Batches
from pipelines.training.losses import summed
from pipelines.training.parallel import assembled, whole_shape
from pipelines.training.step import Step, prepared


def check_frame(model: Any) -> None:
    """Make sure that the model is a row of layers between an embedding and an output head, and nothing else.

    Without embedding, layers and head it must hand on exactly what it is given: some models scale what comes in or goes out.

    Raises:
        ConfigError: it is not.
    """
    import torch

    def refused(found: str) -> ConfigError:
        return ConfigError(
            "train.parallel.pipeline", found, "leave it out and share the model out by train.zero.stage 3"
        )

    if {*(model.config.base_model_pp_plan or ())} != {"embed_tokens", "layers", "norm"}:
        raise refused(f"a {model.config.model_type} model cannot be cut between layers by transformers' plan")
    if model.config.tie_word_embeddings:
        raise refused("the first and the last stage of this model would share the weights of embedding and output head")
    given = torch.randn(1, 4, model.config.hidden_size)
    with torch.device("meta"):
        frame = type(model)(model.config)
    leave_out(frame, range(0), is_last=False)
    frame.model.rotary_emb = model.model.rotary_emb
    with torch.no_grad():
        if not torch.equal(frame(inputs_embeds=given, use_cache=False).logits, given):
            raise refused(
                f"a {model.config.model_type} model changes what goes into its first layer or out of its last one"
            )


def leave_out(model: Any, kept: range, *, is_last: bool) -> None:
    """Put what hands on its input in the place of all layers but those, and of norm and head unless they are the stage's."""
    from torch import nn

    decoder = model.model
    for number, layer in enumerate(decoder.layers):
        if number not in kept:
            decoder.layers[number] = _handing_on(layer)
    if 0 not in kept:
        decoder.embed_tokens = None
    if not is_last:
        decoder.norm, model.lm_head = nn.Identity(), nn.Identity()


def _handing_on(layer: Any) -> Any:
    """In a layer's place; with what the model asks of a layer before it calls it."""
    from torch import nn

    class HandingOn(nn.Module):
        attention_type = getattr(layer, "attention_type", None)

        def forward(self, hidden_states: Any, *_: Any, **__: Any) -> Any:
            return hidden_states

    return HandingOn()


def layers_of(stage: int, num_stages: int, num_layers: int) -> range:
    """As even as can be."""
    return range(stage * num_layers // num_stages, (stage + 1) * num_layers // num_stages)


class Stages:
    """Who is who: rank (copy x stages + stage) x tensor + part. DeepSpeed is told by the groups that it asks for."""

    def __init__(self, num: int, tensor: int) -> None:
        import numpy as np
        import torch.distributed as dist
        from deepspeed.utils import groups

        self.num, self.tensor, rank = num, tensor, dist.get_rank()
        self.stage = rank // tensor % num
        ranks = np.arange(dist.get_world_size()).reshape(-1, num, tensor)
        self.chain = _own_group(np.moveaxis(ranks, 1, 2).reshape(-1, num).tolist(), rank)
        # Ranks with the same parameters; those with parts of the same matrices; those whose gradients make up one norm.
        groups._DATA_PARALLEL_GROUP = _own_group(ranks.reshape(len(ranks), -1).T.tolist(), rank)
        groups._TENSOR_MODEL_PARALLEL_GROUP = _own_group(ranks.reshape(-1, tensor).tolist(), rank)
        groups._MODEL_PARALLEL_GROUP = _own_group(ranks.reshape(len(ranks), -1).tolist(), rank)
        self.mpu = groups

    @property
    def is_last(self) -> bool:
        return self.stage == self.num - 1


def _own_group(all_ranks: list[list[int]], rank: int) -> Any:
    """Make all those groups, as every rank must, and give the one with `rank` in it."""
    import torch.distributed as dist

    made = [dist.new_group(ranks) for ranks in all_ranks]
    return next(group for group, ranks in zip(made, all_ranks, strict=True) if rank in ranks)


def cut(model: Any, stages: Stages) -> None:
    """Leave this rank's stage of the model."""
    leave_out(model, layers_of(stages.stage, stages.num, len(model.model.layers)), is_last=stages.is_last)


def schedule(engine: Any, stages: Stages, sequences: int, length: int, num_micro_batches: int) -> Any:
    """torch's schedule of one optimizer step.

    Args:
        sequences: of a micro-batch.
        length: of a sequence, in tokens.
    """
    import torch
    from torch import nn
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = engine.module

        def forward(self, given: Any, **more: Any) -> Any:
            what = {"input_ids" if stages.stage == 0 else "inputs_embeds": given}
            return self.model(**what, **more, use_cache=False).logits

    config, dtype = engine.module.config, engine.module.dtype
    hidden = torch.empty(sequences, length, config.hidden_size, dtype=dtype, device="meta")
    tokens = torch.empty(sequences, length, dtype=torch.long, device="meta")
    logits = torch.empty(sequences, length, config.vocab_size, dtype=dtype, device="meta")
    given = tokens if stages.stage == 0 else hidden.requires_grad_()
    made = logits if stages.is_last else hidden
    stage = PipelineStage(
        Stage(),
        stages.stage,
        stages.num,
        engine.device,
        input_args=given,
        output_args=made.requires_grad_(),
        group=stages.chain,
    )
    return Schedule1F1B(stage, num_micro_batches, loss_fn=_loss, scale_grads=False)


def _loss(logits: Any, labels: Any, weight: float) -> Any:
    return summed(logits, labels) / weight


def pipelined_step(engine: Any, batches: Batches, step: int, rate: float) -> Step:
    """One optimizer step over all ranks; the loss is that of the next token."""
    import torch
    import torch.distributed as dist

    micro_batches, counts = prepared(engine, batches, step, rate)
    weight = counts.num_targets / batches.share.world_size
    parts = [batch.to(engine.device) for batch in micro_batches]
    inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs}
    losses: list[Any] = []
    ids, stages = inputs.pop("input_ids"), engine.stages
    first, last = [ids] * (stages.stage == 0), stages.is_last
    target = torch.cat([part.labels for part in parts]) if last else None
    engine.schedule.step(
        *first,
        target=target,
        losses=losses if last else None,
        return_outputs=False,
        loss_kwargs={"weight": weight},
        **inputs,
    )
    engine.allreduce_gradients()
    engine.step()
    total = (
        torch.stack([loss.detach() for loss in losses]).sum()[None] if last else torch.zeros(1, device=engine.device)
    )
    dist.all_reduce(total)
    return Step(float(total) / stages.tensor * weight / counts.num_targets, counts.num_tokens, counts.checksum)


def gathered(engine: Any) -> dict[str, Any]:
    """The weights of all stages on rank 0, in the host's memory; empty elsewhere. Every rank must call it."""
    import torch
    import torch.distributed as dist

    stages, own = engine.stages, engine.module.state_dict(keep_vars=True)
    told: list[dict[str, Any]] = [{} for _ in range(stages.num)]
    dist.all_gather_object(
        told, {name: (whole_shape(tensor), tensor.dtype) for name, tensor in own.items()}, stages.chain
    )
    whole, sends = {}, engine.global_rank in range(stages.tensor, stages.tensor * stages.num, stages.tensor)
    for name, tensor in own.items():
        one = assembled(tensor).contiguous()
        if sends:
            dist.send(one, dst=0)
        elif engine.global_rank == 0:
            whole[name] = one.cpu().clone()
    if engine.global_rank > 0:
        return {}
    for stage in range(1, stages.num):
        for name, (shape, dtype) in told[stage].items():
            received = torch.empty(shape, dtype=dtype, device=engine.device)
            dist.recv(received, src=stage * stages.tensor)
            whole[name] = received.cpu()
    return whole

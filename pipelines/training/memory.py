"""What each rank of a training run holds in memory, part by part. Pure.

Model states: Rajbhandari et al. 2020 (arXiv 1910.02054), section 3.1, sharded as in section 5. Activations: counted tensor by
tensor as Korthikanti et al. 2022 (arXiv 2205.05198), section 4.1, do for GPT, here for the layers of transformers' Llama.
"""

from __future__ import annotations

from typing import NamedTuple

from cluster.arithmetic import settled
from pipelines.config import ParallelConfig, TrainConfig, ZeroConfig
from pipelines.training.shape import Shape
from pipelines.training.zero3 import BUCKET, bucket, checkpoints_written

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of a layer's linear modules, in the order of Shape.linears."""
LIVE = 1e9
"""Gathered values that stage 3 keeps at once: DeepSpeed's default of stage3_max_live_parameters."""


class Memory(NamedTuple):
    """Bytes of one rank: on its device, and in the host's memory for it. Without GPUs the device is the host."""

    parameters: float
    gradients: float
    """As sharded; not all of them are there at every moment."""
    masters: float
    """Float32 weights that the optimizer steps, where they are kept beside those that the model computes with."""
    optimizer: float
    activations: float
    logits: float
    buffers: float
    """Buckets, gathered parameters, and what is rounded or summed up."""
    at_loss: float
    """Gradients that are there already when a loss is computed."""
    at_step: float
    """Gradients, what is copied of them and the buffers that are there when they are reduced and stepped, all activations gone."""
    copy: float
    """Of the states, from which a checkpoint is written while steps go on; where the device is the host."""
    host: float
    """Offloaded parts and that copy, where there are GPUs."""

    @property
    def states(self) -> float:
        """Bytes on the device that stay from step to step, gradients with them."""
        return self.parameters + self.gradients + self.masters + self.optimizer

    @property
    def peak(self) -> float:
        """Bytes on the device at most, which is at a loss or in an optimizer's step."""
        stay = self.parameters + self.masters + self.optimizer + self.copy
        return stay + max(self.at_loss + self.activations + self.logits + self.buffers, self.at_step)


def memory(shape: Shape, config: TrainConfig, zero: ZeroConfig | None = None) -> Memory:
    """Of each rank of that run.

    Args:
        zero: in place of the configuration's own.
    """
    zero = zero or config.zero
    gpus = config.gpus_per_worker > 0
    size, ranks = held_parameters(shape, config.parallel), config.replicas
    trained = trained_parameters(shape, config) if config.lora else size
    width = _width(config)
    own = trained / (ranks if zero.stage >= 1 else 1)
    parts = {
        "parameters": width * (size / ranks if zero.stage == 3 else size),
        "gradients": width * trained / (ranks if zero.stage >= 2 else 1),
        # DeepSpeed's ZeRO clones the weights as float32 whatever they are (stage_1_and_2.py, stage3.py, version 0.19.8).
        "masters": 4 * own if zero.stage >= 1 or width == 2 else 0.0,
        "optimizer": (8 + (8 if config.consolidation else 0)) * own,
    }
    offloaded = _offloaded(zero) if gpus else ()
    # At stage 0 the first of those that hold the same has it (checkpoint.py).
    copy = 12 * own if config.checkpoint_asynchronously and checkpoints_written(config) else 0.0
    host = sum(parts[name] for name in offloaded) + (copy if gpus else 0.0)
    kept = {name: 0.0 if name in offloaded else value for name, value in parts.items()}
    buckets = _buckets(trained, zero, width, gpus)
    stays = _gathered(size, zero, width) + (
        4 * trained if config.privacy else 0.0
    )  # the sum of the examples' gradients
    # A private example's gradient is whole, and gone before the next one's.
    gradients = max(kept["gradients"], width * trained) if config.privacy else kept["gradients"]
    behind_another = config.accumulation > 1 and not config.privacy
    return Memory(
        **kept,
        activations=activations(shape, config, width),
        logits=logits(shape, config),
        buffers=buckets + stays + rounding(shape, config, width),
        at_loss=kept["gradients"] if zero.stage == 3 or behind_another else 0.0,
        at_step=stays + max(_reducing(config, zero, trained, gradients), _stepping(config, zero, trained, gradients)),
        copy=0.0 if gpus else copy,
        host=host,
    )


def _width(config: TrainConfig) -> int:
    """Bytes of a weight that the model computes with."""
    return 2 if settled(config.precision, config.gpus_per_worker > 0) == "bfloat16" else 4


def held_parameters(shape: Shape, parallel: ParallelConfig) -> float:
    """Of a rank before ZeRO. Parts of matrices: all but the embedding is shared out (parallel.py), an output head that has its
    weights from there neither; norms count as if they were. Stages: the layers are, and the first has the embedding, the
    last the head (pipeline.py). Of stages with more and with fewer layers, one with more."""
    embedding = shape.vocabulary * shape.hidden
    if parallel.pipeline > 1:
        most = -(-shape.layers // parallel.pipeline) / shape.layers
        return embedding + (shape.num_parameters - 2 * embedding) * most / parallel.tensor
    return embedding + (shape.num_parameters - embedding) / parallel.tensor


def _offloaded(zero: ZeroConfig) -> tuple[str, ...]:
    """Parts that lie in the host's memory (ZeRO-Offload, Ren et al. 2021, arXiv 2101.06840, section 4)."""
    names: list[str] = []
    if zero.offload_optimizer:
        names += ["masters", "optimizer"] + (["gradients"] if zero.stage >= 2 else [])
    return (*names, "parameters") if zero.offload_parameters else tuple(names)


def _reducing(config: TrainConfig, zero: ZeroConfig, trained: float, gradients: float) -> float:
    """Gradients, their bucket, and a copy of what is in it (DeepSpeed's `allreduce_bucket`, `reduce_scatter_coalesced`; one rank
    alone makes it too). At stage 1 a rank copies its own gradients out of the bucket, and those that are not in it yet wait, but
    for GPUs, where they go while others are computed."""
    width, gpus = _width(config), config.gpus_per_worker > 0
    bucketed = width * min(BUCKET if zero.stage == 0 else float(bucket(zero, trained)), trained)
    if zero.stage == 1 and gradients:
        waiting = 0.0 if gpus and config.accumulation == 1 else max(0.0, gradients - bucketed)
        gradients = width * trained / config.replicas + waiting
    return gradients + _buckets(trained, zero, width, gpus) + bucketed


def _stepping(config: TrainConfig, zero: ZeroConfig, trained: float, gradients: float) -> float:
    """A rank's own gradients, and what the optimizer makes of them. From stage 1 on its weights are one tensor, of whose gradients
    ZeRO makes a float32 one, and torch's AdamW two temporaries as long; for stage 0 it goes weight by weight. On GPUs it takes all
    at once (`foreach`): of its temporaries one is counted there, which was not measured. The bucket is given back before but at
    stage 3."""
    width, gpus = _width(config), config.gpus_per_worker > 0
    own = trained / (config.replicas if zero.stage >= 1 else 1)
    left = _buckets(trained, zero, width, gpus) if zero.stage == 3 else 0.0
    gradients = min(gradients, width * own) if not config.privacy else gradients
    if gpus:
        copies = 0.0 if zero.offload_optimizer else (4 * own if width == 2 else 0.0) + 4 * own
    else:
        copies = 12 * own if zero.stage >= 1 else 4 * own if width == 2 else 0.0
    return gradients + left + copies


def _buckets(trained: float, zero: ZeroConfig, width: int, gpus: bool) -> float:
    """On GPUs a bucket is reserved whole, and a second one to communicate while the first fills; a host's page counts
    once it is written."""
    if zero.stage == 0:
        return 0.0
    asked = float(bucket(zero, trained))
    return width * (asked * (2 if zero.stage < 3 else 1) if gpus else min(asked, trained))


def _gathered(size: float, zero: ZeroConfig, width: int) -> float:
    """Stage 3 gathers parameters for computing and keeps those it will need again."""
    return width * min(size, LIVE) if zero.stage == 3 else 0.0


def activations(shape: Shape, config: TrainConfig, width: int) -> float:
    """Bytes kept for the backward pass: of all layers; with gradient_checkpointing, each layer's input and all of one layer
    (Korthikanti et al., section 5: full recomputation). The first of several stages has a part of the layers and as many
    micro-batches under way as there are stages: the same."""
    tokens = _tokens(config)
    layer = tokens * _per_layer(shape, width, config.parallel.tensor)
    outside = tokens * shape.hidden * (4 + 2 * width)  # the last norm
    if config.gradient_checkpointing:
        return outside + layer + shape.layers * tokens * shape.hidden * width
    return outside + shape.layers * layer


def _per_layer(shape: Shape, width: int, tensor: int) -> float:
    """Bytes a token. Attention and feed-forward block are shared out between the ranks of a copy, norms are not (Korthikanti
    et al., section 4.2.1). A norm keeps its input as float32, the normalised values and its output. Fused attention keeps query,
    key, value (both repeated for each head, as they are where a mask keeps packed documents apart) and output; no scores. A gated
    block keeps four tensors: gate, its activation, up, their product."""
    norms = 2 * shape.hidden * (4 + 2 * width)
    attention = 4 * shape.heads * shape.head * width
    return norms + (attention + 4 * shape.intermediate * width) / tensor


def logits(shape: Shape, config: TrainConfig) -> float:
    """Bytes at the loss (losses.py): float32 log-probabilities, their gradient, and the logits' gradient, all at once."""
    return 12 * _tokens(config) * shape.vocabulary


def rounding(shape: Shape, config: TrainConfig, width: int) -> float:
    """Bytes of the layer that rounds its weights, and activations, at the moment (rounding.py): a float32 copy, its quotients by
    the scales, and what comes out."""
    if (asked := config.quantization_aware) is None:
        return 0.0
    values = max(inputs * outputs for inputs, outputs in shape.linears)
    if asked.rounds_activations:
        values += _tokens(config) * max(inputs for inputs, _ in shape.linears)
    return (8.0 + width) * values


def _tokens(config: TrainConfig) -> int:
    """At once on a rank. Of pairs both answers; in private one example."""
    rows = (1 if config.privacy else config.sequences_per_worker) * (2 if config.method.kind == "dpo" else 1)
    return rows * config.sequence_length


def trained_parameters(shape: Shape, config: TrainConfig) -> int:
    """How many are trained: all, or those of an adapter, rank x (inputs + outputs) a module (Hu et al. 2021, section 4.1).

    Modules are taken by the names of Llama-like models; others, and those of experts, count as none.
    """
    if config.lora is None:
        return shape.num_parameters
    named = config.lora.target_modules
    sides = [side for name, side in zip(MODULES, shape.linears, strict=True) if named == "all-linear" or name in named]
    return shape.layers * config.lora.rank * sum(inputs + outputs for inputs, outputs in sides)

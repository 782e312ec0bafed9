"""Losses as functions of the model and a batch. Each gives a sum over targets; the loop divides by the step's targets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cluster.errors import ConfigError
from pipelines.config import DistillationConfig, GrpoConfig, MethodConfig, PreferenceConfig
from pipelines.training.batches import NO_TARGET, Batch

Loss = Callable[[Any, Any], Any]
"""Of a DeepSpeed engine and a batch, summed over the batch's targets."""


def loss_of(method: MethodConfig, distillation: DistillationConfig | None = None, teacher: Any = None) -> Loss:
    """The method's loss.

    Args:
        teacher: with `distillation`; called as the engine is.
    """
    if distillation:
        return partial(distilled, teacher=teacher, weight=distillation.weight, temperature=distillation.temperature)
    match method:
        case PreferenceConfig(beta=beta):
            return partial(preference, beta=beta)
        case GrpoConfig():
            return rewarded
        case _:
            return next_token


def next_token(engine: Any, batch: Batch) -> Any:
    """Negative log-likelihood of the targets given what stands before them, in nats, summed in float32."""
    output = engine(**batch.inputs)
    return summed(output.logits, batch.labels) + _balance(engine.module.config, output) * batch.num_targets


def distilled(engine: Any, batch: Batch, teacher: Any, weight: float, temperature: float) -> Any:
    """(1 - weight) x next_token + weight x temperature^2 x KL(teacher || model), both softened by the temperature, summed over
    the targets (Hinton et al. 2015, arXiv 1503.02531, section 2). Of two widths of logits, padded as they may be, the narrower."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div

    wanted = _next(batch.labels)
    rows, places = (wanted != NO_TARGET).nonzero(as_tuple=True)
    with torch.no_grad():
        told = teacher(**batch.inputs).logits[rows, places].float()
    output = engine(**batch.inputs)
    logits = output.logits[rows, places].float()
    hard = cross_entropy(logits, wanted[rows, places], reduction="sum")
    width = min(logits.shape[-1], told.shape[-1])
    own, taught = ((one[:, :width] / temperature).log_softmax(-1) for one in (logits, told))
    soft = temperature**2 * kl_div(own, taught, log_target=True, reduction="sum")
    return (1 - weight) * hard + weight * soft + _balance(engine.module.config, output) * batch.num_targets


def summed(logits: Any, labels: Any) -> Any:
    """The same of logits, for labels of the same rows."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float().flatten(0, 1), _next(labels).flatten(), ignore_index=NO_TARGET, reduction="sum")


def preference(engine: Any, batch: Batch, beta: float) -> Any:
    """Direct preference optimization: -log sigmoid(beta x margin), summed over the pairs (Rafailov et al. 2023, arXiv
    2305.18290, equation 7). The margin is by how much more than the reference the model prefers the chosen answer."""
    from torch.nn.functional import logsigmoid

    gains = log_probabilities(engine, batch.inputs, batch.labels) - batch.reference
    chosen, rejected = gains.chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).sum()


def rewarded(engine: Any, batch: Any) -> Any:
    """Of answers (grpo.py): TRL's loss, times what the loop divides by, so that a step's gradient is that of TRL's own loop."""
    return batch.policy.loss(engine, batch)


def log_probabilities(engine: Any, inputs: dict[str, Any], labels: Any) -> Any:
    """Of each row's targets given what stands before them, in nats, float32."""
    from torch.nn.functional import cross_entropy

    # Of the targets alone, the smaller part of a conversation: for the others a float32 copy would be made and thrown away.
    wanted = _next(labels)
    rows, places = (wanted != NO_TARGET).nonzero(as_tuple=True)
    logits = engine(**inputs).logits[rows, places].float()
    found = logits.new_zeros(wanted.shape)
    found[rows, places] = -cross_entropy(logits, wanted[rows, places], reduction="none")
    return found.sum(dim=1)


def _next(labels: Any) -> Any:
    """The label that each position is to predict. They move rather than the logits, which are large and would be copied."""
    from torch.nn.functional import pad

    return pad(labels[:, 1:], (0, 1), value=NO_TARGET)


def _balance(config: Any, output: Any) -> Any:
    """What a mixture of experts adds for evenly used experts, where its configuration asks for it."""
    extra = getattr(output, "aux_loss", None)
    return 0.0 if extra is None else config.router_aux_loss_coef * extra


def check_boundaries(engine: Any) -> None:
    """Make sure that this model's attention stops where a document begins.

    Two packed sequences end with the same document behind different ones: the model must say the same of it. In
    transformers that holds for attention made by its own masks, not for recurrent layers or masks of a model's own.

    Raises:
        ConfigError: what the model says depends on the document before.
    """
    import torch

    config = getattr(engine, "module", engine).config  # of an engine, or of a model as transformers loads it
    half, vocabulary = 8, config.get_text_config().vocab_size
    first, other, last = (torch.arange(half) * step % vocabulary for step in (1, 3, 7))
    tokens = torch.stack([torch.cat([first, last]), torch.cat([other, last])]).to(engine.device)
    places = torch.arange(half).repeat(2).expand(2, -1).to(engine.device)
    engine.eval()
    with torch.no_grad():
        one, two = engine(input_ids=tokens, position_ids=places).logits[:, half:].float()
    engine.train()
    # Masked tokens have a weight of exactly 0. Experts that compute other batches may round differently.
    if (one - two).abs().max() > 0.01 * one.abs().max():
        raise ConfigError(
            "train.attend_across_documents",
            "false, but this model looks back into the document before (recurrent layers, or an attention of its own)",
            "set it to true for this model",
        )

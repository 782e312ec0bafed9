"""The run that ranks are held against: one process without packing, DeepSpeed or Ray. No tests in here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import QuantizationAwareConfig, QuantizeConfig, TrainConfig
from pipelines.quantization.methods import target
from pipelines.training.consolidation import signs
from pipelines.training.draws import gaussian, poisson
from pipelines.training.guard import data_step
from pipelines.training.packing import Share, Stream, num_sequences, sequence_ids
from pipelines.training.privacy import LOSS_SHARE
from pipelines.training.schedule import learning_rate
from tests.integration.training_ranks import END, SECRET, documents, old_batches, private

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}
"""Relative, of a step's loss."""


def config(**fields: Any) -> dict[str, Any]:
    settings = {
        "num_workers": 2,
        "gpus_per_worker": 0,
        "precision": "float32",
        "num_steps": 16,
        "warmup_steps": 3,
        "sequence_length": 64,
        "sequences_per_worker": 1,
        "sequences_per_step": 4,
        "learning_rate": 3e-3,
    }
    return TrainConfig.model_validate({**settings, **fields}).model_dump()


def single_documents(step: int, settings: TrainConfig) -> list[np.ndarray[Any, Any]]:
    """What the step's sequences hold, cut where a document ends."""
    stream = Stream([documents()])
    num = num_sequences(len(stream), settings.sequence_length)
    ids = sequence_ids(Share(0, 1, settings.total_sequences), step, 0, num, settings.seed)
    sequences = [stream.sequence(i, settings.sequence_length) for i in ids]
    return [part for s in sequences for part in np.split(s, np.flatnonzero(s == END) + 1) if len(part)]


def plain_losses(model_folder: Path, settings: TrainConfig, left_out: tuple[int, ...] = ()) -> list[float]:
    """Of each step of the run."""
    return plain_run(model_folder, settings, left_out)[0]


def plain_run(model_folder: Path, settings: TrainConfig, left_out: tuple[int, ...] = ()) -> tuple[list[float], Any]:
    """Losses, and the model made. One process, torch's AdamW on float32 masters, every document by
    itself: no packing, DeepSpeed or Ray."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # as ranks do; on a busy machine several wait for each other most of the time
    dtype = getattr(torch, settings.precision)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype)
    if settings.quantization_aware:
        plainly_rounded(model, settings.quantization_aware)
    weights = list(model.parameters())
    masters = [weight.detach().float().clone() for weight in weights]
    groups = [
        {"params": [m for m in masters if m.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [m for m in masters if m.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer, losses = torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps), []
    fisher, anchors = plain_fisher(model, settings), [master.clone() for master in masters]
    for step in range(settings.num_steps):
        parts = [torch.from_numpy(part) for part in single_documents(data_step(step, left_out), settings)]
        tokens = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)  # on the right, where no token looks
        labels = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-100)
        logits = model(input_ids=tokens).logits[:, :-1].float().transpose(1, 2)
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:])
        loss.backward()
        for master, weight in zip(masters, weights, strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, settings.max_gradient_norm)
        for master, important, anchor in zip(masters, fisher, anchors, strict=True):
            master.grad += important * (master - anchor)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        optimizer.step()
        for master, weight in zip(masters, weights, strict=True):
            weight.data.copy_(master)
        losses.append(loss.item())
    return losses, model


def plainly_rounded(model: Any, asked: QuantizationAwareConfig) -> None:
    """Layers compute with what compressed-tensors makes of their weights and inputs; torch finds the gradients of the sum of that
    and a difference that is zero."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name not in asked.ignore:
            module.forward = partial(_plainly_rounded_linear, module, asked)  # type: ignore[method-assign]


def _plainly_rounded_linear(layer: Any, asked: QuantizationAwareConfig, inputs: Any) -> Any:
    import torch

    weights, activations = arguments(asked)
    size = weights.group_size or layer.in_features
    stored = _faked(layer.weight.detach().float(), weights, size)
    seen = (
        inputs
        if activations is None
        else _straight(_faked(inputs.detach().float(), activations, layer.in_features), inputs)
    )
    return torch.nn.functional.linear(seen, _straight(stored, layer.weight), layer.bias)


def _straight(rounded: Any, values: Any) -> Any:
    return rounded.to(values.dtype) + (values - values.detach())


def _faked(values: Any, told: Any, size: int) -> Any:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    groups = values.unflatten(-1, (-1, size))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), told)
    return fake_quantize(values, scale, zero, told)


def arguments(asked: QuantizationAwareConfig) -> tuple[Any, Any]:
    """What the quantize stage asks of compressed-tensors: for weights and for activations."""
    from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme

    told = target(QuantizeConfig(scheme=asked.scheme, group_size=asked.group_size, method="rtn"))
    if "scheme" in told:
        found = preset_name_to_scheme(told["scheme"], ["Linear"])
    else:
        found = QuantizationScheme.model_validate(told["config_groups"]["group_0"])
    return found.weights, found.input_activations


def plain_fisher(model: Any, settings: TrainConfig) -> list[Any]:
    """The penalty's weight times Fisher's diagonal, from the gradients of single sequences; zeros without consolidation.

    The sign that a sequence's loss gets decides which of its products with others are left in the estimate, so the
    reference takes the signs of the two ranks.
    """
    import torch

    total = [torch.zeros_like(weight, dtype=torch.float32) for weight in model.parameters()]
    if settings.consolidation is None:
        return total
    ranks = [old_batches(settings, rank, 2) for rank in range(2)]
    at_once = ranks[0].share.sequences_per_step
    num_steps = settings.consolidation.num_sequences // at_once
    for step in range(num_steps):
        for rank in ranks:
            for batch, sign in zip(rank.of_step(step), signs(rank, step), strict=True):
                (sign * model(**batch.inputs, labels=batch.labels, use_cache=False).loss).backward()
        for squares, weight in zip(total, model.parameters(), strict=True):
            squares.add_(weight.grad.float() ** 2, alpha=settings.consolidation.weights[0] / (num_steps * at_once))
        model.zero_grad()
    if settings.consolidation.online:  # of a run before by the same documents, which began with the same model
        return [(1 + settings.consolidation.online.decay) * squares for squares in total]
    return total


def private_losses(model_folder: Path, settings: TrainConfig) -> list[float]:
    """DP-SGD by its textbook in one process: each document's gradient cut, added up, with the noise that the run draws."""
    import torch
    from transformers import AutoModelForCausalLM

    examples, sensitivity = private(settings, 0, 1), 0.5 * (1 + LOSS_SHARE**2) ** 0.5
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    if settings.quantization_aware:
        plainly_rounded(model, settings.quantization_aware)
    weights = dict(model.named_parameters())
    groups = [
        {"params": [w for w in weights.values() if w.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer, losses = torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps), []
    for step in range(settings.num_steps):
        total, told = {name: torch.zeros_like(w) for name, w in weights.items()}, 0.0
        for number in poisson(SECRET, step, examples.units.num, examples.terms.sample_rate):
            tokens = examples.units.batch([int(number)]).inputs["input_ids"]
            if tokens.shape[1] < 2:
                continue
            model.zero_grad()
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            length = torch.nn.utils.clip_grad_norm_(weights.values(), 0.5)
            assert length > 0
            told += (min(loss.item(), 8.0) - 4) / 4
            for name, weight in weights.items():
                total[name] += weight.grad
        noise = {name: torch.from_numpy(gaussian(SECRET, step, name, w.numel())).float() for name, w in weights.items()}
        for name, weight in weights.items():
            noisy = total[name] + 0.8 * sensitivity * noise[name].view_as(weight)
            weight.grad = noisy / settings.total_sequences
        of_loss = 0.8 * sensitivity * gaussian(SECRET, step, "the loss", 1)[0] / (LOSS_SHARE * 0.5)
        losses.append(4 + 4 * (told + of_loss) / settings.total_sequences)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        optimizer.step()
    return losses

"""One optimizer step of DP-SGD (Abadi et al. 2016, arXiv 1607.00133, algorithm 1) over all ranks.

Each example's gradient is computed by itself and cut to a length; the cut ones are summed over all ranks; the sum gets noise
once, and is divided by the expected number of examples, never by how many were drawn. What comes then (the optimizer,
its moments, weight decay) sees that noisy mean alone. The loss that is told is a coordinate of the same noisy sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.training.draws import gaussian
from pipelines.training.losses import Loss
from pipelines.training.privacy import LOSS_CEILING, LOSS_SHARE
from pipelines.training.private_examples import Examples
from pipelines.training.step import Step


class Bare:
    """The model without DeepSpeed around it, in the shape that losses take: no rank averages what another has not cut."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


class Sums(NamedTuple):
    """A step's sum of what its examples add: float32, one flat tensor."""

    flat: Any
    """Gradients of all trained parameters, one behind the other, and last of all the loss."""
    parts: dict[str, Any]
    """Views into it, by parameter, in their shapes."""


def private_step(engine: Any, examples: Examples, step: int, rate: float, loss_function: Loss) -> Step:
    """One step; the same interface as optimizer_step's."""
    import torch
    import torch.distributed as dist

    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    sums = clipped_sum(Bare(engine.module), trained, examples, step, loss_function)
    add_noise(sums, examples, step)
    dist.all_reduce(sums.flat)
    sums.flat.div_(examples.expected)
    # The gradient of this sum of products is the noisy mean: so it goes DeepSpeed's own way into its optimizer. All ranks
    # have the same, and the mean over them is that again.
    engine.backward(sum(torch.dot(p.flatten(), sums.parts[name].flatten().to(p.dtype)) for name, p in trained.items()))
    engine.step()
    num_tokens = round(examples.terms.sample_rate * examples.units.num_tokens)
    return Step(told_loss(sums, examples), num_tokens, 0, examples.terms.epsilon_after(step + 1))


def clipped_sum(model: Any, trained: dict[str, Any], examples: Examples, step: int, loss_function: Loss) -> Sums:
    """Sum of what this rank's examples of that step add, without noise."""
    import torch

    sums = zeros(trained)
    for batch in examples.of_step(step):
        if batch.num_targets:
            torch.manual_seed(examples.seed_of(step, batch.ids[0]))
            on_device = batch.to(sums.flat.device)
            add_example(sums, trained, loss_function(model, on_device) / batch.num_targets, examples)
    return sums


def zeros(trained: dict[str, Any]) -> Sums:
    """Nothing yet of those parameters."""
    import torch

    sizes = [p.numel() for p in trained.values()]
    flat = torch.zeros(sum(sizes) + 1, device=next(iter(trained.values())).device)
    views = flat[:-1].split(sizes)
    return Sums(flat, {name: v.view_as(p) for (name, p), v in zip(trained.items(), views, strict=True)})


def add_example(sums: Sums, trained: dict[str, Any], loss: Any, examples: Examples) -> None:
    """Add one example: its gradient, at most max_gradient_norm long, and its loss, mapped to [-1, 1] x LOSS_SHARE times that.

    A gradient that is no number adds nothing, a loss that is none counts as LOSS_CEILING, so that it shows.
    """
    import torch

    clip = examples.terms.max_gradient_norm
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}
    # In float64: of millions of values float32 could find a length that is too short.
    norm = float(torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in found.values()]).norm())
    if norm < float("inf"):
        for name, gradient in found.items():
            sums.parts[name].add_(gradient, alpha=min(1.0, clip / norm) if norm else 1.0)
    middle = LOSS_CEILING / 2
    sums.flat[-1] += LOSS_SHARE * clip * (_bounded(float(loss.detach())) - middle) / middle


def _bounded(loss: float) -> float:
    return min(max(loss, 0.0), LOSS_CEILING) if loss < float("inf") else LOSS_CEILING


def add_noise(sums: Sums, examples: Examples, step: int) -> None:
    """Add this rank's part of the step's noise: each parameter's comes from one rank, so that the sum over all has it once."""
    import torch

    deviation = examples.terms.noise_multiplier * examples.terms.sensitivity
    named = [*sums.parts.items(), ("the loss", sums.flat[-1:])]
    for name, part in named[examples.rank :: examples.world_size]:
        noise = torch.from_numpy(gaussian(examples.secret, step, name, part.numel())).view_as(part)
        part.add_(noise.to(part.device, torch.float32), alpha=deviation)


def told_loss(sums: Sums, examples: Examples) -> float:
    """The mean loss as the noisy sum, divided by the expected number of examples, has it: unbiased, and noisy."""
    middle = LOSS_CEILING / 2
    return middle + middle * float(sums.flat[-1]) / (LOSS_SHARE * examples.terms.max_gradient_norm)

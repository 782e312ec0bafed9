"""What one example can change of a step, and the noise that hides it; on the tests' tiny model, without DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import InputError
from pipelines.training.draws import poisson
from pipelines.training.losses import next_token
from pipelines.training.packing import Stream
from pipelines.training.privacy import LOSS_SHARE, Terms
from pipelines.training.private_examples import Documents, Examples, documents
from pipelines.training.private_step import Bare, Sums, add_noise, clipped_sum, told_loss, zeros

END = 0
SECRET = b"s" * 32


def stream(num: int = 12) -> Stream:
    draw = np.random.default_rng(0)
    texts = [np.append(draw.integers(3, 900, draw.integers(0, 20)), END) for _ in range(num)]
    return Stream([np.concatenate(texts[:5]).astype("<u2"), np.concatenate(texts[5:]).astype("<u2")])


def given(units: Documents, rank: int = 0, world_size: int = 1, clip: float = 0.1, noise: float = 1.5) -> Examples:
    terms = Terms(
        noise_multiplier=noise,
        sample_rate=0.4,
        num_steps=10,
        delta=1e-5,
        max_gradient_norm=clip,
        marks=((10, 1.0),),
        accountant="prv",
    )
    return Examples(units, rank, world_size, terms, SECRET, 0)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Bare:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # small products, and a busy machine: threads would wait for each other
    return Bare(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32))


def trained(model: Bare) -> dict[str, Any]:
    return dict(model.module.named_parameters())


def summed(model: Bare, examples: Examples, loss: Any = next_token) -> Sums:
    return clipped_sum(model, trained(model), examples, 0, loss)


@pytest.fixture(scope="module")
def units() -> Documents:
    return documents(stream(), END, 12, 16, "tokens")


def test_documents_stand_alone_and_are_cut(units: Documents) -> None:
    found = [units.batch([n]).inputs["input_ids"][0].tolist() for n in range(12)]
    texts = "".join("x" if token else "|" for token in stream().read(0, len(stream()))).split("|")[:-1]
    assert [len(tokens) for tokens in found] == [min(len(text) + 1, 16) for text in texts]
    assert found[7] == stream().read(int(units.ends[6]), int(units.ends[6]) + len(found[7])).tolist()
    assert units.num_tokens == sum(map(len, found))


def test_a_document_with_an_end_mark_inside_is_refused() -> None:
    with pytest.raises(InputError, match="1 of its 11 documents"):
        documents(stream(), END, 11, 16, "tokens")


def test_removing_one_example_changes_the_sum_by_its_bound_at_most(model: Bare, units: Documents) -> None:
    """And each one's gradient is cut, where a limit below its length says so."""
    drawn = poisson(SECRET, 0, 12, 0.4)
    assert len(drawn) > 3
    for clip in (0.1, 1e4):
        examples = given(units, clip=clip)
        whole = summed(model, examples).flat
        lengths = []
        for number in drawn:
            without = units._replace(ends=units.ends)
            left = examples._replace(units=Without(without, int(number)))
            lengths.append(float((whole - summed(model, left).flat).norm()))
        assert max(lengths) <= examples.terms.sensitivity * (1 + 1e-5)
        if clip == 0.1:  # all gradients are longer, and so all cut to that length
            assert min(n for n in lengths if n > clip * LOSS_SHARE) >= 0.1


class Without:
    """The units, of which one adds nothing: it is not in this data set."""

    def __init__(self, units: Documents, missing: int) -> None:
        self.num, self.num_tokens, self._units, self._missing = units.num, units.num_tokens, units, missing

    def batch(self, ids: list[int]) -> Any:
        found = self._units.batch(ids)
        return found._replace(labels=found.labels * 0 - 100) if ids == [self._missing] else found


def test_ranks_share_the_draw_and_add_up_to_one(model: Bare, units: Documents) -> None:
    ids = [[b.ids[0] for b in given(units, rank, 3).of_step(0)] for rank in range(3)]
    assert sorted(number for some in ids for number in some) == poisson(SECRET, 0, 12, 0.4).tolist()
    parts = sum(summed(model, given(units, rank, 3)).flat for rank in range(3))
    np.testing.assert_allclose(parts, summed(model, given(units)).flat, atol=1e-6)


def test_dropout_is_the_same_on_any_number_of_ranks(model: Bare, units: Documents) -> None:
    """Else a step that is done again by others would have other gradients under the same noise."""
    import torch

    def dropping(model: Any, batch: Any) -> Any:
        return next_token(model, batch) * torch.rand(())

    whole = summed(model, given(units, clip=1e4), dropping).flat
    parts = sum(summed(model, given(units, rank, 3, clip=1e4), dropping).flat for rank in range(3))
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_sum_over_ranks_has_the_noise_once(model: Bare, units: Documents, world_size: int) -> None:
    total: Any = 0.0
    for rank in range(world_size):
        sums, examples = zeros(trained(model)), given(units, rank, world_size)
        add_noise(sums, examples, step=4)
        total = total + sums.flat
    wanted = 1.5 * examples.terms.sensitivity
    assert abs(float(total.var()) / wanted**2 - 1) < 5 * (2 / len(total)) ** 0.5
    assert float((total == 0).sum()) == 0
    alone = zeros(trained(model))
    add_noise(alone, given(units), step=4)
    np.testing.assert_array_equal(total, alone.flat)  # the same noise on any number of ranks


def test_the_loss_that_is_told_is_the_mean_over_the_expected_number(model: Bare, units: Documents) -> None:
    import torch

    examples = given(units)
    sums = summed(model, examples)
    batches = [b for b in examples.of_step(0) if b.num_targets]
    with torch.no_grad():
        means = [float(next_token(model, b)) / b.num_targets for b in batches]
    sums.flat.div_(examples.expected)
    wanted = 4 + sum(mean - 4 for mean in means) / examples.expected
    assert told_loss(sums, examples) == pytest.approx(wanted, rel=1e-4)


def test_a_gradient_that_is_no_number_adds_nothing(model: Bare, units: Documents) -> None:
    sums = summed(model, given(units), lambda m, batch: next_token(m, batch) * float("nan"))
    num = sum(b.num_targets > 0 for b in given(units).of_step(0))
    assert not sums.flat[:-1].any()
    assert float(sums.flat[-1]) == pytest.approx(num * LOSS_SHARE * 0.1)

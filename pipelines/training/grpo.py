"""Group relative policy optimization: the data of a step are answers of the model as it is, and what they earned.

Rewards, advantages and the loss are TRL's GRPOTrainer's, whose loop is left alone: it steps nothing, writes nothing and shards
nothing. The loop around it is that of all methods (loop.py), with its checkpoints, its guard and its ledger.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from cluster.errors import ConfigError
from cluster.node_cache import local_copy
from cluster.storage import Storage
from pipelines.config import GrpoConfig, TrainConfig
from pipelines.training.common import in_common
from pipelines.training.packing import Share, checksum, shuffled
from pipelines.training.parallel import replica
from pipelines.training.prompts import Row, load_prompts
from pipelines.training.rewards import RewardFailed, Rewards
from pipelines.training.rollouts import Rollouts
from pipelines.training.worker_plan import Plan

FIGURES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "groups_without_difference",
    "completions/mean_length": "completion_tokens",
    "completions/clipped_ratio": "completions_cut",
    "sampling/sampling_logp_difference/mean": "log_probability_difference",
}
"""TRL's name -> ours, of what is followed from step to step. The last: by how much engine and trainer differ over a
token, in nats."""


LARGEST_DIFFERENCE = 0.5
"""Of engine and trainer, at a temperature of 1. In bfloat16 they differ by hundredths of a nat; by wrong weights, by one and
more."""


class Answered(NamedTuple):
    """One micro-batch of one rank: answers, with their advantages."""

    policy: Answers
    inputs: dict[str, Any]
    """As TRL's loss takes them."""
    ids: list[int]
    num_tokens: int
    """Of prompts and answers, without padding."""

    @property
    def num_targets(self) -> int:
        """The loss is a mean over the step, which weighs every answer's place the same."""
        return len(self.ids)

    @property
    def checksum(self) -> int:
        return checksum(self.ids)

    def to(self, device: Any) -> Answered:
        """The same on that device."""
        return self._replace(inputs={name: _moved(value, device) for name, value in self.inputs.items()})


def _moved(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


class Answers:
    """This rank's share of the answers."""

    def __init__(
        self, trainer: Any, rollouts: Rollouts, rewards: Rewards, rows: list[Row], config: TrainConfig
    ) -> None:
        assert isinstance(config.method, GrpoConfig)
        self._trainer, self._rollouts, self._rewards, self._rows = trainer, rollouts, rewards, rows
        self._num, self._seed = config.method.num_generations, config.seed
        rank = trainer.accelerator.process_index, trainer.accelerator.num_processes
        self.share = Share(*rank, config.sequences_per_worker, config.accumulation)
        # Below a top_p of 1 the engine tells of what tokens were drawn from, and TRL of all tokens: no bound holds.
        is_whole = config.method.top_p == 1
        self._most_apart = LARGEST_DIFFERENCE / min(1.0, config.method.temperature) if is_whole else math.inf
        self.figures: Mapping[str, float] = {}
        """Of the last step, by name."""

    def seed_of(self, step: int) -> int:
        """For what a model draws in that step (dropout); every rank its own."""
        return int(np.random.SeedSequence([self._seed, step, self.share.rank]).generate_state(1)[0])

    def of_step(self, step: int) -> list[Answered]:
        """Answer the prompts of an optimizer step (from 0). Every rank must call it.

        Raises:
            RewardFailed: on all ranks.
        """
        from trl.trainer.utils import split_tensor_dict

        places = self._places(step)
        prompts = [shuffled(place // self._num, len(self._rows), self._seed) for place in places]
        self._rollouts.begin(step)
        self._trainer.state.global_step = step  # for rewards that change in the course of the run
        self._trainer._last_loaded_step = None  # always give the engines the weights: a step may be gone back to
        found = self._trainer._generate_and_score_completions([deepcopy(self._rows[prompt]) for prompt in prompts])
        told = self._trainer._metrics["train"]
        found_figures = {ours: float(told[theirs][-1]) for theirs, ours in FIGURES.items() if told.get(theirs)}
        self.figures = {name: value for name, value in found_figures.items() if math.isfinite(value)}
        told.clear()
        in_common(self._check)
        ids = [prompt * self._num + place % self._num for prompt, place in zip(prompts, places, strict=True)]
        num, parts = self.share.sequences, split_tensor_dict(found, self.share.accumulation)
        return [self._batch(part, ids[at * num : (at + 1) * num]) for at, part in enumerate(parts)]

    def _places(self, step: int) -> range:
        """Of this rank's answers, counted over all steps and ranks: those to one prompt stand next to each other."""
        num = self.share.sequences * self.share.accumulation
        first = step * self.share.sequences_per_step + self.share.rank * num
        return range(first, first + num)

    def _batch(self, inputs: dict[str, Any], ids: list[int]) -> Answered:
        num_tokens = int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
        return Answered(self, inputs, ids, num_tokens)

    def _check(self) -> None:
        if self._rewards.failed:
            raise self._rewards.failed
        if "reward" not in self.figures:
            raise RewardFailed(
                "train.method.rewards", "no answer of a step got a reward", "return numbers for some at least"
            )
        if (apart := self.figures.get("log_probability_difference", 0.0)) > self._most_apart:
            raise ConfigError(
                "train.method.rollouts",
                f"the engine answers by other weights than those that are trained: they differ by {apart:.2g} nats a token",
                "this vLLM does not load the model's weights anew as it should; train another model, or on GPUs",
            )

    def loss(self, engine: Any, batch: Answered) -> Any:
        """TRL's is to be added up over micro-batches and averaged over ranks; the loop divides by the step's answers."""
        return self._trainer.compute_loss(engine, batch.inputs) * len(batch.ids) * self.share.accumulation


def answers_of(engine: Any, config: TrainConfig, storage: Storage, what: Plan) -> Answers:
    """This rank's share of the answers, with the engines that give them. Every rank must call it.

    Raises:
        UserError: a reward's file cannot be run, or vLLM refuses the model; on all ranks.
    """
    from transformers import AutoTokenizer

    assert isinstance(config.method, GrpoConfig)
    assert replica(engine) == (engine.global_rank, engine.world_size), "TrainConfig refuses `parallel` with grpo"
    if hasattr(engine.module.get_output_embeddings(), "base_layer"):
        found = "the output layer is among them, whose adapter TRL's loss does not see"
        raise ConfigError("train.lora.target_modules", found, "leave it out for grpo")
    method, rows = config.method, load_prompts(storage, what.examples).rows
    rewards = in_common(lambda: Rewards(method, what.rewards))
    rollouts = Rollouts(engine, config, what.storage, what.base)
    tokenizer = AutoTokenizer.from_pretrained(local_copy(storage, what.base), local_files_only=True)
    trainer = _trainer(engine.module, config, tokenizer, rewards)
    trainer.state.max_steps = config.num_steps
    trainer.use_vllm, trainer.vllm_generation = True, rollouts
    trainer.current_gradient_accumulation_steps = config.accumulation  # what its own loop would set
    return Answers(trainer, rollouts, rewards, rows, config)


def _trainer(model: Any, config: TrainConfig, tokenizer: Any, rewards: Rewards) -> Any:
    """TRL's trainer, for what it knows of rewards and losses. Its own engine is left out by `use_vllm=False`; what it says of
    answers by vLLM (the correction for what engine and trainer differ by) is in force once `use_vllm` is set."""
    from datasets import Dataset

    with _vllm_left_out():
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer

    method = config.method
    assert isinstance(method, GrpoConfig)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):
        asked = GRPOConfig(
            output_dir=folder,
            use_cpu=not config.gpus_per_worker,
            per_device_train_batch_size=config.sequences_per_worker,
            gradient_accumulation_steps=config.accumulation,
            steps_per_generation=config.accumulation,
            num_generations=method.num_generations,
            max_completion_length=method.max_completion_tokens,
            temperature=method.temperature,
            top_p=method.top_p,
            loss_type=method.loss,
            scale_rewards=method.scale_rewards,
            reward_weights=rewards.weights,
            beta=0.0,
            use_vllm=False,
            bf16=False,  # the weights are what DeepSpeed made them
            gradient_checkpointing=False,  # already on where it is asked for
            max_steps=config.num_steps,
            seed=config.seed,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        kept = [(one, one.pad_token_id) for one in (model.config.get_text_config(), model.generation_config)]
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=rewards.functions,
            args=asked,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "never asked"}]}]),
            processing_class=tokenizer,
        )
        for one, before in kept:
            one.pad_token_id = before  # the export is to say what the base said
        return trainer


@contextmanager
def _vllm_left_out() -> Iterator[None]:
    """TRL imports vLLM where there is one: four seconds and 200 MB of a rank, for engines that it is not to start."""
    import trl.import_utils as installed

    asks = installed.is_vllm_available
    installed.is_vllm_available = lambda *_, **__: False
    try:
        yield
    finally:
        installed.is_vllm_available = asks

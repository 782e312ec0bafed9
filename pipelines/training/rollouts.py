"""Answers of the model as it is now, by vLLM engines on the Ray cluster.

`Rollouts` is to TRL what its own VLLMGeneration is (trl/generation/vllm_generation.py, version 1.16), which knows engines inside
the trainer's processes and servers that take weights by NCCL alone: here they are actors, with or without GPUs, on any node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.errors import ResourceError
from cluster.node_cache import local_copy
from cluster.pools import on_pool
from cluster.session import KEEP_MEMORY
from cluster.storage import open_storage
from pipelines.config import GrpoConfig, LoraConfig, TrainConfig
from pipelines.offline_engine import ENVIRONMENT, load_engine
from pipelines.training import checkpoint
from pipelines.training.common import in_common
from pipelines.training.lora import merged

START_S = 540.0
"""Engines must be there by then: the other ranks wait in a collective, which NCCL gives ten minutes."""


class Answer(NamedTuple):
    """To a prompt."""

    tokens: list[int]
    log_probabilities: list[float]
    """Of each token when it was drawn, after temperature and top_p; nats."""


class Engine:
    """One vLLM engine. Meant for `ray.remote`."""

    def start(self, storage: str, model_folder: str, config: dict[str, Any], dtype: str) -> None:
        """Load the model that training begins with.

        Raises:
            InputError: vLLM refuses it.
        """
        train = TrainConfig.model_validate(config)
        assert isinstance(train.method, GrpoConfig)
        self.method = train.method
        self.on_cpus = self.method.rollouts.gpus_per_engine == 0
        self.llm = load_engine(
            str(local_copy(open_storage(storage), model_folder)),
            dtype=dtype,
            max_model_len=train.sequence_length,
            num_gpus=self.method.rollouts.gpus_per_engine,
            kv_cache_gib=self.method.rollouts.kv_cache_gib,
            seed=train.seed,
            field="train.sequence_length",
            logprobs_mode="processed_logprobs",  # of what tokens were drawn from
            use_tqdm_on_load=False,
        )

    def take(self, weights: NDArray[np.uint8]) -> None:
        """Answer with these weights from now on.

        Args:
            weights: a safetensors file.
        """
        from safetensors.torch import load

        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(load(weights.tobytes()).items())})
        if self.on_cpus:
            self.llm.collective_rpc("pack_tied_head")
        self.llm.reset_prefix_cache()

    def answer(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[list[Answer]]:
        """`method.num_generations` to each prompt. With the same weights and seeds the same."""
        from vllm import SamplingParams

        how = [
            SamplingParams(
                n=self.method.num_generations,
                max_tokens=self.method.max_completion_tokens,
                temperature=self.method.temperature,
                top_p=self.method.top_p,
                seed=seed,
                logprobs=0,
                detokenize=False,
            )
            for seed in seeds
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(asked, how, use_tqdm=False)
        return [[_answer(one) for one in output.outputs] for output in outputs]


def _answer(output: Any) -> Answer:
    drawn = [places[token].logprob for token, places in zip(output.token_ids, output.logprobs, strict=True)]
    return Answer(list(output.token_ids), drawn)


def seeds_of(seed: int, step: int, num: int) -> list[int]:
    """Of the prompts of an optimizer step (from 0): whichever rank takes them, and however many engines there are."""
    return [int(drawn) for drawn in np.random.SeedSequence([seed, step]).generate_state(num)]


class Rollouts:
    """Of one rank; the first has the engines, which end with it."""

    def __init__(self, engine: Any, config: TrainConfig, storage: str, base: str) -> None:
        """Start the engines. Every rank must call it.

        Args:
            base: storage folder of the model that training begins with.

        Raises:
            InputError: vLLM refuses the model; on all ranks.
            ResourceError: engines did not start; on all ranks.
        """
        assert isinstance(config.method, GrpoConfig)
        self._model, self._config, self._method, self._step = engine, config, config.method, 0
        self._engines: list[Any] = []
        in_common(lambda: self._start(storage, base))

    def _start(self, storage: str, base: str) -> None:
        import ray

        if self._model.global_rank > 0:
            return
        where = self._method.rollouts
        self._engines = [
            ray.remote(Engine)
            .options(
                num_cpus=0,  # on CPUs it computes while the workers wait for its answers
                num_gpus=where.gpus_per_engine,
                label_selector=on_pool(where.pool),
                runtime_env={"env_vars": {**ENVIRONMENT, **({} if where.gpus_per_engine else KEEP_MEMORY)}},
            )
            .remote()
            for _ in range(where.num_engines)
        ]
        dtype = str(self._model.module.dtype).removeprefix("torch.")
        started = [one.start.remote(storage, base, self._config.model_dump(), dtype) for one in self._engines]
        try:
            ray.get(started, timeout=START_S)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.GetTimeoutError:
            raise ResourceError(
                f"pool {where.pool}",
                f"{where.num_engines} engine(s) of {where.gpus_per_engine} GPU each did not start within {START_S:.0f} s",
                "free GPUs on one node of the pool for each, or lower train.method.rollouts",
            ) from None

    def begin(self, step: int) -> None:
        """What comes is drawn for the data of that optimizer step (from 0)."""
        self._step = step

    def sync_weights(self) -> None:
        """Give the engines the model's weights. Every rank must call it."""
        import ray

        whole = checkpoint.weights(self._model)
        if self._model.global_rank == 0:
            file = ray.put(file_of(whole, self._config.lora))
            ray.get([one.take.remote(file) for one in self._engines])

    def generate(
        self, prompts: list[list[int]], images: None, num_generations: int, profiler: Any = None
    ) -> tuple[list[list[int]], list[list[int]], list[list[list[float]]], None]:
        """Answers to this rank's prompts. Every rank must call it.

        Args:
            prompts: tokens; each as many times one behind the other, over all ranks, as it is to be answered.

        Returns:
            Prompts, answers, and of each of an answer's tokens a list with its log-probability; `None`: no other tokens'.
        """
        import torch.distributed as dist

        ranks, rank = dist.get_world_size(), dist.get_rank()
        given: list[list[list[int]]] = [[]] * ranks
        dist.all_gather_object(given, prompts)
        every = [prompt for some in given for prompt in some]
        found: list[Any] = [self._answered(every[::num_generations]) if rank == 0 else None]
        dist.broadcast_object_list(found, src=0)
        first = sum(map(len, given[:rank]))
        own = [Answer(*one) for one in found[0][first : first + len(prompts)]]
        return prompts, [one.tokens for one in own], [[[p] for p in one.log_probabilities] for one in own], None

    def _answered(self, prompts: list[list[int]]) -> list[tuple[list[int], list[float]]]:
        import ray

        seeds = seeds_of(self._config.seed, self._step, len(prompts))
        num = len(self._engines)
        asked = [one.answer.remote(prompts[at::num], seeds[at::num]) for at, one in enumerate(self._engines)]
        groups: list[list[Answer]] = [[]] * len(prompts)
        for at, some in enumerate(ray.get(asked)):
            groups[at::num] = some
        return [(answer.tokens, answer.log_probabilities) for group in groups for answer in group]


def file_of(whole: dict[str, Any], lora: LoraConfig | None) -> NDArray[np.uint8]:
    """Weights by name as a safetensors file, an adapter's added to those beside it, tied ones once."""
    from safetensors.torch import save

    whole = merged(whole, lora.scaling) if lora else whole
    once = {id(tensor): name for name, tensor in reversed(whole.items())}
    tensors = {name: whole[name].contiguous() for name in once.values()}
    return np.frombuffer(save(tensors, metadata={"format": "pt"}), np.uint8)

"""The engine that answers items: vLLM offline, the one that will serve. Runs in a Ray actor, never in the driver."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.arithmetic import settled
from cluster.artifacts import Speed
from cluster.errors import ResourceError
from cluster.node_cache import local_copy
from cluster.storage import open_storage
from pipelines.evaluation import embeddings, scoring, speed
from pipelines.evaluation.asked import Asked, Query
from pipelines.evaluation.items import Item, Likelihood, Row, Text, is_number, order
from pipelines.offline_engine import GIB, OVERHEAD_BYTES, load_engine

EngineKind = Literal["vllm", "transformers"]
Dtype = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True)
class EngineSettings:
    storage_uri: str
    model_folder: str
    max_model_len: int
    num_gpus: int
    kv_cache_gib: float
    seed: int
    num_weight_bytes: int
    kind: EngineKind = "vllm"
    dtype: Dtype = "auto"

    @property
    def number_format(self) -> str:
        """That of weights and activations, here."""
        return settled(self.dtype, bool(self.num_gpus))


class Scorer:
    """One loaded model. Meant for `ray.remote`."""

    def start(self, settings: EngineSettings) -> None:
        """Load the model.

        Raises:
            InputError: vLLM refuses the model.
            ResourceError: too little memory.
        """
        self.settings = settings
        self.folder = folder = str(local_copy(open_storage(settings.storage_uri), settings.model_folder))
        if not settings.num_gpus:
            check_memory(settings, is_quantized(folder))
        self.llm = load_engine(
            folder,
            dtype=settings.number_format,
            max_model_len=settings.max_model_len,
            num_gpus=settings.num_gpus,
            kv_cache_gib=settings.kv_cache_gib,
            seed=settings.seed,
            field="evaluate.max_model_len",
        )
        self.asked = Asked(self.llm.get_tokenizer(), folder, settings.max_model_len)

    def answer(self, items: Sequence[Item]) -> list[Row]:
        """One row for each item: see `pipelines.evaluation.rows`."""
        return scoring.answer(self, items)

    def write(self, items: Sequence[Item]) -> list[Text]:
        """As `scoring.Engine` has it, likewise the two below."""
        asked = [self.asked.prompt(item) for item in items]
        prompts = [{"prompt_token_ids": prompt.tokens} for prompt in asked]
        limits = [self._sampling(item, prompt.room) for item, prompt in zip(items, asked, strict=True)]
        outputs = self.llm.generate(prompts, limits, use_tqdm=False)
        return [
            Text(
                tuple(item.ended(one.text) for one in output.outputs),
                sum(len(one.token_ids) for one in output.outputs),
                all(is_number(one.cumulative_logprob) for one in output.outputs),
                prompt.num_cut,
            )
            for item, output, prompt in zip(items, outputs, asked, strict=True)
        ]

    def likelihoods(self, items: Sequence[Item]) -> list[tuple[Likelihood, ...]]:
        queries = [[self.asked.query(item.prompt, answer) for answer in item.answers] for item in items]
        nats = iter(self._log_likelihoods([query for group in queries for query in group]))
        return [tuple(query.told(next(nats)) for query in group) for group in queries]

    def speed(self) -> Speed:
        """Once it has answered something: the first requests compile."""
        return speed.measured(self.llm, self.settings.max_model_len)

    def vectors(self, words: Sequence[str]) -> Mapping[str, Sequence[float]]:
        return embeddings.vectors(Path(self.folder), self.asked.words(words))

    def _sampling(self, item: Item, max_tokens: int) -> Any:
        from vllm import SamplingParams

        if item.sampling is None:
            ends: dict[str, Any] = {"stop": list(item.until), "stop_token_ids": self.asked.ends(item)}
            return SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=0, **ends)
        # Of the item alone: the same draws whatever else is in the batch.
        seed = int(order(self.settings.seed, item.task, item.id)[:8], 16)
        how = item.sampling
        drawn = {"n": how.num, "temperature": how.temperature, "top_p": how.top_p, "seed": seed}
        return SamplingParams(**drawn, max_tokens=max_tokens, logprobs=0)

    def _log_likelihoods(self, queries: Sequence[Query]) -> list[float]:
        """Of the counted tokens of each query, in nats. What answers have in common, their prompt, is computed once."""
        outputs = self._read(queries, from_cache=True)
        # A token that came out of the cache has no probability: where one of the counted did, read all of that query.
        late = [i for i, query in enumerate(queries) if (outputs[i].num_cached_tokens or 0) >= query.first]
        for i, output in zip(late, self._read([queries[i] for i in late], from_cache=False), strict=True):
            outputs[i] = output
        return [_sum(q, output.prompt_logprobs) for q, output in zip(queries, outputs, strict=True)]

    def _read(self, queries: Sequence[Query], from_cache: bool) -> list[Any]:
        """vLLM's outputs with the log-probability of each token that was not found in the prefix cache."""
        from vllm import SamplingParams

        told = SamplingParams(
            max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, skip_reading_prefix_cache=not from_cache
        )
        prompts = [{"prompt_token_ids": query.tokens} for query in queries]
        return list(self.llm.generate(prompts, told, use_tqdm=False)) if prompts else []


def _sum(query: Query, log_probabilities: Any) -> float:
    counted = range(query.first, len(query.tokens))
    # From the end: of a prompt that came in part out of the cache vLLM's GPU runner lists the rest alone, its CPU runner all.
    end = len(query.tokens)
    told = (log_probabilities[i - end][query.tokens[i]].logprob for i in counted)
    return float(sum(told)) if counted else float("nan")


def is_quantized(folder: str) -> bool:
    """Whether its weights are, by its configuration, as compressed-tensors and others write it."""
    found = _config(folder).get("quantization_config")
    return found is not None and found.get("config_groups") != {}  # empty where the cache alone is quantized


def _config(folder: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(Path(folder, "config.json").read_text())
    return told


def check_memory(settings: EngineSettings, keeps_its_bytes: bool) -> None:
    import psutil

    # Folders are kept in bfloat16; what is quantized stays so in memory.
    widened = 2 if not keeps_its_bytes and settings.number_format == "float32" else 1
    need = widened * settings.num_weight_bytes + settings.kv_cache_gib * GIB + OVERHEAD_BYTES
    free = psutil.virtual_memory().available
    if free < need:
        raise ResourceError(
            "evaluate",
            f"the engine needs about {need / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free",
            "stop other work on that machine, lower evaluate.kv_cache_gib, or evaluate on a larger pool",
        )

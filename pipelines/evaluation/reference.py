"""The same items through transformers: what vLLM's figures are held against. Runs in a Ray actor, never in the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.node_cache import local_copy
from cluster.storage import open_storage
from pipelines.evaluation import embeddings, scoring
from pipelines.evaluation.asked import Asked, Query
from pipelines.evaluation.engine import EngineSettings, check_memory, is_quantized
from pipelines.evaluation.items import Item, Likelihood, Row, Text, order
from pipelines.offline_engine import MAX_BATCHED_TOKENS, use_all_cores


class Reference:
    """One loaded model, as `engine.Scorer` is one. Meant for `ray.remote`."""

    def start(self, settings: EngineSettings) -> None:
        """Load the model.

        Raises:
            InputError: transformers refuses the model.
            ResourceError: too little memory.
        """
        from safetensors import SafetensorError

        self.settings = settings
        self.folder = str(local_copy(open_storage(settings.storage_uri), settings.model_folder))
        if not settings.num_gpus:
            check_memory(settings, is_quantized(self.folder))
            use_all_cores()
        try:
            self.network, tokenizer = _loaded(self.folder, settings)
        except (ValueError, OSError, ImportError, SafetensorError) as error:
            found = f"transformers cannot load it: {str(error).strip()[:500]}"
            raise InputError(
                self.folder, found, "mend the model folder, or leave out `--engine transformers`"
            ) from None
        self.asked = Asked(tokenizer, self.folder, settings.max_model_len)

    def answer(self, items: Sequence[Item]) -> list[Row]:
        """One row for each item: see `pipelines.evaluation.rows`."""
        return scoring.answer(self, items)

    def write(self, items: Sequence[Item]) -> list[Text]:
        """As `scoring.Engine` has it, likewise the two below. One at a time: padding would change what is computed."""
        return [self._write(item) for item in items]

    def likelihoods(self, items: Sequence[Item]) -> list[tuple[Likelihood, ...]]:
        queries = [[self.asked.query(item.prompt, answer) for answer in item.answers] for item in items]
        nats = iter(self._log_likelihoods([query for group in queries for query in group]))
        return [tuple(query.told(next(nats)) for query in group) for group in queries]

    def vectors(self, words: Sequence[str]) -> Mapping[str, Sequence[float]]:
        return embeddings.vectors(Path(self.folder), self.asked.words(words))

    def _write(self, item: Item) -> Text:
        import torch

        tokens, room, num_cut = self.asked.prompt(item)
        prompt = torch.tensor([tokens], device=self.network.device)
        torch.manual_seed(int(order(self.settings.seed, item.task, item.id)[:8], 16))
        with torch.inference_mode():
            found = self.network.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._how(item, room),
                stopping_criteria=self._stops(item, len(tokens)),
            )
        written = found.sequences[:, len(tokens) :].tolist()
        texts = tuple(item.ended(self._decoded(one)) for one in written)
        return Text(texts, sum(map(len, written)), not any(bool(step.isnan().any()) for step in found.logits), num_cut)

    def _decoded(self, tokens: Any) -> str:
        return str(self.asked.tokenizer.decode(tokens, skip_special_tokens=True))

    def _stops(self, item: Item, num_asked: int) -> Any:
        """Told after each token; what stands behind the end is cut off later. transformers' own `stop_strings` prepares the whole
        vocabulary first."""
        import torch
        from transformers import StoppingCriteriaList

        if not item.until:
            return None

        def done(tokens: Any, *_: Any, **__: Any) -> Any:
            texts = [self._decoded(one[num_asked:]) for one in tokens]
            return torch.tensor([item.ended(text) != text for text in texts], device=tokens.device)

        return StoppingCriteriaList([done])

    def _how(self, item: Item, max_new_tokens: int) -> Any:
        """Of the folder's own settings the ends of a text alone, as vLLM takes them."""
        from transformers import GenerationConfig

        found = self.network.generation_config.eos_token_id or self.asked.tokenizer.eos_token_id
        ends = [*(found if isinstance(found, list) else [found] if found is not None else []), *self.asked.ends(item)]
        pad = ends[0] if ends else None
        how: dict[str, Any] = {"do_sample": False}
        if (drawn := item.sampling) is not None:
            how = {"do_sample": True, "temperature": drawn.temperature, "top_p": drawn.top_p, "top_k": 0}
            how["num_return_sequences"] = drawn.num
        how |= {"return_dict_in_generate": True, "output_logits": True}
        return GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=pad, **how)

    def _log_likelihoods(self, queries: Sequence[Query]) -> list[float]:
        """Of the counted tokens of each query, in nats."""
        found = [0.0] * len(queries)
        for batch in batches([len(query.tokens) for query in queries], MAX_BATCHED_TOKENS):
            for place, nats in zip(batch, self._together([queries[at] for at in batch]), strict=True):
                found[place] = nats
        return found

    def _together(self, queries: Sequence[Query]) -> list[float]:
        """Padded on the right, where no token before looks."""
        import torch

        longest = max(len(query.tokens) for query in queries)
        padded = [query.tokens + [0] * (longest - len(query.tokens)) for query in queries]
        real = [[1] * len(query.tokens) + [0] * (longest - len(query.tokens)) for query in queries]
        device = self.network.device
        with torch.inference_mode():
            logits = self.network(torch.tensor(padded, device=device), torch.tensor(real, device=device)).logits
        return [_sum(query, logits[at]) for at, query in enumerate(queries)]


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of what is computed together: of like length, at most `most` tokens with their padding."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda at: lengths[at], reverse=True):
        if batch and lengths[batch[0]] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _sum(query: Query, logits: Any) -> float:
    """`logits`: (tokens, vocabulary); the ones at a place tell of the token behind it."""
    import torch

    if query.first >= len(query.tokens):
        return float("nan")
    told = torch.log_softmax(logits[query.first - 1 : len(query.tokens) - 1].float(), -1)
    wanted = torch.tensor(query.tokens[query.first :], device=told.device)
    return float(told.gather(1, wanted[:, None]).sum())


def _loaded(folder: str, settings: EngineSettings) -> tuple[Any, Any]:
    """Network and tokenizer; no code of the folder is run, nothing is fetched."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    where: dict[str, Any] = {"device_map": "auto"} if settings.num_gpus else {}
    network = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, settings.number_format), use_safetensors=True, **where, **safely
    )
    return network.eval(), AutoTokenizer.from_pretrained(folder, **safely)

"""How fast an engine writes and answers, with requests of one length: what a scheme of quantization saves beside bytes."""

from __future__ import annotations

import statistics
import time
from typing import Any

from cluster.artifacts import Rate, Speed

AT_ONCE = (1, 8, 32)
PROMPT, WRITTEN = 128, 32
"""Tokens of each request, where the model is asked for as many (`max_model_len`)."""
BUDGET_S = 60.0
"""Once it is spent, more requests at once are left out: where few take so long, many take minutes."""
TRIES = 5
"""For the time to the first token."""
FIRST_TOKEN = 3
"""Of a prompt; the ones before often have a meaning of their own."""


def measured(llm: Any, max_model_len: int) -> Speed:
    """Greedy requests with prompts that share no beginning, each number of them at once. Ends of text do not end an answer.

    Args:
        llm: vLLM's, which has compiled what it compiles.
    """
    written = min(WRITTEN, max_model_len // 4)
    prompt = min(PROMPT, max_model_len - written)
    _took_s(llm, max(AT_ONCE), prompt, 2)  # what runs for the first time is slower
    began, rates = time.monotonic(), list[Rate]()
    for num in AT_ONCE:
        rates.append(Rate(num_requests=num, tokens_per_s=num * written / _took_s(llm, num, prompt, written)))
        if time.monotonic() - began > BUDGET_S:
            break
    ttft_s = statistics.median(_took_s(llm, 1, prompt, 1) for _ in range(TRIES))
    return Speed(num_prompt_tokens=prompt, num_written_tokens=written, rates=tuple(rates), ttft_s=ttft_s)


def _took_s(llm: Any, num: int, length: int, written: int) -> float:
    from vllm import SamplingParams

    most = llm.llm_engine.vllm_config.model_config.get_vocab_size() - FIRST_TOKEN
    prompts = [
        {"prompt_token_ids": [(at + 1) * (1 + place) % most + FIRST_TOKEN for place in range(length)]}
        for at in range(num)
    ]
    asked = SamplingParams(max_tokens=written, ignore_eos=True, temperature=0, detokenize=False)
    llm.reset_prefix_cache()
    began = time.perf_counter()
    llm.generate(prompts, asked, use_tqdm=False)
    return time.perf_counter() - began

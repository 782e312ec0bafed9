"""What vLLM 0.29 leaves undone on CPUs, done in whichever process its worker runs in: vLLM imports this module there, by the engine
argument `worker_extension_cls` (cluster/session.py: CPU_WORKER)."""

from __future__ import annotations

from typing import Any

import torch


class CpuWorker:
    """Mixed into vLLM's worker, so that this module is imported before the worker computes."""

    model_runner: Any

    def pack_tied_head(self) -> None:
        """For after `reload_weights`: an output layer that shares the embeddings' weights has them packed for the processor, a copy
        that vLLM makes at the start and leaves as it is when the embeddings are loaded anew."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        for layer in self.model_runner.get_model().modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


def ask_for_amx() -> None:
    """Linux kills a process that uses AMX before it has asked for it (arch_prctl, ARCH_REQ_XCOMP_PERM). oneDNN asks before
    its first product of bfloat16; vLLM's attention does not, and an engine that came to it first ended with SIGILL."""
    if torch.cpu._is_amx_tile_supported() and not torch.cpu._init_amx():
        torch.cpu._is_amx_tile_supported = lambda: False  # refused: vLLM is to take what AVX-512 offers


def let_prompts_be_scored() -> None:
    """With adapters vLLM takes a prompt's rows for those of the requests at hand, and an engine that is asked for the prompt's
    log-probabilities (`echo` with `logprobs`) dies of the difference (vllm#16668). Nothing is to be added to these rows: no adapter
    changes `lm_head` (pipelines/adapter.py refuses those)."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    add_to_sampled = PunicaWrapperCPU.add_lora_logits

    def add_lora_logits(self: Any, y: torch.Tensor, x: torch.Tensor, *arguments: Any, **options: Any) -> None:
        if x.view(-1, x.shape[-1]).shape[0] == len(self.sampler_indices):
            add_to_sampled(self, y, x, *arguments, **options)

    PunicaWrapperCPU.add_lora_logits = add_lora_logits


def take_draws_back() -> None:
    """Of a prompt that is read in pieces, vLLM draws a token behind each piece, drops it and sets the request's generator (`seed`)
    back by an offset, which those of CPUs do not have: the engine died of it. Their whole state is kept over the draw instead."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    draw, book = CPUModelRunner._sample, CPUModelRunner._bookkeeping_sync

    def dropped(self: Any) -> dict[int, torch.Generator]:
        rows = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]
        generators = self.input_batch.generators
        return {row: generators[row] for row in rows.tolist() if generators.get(row) is not None}

    def sample(self: Any, *arguments: Any, **options: Any) -> Any:
        self.states_before = {row: generator.get_state() for row, generator in dropped(self).items()}
        return draw(self, *arguments, **options)

    def bookkeeping_sync(self: Any, *arguments: Any, **options: Any) -> Any:
        generators, found = self.input_batch.generators, dropped(self)
        for row, generator in found.items():
            generator.set_state(self.states_before[row])
            del generators[row]
        told = book(self, *arguments, **options)
        generators.update(found)
        return told

    CPUModelRunner._sample, CPUModelRunner._bookkeeping_sync = sample, bookkeeping_sync


ask_for_amx()
let_prompts_be_scored()
take_draws_back()

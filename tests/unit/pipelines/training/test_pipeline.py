"""A stage is the model with the layers of others left out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers

from cluster.errors import ConfigError
from pipelines.training.pipeline import check_frame, layers_of, leave_out


def model(kind: str, **fields: Any) -> Any:
    sides = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 16, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "tie_word_embeddings": False}
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**sides, **heads | fields)
    )


@pytest.mark.parametrize(("num_stages", "sizes"), [(1, [5]), (2, [2, 3]), (3, [1, 2, 2]), (5, [1] * 5)])
def test_layers_are_shared_out_evenly(num_stages: int, sizes: list[int]) -> None:
    parts = [layers_of(stage, num_stages, 5) for stage in range(num_stages)]
    assert [len(part) for part in parts] == sizes
    assert [layer for part in parts for layer in part] == list(range(5))


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_stages_one_behind_the_other_are_the_model_and_have_all_its_weights(kind: str) -> None:
    whole = model(kind)
    check_frame(whole)
    tokens, weights = torch.arange(12)[None], dict(whole.state_dict())
    wanted = whole.eval()(input_ids=tokens, use_cache=False).logits

    found, passed = {}, {"input_ids": tokens}
    for stage in range(2):
        part = copy.deepcopy(whole)
        leave_out(part, layers_of(stage, 2, 3), is_last=stage == 1)
        found |= part.state_dict()
        passed = {"inputs_embeds": part(**passed, use_cache=False).logits}
    torch.testing.assert_close(passed["inputs_embeds"], wanted)
    assert found.keys() == weights.keys()


def test_a_model_that_scales_what_comes_in_or_shares_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="share the weights of embedding and output head"):
        check_frame(model("Llama", tie_word_embeddings=True))
    with pytest.raises(ConfigError, match="gemma2 model changes what goes into its first layer"):
        check_frame(model("Gemma2"))

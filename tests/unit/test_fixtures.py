"""The shared tiny model is a real one: it loads, tokenizes and generates."""

from __future__ import annotations

from pathlib import Path


def test_tiny_model_loads_and_generates(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "naïve – 漢字"}], add_generation_prompt=True, tokenize=False
    )
    tokens = tokenizer(prompt, return_tensors="pt")
    assert tokenizer.decode(tokens["input_ids"][0]) == prompt
    assert model.generate(**tokens, max_new_tokens=4, do_sample=False).shape[1] > tokens["input_ids"].shape[1]
    assert str(model.dtype) == "torch.bfloat16"

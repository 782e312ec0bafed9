"""What is kept of a model."""

from __future__ import annotations

from pathlib import Path

from pipelines.training.export import save_model


def test_a_model_computed_in_float32_is_kept_in_bfloat16_and_tied_weights_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    (entry,) = (
        file
        for file in save_model(model, model.state_dict(), tiny_model, tmp_path / "model", narrow=True)
        if file.path.endswith(".safetensors")
    )
    assert entry.num_bytes == (tiny_model / "model.safetensors").stat().st_size
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(again.state_dict()[name], w.bfloat16()) for name, w in model.state_dict().items())

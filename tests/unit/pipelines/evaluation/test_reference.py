"""The engine of transformers on a tiny real model: what is padded is computed as if alone, and what is no number is told."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import InputError
from pipelines.evaluation.asked import Asked
from pipelines.evaluation.engine import EngineSettings
from pipelines.evaluation.evaluate import check_complete
from pipelines.evaluation.items import Item, Sampling
from pipelines.evaluation.notes import notes
from pipelines.evaluation.reference import Reference
from pipelines.evaluation.safety.toxicity import scored
from tests.unit.pipelines.evaluation.safety.world import task

CHOICE = Item(
    "choice", "multiple_choice", "c", "The sky is", (" blue", " a kind of horse that cannot swim at all", " up")
)
WRITING = Item("writing", "continuation", "w", "The import statement", (" does",), max_new_tokens=6)
DRAWN = Item("drawn", "toxicity", "d", "Once", (), max_new_tokens=4, sampling=Sampling(3, 1.0, 0.9))


def started(folder: Path, monkeypatch: pytest.MonkeyPatch, **fields: object) -> Reference:
    # The check asks how much of the machine is free, which is not what is tested here.
    monkeypatch.setattr("pipelines.evaluation.reference.check_memory", lambda settings, keeps: None)
    settings = {"max_model_len": 64, "num_gpus": 0, "kv_cache_gib": 0.1, "seed": 0, "num_weight_bytes": 1}
    made = Reference()
    made.start(
        EngineSettings(str(folder.parent), folder.name, **settings, kind="transformers", dtype="float32", **fields)  # type: ignore[arg-type]
    )
    return made


def alone(engine: Reference, prompt: str, answer: str) -> float:
    tokens = engine.asked.tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    first = len(engine.asked.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        told = torch.log_softmax(engine.network(torch.tensor([tokens])).logits[0].float(), -1)
    return sum(float(told[at - 1, tokens[at]]) for at in range(first, len(tokens)))


@pytest.mark.parametrize("item", [CHOICE, WRITING, DRAWN], ids=lambda item: item.kind)
def test_texts_that_are_too_long_are_cut_at_the_beginning_and_counted(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, item: Item
) -> None:
    engine = started(tiny_model, monkeypatch)
    long = replace(item, id="long", prompt=item.prompt + " and then" * 60)
    room = 64 - 1 if item.kind == "multiple_choice" else 64 - item.max_new_tokens
    lengths = [
        len(engine.asked.tokenizer(long.prompt + answer, add_special_tokens=False)["input_ids"])
        for answer in (long.answers if item.kind == "multiple_choice" else ("",))
    ]
    short, cut = engine.answer([item, long])
    assert "cut" not in short["figures"]
    assert cut["figures"]["cut"] == max(lengths) - room > 0
    if item.kind == "toxicity":
        cut = scored(task("toxicity", path="x", num_samples=3), cut, [0.1, 0.2, 0.3], 0.1)
    lost = f"1 of 2 texts are longer than evaluate.max_model_len and were cut at the beginning, by {max(lengths) - room} tokens"
    assert [note for note in notes([short, cut]) if "longer" in note] == [f"{item.task}: {lost} at most"]


def test_likelihoods_and_texts(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = started(tiny_model, monkeypatch)
    (found,) = engine.likelihoods([CHOICE])
    assert [one.nats for one in found] == pytest.approx(
        [alone(engine, CHOICE.prompt, a) for a in CHOICE.answers], abs=1e-4
    )
    assert [one.num_bytes for one in found] == [len(a) for a in CHOICE.answers]
    written, drawn = engine.write([WRITING, DRAWN])
    assert len(written.samples) == 1
    assert 1 <= written.num_tokens <= 6
    assert len(drawn.samples) == 3
    assert engine.write([DRAWN]) == [drawn], "an item is drawn by its own seed, whatever is asked before"
    assert written.is_sound


def test_a_text_ends_before_the_first_of_its_ends(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = started(tiny_model, monkeypatch)
    item = replace(WRITING, max_new_tokens=16)
    (whole,) = engine.write([item])
    (text,) = whole.samples
    middle, late = text[len(text) // 3 : len(text) // 3 + 3], text[-2:]
    (cut,) = engine.write([replace(item, until=("never", late, middle))])
    assert cut.samples == (text[: min(text.find(middle), text.find(late))],)
    assert cut.num_tokens < whole.num_tokens
    assert engine.write([replace(item, until=("never",))]) == [whole]
    special = engine.asked.tokenizer.all_special_tokens[0]
    ends = engine.asked.ends(replace(item, until=("x", special)))
    assert ends == [engine.asked.tokenizer.convert_tokens_to_ids(special)]
    # A special token is not shown in a text, and ends it all the same.
    first = engine.asked.tokenizer(text, add_special_tokens=False)["input_ids"][0]
    monkeypatch.setattr(Asked, "ends", lambda asked, item: [first])
    assert engine.write([item])[0].num_tokens < whole.num_tokens


def test_a_model_of_no_numbers_is_told_and_scores_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    items = [CHOICE, WRITING]
    rows = started(folder, monkeypatch).answer(items)
    with pytest.raises(InputError) as caught:
        check_complete("broken", items, rows)
    assert caught.value.where == "broken, task choice, item c"
    assert "not a finite number; nor have 1 more (choice: 1, writing: 1 in all)" in caught.value.found


def test_a_folder_that_is_no_model(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "none"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="transformers cannot load it"):
        started(folder, monkeypatch)

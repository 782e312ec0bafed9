"""The train stage on a real Ray cluster: DeepSpeed ZeRO-3 on two CPU ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import Checkpoint, load
from cluster.errors import InputError, ResourceError
from cluster.storage import LocalStorage
from pipelines.adapter import TENSOR, check_tensors, read_config, read_header
from pipelines.config import PreferenceConfig, TrainConfig
from pipelines.training.heldout import split
from pipelines.training.packing import Share, Stream, num_sequences, sequence_ids
from pipelines.training.schedule import learning_rate
from pipelines.training.tokens import make_tokens, open_stream
from pipelines.training.train import train
from pipelines.training.train_key import train_key
from tests.integration.training_case import GOLDEN, base_model, golden_losses, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def test_two_zero3_ranks_learn_what_a_plain_loop_learns(
    storage: LocalStorage, tiny_model: Path, golden: Callable[[str, list[float]], list[float]]
) -> None:
    dataset, base, config = small_dataset(storage), base_model(storage, tiny_model), small_run()
    made = train(config, dataset, base, storage)

    losses = [point.loss for point in made.losses]
    assert [point.step for point in made.losses] == list(range(1, 9))
    assert made.losses[-1].num_tokens == 8 * 2 * 2 * 64
    assert losses[-1] < losses[0] - 0.2

    stream = open_stream(storage, make_tokens(dataset, base.folder, _tokenizer(base), storage))
    plain, model = plain_loop(storage.root / base.folder, config, stream)
    assert losses == pytest.approx(plain, rel=1e-5)
    assert_same_model(storage.root / made.folder, model, stream)
    assert golden(GOLDEN.stem, losses) == golden_losses()
    assert losses == pytest.approx(golden_losses(), rel=1e-3)

    assert made.num_weight_bytes > 4 * made.num_parameters
    assert not list(storage.list("runs/train"))
    assert load(storage, Checkpoint, made.key) == made
    assert train(config, dataset, base, storage) == made


def _tokenizer(base: Any) -> str:
    from pipelines.training.tokens import tokenizer_digest

    return tokenizer_digest({entry.path: entry.sha256 for entry in base.files})


def next_tokens(model: Any, tokens: Any) -> Any:
    return model(input_ids=tokens, labels=tokens).loss


def plain_loop(
    folder: Path, config: TrainConfig, stream: Stream, loss_of: Callable[[Any, Any], Any] = next_tokens
) -> tuple[list[float], Any]:
    """The same run in one process: torch's AdamW, no DeepSpeed, no Ray, all ranks' sequences in one batch.

    Args:
        loss_of: a model and a batch of tokens; a mean over targets.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps)
    share = Share(rank=0, world_size=1, sequences=config.sequences_per_worker * config.num_workers)
    num, losses = num_sequences(len(stream), config.sequence_length), []
    for step in range(config.num_steps):
        ids = sequence_ids(share, step, 0, num, config.seed)
        tokens = torch.stack([torch.from_numpy(stream.sequence(i, config.sequence_length)) for i in ids])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        loss = loss_of(model, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


def assert_same_model(folder: Path, expected: Any, stream: Stream) -> None:
    """The exported model loads by itself and computes the loss the trained one does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.use_cache
    tokens = torch.from_numpy(stream.sequence(0, 256))[None]
    with torch.no_grad():
        found, wanted = (m(input_ids=tokens, labels=tokens).loss.item() for m in (model, expected))
    assert found == pytest.approx(wanted, rel=1e-3)
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_ray_data_and_one_task_make_the_same_tokens(storage: LocalStorage, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    streams = [
        open_stream(storage, make_tokens(dataset, base.folder, name, storage, small=small))
        for name, small in (("one task", 10**9), ("ray data", 0))
    ]
    alone, parallel = (
        [stream.sequence(i, 100).tolist() for i in range(num_sequences(len(stream), 100))] for stream in streams
    )
    assert alone == parallel
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    start = tokenizer.decode([token for sequence in alone[:5] for token in sequence])
    from pydoc_data.topics import topics

    assert start.startswith(topics[sorted(topics)[0]][:200])
    num_documents = sum(sequence.count(0) for sequence in alone)  # <|endoftext|> is token 0
    assert num_documents >= dataset.num_train


@pytest.mark.long
def test_instructions_in_bfloat16_with_offload_and_accumulation(storage: LocalStorage, tiny_model: Path) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    asked = [{"prompt": f"Is {n} even?", "answer": f"yes {n % 7}"} for n in range(24)]
    config = small_run(
        method=_file(storage, "instruct", asked),
        attend_across_documents=False,
        precision="bfloat16",
        num_steps=4,
        sequences_per_worker=1,
        gradient_accumulation=2,
        gradient_checkpointing=True,
        zero={"stage": 1, "offload_optimizer": True},
        watts_per_worker=15,
    )
    made = train(config, dataset, base, storage)
    assert made.losses[-1].loss < made.losses[0].loss
    assert made.num_weight_bytes < 3 * made.num_parameters
    assert made.ledger is not None
    assert made.ledger.flops == 6 * base.num_parameters * made.losses[-1].num_tokens
    assert made.ledger.trained_s > 0
    assert made.ledger.energy_estimate_wh is not None
    assert made.ledger.mfu is None  # nobody says what a CPU's peak is


@pytest.mark.long
def test_preferences_by_the_same_loop(storage: LocalStorage, tiny_model: Path) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    pairs = [{"prompt": f"Is {n} even?", "chosen": f"yes {n % 7}", "rejected": f"no no {n % 5}"} for n in range(24)]
    method = {**_file(storage, "dpo", pairs), "heldout_percent": 30}
    config = small_run(method=method, attend_across_documents=False)
    made = train(config, dataset, base, storage)
    assert made.losses[0].loss == pytest.approx(math.log(2), rel=1e-4)  # before it has learnt anything
    assert made.losses[-1].loss < 0.5
    found = made.preference
    assert found is not None
    assert isinstance(config.method, PreferenceConfig)
    heldout = split(Path(config.method.path).read_bytes(), config.method).heldout
    held = [json.loads(line) for line in heldout.split(b"\n") if line]
    assert found.num_pairs == len(held) > 2
    assert found.num_rewarded == found.num_pairs  # what it has learnt of the others holds for these
    assert (found.num_before, found.num_after) == tuple(
        _num_preferred(storage.root / model.folder, held) for model in (base, made)
    )
    _file(storage, "dpo", [{"prompt": "Is 2 even?", "answer": "yes"}])
    with pytest.raises(InputError, match=r"does not fit train\.method dpo"):
        train(config, dataset, base, storage)


@pytest.mark.long
def test_two_ranks_of_one_copy_are_the_same_run(storage: LocalStorage, tiny_model: Path) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    together = small_run(parallel={"tensor": 2}, sequences_per_worker=4)
    assert train_key(together, dataset, base) == train_key(small_run(), dataset, base)
    made = train(together, dataset, base, storage)
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)
    assert made.losses[-1].num_tokens == 8 * 4 * 64
    assert _shapes(storage.root / made.folder) == _shapes(storage.root / base.folder)

    pairs = [{"prompt": f"Is {n} even?", "chosen": f"yes {n % 7}", "rejected": f"no no {n % 5}"} for n in range(24)]
    method = _file(storage, "dpo", pairs)
    preferring = train(together.replace(method=method, attend_across_documents=False), dataset, base, storage)
    assert preferring.losses[0].loss == pytest.approx(math.log(2), rel=1e-4)  # the reference is the model itself
    assert preferring.losses[-1].loss < 0.5


@pytest.mark.long
def test_an_adapter_is_trained_on_a_frozen_base(storage: LocalStorage, tiny_model: Path) -> None:
    """At stage 3, where the frozen weights are sharded too. The model made is the untouched base with the adapter merged."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    made = train(small_run(lora={"rank": 4, "alpha": 8}, learning_rate=1e-2), dataset, base, storage)
    assert made.losses[-1].loss < made.losses[0].loss
    assert made.ledger is not None
    assert made.ledger.flops == 4 * base.num_parameters * made.losses[-1].num_tokens

    adapter = storage.root / made.location / "adapter"
    shapes = {tensor.removesuffix(".weight"): shape for tensor, shape in _shapes(storage.root / base.folder).items()}
    assert (
        len(check_tensors(adapter / "adapter_model.safetensors", shapes, "base")) == 2 * 7 * 2
    )  # layers, modules, A and B
    assert read_config(adapter)["r"] == 4

    exported, whole = load_file(storage.root / made.folder / "model.safetensors"), load_file(_weights(storage, base))
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(storage.root / base.folder, dtype=torch.float32), adapter
    )
    tokens = torch.arange(3, 67)[None]
    merged_model = AutoModelForCausalLM.from_pretrained(storage.root / made.folder)
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens).logits, merged_model(tokens).logits, rtol=1e-4, atol=1e-4)
    merged = adapted.merge_and_unload().state_dict()
    assert exported.keys() == whole.keys()
    touched = {name for name in whole if not torch.equal(exported[name], whole[name].float())}
    assert touched == {f"{module}.weight" for module in _adapted(adapter)}, "bit for bit the base's, all the others"
    for name in touched:  # of a base that moved by one rounding the merged weights would differ
        torch.testing.assert_close(exported[name], merged[name], rtol=0, atol=1e-7)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    with (folder / "model.safetensors").open("rb") as file:
        return read_header(file, str(folder))


def _weights(storage: LocalStorage, base: Any) -> Path:
    return storage.root / base.folder / "model.safetensors"


def _adapted(adapter: Path) -> set[str]:
    """Modules that have matrices in the adapter's file."""
    with (adapter / "adapter_model.safetensors").open("rb") as file:
        found = [TENSOR.match(name) for name in read_header(file, str(adapter))]
    return {match["module"] for match in found if match}


@pytest.mark.long
def test_a_private_run_says_what_it_spent_and_the_next_one_may_not_spend_it_again(
    storage: LocalStorage, tiny_model: Path
) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    asked = [{"prompt": f"Is {n} even?", "answer": f"yes {n % 7}"} for n in range(60)]
    config = small_run(
        method=_file(storage, "instruct", asked),
        attend_across_documents=False,
        num_steps=4,
        zero={"stage": 1},
        lora={"rank": 2, "alpha": 4},
        privacy={"target_epsilon": 2.9, "delta": 1e-5, "accountant": "rdp"},
        checkpoint_every_steps=2,
    )
    made = train(config, dataset, base, storage)
    assert made.ledger is not None
    found = made.ledger.privacy
    assert found is not None
    assert 2.8 < found.epsilon <= 2.9
    assert (found.delta, found.num_examples, found.is_guaranteed) == (1e-5, 60, True)
    assert found.sample_rate == 4 / 60
    assert found.epsilon_of_data == made.losses[-1].epsilon == found.epsilon
    assert [point.epsilon or 0 for point in made.losses] == sorted(point.epsilon or 0 for point in made.losses)
    assert {point.sequences_checksum for point in made.losses} == {0}
    assert not list(storage.list("runs/train"))  # the secret has gone with the run

    assert train(config, dataset, base, storage) == made  # found, and nothing spent
    with pytest.raises(ResourceError, match=r"1 run\(s\) on the same data have spent 2\.[89]"):
        train(config.replace(seed=1), dataset, base, storage)


def _num_preferred(folder: Path, pairs: list[dict[str, str]]) -> int:
    """Pairs whose chosen answer is likelier to the model in that folder, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def likelihood(prompt: str, answer: str) -> float:
        asked = [{"role": "user", "content": prompt}]
        texts = [
            tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True),
            tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}], tokenize=False),
        ]
        before, tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        return sum(float(scores[n - 1, tokens[n]]) for n in range(len(before), len(tokens)))

    return sum(likelihood(p["prompt"], p["chosen"]) > likelihood(p["prompt"], p["rejected"]) for p in pairs)


def _file(storage: LocalStorage, kind: str, lines: list[dict[str, str]]) -> dict[str, str]:
    path = storage.root.parent / f"{kind}.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return {"kind": kind, "path": str(path)}


def test_the_key_leaves_out_what_does_not_change_the_result(storage: LocalStorage, tiny_model: Path) -> None:
    dataset, base, config = small_dataset(storage), base_model(storage, tiny_model), small_run()
    key = train_key(config, dataset, base)
    assert train_key(config.replace(keep_checkpoints=9, checkpoint_every_steps=3, max_failures=0), dataset, base) == key
    assert train_key(config.replace(learning_rate=1e-4), dataset, base) != key
    assert train_key(config.replace(num_workers=1, gradient_accumulation=2, zero={"stage": 1}), dataset, base) == key
    assert train_key(config.replace(num_workers=1, sequences_per_step=4), dataset, base) == key
    assert train_key(config.replace(num_workers=1), dataset, base) != key  # half the sequences a step

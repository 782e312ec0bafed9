"""GRPO on a real Ray cluster: TRL's loss in our loop, answers by vLLM with the weights of the step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import pipelines.training.train as stage
from cluster.artifacts import Checkpoint
from cluster.errors import ConfigError, InputError, StageFailed, UserError
from cluster.storage import LocalStorage
from pipelines.config import TrainConfig
from pipelines.offline_engine import ENVIRONMENT
from pipelines.training import fit
from tests.integration.training_case import base_model, ends_early, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

REWARD = """
def vowels(completions, asked, **columns):
    assert len(asked) == len(completions) and set(asked) <= set("abcdefgh")
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in texts]


def fails(completions, **columns):
    return [1 / 0 for _ in completions]
"""


def grpo_run(folder: Path, function: str = "vowels", **fields: Any) -> TrainConfig:
    """Two CPU ranks that learn to answer in vowels."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {c}", "asked": c}) + "\n" for c in "abcdefgh"))
    (folder / "reward.py").write_text(REWARD)
    reward = {"name": "vowels", "kind": "function", "file": str(folder / "reward.py"), "function": function}
    method = {
        "kind": "grpo",
        "path": str(prompts),
        "rewards": [reward],
        "num_generations": 8,
        "max_completion_tokens": 16,
        "rollouts": {"kv_cache_gib": 0.1},
    }
    settings = {"method": method, "sequences_per_worker": 8, "learning_rate": 1e-2, "attend_across_documents": False}
    return small_run(**{**settings, **fields})


def trained(config: TrainConfig, storage: LocalStorage, model: Path) -> Checkpoint:
    return stage.train(config, small_dataset(storage), base_model(storage, model), storage)


def tracked(storage: LocalStorage, made: Checkpoint, name: str) -> list[float]:
    """TensorBoard's figures of the run."""
    from tests.unit.pipelines.training.test_trackers import events

    blobs = [storage.read(key) for key in storage.list(f"runs/tensorboard/{made.key}")]
    found = {
        at: value
        for blob in blobs
        if blob
        for (tag, at), value in events(blob.content).items()
        if tag == f"train/{name}"
    }
    return [found[at] for at in sorted(found)]


def rewards_of(made: Checkpoint) -> list[float]:
    return [point.reward for point in made.losses if point.reward is not None]


def test_answers_earn_more_from_step_to_step(storage: LocalStorage, tiny_model: Path, tmp_path: Path) -> None:
    made = trained(grpo_run(tmp_path, num_steps=24, num_workers=1, sequences_per_worker=16), storage, tiny_model)
    rewards = rewards_of(made)
    assert len(rewards) == 24
    assert sum(rewards[-4:]) > 1.2 * sum(rewards[:4])
    assert made.losses[-1].num_tokens > 24 * 16 * 16
    differences = tracked(storage, made, "log_probability_difference")
    assert len(differences) == 24
    assert max(differences) < 1e-4, "engine and trainer have the same weights at every step, tied embeddings and all"


@pytest.mark.long
def test_an_interrupted_run_goes_on_as_the_undisturbed_one(
    storage: LocalStorage, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another number of ranks at that. The answers are drawn anew from the same weights by the same seeds."""
    layouts = ({"num_workers": 2}, {"num_workers": 1, "gradient_accumulation": 2})
    runs = [grpo_run(tmp_path, num_steps=6, checkpoint_every_steps=1, max_failures=0, **layout) for layout in layouts]
    undisturbed = trained(runs[0], LocalStorage(str(storage.root) + "-undisturbed"), tiny_model)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "worker", ends_early)
        with pytest.raises(StageFailed):
            trained(runs[0], storage, tiny_model)
    resumed = trained(runs[1], storage, tiny_model)

    assert resumed.resumed_at_steps[-1] >= 3
    assert [p.sequences_checksum for p in resumed.losses] == [p.sequences_checksum for p in undisturbed.losses]
    assert rewards_of(resumed) == pytest.approx(rewards_of(undisturbed), abs=1e-5)


def test_the_step_is_that_of_trl_s_own_loop(storage: LocalStorage, tiny_model: Path, tmp_path: Path) -> None:
    """TRL's GRPOTrainer in one process, stepped by itself, with answers of the same engine by the same seeds."""
    import ray

    fields = {"num_steps": 4, "warmup_steps": 0, "min_learning_rate_fraction": 1.0, "gradient_accumulation": 2}
    config = grpo_run(tmp_path, zero={"stage": 3}, weight_decay=0.0, **fields)
    one = tmp_path / "prompts.jsonl"
    one.write_text(json.dumps({"prompt": "Say a", "asked": "a"}) + "\n")  # so that both take the same at each step
    base = base_model(storage, tiny_model)
    losses, rewards = ray.get(
        ray.remote(trl_s_loop)
        .options(num_cpus=1, runtime_env={"env_vars": {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}})
        .remote(config.model_dump(), storage.location, base.folder)
    )
    made = trained(config, storage, tiny_model)
    assert rewards_of(made) == pytest.approx(rewards, abs=1e-6)
    assert [point.loss for point in made.losses] == pytest.approx(losses, abs=1e-5)


def trl_s_loop(given: dict[str, Any], storage: str, base: str) -> tuple[list[float], list[float]]:
    """Losses and rewards."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from pipelines.config import GrpoConfig
    from pipelines.training.rewards import Rewards, read_sources
    from pipelines.training.rollouts import Engine, file_of, seeds_of

    config = TrainConfig.model_validate(given)
    method = config.method
    assert isinstance(method, GrpoConfig)
    folder = f"{storage}/{base}"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = Engine()
    engine.start(storage, base, given, "float32")

    class Own:
        def sync_weights(self) -> None:
            engine.take(file_of(dict(model.named_parameters()), None))

        def generate(self, prompts: list[list[int]], **_: Any) -> tuple[Any, ...]:
            seeds = seeds_of(config.seed, trainer.state.global_step, len(prompts) // method.num_generations)
            groups = engine.answer(prompts[:: method.num_generations], seeds)
            own = [answer for group in groups for answer in group]
            return prompts, [one.tokens for one in own], [[[p] for p in one.log_probabilities] for one in own], None

    asked = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        per_device_train_batch_size=config.total_sequences // 2,
        gradient_accumulation_steps=2,
        num_generations=method.num_generations,
        max_completion_length=method.max_completion_tokens,
        max_steps=config.num_steps,
        logging_steps=1,
        max_grad_norm=config.max_gradient_norm,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, eps=config.eps, weight_decay=0.0
    )
    trainer = GRPOTrainer(
        model=model,
        args=asked,
        reward_funcs=list(Rewards(method, read_sources(method)).functions),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "Say a"}], "asked": "a"}] * 4),
        processing_class=AutoTokenizer.from_pretrained(folder),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
    )
    trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, Own(), -1
    trainer.train()
    told = [entry for entry in trainer.state.log_history if "reward" in entry]
    return [entry["loss"] for entry in told], [entry["reward"] for entry in told]


def test_answers_do_not_depend_on_what_else_is_asked(storage: LocalStorage, tiny_model: Path, tmp_path: Path) -> None:
    """Of prompts that together are more than the engine reads at once. One read in pieces, with a seed, ended vLLM on CPUs
    (cluster/vllm_worker.py)."""
    import ray

    base, config = base_model(storage, tiny_model), grpo_run(tmp_path, sequence_length=128)
    together, alone = ray.get(
        ray.remote(answered)
        .options(num_cpus=1, runtime_env={"env_vars": {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}})
        .remote(config.model_dump(), storage.location, base.folder)
    )
    assert len({tuple(tokens) for group in together for tokens in group}) > 100
    assert together == alone


def answered(given: dict[str, Any], storage: str, base: str) -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    """40 prompts of 100 tokens, together and one by one."""
    from pipelines.training.rollouts import Engine

    engine = Engine()
    engine.start(storage, base, given, "float32")
    prompts = [[(at * step) % 900 + 3 for at in range(100)] for step in range(1, 41)]
    found = [
        *engine.answer(prompts, range(40)),
        *(group for at, prompt in enumerate(prompts) for group in engine.answer([prompt], [at])),
    ]
    tokens = [[answer.tokens for answer in group] for group in found]
    return tokens[:40], tokens[40:]


def test_an_adapter_learns_by_answers_of_base_and_adapter(
    storage: LocalStorage, tiny_model: Path, tmp_path: Path
) -> None:
    """At stage 1: the engine that TRL corrects for is the model itself, adapter and all."""
    config = grpo_run(tmp_path, num_steps=3, lora={}, zero={"stage": 1})
    bare = without_padding(tiny_model, tmp_path / "bare")
    made = trained(config, storage, bare)
    assert len(rewards_of(made)) == 3
    assert any(entry.path.startswith("adapter/") for entry in made.files)
    told = json.loads((storage.root / made.folder / "config.json").read_text())
    assert told.get("pad_token_id") is None, "TRL pads by another token, and that is nobody else's business"
    assert max(tracked(storage, made, "log_probability_difference")) < 1e-4


def without_padding(model: Path, folder: Path) -> Path:
    """A copy whose tokenizer has no token to pad by, as many have none."""
    shutil.copytree(model, folder)
    fields = {
        "config.json": "pad_token_id",
        "generation_config.json": "pad_token_id",
        "tokenizer_config.json": "pad_token",
    }
    for name, field in fields.items():
        told = json.loads((folder / name).read_text())
        told.pop(field, None)
        (folder / name).write_text(json.dumps(told))
    return folder


def test_a_reward_that_cannot_be_given_is_told_once(storage: LocalStorage, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        trained(grpo_run(tmp_path, "fails"), storage, tiny_model)
    assert told.value.where == "train.method.rewards: vowels"
    assert "fails failed in line 9 (ZeroDivisionError" in told.value.found


@pytest.mark.long
def test_an_output_layer_s_adapter_is_refused(storage: LocalStorage, untied: Path, tmp_path: Path) -> None:
    """TRL's loss would leave it as it was."""
    with pytest.raises(ConfigError, match="the output layer is among them"):
        trained(grpo_run(tmp_path, lora={"target_modules": ["q_proj", "lm_head"]}), storage, untied)


def test_experts_are_not_answered_for_by_engines_on_cpus(
    storage: LocalStorage, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder = Path(shutil.copytree(tiny_model, tmp_path / "experts"))
    sizes = {
        "hidden_size": 64,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    vocabulary = AutoConfig.from_pretrained(tiny_model).vocab_size
    Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=vocabulary, head_dim=32, **sizes)).save_pretrained(folder)
    with pytest.raises(ConfigError, match="a mixture of experts anew"):
        trained(grpo_run(tmp_path), storage, folder)


def test_what_cannot_work_is_said_before_anything_starts(
    storage: LocalStorage, tiny_model: Path, tmp_path: Path
) -> None:
    config = grpo_run(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "word " * 60, "asked": "a"}))
    with pytest.raises(ConfigError, match="of which 16 are the answer's, but 1 of 1 prompts"):
        trained(config, storage, tiny_model)
    strict = Path(shutil.copytree(tiny_model, tmp_path / "strict"))
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (strict / "chat_template.jinja").write_text(template + (strict / "chat_template.jinja").read_text())
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say a"}]
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": talk, "asked": "a"}))
    with pytest.raises(InputError) as told:
        trained(config, storage, strict)
    assert told.value.where.endswith("prompts.jsonl:1")
    assert "System role not supported; its turns: system, user" in told.value.found

"""What a run is predicted to need: formulas against numbers worked out by hand, and what is said of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.artifacts import Checkpoint, Ledger, save
from cluster.config import load_yaml
from cluster.errors import ConfigError, InputError
from cluster.storage import LocalStorage
from cluster.topology import load_topology
from pipelines.config import TrainConfig, ZeroConfig
from pipelines.training import memory as formulas
from pipelines.training.memory import memory
from pipelines.training.plan import GIB, Rate, Room, make_plan, rate_of, room_of, trouble
from pipelines.training.plan_command import plan_recipe, warning
from pipelines.training.shape import check_parallel, read_shape, shape_of
from serinus import app
from serinus_recipe import Recipe

ROOT = Path(__file__).resolve().parents[4]
SEVEN = {
    "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 11008, "vocab_size": 32000,
    "tie_word_embeddings": False,
}  # fmt: skip
"""Llama 2 7B: 6,738,415,616 parameters."""


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate({"num_workers": 4, **fields})


def test_parameters_are_counted_from_the_configuration_alone() -> None:
    assert shape_of(SEVEN).num_parameters == 6_738_415_616
    mixtral = {
        **SEVEN,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    assert shape_of(mixtral).num_parameters == 46_702_792_704, "Mixtral 8x7B"
    assert shape_of(SEVEN, 5).num_parameters == 5


@pytest.mark.parametrize(("stage", "per_parameter"), [(0, 16), (1, 4 + 12 / 4), (2, 2 + 14 / 4), (3, 16 / 4)])
def test_states_are_those_of_the_zero_paper(stage: int, per_parameter: float) -> None:
    shape = shape_of(SEVEN)
    assert memory(shape, config(zero={"stage": stage})).states == per_parameter * shape.num_parameters


@pytest.mark.parametrize("stage", [0, 3])
def test_the_copy_that_checkpoints_are_written_from_lies_in_the_hosts_memory(stage: int) -> None:
    shape, at_once = shape_of(SEVEN), {"checkpoint_asynchronously": False}
    wanted = 12 * shape.num_parameters / (4 if stage else 1)
    on_gpus, on_cpus = (memory(shape, config(zero={"stage": stage}, gpus_per_worker=n)) for n in (1, 0))
    assert (on_gpus.copy, on_gpus.host) == (0, wanted)
    assert (on_cpus.copy, on_cpus.host) == (wanted, 0)
    without = memory(shape, config(zero={"stage": stage}, gpus_per_worker=0, **at_once))
    assert on_cpus.peak - without.peak == pytest.approx(wanted)
    assert without.copy == memory(shape, config(num_steps=50)).host == 0
    room = Room(without.peak, "a node's memory")
    found = trouble(make_plan(shape, config(zero={"stage": stage}, gpus_per_worker=0), room, None))
    assert found is not None
    assert found[1].startswith("train.checkpoint_asynchronously: false would do")


@pytest.mark.parametrize(("stage", "per_parameter"), [(0, 16), (1, 4 + 12 / 2), (3, 16 / 2)])
def test_ranks_of_a_copy_share_out_all_but_the_embedding_and_zero_the_rest(stage: int, per_parameter: float) -> None:
    shape, embedding = shape_of(SEVEN), 32000 * 4096
    found = memory(shape, config(zero={"stage": stage}, parallel={"tensor": 2}))
    assert found.states == per_parameter * (embedding + (shape.num_parameters - embedding) / 2)
    whole = memory(shape, config(zero={"stage": stage}))
    assert found.activations < 0.8 * whole.activations
    assert found.logits == whole.logits


def test_a_stage_has_its_layers_and_one_side_of_the_vocabulary() -> None:
    shape, embedding = shape_of(SEVEN), 32000 * 4096
    given = config(zero={"stage": 1}, parallel={"pipeline": 2}, num_workers=4, gradient_accumulation=4)
    size = embedding + (shape.num_parameters - 2 * embedding) / 2
    assert memory(shape, given).states == (4 + 12 / 2) * size
    assert [option.name for option in make_plan(shape, given, Room(None, ""), None).options] == ["1"]
    uneven = given.replace(num_workers=5, parallel={"pipeline": 5}, gradient_accumulation=5)
    most = embedding + (shape.num_parameters - 2 * embedding) * 7 / 32
    assert memory(shape, uneven).states == pytest.approx(16 * most), "32 layers are 6 + 6 + 7 + 6 + 7"


def test_heads_that_cannot_be_shared_out_are_told_by_plan_and_check(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SEVEN, "num_key_value_heads": 2}))
    recipe = load_yaml(ROOT / "recipes" / "quickstart.yaml", Recipe)
    train = recipe.train.replace(num_workers=4, parallel={"tensor": 4})
    asked = recipe.replace(model=recipe.model.replace(source=str(tmp_path)), train=train)
    with pytest.raises(ConfigError, match=r"train.parallel.tensor.*4, but the model has 2 key-value heads"):
        warning(asked)
    layers = asked.replace(
        train=train.replace(parallel={"pipeline": 40}, num_workers=40, zero={"stage": 1}, gradient_accumulation=40)
    )
    with pytest.raises(ConfigError, match="40 stages, but the model has 32 layers"):
        warning(layers)
    with pytest.raises(ConfigError, match="2 key-value heads"):
        plan_recipe(asked, read_shape(str(tmp_path)), None, None, None)


@pytest.mark.parametrize(
    ("model", "parallel", "said"),
    [
        ({"tie_word_embeddings": True}, {"pipeline": 2}, "pipeline: the first and the last stage"),
        ({"num_local_experts": 8}, {"pipeline": 2}, "pipeline: the model has 8 experts"),
        ({"n_routed_experts": 64}, {"pipeline": 2}, "pipeline: the model has 64 experts"),
        ({"num_experts": 4}, {"tensor": 2}, "tensor: the model has 4 experts"),
    ],
)
def test_models_that_cannot_be_shared_out_are_told_before_one_is_loaded(
    model: dict[str, Any], parallel: dict[str, int], said: str
) -> None:
    given = config(parallel=parallel, zero={"stage": 1}, gradient_accumulation=4)
    with pytest.raises(ConfigError, match=rf"train\.parallel\.{said}"):
        check_parallel(shape_of({**SEVEN, **model}), given.parallel)
    check_parallel(shape_of({**SEVEN, **model}), config().parallel)


def test_offloaded_states_lie_on_the_host_where_there_is_one_apart() -> None:
    shape, away = shape_of(SEVEN), {"stage": 3, "offload_optimizer": True, "offload_parameters": True}
    on_gpu = memory(shape, config(zero=away, checkpoint_asynchronously=False))
    assert (on_gpu.states, on_gpu.host) == (0, 4 * shape.num_parameters)
    on_cpu = memory(shape, config(zero=away, gpus_per_worker=0, precision="bfloat16"))
    assert (on_cpu.states, on_cpu.host) == (4 * shape.num_parameters, 0)


def test_activations_by_hand() -> None:
    shape = shape_of(SEVEN)
    given = config(sequence_length=10, sequences_per_worker=1)
    layer = 10 * (2 * 4096 * 8 + 4 * 4096 * 2 + 4 * 11008 * 2)
    outside = 10 * 4096 * 8
    assert formulas.activations(shape, given, 2) == outside + 32 * layer
    kept = outside + layer + 32 * 10 * 4096 * 2
    assert formulas.activations(shape, given.replace(gradient_checkpointing=True), 2) == kept
    assert formulas.logits(shape, given) == 12 * 10 * 32000
    pairs = given.replace(method={"kind": "dpo", "path": "x"})
    assert formulas.logits(shape, pairs) == 2 * 12 * 10 * 32000


SMALL_BUCKET = {"extra": {"zero_optimization": {"reduce_bucket_size": 1000}}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [  # bytes a weight, beside weights, masters and moments; two ranks
        ({"zero": {"stage": 0}}, 4 + 4),  # all gradients, and a copy to reduce
        ({"zero": {"stage": 0}, "num_workers": 1}, 4 + 4),
        ({"zero": {"stage": 0, **SMALL_BUCKET}}, 4 + 4),  # which DeepSpeed's stage 0 does not ask for
        ({"zero": {"stage": 1}}, 4 + 4 + 2),  # a bucket, its copy, its own half
        ({"zero": {"stage": 2}}, 4 + 4 + 2),
        ({"zero": {"stage": 3}}, 4 + 4 + 2 + 6),  # what is gathered, a bucket, its own half; AdamW's copies
        ({"zero": {"stage": 0}, "precision": "bfloat16", "num_workers": 1}, 2 + 4),  # and float32 gradients
        ({"zero": {"stage": 1}, "precision": "bfloat16"}, 1 + 6),
        ({"zero": {"stage": 1}, "num_workers": 1}, 4 + 12),
        ({"zero": {"stage": 1, **SMALL_BUCKET}}, 2 + 6),
        ({"zero": {"stage": 2, **SMALL_BUCKET}}, 2 + 6),
    ],
)
def test_a_small_batch_needs_the_most_in_the_step(fields: dict[str, Any], expected: float) -> None:
    shape = shape_of({**SEVEN, "num_hidden_layers": 1})
    small = {"sequence_length": 8, "sequences_per_worker": 1, "num_workers": 2, "gpus_per_worker": 0}
    given = config(**{**small, "precision": "float32", **fields})
    found = memory(shape, given)
    rest = found.peak - found.parameters - found.masters - found.optimizer - found.copy
    assert rest == pytest.approx(expected * shape.num_parameters, rel=1e-4)


def test_a_bucket_of_no_size_is_told() -> None:
    auto = {"stage": 1, "extra": {"zero_optimization": {"reduce_bucket_size": "auto"}}}
    with pytest.raises(ConfigError, match="reduce_bucket_size: is 'auto'\n  -> give a number"):
        memory(shape_of(SEVEN), config(zero=auto))


def test_a_large_batch_needs_the_most_at_the_loss() -> None:
    shape = shape_of(SEVEN)
    large = {"sequence_length": 2048, "sequences_per_worker": 64}
    first, later = (memory(shape, config(**large, gradient_accumulation=num, zero={"stage": 0})) for num in (1, 2))
    assert first.peak == pytest.approx(
        first.states - first.gradients + first.activations + first.logits + first.buffers
    )
    assert later.peak == pytest.approx(first.peak + first.gradients), "those of the micro-batch before"
    sharded = memory(shape, config(**large, zero={"stage": 3}))
    assert sharded.peak == pytest.approx(sharded.states + sharded.activations + sharded.logits + sharded.buffers)


def test_the_plan_says_what_fits_and_what_else_would() -> None:
    shape, given = shape_of(SEVEN), config(zero={"stage": 1}, gradient_checkpointing=True, num_workers=16)
    plan = make_plan(shape, given, Room(80 * GIB, "an H100"), Rate(4e14, "assumed"))
    fits = {option.name: option.fits for option in plan.options}
    assert fits["0"] is False
    assert fits["3"] is True
    assert plan.chosen.name == "1"
    tokens = 1000 * 16 * 8 * 1024
    assert plan.time_s == pytest.approx(8 * shape.num_parameters * tokens / (4e14 * 16))
    assert trouble(plan) is None
    small = trouble(make_plan(shape, given, Room(24 * GIB, "an L4"), None))
    assert small is not None
    assert small[0].startswith("stage 1: about")
    assert "3, optimizer and parameters offloaded" in small[1]
    assert trouble(make_plan(shape, given, Room(None, "unknown"), None)) is None


def test_no_way_of_the_recipe_s_own_is_listed_twice() -> None:
    own = {"stage": 2, "extra": {"zero_optimization": {"reduce_bucket_size": 1000}}}
    plan = make_plan(shape_of(SEVEN), config(zero=own), Room(None, ""), None)
    assert [option.name for option in plan.options].count("2") == 1
    assert plan.chosen.zero == ZeroConfig(**own)
    assert plan.chosen.memory.buffers < 10_000 + 8 * shape_of(SEVEN).num_parameters / 4
    on_cpus = make_plan(shape_of(SEVEN), config(gpus_per_worker=0), Room(None, ""), None)
    assert [option.name for option in on_cpus.options] == ["0", "1", "2", "3"]


def test_room_is_the_pool_s_gpu_or_the_host_s_share() -> None:
    topology = load_topology(ROOT / "ray_cluster.yaml")
    assert room_of(config(), topology, None).num_bytes == 40 * GIB, "an A100 of p4d"
    share = room_of(config(gpus_per_worker=0), topology, 8 * GIB).num_bytes
    assert share is not None
    assert 1 * GIB < share < 2 * GIB
    assert room_of(config(gpus_per_worker=0), topology, None).num_bytes is None


def test_the_rate_is_that_of_the_newest_run_of_the_kind(tmp_path: Path) -> None:
    storage, topology = LocalStorage(tmp_path), load_topology(ROOT / "ray_cluster.yaml")
    given = config(gpus_per_worker=0)
    assumed = rate_of(given, topology, storage)
    assert assumed is not None
    assert assumed.basis.startswith("assumed")
    for day, (key, flops, run) in enumerate(
        [("a" * 16, 8e12, given), ("b" * 16, 4e12, given), ("c" * 16, 1e15, config())]
    ):
        cost = Ledger(
            num_tokens=1, flops=flops, flops_basis="", device="CPU", num_devices=2, trained_s=20, energy_basis=""
        )
        made_at = datetime(2026, 1, 1 + day, tzinfo=UTC)
        save(storage, Checkpoint(key=key, config=run.model_dump(mode="json"), ledger=cost, made_at=made_at))
    found = rate_of(given, topology, storage)
    assert found is not None
    assert (found.flops, found.basis) == (1e11, f"measured: run {'b' * 16} on CPU")
    staged = config(gpus_per_worker=0, parallel={"pipeline": 2}, zero={"stage": 1}, gradient_accumulation=2)
    pairs = config(gpus_per_worker=0, method={"kind": "dpo", "path": "p"})
    for other in (config(gpus_per_worker=0, lora={}), pairs, staged):
        adapter = rate_of(other, topology, storage)
        assert adapter is not None
        assert adapter.basis.startswith("assumed"), "another method is no measure"


def test_an_assumed_time_has_the_waiting_of_stages_in_it() -> None:
    four = {"parallel": {"pipeline": 4}, "zero": {"stage": 1}, "gradient_accumulation": 6}
    shape, given = shape_of(SEVEN), config(**four)
    assumed, measured = (make_plan(shape, given, Room(None, ""), Rate(1e12, "", known)) for known in (False, True))
    assert measured.time_s == pytest.approx(assumed.flops / (1e12 * 4))
    assert assumed.time_s == pytest.approx(measured.time_s * (6 + 4 - 1) / 6)


def test_what_is_computed_once_more_is_in_a_measured_time_already() -> None:
    shape, given = shape_of(SEVEN), config(gradient_checkpointing=True)
    measured, assumed = (make_plan(shape, given, Room(None, ""), Rate(1e12, "", known)) for known in (True, False))
    assert assumed.time_s == pytest.approx(measured.time_s * 8 / 6)


def test_a_model_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json on this machine"):
        read_shape(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="hidden_size"):
        read_shape(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**SEVEN, "num_attention_heads": 0}))
    with pytest.raises(InputError, match="does not say how large its layers are"):
        read_shape(str(tmp_path))
    with pytest.raises(InputError, match="does not say how large its layers are"):
        read_shape("hf://no -- name")


def test_check_warns_of_a_training_without_room(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SEVEN, "num_hidden_layers": 10_000}))
    recipe = load_yaml(ROOT / "recipes" / "quickstart.yaml", Recipe)
    elsewhere = recipe.replace(model=recipe.model.replace(source="hf://nobody/nothing"))
    assert warning(elsewhere) is None
    said = warning(recipe.replace(model=recipe.model.replace(source=str(tmp_path))))
    assert said is not None
    assert said.startswith("train.zero: stage 3: about")


def test_the_command_predicts_without_torch_or_ray(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SEVEN))
    recipe = ROOT / "recipes" / "quickstart.yaml"
    asked = ["train", "plan", str(recipe), "--model", str(tmp_path), "--gib", "8"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 1
    assert "does not fit: stage 3: about" in found.output
    assert "…" not in found.output  # at the 80 columns of a log
    assert re.search(r"peak +host +fits", found.output)
    document = json.loads(CliRunner().invoke(app, [*asked[:-1], "800", "--json"]).output)
    assert [option["fits"] for option in document["options"]] == [True] * 4
    assert document["num_tokens"] == 5 * 2 * 2 * 256
    script = (
        "import sys; from serinus import app\n"
        f"try: app({asked!r})\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'deepspeed', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr

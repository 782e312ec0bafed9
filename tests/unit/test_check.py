"""`serinus check` on broken recipes: each names file, line and field, and says what to do, without importing Ray or torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import serinus_commands
from cluster.artifacts import Dataset
from cluster.config import load_yaml
from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from serinus import app
from serinus_recipe import Recipe
from services.config import RolloutConfig
from services.serving.keys import add_key

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"

GOOD = """\
# The whole lifecycle
name: smollm2
storage: store
data:
  sources:
    - path: topics
    - path: quickstart/raw
  filters:
    languages: [en]
model:
  source: model.gguf
train:
  num_workers: 2
  num_steps: 60
  learning_rate: 1.0e-4
evaluate:
  tasks:
    - {name: heldout_perplexity, kind: perplexity}
    - {name: heldout_choice, kind: multiple_choice}
    - {name: heldout_continuation, kind: continuation}
    - {name: general, kind: multiple_choice, path: general.jsonl}
gate:
  requirements:
    - {compare: quantized vs base, tasks: scores, effect_percent: 10}
serve:
  engine: {max_model_len: 1024, max_num_seqs: 16}
rollout:
  interval_s: 1
  steps:
    - {weight_percent: 1, min_requests: 8}
    - {weight_percent: 10, min_requests: 30}
    - {weight_percent: 50, min_requests: 60}
"""

# (what is written wrong, by what it is replaced, the field that the answer names, what the answer says)
BROKEN = [
    ("num_steps: 60", "num_step: 60", "train.num_step", "did you mean `num_steps`?"),
    ("num_steps: 60", "num_steps: sixty", "train.num_steps", "valid integer"),
    ("num_steps: 60", "num_steps: 1000000000000", "train.num_steps", "less than 2147483648"),
    ("num_steps: 60", "num_steps: 0", "train.num_steps", "greater than or equal to 1"),
    ("num_steps: 60", "num_steps: 5", "train.num_steps", "warmup_steps (10) must be below num_steps (5)"),
    ("num_workers: 2", "num_workers: 2\n  num_workers: 3", "train.num_workers", "given twice"),
    ("num_workers: 2", "num_workers: 2\n  pool: gpu", "train.pool", "'data', 'train', 'serve' or 'head'"),
    (
        "num_workers: 2",
        "num_workers: 2\n  quantization_aware: {scheme: w3a16}",
        "train.quantization_aware.scheme",
        "'W8A8' or 'FP8'",
    ),
    ("learning_rate: 1.0e-4", "learning_rate: -1", "train.learning_rate", "greater than 0"),
    ("learning_rate: 1.0e-4", "learning_rate: .nan", "train.learning_rate", "finite"),
    ("num_workers: 2", "num_workers: 2\n  zero: {stage: 4}", "train.zero.stage", "1, 2 or 3"),
    ("num_workers: 2", "num_workers: 2\n  betas: [0.9, 1.5]", "train.betas", "betas must lie in [0, 1)"),
    ("num_workers: 2", "num_workers: 2\n  sequence_length: 7", "train.sequence_length", "greater than or equal to 8"),
    ("num_workers: 2", "num_workers: 2\n  seed: -1", "train.seed", "greater than or equal to 0"),
    ("num_workers: 2", "num_workers: 2\n  seed: 4294967296", "train.seed", "less than 4294967296"),
    (
        "num_workers: 2",
        "num_workers: 2\n  zero: {extra: {zero_optimization: 2}}",
        "train.zero.extra.zero_optimization",
        "a mapping of DeepSpeed's fields",
    ),
    (
        "num_workers: 2",
        "num_workers: 2\n  zero: {extra: {fp16: {enabled: true}}}",
        "train.zero.extra.fp16",
        "fp16 is said by train.precision",
    ),
    ("source: model.gguf", "source: hf://a/b/c", "model.source", "hf://organisation/name"),
    ("source: model.gguf", "source: hf://", "model.source", "hf://organisation/name"),
    ("source: model.gguf", "source: hf:/a/b", "model.source", "should begin with hf://"),
    ("storage: store", "storage: s3:/bucket/folder", "storage", "should begin with s3://"),
    ("storage: store", "storage: ftp://host/folder", "storage", "unknown storage scheme"),
    ("storage: store", 'storage: ""', "storage", "use a folder or s3://bucket/folder"),
    ("name: smollm2\n", "", "name", "required and not given"),
    ("name: smollm2", "name: SmolLM 2", "name", "match pattern"),
    ("kind: multiple_choice, path", "kind: multiple_chioce, path", "evaluate.tasks[3].kind", "'multiple_choice'"),
    ("name: heldout_choice", "name: general", "evaluate.tasks", "repeated: general"),
    (
        "languages: [en]",
        "languages: [en]\n    min_words: 9\n    max_words: 5",
        "data.filters.min_words",
        "above max_words",
    ),
    (
        "languages: [en]",
        "classifier: {path: q.bin, label: __label__hq}",
        "data.filters.classifier",
        "with neither no document would be excluded",
    ),
    (
        "languages: [en]",
        "classifier: {path: q.bin, lable: x}",
        "data.filters.classifier.lable",
        "did you mean `label`?",
    ),
    ("languages: [en]", "perplexity: {path: en.arpa, max: 1, min: 2}", "data.filters.perplexity", "is above max"),
    ("- path: topics", "- {path: topics, format: docx}", "data.sources[0].format", "'pdf'"),
    ("- path: quickstart/raw", "- pth: quickstart/raw", "data.sources[1]", "did you mean `path`?"),
    ("weight_percent: 10,", "weight_percent: 0.5,", "rollout.steps", "weights must grow"),
    ("weight_percent: 50,", "weight_percent: 150,", "rollout.steps[2].weight_percent", "less than or equal to 100"),
    (
        "weight_percent: 50,",
        "weight_percent: 100, prove: errors,",
        "rollout.steps[2]",
        "nobody is on stable, so errors",
    ),
    ("interval_s: 1", "interval_s: 1\n  alpha: 2", "rollout.alpha", "less than 0.5"),
    ("max_num_seqs: 16", "max_num_seq: 16", "serve.engine.max_num_seq", "did you mean `max_num_seqs`?"),
    ("data:\n", "data: []\nrest:\n", "data", "should be a mapping of fields"),
    ("gate:\n", "gate:\n\tx: 1\n", "", "not valid YAML"),
    ("effect_percent: 10", "margin_percent: 10", "gate.requirements[0]", "is above effect_percent"),
    ("effect_percent: 10", "min_recovery_percent: 98", "gate.requirements[0]", "a must rests on a test"),
    ("quantized vs base", "quantised", "gate.requirements[0].compare", "'quantized vs base'"),
    ("evaluate:\n", "evaluate: {tasks: [}\n", "", "not valid YAML"),
]


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ("tasks: [genral]", "no evaluation task is named genral (there are general, heldout_choice"),
        ("tasks: scores, priority: should", "no must is asked of any evaluation task"),
    ],
)
def test_a_gate_that_judges_nothing_is_refused(tmp_path: Path, tasks: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(broken(tmp_path, "tasks: scores", tasks), Recipe)
    assert says in str(caught.value)


PROGRESSIVE = """\
progressive:
  stages:
    - {model: {num_hidden_layers: 2}, num_tokens: [400_000, 800_000]}
    - {num_tokens: 800_000}
"""


def in_stages(tmp_path: Path, old: str = "", new: str = "") -> Path:
    """The good recipe with progressive training."""
    text = (
        GOOD.replace("  num_steps: 60\n", "")
        .replace("evaluate:\n", f"{PROGRESSIVE}evaluate:\n")
        .replace("model.gguf", "base")
    )
    assert old in text
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_workers: 2", "num_workers: 2\n  num_steps: 60", "train.num_steps follows from progressive.stages"),
        ("num_workers: 2", "num_workers: 2\n  lora: {}", "leave train.lora out"),
        ("num_workers: 2", "num_workers: 2\n  method: {kind: dpo, path: x}", "needs train.method causal"),
        ("[400_000, 800_000]", "[800_000, 400_000]", "must be positive and grow"),
        ("[400_000, 800_000]", "[1_000, 800_000]", "progressive.stages[0]: 1000 tokens are 1 steps"),
        ("[400_000, 800_000]", "[]", "progressive.stages[0].num_tokens"),
        ("num_hidden_layers", "num_hidden_layer", "did you mean `num_hidden_layers`?"),
        ("    - {num_tokens: 800_000}\n", "", "at least 2 items"),
        ("  stages:\n", "  gate: {confidence: 90}\n  stages:\n", "less than or equal to 0.999"),
    ],
)
def test_stages_that_cannot_be_are_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(in_stages(tmp_path, old, new), Recipe)
    assert says in str(caught.value)


def test_a_number_of_tokens_is_a_list_of_one_and_steps_follow_from_it(tmp_path: Path) -> None:
    found = load_yaml(in_stages(tmp_path), Recipe)
    assert found.progressive is not None
    assert [stage.num_tokens for stage in found.progressive.stages] == [(400_000, 800_000), (800_000,)]
    assert [run.train.num_steps for run in found.progressive.runs(found.train)] == [25, 49, 49]
    assert found.last_train.num_steps == 49


def test_check_tells_of_stages(tmp_path: Path) -> None:
    config = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "intermediate_size": 128,
        "vocab_size": 9000,
    }
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    found = CliRunner().invoke(app, ["check", str(in_stages(tmp_path))])
    assert found.exit_code == 0, found.output
    said = " ".join(found.output.split())
    assert "progressive: 2 stages, 3 runs of 25 to 49 steps; about 1.23 M, 1.32 M parameters" in said
    assert "but: progressive.stages[0].num_tokens: 0.65 tokens a parameter" in said
    odd = CliRunner().invoke(app, ["check", str(in_stages(tmp_path, "num_hidden_layers: 2", "hidden_size: 63"))])
    assert isinstance(odd.exception, ConfigError)
    assert "hidden_size 63 over 4 num_attention_heads is no whole number" in str(odd.exception)


def test_the_recipe_that_the_cases_break_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    assert load_yaml(path, Recipe).train.num_steps == 60


def test_brackets_in_a_path_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a[b]").mkdir()
    path = tmp_path / "a[b]" / "c[d].yaml"
    path.write_text(GOOD)
    found = CliRunner().invoke(app, ["check", str(path)])
    assert found.exit_code == 0, found.output
    assert "a[b]/c[d].yaml: good" in "".join(found.output.splitlines())


def test_what_was_made_is_told_with_brackets_as_they_are(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "a[" / "x]")
    with serinus_commands.out.capture() as told:
        serinus_commands._print_made({"dataset": Dataset(key="d" * 16, num_documents=1)}, storage)
    assert f"made in {storage.uri}" in "".join(told.get().splitlines())


def test_a_step_with_nobody_on_stable_is_told_of(tmp_path: Path) -> None:
    path = broken(tmp_path, "weight_percent: 50,", "weight_percent: 100,")
    found = CliRunner().invoke(app, ["check", str(path)])
    assert found.exit_code == 0, found.output
    assert "but: rollout.steps: the step at 100 % leaves nobody on stable" in " ".join(found.output.split())


@pytest.mark.parametrize(
    ("quantize", "told"),
    [
        (
            "scheme: w8a8",
            "the model is trained for W8A8 by rtn, and gptq moves the weights again: set quantize.method to rtn",
        ),
        (
            "schemes: [w4a16, fp8]",
            "the model is trained for W8A8 by rtn, and W4A16 in groups of 128 by gptq rounds to other",
        ),
        ("{scheme: w8a8, method: rtn}", None),
        ("schemes: [bf16, {scheme: w8a8, method: rtn}]", None),
    ],
)
def test_a_model_that_is_stored_otherwise_than_it_is_trained_for_is_told_of(
    tmp_path: Path, quantize: str, told: str | None
) -> None:
    asked = quantize if quantize.startswith("{") else f"{{{quantize}}}"
    rest = f"  quantization_aware: {{scheme: w8a8}}\nquantize: {asked}\nevaluate:\n"
    path = broken(tmp_path, "evaluate:\n", rest)
    found = CliRunner().invoke(app, ["check", str(path)])
    assert found.exit_code == 0, found.output
    said = " ".join(found.output.split())
    assert ("but: train.quantization_aware" in said) == (told is not None)
    assert (told or "") in said


@pytest.mark.parametrize(("num_keys", "told"), [(2, True), (5, True), (6, False)])
def test_keys_too_few_to_show_errors_are_told_of(tmp_path: Path, num_keys: int, told: bool) -> None:
    for number in range(num_keys):
        add_key(tmp_path / "keys.yaml", f"team-{number}")
    path = broken(tmp_path, "serve:\n", "serve:\n  admission: {keys: keys.yaml}\n")
    found = CliRunner().invoke(app, ["check", str(path)])
    assert found.exit_code == 0, found.output
    said = f"but: serve.admission.keys: of {num_keys} users about {num_keys / 2:.2g} are on the canary at 50 %"
    assert (said in " ".join(found.output.split())) == told


def test_few_keys_are_enough_for_copies_and_probes_are_not_advised_twice() -> None:
    half = {"weight_percent": 50}
    probes = {"sets": [{"name": "facts", "path": "facts.jsonl"}]}
    copies = RolloutConfig.model_validate({"steps": [{"weight_percent": 0}, half]})
    assert (copies.too_few(3), copies.too_few(2) is None) == (None, False)
    for fields, advised in (({}, True), ({"probes": probes}, False)):
        told = RolloutConfig.model_validate({"steps": [half], **fields}).too_few(4)
        assert told is not None
        assert ("Let golden probes judge" in told) == advised


def broken(tmp_path: Path, old: str, new: str) -> Path:
    assert old in GOOD
    path = tmp_path / "broken.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "field", "says"), BROKEN, ids=[f"{f or 'syntax'}-{i}" for i, (_, _, f, _) in enumerate(BROKEN)]
)
def test_a_broken_recipe_is_answered_with_file_line_and_field(
    tmp_path: Path, old: str, new: str, field: str, says: str
) -> None:
    path = broken(tmp_path, old, new)

    with pytest.raises(ConfigError) as caught:
        load_yaml(path, Recipe)

    text = str(caught.value)
    assert says.lower() in text.lower()
    assert field in text
    line = re.search(r"broken\.yaml:(\d+)", text)
    assert line, f"no line in {text!r}"
    content = path.read_text().splitlines()[int(line[1]) - 1]
    key = re.split(r"[.\[]", re.sub(r"\[\d+\]$", "", field))[-1]
    assert any(part in content for part in (f"{key}:", new.splitlines()[-1] if new else "# The whole")), content


def test_a_broken_recipe_ends_the_command_with_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    path = broken(tmp_path, "num_steps: 60", "num_step: 60")

    done = subprocess.run(
        [sys.executable, "-m", "serinus", "check", str(path)], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert re.search(r"broken\.yaml:\d+: train\.num_step: unknown key", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_that_ships_is_good(recipe: Path) -> None:
    load_yaml(recipe, Recipe)


def test_check_imports_nothing_heavy() -> None:
    heavy = "{'ray', 'torch', 'vllm', 'deepspeed', 'transformers', 'pyarrow', 'boto3', 'scipy'}"
    code = (
        f"import sys, pathlib, serinus_commands; serinus_commands.check(pathlib.Path({str(QUICKSTART)!r})); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"

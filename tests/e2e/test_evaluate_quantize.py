"""Real vLLM and real GPTQ on a tiny model: evaluate, quantize, evaluate again, judge."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cluster import artifacts
from cluster.artifacts import Dataset, ImportedModel
from cluster.errors import InputError, ResourceError
from cluster.storage import LocalStorage
from pipelines.config import EvaluateConfig, GateConfig, QuantizeConfig, RequirementConfig
from pipelines.evaluation.compare import read_items
from pipelines.evaluation.evaluate import evaluate, read_documents
from pipelines.evaluation.tasks import build_items
from pipelines.evaluation.verdict import gate
from pipelines.kv_cache import bytes_per_token, config_of
from pipelines.quantization.hardware import hardware_here, refusals
from pipelines.quantization.quantize import quantize
from pipelines.schemes import cannot_serve
from pipelines.task_config import TaskConfig
from tests.e2e.topics import topics_dataset

QUESTIONS = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "general.jsonl"
TASKS = (
    TaskConfig(name="text", kind="perplexity", num_items=6),
    TaskConfig(name="choice", kind="multiple_choice", num_items=6),
    TaskConfig(name="writing", kind="continuation", num_items=4, max_new_tokens=8),
    TaskConfig(name="letters", kind="written_choice", path=str(QUESTIONS), num_items=3, max_new_tokens=4),
)
CONFIG = EvaluateConfig(tasks=TASKS, max_model_len=512, kv_cache_gib=0.25)


@pytest.fixture
def dataset(storage: LocalStorage) -> Dataset:
    return topics_dataset(storage)


@pytest.fixture
def model(storage: LocalStorage, tiny_model: Path) -> ImportedModel:
    made = ImportedModel(key="b" * 16, num_weight_bytes=(tiny_model / "model.safetensors").stat().st_size)
    shutil.copytree(tiny_model, storage.root / made.folder)
    return artifacts.save(storage, made)


def reference_nll(folder: Path, text: str, start: bool = True) -> float:
    """Negative log-likelihood of `text` by transformers, in nats: after the start token, or of all but its own first one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    first = [tokenizer.bos_token_id] if start else []
    tokens = torch.tensor([first + tokenizer(text, add_special_tokens=False)["input_ids"]])[:, -511:]
    with torch.no_grad():
        logits = network(tokens).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))


@pytest.mark.long
@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_evaluate_quantize_evaluate_judge(storage: LocalStorage, dataset: Dataset, model: ImportedModel) -> None:
    before = evaluate(CONFIG, model, dataset, storage)
    items = read_items(storage, before)
    assert {task: len(rows) for task, rows in items.items()} == {"text": 6, "choice": 6, "writing": 4, "letters": 3}
    assert before.speed is not None
    assert [rate.num_requests for rate in before.speed.rates] == [1, 8, 32]
    assert min(rate.tokens_per_s for rate in before.speed.rates) > 0
    assert before.speed.ttft_s > 0
    assert before.digest == before.replace(speed=None).digest, "the same scores are the same report, however fast"
    asked = {item.id: item for item in build_items(TASKS[0], read_documents(storage, dataset), CONFIG.seed)}
    for row in items["text"]:
        expected = reference_nll(storage.root / model.folder, asked[row["id"]].answers[0])
        assert row["nll"] == pytest.approx(expected, rel=0.01)  # bfloat16 against float32
    answered = {item.id: item for item in build_items(TASKS[1], read_documents(storage, dataset), CONFIG.seed)}
    for row in items["choice"]:  # prompts come out of the cache for all but the first answer
        item = answered[row["id"]]
        whole, prompt = (
            reference_nll(storage.root / model.folder, text, start=False)
            for text in (item.prompt + item.answers[item.gold], item.prompt)
        )
        assert row["nll"] == pytest.approx(whole - prompt, rel=0.02)
    assert all(row["correct"] is not None for row in items["choice"] + items["letters"])
    assert (
        before.files[0].sha256
        == hashlib.sha256((storage.root / before.location / "items.parquet").read_bytes()).hexdigest()
    )
    assert evaluate(CONFIG.replace(pool="train", kv_cache_gib=0.5), model, dataset, storage) == before  # made already

    small = quantize(QuantizeConfig(num_calibration_sequences=8, calibration_length=64), model, dataset, storage)
    assert small.num_calibration_sequences == 8
    assert 0 < small.num_weight_bytes < small.num_weight_bytes_before == model.num_weight_bytes
    folder = storage.root / small.folder
    assert (
        json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
    )
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (
            storage.root / model.folder / name
        ).read_bytes() or name == "tokenizer.json"

    after = evaluate(CONFIG, small, dataset, storage)
    assert after.score("text").value == pytest.approx(before.score("text").value, rel=0.05)
    assert {r["id"] for rows in read_items(storage, after).values() for r in rows} == {
        r["id"] for rows in items.values() for r in rows
    }
    four_bits = QuantizeConfig(
        scheme="W4A16",
        group_size=32,
        method="awq",
        keep_most_sensitive=1,
        num_calibration_sequences=4,
        calibration_length=32,
    )
    assert refusals((four_bits,), CONFIG, {}) == [cannot_serve(four_bits, hardware_here(0))]  # one machine asks itself
    packed = quantize(four_bits, model, dataset, storage)
    assert packed.num_weight_bytes < model.num_weight_bytes
    kept = json.loads((storage.root / packed.folder / "sensitivity.json").read_text())["kept"]
    told = json.loads((storage.root / packed.folder / "config.json").read_text())["quantization_config"]
    weights = told["config_groups"]["group_0"]["weights"]
    assert (told["format"], weights["num_bits"], weights["group_size"]) == ("pack-quantized", 4, 32)
    assert kept
    assert {*kept, "lm_head"} <= set(told["ignore"])

    requirements = (
        RequirementConfig(compare="quantized vs trained", tasks="all", margin_percent=50, effect_percent=90),
    )
    verdict = gate(GateConfig(requirements=requirements), before, before, after, storage)
    assert verdict.outcome != "failed"
    assert {check.task for check in verdict.checks} == {task.name for task in TASKS}
    assert {found.task for found in verdict.differences["quantized vs base"]} == {task.name for task in TASKS}


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_a_cache_in_fp8_is_what_vllm_is_judged_with(
    storage: LocalStorage, dataset: Dataset, model: ImportedModel
) -> None:
    plan = QuantizeConfig(scheme="BF16", kv_cache="fp8", num_calibration_sequences=4, calibration_length=64)
    (refused,) = refusals((plan,), CONFIG, config_of(storage, model))
    assert refused == cannot_serve(plan, hardware_here(0), 32)
    if refused:
        pytest.skip(refused)
    text = CONFIG.replace(tasks=TASKS[:1])
    before = read_items(storage, evaluate(text, model, dataset, storage))["text"]

    small = quantize(plan, model, dataset, storage)
    assert (small.kv_cache, small.num_calibration_sequences) == ("fp8", 4)
    told = config_of(storage, small)
    assert told["quantization_config"]["config_groups"] == {}  # weights as they were
    assert bytes_per_token(told) == (bytes_per_token(config_of(storage, model)) or 0) // 2
    file = storage.root / small.folder / "model.safetensors"
    scales = {name: tensor for name, tensor in load_file(file).items() if name.endswith(("k_scale", "v_scale"))}
    assert len(scales) == 4  # of two layers

    after = read_items(storage, evaluate(text, small, dataset, storage))["text"]
    pairs = [(old["nll"], new["nll"]) for old, new in zip(before, after, strict=True)]
    assert all(new == pytest.approx(old, rel=0.02) and new != old for old, new in pairs)

    # Scales a thousand times too small cut keys and values off: vLLM takes those of the folder, and the figures show them.
    save_file(
        {**load_file(file), **{name: one / 1000 for name, one in scales.items()}}, file, metadata={"format": "pt"}
    )
    other = small.replace(num_calibration_sequences=0)  # the same folder under another digest: evaluated anew
    spoilt = read_items(storage, evaluate(text, other, dataset, storage))["text"]
    moved = [abs(row["nll"] / old - 1) for row, (old, _) in zip(spoilt, pairs, strict=True)]
    assert max(moved) > 10 * max(abs(new / old - 1) for old, new in pairs)


@pytest.mark.parametrize(
    ("spoil", "config", "error", "found"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), CONFIG, InputError, "no tokenizer"),
        (lambda folder: (folder / "config.json").write_text("{"), CONFIG, InputError, "damaged"),
        (lambda folder: None, CONFIG.replace(max_model_len=4096), InputError, "at most 1024 tokens"),
    ],
)
def test_a_model_that_cannot_be_evaluated_is_refused_before_an_engine_starts(
    storage: LocalStorage,
    dataset: Dataset,
    model: ImportedModel,
    spoil: Callable[[Path], None],
    config: EvaluateConfig,
    error: type[Exception],
    found: str,
) -> None:
    spoil(storage.root / model.folder)
    with pytest.raises(error, match=found):
        evaluate(config, model, dataset, storage)


@pytest.mark.integration
@pytest.mark.usefixtures("ray_cluster")
def test_too_little_memory_is_told_by_the_process_that_lacks_it(
    storage: LocalStorage, dataset: Dataset, model: ImportedModel
) -> None:
    with pytest.raises(ResourceError, match=r"lower evaluate\.kv_cache_gib"):
        evaluate(CONFIG.replace(kv_cache_gib=1e6), model, dataset, storage)
    with pytest.raises(ResourceError, match="GiB are free"):
        quantize(QuantizeConfig(), model.replace(num_weight_bytes=10**15), dataset, storage)


def test_without_text_neither_stage_begins(storage: LocalStorage, model: ImportedModel) -> None:
    empty = Dataset(key="e" * 16)
    with pytest.raises(InputError, match="no held-out documents"):
        evaluate(CONFIG, model, empty, storage)
    with pytest.raises(InputError, match="calibrate"):
        quantize(QuantizeConfig(), model, empty, storage)

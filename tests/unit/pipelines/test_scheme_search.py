"""Quantize until it passes: the decision as a table, and the search on real items files with a gate that is the real one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import pipelines.search
from cluster import artifacts
from cluster.artifacts import Dataset, EvalReport, ImportedModel, QuantizedModel, SchemeAttempt, SchemeSearch, Weights
from cluster.errors import GateFailed, InputError, ResourceError
from cluster.storage import LocalStorage, Storage
from pipelines import lifecycle
from pipelines.config import (
    EvaluateConfig,
    GateConfig,
    LifecycleConfig,
    QuantizeConfig,
    RequirementConfig,
    Stage,
    TrainConfig,
)
from pipelines.evaluation import report_page
from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.evaluate import _write_items
from pipelines.evaluation.evaluate import key_of as report_key
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.judged import find_search
from pipelines.evaluation.report import of_gate
from pipelines.evaluation.strata import placed, with_strata
from pipelines.evaluation.tasks import build_items
from pipelines.evaluation.verdict import gate
from pipelines.lifecycle import Run
from pipelines.publish import check_passed
from pipelines.quantization.quantize import key_of as quantize_key
from pipelines.quantization.search import Choose, GiveUp, Step, Tried, Try, next_step
from pipelines.search import Before, Result, search
from pipelines.task_config import TaskConfig
from serinus import app


def tried(outcome: str, *lost_before: str) -> Tried:
    return Tried(SchemeAttempt.model_validate({"scheme": "s", "outcome": outcome}), lost_before)


SKIPPED, REFUSED, PASSED = tried("skipped"), tried("refused"), tried("passed")
UNTRAINED = tried("refused", "text: trained vs base")


@pytest.mark.parametrize(
    ("num_schemes", "found", "step"),
    [
        (3, [], Try(0)),
        (3, [SKIPPED], Try(1)),
        (3, [SKIPPED, REFUSED], Try(2)),
        (3, [PASSED], Choose(0)),
        (3, [SKIPPED, REFUSED, PASSED], Choose(2)),
        (2, [REFUSED, SKIPPED], GiveUp("every scheme that can be served here was refused")),
        (2, [REFUSED, REFUSED], GiveUp("every scheme that can be served here was refused")),
        (2, [SKIPPED, SKIPPED], GiveUp("none of the schemes can be served on this hardware")),
        (3, [UNTRAINED], GiveUp("no scheme can mend text: trained vs base: it is the training's")),
    ],
)
def test_what_follows_from_what_was_tried(num_schemes: int, found: list[Tried], step: Step) -> None:
    assert next_step(num_schemes, found) == step


# --- the search, with stand-ins for llmcompressor and vLLM that keep what they made as the real ones do -------------------

NUM_ITEMS = 200
LANGUAGES = ("de", "en")


def items(num_lost: int, losing: str) -> list[Row]:
    """Answers to the same questions in two languages: every third is hard, and of one language so many more are lost."""
    rows: list[Row] = []
    for i in range(NUM_ITEMS):
        language = LANGUAGES[i % 2]
        lost = (losing in ("", language)) and i // (1 if not losing else 2) < num_lost
        right = float(i % 3 > 0 and not lost)
        figures = {"score": right, "nll": 1.0, "num_tokens": 1, "num_bytes": 4, "correct": bool(right), "output": ""}
        rows.append({"task": "choice", "id": f"{i:03}", "language": language, "domain": "", **figures})
    return rows


def report_of(storage: Storage, model: str, num_lost: int = 0, losing: str = "", key: str = "") -> EvalReport:
    rows = items(num_lost, losing)
    made = EvalReport(
        key=key or artifacts.stage_key("evaluate", {}, {"model": model}),
        model=model,
        scores=(scores_of("choice", "multiple_choice", rows)[0],),
        took_s=2,
    )
    return artifacts.save(storage, made.replace(files=(_write_items(storage, made, rows),)))


@dataclass
class World:
    """Counts what is really made; `lost` says how many answers a scheme costs, and in which language."""

    storage: LocalStorage
    before: Before
    lost: dict[str, tuple[int, str]] = field(default_factory=dict)
    no_hardware_for: tuple[str, ...] = ("FP8", "W4A16")
    made: list[str] = field(default_factory=list)
    break_off_at: str = ""
    num_asked: int = 0
    """Times that a node of the pool was asked what it can run, for which one must be free."""

    def quantize(self, plan: QuantizeConfig, model: Weights, dataset: Dataset, storage: Storage) -> QuantizedModel:
        key = quantize_key(plan, model, dataset)
        if (found := artifacts.load(storage, QuantizedModel, key)) is not None:
            return found
        self.made.append(f"quantize {plan.label}")
        size = {"W4A16": 250, "W8A8": 500, "BF16": 1000}[plan.scheme]
        made = QuantizedModel(key=key, scheme=plan.label, num_weight_bytes=size, num_weight_bytes_before=1000, took_s=3)
        return artifacts.save(storage, made)

    def evaluate(self, config: EvaluateConfig, model: QuantizedModel, dataset: Dataset, storage: Storage) -> EvalReport:
        key = report_key(config, model, dataset)
        if (found := artifacts.load(storage, EvalReport, key)) is not None:
            return found
        if self.break_off_at == model.scheme:
            raise KeyboardInterrupt
        self.made.append(f"evaluate {model.scheme}")
        return report_of(storage, model.digest, *self.lost.get(model.scheme, (0, "")), key=key)

    def refusals(self, plans: tuple[QuantizeConfig, ...], engine: EvaluateConfig, told: object) -> list[str | None]:
        self.num_asked += 1
        return ["not on this machine" if plan.scheme in self.no_hardware_for else None for plan in plans]

    def run(self, *schemes: object, per: str = "task", remake_from: Stage | None = None, **engine: object) -> Result:
        self.made.clear()
        self.num_asked = 0
        work = Run("m", self.storage, "publish", remake_from)
        asked, anew = recipe(*schemes, per=per, **engine), work.remakes("quantize")
        return search(asked, self.before, self.storage, work.make, anew=anew)

    def record(self, result: Result) -> SchemeSearch:
        found = find_search(self.storage, result.verdict)
        assert found is not None
        return found


def recipe(*schemes: object, per: str = "task", **engine: object) -> LifecycleConfig:
    asked = {"compare": "quantized vs base", "tasks": "scores", "margin_percent": 5, "effect_percent": 12, "per": per}
    return LifecycleConfig.model_validate(
        {
            "name": "m",
            "storage": "store",
            "data": {"sources": [{"path": "raw"}]},
            "model": {"source": "model"},
            "evaluate": {"tasks": [{"name": "choice", "kind": "multiple_choice"}], **engine},
            "quantize": {"schemes": list(schemes)},
            "gate": {"requirements": [asked]},
        }
    )


@pytest.fixture
def world(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> World:
    trained = artifacts.save(storage, ImportedModel(key="b" * 16, num_weight_bytes=1000))
    (storage.root / trained.folder).mkdir(parents=True)
    made = World(
        storage,
        Before(Dataset(key="d" * 16), trained, report_of(storage, "base"), report_of(storage, "trained")),
    )
    for name in ("quantize", "evaluate", "refusals"):
        monkeypatch.setattr(pipelines.search, name, getattr(made, name))
    return made


RTN = {"scheme": "w8a8", "method": "rtn"}
ALL = ({"scheme": "w4a16", "method": "rtn"}, RTN, "w8a8", "fp8", "bf16")


def test_the_first_scheme_that_passes_is_taken_and_no_larger_one_is_made(world: World) -> None:
    world.lost["W8A8 by rtn"] = (60, "")  # as scales that are off by 2 would do
    result = world.run(*ALL)
    assert world.made == [
        "quantize W8A8 by rtn", "evaluate W8A8 by rtn", "quantize W8A8 by gptq", "evaluate W8A8 by gptq",
    ]  # fmt: skip
    found = world.record(result)
    assert (found.chosen, found.why) == ("W8A8 by gptq", "")
    assert [(a.scheme, a.outcome) for a in found.attempts] == [
        ("W4A16 in groups of 128 by rtn", "skipped"),
        ("W8A8 by rtn", "refused"),
        ("W8A8 by gptq", "passed"),
    ]
    skipped, refused, passed = found.attempts
    assert (skipped.reason, skipped.weights) == ("not on this machine", "")
    assert "a loss of more than 5 points is established" in refused.reason
    assert refused.num_weight_bytes == 500
    assert refused.took_s > 3 + 2  # the gate's time comes on top
    assert [(s.name, s.outcome) for s in refused.slices] == [("choice: quantized vs base", "failed")]
    assert refused.slices[0].recovery_percent < 80
    assert passed.slices[0].recovery_percent == 100
    assert artifacts.find(world.storage, passed.weights) == result.quantized
    assert result.verdict.passed


def test_run_again_or_after_an_interruption_nothing_is_made_twice(world: World) -> None:
    world.lost["W8A8 by rtn"] = (60, "")
    world.break_off_at = "W8A8 by gptq"
    with pytest.raises(KeyboardInterrupt):
        world.run(*ALL)
    assert world.made == ["quantize W8A8 by rtn", "evaluate W8A8 by rtn", "quantize W8A8 by gptq"]
    world.break_off_at = ""
    result = world.run(*ALL)
    assert world.made == ["evaluate W8A8 by gptq"]
    before = world.record(result)
    assert world.run(*ALL) == result
    assert world.made == []
    assert world.record(result).digest == before.digest


def test_what_is_made_does_not_ask_the_hardware_which_serving_may_hold(world: World) -> None:
    world.lost["W8A8 by rtn"] = (60, "")
    result = world.run(*ALL)
    assert world.num_asked == 1
    assert world.run(*ALL) == result
    assert world.num_asked == 0  # also not for W4A16, which was skipped

    world.no_hardware_for = ()
    assert world.run(*ALL, pool="train").quantized.scheme.startswith("W4A16")  # another pool is another question
    assert world.num_asked == 1
    assert world.run(*ALL, remake_from="quantize").quantized.scheme.startswith("W4A16")
    assert world.num_asked == 1


def test_hardware_is_asked_again_where_nothing_could_be_served(world: World) -> None:
    for _ in range(2):
        with pytest.raises(ResourceError):
            world.run("fp8", "w4a16")
        assert world.num_asked == 1


@pytest.mark.parametrize("remake_from", [None, "quantize"])
def test_a_single_scheme_that_is_made_asks_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, remake_from: Stage | None
) -> None:
    before, asked = world.before, []
    monkeypatch.setattr(lifecycle, "clean", lambda *given: before.dataset)
    monkeypatch.setattr(lifecycle, "import_model", lambda *given: before.trained)
    monkeypatch.setattr(lifecycle, "train", lambda *given: before.trained)
    monkeypatch.setattr(lifecycle, "quantize", world.quantize)
    monkeypatch.setattr(
        lifecycle,
        "evaluate",
        lambda config, model, *rest: (
            world.evaluate(config, model, *rest) if isinstance(model, QuantizedModel) else before.trained_report
        ),
    )
    monkeypatch.setattr(lifecycle, "check_servable", lambda plan, engine, told: asked.append(plan.label))
    asked_for = recipe("w8a8", contamination=False)
    lifecycle.run(asked_for, world.storage, until="quantize")
    assert asked == ["W8A8 by gptq"]
    lifecycle.run(asked_for, world.storage, until="quantize", remake_from=remake_from)
    assert len(asked) == (1 if remake_from is None else 2)


def test_calibration_after_private_training_is_warned_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(lifecycle, "say", lambda stage, text: said.append(text))
    monkeypatch.setattr(lifecycle, "clean", lambda *given: world.before.dataset)
    private = TrainConfig.model_validate({"zero": {"stage": 1}, "privacy": {"target_epsilon": 3}})
    rounded = {"scheme": "W8A8", "method": "rtn"}
    for schemes, train, num in (
        (("w8a8",), private, 1),
        ((rounded,), private, 0),
        (({**rounded, "keep_most_sensitive": 1},), private, 1),
        (("w8a8",), TrainConfig(), 0),
    ):
        said.clear()
        lifecycle.run(recipe(*schemes).replace(train=train), world.storage, until="clean")
        assert len(said) == num
        assert all("train.privacy ends with the trained model" in text for text in said)


def test_a_slice_that_loses_is_seen_where_the_whole_hides_it(world: World) -> None:
    """Of 200 answers 12 are lost, all of them German: 6 points in all, 12 of the German ones, where 12 cannot be excluded."""
    world.lost["W8A8 by gptq"] = (18, "de")
    assert world.run("w8a8", "bf16").quantized.num_weight_bytes == 500
    result = world.run("w8a8", "bf16", per="language")
    assert result.quantized.num_weight_bytes == 1000
    refused, _ = world.record(result).attempts
    assert {found.name: found.outcome for found in refused.slices} == {
        "choice (language de): quantized vs base": "inconclusive",
        "choice (language en): quantized vs base": "passed",
    }


def test_when_none_passes_the_gate_says_no(world: World) -> None:
    world.lost |= {"W8A8 by gptq": (60, ""), "BF16": (60, "")}
    result = world.run("w8a8", "bf16")
    assert world.record(result).why == "every scheme that can be served here was refused"
    with pytest.raises(GateFailed, match="choice: quantized vs base"):
        check_passed("m", result.verdict, world.storage)


def test_where_nothing_can_be_served_the_remedy_is_told(world: World) -> None:
    with pytest.raises(ResourceError, match=r"add a scheme that runs there"):
        world.run("fp8", {"scheme": "w4a16", "group_size": 32})
    assert world.made == []


def test_gate_explain_tells_the_search(world: World, tmp_path: Path) -> None:
    world.lost["W8A8 by rtn"] = (60, "")
    result = world.run(*ALL)
    world.storage.write("artifacts/search/0000/manifest.json", b'{"kind": "search", "of": "another version"}')
    path = world.storage.root / result.verdict.location / "manifest.json"
    told = CliRunner().invoke(app, ["gate", "explain", str(path)])
    assert told.exit_code == 0
    lines = told.output.splitlines()
    assert "schemes in the order they were tried: W8A8 by gptq is taken" in lines
    assert "  W4A16 in groups of 128 by rtn: skipped, not on this machine" in lines
    assert any(line.startswith("  W8A8 by rtn: REFUSED, 0 MB of 0 (50%)") for line in lines)
    alone = tmp_path / "copied.json"
    alone.write_bytes(path.read_bytes())
    assert "schemes in the order" not in CliRunner().invoke(app, ["gate", "explain", str(alone)]).output


def test_the_report_says_what_each_scheme_cost_and_saved(world: World, tmp_path: Path) -> None:
    world.lost["W8A8 by rtn"] = (60, "")
    result = world.run(*ALL)
    report = of_gate(world.storage, "m", result.verdict, ())
    assert report.search == world.record(result)
    assert any(one.role == "search" and one.digest == report.search.digest for one in report.evidence)
    page, told = report_page.write(report, tmp_path)
    text = page.read_text()
    part = text.partition("<h2>Schemes that were tried</h2>")[2].partition("<h2>")[0]
    assert "W8A8 by gptq is taken" in part
    assert part.count('<span class="failed">refused</span>') == 1
    assert '<td class="n">500</td><td class="n">50%</td>' in part
    assert "not on this machine" in part
    lost = next(line for line in part.split("<tr>") if "<td>W8A8 by rtn</td><td>must</td><td>paired test</td>" in line)
    assert 'class="failed">FAILED' in lost, "the slice that refused it, with what it kept"
    assert f"{report.search.attempts[1].slices[0].recovery_percent:.1f} %" in lost
    assert json.loads(told.read_text())["search"]["chosen"] == "W8A8 by gptq"


# --- slices in the gate -----------------------------------------------------------------------------------------------

PER_DOMAIN = RequirementConfig(compare="quantized vs base", tasks="scores", per="domain")


def test_a_slice_that_no_item_belongs_to_is_no_pass(world: World) -> None:
    base = world.before.base_report
    with pytest.raises(InputError, match="no evaluated item says its domain"):
        gate(GateConfig(requirements=(PER_DOMAIN,)), base, base, base, world.storage)


def test_items_say_where_they_come_from(storage: LocalStorage, tmp_path: Path) -> None:
    dataset = Dataset(key="d" * 16)
    folder = storage.root / dataset.location / "heldout"
    folder.mkdir(parents=True)
    columns = {"id": ["a", "b"], "text": ["x", "y"], "language": ["de", None], "source": ["web/a.txt", "manual/b.txt"]}
    pq.write_table(pa.table(columns), folder / "0.parquet")
    items = [Item("t", "perplexity", f"{name}@0", "", ("x",)) for name in ("a", "b", "c")]
    found = placed(items, storage, dataset)
    assert [(item.language, item.domain) for item in found] == [("de", "web"), ("", "manual"), ("", "")]
    rows = with_strata(found, [{"task": "t", "id": "b@0", "score": 1.0}])
    said = {"language": "", "domain": "manual", "num_prompt_characters": 1}
    assert rows == [{"task": "t", "id": "b@0", "score": 1.0, **said}]

    path = tmp_path / "items.jsonl"
    path.write_text('{"text": "x", "language": "de"}\n{"text": "y", "domain": null}\n')
    of_file = build_items(TaskConfig(name="t", kind="perplexity", path=str(path)), [], 0)
    assert sorted((item.language, item.domain) for item in of_file) == [("", ""), ("de", "")]
    path.write_text('{"text": "x", "language": ["de"]}\n')
    with pytest.raises(InputError, match="`language` is not a text"):
        build_items(TaskConfig(name="t", kind="perplexity", path=str(path)), [], 0)


def test_a_gate_without_slices_keeps_the_key_it_had(world: World) -> None:
    asked = GateConfig(requirements=(RequirementConfig(compare="quantized vs base", tasks="scores"),))
    base = world.before.base_report
    settings = {**asked.model_dump(mode="json"), "rule_version": 1}
    del settings["requirements"][0]["per"], settings["contamination"], settings["before_quantizing"]
    inputs = dict.fromkeys(("base", "trained", "quantized"), base.digest)
    assert gate(asked, base, base, base, world.storage).key == artifacts.stage_key("gate", settings, inputs)

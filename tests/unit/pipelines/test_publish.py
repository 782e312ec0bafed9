"""Publishing: what passed becomes the candidate once, what failed says which bound it missed."""

from __future__ import annotations

import pytest

from cluster import artifacts, registry
from cluster.artifacts import Check, GateReport, Outcome, QuantizedModel
from cluster.errors import GateFailed, InputError
from cluster.storage import LocalStorage
from pipelines.lifecycle import Run
from pipelines.publish import publish_baseline, publish_candidate
from pipelines.training.budget import BudgetSpent


def weights(storage: LocalStorage, key: str = "11" * 8) -> QuantizedModel:
    return artifacts.save(storage, QuantizedModel(key=key, scheme="W8A8"))


def gate(storage: LocalStorage, *, outcome: Outcome = "passed", effect: float = 2.0) -> GateReport:
    check = Check(
        name="choice: quantized vs base", task="choice", metric="accuracy", priority="must", outcome=outcome,
        message="choice keeps 97 %", method="a test", num_items=500, old=0.8, new=0.776, harm=2.4, harm_low=1, harm_high=4,
        margin=1, effect=effect,
    )  # fmt: skip
    key = artifacts.stage_key("gate", effect, {})
    return artifacts.save(storage, GateReport(key=key, outcome=outcome, passed=outcome == "passed", checks=(check,)))


def test_what_passed_is_the_candidate_and_leads_back_to_its_weights_and_gate(storage: LocalStorage) -> None:
    made, verdict = weights(storage), gate(storage)

    revision = publish_candidate("m", made, verdict, storage)

    assert registry.aliases(storage, "m") == {"candidate": revision.revision}
    assert revision.inputs == {"weights": made.digest, "gate": verdict.digest}
    assert revision.weights == made.folder


def test_a_revision_keeps_its_cache_as_the_gate_judged_it(storage: LocalStorage) -> None:
    quantized = QuantizedModel(key="22" * 8, scheme="W8A8, KV cache in FP8", config={"kv_cache": "fp8"})
    revision = publish_candidate("m", artifacts.save(storage, quantized), gate(storage), storage)
    assert (quantized.kv_cache, revision.kv_cache) == ("fp8", "fp8")
    plain = publish_candidate("m", weights(storage), gate(storage), storage)
    assert (plain.kv_cache, plain.config) == (
        "",
        {"name": "m", "baseline": False},
    )  # its key is that of earlier versions


@pytest.mark.parametrize(("outcome", "says"), [("failed", "says no"), ("inconclusive", "cannot say")])
def test_what_did_not_pass_is_not_published_and_the_message_names_the_must(
    storage: LocalStorage, outcome: Outcome, says: str
) -> None:
    with pytest.raises(GateFailed, match=rf"{says}\n  - choice keeps 97 %\n.*serinus gate explain .*manifest.json"):
        publish_candidate("m", weights(storage), gate(storage, outcome=outcome), storage)

    assert registry.aliases(storage, "m") == {}


def test_publishing_again_moves_no_alias(storage: LocalStorage) -> None:
    made, verdict = weights(storage), gate(storage)
    revision = publish_candidate("m", made, verdict, storage)
    registry.move_aliases(storage, "m", {"stable": revision.revision, "candidate": None})

    again = publish_candidate("m", made, verdict, storage)

    assert again == revision
    assert registry.aliases(storage, "m") == {"stable": revision.revision}


def test_the_same_weights_judged_by_another_gate_are_another_revision(storage: LocalStorage) -> None:
    made = weights(storage)

    first = publish_candidate("m", made, gate(storage, effect=2), storage)
    second = publish_candidate("m", made, gate(storage, effect=3), storage)

    assert first.revision != second.revision
    assert first.weights == second.weights


def test_a_baseline_is_stable_and_says_that_no_gate_judged_it(storage: LocalStorage) -> None:
    revision = publish_baseline("m", weights(storage), storage)

    assert revision.baseline
    assert registry.aliases(storage, "m") == {"stable": revision.revision}


def test_published_weights_are_not_made_again_under_a_revision(storage: LocalStorage) -> None:
    made = weights(storage)
    publish_baseline("m", made, storage)
    work = Run("m", storage, "publish", "quantize")

    with pytest.raises(InputError, match="revisions never change"):
        work.make("quantize", "quantized", lambda: made)

    assert artifacts.load(storage, QuantizedModel, made.key) == made


def test_what_the_budget_of_its_data_does_not_let_be_made_again_stays(storage: LocalStorage) -> None:
    old = weights(storage)

    def build() -> QuantizedModel:
        if found := artifacts.load(storage, QuantizedModel, old.key):
            return found
        raise BudgetSpent("train.privacy.budget", "all is spent", "take other data")

    with pytest.raises(BudgetSpent):
        Run("m", storage, "publish", "quantize").make("quantize", "quantized", build)
    assert artifacts.load(storage, QuantizedModel, old.key) == old


def test_a_stage_before_the_one_to_remake_is_reused_and_that_one_made_again(storage: LocalStorage) -> None:
    old, builds = weights(storage), []

    def build() -> QuantizedModel:
        builds.append(1)
        return artifacts.load(storage, QuantizedModel, old.key) or weights(storage)

    assert Run("m", storage, "publish", "gate").make("quantize", "quantized", build) == old
    assert len(builds) == 1
    assert Run("m", storage, "publish", "quantize").make("quantize", "quantized", build).made_at > old.made_at
    assert len(builds) == 3

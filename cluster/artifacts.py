"""Manifests: frozen records of what was made, from what, by which rules.

A stage fills the folder `artifacts/<kind>/<key>/` and writes `manifest.json` there last, so the manifest is at once the
completion marker, the cache key (`key` is known before the work starts) and the lineage edge (`inputs` are digests).
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from cluster.config import StrictModel, is_none
from cluster.errors import Conflict, InputError
from cluster.intervals import wilson
from cluster.storage import ABSENT, Storage, sha256_of

VERSION = "0.1.0"

VOLATILE = frozenset({"made_at", "took_s"})
"""Fields that differ between two runs that made the same thing; the digest leaves them out."""


def digest(value: Any) -> str:
    """SHA-256 (hex, 64 digits) of `value` as canonical JSON: sorted keys, no white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class FileEntry(StrictModel):
    path: str
    """Relative to the artifact's folder."""
    num_bytes: int
    sha256: str


class Manifest(StrictModel):
    """What every artifact records."""

    kind: str
    key: str
    """16 hex digits of the digest of (stage, its configuration, the digests of its inputs)."""
    inputs: dict[str, str] = {}
    """Role -> digest of the input's manifest."""
    config: dict[str, Any] = {}
    files: tuple[FileEntry, ...] = ()
    made_by: str = ""
    """serinus and its version."""
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    took_s: float = 0.0

    @property
    def digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude=set(VOLATILE)))

    @property
    def location(self) -> str:
        """The artifact's folder in storage."""
        return f"artifacts/{self.kind}/{self.key}"

    @property
    def summary(self) -> str:
        """The figures in one line, for people."""
        return f"took {self.took_s:.0f} s"


class Source(StrictModel):
    """One input file as it was read."""

    path: str
    num_bytes: int
    sha256: str


class Batch(StrictModel):
    """One Parquet shard of a dataset: the hash of its documents and of the rules that made it."""

    path: str
    num_documents: int
    sha256: str
    """Of the documents' ids and texts in order, independent of Parquet's encoding."""
    rules: str
    """Digest of the rule set."""


class Dataset(Manifest):
    """Cleaned documents. `train/`, `heldout/` and `excluded/` hold Parquet; in = kept + excluded, always."""

    kind: Literal["dataset"] = "dataset"
    sources: tuple[Source, ...] = ()
    rules: tuple[str, ...] = ()
    """Names of the rules and filters in order."""
    rules_digest: str = ""
    num_documents: int = 0
    num_train: int = 0
    num_heldout: int = 0
    num_excluded_by_reason: dict[str, int] = {}
    num_changed_by_rule: dict[str, int] = {}
    num_protected_by_kind: dict[str, int] = {}
    """Values masked or hashed in kept documents."""
    num_characters_in: int = 0
    num_characters_kept: int = 0
    batches: tuple[Batch, ...] = ()

    @property
    def num_kept(self) -> int:
        return self.num_train + self.num_heldout

    @property
    def num_excluded(self) -> int:
        return sum(self.num_excluded_by_reason.values())

    @property
    def summary(self) -> str:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.num_excluded_by_reason.items()))
        excluded = f"{self.num_excluded} excluded" + (f" ({reasons})" if reasons else "")
        return f"{self.num_documents} documents in, {self.num_kept} kept ({self.num_heldout} held out), {excluded}"


class Record(Manifest):
    """What became of every document of the dataset with the same key, shard for shard and row for row, without their texts."""

    kind: Literal["record"] = "record"
    num_documents: int = 0

    @property
    def summary(self) -> str:
        return f"of {self.num_documents} documents"


class Agreement(StrictModel):
    """How far annotators agree on one layer, beyond chance."""

    layer: str
    alpha: float | None
    """Krippendorff's, nominal: 1 is full agreement, 0 what chance gives; None: nothing to compare."""
    num_units: int
    annotators: tuple[str, ...]


class Annotations(Manifest):
    """Layered annotations of a dataset's documents: `documents.jsonl`, the review queue `review.jsonl`, and `instruct.jsonl`."""

    kind: Literal["annotations"] = "annotations"
    dataset: str = ""
    """Key of the version that was annotated."""
    annotators: tuple[str, ...] = ()
    num_documents: int = 0
    num_given_by_layer: dict[str, int] = {}
    """After merging what several annotators say alike: given = accepted + for review."""
    num_accepted_by_layer: dict[str, int] = {}
    num_review_by_reason: dict[str, int] = {}
    num_conversations: int = 0
    agreement: tuple[Agreement, ...] = ()

    @property
    def num_review(self) -> int:
        return sum(self.num_review_by_reason.values())

    @property
    def summary(self) -> str:
        accepted = ", ".join(f"{num} {layer}" for layer, num in self.num_accepted_by_layer.items()) or "nothing"
        return f"{self.num_documents} documents: {accepted} accepted, {self.num_review} for review"


class Preferences(Manifest):
    """Pairs of answers made of users' votes: `pairs.jsonl` to train on, and `excluded.jsonl`; each vote is in one of them."""

    kind: Literal["preferences"] = "preferences"
    name: str = ""
    """The model's public name."""
    sources: tuple[Source, ...] = ()
    """The files of votes, by their keys in the storage."""
    num_votes: int = 0
    num_pairs: int = 0
    num_pairs_by_how: dict[str, int] = {}
    """`correction`: of one vote; `thumbs`: of two."""
    num_pairs_by_revision: dict[str, int] = {}
    """Whose answers are in them."""
    num_excluded_by_reason: dict[str, int] = {}
    num_protected_by_kind: dict[str, int] = {}
    """Values masked or hashed in votes that are in pairs."""

    @property
    def summary(self) -> str:
        reasons = ", ".join(f"{reason} {num}" for reason, num in self.num_excluded_by_reason.items())
        excluded = f"{sum(self.num_excluded_by_reason.values())} excluded" + (f" ({reasons})" if reasons else "")
        return f"{self.num_pairs} pairs of {self.num_votes} votes, {excluded}"


class Weights(Manifest):
    """A model whose Hugging Face folder (config, tokenizer, safetensors) is `model/` in the artifact's folder."""

    num_parameters: int = 0
    num_weight_bytes: int = 0
    """Of the safetensors files."""

    @property
    def folder(self) -> str:
        return f"{self.location}/model"

    @property
    def summary(self) -> str:
        return f"{self.num_parameters / 1e6:.0f} M parameters, {self.num_weight_bytes / 1e6:.0f} MB"


class ImportedModel(Weights):
    """A base model as it came, made a Hugging Face folder."""

    kind: Literal["model"] = "model"
    sources: tuple[Source, ...] = ()
    """The files it was made from. Where they lay is not on record: the same model in another folder is the same."""


class LossPoint(StrictModel):
    step: int
    loss: float
    learning_rate: float
    num_tokens: int
    """Trained on so far, over all ranks."""
    sequences_checksum: int = 0
    """Of the sequences that the step took, whichever rank took them (pipelines/training/packing.py)."""
    epsilon: float | None = Field(None, exclude_if=is_none)
    """Of private runs: what steps up to this one spent at the run's delta, at most. Their loss has noise, num_tokens is an
    expectation, and there is no checksum, which would tell who was drawn."""


class Incident(StrictModel):
    """A step that did not stand: the run went back to a checkpoint, and left that step's data out."""

    step: int
    """The optimizer step that it would have been, from 1."""
    reason: str
    sequences_checksum: int
    """Of the sequences left out."""
    back_to_step: int = 0


class Privacy(StrictModel):
    """What a private run promises: with or without any one of the examples, the model made is nearly as likely
    ((epsilon, delta)-differential privacy, Dwork et al. 2006), by the accountant named."""

    epsilon: float
    """Of this run."""
    delta: float
    noise_multiplier: float
    sample_rate: float
    """The chance of each example to be in a step."""
    num_steps: int
    max_gradient_norm: float
    accountant: str
    unit: str
    """What one example is."""
    num_examples: int
    """Taken as known to everybody."""
    epsilon_of_data: float
    """Of all private runs on the same data up to this one, added up."""
    delta_of_data: float
    is_guaranteed: bool
    """False where the noise came from a seed that the recipe names."""


class Ledger(StrictModel):
    """What a run cost. Work that was lost to an interruption or an incident is not in it."""

    num_tokens: int
    flops: float
    """Floating-point operations that the model needs."""
    flops_basis: str
    device: str
    num_devices: int
    precision: str = ""
    """What matrices were multiplied in."""
    mfu: float | None = None
    """Model FLOPs utilization, 0 to 1; None where the device's peak is not known."""
    trained_s: float
    """Inside optimizer steps."""
    energy_estimate_wh: float | None = None
    energy_basis: str
    """What the estimate rests on, or why there is none."""
    privacy: Privacy | None = Field(None, exclude_if=is_none)


class Retention(StrictModel):
    """What training left of the old documents' score, on held-out ones."""

    before: float
    """Nats a token, of the model that training began with."""
    after: float
    num_sequences: int

    @property
    def percent(self) -> float:
        """Perplexity before / after: 100 where nothing was lost."""
        return 100 * math.exp(self.before - self.after)


class PreferenceAccuracy(StrictModel):
    """On how many held-out pairs a model trained on preferences prefers the chosen answer, before training and after."""

    num_pairs: int
    num_before: int
    """The chosen answer has the larger log-probability, summed over its tokens: what the loss is written in (Rafailov et al.
    2023, arXiv 2305.18290). Among answers of different lengths it leans to the shorter one."""
    num_after: int
    num_turned_right: int
    """Among `num_after`, not among `num_before`."""
    num_turned_wrong: int
    num_before_per_token: int
    """The same of the mean log-probability of a token (Meng et al. 2024, arXiv 2405.14734), which leans to the longer one."""
    num_after_per_token: int
    num_rewarded: int
    """The implicit reward of the chosen answer is the larger: its log-probability has gained more than the other's. Before
    training every reward is 0, so that there is nothing to compare it to."""

    @property
    def gain_points(self) -> float:
        return 100 * (self.num_after - self.num_before) / self.num_pairs

    @property
    def summary(self) -> str:
        before, after = (f"{100 * num / self.num_pairs:.1f} %" for num in (self.num_before, self.num_after))
        low, high = (100 * limit for limit in wilson(self.num_after, self.num_pairs))
        return (
            f"prefers the chosen answer of {self.num_pairs} held-out pairs in {before} before, {after} after"
            f" [{low:.1f}, {high:.1f}]; implicit reward larger in {100 * self.num_rewarded / self.num_pairs:.1f} %"
        )


class Checkpoint(Weights):
    """A fine-tuned model, exported."""

    kind: Literal["checkpoint"] = "checkpoint"
    losses: tuple[LossPoint, ...] = ()
    num_workers: int = 0
    resumed_at_steps: tuple[int, ...] = ()
    """Optimizer steps from which the run continued after an interruption."""
    tokens_per_s: float = 0.0
    incidents: tuple[Incident, ...] = ()
    ledger: Ledger | None = None
    retention: Retention | None = Field(None, exclude_if=is_none)
    preference: PreferenceAccuracy | None = Field(None, exclude_if=is_none)
    """Where `dpo` held pairs out."""

    @property
    def summary(self) -> str:
        if not self.losses:
            return super().summary
        first, last = self.losses[0], self.losses[-1]
        told = f"loss {first.loss:.3f} -> {last.loss:.3f} in {last.step} steps, {last.num_tokens} tokens, {self.tokens_per_s:.0f}/s"
        return f"{told}; {self.preference.summary}" if self.preference else told


class InitialModel(Weights):
    """The base model's architecture and tokenizer, in a size of its own, with random weights."""

    kind: Literal["initial"] = "initial"
    seed: int = 0


class Prediction(StrictModel):
    """A loss that a scaling law predicts for a run, in nats a token of held-out text."""

    num_parameters: int
    num_tokens: int
    loss: float
    low: float
    high: float
    confidence: float
    """Of the interval from low to high."""

    @property
    def text(self) -> str:
        return f"{self.loss:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def percent(self) -> float:
        """Half the interval's width, of the loss."""
        return 50 * (self.high - self.low) / self.loss


class Coefficient(StrictModel):
    """Of a scaling law: median, and the interval of the forecast's confidence."""

    median: float
    low: float
    high: float


class ForecastCheck(StrictModel):
    """One thing that must hold before a stage starts."""

    name: str
    passed: bool
    message: str


class Forecast(Manifest):
    """What the runs of the stages so far say of the next one, written before it starts, and whether it may."""

    kind: Literal["forecast"] = "forecast"
    stage: int = 0
    """The next one, from 1."""
    law: str = ""
    num_runs: int = 0
    num_sizes: int = 0
    coefficients: dict[str, Coefficient] = {}
    fit_error_percent: float = 0.0
    """Root mean square over the runs."""
    predictions: tuple[Prediction, ...] = ()
    """Of the next stage's runs; the last one is the stage's own."""
    goal: Prediction | None = None
    """Of the last stage."""
    checks: tuple[ForecastCheck, ...] = ()
    passed: bool = False

    @property
    def summary(self) -> str:
        verdict = "passed" if self.passed else "failed"
        of = f"{self.num_runs} run(s) of {self.num_sizes} size(s), fit error {self.fit_error_percent:.2g} %"
        found = self.predictions[-1]
        return f"{verdict}: loss {found.text} at {found.confidence:.0%} predicted from {of}"


class StageRun(Manifest):
    """What one run of a stage came to, next to what was predicted."""

    kind: Literal["stage_run"] = "stage_run"
    stage: int = 0
    """From 1."""
    num_parameters: int = 0
    num_tokens: int = 0
    """Trained on."""
    sequence_length: int = 0
    loss: float = 0.0
    """Of held-out documents, nats a token."""
    num_heldout_tokens: int = 0
    context_length: int = 0
    """Of the windows that it was measured in, the same for all stages."""
    prediction: Prediction | None = None
    """None in the first stage."""

    @property
    def is_as_predicted(self) -> bool | None:
        found = self.prediction
        return None if found is None else found.low <= self.loss <= found.high

    @property
    def summary(self) -> str:
        size = f"{self.num_parameters / 1e6:.3g} M parameters, {self.num_tokens / 1e6:.3g} M tokens: held-out loss {self.loss:.3f}"
        if self.prediction is None:
            return size
        inside = "inside" if self.is_as_predicted else "OUTSIDE"
        return f"{size}, predicted {self.prediction.text}: {inside}"


class QuantizedModel(Weights):
    """A model saved as compressed-tensors."""

    kind: Literal["quantized"] = "quantized"
    scheme: str = ""
    num_weight_bytes_before: int = 0
    num_calibration_sequences: int = 0

    @property
    def summary(self) -> str:
        before, after = self.num_weight_bytes_before, self.num_weight_bytes
        return f"{self.scheme}, {before / 1e6:.0f} MB -> {after / 1e6:.0f} MB ({after / before:.0%})"


class Adapter(Manifest):
    """A LoRA adapter as PEFT writes it: `adapter/` in the artifact's folder."""

    kind: Literal["adapter"] = "adapter"
    base: str = ""
    """Revision it was checked against."""
    rank: int = 0
    """The largest one of any module."""
    target_modules: tuple[str, ...] = ()
    num_parameters: int = 0

    @property
    def folder(self) -> str:
        return f"{self.location}/adapter"

    @property
    def summary(self) -> str:
        return f"rank {self.rank} on {', '.join(self.target_modules)}, {self.num_parameters / 1e6:.2f} M parameters"


class Score(StrictModel):
    """One figure of one task on one model."""

    task: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    """95 % bootstrap interval over items."""
    num_items: int
    higher_is_better: bool = True


class EvalReport(Manifest):
    """Scores of one model; `items.parquet` has one row per item with the same ids for every model."""

    kind: Literal["evaluation"] = "evaluation"
    model: str = ""
    """Digest of the weights' manifest."""
    scores: tuple[Score, ...] = ()

    def score(self, task: str, metric: str = "") -> Score:
        """By default the task's first figure, which gates compare."""
        return next(s for s in self.scores if s.task == task and metric in ("", s.metric))

    @property
    def summary(self) -> str:
        return ", ".join(f"{s.task} {s.metric} {s.value:.4g} [{s.ci_low:.4g}, {s.ci_high:.4g}]" for s in self.scores)


class Difference(StrictModel):
    """A paired comparison of two models on the same items: `new - old` in the metric's unit."""

    task: str
    metric: str
    old: float
    new: float
    difference: float
    ci_low: float
    ci_high: float
    ratio: float
    """new / old."""
    num_items: int
    higher_is_better: bool = True


Outcome = Literal["passed", "failed", "inconclusive"]


class Check(StrictModel):
    """One requirement of a gate on one task, and what was found. Harm is how much worse the new model is: in points of a score
    (0 to 100), in percent of a perplexity; negative where it is better."""

    name: str
    """<task>: <new> vs <old>."""
    task: str
    metric: str
    priority: Literal["must", "should", "could"]
    outcome: Outcome
    message: str
    method: str
    """The test; empty where the figures are taken as they are."""
    num_items: int
    old: float
    new: float
    harm: float
    harm_low: float
    harm_high: float
    """One-sided bounds: at least `harm_low` with a confidence of 1 - alpha, at most `harm_high` with one of 1 - beta."""
    margin: float
    effect: float
    p_margin: float | None = None
    """Of "the harm is the margin or less"."""
    p_margin_adjusted: float | None = None
    """The same after Holm's adjustment over all tests of that priority: failed when at most alpha."""
    p_effect: float | None = None
    """Of "the harm is the effect or more": passed when at most beta."""
    num_items_if_equal: int | None = None
    """Items on which a model as good as the old one passes with a chance of `power`; None: out of reach."""
    num_items_if_as_found: int | None = None
    """Items on which the harm as found would be settled, one way or the other."""


class GateReport(Manifest):
    """The verdict on a model. `differences` maps "trained vs base", "quantized vs trained", "quantized vs base"."""

    kind: Literal["gate"] = "gate"
    outcome: Outcome = "inconclusive"
    """Of the musts together: failed when one failed, else inconclusive when one is, else passed."""
    passed: bool = False
    """Whether the model may be published: the outcome is passed, or inconclusive and the recipe lets that through."""
    checks: tuple[Check, ...] = ()
    differences: dict[str, tuple[Difference, ...]] = {}

    @property
    def warnings(self) -> tuple[Check, ...]:
        """What people should know of a model that is let through."""
        return tuple(
            check
            for check in self.checks
            if check.outcome != "passed" and (check.priority == "should" or (check.priority == "must" and self.passed))
        )

    @property
    def summary(self) -> str:
        musts = [check for check in self.checks if check.priority == "must"]
        num_passed = sum(check.outcome == "passed" for check in musts)
        warned = f", {len(self.warnings)} warning(s)" if self.warnings else ""
        return f"{self.outcome}: {num_passed} of {len(musts)} musts passed{warned}"


class SliceFinding(StrictModel):
    """What a gate found of one scheme on one slice of the items."""

    name: str
    """The check's: <task, or a slice of one>: <new> vs <old>."""
    metric: str
    priority: Literal["must", "should", "could"]
    outcome: Outcome
    old: float
    new: float
    recovery_percent: float
    """new / old, of a perplexity old / new; 100 where the old model scored nothing."""


class SchemeAttempt(StrictModel):
    """One scheme of a search, and what became of it."""

    scheme: str
    """For people, with its method."""
    outcome: Literal["passed", "refused", "skipped"]
    reason: str = ""
    """Why it was refused by the gate, or not tried."""
    weights: str = ""
    """Digest of the quantized model's manifest; empty where it was skipped, as are the next two."""
    report: str = ""
    gate: str = ""
    num_weight_bytes: int = 0
    took_s: float = 0.0
    """Quantizing, evaluating and judging."""
    slices: tuple[SliceFinding, ...] = ()


class SchemeSearch(Manifest):
    """Schemes tried from the smallest upward until one passed the gate."""

    kind: Literal["search"] = "search"
    chosen: str = ""
    """The scheme that passed; empty where none did."""
    why: str = ""
    """Why it ended without one."""
    attempts: tuple[SchemeAttempt, ...] = ()
    num_weight_bytes_before: int = 0

    @property
    def summary(self) -> str:
        return f"{self.chosen or 'none'} of " + ", ".join(f"{a.scheme} {a.outcome}" for a in self.attempts)


class WeightAttempt(StrictModel):
    """One weight of consolidation, and what became of it."""

    weight: float
    checkpoint: str
    """Digest of the trained model's manifest."""
    retention_percent: float
    loss: float
    """Of what is learnt, mean over the last tenth of the steps, nats."""
    took_s: float


class WeightSearch(Manifest):
    """Weights of consolidation that were tried, for the smallest that retains enough."""

    kind: Literal["weight_search"] = "weight_search"
    chosen: float | None = None
    """None where none of them retained enough."""
    min_retention_percent: float = 0.0
    attempts: tuple[WeightAttempt, ...] = ()

    @property
    def summary(self) -> str:
        tried = ", ".join(f"{a.weight:g} retains {a.retention_percent:.1f} %" for a in self.attempts)
        return f"{'none' if self.chosen is None else f'{self.chosen:g}'} taken: {tried}"


class Revision(Manifest):
    """An immutable, servable model under a public name."""

    kind: Literal["revision"] = "revision"
    name: str = ""
    """The model's public name."""
    revision: str = ""
    """<name>-<first 8 digits of the key>; serving applications carry it."""
    weights: str = ""
    """Storage folder of the Hugging Face model that is served."""
    base: str = ""
    """For an adapter: the revision in whose engine it runs, which has the same weights."""
    adapter: str = ""
    """For an adapter: storage folder of its PEFT files."""
    baseline: bool = False
    """Published without a gate: the base model, quantized the same way."""
    engine: dict[str, Any] = {}
    """Overrides of the recipe's engine settings for this revision alone."""

    @property
    def engine_revision(self) -> str:
        """The revision whose application answers for this one: its own, or that of an adapter's base."""
        return self.base or self.revision

    @property
    def summary(self) -> str:
        if self.adapter:
            return f"{self.revision} (adapter on {self.base}, judged by no gate)"
        return self.revision + (" (baseline: the base model, judged by no gate)" if self.baseline else "")


KINDS: dict[str, type[Manifest]] = {
    "dataset": Dataset,
    "record": Record,
    "annotations": Annotations,
    "preferences": Preferences,
    "model": ImportedModel,
    "checkpoint": Checkpoint,
    "initial": InitialModel,
    "forecast": Forecast,
    "stage_run": StageRun,
    "quantized": QuantizedModel,
    "adapter": Adapter,
    "evaluation": EvalReport,
    "gate": GateReport,
    "search": SchemeSearch,
    "weight_search": WeightSearch,
    "revision": Revision,
}

A = TypeVar("A", bound=Manifest)


def file_entries(folder: Path, name: str) -> tuple[FileEntry, ...]:
    """What lies in a local `folder` that is, or will become, the folder `name` of an artifact: for Manifest.files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        FileEntry(
            path=f"{name}/{path.relative_to(folder).as_posix()}",
            num_bytes=path.stat().st_size,
            sha256=sha256_of(path),
        )
        for path in paths
    )


def stage_key(stage: str, config: Any, inputs: dict[str, str]) -> str:
    """The key under which a stage's result is kept; `inputs` maps roles to digests."""
    return digest({"stage": stage, "config": config, "inputs": inputs})[:16]


def save(storage: Storage, manifest: A) -> A:
    """Write the manifest, last of all files of its artifact, and return it as written. Its digest is made findable first."""
    manifest = manifest.model_copy(update={"made_by": manifest.made_by or f"serinus {VERSION}"})
    storage.write(f"artifacts/by-digest/{manifest.digest}", manifest.location.encode())
    storage.write(f"{manifest.location}/manifest.json", manifest.model_dump_json(indent=1).encode())
    return manifest


def commit(storage: Storage, manifest: A) -> tuple[A, bool]:
    """As `save`, if nobody else has made that artifact. The manifest in force, and whether it is the one given.

    Of two writers one wins: the manifest is written by compare-and-set.
    """
    manifest = manifest.model_copy(update={"made_by": manifest.made_by or f"serinus {VERSION}"})
    name = f"{manifest.location}/manifest.json"
    storage.write(f"artifacts/by-digest/{manifest.digest}", manifest.location.encode())
    while True:
        present = storage.read(name)
        if present is not None and present.content:
            break
        try:
            content = manifest.model_dump_json(indent=1).encode()
            storage.write(name, content, expect=present.version if present else ABSENT)
            return manifest, True
        except Conflict:  # written since we looked
            continue
    other = load(storage, type(manifest), manifest.key)
    assert other is not None
    return other, False


def load(storage: Storage, kind: type[A], key: str) -> A | None:
    """The finished artifact of that kind and key, or None when there is none (yet).

    Raises:
        InputError: the manifest is damaged.
    """
    location = f"artifacts/{kind.model_fields['kind'].default}/{key}"
    blob = storage.read(f"{location}/manifest.json")
    if blob is None or not blob.content:
        return None
    try:
        return kind.model_validate_json(blob.content)
    except ValueError as error:
        raise InputError(
            f"{storage.uri}/{location}/manifest.json",
            f"not a {kind.__name__} manifest ({str(error).splitlines()[0]})",
            "remove that folder; the stage will be run again",
        ) from None


def retire(storage: Storage, manifest: Manifest) -> None:
    """Take the completion marker away, so that the artifact is made again under the same key."""
    storage.write(f"{manifest.location}/manifest.json", b"")


def find(storage: Storage, manifest_digest: str) -> Manifest | None:
    """The artifact with that digest, of whatever kind."""
    blob = storage.read(f"artifacts/by-digest/{manifest_digest}")
    if blob is None:
        return None
    _, kind, key = blob.content.decode().split("/")
    found = load(storage, KINDS[kind], key)
    return found if found is not None and found.digest == manifest_digest else None

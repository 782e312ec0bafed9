"""The recipe of a lifecycle, up to the published revision. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from cluster.config import Location, StrictModel
from cluster.openlineage import OpenLineageConfig
from cluster.storage_config import StorageConfig
from pipelines.schemes import SchemeConfig, SchemeEntry
from pipelines.task_config import UNGATED, Task

Pool = Literal["data", "train", "serve", "head"]

Stage = Literal["clean", "train", "evaluate", "quantize", "gate", "publish"]
"""In the order in which they run; importing the base model belongs to train."""
STAGES: tuple[Stage, ...] = get_args(Stage)


class SourceConfig(StrictModel):
    """Documents to read."""

    path: Location
    """A file, a folder (read recursively) or a glob; local or s3://."""
    format: Literal["auto", "jsonl", "parquet", "text", "html", "warc"] = "auto"
    """`auto` goes by the file's ending: .jsonl .ndjson .json .parquet .txt .md .rst .html .htm .warc .wet .wat .arc, each also
    .gz but Parquet."""
    text_field: str = "text"
    """Field or column with the text, for JSONL and Parquet."""
    id_field: str | None = None
    """Field or column with the document's id; without it the id is <file>#<line or row>."""


DEFAULT_RULE_NAMES = ("repair_unicode", "strip_urls", "strip_bracketed_references", "collapse_white_space")
BUILT_IN_RULES = (*DEFAULT_RULE_NAMES, "c4_lines")


class RuleConfig(StrictModel):
    """A rewriting rule: a built-in by name, or a regular expression with its replacement."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    pattern: str | None = None
    """RE2 expression; leave it out for a built-in rule."""
    replacement: str = ""

    @model_validator(mode="after")
    def _known(self) -> RuleConfig:
        if self.pattern is None and self.name not in BUILT_IN_RULES:
            raise ValueError(
                f"no built-in rule `{self.name}` (there are {', '.join(BUILT_IN_RULES)}); give it a pattern"
            )
        return self


DEFAULT_RULES = tuple(RuleConfig(name=name) for name in DEFAULT_RULE_NAMES)


class FineWebConfig(StrictModel):
    """FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6), meant for pages of the web."""

    min_terminated_line_fraction: float = Field(0.12, ge=0, le=1)
    """Lines that end with a mark that ends a sentence, or a quote behind one."""
    max_duplicate_line_character_fraction: float = Field(0.1, ge=0, le=1)
    """The paper's; the code that FineWeb was made with asks 0.01."""
    max_short_line_fraction: float = Field(0.67, ge=0, le=1)
    short_line_characters: int = Field(30, ge=0)
    """Lines of at most so many characters are short."""
    max_newlines_per_word: float = Field(0.3, ge=0)
    """Not in the paper: of the code that FineWeb was made with."""


class C4Config(StrictModel):
    """C4's rules on whole pages (Raffel et al. 2020, JMLR 21/140, section 2.2); those on lines are the rule `c4_lines`."""

    min_sentences: int = Field(3, ge=0)
    drop_curly_brackets: bool = True
    """Pages with a curly bracket are mostly code."""
    drop_lorem_ipsum: bool = True


Fraction = Annotated[float, Field(ge=0, le=1)]
SixFractions = tuple[Fraction, Fraction, Fraction, Fraction, Fraction, Fraction]


class FilterConfig(StrictModel):
    """What a document must be to be kept. Defaults: Gopher (Rae et al. 2021, arXiv 2112.11446, table A1) where it has one."""

    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2}$")], ...] = ()
    """ISO 639-1 codes to keep; empty keeps all."""
    min_language_confidence: float = Field(0.65, ge=0, le=1)
    """FineWeb's threshold (Penedo et al. 2024, arXiv 2406.17557, section 3.3)."""
    min_words: int = Field(50, ge=0)
    max_words: int = Field(100_000, ge=1)
    min_mean_word_length: float = Field(3.0, ge=0)
    max_mean_word_length: float = Field(10.0, gt=0)
    max_symbol_word_ratio: float = Field(0.1, ge=0)
    """Number signs and ellipses per word."""
    max_bullet_line_fraction: float = Field(0.9, ge=0, le=1)
    max_ellipsis_line_fraction: float = Field(0.3, ge=0, le=1)
    min_alphabetic_word_fraction: float = Field(0.8, ge=0, le=1)
    min_stop_words: int = Field(2, ge=0)
    """Distinct words of the, be, to, of, and, that, have, with; asked of English documents only."""
    max_duplicate_line_fraction: float = Field(0.3, ge=0, le=1)
    max_duplicate_line_character_fraction: float = Field(0.2, ge=0, le=1)
    max_top_2_gram_character_fraction: float = Field(0.2, ge=0, le=1)
    max_top_3_gram_character_fraction: float = Field(0.18, ge=0, le=1)
    max_top_4_gram_character_fraction: float = Field(0.16, ge=0, le=1)
    max_duplicate_paragraph_fraction: float = Field(0.3, ge=0, le=1)
    max_duplicate_paragraph_character_fraction: float = Field(0.2, ge=0, le=1)
    max_duplicate_n_gram_character_fractions: SixFractions = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)
    """Characters of all repeated n-grams of words, each counted once: for n = 5, 6, 7, 8, 9 and 10."""
    c4: C4Config | None = None
    """Leave it out for none of C4's rules on pages, or give `{}` for all with their defaults."""
    fineweb: FineWebConfig | None = None
    """Leave it out for none of FineWeb's rules, or give `{}` for all with their defaults."""

    @model_validator(mode="after")
    def _ordered(self) -> FilterConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is above max_words ({self.max_words})")
        if self.min_mean_word_length > self.max_mean_word_length:
            raise ValueError("min_mean_word_length is above max_mean_word_length")
        return self


class DedupConfig(StrictModel):
    exact: bool = True
    near: bool = True
    """MinHash over word n-grams with locality-sensitive hashing."""
    ngram: int = Field(5, ge=1)
    num_bands: int = Field(14, ge=1)
    rows_per_band: int = Field(8, ge=1)
    """14 x 8 finds pairs of Jaccard similarity 0.75 with probability 0.77 (FineWeb, section 3.4)."""
    against: tuple[Annotated[str, Field(pattern="^[0-9a-f]{4,64}$")], ...] = ()
    """Earlier versions of the dataset in the same storage (`serinus data log`), by key or digest or the beginning of one: what
    they keep counts as there already. They must have been made with the same ngram, num_bands and rows_per_band."""


ProtectedKind = Literal["email", "phone", "credit_card", "iban", "ip_address", "secret"]
ProtectAction = Literal["mask", "hash", "drop"]


class ProtectConfig(StrictModel):
    """Personal data and secrets, by kind: `mask` puts `[EMAIL]` in the place of a value; `hash` puts `[EMAIL_1f0c...]`,
    the same for the same value; `drop` leaves the document out. Kinds that are not named stay as they are."""

    email: ProtectAction | None = None
    phone: ProtectAction | None = None
    """International numbers, North American ones, and groups of digits behind a 0 or brackets."""
    credit_card: ProtectAction | None = None
    """With a valid check digit."""
    iban: ProtectAction | None = None
    """With valid check digits."""
    ip_address: ProtectAction | None = None
    """Public ones, versions 4 and 6."""
    secret: ProtectAction | None = None
    """Access keys and tokens of well-known services, JSON Web Tokens, private keys."""
    key_file: Location | None = None
    """Holds the secret for `hash`, 16 to 64 bytes: without one anybody could hash all telephone numbers. Never recorded."""

    @property
    def actions(self) -> dict[ProtectedKind, ProtectAction]:
        """Of the kinds that are named."""
        kinds: tuple[ProtectedKind, ...] = get_args(ProtectedKind)
        return {kind: action for kind in kinds if (action := getattr(self, kind))}

    @model_validator(mode="after")
    def _keyed(self) -> ProtectConfig:
        if "hash" in self.actions.values() and self.key_file is None:
            raise ValueError("hash needs a key_file with 16 to 64 secret bytes; `mask` needs none")
        return self


class EvaluationSetConfig(StrictModel):
    """Items that a model is to be asked, which must not be among what it learns from."""

    path: Location
    """JSON lines, an item a line; a file, folder or glob, local or s3://."""
    id_field: str = "id"
    """Names the item in the record; without it the line does."""
    fields: tuple[str, ...] = ()
    """Fields whose texts are looked for, in lists and objects too; empty: all."""


class DecontaminateConfig(StrictModel):
    """Documents that share a run of words with an item are excluded (Brown et al. 2020, arXiv 2005.14165, appendix C)."""

    sets: tuple[EvaluationSetConfig, ...] = Field(min_length=1)
    ngram: int = Field(13, ge=4)
    """Words in a run, in lower case and without punctuation."""
    min_words: int = Field(8, ge=4)
    """Texts of fewer words than `ngram` are looked for whole, if they have so many; shorter ones are found everywhere."""

    @model_validator(mode="after")
    def _ordered(self) -> DecontaminateConfig:
        if self.min_words > self.ngram:
            raise ValueError(f"min_words ({self.min_words}) is above ngram ({self.ngram})")
        return self


class DataConfig(StrictModel):
    """From raw documents to a dataset."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    rules: tuple[RuleConfig, ...] = DEFAULT_RULES
    """Applied in this order."""
    protect: ProtectConfig = ProtectConfig()
    """Comes behind the rules and before the filters."""
    filters: FilterConfig = FilterConfig()
    decontaminate: DecontaminateConfig | None = None
    """Comes behind the filters. Leave it out and no evaluation set is looked at."""
    dedup: DedupConfig = DedupConfig()
    max_document_bytes: int = Field(10_000_000, ge=1)
    """A longer document is excluded as `too_large`."""
    heldout_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the kept documents set apart for evaluation, chosen by a hash of the document's text."""
    documents_per_shard: int = Field(2_000, ge=1)
    pool: Pool = "data"

    @field_validator("rules")
    @classmethod
    def _named_once(cls, rules: tuple[RuleConfig, ...]) -> tuple[RuleConfig, ...]:
        names = [rule.name for rule in rules]
        if repeated := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"rule names must differ, repeated: {', '.join(sorted(repeated))}")
        return rules


class ModelConfig(StrictModel):
    """The base model."""

    source: Location
    """A Hugging Face folder, a .gguf file, or hf://organisation/name on the hub."""
    revision: str = "main"
    """Of the hub's repository; ignored for files."""
    trust_remote_code: Literal[False] = False
    """Never: code from a model folder is not run."""


class ZeroConfig(StrictModel):
    """DeepSpeed's sharding (Rajbhandari et al. 2020, arXiv 1910.02054)."""

    stage: Literal[0, 1, 2, 3] = 3
    offload_optimizer: bool = False
    """Keep optimizer states in CPU memory."""
    offload_parameters: bool = False
    extra: dict[str, Any] = {}
    """Merged over the DeepSpeed dictionary last."""


class CausalConfig(StrictModel):
    """Every token of the dataset's documents from those before it."""

    kind: Literal["causal"] = "causal"


class InstructConfig(StrictModel):
    """The assistant's turns of conversations, by the model's chat template; what it is asked is no target."""

    kind: Literal["instruct"] = "instruct"
    path: Location
    """JSONL with `messages` (a list of `role` and `content` that ends with the assistant's), or `prompt` and `answer`."""


class PreferenceConfig(StrictModel):
    """Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290): of two answers, more of the chosen one."""

    kind: Literal["dpo"] = "dpo"
    path: Location
    """JSONL with `prompt` (text, or a list of messages), `chosen` and `rejected`."""
    beta: float = Field(0.1, gt=0)
    """How closely the model is kept to the one that training begins with: the larger, the closer."""


MethodConfig = Annotated[CausalConfig | InstructConfig | PreferenceConfig, Field(discriminator="kind")]


class ReplayConfig(StrictModel):
    """Old documents among the new, so that what was learnt from them is not forgotten."""

    dataset: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Key of a dataset in the same storage: the folder's name under artifacts/dataset/."""
    fraction: float = Field(gt=0, lt=1)
    """Of the sequences that a run takes: the old documents'."""


class ConsolidationConfig(StrictModel):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): weights that mattered for old documents are
    held near where they were."""

    dataset: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Key of the old documents' dataset in the same storage."""
    weight: float = Field(gt=0)
    """Of the penalty; the paper's lambda. What is right depends on model and data: search over powers of ten."""
    num_sequences: int = Field(256, ge=1)
    """Of the old documents, to tell which weights mattered. They are gone through at every start of the run."""


class LoraConfig(StrictModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): small matrices beside frozen weights are trained."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    """What the matrices say is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of what goes into them, in training."""
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Names of linear modules (q_proj, ...); `all-linear`: all but the output embedding (Dettmers et al. 2023, arXiv
    2305.14314, section 4)."""

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


class BudgetConfig(StrictModel):
    """What all private runs on the same data may spend together, as a promise to those whose data it is."""

    epsilon: float = Field(3.0, gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)


class PrivacyConfig(StrictModel):
    """Differential privacy for each document, conversation or pair (DP-SGD, Abadi et al. 2016, arXiv 1607.00133)."""

    target_epsilon: float | None = Field(None, gt=0)
    """Of the whole run: the noise follows from it. Give this or noise_multiplier."""
    noise_multiplier: float | None = Field(None, gt=0)
    """Standard deviation of the noise, in units of what one example can change: epsilon follows from it."""
    delta: float = Field(1e-6, gt=0, lt=1)
    """Of the run; less than one in the number of examples."""
    max_gradient_norm: float = Field(0.1, gt=0)
    """Each example's gradient is cut to this length. train.max_gradient_norm is not used then."""
    accountant: Literal["prv", "rdp"] = "prv"
    """Opacus' accountants: numerical composition (Gopi et al. 2021, arXiv 2106.02848), or the looser bound by Renyi divergences
    (Mironov et al. 2019, arXiv 1908.10530)."""
    budget: BudgetConfig = BudgetConfig()
    noise_seed: int | None = None
    """For tests alone: noise that can be drawn again protects nobody, and the manifest says so."""

    @model_validator(mode="after")
    def _one_of_both(self) -> PrivacyConfig:
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give target_epsilon or noise_multiplier, and not both: one follows from the other")
        return self


class MlflowConfig(StrictModel):
    tracking_uri: str
    """A server's address, or a folder as file:... Name and password come from MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD."""
    experiment: str = "serinus"


class WandbConfig(StrictModel):
    """Weights & Biases; the key comes from WANDB_API_KEY or `wandb login`."""

    project: str = "serinus"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class TrackersConfig(StrictModel):
    """Beside TensorBoard's event files, which are always written."""

    mlflow: MlflowConfig | None = None
    wandb: WandbConfig | None = None


class TrainConfig(StrictModel):
    """Fine-tuning of a causal language model: of all its weights, or with `lora` of an adapter."""

    method: MethodConfig = CausalConfig()
    """What is learnt from what: `causal` from the dataset, `instruct` and `dpo` from a file."""
    replay: ReplayConfig | None = None
    """For `causal`."""
    consolidation: ConsolidationConfig | None = None
    """For any method, with zero stage 1, 2 or 3."""
    lora: LoraConfig | None = None
    """For any method. Leave it out and all weights are trained; give `{}` for the defaults. An adapter learns at ten times the
    learning_rate of full fine-tuning, about 2e-4."""
    privacy: PrivacyConfig | None = None
    """For any method, with zero stage 0, 1 or 2. A step then takes each example with the same chance, on average as many as
    a step would take sequences otherwise."""

    num_workers: int = Field(2, ge=1)
    gpus_per_worker: int = Field(1, ge=0)
    """0 trains on CPUs with gloo."""
    cpus_per_worker: float = Field(1, gt=0)
    pool: Pool = "train"
    zero: ZeroConfig = ZeroConfig()
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """What matrices are multiplied in; weights and moments are stepped in float32 either way. `auto`: bfloat16, or float32 where a
    rank's CPU has no instructions for bfloat16; the model made is kept in bfloat16 all the same."""
    num_steps: int = Field(1000, ge=1)
    """Optimizer steps; the data is repeated in a new order as often as needed."""
    sequence_length: int = Field(1024, ge=8)
    """Tokens."""
    sequences_per_worker: int = Field(8, ge=1)
    """Per micro-batch; with dpo, pairs."""
    gradient_accumulation: int = Field(1, ge=1)
    sequences_per_step: int | None = Field(None, ge=1)
    """Over all workers and micro-batches. When given, the accumulation follows from it, and a run that was interrupted
    goes on with another number of workers."""
    attend_across_documents: bool = False
    """Let a token look back past the beginning of its document, into those packed before it, as most trainers do."""
    learning_rate: float = Field(3e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup_steps: int = Field(10, ge=0)
    min_learning_rate_fraction: float = Field(0.1, ge=0, le=1)
    """Where the cosine ends, as a share of learning_rate."""
    max_gradient_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = False
    checkpoint_every_steps: int = Field(100, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    """The newest. Three at least stay while max_skipped_steps is above 0."""
    max_failures: int = Field(3, ge=0)
    """Worker failures survived by resuming from the last checkpoint."""
    spike_deviations: float | None = Field(10, gt=0)
    """A loss so many standard deviations above the median of the last 32 is a spike. A spike, or a loss that is no number,
    takes the run back to its last good checkpoint and leaves that step's data out. null lets spikes pass."""
    max_skipped_steps: int = Field(3, ge=0)
    """More of them end the run: then it is not the data."""
    trackers: TrackersConfig = TrackersConfig()
    watts_per_worker: float | None = Field(None, gt=0)
    """What a worker's device draws in training, for the ledger's estimate of energy. Without it the power limits of a few
    GPUs are known."""
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _skips_nothing_in_private(cls, given: Any) -> Any:
        """With privacy the default of spike_deviations is null."""
        if isinstance(given, dict) and given.get("privacy") is not None:
            return {"spike_deviations": None, **given}
        return given

    @model_validator(mode="after")
    def _sound_in_private(self) -> TrainConfig:
        """What would break the guarantee is refused, with the reason."""
        if self.privacy is None:
            return self
        if self.zero.stage == 3:
            raise ValueError(
                "privacy needs zero stage 0, 1 or 2: at stage 3 no rank has the whole gradient of an example, whose length"
                " is to be cut"
            )
        if self.replay or self.consolidation:
            name = "replay" if self.replay else "consolidation"
            raise ValueError(f"privacy does not go with {name}: it would use old documents without any noise")
        if self.spike_deviations is not None:
            raise ValueError(
                "privacy needs spike_deviations: null: data that is left out for its loss is a choice no accountant sees"
            )
        if self.attend_across_documents:
            raise ValueError(
                "privacy needs attend_across_documents: false: a document that others look back to is in their gradients"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        if self.warmup_steps >= self.num_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below num_steps ({self.num_steps})")
        if self.attend_across_documents and self.method.kind != "causal":
            raise ValueError(f"attend_across_documents is for causal: {self.method.kind} keeps conversations apart")
        if self.replay and self.method.kind != "causal":
            raise ValueError(f"replay is for causal: {self.method.kind} takes no documents")
        if self.consolidation and self.lora:
            raise ValueError(
                "consolidation holds weights that are trained; with lora they are frozen: leave one of them out"
            )
        if self.consolidation and self.zero.stage == 0:
            raise ValueError(
                "consolidation needs zero stage 1, 2 or 3: at stage 0 gradients are clipped where it cannot see"
            )
        if self.sequences_per_step is not None:
            self._check_accumulation(self.sequences_per_step)
        if (self.zero.offload_parameters and self.zero.stage != 3) or (
            self.zero.offload_optimizer and self.zero.stage == 0
        ):
            raise ValueError("offload_parameters needs zero stage 3, offload_optimizer stage 1, 2 or 3")
        return self

    def _check_accumulation(self, sequences_per_step: int) -> None:
        if self.gradient_accumulation != 1:
            raise ValueError("gradient_accumulation follows from sequences_per_step: leave one of them out")
        at_once = self.num_workers * self.sequences_per_worker
        if sequences_per_step % at_once:
            raise ValueError(
                f"sequences_per_step ({sequences_per_step}) must be a multiple of num_workers x sequences_per_worker"
                f" ({self.num_workers} x {self.sequences_per_worker})"
            )

    @property
    def accumulation(self) -> int:
        """Micro-batches of an optimizer step."""
        if self.sequences_per_step is None:
            return self.gradient_accumulation
        return self.sequences_per_step // (self.num_workers * self.sequences_per_worker)

    @property
    def total_sequences(self) -> int:
        """Sequences of an optimizer step over all workers."""
        return self.num_workers * self.sequences_per_worker * self.accumulation


class EvaluateConfig(StrictModel):
    tasks: tuple[Task, ...] = Field(min_length=1)
    max_model_len: int = Field(1024, ge=64)
    """Tokens of the longest item; longer ones are cut from the left."""
    num_gpus: int = Field(0, ge=0)
    kv_cache_gib: float = Field(1.0, gt=0)
    pool: Pool = "serve"
    seed: int = 0

    @field_validator("tasks")
    @classmethod
    def _named_once(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [task.name for task in tasks]
        if repeated := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"task names must differ, repeated: {', '.join(sorted(repeated))}")
        return tasks


Stratum = Literal["language", "domain"]


class QuantizeConfig(SchemeConfig):
    """One scheme, or several to be tried from the smallest upward until one passes the gate."""

    schemes: tuple[SchemeEntry, ...] = ()
    """Tried in this order instead of `scheme`; the first that passes the gate is taken. Names, or mappings with `scheme`,
    `method`, `group_size` and `ignore`."""
    num_calibration_sequences: int = Field(64, ge=1)
    calibration_length: int = Field(512, ge=16)
    """Tokens."""
    balance: tuple[Stratum, ...] = ("language", "domain")
    """Calibration text comes in equal shares from each language and from each of `data.sources`; [] takes documents as they lie."""
    ignore: tuple[str, ...] = ("lm_head",)
    """Layers that stay in bfloat16: a name, or `re:` and an expression."""
    keep_most_sensitive: int | None = Field(None, ge=0)
    """So many more layers stay in bfloat16: those whose output loses most on calibration text. 0 only measures and records it in
    the model's sensitivity.json; q_proj, k_proj and v_proj of a block are one layer, gate_proj and up_proj too."""
    num_gpus: int = Field(0, ge=0)
    pool: Pool = "train"
    seed: int = 0

    @model_validator(mode="after")
    def _one_or_several(self) -> QuantizeConfig:
        alone = SchemeConfig()
        if self.schemes and (self.scheme, self.method, self.group_size) != (
            alone.scheme,
            alone.method,
            alone.group_size,
        ):
            raise ValueError("schemes stand for themselves: leave scheme, method and group_size out")
        settings = [plan.settings for plan in self.plans]
        if repeated := {plan.label for plan in self.plans if settings.count(plan.settings) > 1}:
            raise ValueError(f"schemes are tried once each, repeated: {', '.join(sorted(repeated))}")
        return self

    @property
    def plans(self) -> tuple[QuantizeConfig, ...]:
        """What is tried, in this order: each a configuration with one scheme."""
        if not self.schemes:
            return (self,)
        return tuple(
            self.replace(
                schemes=(),
                scheme=entry.scheme,
                method=entry.method,
                group_size=entry.group_size,
                ignore=self.ignore if entry.ignore is None else entry.ignore,
                keep_most_sensitive=(
                    self.keep_most_sensitive if entry.keep_most_sensitive is None else entry.keep_most_sensitive
                ),
            )
            for entry in self.schemes
        )

    @property
    def needs_text(self) -> bool:
        """Whether the train documents are read: by the method, or to tell which layers are sensitive."""
        return self.is_calibrated or (self.keep_most_sensitive is not None and self.made_by is not None)

    @property
    def label(self) -> str:
        kept = [name for name in self.ignore if name != "lm_head"] if self.made_by else []
        kept += (
            [f"the {self.keep_most_sensitive} most sensitive layers"]
            if self.keep_most_sensitive and self.made_by
            else []
        )
        return super().label + (f", {' and '.join(kept)} in BF16" if kept else "")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result of a single scheme: not the machine, nor what a method does not look at."""
        if self.made_by is None:
            return {"scheme": self.scheme}
        settings: dict[str, Any] = {"scheme": self.scheme, "ignore": list(self.ignore)}
        # Left out where it is what earlier versions did, so that what they made is found again.
        if (self.scheme, self.made_by) != ("W8A8", "gptq"):
            settings["method"] = self.made_by
        if self.groups_of:
            settings["group_size"] = self.groups_of
        if self.keep_most_sensitive is not None:
            settings["keep_most_sensitive"] = self.keep_most_sensitive
        if self.needs_text:
            settings |= {
                "num_calibration_sequences": self.num_calibration_sequences,
                "calibration_length": self.calibration_length,
                "seed": self.seed,
            }
            if self.balance:
                settings["balance"] = list(self.balance)
        return settings


Comparison = Literal["trained vs base", "quantized vs trained", "quantized vs base"]
"""New against old: what training did, what quantization did, and both together."""
Priority = Literal["must", "should", "could"]
"""A failed must blocks, a failed should warns and is recorded, a could informs (MoSCoW)."""


class RequirementConfig(StrictModel):
    """What is asked of one comparison. Percents are points of a score (accuracy, chrF, exact match, F1: 0 to 100 %), and
    percent of a perplexity. Negative ones ask for an improvement."""

    compare: Comparison
    priority: Priority = "must"
    tasks: Literal["all", "scores", "perplexity"] | tuple[str, ...] = "all"
    """Names of tasks, or all of a kind: `scores` are all but perplexities. A task is asked by its first figure."""
    per: Literal["task"] | Stratum = "task"
    """Asked of each task whole, or of each language's or domain's items of it, each with a test of its own. Items from the held-out
    documents carry both; those of a file what their `language` and `domain` say, and without one they are in no slice."""
    margin_percent: float = Field(1.0, gt=-100, lt=100)
    """Loss you tolerate: failed when more than this is established."""
    effect_percent: float = Field(2.0, gt=-100, lt=100)
    """Loss that must not pass unseen: passed when one of this size is excluded. At least the margin."""
    min_recovery_percent: float | None = Field(None, gt=0)
    """Instead of a test: new / old (of perplexity old / new) on the figures as they are, which proves nothing. Not for a must."""

    @model_validator(mode="after")
    def _consistent(self) -> RequirementConfig:
        if self.margin_percent > self.effect_percent:
            raise ValueError(
                f"margin_percent ({self.margin_percent:g}) is above effect_percent ({self.effect_percent:g})"
            )
        if self.min_recovery_percent is None:
            return self
        if self.priority == "must":
            raise ValueError(
                "min_recovery_percent proves nothing, and a must rests on a test: make it a should or could"
            )
        if self.model_fields_set & {"margin_percent", "effect_percent"}:
            raise ValueError("min_recovery_percent stands for itself: leave margin_percent and effect_percent out")
        return self


DEFAULT_REQUIREMENTS = (
    # Training has to help: an effect of 0 is excluded when any improvement is established.
    RequirementConfig(compare="trained vs base", tasks="perplexity", margin_percent=0, effect_percent=0),
    RequirementConfig(compare="quantized vs trained", tasks="perplexity", margin_percent=2, effect_percent=5),
    RequirementConfig(compare="quantized vs base", tasks="scores"),
    RequirementConfig(compare="quantized vs base", tasks="scores", priority="should", min_recovery_percent=98),
    RequirementConfig(compare="quantized vs trained", tasks="scores", priority="could"),
)


class GateConfig(StrictModel):
    """What a model must show to be published as candidate: docs/evaluation.md."""

    requirements: tuple[RequirementConfig, ...] = DEFAULT_REQUIREMENTS
    alpha: float = Field(0.01, gt=0, lt=0.5)
    """Chance that a model within all margins fails any must; the same for any should, and any could (Holm 1979)."""
    beta: float = Field(0.05, gt=0, lt=0.5)
    """Chance that a model worse by a must's effect passes it, and so the gate, which takes all of them."""
    power: float = Field(0.8, gt=0.5, lt=1)
    """Chance of passing for which the report says how many items a model as good as the old one needs."""
    inconclusive_must: Literal["block", "publish"] = "block"
    """A must that is neither passed nor failed: `block`, since nobody has shown what was asked for; `publish` lets it
    through with a warning, for those who leave the proof to the rollout."""


class LifecycleConfig(StrictModel):
    """What `serinus run` makes, in the order of the fields."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=40)
    """Public name of the model: lower-case letters, digits, dots and hyphens."""
    storage: StorageConfig
    """Folder or s3://bucket/folder that keeps every artifact, or a mapping of StorageConfig's fields."""
    data: DataConfig
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig
    quantize: QuantizeConfig = QuantizeConfig()
    gate: GateConfig = GateConfig()
    openlineage: OpenLineageConfig | None = None
    """Who is told of what was made, by OpenLineage events. Leave it out and nobody is."""

    @field_validator("storage", mode="before")
    @classmethod
    def _storage_can_be_opened(cls, given: object) -> object:
        if isinstance(given, str) and not given.strip():
            raise ValueError("is empty: use a folder or s3://bucket/folder")
        if isinstance(given, str) and "://" in given and not given.startswith(("s3://", "file://")):
            raise ValueError("unknown storage scheme: use a folder or s3://bucket/folder")
        return given

    @model_validator(mode="after")
    def _gate_judges_something(self) -> LifecycleConfig:
        names = {task.name for task in self.evaluate.tasks}
        ungated = {task.name for task in self.evaluate.tasks if task.kind in UNGATED}
        for requirement in self.gate.requirements:
            if isinstance(requirement.tasks, tuple) and (unknown := sorted(set(requirement.tasks) - names)):
                raise ValueError(
                    f"gate: no evaluation task is named {', '.join(unknown)} (there are {', '.join(sorted(names))})"
                )
            if isinstance(requirement.tasks, tuple) and (alone := sorted(set(requirement.tasks) & ungated)):
                raise ValueError(
                    f"gate: {', '.join(alone)} is of a kind that is reported and not compared ({', '.join(UNGATED)})"
                )
        musts = [requirement for requirement in self.gate.requirements if requirement.priority == "must"]
        if not any(
            asked_of(must, task.name, task.kind == "perplexity")
            for must in musts
            for task in self.evaluate.tasks
            if task.name not in ungated
        ):
            raise ValueError("gate: no must is asked of any evaluation task, so that everything would pass")
        return self


def asked_of(requirement: RequirementConfig, task: str, is_perplexity: bool) -> bool:
    """Whether the requirement is asked of that task."""
    match requirement.tasks:
        case "all":
            return True
        case "perplexity" | "scores":
            return is_perplexity == (requirement.tasks == "perplexity")
        case _:
            return task in requirement.tasks

"""What documents are read, and what is done to them. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from cluster.config import Location, StrictModel
from pipelines.config.filters import FilterConfig, Fraction
from pipelines.config.stages import Pool


class SourceConfig(StrictModel):
    """Documents to read."""

    path: Location
    """A file, a folder (read recursively) or a glob; local or s3://."""
    format: Literal["auto", "jsonl", "parquet", "text", "html", "pdf", "warc"] = "auto"
    """`auto` goes by the file's ending: .jsonl .ndjson .json .parquet .txt .md .rst .html .htm .pdf .warc .wet .wat .arc, each
    also .gz but Parquet."""
    text_field: str = "text"
    """Field or column with the text, for JSONL and Parquet."""
    id_field: str | None = None
    """Field or column with the document's id; without it the id is <file>#<line or row>."""
    origin_field: str | None = None
    """Field or column with the address that the document came from, for JSONL and Parquet; web archives bring theirs along."""


DEFAULT_RULE_NAMES = ("repair_unicode", "strip_urls", "strip_bracketed_references", "collapse_white_space")


BUILT_IN_RULES = (*DEFAULT_RULE_NAMES, "c4_lines")


class RuleConfig(StrictModel):
    """A rewriting rule: a built-in by name, a regular expression with its replacement, or a function of yours."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    pattern: str | None = None
    """RE2 expression; leave it out for a built-in rule."""
    replacement: str = ""
    file: Location | None = None
    """A Python file, which is run on the workers."""
    function: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Of that file: takes a text and returns one."""

    @model_validator(mode="after")
    def _known(self) -> RuleConfig:
        if (self.file is None) != (self.function is None):
            raise ValueError("file and function belong together")
        if self.pattern is not None and self.file is not None:
            raise ValueError("a pattern or a function, not both")
        if self.pattern is None and self.file is None and self.name not in BUILT_IN_RULES:
            raise ValueError(
                f"no built-in rule `{self.name}` (there are {', '.join(BUILT_IN_RULES)}); "
                "give it a pattern, or a file and a function"
            )
        return self


DEFAULT_RULES = tuple(RuleConfig(name=name) for name in DEFAULT_RULE_NAMES)


Repeating = Literal["paragraphs", "lines"]


class RepeatsConfig(StrictModel):
    """Of lines, or paragraphs, with the same words one stays in the whole version, as in CCNet (Wenzek et al. 2020, arXiv
    1911.00359, section 3.1). Words are compared in lower case and without punctuation, as for near duplicates."""

    min_words: int = Field(5, ge=1)
    """Shorter ones stay: "* * *" and "Yes, she said" stand everywhere. A word is a run of letters and digits, which is long in
    scripts without spaces."""
    max_occurrences: int = Field(1, ge=1)
    """What stands in more places stays where it stands first, and goes elsewhere; what stands in no more stays everywhere."""
    ignore_digits: bool = False
    """Take each digit for the same, as CCNet does: "page 3 of 10" is "page 4 of 12" then."""


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
    lines: RepeatsConfig | None = None
    """Lines that stood before, in the same document or an earlier one. Leave it out and all stay; `{}`: the defaults."""
    paragraphs: RepeatsConfig | None = None
    """The same of paragraphs, which empty lines separate."""

    @property
    def repeats(self) -> dict[Repeating, RepeatsConfig]:
        """Of the two what is asked for."""
        both: tuple[Repeating, ...] = get_args(Repeating)
        return {name: asked for name in both if (asked := getattr(self, name))}


ProtectedKind = Literal["email", "phone", "credit_card", "iban", "ip_address", "national_id", "secret"]


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
    national_id: ProtectAction | None = None
    """Numbers of 13 countries by which people are known to the state (US social security, Spain's DNI, ...)."""
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


class TopicConfig(StrictModel):
    """A topic, by words that texts on it use. A document is of the topic of which it has most, and of none with fewer than two."""

    words: tuple[Annotated[str, Field(pattern=r"^\S+$")], ...] = Field(min_length=2)
    """In any case; whole words."""
    share: Fraction = 0.0


class SharesConfig(StrictModel):
    """What the kept texts are to consist of: of all their characters at least these shares (0 to 1). Asked by
    `serinus data report`; nothing is cleaned otherwise for it, and another share is not another version."""

    languages: dict[Annotated[str, Field(pattern="^[a-z]{2}$")], Fraction] = {}
    """By ISO 639-1 code."""
    sources: dict[str, Fraction] = {}
    """By the last part of the source's path, as in the documents' ids."""
    domains: dict[str, Fraction] = {}
    """By host, without `www.`, of the address that a document came from."""
    topics: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], TopicConfig] = {}
    min_characters: dict[Annotated[int, Field(ge=1)], Fraction] = {}
    """In documents of at least so many characters."""

    @model_validator(mode="after")
    def _within_the_whole(self) -> SharesConfig:
        topics = {name: topic.share for name, topic in self.topics.items()}
        dimensions = (("languages", self.languages), ("sources", self.sources), ("domains", self.domains))
        for name, shares in (*dimensions, ("topics", topics)):
            if (total := sum(shares.values())) > 1 + 1e-9:
                raise ValueError(f"shares of {name} add up to {total:.4g}, which is above 1")
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
    shares: SharesConfig = SharesConfig()
    """Asked of the result by `serinus data report`."""
    max_document_bytes: int = Field(10_000_000, ge=1, lt=2**31)
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

    @model_validator(mode="after")
    def _told_apart(self) -> DataConfig:
        for name in self.dedup.repeats:
            if any(rule.name == f"repeated_{name}" for rule in self.rules):
                raise ValueError(f"dedup.{name} is on record as the rule repeated_{name}: give yours another name")
        return self

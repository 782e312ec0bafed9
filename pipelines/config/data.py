"""What documents are read, and what is done to them. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from cluster.config import Location, StrictModel
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


Fraction = Annotated[float, Field(ge=0, le=1)]


class FineWebConfig(StrictModel):
    """FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6), meant for pages of the web."""

    min_terminated_line_fraction: float = Field(0.12, ge=0, le=1)
    """Lines that end with a mark that ends a sentence (Unicode's Sentence_Terminal); a quote behind one hides it."""
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


class BlockedWordsConfig(StrictModel):
    """Words that a document must not have, as C4's list of bad words (section 2.2). None is shipped: what is bad you say."""

    path: Location
    """A .txt file, local or s3://, with a word or a phrase a line; lines that begin with # are comments."""


class ClassifierConfig(StrictModel):
    """A score by a fastText classifier of your own, of quality say, as DCLM's (Li et al. 2024, arXiv 2406.11794, section 4.4).

    It is the probability of `label` for the text, line breaks made spaces, as fastText asks for it.
    """

    path: Location
    """A supervised model that fastText saved (.bin, .ftz), local or s3://; each worker process holds it in memory."""
    label: str = Field(min_length=1)
    """As the model calls it: `__label__hq`, say."""
    min_score: Fraction = 0.0
    """A lower score excludes."""
    max_score: Fraction = 1.0
    """So does a higher one: for labels of what nobody wants."""

    @model_validator(mode="after")
    def _excludes_some(self) -> ClassifierConfig:
        if self.min_score > self.max_score:
            raise ValueError(f"min_score ({self.min_score:g}) is above max_score ({self.max_score:g})")
        if (self.min_score, self.max_score) == (0, 1):
            raise ValueError("give min_score, or max_score: with neither no document would be excluded")
        return self


class PerplexityConfig(StrictModel):
    """Perplexity by an n-gram language model of your own, as CCNet's (Wenzek et al. 2020, arXiv 1911.00359).

    It is 10 to the power of minus log10 p / n: p the product of the probabilities of all lines, each with its beginning and
    end, and n the number of their tokens, of each line's end among them. Tokens are what white space separates, or sentencepiece's.
    """

    path: Location
    """A model in ARPA's format or KenLM's own, local or s3://, of at most order 6."""
    max: float | None = Field(None, gt=0)
    """A higher perplexity excludes: text unlike what the model was made of."""
    min: float | None = Field(None, gt=0)
    """A lower one excludes: the same again and again, or too plain. The paper parts documents into thirds and drops none."""
    lower_case: bool = True
    """The model was made of text in lower case."""
    sentencepiece: Location | None = None
    """The model was made of the pieces of this tokenizer (a .model file)."""

    @model_validator(mode="after")
    def _excludes_some(self) -> PerplexityConfig:
        if self.min is None and self.max is None:
            raise ValueError("give max, or min: with neither no document would be excluded")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is above max ({self.max:g})")
        return self


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
    blocked_words: BlockedWordsConfig | None = None
    """Asked of what passed the others. Leave it out and no word keeps a document out."""
    classifier: ClassifierConfig | None = None
    """Asked of what passed all those. Leave it out and no classifier is asked."""
    perplexity: PerplexityConfig | None = None
    """Asked last. Leave it out and no language model is asked."""

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

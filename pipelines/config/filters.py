"""What a document must be to be kept. No heavy imports here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from cluster.config import Location, StrictModel

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

"""What a report on a dataset tells: the figures as they stand in its JSON, and who is meant by each."""

from __future__ import annotations

from datetime import datetime

from cluster.config import StrictModel


class Sample(StrictModel):
    id: str
    detail: str
    text: str
    """Cut: of what is masked the place around it, else its beginning. As it lies in the shard, so masked."""


class Change(StrictModel):
    """One document before and after, cut to the same place in both. Personal data is masked on both sides."""

    id: str
    before: str
    after: str


class Rewritten(StrictModel):
    """What one rule did."""

    rule: str
    num: int
    num_kept: int
    """Of these, kept in the end."""
    num_alone: int
    """Of these, changed by no other rule: what is told of characters is told of them."""
    num_characters_out: int
    """Characters fewer behind the rule; below zero where it puts in more."""
    samples: tuple[Change, ...] = ()


class Dropped(StrictModel):
    """What one reason took out."""

    reason: str
    num: int
    num_characters: int
    """As they were read."""
    samples: tuple[Sample, ...]


class Step(StrictModel):
    """Documents left behind one kind of reasons, in the order in which documents are judged."""

    name: str
    num_out: int
    num_left: int


class Fates(StrictModel):
    """What became of the documents of one source."""

    name: str
    num_by_fate: dict[str, int]
    """`kept` and the kinds of reasons."""


class Share(StrictModel):
    """One language, source, domain or length class."""

    name: str
    num_in: int
    num_kept: int
    num_characters_kept: int


class Topic(StrictModel):
    """Documents that use the same words, of a sample of the kept ones in one language."""

    language: str
    terms: tuple[str, ...]
    """That tell it from others, the strongest first."""
    num: int
    of: int
    """Documents sampled in that language."""
    low: float
    """Share of that language's documents, 0 to 1: 95 % interval (Wilson)."""
    high: float
    examples: tuple[str, ...]
    """Ids of documents that are most of it."""


class Topics(StrictModel):
    num_sampled: int = 0
    found: tuple[Topic, ...] = ()
    not_told: dict[str, int] = {}
    """Sampled documents by language, of languages of which no topics are told: too few, or words that no space parts."""


class Asked(StrictModel):
    """A share of the kept characters that the recipe asks for, at least, and what there is."""

    dimension: str
    name: str
    asked: float
    found: float
    low: float
    """Of a sample: 95 % interval; else as `found`."""
    high: float
    num_characters_missing: int | None
    """To be added so that all shares of the dimension hold; None: adding does not help, for the asked ones leave no room for
    what is there besides."""

    @property
    def holds(self) -> bool:
        """Of a sample only what the interval excludes does not hold."""
        return self.high >= self.asked


class Likeness(StrictModel):
    """How much near duplicates have in common with what stays in their place, on a sample of pairs."""

    num_pairs: int = 0
    num_by_tenth: tuple[int, ...] = ()
    """Pairs by Jaccard similarity of their n-grams of words, in steps of a tenth from 0."""
    num_other_numbers: int = 0
    """Pairs that tell different numbers between the same words (see pairs.conflict)."""
    unlike: tuple[Change, ...] = ()
    """Those with least in common: what stays, then what was taken out."""
    other_numbers: tuple[Change, ...] = ()


class Overlap(StrictModel):
    """Documents of one source taken out as duplicates of one that stays in another (or the same)."""

    source: str
    stays_in: str
    num: int


class Layer(StrictModel):
    """One layer of annotations."""

    name: str
    num_given: int
    num_accepted: int
    alpha: float | None
    """Krippendorff's; None: nobody to compare."""
    num_units: int


class Labels(StrictModel):
    """One set of annotations of this version."""

    key: str
    made_at: datetime
    annotators: tuple[str, ...]
    num_documents: int
    layers: tuple[Layer, ...]
    num_review_by_reason: dict[str, int]


class Check(StrictModel):
    """What must hold, or what people should look at (`ok` says which: None is for people to judge)."""

    what: str
    ok: bool | None
    found: str
    means: str = ""
    """In words, for whom the figure alone says nothing."""


class Report(StrictModel):
    version: str
    digest: str
    made_at: datetime
    num_documents: int
    num_train: int
    num_heldout: int
    num_characters_in: int
    num_characters_kept: int
    # clean
    steps: tuple[Step, ...]
    num_changed_by_rule: dict[str, int]
    rewritten: tuple[Rewritten, ...]
    """In the order of the rules."""
    no_samples: str
    """Why there are no, or fewer, texts before and after; empty where nothing stood in the way."""
    num_protected_by_kind: dict[str, int]
    masked: tuple[Sample, ...]
    """Kept documents around what stands in place of a value."""
    dropped: tuple[Dropped, ...]
    """Most first."""
    # comprehensive
    fates: tuple[Fates, ...]
    languages: tuple[Share, ...]
    missing_languages: tuple[str, ...]
    """Allowed by the filter, and none kept."""
    sources: tuple[Share, ...]
    """The first part of the files' names, one for each source of the recipe."""
    domains: tuple[Share, ...]
    """By host, of documents whose address is on record; the largest, then all others."""
    lengths: tuple[Share, ...]
    """Classes of characters after cleaning, each up to twice the one before."""
    topics: Topics
    asked: tuple[Asked, ...]
    # consistent
    likeness: Likeness
    overlaps: tuple[Overlap, ...]
    """Most first."""
    labels: tuple[Labels, ...]
    """Oldest first."""
    checks: tuple[Check, ...]

    @property
    def num_kept(self) -> int:
        return self.num_train + self.num_heldout

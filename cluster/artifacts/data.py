"""Artifacts made of documents, and of what people said of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.artifacts.manifest import Manifest, Source
from cluster.config import StrictModel, is_none


class Batch(StrictModel):
    """One Parquet shard of a dataset: the hash of its documents and of the rules that made it."""

    path: str
    num_documents: int
    sha256: str
    """Of the documents' ids and texts in order, independent of Parquet's encoding."""
    rules: str
    """Digest of the rule set."""


class Repeated(StrictModel):
    """Taken out of kept documents because it stood before (`data.dedup.lines`, `data.dedup.paragraphs`)."""

    num_lines: int
    """Those of paragraphs that went are not among them."""
    num_paragraphs: int
    num_characters: int


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
    repeated: Repeated | None = Field(None, exclude_if=is_none)
    """None where neither was asked for."""
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

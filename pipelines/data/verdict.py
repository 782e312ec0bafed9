"""What is found of a document that is looked at alone: what is against it, and by what it is compared with others."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.config import DataConfig, DedupConfig
from pipelines.data import dedup, filters, language
from pipelines.data.blocked import BlockedWords, blocked_drops
from pipelines.data.classifier import Classifier, score_drops
from pipelines.data.decontaminate import EvaluationSets, contaminated
from pipelines.data.perplexity import LanguageModel, perplexity_drops

if TYPE_CHECKING:
    import pyarrow as pa


class Verdict(NamedTuple):
    """What is known of one document once it was looked at alone."""

    reason: str
    """Empty: nothing against it."""
    detail: str
    language: str
    fingerprint: bytes
    bands: bytes
    lines: bytes = b""
    """Hashes of them, where repeated ones are asked for; see dedup.span_hashes."""
    paragraphs: bytes = b""


KEYS = ("fingerprint", "bands", "lines", "paragraphs")
"""What is taken of a text that nothing was found against, to compare it with others."""


class Standards(NamedTuple):
    """What documents are held against beside the configuration."""

    evaluation: EvaluationSets | None = None
    """Items that no document may share words with."""
    blocked: BlockedWords | None = None
    classifier: Classifier | None = None
    language_model: LanguageModel | None = None


NO_STANDARDS = Standards()


def judge(texts: pa.Array, config: DataConfig, standards: Standards = NO_STANDARDS) -> list[Verdict]:
    """Cheap filters first: the language costs more and is asked only of what passed them."""
    drops = filters.cheap_drops(texts, config.filters)
    alive = _without(range(len(texts)), drops)
    languages = dict(zip(alive, language.identify(chosen(texts, alive)), strict=True))
    for i, (code, confidence) in languages.items():
        if drop := filters.language_drop(code, confidence, config.filters):
            drops[i] = drop
    english = [i for i in _without(alive, drops) if languages[i][0] == "en"]
    for place, drop in filters.stop_word_drops(chosen(texts, english), config.filters).items():
        drops[english[place]] = drop
    for found_against in _held_against(standards):
        kept = _without(alive, drops)
        drops |= {kept[place]: drop for place, drop in found_against(chosen(texts, kept)).items()}
    keys = _keys(texts, _without(alive, drops), config.dedup)
    return [
        Verdict(*drops.get(i, ("", "")), languages.get(i, ("",))[0], *keys.get(i, (b"",) * len(KEYS)))
        for i in range(len(texts))
    ]


def _held_against(standards: Standards) -> Iterator[Callable[[pa.Array], dict[int, filters.Drop]]]:
    """What finds the texts that fall short of each standard there is, one after the other: each is asked of what is left."""
    if (blocked := standards.blocked) is not None:
        yield lambda texts: blocked_drops(texts, blocked)
    if (classifier := standards.classifier) is not None:
        yield lambda texts: score_drops(texts, classifier)
    if (model := standards.language_model) is not None:
        yield lambda texts: perplexity_drops(texts, model)
    if (sets := standards.evaluation) is not None:
        yield lambda texts: {i: filters.Drop("contaminated", item) for i, item in contaminated(texts, sets).items()}


def _keys(texts: pa.Array, kept: list[int], config: DedupConfig) -> dict[int, tuple[bytes, ...]]:
    """KEYS of the kept texts."""
    texts, nothing = chosen(texts, kept), [b""] * len(kept)
    bands = dedup.band_keys(texts, config) if config.near else nothing
    lines = dedup.span_hashes(texts, "lines", config.lines) if config.lines else nothing
    paragraphs = dedup.span_hashes(texts, "paragraphs", config.paragraphs) if config.paragraphs else nothing
    return dict(zip(kept, zip(dedup.fingerprints(texts), bands, lines, paragraphs, strict=True), strict=True))


def chosen(texts: pa.Array, indices: list[int]) -> pa.Array:
    return texts if len(indices) == len(texts) else texts.take(np.array(indices, np.int64))


def _without(indices: Iterable[int], dropped: Container[int]) -> list[int]:
    return [i for i in indices if i not in dropped]

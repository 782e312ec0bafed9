"""What of a configuration is on record: it names the result, says what made it, and tells versions apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.artifacts import digest
from pipelines.config import DataConfig, FilterConfig
from pipelines.data import blocked, classifier, decontaminate, functions, pdf, perplexity
from pipelines.data.inventory import SourceFile
from pipelines.data.protect import key_id, read_key
from pipelines.data.rules import VERSION

DECIDING = (
    "rules",
    "protect",
    "filters",
    "decontaminate",
    "dedup",
    "max_document_bytes",
    "protect_key",
    "rules_version",
    "pdf_version",
)


def recorded_config(
    config: DataConfig,
    forgotten: Sequence[str] = (),
    against: Sequence[str] = (),
    files: Sequence[SourceFile] = (),
) -> dict[str, Any]:
    """What decides over the result: neither this machine's paths nor where the work runs.

    The names of the files, which begin with the last part of the source's path, are recorded with their hashes instead.
    What a later version of serinus can do besides is left out where it is not asked for, so that what was made stays made.

    Args:
        forgotten: ids of documents that a person wants out.
        against: keys of the versions that data.dedup.against names.
        files: those of the sources. An earlier serinus read no PDF: versions with any are not those that it made.
    """
    left_out: Any = {
        "pool": True,
        "shares": True,
        "decontaminate": True,
        "sources": {"__all__": {"path"}},
        "protect": {"key_file"},
        "dedup": {"against", "lines", "paragraphs"},
        "filters": {"blocked_words", "classifier", "perplexity"},
    }
    dumped = config.model_dump(mode="json", exclude=left_out)
    rules = [functions.recorded(rule) for rule in config.rules]
    decided = {"rules": rules, "rules_version": VERSION, "protect_key": key_id(read_key(config.protect))}
    for source in dumped["sources"]:
        if source["origin_field"] is None:
            del source["origin_field"]
    recorded = {**dumped, **decided}
    if against:
        recorded["dedup"] = {**recorded["dedup"], "against": list(against)}
    for name, asked in config.dedup.repeats.items():
        recorded["dedup"] = {**recorded["dedup"], name: asked.model_dump(mode="json")}
    recorded["filters"] = {**recorded["filters"], **_filters_by_hash(config.filters)}
    if any(file.format == "pdf" for file in files):
        recorded["pdf_version"] = pdf.VERSION
    if config.decontaminate is not None:
        recorded["decontaminate"] = decontaminate.recorded(config.decontaminate)
    return with_forgotten(recorded, forgotten)


def _filters_by_hash(config: FilterConfig) -> dict[str, Any]:
    """Those that rest on files, as far as they are asked for."""
    found = dict[str, Any]()
    if config.blocked_words is not None:
        found["blocked_words"] = blocked.recorded(config.blocked_words)
    if config.classifier is not None:
        found["classifier"] = classifier.recorded(config.classifier)
    if config.perplexity is not None:
        found["perplexity"] = perplexity.recorded(config.perplexity)
    return found


def with_forgotten(recorded: dict[str, Any], forgotten: Sequence[str]) -> dict[str, Any]:
    """The same, with these ids taken out besides; without any nothing is said of it."""
    return {**recorded, "forgotten": sorted(forgotten)} if forgotten else recorded


def rules_digest(recorded: dict[str, Any]) -> str:
    """Of everything that decides what becomes of a document."""
    return digest({name: recorded[name] for name in DECIDING if name in recorded})

"""What is to be cleaned and how, once the recipe, the files and the storage have been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cluster.artifacts import Dataset, stage_key
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.config import DataConfig, FilterConfig
from pipelines.data import ledger
from pipelines.data.batch import BatchCleaner
from pipelines.data.blocked import read_blocked
from pipelines.data.classifier import read_classifier
from pipelines.data.decontaminate import EvaluationSets, read_sets
from pipelines.data.duplicates import earlier_versions
from pipelines.data.functions import read_functions
from pipelines.data.inventory import SourceFile, inventory
from pipelines.data.perplexity import read_language_model
from pipelines.data.protect import read_key
from pipelines.data.recorded import recorded_config
from pipelines.data.verdict import Standards
from pipelines.progress import say


class Work(NamedTuple):
    """What is to be cleaned, how, and under which key the result is kept."""

    config: DataConfig
    files: Sequence[SourceFile]
    recorded: dict[str, Any]
    key: str
    earlier: Sequence[Dataset] = ()
    """Versions whose documents count as there already."""

    @property
    def forgotten(self) -> list[str]:
        """Ids of documents that people want out."""
        return self.recorded.get("forgotten", [])


def prepare(config: DataConfig, storage: Storage) -> Work:
    """Raises InputError or ConfigError: sources, evaluation sets or earlier versions that cannot be used."""
    files = inventory(config.sources)
    sources = [source.model_dump() for source in config.sources]
    gone = ledger.concerning(ledger.read(storage), {file.name for file in files}, sources)
    earlier = earlier_versions(storage, config.dedup)
    recorded = recorded_config(config, gone, [made.key for made in earlier], files)
    key = stage_key("clean", recorded, {file.name: file.sha256 for file in files})
    return Work(config, files, recorded, key, earlier)


def cleaner_of(work: Work) -> BatchCleaner:
    """What the workers do. Says how much of the evaluation sets is not looked for.

    Raises:
        InputError: what is recorded of the work is not what would be done.
    """
    config, standards = work.config, standards_of(work.config)
    if config.decontaminate is not None and standards.evaluation is not None:
        _tell_too_short(standards.evaluation, config.decontaminate.min_words)
    functions = read_functions(config.rules)
    cleaner = BatchCleaner(tuple(work.files), config, read_key(config.protect), standards, functions)
    if recorded_config(config, work.forgotten, [made.key for made in work.earlier], work.files) != work.recorded:
        found = "a file of a rule, a model, of words, of evaluation sets or of the key was changed since this run began"
        raise InputError("data", found, "run the same command again")
    return cleaner


def check_models(config: FilterConfig) -> None:
    """Raises InputError: a model that documents are scored by cannot be used; ResourceError: nothing here reads it."""
    if config.classifier is not None:
        read_classifier(config.classifier)
    if config.perplexity is not None:
        read_language_model(config.perplexity)


def standards_of(config: DataConfig) -> Standards:
    """Raises InputError or ResourceError: an evaluation set, the list of words or a model cannot be used (see check_models)."""
    asked, against = config.filters, config.decontaminate
    return Standards(
        evaluation=read_sets(against) if against else None,
        blocked=read_blocked(asked.blocked_words) if asked.blocked_words else None,
        classifier=read_classifier(asked.classifier) if asked.classifier else None,
        language_model=read_language_model(asked.perplexity) if asked.perplexity else None,
    )


def _tell_too_short(sets: EvaluationSets, min_words: int) -> None:
    if sets.num_too_short:
        short = f"{sets.num_too_short} of {sets.num_items} evaluation items"
        say("clean", f"{short} have no text of {min_words} words: not looked for")

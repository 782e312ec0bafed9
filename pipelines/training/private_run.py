"""A private run around its steps: what the driver settles before it, and what a rank then trains on."""

from __future__ import annotations

from typing import Any

from cluster import artifacts
from cluster.artifacts import Dataset, Privacy
from cluster.storage import Storage
from pipelines import progress
from pipelines.config import CausalConfig, GrpoConfig, InstructConfig, PreferenceConfig, PrivacyConfig, TrainConfig
from pipelines.training.batches import Pairs
from pipelines.training.budget import Spending, data_of, on_same_data, read_spendings, reserve, total
from pipelines.training.draws import keep_secret, read_secret
from pipelines.training.examples import load_examples
from pipelines.training.privacy import Terms, make_terms
from pipelines.training.private_examples import Conversations, Documents, Examples, Preferences, Units, documents
from pipelines.training.reference import reference
from pipelines.training.tokens import TokenIndex, open_stream
from pipelines.training.worker_plan import Plan

UNITS = {
    "causal": "one document of the dataset, its first {length} tokens",
    "instruct": "one line of the method's file, a conversation",
    "dpo": "one line of the method's file, a pair of answers",
}


def origin(
    config: TrainConfig,
    dataset: Dataset,
    digest: str,
    annotated: Dataset | None = None,
    preferences: artifacts.Preferences | None = None,
) -> tuple[str, ...]:
    """Names of the files that the run's data came from.

    Args:
        digest: SHA-256 of the method's file, where it has one.
        annotated: whose documents that file tells of, where it was made as their annotations.
        preferences: as which the file was made, of votes that later versions hold as well.
    """
    if isinstance(config.method, CausalConfig):
        return data_of(dataset)
    votes = {name for source in preferences.sources for name in (source.path, source.sha256)} if preferences else set()
    return tuple(sorted({config.method.path, digest, *votes, *(data_of(annotated) if annotated else ())}))


def begin(config: TrainConfig, data: dict[str, Any], storage: Storage, run: str, names: tuple[str, ...]) -> Terms:
    """Settle the mechanism, draw the secret, and write down what the run spends, before anything of it is spent.

    Args:
        data: the fields of a Plan that say what to train on.
        run: storage folder of the run, named by the model's key.
        names: by `origin`.

    Raises:
        ConfigError: the mechanism cannot be had.
        ResourceError: the data's budget does not allow it.
    """
    asked = config.privacy
    assert asked is not None
    num = _num_examples(config, data, storage)
    progress.say("train", f"what noise {config.num_steps:,} private steps take, by {asked.accountant}")
    terms = make_terms(asked, num, config.total_sequences, config.num_steps)
    if terms.not_prv_because:
        progress.say(
            "train",
            f"warning: train.privacy.accountant: prv cannot account for this run ({terms.not_prv_because}): rdp does, by which the"
            " same epsilon takes somewhat more noise",
        )
    noise = keep_secret(storage, run, asked.noise_seed)
    spent = reserve(storage, _spending(asked, terms, run.rpartition("/")[2], noise, names))
    progress.say(
        "train",
        f"private: epsilon {terms.epsilon:.3g} at delta {terms.delta:.2g} for each of {num:,} examples, noise multiplier"
        f" {terms.noise_multiplier:.3g}; with earlier runs on this data {spent[0]:.3g} of {asked.budget.epsilon:.3g}",
    )
    if asked.noise_seed is not None:
        progress.say(
            "train", "warning: train.privacy.noise_seed is set, anybody can draw that noise: nobody is protected"
        )
    return terms


def _spending(asked: PrivacyConfig, terms: Terms, run: str, noise: str, names: tuple[str, ...]) -> Spending:
    return Spending(
        run=run,
        noise=noise,
        data=names,
        epsilon=terms.epsilon,
        delta=terms.delta,
        budget=asked.budget,
        is_guaranteed=asked.noise_seed is None,
    )


def _num_examples(config: TrainConfig, data: dict[str, Any], storage: Storage) -> int:
    match config.method:
        case CausalConfig():
            return stored_documents(storage, data["tokens"]["dataset"], config.sequence_length).num
        case InstructConfig():
            return len(load_examples(storage, data["examples"]).ends)
        case PreferenceConfig():
            return len(load_examples(storage, data["examples"]).ends) // 2
        case GrpoConfig():
            raise AssertionError("TrainConfig refuses it")


def stored_documents(storage: Storage, tokens: dict[str, Any], length: int) -> Documents:
    """The documents of token files, one by one."""
    index = TokenIndex(**tokens)
    num = sum(shard.num_documents for shard in index.shards)
    return documents(open_stream(storage, index), index.end, num, length, f"{storage.uri}/{index.folder}")


def warn_unprotected(storage: Storage, names: tuple[str, ...]) -> None:
    """Say it when a run without privacy trains on data of which private runs have promised something."""
    if before := on_same_data(read_spendings(storage), names):
        progress.say(
            "train",
            f"warning: {len(before)} private run(s) were made of this data; a model made without train.privacy tells of it"
            " whatever it has learnt",
        )


def examples_of(engine: Any, config: TrainConfig, storage: Storage, what: Plan) -> Examples:
    """This rank's part of what there is to train on. Every rank must call it, before a checkpoint is read."""
    terms, secret = Terms.model_validate(what.terms), read_secret(storage, what.run)
    given = _units(engine, config, storage, what)
    return Examples(given, engine.global_rank, engine.world_size, terms, secret, config.seed)


def _units(engine: Any, config: TrainConfig, storage: Storage, what: Plan) -> Units:
    match config.method:
        case CausalConfig():
            return stored_documents(storage, what.tokens["dataset"], config.sequence_length)
        case InstructConfig():
            return Conversations(load_examples(storage, what.examples))
        case PreferenceConfig():
            rows = load_examples(storage, what.examples)
            return Preferences(Pairs(rows, reference(engine, rows, storage, f"{what.run}/reference.npy", 1)))
        case GrpoConfig():
            raise AssertionError("TrainConfig refuses it")


def account(config: TrainConfig, terms: Terms, storage: Storage, names: tuple[str, ...]) -> Privacy:
    """For the manifest's ledger."""
    asked = config.privacy
    assert asked is not None
    spent = total(on_same_data(read_spendings(storage), names))
    return Privacy(
        epsilon=terms.epsilon,
        delta=terms.delta,
        noise_multiplier=terms.noise_multiplier,
        sample_rate=terms.sample_rate,
        num_steps=terms.num_steps,
        max_gradient_norm=terms.max_gradient_norm,
        accountant=terms.accountant,
        unit=UNITS[config.method.kind].format(length=config.sequence_length),
        num_examples=round(config.total_sequences / terms.sample_rate),
        epsilon_of_data=spent[0],
        delta_of_data=spent[1],
        is_guaranteed=asked.noise_seed is None,
    )

"""Evaluate: the same items for every model, answered by the engine that will serve, all tasks in one engine start."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster import artifacts
from cluster.arithmetic import settled
from cluster.artifacts import Dataset, EvalReport, FileEntry, Score, Weights
from cluster.errors import InputError, ResourceError, StageFailed
from cluster.session import KEEP_MEMORY, check_gpus, on_pool
from cluster.storage import Storage, local_copy, sha256_of, staged_folder
from pipelines.config import EvaluateConfig
from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.engine import ENVIRONMENT, EngineSettings, Scorer
from pipelines.evaluation.items import ASKS, Item, Row, is_number
from pipelines.evaluation.rows import write_rows
from pipelines.evaluation.safety import scorers, toxicity
from pipelines.evaluation.strata import placed, with_strata
from pipelines.evaluation.tasks import VERSION, build_items, file_digest, scorer_digest, takes_documents
from pipelines.evaluation.written import is_unread
from pipelines.progress import Bar, bar, say
from pipelines.task_config import ClassifierScorer, ToxicityTask

FIRST_BATCH = 24
"""Items given to the engine at once, at first."""
BATCH_S = 30.0
"""What later ones should take: a GPU is filled and hardly ever waits for a batch's last item, and progress still shows."""
MOST_GROWTH = 8
"""Times, from one batch to the next: the items of another task may be slower."""
POLL_S = 2.0
NEEDED = {kind: ("score", "nll") if "likelihood" in asked else ("score",) for kind, asked in ASKS.items()}
"""Figures every item of that kind must have."""


def evaluate(config: EvaluateConfig, model: Weights, dataset: Dataset, storage: Storage) -> EvalReport:
    """Score `model` on every task; the items depend on the dataset, the task and the seed alone.

    Raises:
        InputError: no held-out text, a wrong task file, a model that cannot be loaded or gives no finite score.
        ResourceError: too little memory where the engine runs.
    """
    began = time.monotonic()
    settings, inputs, key = _settings(config), _inputs(model, dataset), key_of(config, model, dataset)
    if (found := artifacts.load(storage, EvalReport, key)) is not None:
        say("evaluate", f"already made for {model.kind} {model.key}")
        return found
    check_gpus(config.pool, config.num_gpus, "evaluate.num_gpus")
    check_model(local_copy(storage, model.folder), config.max_model_len)
    check_scorers(config)
    items = _items(config, dataset, storage)
    say("evaluate", f"{model.kind} {model.key}: {len(items)} items of {len(config.tasks)} tasks")
    engine = engine_settings(config, storage.location, model.folder, model.num_weight_bytes)
    rows = answers(config, engine, items)
    rows = with_toxicity(config, rows)
    check_complete(f"{model.kind} {model.key}", items, rows)
    _say_what_was_not_read(items, rows)
    report = EvalReport(key=key, inputs=inputs, config=settings, model=model.digest, scores=scores(config, rows))
    written = _write_items(storage, report, with_strata(items, rows))
    report = report.replace(files=(written,), took_s=time.monotonic() - began)
    for score in report.scores:
        interval = f"{score.ci_low:.3f} to {score.ci_high:.3f}"
        say("evaluate", f"{score.task}: {score.metric} {score.value:.3f} ({interval}, {score.num_items} items)")
    say("evaluate", f"took {report.took_s:.0f} s")
    return artifacts.save(storage, report)


def key_of(config: EvaluateConfig, model: Weights, dataset: Dataset) -> str:
    """Under which `evaluate` keeps its result."""
    return artifacts.stage_key("evaluate", _settings(config), _inputs(model, dataset))


def _inputs(model: Weights, dataset: Dataset) -> dict[str, str]:
    return {"model": model.digest, "dataset": dataset.digest}


def _settings(config: EvaluateConfig) -> dict[str, Any]:
    """What decides the result: not the machine but for the numbers it computes in, nor where a task's file lies."""
    settings = config.model_dump(mode="json", exclude={"pool", "kv_cache_gib", "num_gpus"})
    settings["items_version"] = VERSION
    if (dtype := settled("auto", bool(config.num_gpus))) != "bfloat16":  # which changes figures a little
        settings["dtype"] = dtype
    for task, given in zip(settings["tasks"], config.tasks, strict=True):
        task["path"] = file_digest(given)
        if isinstance(given, ToxicityTask) and (path := getattr(given.scorer, "path", None)):
            task["scorer"]["path"] = scorer_digest(path)
    return settings


def check_model(folder: Any, max_model_len: int) -> None:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            str(folder), "the model folder has no tokenizer", "add tokenizer.json and tokenizer_config.json"
        )
    try:
        longest = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    except (OSError, ValueError):
        raise InputError(
            str(folder), "config.json is missing or damaged", "give a complete Hugging Face folder"
        ) from None
    if longest is not None and max_model_len > longest:
        raise InputError(
            f"evaluate.max_model_len {max_model_len}",
            f"the model takes at most {longest} tokens",
            f"set it to {longest}",
        )


def _items(config: EvaluateConfig, dataset: Dataset, storage: Storage) -> list[Item]:
    documents = read_documents(storage, dataset) if any(map(takes_documents, config.tasks)) else []
    items: list[Item] = []
    for task in config.tasks:
        built = build_items(task, documents, config.seed)
        items += placed(built, storage, dataset) if takes_documents(task) else built
    return items


def read_documents(storage: Storage, dataset: Dataset) -> list[tuple[str, str]]:
    """(id, text) of the held-out documents, in the order of their ids.

    Raises:
        InputError: there are none, or two share an id.
    """
    import pyarrow.parquet as pq

    documents: list[tuple[str, str]] = []
    for key in storage.list(f"{dataset.location}/heldout"):
        if key.endswith(".parquet"):
            filesystem, path = storage.filesystem(key)
            table = pq.read_table(path, columns=["id", "text"], filesystem=filesystem)
            documents += zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
    if not documents:
        raise InputError(
            f"{storage.uri}/{dataset.location}/heldout",
            "no held-out documents",
            "raise data.heldout_fraction or give more documents",
        )
    name, count = Counter(name for name, _ in documents).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{storage.uri}/{dataset.location}/heldout", f"{count} documents have the id {name!r}", "make it anew"
        )
    return sorted(documents)


def answers(config: EvaluateConfig, engine: EngineSettings, items: Sequence[Item]) -> list[Row]:
    """All items through one engine, in an actor that is killed at the end: that frees its memory."""
    import ray

    actor = (
        ray.remote(Scorer)
        .options(
            num_cpus=0.5,  # bookkeeping: the engine uses the node's cores, and nothing else runs in this stage
            num_gpus=config.num_gpus,
            label_selector=on_pool(config.pool),
            runtime_env={"env_vars": {**ENVIRONMENT, **({} if config.num_gpus else KEEP_MEMORY)}},
        )
        .remote()
    )
    rows: list[Row] = []
    try:
        with bar("evaluate", len(items), "items") as shown:
            _wait(actor.start.remote(engine), shown, 0, "starting the engine")
            at, size = 0, FIRST_BATCH
            while batch := items[at : at + size]:
                began = time.monotonic()
                rows += _wait(actor.answer.remote(batch), shown, at, batch[0].task)
                at, size = at + len(batch), next_size(len(batch), time.monotonic() - began)
                shown.update(at, batch[0].task)
    finally:
        ray.kill(actor)
    return rows


def next_size(num_items: int, took_s: float) -> int:
    """Items of the next batch, when the last one of `num_items` took `took_s`."""
    return max(1, min(int(num_items * BATCH_S / max(took_s, 1e-3)), MOST_GROWTH * num_items))


def check_scorers(config: EvaluateConfig) -> None:
    """Before hours of writing: a word list that cannot be read, a token that is not set.

    Raises:
        InputError: a scorer that cannot be used.
    """
    for task in config.tasks:
        if isinstance(task, ToxicityTask) and not isinstance(
            task.scorer, ClassifierScorer
        ):  # whose folder the pool has
            scorers.scorer(task.scorer)


def with_toxicity(config: EvaluateConfig, rows: Sequence[Row]) -> list[Row]:
    """The rows, those of toxicity tasks scored by each task's scorer; a classifier runs where the engine did.

    Raises:
        InputError: a scorer that cannot be used.
        ResourceError: a scorer that failed on some texts.
    """
    tasks = {task.name: task for task in config.tasks if isinstance(task, ToxicityTask)}
    done = list(rows)
    for task in tasks.values():
        places = [at for at, row in enumerate(rows) if row["task"] == task.name]
        texts = [text for at in places for text in rows[at]["samples"]]
        say("evaluate", f"{task.name}: {len(texts)} continuations to the {task.scorer.kind} scorer")
        scores = iter(_score_texts(config, task, texts))
        for at in places:
            done[at] = toxicity.scored(task, rows[at], [next(scores) for _ in rows[at]["samples"]])
    return done


def _score_texts(config: EvaluateConfig, task: ToxicityTask, texts: Sequence[str]) -> list[float]:
    if not isinstance(task.scorer, ClassifierScorer):
        return scorers.score_texts(task.scorer, texts)
    import ray

    run = ray.remote(scorers.score_texts).options(num_cpus=0.5, label_selector=on_pool(config.pool))
    with bar("evaluate", len(texts), "texts") as shown:
        found: list[float] = _wait(run.remote(task.scorer, texts), shown, 0, task.name)
    return found


def engine_settings(config: EvaluateConfig, storage_uri: str, folder: str, num_weight_bytes: int) -> EngineSettings:
    return EngineSettings(
        storage_uri=storage_uri,
        model_folder=folder,
        max_model_len=config.max_model_len,
        num_gpus=config.num_gpus,
        kv_cache_gib=config.kv_cache_gib,
        seed=config.seed,
        num_weight_bytes=num_weight_bytes,
    )


def _wait(reference: Any, shown: Bar, completed: int, figures: str) -> Any:
    """The result, with a sign of life meanwhile. Errors meant for people come through as they were raised."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

    try:
        while not ray.wait([reference], timeout=POLL_S)[0]:
            shown.update(completed, figures)
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, InputError | ResourceError):
            raise error.cause from None
        raise StageFailed(f"evaluate: the engine broke off: {error.cause!r}") from error
    except (OutOfMemoryError, RayActorError) as error:
        raise ResourceError(
            "evaluate",
            f"the engine's process died ({str(error).splitlines()[0]})",
            "most often memory ran out: stop other work on that machine or lower evaluate.kv_cache_gib",
        ) from None


def check_complete(model: str, items: Sequence[Item], rows: Sequence[Row]) -> None:
    """Raises InputError naming the first item without a finite answer: a hole is never counted as zero."""
    answered = {(row["task"], row["id"]): row for row in rows}
    for item in items:
        row = answered.get((item.task, item.id))
        if row is None or not all(is_number(row[name]) for name in NEEDED[item.kind]):
            raise InputError(
                f"{model}, task {item.task}, item {item.id}",
                "not answered" if row is None else "its score is not a finite number",
                "the weights are damaged or training diverged: train again, with a lower learning_rate",
            )


def _say_what_was_not_read(items: Sequence[Item], rows: Sequence[Row]) -> None:
    """An answer without a choice is not right, which a person should be able to tell from a wrong one."""
    outputs = {(row["task"], row["id"]): row["output"] for row in rows}
    found = [(item.task, outputs[item.task, item.id]) for item in items if is_unread(item, outputs[item.task, item.id])]
    for task, count in Counter(task for task, _ in found).items():
        empty = sum(name == task and not text.strip() for name, text in found)
        say(
            "evaluate",
            f"{task}: no choice could be read from {count} answer(s), {empty} of them empty: counted as not right",
        )


def scores(config: EvaluateConfig, rows: Sequence[Row]) -> tuple[Score, ...]:
    by_task = {
        task.name: sorted((r for r in rows if r["task"] == task.name), key=lambda r: r["id"]) for task in config.tasks
    }
    return tuple(score for task in config.tasks for score in scores_of(task.name, task.kind, by_task[task.name]))


def _write_items(storage: Storage, report: EvalReport, rows: Sequence[Row]) -> FileEntry:
    with staged_folder(storage, report.location) as folder:
        path = folder / "items.parquet"
        write_rows(path, rows)
        return FileEntry(path=path.name, num_bytes=path.stat().st_size, sha256=sha256_of(path))

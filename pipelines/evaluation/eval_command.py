"""`serinus eval`: any model folder, or a served model, on a file of tasks; `serinus eval-compare`: two such evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.config import EvaluateConfig
    from pipelines.evaluation.report import RunReport

ModelFolder = Callable[[Path], Path]
"""A .gguf file -> the Hugging Face folder made of it."""


@dataclass(frozen=True)
class _Wanted:
    """How the model is to be asked."""

    config: EvaluateConfig
    tasks: str
    out: Path
    engine: Literal["vllm", "transformers"] = "vllm"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"


def register(app: typer.Typer, out: Console, folder_of: ModelFolder) -> None:
    """Add the command. `folder_of` is of another stage."""

    @app.command("eval")
    def evaluate(
        model: Annotated[
            str,
            typer.Argument(help="a Hugging Face folder, a .gguf file, or the URL of an OpenAI-compatible API (.../v1)"),
        ],
        tasks: Annotated[Path, typer.Argument(help="YAML: `tasks:` as in a recipe's `evaluate:`, each with a file")],
        folder: Annotated[Path, typer.Option("--out", help="folder for the report and items.parquet")] = Path(
            "evaluation"
        ),
        *,
        engine: Annotated[
            Literal["vllm", "transformers"] | None,
            typer.Option(help="what computes: vllm, which serves (the default), or transformers, to hold it against"),
        ] = None,
        dtype: Annotated[
            Literal["auto", "bfloat16", "float32"] | None,
            typer.Option(help="what it computes in; auto: bfloat16 where the machine multiplies that"),
        ] = None,
        served: Annotated[str, typer.Option("--model", help="of several that an API serves")] = "",
        key_env: Annotated[str | None, typer.Option(help="environment variable with the API's key")] = None,
    ) -> None:
        """Evaluate a model without a recipe, offline: print its scores, write a page, JSON and the items."""
        from cluster.config import load_yaml
        from cluster.errors import ConfigError
        from pipelines.config import EvaluateConfig
        from pipelines.evaluation import report_page

        wanted = _Wanted(load_yaml(tasks, EvaluateConfig), str(tasks), folder, engine or "vllm", dtype or "auto")
        if model.startswith(("http://", "https://")):
            if engine or dtype:
                raise ConfigError("--engine, --dtype", "a service has its own", "leave them out beside a URL")
            found = _endpoint(wanted, model, (served, key_env))
        else:
            found = _folder(wanted, Path(model).absolute(), folder_of)
        out.print(_table(found))
        for note in found.notes:
            out.print(f"but: {note}", markup=False)
        for path in report_page.write(found, folder):
            out.print(path, markup=False)


def _folder(wanted: _Wanted, model: Path, folder_of: ModelFolder) -> RunReport:
    from cluster import session
    from cluster.errors import InputError
    from pipelines.evaluation import standalone

    is_file = model.is_file() and model.suffix.lower() == ".gguf"
    if not is_file and not model.is_dir():
        found = "is a file that is not .gguf" if model.is_file() else "no such folder"
        raise InputError(str(model), found, "give a Hugging Face folder, a .gguf file, or a URL that ends in /v1")
    items = standalone.items_of(wanted.config, wanted.tasks)
    standalone.check_out(wanted.out)
    folder = folder_of(model) if is_file else model
    with session.joined():
        engine = standalone.engine_for(wanted.config, folder, wanted.engine, wanted.dtype)
        rows = standalone.of_folder(wanted.config, engine, items)
        source = standalone.folder_evidence(folder, standalone.described(engine))
        return standalone.reported(wanted.config, model.name, source, items, rows, out=wanted.out)


def _endpoint(wanted: _Wanted, url: str, served: tuple[str, str | None]) -> RunReport:
    from contextlib import nullcontext

    from cluster import session
    from cluster.bearer import authorization
    from pipelines.evaluation import standalone
    from pipelines.evaluation.endpoint import Endpoint

    config, (model, key_env) = wanted.config, served
    headers = authorization(key_env, "--key-env")
    items = standalone.items_of(config, wanted.tasks)
    standalone.check_out(wanted.out)
    endpoint = Endpoint(url, model, headers=headers, seed=config.seed)
    rows = standalone.of_endpoint(endpoint, items)
    classifies = any(getattr(getattr(task, "scorer", None), "kind", "") == "classifier" for task in config.tasks)
    with session.joined() if classifies else nullcontext():
        source = standalone.endpoint_evidence(endpoint)
        return standalone.reported(config, endpoint.model, source, items, rows, out=wanted.out)


def _table(report: RunReport) -> Table:
    from pipelines.evaluation.figures import is_whole

    table = Table("task", "metric", "value", "95 % interval", "items", box=None, header_style="bold")
    for one in report.scores:
        score = one.score
        interval = "" if is_whole(score.metric) else f"{score.ci_low:.4g} to {score.ci_high:.4g}"
        table.add_row(score.task, score.metric, f"{score.value:.4g}", interval, str(score.num_items))
    return table

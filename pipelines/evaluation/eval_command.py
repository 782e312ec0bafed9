"""`serinus eval`: any model folder, or a served model, on a file of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.config import EvaluateConfig
    from pipelines.evaluation.report import RunReport


def register(app: typer.Typer, out: Console) -> None:
    """Add the command."""

    @app.command("eval")
    def evaluate(
        model: Annotated[
            str, typer.Argument(help="a Hugging Face folder, or the URL of an OpenAI-compatible API (.../v1)")
        ],
        tasks: Annotated[Path, typer.Argument(help="YAML: `tasks:` as in a recipe's `evaluate:`, each with a file")],
        folder: Annotated[Path, typer.Option("--out", help="folder for the report and items.parquet")] = Path(
            "evaluation"
        ),
        *,
        served: Annotated[str, typer.Option("--model", help="of several that an API serves")] = "",
        key_env: Annotated[str | None, typer.Option(help="environment variable with the API's key")] = None,
    ) -> None:
        """Evaluate a model without a recipe, offline: print its scores, write a page, JSON and the items."""
        from cluster.config import load_yaml
        from pipelines.config import EvaluateConfig
        from pipelines.evaluation import report_page

        config = load_yaml(tasks, EvaluateConfig)
        if model.startswith(("http://", "https://")):
            found = _endpoint(config, model, str(tasks), folder, (served, key_env))
        else:
            found = _folder(config, Path(model).resolve(), str(tasks), folder)
        out.print(_table(found))
        for path in report_page.write(found, folder):
            out.print(path, markup=False)


def _folder(config: EvaluateConfig, model: Path, where: str, out: Path) -> RunReport:
    from cluster import session
    from cluster.errors import InputError
    from pipelines.evaluation import standalone

    if not model.is_dir():
        raise InputError(str(model), "no such folder", "give a Hugging Face folder, or a URL that ends in /v1")
    items = standalone.items_of(config, where)
    standalone.check_out(out)
    with session.joined():
        rows = standalone.of_folder(config, model, items)
        return standalone.reported(config, model.name, standalone.folder_evidence(model), items, rows, out=out)


def _endpoint(config: EvaluateConfig, url: str, where: str, out: Path, served: tuple[str, str | None]) -> RunReport:
    from contextlib import nullcontext

    from cluster import session
    from cluster.bearer import authorization
    from pipelines.evaluation import standalone
    from pipelines.evaluation.endpoint import Endpoint

    model, key_env = served
    headers = authorization(key_env, "--key-env")
    items = standalone.items_of(config, where)
    standalone.check_out(out)
    endpoint = Endpoint(url, model, headers=headers, seed=config.seed)
    rows = standalone.of_endpoint(endpoint, items)
    classifies = any(getattr(getattr(task, "scorer", None), "kind", "") == "classifier" for task in config.tasks)
    with session.joined() if classifies else nullcontext():
        return standalone.reported(config, endpoint.model, standalone.endpoint_evidence(endpoint), items, rows, out=out)


def _table(report: RunReport) -> Table:
    table = Table("task", "metric", "value", "95 % interval", "items", box=None, header_style="bold")
    for one in report.scores:
        score = one.score
        interval = f"{score.ci_low:.4g} to {score.ci_high:.4g}"
        table.add_row(score.task, score.metric, f"{score.value:.4g}", interval, str(score.num_items))
    return table

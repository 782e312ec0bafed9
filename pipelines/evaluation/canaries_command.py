"""`serinus canaries plant`: secrets into training documents, and the task that asks whether a model gives them away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def register(app: typer.Typer, out: Console) -> None:
    """Put the command among those of `app`."""

    @app.command("plant")
    def plant(
        documents: Annotated[Path, typer.Argument(help="JSON lines of documents, a source of the recipe")],
        folder: Annotated[Path, typer.Option("--out", help="folder for planted.jsonl and canaries.jsonl")] = Path(),
        num: Annotated[int, typer.Option(min=1, help="canaries")] = 10,
        repeats: Annotated[int, typer.Option(min=1, help="documents that each stands in")] = 8,
        *,
        seed: Annotated[int, typer.Option(help="draws the secrets and their places")] = 0,
        text_field: Annotated[str, typer.Option(help="the documents' text")] = "text",
    ) -> None:
        """Write DOCUMENTS with canaries inside, to be cleaned in their place, and the file of a `canaries` task."""
        from cluster.errors import ConfigError
        from pipelines.evaluation.records import records, text_of
        from pipelines.evaluation.safety import plant as planting

        if documents.resolve() == (folder / "planted.jsonl").resolve():
            over = f"{documents} would be written over"
            raise ConfigError(f"--out: {folder}", over, "name another folder: plant in documents that hold none yet")
        read = [(where, record) for where, _, record in records(str(documents))]
        for where, record in read:
            text_of(where, record, text_field)
        found = planting.canaries(num, seed)
        planted = planting.plant([record for _, record in read], found, repeats, seed, text_field)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "planted.jsonl").write_text(planting.lines(planted), encoding="utf-8")
            (folder / "canaries.jsonl").write_text(planting.lines(list(planting.items(found))), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out: {folder}", f"cannot be written to: {error.strerror}", "name another") from None
        out.print(
            f"{num} canaries in {num * repeats} of {len(read)} documents. Next: put {folder / 'planted.jsonl'} in the place of "
            f"{documents} in data.sources, and add a task {{kind: canaries, path: {folder / 'canaries.jsonl'}}}",
            markup=False,
        )

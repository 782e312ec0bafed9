"""`serinus data annotate run|list|show|review|export`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.command_line import RecipeOption, storage_of

if TYPE_CHECKING:
    from cluster.artifacts import Annotations
    from cluster.storage import Storage
    from pipelines.data.annotation.layers import Review

Wanted = Annotated[
    str | None, typer.Argument(metavar="[ANNOTATIONS]", help="key, or the beginning of one; default: the newest")
]
MAX_SHOWN = 160


Say = Callable[[Iterable[str]], None]


def register(app: typer.Typer, say: Say) -> None:
    """Put the commands among those of `app`."""
    annotate = typer.Typer(help="Entities, relations and reasoning on a dataset's documents.")
    app.add_typer(annotate, name="annotate")
    _making(annotate, say)
    _looking(annotate, say)
    _handing_on(annotate, say)


def _making(annotate: typer.Typer, say: Say) -> None:
    @annotate.command("run")
    def run(
        config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file: labels and annotators")],
        version: Annotated[str | None, typer.Option(help="of the dataset; default: the newest")] = None,
        recipe: RecipeOption = None,
        remake: Annotated[
            bool, typer.Option("--remake", help="even if it is made: ask again for answers that did not come")
        ] = False,
    ) -> None:
        """Annotate documents by rules, a model or people (Label Studio), check it, and keep what fails for review."""
        from cluster import artifacts
        from cluster.config import load_yaml
        from pipelines.data import history
        from pipelines.data.annotation import annotate as stage
        from pipelines.data.annotation.config import AnnotationConfig

        loaded, storage = load_yaml(config, AnnotationConfig), storage_of(recipe)
        dataset = history.version(storage, version)
        if remake and (
            old := artifacts.load(storage, artifacts.Annotations, stage.prepare(loaded, dataset, storage).key)
        ):
            artifacts.retire(storage, old)
        say(_lines(stage.annotate(loaded, dataset, storage), storage))


def _looking(annotate: typer.Typer, say: Say) -> None:
    @annotate.command("list")
    def listed(recipe: RecipeOption = None) -> None:
        """What was annotated, newest last."""
        from cluster.artifacts import Annotations
        from cluster.versions import every

        for one in every(storage_of(recipe), Annotations)[0]:
            say([f"{one.key}  {one.made_at:%Y-%m-%d %H:%M}  version {one.dataset}  {one.summary}"])

    @annotate.command("show")
    def show(annotations: Wanted = None, recipe: RecipeOption = None) -> None:
        """The figures: what was accepted, what is for review, how far annotators agree."""
        from pipelines.data.annotation.annotate import find

        storage = storage_of(recipe)
        say(_lines(find(storage, annotations), storage))

    @annotate.command("review")
    def review(
        annotations: Wanted = None,
        recipe: RecipeOption = None,
        reason: Annotated[str | None, typer.Option(help="only what is there for this reason")] = None,
        last: Annotated[int, typer.Option("--examples", min=0, help="entries to show")] = 20,
        as_json: Annotated[bool, typer.Option("--json", help="for machines: all entries, one a line")] = False,
    ) -> None:
        """The review queue. Exit code 1 when there is anything in it."""
        from pipelines.data.annotation.annotate import find, read_reviews

        storage = storage_of(recipe)
        found = [r for r in read_reviews(storage, find(storage, annotations)) if reason in (None, r.reason)]
        if as_json:
            for one in found:
                print(one.model_dump_json())
        else:
            say(f"{r.document}  {r.layer}, {r.reason}: {r.detail} (by {', '.join(r.by)})  {json.dumps(r.item)[:MAX_SHOWN]}"
                for r in found[:last])  # fmt: skip
            say([f"{len(found)} for review" + (f", {last} shown" if len(found) > last else "")])
        raise typer.Exit(1 if found else 0)


def _handing_on(annotate: typer.Typer, say: Say) -> None:
    @annotate.command("export")
    def export(
        folder: Annotated[Path, typer.Option("--out", help="folder to write to")],
        annotations: Wanted = None,
        recipe: RecipeOption = None,
        for_review: Annotated[
            bool, typer.Option("--for-review", help="only documents of which something is in the review queue")
        ] = False,
    ) -> None:
        """Write tasks for Label Studio with the labelling config they need, and the conversations for training."""
        from pipelines.data.annotation.annotate import find

        storage = storage_of(recipe)
        say(_exported(storage, find(storage, annotations), folder, for_review))


def _lines(made: Annotations, storage: Storage) -> Iterable[str]:
    yield f"annotations {made.key} of version {made.dataset}, by {', '.join(made.annotators)}"
    yield f"  {made.num_documents} documents"
    for layer, num in made.num_accepted_by_layer.items():
        yield f"  {layer:<10} {made.num_given_by_layer[layer]} given, {num} accepted"
    for reason, num in made.num_review_by_reason.items():
        yield f"  for review  {reason:<24} {num}"
    for one in made.agreement:
        said = f"{one.alpha:.3f}" if one.alpha is not None else "nothing to compare"
        yield f"  agreement on {one.layer} (Krippendorff's alpha): {said}, {one.num_units} units, {len(one.annotators)} annotators"
    yield f"  {made.num_conversations} conversations: {storage.uri}/{made.location}/instruct.jsonl"


def _exported(storage: Storage, made: Annotations, folder: Path, for_review: bool) -> Iterable[str]:
    from cluster.errors import ConfigError
    from pipelines.data.annotation.annotate import INSTRUCT, read_documents, read_reviews
    from pipelines.data.annotation.config import LabelsConfig
    from pipelines.data.annotation.label_studio import export, labelling_config

    by_document: dict[str, list[Review]] = {}
    for review in read_reviews(storage, made):
        by_document.setdefault(review.document, []).append(review)
    documents = [d for d in read_documents(storage, made) if not for_review or d.id in by_document]
    tasks = export(documents, by_document, f"serinus {made.key}")
    blob = storage.read(f"{made.location}/{INSTRUCT}")
    files = {
        "tasks.json": json.dumps(tasks, ensure_ascii=False, indent=1),
        "labelling_config.xml": labelling_config(LabelsConfig.model_validate(made.config["labels"])),
        INSTRUCT: blob.content.decode() if blob else "",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        found = f"cannot be written to: {error.strerror}"
        raise ConfigError(f"--out: {folder}", found, "name a folder that you may write to") from None
    return [f"{folder / name}" for name in files]

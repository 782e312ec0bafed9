"""OpenLineage events of what was made, from manifests, for those who collect them (openlineage.io, specification 2-0-2).

Each artifact is one run of the job that makes its kind: a START and a COMPLETE, whose run id is made of the manifest, so that
sending them again tells a collector nothing new. An artifact is a dataset, named by its place in the storage; its version is its
digest. Of input files the manifests know names and hashes and no places: they are told by folder, in the job's namespace.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from cluster.artifacts import KINDS, VERSION, Dataset, ImportedModel, Manifest, Source, digest, load
from cluster.bearer import authorization
from cluster.config import Location, StrictModel, WebAddress
from cluster.errors import InputError, ResourceError
from cluster.storage import Storage

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

PRODUCER = f"urn:serinus:{VERSION}"
JOBS = {
    "dataset": "clean",
    "annotations": "annotate",
    "preferences": "prefer",
    "model": "import",
    "initial": "initialize",
    "checkpoint": "train",
    "forecast": "forecast",
    "stage_run": "measure",
    "quantized": "quantize",
    "adapter": "import-adapter",
    "evaluation": "evaluate",
    "gate": "gate",
    "search": "search",
    "revision": "publish",
}
"""Kind -> job. A record is part of its dataset."""
FIRST_WAIT_S = 0.5
DATASET_FIELDS = {"id": "string", "text": "string", "source": "string", "position": "int64", "language": "string"}


class OpenLineageConfig(StrictModel):
    """Where events of what was made go. One that is away stops nothing; `serinus data openlineage --send` tells it later."""

    url: WebAddress | None = None
    """The collector's endpoint, as http://marquez:5000/api/v1/lineage."""
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable with its API key, where the recipe runs."""
    path: Location | None = None
    """A local file instead, to which events are appended, one a line."""
    namespace: str = Field("serinus", min_length=1)
    """Of the jobs."""
    timeout_s: float = Field(10, gt=0)
    attempts: int = Field(3, ge=1, le=20)

    @model_validator(mode="after")
    def _one_place(self) -> OpenLineageConfig:
        if (self.url is None) == (self.path is None):
            raise ValueError("give one of url and path")
        if self.path is not None and "://" in self.path:
            raise ValueError("path should be a local file")
        return self


# --- events -----------------------------------------------------------------------------------------------------------


def events(storage: Storage, manifest: Manifest, name: str, namespace: str) -> list[dict[str, Any]]:
    """The two events of an artifact, as JSON; none for kinds that are part of another.

    Args:
        name: of the recipe, with which the jobs' names begin.
    """
    if manifest.kind not in JOBS:
        return []
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import job_type_job, processing_engine_run, set_producer
    from openlineage.client.serde import Serde

    set_producer(PRODUCER)
    run_id = uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}:{manifest.digest}:{manifest.made_at.isoformat()}")
    engine = processing_engine_run.ProcessingEngineRunFacet(version=VERSION, name="serinus")
    kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="SERINUS", jobType="STAGE")
    run = Run(runId=str(run_id), facets={"processing_engine": engine})
    job = Job(namespace=namespace, name=f"{name}.{JOBS[manifest.kind]}", facets={"jobType": kind})
    inputs, outputs = list(_inputs(storage, manifest, namespace)), [_output(storage, manifest)]
    began_at = manifest.made_at - timedelta(seconds=manifest.took_s)
    return [
        Serde.to_dict(
            RunEvent(
                run=run, job=job, eventType=state, eventTime=_at(at), inputs=inputs, outputs=made, producer=PRODUCER
            )
        )
        for state, at, made in (
            (RunState.START, began_at, list["OutputDataset"]()),
            (RunState.COMPLETE, manifest.made_at, outputs),
        )
    ]


def _at(moment: datetime) -> str:
    return moment.isoformat()


def _inputs(storage: Storage, manifest: Manifest, namespace: str) -> Iterator[InputDataset]:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    for sha256 in dict.fromkeys(manifest.inputs.values()):
        blob = storage.read(f"artifacts/by-digest/{sha256}")
        if blob is not None:
            version = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=sha256)
            yield InputDataset(*_place(storage, blob.content.decode()), facets={"version": version})
    if isinstance(manifest, Dataset | ImportedModel):
        yield from _folders(manifest.sources, namespace)


def _folders(sources: Sequence[Source], namespace: str) -> Iterator[InputDataset]:
    """Input files by the first part of their names, which is the last of the source's path: a million files are one dataset."""
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset, input_statistics_input_dataset

    by_folder: dict[str, list[Source]] = {}
    for source in sources:
        by_folder.setdefault(source.path.partition("/")[0], []).append(source)
    for folder, files in by_folder.items():
        version = digest([[source.path, source.sha256] for source in files])
        statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            size=sum(source.num_bytes for source in files), fileCount=len(files)
        )
        yield InputDataset(
            namespace,
            f"sources/{folder}",
            facets={"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)},
            inputFacets={"inputStatistics": statistics},
        )


def _output(storage: Storage, manifest: Manifest) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import (
        dataset_version_dataset,
        output_statistics_output_dataset,
        schema_dataset,
    )

    facets: dict[str, Any] = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=manifest.digest)
    }
    if isinstance(manifest, Dataset):
        fields = [schema_dataset.SchemaDatasetFacetFields(name=n, type=t) for n, t in DATASET_FIELDS.items()]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=manifest.num_kept if isinstance(manifest, Dataset) else None,
        size=sum(file.num_bytes for file in manifest.files),
        fileCount=len(manifest.files),
    )
    return OutputDataset(
        *_place(storage, manifest.location), facets=facets, outputFacets={"outputStatistics": statistics}
    )


def _place(storage: Storage, location: str) -> tuple[str, str]:
    """Namespace and name, as OpenLineage's naming has them for files and S3."""
    parts = urlsplit(storage.uri)
    if parts.scheme == "s3":
        return f"s3://{parts.netloc}", f"{parts.path.strip('/')}/{location}".strip("/")
    return "file", f"{storage.uri}/{location}"


def everything(storage: Storage) -> list[Manifest]:
    """All artifacts of which there are events, oldest first. Those that another version of serinus wrote are left out."""
    found = list[Manifest]()
    for kind in JOBS:
        for name in storage.list(f"artifacts/{kind}"):
            if name.count("/") == 3 and name.endswith("/manifest.json"):
                try:
                    made = load(storage, KINDS[kind], name.split("/")[2])
                except InputError:
                    continue
                found += [made] if made else []
    return sorted(found, key=lambda made: (made.made_at, made.kind, made.key))


# --- on their way -----------------------------------------------------------------------------------------------------


class NotSent(Exception):
    """The collector did not take an event. Says no key."""


def send(
    config: OpenLineageConfig, told: Sequence[dict[str, Any]], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Give all events to the collector, or append them to the file.

    Raises:
        ConfigError: the key is not set, or cannot be one.
        ResourceError: the file cannot be written to.
        NotSent: the collector refuses one, or does not answer; those before it are sent.
    """
    if config.path is not None:
        _append(Path(config.path), told)
        return
    import httpx

    headers = authorization(config.key_env, "openlineage.key_env", "set it where the recipe runs, or leave key_env out")
    # Redirects are not followed: the key would go along.
    with httpx.Client(timeout=config.timeout_s, follow_redirects=False, headers=headers) as client:
        for event in told:
            _post(config, client, event, sleep)


def _append(path: Path, told: Sequence[dict[str, Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(event)}\n" for event in told))
    except OSError as error:
        found = f"cannot be written to: {error.strerror}"
        raise ResourceError(f"openlineage.path: {path}", found, "name a file that you may write to") from None


def _post(config: OpenLineageConfig, client: Any, event: dict[str, Any], sleep: Callable[[float], None]) -> None:
    import httpx

    problem = ""
    for attempt in range(config.attempts):
        if attempt:
            sleep(FIRST_WAIT_S * 2.0 ** (attempt - 1))
        try:
            with client.stream("POST", config.url, json=event) as answer:  # what it says is not read
                if 200 <= answer.status_code < 300:
                    return
                problem = f"status {answer.status_code}"
                if answer.status_code < 500 and answer.status_code != 429:
                    break
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            OSError,
            UnicodeError,
        ) as error:  # its text may hold the address
            problem = type(error).__name__
    raise NotSent(f"the collector did not take an event of {event['job']['name']}: {problem}")

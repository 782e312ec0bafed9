"""OpenLineage events: what they say, that they are in the specification's form, and their way to a collector."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

import serinus
from cluster import artifacts, openlineage
from cluster.artifacts import Dataset, FileEntry, Record, Source
from cluster.errors import ClusterError, ConfigError, ResourceError
from cluster.openlineage import NotSent, OpenLineageConfig, events, everything, send
from cluster.storage import LocalStorage
from pipelines.lifecycle import Run
from tests.unit.pipelines.data.world import train

FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["_producer", "_schemaURL"],
        "properties": {"_producer": {"format": "uri"}, "_schemaURL": {"pattern": "^https://openlineage.io/spec/"}},
    },
}
DATASET: dict[str, Any] = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {
        "namespace": {"type": "string"},
        "name": {"type": "string"},
        **dict.fromkeys(("facets", "inputFacets", "outputFacets"), FACETS),
    },
    "additionalProperties": False,
}
SPECIFIED = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"type": "string", "format": "uri"},
        "run": {
            "required": ["runId"],
            "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
            "additionalProperties": False,
        },
        "job": {
            "required": ["namespace", "name"],
            "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": FACETS},
            "additionalProperties": False,
        },
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {"type": "array", "items": DATASET},
    },
    "additionalProperties": False,
}
"""What the specification's version 2-0-2 asks of a run event, in our words."""

DATA = Dataset(
    key="a" * 16,
    sources=(
        Source(path="raw/a.txt", num_bytes=3, sha256="1" * 64),
        Source(path="raw/b.txt", num_bytes=4, sha256="2" * 64),
        Source(path="wiki/c.jsonl", num_bytes=5, sha256="3" * 64),
    ),
    num_documents=9,
    num_train=7,
    num_heldout=1,
    files=(FileEntry(path="train/0.parquet", num_bytes=70, sha256="4" * 64),),
    took_s=60,
)


@pytest.fixture
def lineage(storage: LocalStorage) -> LocalStorage:
    dataset = artifacts.save(storage, DATA)
    artifacts.save(storage, Record(key=dataset.key, inputs={"dataset": dataset.digest}))
    train(storage, dataset)
    return storage


def told(storage: LocalStorage) -> list[dict[str, Any]]:
    return [event for made in everything(storage) for event in events(storage, made, "m", "ns")]


def test_events_are_as_specified(lineage: LocalStorage) -> None:
    found = told(lineage)
    assert [event["job"]["name"] for event in found[::2]] == [
        "m.clean", "m.train", "m.quantize", "m.evaluate", "m.gate", "m.publish"]  # fmt: skip
    for event in found:
        jsonschema.validate(event, SPECIFIED, format_checker=jsonschema.FormatChecker())
        assert json.loads(json.dumps(event)) == event
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found[0], "run": {"runId": "1"}}, SPECIFIED, format_checker=jsonschema.FormatChecker())


def test_what_a_dataset_was_made_of(lineage: LocalStorage) -> None:
    start, complete = told(lineage)[:2]
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["eventTime"] < complete["eventTime"]
    assert [(one["namespace"], one["name"]) for one in complete["inputs"]] == [
        ("ns", "sources/raw"),
        ("ns", "sources/wiki"),
    ]
    raw = complete["inputs"][0]
    assert (raw["inputFacets"]["inputStatistics"]["size"], raw["inputFacets"]["inputStatistics"]["fileCount"]) == (7, 2)
    (made,) = complete["outputs"]
    assert start.get("outputs", []) == []
    assert (made["namespace"], made["name"]) == ("file", f"{lineage.uri}/{DATA.location}")
    assert (
        made["facets"]["version"]["datasetVersion"]
        == DATA.model_copy(update={"made_by": f"serinus {artifacts.VERSION}"}).digest
    )
    statistics = made["outputFacets"]["outputStatistics"]
    assert [statistics[name] for name in ("rowCount", "size", "fileCount")] == [8, 70, 1]
    assert [field["name"] for field in made["facets"]["schema"]["fields"]][:2] == ["id", "text"]


def test_each_artifact_is_the_input_of_what_is_made_of_it(lineage: LocalStorage) -> None:
    made = {event["job"]["name"]: event for event in told(lineage) if event["eventType"] == "COMPLETE"}
    output = {name: (event["outputs"][0]["namespace"], event["outputs"][0]["name"]) for name, event in made.items()}
    inputs = {name: [(one["namespace"], one["name"]) for one in event["inputs"]] for name, event in made.items()}
    assert inputs["m.train"] == [output["m.clean"]]  # of its base there is no manifest
    assert inputs["m.quantize"] == [output["m.train"], output["m.clean"]]
    assert output["m.quantize"] in inputs["m.publish"]


def test_the_same_artifact_is_the_same_run(lineage: LocalStorage) -> None:
    assert told(lineage) == told(lineage)
    again = artifacts.save(lineage, DATA.model_copy(update={"made_at": Dataset(key="").made_at}))
    runs = {event["run"]["runId"] for event in events(lineage, again, "m", "ns")}
    assert runs.isdisjoint({event["run"]["runId"] for event in events(lineage, DATA, "m", "ns")})


def test_a_bucket_is_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket(LocalStorage):
        def __init__(self) -> None:
            self.uri = "s3://bucket/folder"

    assert openlineage._place(Bucket(), "artifacts/x") == ("s3://bucket", "folder/artifacts/x")


# --- on their way -----------------------------------------------------------------------------------------------------


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events, self.keys = list[dict[str, Any]](), list[str]()
        self.statuses = list[int]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/v1/lineage"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = self.server.statuses.pop(0) if self.server.statuses else 201
        self.server.keys.append(self.headers.get("authorization", ""))
        if status == 201:
            self.server.events.append(body)
        self.send_response(status)
        if status == 302:
            self.send_header("location", self.server.url)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


EVENT = {"job": {"name": "m.clean"}}


def test_events_reach_a_collector(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", "k1")
    config = OpenLineageConfig(url=collector.url, key_env="COLLECTOR_KEY")
    collector.statuses, waits = [503, 429], list[float]()
    send(config, [EVENT, EVENT], waits.append)
    assert collector.events == [EVENT, EVENT]
    assert collector.keys == ["Bearer k1"] * 4
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("status", [302, 400, 401])
def test_what_a_collector_refuses_is_sent_once(status: int, collector: Collector) -> None:
    collector.statuses = [status]
    with pytest.raises(NotSent, match=f"an event of m.clean: status {status}"):
        send(OpenLineageConfig(url=collector.url), [EVENT], lambda _: None)
    assert (len(collector.keys), collector.events) == (1, [])


def test_a_collector_that_is_away() -> None:
    with pytest.raises(NotSent, match="ConnectError"):
        send(OpenLineageConfig(url="http://127.0.0.1:1", attempts=2), [EVENT], lambda _: None)


def test_events_in_a_file(tmp_path: Path) -> None:
    config = OpenLineageConfig(path=str(tmp_path / "new" / "events.jsonl"))
    send(config, [EVENT])
    send(config, [EVENT])
    assert (tmp_path / "new" / "events.jsonl").read_text().splitlines() == [json.dumps(EVENT)] * 2
    with pytest.raises(ResourceError, match="cannot be written to"):
        send(OpenLineageConfig(path=str(tmp_path)), [EVENT])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give one of url and path"),
        ({"url": "http://h", "path": "x"}, "give one of url and path"),
        ({"path": "s3://bucket/x"}, "a local file"),
        ({"url": "http://me:secret@h"}, "should be an address"),
        ({"url": "file:///etc/passwd"}, "should be an address"),
    ],
)
def test_mistakes_in_the_configuration(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OpenLineageConfig.model_validate(given)


def test_a_missing_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLLECTOR_KEY", raising=False)
    with pytest.raises(ConfigError, match="no variable COLLECTOR_KEY"):
        send(OpenLineageConfig(url="http://127.0.0.1:1", key_env="COLLECTOR_KEY"), [EVENT])
    monkeypatch.setenv("COLLECTOR_KEY", "schlüssel")
    with pytest.raises(ConfigError, match="characters that no header may have"):
        send(OpenLineageConfig(url="http://127.0.0.1:1", key_env="COLLECTOR_KEY"), [EVENT])


@pytest.mark.parametrize("url", ["http://a..b/", "http://xn--/", "http://h/\x7f"])
def test_an_address_that_cannot_be_one_stops_nothing(url: str) -> None:
    with pytest.raises(NotSent):
        send(OpenLineageConfig(url=url, attempts=1), [EVENT])


def test_a_run_tells_of_what_it_makes_and_goes_on_without_a_collector(
    lineage: LocalStorage, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    work = Run("m", lineage, "publish", None, OpenLineageConfig(url=collector.url))
    made = work.make("clean", "dataset", lambda: artifacts.save(lineage, Dataset(key="b" * 16)))
    assert [event["eventType"] for event in collector.events] == ["START", "COMPLETE"]
    work.make("clean", "dataset", lambda: DATA)  # was made before
    assert len(collector.events) == 2
    collector.statuses = [400]
    assert work.make("clean", "dataset", lambda: made) is made
    assert "serinus data openlineage --send" in capfd.readouterr().err
    assert Run("m", lineage, "publish", None).make("clean", "dataset", lambda: made) is made
    assert len(collector.events) == 2


def test_the_command(lineage: LocalStorage, collector: Collector, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = (
        f"name: m\nstorage: {lineage.uri}\ndata: {{sources: [{{path: in}}]}}\nmodel: {{source: model}}\n"
        "evaluate: {tasks: [{name: p, kind: perplexity}]}\n"
    )
    path.write_text(text)
    run = CliRunner()
    printed = run.invoke(serinus.app, ["data", "openlineage", "--recipe", str(path)])
    assert [json.loads(line) for line in printed.output.splitlines()] == [
        event for made in everything(lineage) for event in events(lineage, made, "m", "serinus")
    ]
    refused = run.invoke(serinus.app, ["data", "openlineage", "--recipe", str(path), "--send"])
    assert isinstance(refused.exception, ConfigError)
    path.write_text(f"{text}openlineage: {{url: '{collector.url}', attempts: 1}}\n")
    sent = run.invoke(serinus.app, ["data", "openlineage", "--recipe", str(path), "--send"])
    assert sent.output == "12 events of 6 artifacts sent\n"
    assert len(collector.events) == 12
    collector.statuses = [500]
    refused = run.invoke(serinus.app, ["data", "openlineage", "--recipe", str(path), "--send"])
    assert isinstance(refused.exception, ClusterError)

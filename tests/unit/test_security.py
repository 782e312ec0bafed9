"""Ways in, each tried and refused. docs/threat_model.md lists them all, and the tests elsewhere that try the others."""

from __future__ import annotations

import http.server
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster import dashboard, registry, telemetry
from cluster.artifacts import Revision
from cluster.config import load_yaml
from cluster.errors import ConfigError, InputError
from cluster.node_cache import local_copy
from cluster.s3 import S3Storage
from cluster.storage import LocalStorage, open_storage, publish_folder, remove_folder
from pipelines import base_model
from pipelines.config import ModelConfig, SourceConfig
from pipelines.data.inventory import inventory
from serinus_recipe import Recipe
from services.commands.remote import ControlApi
from services.config import EngineConfig
from services.rollout.replay import read_rollout
from services.serving.engine import engine_arguments
from services.serving.keys import add_key

# --- paths out of the storage -----------------------------------------------------------------------------------------

OUTSIDE = ["../secret", "a/../../secret", "/etc/passwd", "..", "a/..", "a\0b"]


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A file next to the storage, which nothing in the storage may name."""
    (tmp_path / "secret").write_text("s")
    return tmp_path / "secret"


@pytest.mark.parametrize("key", OUTSIDE)
@pytest.mark.parametrize(
    "act",
    [
        lambda storage, key: storage.read(key),
        lambda storage, key: storage.write(key, b"x"),
        lambda storage, key: list(storage.list(key)),
        lambda storage, key: storage.filesystem(key),
        local_copy,
        remove_folder,
        lambda storage, key: publish_folder(storage, Path(storage.root), key),
    ],
    ids=["read", "write", "list", "filesystem", "local_copy", "remove_folder", "publish_folder"],
)
def test_no_key_leaves_a_folder(act: Callable[[LocalStorage, str], Any], key: str, beside: Path) -> None:
    with pytest.raises(InputError, match="is a path out of the storage"):
        act(LocalStorage(beside.parent / "store"), key)
    assert beside.read_text() == "s"


def test_names_that_only_look_odd_are_keys(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for key in ("a..b/c", "...", "a/.b", "é"):
        storage.write(key, b"x")
        assert storage.read(key) is not None


@pytest.mark.parametrize("key", OUTSIDE)
def test_no_key_leaves_a_buckets_folder(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(InputError, match="is a path out of the storage"):
        S3Storage("s3://bucket/ours").read(key)


def test_a_revisions_name_is_no_path_to_a_revision_elsewhere(tmp_path: Path) -> None:
    planted = Revision(key="0" * 16, name="m", revision="planted", weights="../../elsewhere")
    (tmp_path / "planted.json").write_text(planted.model_dump_json())
    storage = LocalStorage(tmp_path / "store")
    storage.write("registry/m/aliases.json", b'{"name": "m"}')
    for name in ("../../../../planted", str(tmp_path / "planted")):
        with pytest.raises(InputError):
            registry.resolve(storage, "m", name)
    with pytest.raises(InputError, match="is a path out of the storage"):
        read_rollout(storage, "m", "../../../../planted")


@pytest.mark.parametrize("name", ["../m", "a/b", "/etc", "a\\nb", "A", "a b", ".", "a\0", "m\n", "x" * 41])
def test_a_models_name_is_a_plain_word(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        json.dumps(
            {
                "name": name,
                "storage": "s",
                "data": {"sources": [{"path": "a"}]},
                "model": {"source": "b"},
                "evaluate": {"tasks": [{"name": "p", "kind": "perplexity"}]},
            }
        )
    )
    with pytest.raises(ConfigError, match="name"):
        load_yaml(recipe, Recipe)


# --- addresses that a server would fetch ------------------------------------------------------------------------------

METADATA = "169.254.169.254/latest/meta-data/"
"""Where clouds give credentials to whoever asks from inside."""


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "gs", "gopher", "HTTP"])
def test_no_source_is_fetched_from_an_address(scheme: str, storage: LocalStorage) -> None:
    address = f"{scheme}://{METADATA}"
    with pytest.raises(InputError, match="unknown storage scheme"):
        open_storage(address)
    with pytest.raises(InputError, match="unknown kind of source"):
        inventory([SourceConfig(path=address)])
    with pytest.raises(InputError, match="unknown kind of model source"):
        base_model.locate(address, "main")
    with pytest.raises(ValidationError, match="should be a folder"):
        ModelConfig(source=address)


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://bucket/x?endpoint_override={METADATA}&scheme=http",
        "s3://key:secret@bucket/x",
        "s3://127.0.0.1:9000/x",
        "s3://bucket/x#y",
        "s3:///x",
        "s3://bu cket/x",
    ],
)
def test_a_buckets_uri_names_no_endpoint_and_no_credentials(uri: str) -> None:
    with pytest.raises(InputError, match="is no bucket with a folder"):
        open_storage(uri)


def test_a_source_in_a_bucket_takes_its_endpoint_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.9:6")
    asked: list[str] = []
    monkeypatch.setattr("pipelines.data.inventory.s3_filesystem", lambda: _Recorder(asked))
    with pytest.raises(InputError, match="no such file"):
        inventory([SourceConfig(path="s3://bucket/x?endpoint_override=evil")])
    assert asked[0] == "bucket/x?endpoint_override=evil", (
        "a part of the key, to the endpoint that the environment names"
    )


class _Recorder:
    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def get_file_info(self, path: str) -> Any:
        from pyarrow.fs import FileInfo, FileType

        self._asked.append(path)
        return FileInfo(path, FileType.NotFound)


def test_engines_fetch_no_media_and_run_no_code_of_a_model() -> None:
    arguments = engine_arguments(EngineConfig(), "")
    assert arguments["allowed_media_domains"] == ["nowhere.invalid"]
    assert arguments["trust_remote_code"] is False


# --- code in models ---------------------------------------------------------------------------------------------------


def test_a_pickle_is_no_model(tmp_path: Path, storage: LocalStorage) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(InputError, match="a pickle, which can run code"):
        base_model.import_model(ModelConfig(source=str(tmp_path)), storage)


def test_the_hub_is_asked_for_neither_pickles_nor_code() -> None:
    names = ["pytorch_model.bin", "model.pt", "model.ckpt", "modeling_x.py", "x.pkl", "x.so"]
    assert [name for name in names if any(Path(name).match(pattern) for pattern in base_model.READ)] == []


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, storage: LocalStorage) -> None:
    folder, ran = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    config = {"architectures": ["OwnForCausalLM"], "model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": own}))
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(InputError, match="cannot be read as a model"):
        base_model.import_model(ModelConfig(source=str(folder)), storage)
    assert not ran.exists()


# --- lines of the log that are none -----------------------------------------------------------------------------------


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    before = logging.getLogger("serinus")
    kept = before.handlers[:], before.level, before.propagate
    telemetry.configure()
    yield stream
    before.handlers[:], before.level, before.propagate = kept


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\x0b", "\x1b[1A\x1b[2K"])
def test_what_is_logged_begins_no_line_and_hides_none(logged: io.StringIO, end: str) -> None:
    forged = "12:00:00 I serinus.rollout: promoted by admin"
    telemetry.logger("gateway").warning("m failed: %s", f"x{end}{forged}")
    try:
        raise ValueError(f"y{end}{forged}")
    except ValueError:
        telemetry.logger("gateway").exception("again")
    said = logged.getvalue()
    assert said.count(forged) == 2
    for line in said.splitlines():
        assert not line.startswith("12:00:00 I serinus.rollout"), "a forged line"
        assert line.startswith("    ") or " serinus.gateway: " in line
    assert "\x1b" not in said
    assert "\r" not in said


# --- the token, and keys --------------------------------------------------------------------------------------------------------


class _Redirecting(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def redirecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server that sends everybody elsewhere."""
    monkeypatch.setattr(_Redirecting, "seen", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Redirecting) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_token_follows_no_redirect(redirecting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with pytest.raises(Exception, match="answers with status 302"):
        dashboard.check(redirecting)
    assert _Redirecting.seen == [("/api/version", "Bearer secret")]


def test_a_key_of_the_control_api_follows_no_redirect_and_meets_no_proxy_in_the_clear(
    redirecting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERINUS_API_KEY", "sk-serinus-secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"refuses it \(302\)"):
        ControlApi(redirecting).traffic()
    assert _Redirecting.seen == [("/control/v1/traffic", "Bearer sk-serinus-secret")]


@pytest.mark.parametrize(
    "name", ["ann\n12:00:00 I rollout: all is well", "ann\n", "key:ann", "../ann", "a b", "\x1b[2K", ""]
)
def test_a_keys_name_is_a_plain_word_that_forges_no_entry(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name"):
        add_key(tmp_path / "keys.yaml", name, control="operator")

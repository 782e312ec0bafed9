"""What all tests share: one private Ray cluster a session, a storage folder, reference data, a tiny real model."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.session import prepare_environment
from cluster.storage import LocalStorage

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
GOLDEN = REPOSITORY / "tests" / "golden"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

AS_AWS = {
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
}
"""Of moto, which else knows none of AWS's own policies and takes instances of any type, with any key."""

KINDS = ("unit", "integration", "chaos", "e2e")


# The same examples each time and no clock: a noisy machine must not turn CI red. `--hypothesis-profile=default` searches anew.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--new-golden", action="store_true", help="write the golden curves that the tests compare with anew"
    )


def pytest_configure() -> None:
    """Started in the background of a shell (as some CI does) a process ignores SIGINT, and so would the children that tests
    interrupt with it. Not at import: Serve replicas import this module in a thread, where signals cannot be set.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ray's workers step back behind all else on a machine, which here are the tests that wait for them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Before a unit test imports Ray, which reads then whether it is to show a token.
    prepare_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is quick comes first: a mistake shows in seconds, not after the demo. Long scenes wait until they are asked for."""
    items.sort(key=lambda item: KINDS.index(item.path.relative_to(REPOSITORY / "tests").parts[0])
               if item.path.parent != REPOSITORY / "tests" else 0)  # fmt: skip
    if "SERINUS_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="a long scene: `make test-long` runs it"))


@pytest.fixture(scope="session", autouse=True)
def own_home() -> Iterator[Path]:
    """A SERINUS_HOME of the session's own: tests neither see nor disturb the cluster of `serinus up`."""
    with tempfile.TemporaryDirectory(prefix="serinus-home-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERINUS_HOME", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))))
        yield Path(folder)


@pytest.fixture(scope="session")
def ray_cluster(own_home: Path) -> Iterator[str]:
    """The session's one Ray cluster: private, one node, 4 or more logical CPUs; workers import packages and tests."""
    from cluster.session import joined

    with joined() as how:
        yield how


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """An empty local storage."""
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, list[float]], list[float]]:
    """The losses of that name in tests/golden. With --new-golden they are first made those that are given."""

    def kept(name: str, losses: list[float]) -> list[float]:
        path = GOLDEN / f"{name}.json"
        if request.config.getoption("--new-golden"):
            path.write_text(json.dumps([round(loss, 6) for loss in losses]) + "\n")
        return list(json.loads(path.read_text()))

    return kept


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto[server] is not installed: no S3 server to test against")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | AS_AWS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the S3 server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the S3 server did not start within 30 s")


@pytest.fixture
def s3_uri(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's folder on a real S3 server (moto, a process of its own), which the environment leads to."""
    import boto3

    settings = {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/folder"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """The folder or file of that name in the reference data beside the repository; skips where it is absent."""

    def locate(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"reference data is not on this machine: ../shared/data/{name}")
        return path

    return locate


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama (0.2 M parameters, bfloat16 safetensors) and a byte-level BPE tokenizer of 1000.

    Head size 32 is the smallest that vLLM's CPU attention takes. Do not write into the folder: the session shares it.
    """
    folder = tmp_path_factory.mktemp("tiny-llama")
    vocabulary = _tiny_tokenizer(folder)
    _tiny_llama(folder, vocabulary)
    return folder


def _tiny_tokenizer(folder: Path) -> int:
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([topics[name] for name in sorted(topics)[:20]], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=1024,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def _tiny_llama(folder: Path, vocabulary: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)

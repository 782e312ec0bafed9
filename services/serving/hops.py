"""How the gateway's replicas talk to the model servers': over gRPC, and each in one event loop.

As Serve comes, a handle's call is a streaming actor task, whose every item is an object with an owner and a reference count, and
both a replica's code and its handles run in threads of their own, with a queue between. That is made for code that blocks;
ours never does. docs/serving.md ("What the gateway costs") has figures.
"""

from __future__ import annotations

from typing import Any, Final

REPLICA_ENVIRONMENT: Final = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # One line a request: written when a thousand are there, or an error.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    # vLLM's import would close all handlers of the process: Serve's log file would end there, and where Serve asks for its name
    # only then (a busy machine) the replica would count as failed.
    "VLLM_CONFIGURE_LOGGING": "0",
}
"""Environment of the replicas at both ends. Ray's own token is asked for by their gRPC servers, which run in any case."""

PICKLE: Final = "pickle"
"""Types of modules that both ends have: what cloudpickle does beyond it is not needed."""


def streaming_handle(deployment: str, application: str) -> Any:
    """A handle whose methods are called with `.remote` and answer in streams; to be made and used in one event loop.

    Its calls are `with rejection`: a replica that is gone or full refuses, and Serve asks another one.
    """
    from ray import serve

    # Whether there is such a deployment only the head knows: asked here, a head out of reach would halt the loop and all in it.
    handle: Any = serve.get_deployment_handle(deployment, application, _check_exists=False)
    handle._init(_run_router_in_separate_loop=False)
    return handle.options(stream=True, _by_reference=False, request_serialization=PICKLE, response_serialization=PICKLE)

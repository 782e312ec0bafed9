"""Errors in the shape of OpenAI's API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cluster.telemetry import logger

if TYPE_CHECKING:
    from fastapi import Request
    from fastapi.responses import Response


log = logger("gateway")

STUMBLES = (TypeError, AttributeError, KeyError, ValueError)
"""What code raises that was given another type than it thinks."""


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | int | None


class ErrorAnswer(BaseModel):
    """What every answer of status 400 or more says."""

    error: ErrorBody


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request is at fault, or comes too often"},
    "5XX": {"model": ErrorAnswer, "description": "The service is at fault"},
}
"""For OpenAPI, in place of FastAPI's own 422, which is never sent."""


class ApiError(Exception):
    """An answer that is an error: HTTP status, OpenAI's type and code, and what to tell the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | int | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def unknown_model(model: str) -> ApiError:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found", param="model")


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, kind="server_error", code="service_unavailable", headers={"Retry-After": "1"})


def from_revision(error: dict[str, Any], revision: str, name: str) -> ApiError:
    """An error of the model server's, without the revision's id, which is ours to know."""
    status = error.get("code")
    status = status if isinstance(status, int) and 400 <= status < 600 else 500
    message = str(error.get("message") or "the model server failed").replace(revision, name)
    kind = str(error.get("type") or ("server_error" if status >= 500 else "invalid_request_error"))
    return ApiError(status, message, kind=kind, code=error.get("code"), param=error.get("param"))


def answer(error: ApiError, headers: dict[str, str] | None = None) -> Response:
    """In ASCII: what a client sent may hold half a surrogate pair, which UTF-8 cannot."""
    from fastapi.responses import Response

    text = json.dumps(error.body)
    return Response(text, error.status, {**(headers or {}), **error.headers}, media_type="application/json")


async def answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return answer(error)


async def answer_refused(request: Request, error: Exception) -> Response:
    """vLLM's own checks of a body, which are neither pydantic's errors nor ours."""
    param = getattr(error, "parameter", None)
    return answer(ApiError(400, str(error.args[0] if error.args else error), param=param))


async def answer_unchecked(request: Request, error: Exception) -> Response:
    """What vLLM's checks stumble over (`messages: null`) is the body's fault; the same error further on is a defect of ours."""
    if not getattr(request.state, "entered", False):
        return answer(ApiError(400, f"the body does not fit the API: {error}"))
    log.error("the gateway failed", exc_info=error)
    return await answer_defect(request, error)


async def answer_invalid(request: Request, error: Exception) -> Response:
    """A body that does not fit the API's schema."""
    from fastapi.exceptions import RequestValidationError

    assert isinstance(error, RequestValidationError)
    first = (error.errors() or [{}])[0]
    place = ".".join(str(part) for part in first.get("loc", ()) if part != "body")
    message = f"{place or 'body'}: {first.get('msg', 'invalid request')}"
    return await answer_api_error(request, ApiError(400, message, param=place or None))


async def answer_http(request: Request, error: Exception) -> Response:
    """No such path, or no such method on it."""
    from starlette.exceptions import HTTPException

    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    return await answer_api_error(request, ApiError(error.status_code, message, headers=dict(error.headers or {})))


async def answer_defect(request: Request, error: Exception) -> Response:
    """A defect of ours; its traceback goes to the log, not to the client."""
    message = "the gateway failed; its log has the details"
    return await answer_api_error(request, ApiError(500, message, kind="server_error", code="internal_error"))

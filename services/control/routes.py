"""The endpoints of the control API with the role that each asks for, and its errors, in the shape that the gateway's have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from cluster.errors import ClusterError, Conflict, ResourceError, SerinusError, UserError
from cluster.telemetry import logger
from services.contract import ControlRole
from services.control.desk import Desk
from services.control.roles import CLIENT, LEAVE, Refusals, check_role
from services.serving import openai_errors
from services.serving.door import App, Door, Keeper, Receive, Send
from services.serving.openai_errors import ApiError, answer

log = logger("control")

PREFIX: Final = "/control/v1"


class Route(NamedTuple):
    """One endpoint. There is no other way to have one, so that none is without a role."""

    method: str
    path: str
    role: ControlRole
    act: Callable[..., Any]
    """A method of Desk."""
    status: int = 200


ROUTES: Final = (
    Route("GET", "/traffic", "viewer", Desk.traffic),
    Route("GET", "/revisions", "viewer", Desk.revisions),
    Route("GET", "/rollouts", "viewer", Desk.rollouts),
    Route("GET", "/rollouts/{rollout_id}", "viewer", Desk.rollout),
    Route("GET", "/waiting", "viewer", Desk.candidate),
    Route("GET", "/audit", "viewer", Desk.history),
    Route("POST", "/rollouts", "operator", Desk.start, 202),
    Route("POST", "/rollouts/{rollout_id}/weight", "operator", Desk.set_weight),
    Route("POST", "/rollouts/{rollout_id}/promote", "operator", Desk.promote),
    Route("POST", "/rollouts/{rollout_id}/rollback", "operator", Desk.rollback),
    Route("POST", "/traffic/revert", "operator", Desk.revert),
    Route("DELETE", "/waiting", "operator", Desk.withdraw),
    Route("GET", "/keys", "admin", Desk.keys),
    Route("DELETE", "/keys/{kind}/{key_name}", "admin", Desk.revoke),
)


def application(desk: Desk, keeper: Keeper, refusals: Refusals) -> FastAPI:
    """The ASGI application; a request meets `keeper` first."""
    app = FastAPI(
        title="serinus control", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
        middleware=[Middleware(_Client), Middleware(Door, keeper=lambda: keeper)],
    )  # fmt: skip
    for route in ROUTES:
        app.add_api_route(
            PREFIX + route.path,
            getattr(desk, route.act.__name__),
            methods=[route.method],
            status_code=route.status,
            response_model=None,
            dependencies=[Depends(_needs(route, refusals))],
        )
    app.add_exception_handler(ApiError, openai_errors.answer_api_error)
    app.add_exception_handler(RequestValidationError, openai_errors.answer_invalid)
    app.add_exception_handler(HTTPException, openai_errors.answer_http)
    app.add_exception_handler(SerinusError, _answer_ours)
    app.add_exception_handler(Exception, _answer_defect)
    return app


def _needs(route: Route, refusals: Refusals) -> Callable[[Request], None]:
    def check(request: Request) -> None:
        try:
            check_role(request.state.api_key, route.role)
        except ApiError:
            refusals.beyond_role(request.state.api_key, f"{route.method} {PREFIX}{route.path}")
            raise

    return check


class _Client:
    """Notes from where a request comes, for the log, and ends what it holds while it is answered."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if client := scope.get("client"):
            CLIENT.set(str(client[0]))
        with ExitStack() as leave:
            LEAVE.set(leave)
            await self._app(scope, receive, send)


async def _answer_ours(request: Request, error: Exception) -> Response:
    match error:
        case ClusterError() | ResourceError():
            return answer(openai_errors.unavailable(str(error)))
        case UserError() | Conflict():  # the request is well-formed: what it asks for does not go as things stand
            return answer(ApiError(409, str(error), code="conflict"))
        case _:
            return await _answer_defect(request, error)


async def _answer_defect(request: Request, error: Exception) -> Response:
    """Its traceback goes to the log, not to the client."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    message = "the control API failed; its log has the details"
    return answer(ApiError(500, message, kind="server_error", code="internal_error"))

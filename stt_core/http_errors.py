"""What goes wrong, as HTTP tells it: sentences in OpenAI's shape, without paths, versions or stacks.

And what surrounds every request: a route that turns exceptions into such answers, and the middleware that makes HEAD
work and counts.
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stt_core.errors import AudioError, ModelError, Overloaded
from stt_core.forms import FormError, FormTooLarge
from stt_core.http_messages import ErrorBody, ErrorDetail, ErrorType, FieldError, HttpErrorCode
from stt_core.metrics import OTHER, Metrics

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
CODE_OF_STATUS: dict[int, HttpErrorCode] = {
    400: "invalid_value",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    415: "unsupported_media_type",
    503: "overloaded",
}


class ApiError(Exception):
    """A request cannot be served. `str(error)` is a sentence for the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: HttpErrorCode | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or CODE_OF_STATUS.get(status)
        self.param = param
        self.retry_after_s = retry_after_s


def api_error(error: Exception) -> ApiError:
    """The one mapping from what goes wrong to what an HTTP client is told."""
    match error:
        case ApiError():
            return error
        case FieldError():
            return ApiError(400, str(error), param=error.field)
        case FormTooLarge():
            return ApiError(413, str(error), code="file_too_large", param="file")
        case FormError():
            return ApiError(400, str(error), code="invalid_form")
        case AudioError():
            return ApiError(400, str(error), code="invalid_audio", param="file")
        case Overloaded():
            return ApiError(503, f"The server is busy: {error}.", retry_after_s=RETRY_AFTER_S)
        case ModelError():
            logger.warning("A request was turned away: %s", error)
            return ApiError(503, "The model is not available; see the server's log.", code="model_unavailable")
        case _:
            logger.error("A request failed.", exc_info=error)
            return ApiError(500, "Something went wrong in the server; see its log.", code="internal_error")


def error_body(error: ApiError) -> ErrorBody:
    kind: ErrorType = "invalid_request_error" if error.status < 500 else "server_error"
    return ErrorBody(error=ErrorDetail(message=str(error), type=kind, param=error.param, code=error.code))


def error_response(error: ApiError) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not wanted
    return JSONResponse(error_body(error).model_dump(), error.status, headers)


class Route(APIRoute):
    """Turns exceptions into answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except HTTPException:
                raise
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except Exception as error:  # noqa: BLE001 - logged where it is not understood
                return error_response(api_error(error))

        return answer


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself (404, 405), in the shape of all other errors."""
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this address.", 405: "This address does not know this method."}
    response = error_response(
        ApiError(error.status_code, sentences.get(error.status_code, "The request cannot be served."))
    )
    response.headers.update(error.headers or {})
    if "GET" in response.headers.get("Allow", ""):
        response.headers["Allow"] += ", HEAD"  # thanks to `HttpMiddleware`
    return response


class HttpMiddleware:
    """Around the whole app: HEAD works where GET does, and every answer is counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        status = 500

        async def forward(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        inner = {**scope, "method": "GET"} if head else scope
        try:
            await self._app(inner, receive, forward)
        finally:
            self._metrics.http_request(getattr(inner.get("route"), "path", OTHER), status)

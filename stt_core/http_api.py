"""HTTP: the endpoints that OpenAI's clients know, for files instead of microphones, and `/metrics`.

Nothing is read before the client has shown its token, no more is read than is taken, audio touches no disk, and whoever
hangs up is no longer worked for. Errors are sentences in OpenAI's shape, without paths, versions or stacks.
"""

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Annotated, Any, Protocol, TypeVar

import anyio
import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from stt_core import transcription
from stt_core.access import accepted_token, forbidden, offered_tokens
from stt_core.errors import ModelError, Overloaded
from stt_core.forms import MAX_OVERHEAD_BYTES, Form, FormReader
from stt_core.http_errors import RETRY_AFTER_S, ApiError, Route, api_error, error_body
from stt_core.http_messages import (
    OPENAI_MODEL,
    Model,
    ModelList,
    TextDelta,
    TextDone,
    TranscriptionFields,
    TranscriptionJson,
    TranscriptionVerbose,
    TranslationFields,
    Usage,
    parse_fields,
    to_event,
    verbose_segments,
    verbose_words,
)
from stt_core.http_openapi import answers, errors, metrics_page, request_body
from stt_core.metrics import CONTENT_TYPE
from stt_core.subtitles import to_srt, to_vtt
from stt_core.transcription import Engine, Task, Timestamps
from stt_core.uploads import FileTranscription, Piece, TranscriptionServer

ResultT = TypeVar("ResultT")


class HttpServer(TranscriptionServer, Protocol):
    """What the endpoints need of the server."""

    engine: Engine
    failure: ModelError | None  # why there is no model and will be none
    draining: bool  # it is about to stop

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and requests are admitted."""
        ...


# ---- the endpoints


def router(server: HttpServer) -> APIRouter:
    """The endpoints, to be included in the app; see also `HttpMiddleware` and `on_http_exception`."""
    files, settings = _Files(server), server.settings

    async def check_access(request: Request) -> None:
        if (sentence := forbidden(request.headers, settings)) is not None:
            raise ApiError(403, sentence)
        offered = offered_tokens(request.headers, request.query_params)
        if settings.tokens and accepted_token(offered, settings.tokens) is None:
            raise ApiError(
                401, "Wrong or missing token: send 'Authorization: Bearer TOKEN' (an API key, in OpenAI's words)."
            )

    # The scheme documents the token and lets everybody pass. No body is read before `check_access` agrees.
    token = [Depends(HTTPBearer(auto_error=False, description="The server's token."))] if settings.tokens else []
    refusals = (401, 403) if settings.tokens else (403,)
    api = APIRouter(route_class=Route, dependencies=[Depends(check_access), *token], responses=errors(*refusals))

    @api.get("/v1/models", summary="The models that answer", tags=["OpenAI"])
    async def list_models(request: Request) -> ModelList:
        return ModelList(data=[files.model(name) for name in files.model_names])

    @api.get("/v1/models/{model:path}", summary="One of them", tags=["OpenAI"], responses=errors(404))
    async def retrieve_model(request: Request, model: Annotated[str, Path(examples=[OPENAI_MODEL])]) -> Model:
        return files.model(model)

    @api.post(
        "/v1/audio/transcriptions",
        summary="The text of an audio file",
        tags=["OpenAI"],
        response_class=JSONResponse,
        responses=answers(streams=True),
        openapi_extra=request_body(TranscriptionFields),
    )
    async def transcriptions(request: Request) -> Response:
        return await files.answer(request, "transcribe", TranscriptionFields)

    @api.post(
        "/v1/audio/translations",
        summary="The text of an audio file, in English",
        tags=["OpenAI"],
        response_class=JSONResponse,
        responses=answers(streams=False),
        openapi_extra=request_body(TranslationFields),
    )
    async def translations(request: Request) -> Response:
        return await files.answer(request, "translate", TranslationFields)

    @api.get(
        "/metrics",
        summary="What Prometheus scrapes",
        tags=["Operation"],
        response_class=PlainTextResponse,
        responses=metrics_page(*refusals),
    )
    async def metrics(request: Request) -> Response:
        return Response(server.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    return api


class _Files:
    """Answers requests that bring a file."""

    def __init__(self, server: HttpServer) -> None:
        self.model_names = list(dict.fromkeys([server.engine.model, OPENAI_MODEL]))
        self._server = server
        self._settings = server.settings
        self._started = int(time.time())
        self._decoding = anyio.CapacityLimiter(1)
        self._uploads = 0
        self._held_bytes = 0  # by all of them

    def model(self, name: str) -> Model:
        """Who answers to this name; raises ApiError if nobody does."""
        if name not in self.model_names:
            message = f"The model {name!r:.80} is not served here: expected {' or '.join(self.model_names)}."
            raise ApiError(404, message, code="model_not_found", param="model")
        return Model(id=name, created=self._started)

    async def answer(self, request: Request, task: Task, kind: type[TranslationFields]) -> Response:
        """From the header of a request to its answer."""
        server = self._server
        if server.failure is not None:
            raise server.failure.with_traceback(None)
        if server.draining:
            message = "The server restarts; try again in a moment."
            raise ApiError(503, message, code="restarting", retry_after_s=RETRY_AFTER_S)
        if not server.ready:
            message = "The model is being loaded; try again in a moment."
            raise ApiError(503, message, code="model_loading", retry_after_s=RETRY_AFTER_S)
        async with AsyncExitStack() as stack:
            form = await self._receive(request, stack.enter_context(self._admitted()))
            fields = parse_fields(kind, form.fields)
            if form.file is None:
                message = "file: expected an audio file, sent as a part of the form that has a filename."
                raise ApiError(400, message, code="missing_required_parameter", param="file")
            self.model(fields.model)
            file = FileTranscription(
                server,
                form.file,
                _question(task, fields, server.settings.language),
                decoding=self._decoding,
            )
            if not _streams(fields):
                await _while_connected(request, file.transcribe_all())
                return _rendered(file, task, fields)
            pieces = file.transcribe()
            stack.push_async_callback(pieces.aclose)
            first = await _while_connected(request, _next(pieces))  # what goes wrong until here has a status
            return _EventStream(_events(first, pieces, file), stack.pop_all())

    @contextmanager
    def _admitted(self) -> Iterator[Callable[[int], None]]:
        """Room for one more file; call what it yields for each bytes that are held until the end.

        Raises:
            Overloaded: there are too many files, or they are too large together.
        """
        if self._uploads >= self._settings.max_uploads:
            raise Overloaded(f"{self._uploads} files are being worked on; try again in a moment")
        held_bytes = 0

        def hold(more_bytes: int) -> None:
            nonlocal held_bytes
            held_bytes += more_bytes
            self._held_bytes += more_bytes
            if self._held_bytes > self._settings.max_uploads_bytes:
                raise Overloaded("too many large files are being worked on; try again in a moment")

        self._uploads += 1
        try:
            yield hold
        finally:
            self._uploads -= 1
            self._held_bytes -= held_bytes

    async def _receive(self, request: Request, hold: Callable[[int], None]) -> Form:
        """The form in the body, which is read no further than it is wanted."""
        content_type = request.headers.get("content-type", "")
        if not content_type.lower().startswith("multipart/form-data"):
            raise ApiError(415, "Expected a body of the type multipart/form-data.")
        reader = FormReader(content_type, max_file_bytes=self._settings.max_upload_bytes)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:19]) > self._settings.max_upload_bytes + MAX_OVERHEAD_BYTES:
            raise reader.too_large()
        timeout_s = self._settings.upload_timeout_s
        try:
            with anyio.fail_after(timeout_s):
                async for chunk in request.stream():
                    hold(len(chunk))
                    reader.feed(chunk)
        except TimeoutError:
            message = f"The file did not arrive within {timeout_s:g} s."
            raise ApiError(408, message, code="upload_timeout", param="file") from None
        return reader.finish()


def _streams(fields: TranslationFields) -> bool:
    return isinstance(fields, TranscriptionFields) and fields.stream


def _question(task: Task, fields: TranslationFields, language: str) -> transcription.Request:
    """What the model is asked about every utterance."""
    timestamps: Timestamps | None = None
    if fields.response_format in ("srt", "vtt", "verbose_json") and not _streams(fields):
        timestamps = "segment"
    keywords: list[str] = []
    if isinstance(fields, TranscriptionFields):
        language = fields.language or language
        keywords = fields.keywords
        if timestamps and fields.response_format == "verbose_json" and "word" in fields.timestamp_granularities:
            timestamps = "word"
    return transcription.Request(
        np.zeros(0, np.float32),
        language,
        task=task,
        prompt=fields.prompt,
        hotwords=" ".join(keywords),
        timestamps=timestamps,
    )


async def _while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled when the client hangs up.

    Raises:
        ClientDisconnect: it did.
        Exception: what `work` raised.
    """
    outcome: list[ResultT] = []
    failure: Exception | None = None

    async def cancel_on_hang_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel_on_hang_up)
        try:
            outcome.append(await work)
        except Exception as error:  # noqa: BLE001 - raised below, and not in an ExceptionGroup
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not outcome:
        raise ClientDisconnect
    return outcome[0]


async def _next(pieces: AsyncIterator[Piece]) -> Piece | None:
    return await anext(pieces, None)


# ---- answers


def _rendered(file: FileTranscription, task: Task, fields: TranslationFields) -> Response:
    usage = Usage(seconds=round(file.duration_s, 2))
    match fields.response_format:
        case "text":
            return PlainTextResponse(file.text + "\n")
        case "srt":
            return PlainTextResponse(to_srt(file.segments))
        case "vtt":
            return Response(to_vtt(file.segments), media_type="text/vtt")
        case "json":
            return JSONResponse(TranscriptionJson(text=file.text, usage=usage).model_dump())
    parts = fields.timestamp_granularities if isinstance(fields, TranscriptionFields) else ["segment"]
    verbose = TranscriptionVerbose(
        task=task,
        language=file.language,
        duration=usage.seconds,
        text=file.text,
        segments=verbose_segments(file.segments) if "segment" in parts else None,
        words=verbose_words(file.segments) if "word" in parts else None,
        usage=usage,
    )
    return JSONResponse(verbose.model_dump(exclude_none=True))


class _EventStream(StreamingResponse):
    """Server-sent events. Whatever happens to them, `stack` is closed in the end."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _events(first: Piece | None, pieces: AsyncIterator[Piece], file: FileTranscription) -> AsyncIterator[str]:
    """An event for each piece that holds text, and one for the end or for what went wrong."""
    said = False
    piece = first
    try:
        while piece is not None:
            if piece.text:
                yield to_event(TextDelta(delta=f" {piece.text}" if said else piece.text))
                said = True
            piece = await anext(pieces, None)
        yield to_event(TextDone(text=file.text))
    except Exception as error:  # noqa: BLE001 - the status has been sent; this is the last guard
        yield to_event(error_body(api_error(error)))

"""The server: one FastAPI app, the same under uvicorn and under Modal.

`/ws/audio` takes audio and answers with text (`stt_core.connection`). This module only puts the parts together.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files

import anyio
from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from stt_core import __version__, http_api, messages
from stt_core.access import forbidden
from stt_core.connection import Connection
from stt_core.diagnosis import CODES
from stt_core.errors import ModelError
from stt_core.http_errors import HttpMiddleware, on_http_exception
from stt_core.metrics import Metrics
from stt_core.server import Server
from stt_core.settings import Settings
from stt_core.transcription import Engine
from stt_core.vad import Vad

DENIAL_EXTENSION = "websocket.http.response"  # of the ASGI scope: an answer of one's own instead of a socket


def create_app(
    settings: Settings,
    engine: Engine,
    *,
    vad: Vad | None = None,
    on_load_failed: Callable[[ModelError], None] | None = None,
) -> FastAPI:
    """The whole server as an ASGI app.

    The model is loaded in the background at start-up: `/healthz` answers at once, and audio that arrives before
    the model is ready is kept and answered.

    Args:
        settings: how it behaves.
        engine: the model; loaded already, or not.
        vad: Silero if None.
        on_load_failed: told, instead of the log, when the model cannot be loaded. The app itself stays up and
            says so.
    """
    counts = Metrics(warning_codes=CODES, fallbacks=lambda: engine.counts)
    counts.info(version=__version__, model=engine.model, language=settings.language)
    server = Server(settings, engine, vad, counts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(server.run, on_load_failed)
            yield
            group.cancel_scope.cancel()

    app = FastAPI(
        title="Game STT",
        version=__version__,
        description="Speech to text for games: PCM over a WebSocket in, text out.",
        lifespan=lifespan,
    )

    @app.get("/", response_class=HTMLResponse, summary="The web console")
    async def page() -> HTMLResponse:
        return HTMLResponse((files("stt_core") / "web" / "index.html").read_text(encoding="utf-8"))

    @app.get("/healthz", summary="Whether the server is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether the model is loaded", responses={503: {"description": "Not yet"}})
    async def readyz() -> JSONResponse:
        state: dict[str, str | int] = {
            "version": __version__,
            "model": engine.model,
            "language": settings.language,
            "sessions": server.sessions,
        }
        if server.failure:
            return JSONResponse({"status": "failed", **state, "message": str(server.failure)}, 503)
        if server.draining:
            return JSONResponse({"status": "stopping", **state}, 503)
        if not server.loaded:
            return JSONResponse({"status": "loading", **state}, 503)
        return JSONResponse({"status": "ready", **state})

    @app.get("/asyncapi.json", summary="The WebSocket's messages, in AsyncAPI")
    async def asyncapi() -> JSONResponse:
        return JSONResponse(messages.asyncapi(__version__))

    @app.get("/messages.schema.json", summary="The WebSocket's messages, in JSON Schema")
    async def schema() -> JSONResponse:
        return JSONResponse(messages.schema())

    @app.get("/ws/audio", include_in_schema=False)
    async def no_websocket() -> JSONResponse:
        sentence = "This address speaks WebSocket: connect with ws:// or wss://."
        return JSONResponse({"message": sentence}, 426, headers={"Upgrade": "websocket"})

    @app.websocket("/ws/audio")
    async def ws_audio(socket: WebSocket) -> None:
        if (sentence := forbidden(socket.headers, settings)) is not None:
            counts.refused("forbidden_origin")
            if DENIAL_EXTENSION in socket.scope.get("extensions", {}):
                await socket.send_denial_response(JSONResponse({"message": sentence}, 403))
            else:  # as on Modal, whose front makes a 403 of it
                await socket.close()
            return
        await socket.accept()
        await Connection(server, socket).serve()

    app.include_router(http_api.router(server))
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(HttpMiddleware, metrics=counts)
    app.state.server = server
    return app

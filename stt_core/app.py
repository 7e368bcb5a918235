"""The server: one FastAPI app, the same under uvicorn and under Modal.

`/ws/audio` takes audio and answers with text. Each socket has one owner, a loop that takes events from an inbox
(a message, a transcript, a pause) and does what the session says. A second task only reads: it must never
stop, or pings go unanswered and a disconnect goes unseen. When the client goes, its pending work is withdrawn.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.resources import files

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.websockets import WebSocketDisconnect

from stt_core import __version__, transcription
from stt_core.audio import SAMPLE_RATE, AudioFormat, Samples
from stt_core.batching import Batcher, Job, Priority
from stt_core.errors import AudioError, ModelError, Overloaded, ProtocolError
from stt_core.languages import LANGUAGES
from stt_core.recordings import Recorder
from stt_core.session import ENDPOINTINGS, Action, LookAgain, PlainSession, Promote, SendText, Transcribe, Withdraw
from stt_core.settings import Settings
from stt_core.transcription import Engine, Transcript
from stt_core.vad import SileroVad, Vad

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 10.0  # a client that takes longer to read one line is gone
INBOX_BYTES = 8 * 1024 * 1024  # four of the longest messages; beyond it the server is too busy for this client
MAX_BATCH_S = 40.0  # of speech: nobody's command waits for several people's long recordings
MESSAGE_COST_BYTES = 64  # what even an empty message costs
THREAD_BYTES = 32_000  # audio longer than this is windowed in a thread, so that other sockets do not wait
MAX_REASON_BYTES = 123  # of a WebSocket close frame

_Batches = Batcher[transcription.Request, Transcript]
_Job = Job[transcription.Request, Transcript]


@dataclass(frozen=True, slots=True)
class _Message:
    data: bytes | str
    arrived_s: float


@dataclass(frozen=True, slots=True)
class _Result:
    number: int
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class _Lost:
    """A speculative request came to nothing."""

    number: int


@dataclass(frozen=True, slots=True)
class _Gone:
    """The client has left."""


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


_Event = _Message | _Result | _Lost | _Gone | _Failed


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
    server = _Server(settings, engine, vad)

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

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
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
        if not server.ready:
            return JSONResponse({"status": "loading", **state}, 503)
        return JSONResponse({"status": "ready", **state})

    @app.websocket("/ws/audio")
    async def ws_audio(socket: WebSocket) -> None:
        await server.serve(socket)

    return app


class _Server:
    """What all sockets of one app share."""

    def __init__(self, settings: Settings, engine: Engine, vad: Vad | None) -> None:
        self.settings = settings
        self.engine = engine
        self.ready = False
        self.sessions = 0  # clients that are connected and were let in
        self.failure: ModelError | None = None
        self._vad = vad
        self._vad_lock = anyio.Lock()
        self._recorder = Recorder(settings.debug_audio) if settings.debug_audio else None
        self._batches: _Batches = Batcher(
            engine.transcribe,
            workers=engine.workers,
            size=_work_s,
            max_batch_size=engine.max_batch_size,
            max_batch_work=MAX_BATCH_S,
        )

    async def run(self, on_load_failed: Callable[[ModelError], None] | None) -> None:
        """Load the model, then work until cancelled."""
        try:
            await self.vad()
            await anyio.to_thread.run_sync(self.engine.load)
        except ModelError as error:
            self._give_up(error, on_load_failed)
            return
        except Exception as error:  # an engine's bug must not leave the app "loading" for ever
            logger.exception("The model could not be loaded.")
            self._give_up(ModelError(f"The model could not be loaded: {error!r:.200}"), on_load_failed)
            return
        self.ready = True
        logger.info("The model %s is ready.", self.engine.model)
        await self._batches.serve()

    def _give_up(self, error: ModelError, on_load_failed: Callable[[ModelError], None] | None) -> None:
        self.failure = error
        self._batches.fail(error)
        if on_load_failed:
            on_load_failed(error)
        else:
            logger.error("%s", error)

    async def vad(self) -> Vad:
        async with self._vad_lock:
            if self._vad is None:
                self._vad = await anyio.to_thread.run_sync(SileroVad)
            return self._vad

    def is_authorized(self, socket: WebSocket | Request) -> bool:
        """Whether the client sent the token, in its header or in the URL."""
        if self.settings.token is None:
            return True
        expected = self.settings.token.get_secret_value().encode()
        scheme, _, header = socket.headers.get("authorization", "").partition(" ")
        offered = [socket.query_params.get("token", "")]
        if scheme.lower() == "bearer":
            offered.append(header.strip())
        return any([hmac.compare_digest(token.encode("utf-8", "replace"), expected) for token in offered])

    async def serve(self, socket: WebSocket) -> None:
        """One client, from handshake to close."""
        await socket.accept()
        try:
            if not self.is_authorized(socket):
                raise ProtocolError(4401, "wrong or missing token: send 'Authorization: Bearer TOKEN' or ?token=")
            session, language = await self._open_session(socket)
            self.sessions += 1
            try:
                await _Connection(self, socket, session, language).run()
            finally:
                self.sessions -= 1
        except ProtocolError as error:
            await _close(socket, error.code, str(error))
        except Overloaded as error:
            await _close(socket, 4503, str(error))
        except ModelError as error:
            logger.warning("A client was turned away: %s", error)
            await _close(socket, 1011, "the model is not available; see the server's log")
        except WebSocketDisconnect:
            pass
        except Exception:  # the last guard: a bug here must not look like a dead network to the game
            logger.exception("A session failed.")
            await _close(socket, 1011, "internal error; see the server's log")

    async def _open_session(self, socket: WebSocket) -> tuple[PlainSession, str]:
        """What the client asked for in the URL.

        Raises:
            ProtocolError: a value cannot be served.
        """
        query = socket.query_params
        try:
            audio_format = AudioFormat(
                sample_rate=_integer(query.get("sample_rate", "16000"), "sample_rate"),
                channels=_integer(query.get("channels", "1"), "channels"),
                encoding=query.get("encoding", "s16le"),  # type: ignore[arg-type]  # checked by AudioFormat
            )
        except AudioError as error:
            raise ProtocolError(4415, str(error)) from None
        endpointing = query.get("endpointing", "auto")
        if endpointing not in ENDPOINTINGS:
            raise ProtocolError(4400, f"endpointing must be {', '.join(ENDPOINTINGS)}, not {endpointing!r:.20}")
        language = query.get("language", self.settings.language)
        if language != "auto" and language not in LANGUAGES:
            raise ProtocolError(4400, f"language must be auto or a Whisper code such as ko or en, not {language!r:.20}")
        session = PlainSession(
            audio_format,
            await self.vad(),
            self.settings.endpointing_options,
            endpointing=endpointing,
            failure_text=self.settings.failure_text,
        )
        return session, language

    def enqueue(self, request: transcription.Request, session: Hashable, priority: Priority) -> _Job:
        """Have an utterance transcribed.

        Raises:
            Overloaded: too much is waiting.
            ModelError: there is no model.
        """
        return self._batches.enqueue(request, session=session, priority=priority)

    async def record(self, samples: Samples) -> None:
        """Keep what the model was given, if that is wanted."""
        if self._recorder and len(samples):
            await anyio.to_thread.run_sync(self._recorder.write, samples)


class _Connection:
    """One client's loop."""

    def __init__(self, server: _Server, socket: WebSocket, session: PlainSession, language: str) -> None:
        self._server = server
        self._socket = socket
        self._session = session
        self._language = language
        # Events wait here while one is handled. Messages are bounded by `INBOX_BYTES`; results must get through.
        self._send_event, self._events = anyio.create_memory_object_stream[_Event](float("inf"))
        self._gone = False
        self._inbox_bytes = 0  # of messages that have been read and not been handled
        self._last_audio_s = time.monotonic()
        self._jobs: dict[int, _Job] = {}  # by utterance

    async def run(self) -> None:
        """Serve until the client leaves.

        Raises:
            ProtocolError, Overloaded, ModelError: the socket must be closed, and why.
        """
        failure: Exception | None = None
        with self._send_event, self._events:
            async with anyio.create_task_group() as group:
                group.start_soon(self._read)
                try:
                    failure = await self._handle_events()
                finally:
                    while self._jobs:
                        self._jobs.popitem()[1].withdraw()
                group.cancel_scope.cancel()
        if failure:
            raise failure

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._gone = True
                self._send_event.send_nowait(_Gone())  # wakes the loop if it waits
                return
            data = message.get("bytes")
            data = data if data is not None else message.get("text", "")  # Modal sends both keys, one None
            self._inbox_bytes += len(data) + MESSAGE_COST_BYTES
            if self._inbox_bytes > INBOX_BYTES:
                self._send_event.send_nowait(_Failed(Overloaded("audio comes faster than it can be handled")))
                return
            self._send_event.send_nowait(_Message(data, time.monotonic()))

    async def _handle_events(self) -> Exception | None:
        """Until the client leaves (None) or must be turned away (why)."""
        while True:
            event = await self._next_event()
            await asyncio.sleep(0)  # however much has come from this client: others, and its reader, go on
            if self._gone:  # whatever else has come needs no answer
                return None
            try:
                match event:
                    case _Gone():
                        return None
                    case _Failed(error):
                        return error
                    case _Result(number, transcript):
                        actions: Iterable[Action] = self._session.receive_transcript(number, transcript)
                    case _Lost(number):
                        actions = self._session.receive_refusal(number)
                    case _Message(data, arrived_s):
                        self._inbox_bytes -= len(data) + MESSAGE_COST_BYTES
                        if isinstance(data, bytes) and data:
                            self._last_audio_s = arrived_s
                        actions = await self._receive(data)
                    case None:
                        actions = self._session.idle()
                for action in actions:
                    if not await self._carry_out(action):
                        return None
            except (ProtocolError, Overloaded, ModelError) as error:
                return error

    async def _send(self, line: str) -> bool:
        """Send a line; return whether the client is still there and reads."""
        try:
            with anyio.fail_after(SEND_TIMEOUT_S):
                await self._socket.send_text(line)
        except TimeoutError:
            logger.info("A client stopped reading; its socket was given up.")
            return False
        except (WebSocketDisconnect, RuntimeError):  # it left while the line was on its way
            return False
        return True

    async def _next_event(self) -> _Event | None:
        """The next event; None if the pause in the audio comes first.

        What has already arrived goes first, so that a busy server does not mistake its own delay for a pause.
        """
        idle_after_s = self._session.idle_after_s
        with suppress(anyio.WouldBlock):
            return self._events.receive_nowait()
        if idle_after_s is None:
            return await self._events.receive()
        with anyio.move_on_after(self._last_audio_s + idle_after_s - time.monotonic()):
            return await self._events.receive()
        return None

    async def _receive(self, data: bytes | str) -> Iterable[Action]:
        if isinstance(data, str):
            return self._session.receive_text(data)
        if len(data) <= THREAD_BYTES:
            return self._session.receive_bytes(data)
        return await anyio.to_thread.run_sync(lambda: list(self._session.receive_bytes(data)))

    async def _carry_out(self, action: Action) -> bool:
        """Do what the session says; return whether the client is still there.

        Raises:
            Overloaded, ModelError: an utterance that somebody waits for cannot be transcribed.
        """
        match action:
            case Transcribe(number, utterance, speculative):
                priority = Priority.SPECULATIVE if speculative else Priority.FINAL
                self._ask(number, transcription.Request(utterance.samples, self._language, quick=True), priority)
                if not speculative:
                    await self._server.record(utterance.samples)
            case LookAgain(number, utterance, first):
                request = transcription.Request(utterance.samples, self._language, first=first)
                self._ask(number, request, Priority.SECOND_LOOK)
            case Promote(number, utterance):
                if number in self._jobs:
                    self._jobs[number].promote()
                await self._server.record(utterance.samples)
            case Withdraw(number):
                if number in self._jobs:
                    self._jobs.pop(number).withdraw()
            case SendText(text):
                return await self._send(text)
        return True

    def _ask(self, number: int, request: transcription.Request, priority: Priority) -> None:
        try:
            job = self._server.enqueue(request, self, priority)
        except Overloaded:
            if priority is not Priority.SPECULATIVE:
                raise
            self._send_event.send_nowait(_Lost(number))
            return
        self._jobs[number] = job
        job.future.add_done_callback(partial(self._settled, number))

    def _settled(self, number: int, future: asyncio.Future[Transcript]) -> None:
        """The scheduler is done with a request."""
        job = self._jobs.pop(number, None)
        if job is None or future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._send_event.send_nowait(_Result(number, future.result()))
        elif job.priority is Priority.SPECULATIVE:
            self._send_event.send_nowait(_Lost(number))
        elif isinstance(error, Overloaded | ModelError):
            self._send_event.send_nowait(_Failed(error))
        else:  # whatever the model raised: this utterance failed, the session goes on
            logger.error("An utterance could not be transcribed.", exc_info=error)
            self._send_event.send_nowait(_Result(number, Transcript("", self._language)))


def _work_s(request: transcription.Request) -> float:
    """Seconds of speech, and a second for what every utterance costs."""
    return 1 + len(request.samples) / SAMPLE_RATE


def _integer(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise AudioError(f"{name} must be a whole number, not {text!r:.20}")
    return int(text)


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    """Close with an ASCII reason, which is what Unreal can decode; a client that is gone already is fine."""
    short = reason.encode("ascii", "replace")[:MAX_REASON_BYTES].decode()
    with suppress(RuntimeError, WebSocketDisconnect), anyio.move_on_after(SEND_TIMEOUT_S):
        await socket.close(code, short)

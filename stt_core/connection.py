"""One client's socket.

Each socket has one owner, a loop that takes events from an inbox (a message, a transcript, a time that has come) and
does what the session says. A second task only reads: it must never stop, or pings go unanswered and a disconnect
goes unseen. When the client goes, its pending work is withdrawn.

Every end is said before it comes: in JSON mode by an `error`, in plain mode, where a game prints each line on its
HUD, by the close code and its reason alone.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, get_args

import anyio
import anyio.to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect

from stt_core import __version__, transcription
from stt_core.access import accepted_token, offered_tokens
from stt_core.audio import AudioFormat
from stt_core.batching import Priority
from stt_core.checkup import REPAIRED, REPAIRED_KO, Checkup, Repair
from stt_core.diagnosis import Finding
from stt_core.errors import AudioError, ModelError, Overloaded, ProtocolError
from stt_core.event_session import RETRY_AFTER_MS, EventSession
from stt_core.languages import LANGUAGES
from stt_core.limits import TokenBucket
from stt_core.messages import (
    CLOSE_CODES,
    Dropped,
    Error,
    ErrorCode,
    Final,
    GoingAway,
    MessageError,
    Ready,
    ServerMessage,
    Start,
    Status,
    Warning,
    error_message,
    parse_client_message,
)
from stt_core.phrases import PhraseBook, PhraseError, phrase_book
from stt_core.recordings import About
from stt_core.server import Server, TranscriptionJob
from stt_core.session import (
    ENDPOINTINGS,
    Action,
    Close,
    Draft,
    LookAgain,
    PlainSession,
    Promote,
    Send,
    SendText,
    Transcribe,
    Withdraw,
)
from stt_core.settings import is_loopback
from stt_core.tape import Tape
from stt_core.transcription import Decoding, Task, Timing, Transcript
from stt_core.utterances import CLIENTS_REASONS, Utterance

logger = logging.getLogger(__name__)

ABORT_EXTENSION = "stt.abort"  # of the ASGI scope: cuts the connection; only our own transport has it
MESSAGE_COST_BYTES = 64  # what even an empty message costs
THREAD_BYTES = 32_000  # audio longer than this is windowed in a thread, so that other sockets do not wait
THREAD_CHARACTERS = 2_000  # text longer than this holds many phrases, whose book takes time to make
MAX_REASON_BYTES = 123  # of a WebSocket close frame
CLOSE_TIMEOUT_S = 5.0
LAST_LOOKS = 5  # turns of the loop: from the network to the inbox, and some more
LEAVE_GRACE_S = 5.0  # for the last texts of a session that has grown too old

CODE_OF_CLOSE: Mapping[int, ErrorCode] = {close: code for code, close in CLOSE_CODES.items()}
TASKS: tuple[Task, ...] = get_args(Task)
QUERY = ("events", "sample_rate", "channels", "encoding", "language", "task", "endpointing", "phrases", "match")

ChoiceT = TypeVar("ChoiceT", bound=str)


@dataclass(frozen=True, slots=True)
class _Message:
    data: bytes | str
    arrived_s: float


@dataclass(frozen=True, slots=True)
class _Result:
    number: int
    transcript: Transcript
    timing: Timing


@dataclass(frozen=True, slots=True)
class _Lost:
    """A request that nobody waited for came to nothing."""

    number: int


@dataclass(frozen=True, slots=True)
class _Failed:
    """A final could not be transcribed."""

    number: int
    error: Exception


@dataclass(frozen=True, slots=True)
class _Gone:
    """The client has left."""


@dataclass(frozen=True, slots=True)
class _Flooded:
    """More has come than is kept."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The doctor has looked at the audio."""

    findings: list[Finding]
    utterance: int | None


@dataclass(frozen=True, slots=True)
class _Leave:
    """The server wants this session to end."""

    error: ProtocolError
    grace_s: float


Due = Literal["pause", "token", "idle", "going_away", "session_limit", "left"]
_Event = _Message | _Result | _Lost | _Failed | _Found | _Gone | _Flooded | _Leave | Due


class Connection:
    """One client, from handshake to close."""

    def __init__(self, server: Server, socket: WebSocket) -> None:
        self._server = server
        self._socket = socket
        self._settings = settings = server.settings
        self._json = socket.query_params.get("events") == "json"
        self._send_event, self._events = anyio.create_memory_object_stream[_Event](float("inf"))
        self._session: PlainSession | EventSession
        self._id = secrets.token_hex(8)
        self._authorized = False
        self._gone = False
        self._inbox_bytes = 0  # of messages that have been read and not been handled
        self._began_s = self._last_audio_s = self._last_message_s = time.monotonic()
        self._warned = False  # that the session grows old
        self._leaving: ProtocolError | None = None
        self._leave_by_s = 0.0
        self._jobs: dict[int, TranscriptionJob] = {}  # by request
        client = socket.client
        beyond = client is None or not is_loopback(client.host)  # nobody pays for what this machine says to itself
        self._audio_budget = TokenBucket(settings.audio_rate if beyond else 0, settings.audio_burst_s)
        self._checkup = Checkup() if settings.doctor or settings.repair else None
        self._repair = Repair() if settings.repair else None
        self._tape: Tape | None = None
        self._complaints: set[str] = set()  # about the audio, that are in the log
        self._control_budget = TokenBucket(settings.control_rate, settings.control_burst)

    async def serve(self) -> None:
        """Talk to the client until one of both ends it. The socket has been accepted."""
        with self._send_event, self._events:
            await self._serve()

    async def _serve(self) -> None:
        metrics = self._server.metrics
        admitted = False
        try:
            token = self._known(offered_tokens(self._socket.headers, self._socket.query_params))
            self._server.admit(self, token)
            admitted = True
            self._authorized = token is not None or not self._settings.tokens
            if self._server.failure is not None:
                raise self._server.failure
            await self._open_session()
            metrics.session_started("json" if self._json else "plain")
            try:
                await self._run()
            finally:
                metrics.session_ended()
        except (ProtocolError, Overloaded, ModelError) as error:
            await self._say_goodbye(error, refused=not admitted)
        except WebSocketDisconnect:
            pass
        except Exception as error:  # the last guard: a bug here must not look like a dead network to the game
            logger.exception("A session failed.")
            await self._say_goodbye(error, refused=False)
        finally:
            if admitted:
                self._server.dismiss(self)

    def leave(self, error: ProtocolError, grace_s: float) -> None:
        """Finish what is open, tell the client why, and close within `grace_s`."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._send_event.send_nowait(_Leave(error, grace_s))

    # ---- beginning

    def _known(self, offered: list[str]) -> str | None:
        """Which of the server's tokens the client brings; none, and it has some time to send one.

        Raises:
            ProtocolError: the token is wrong.
        """
        tokens = self._settings.tokens
        token = accepted_token(offered, tokens)
        if tokens and offered and token is None:
            raise ProtocolError(4401, "wrong token: send 'Authorization: Bearer TOKEN' or ?token=")
        return token

    async def _open_session(self) -> None:
        """What the client asked for in the URL.

        Raises:
            ProtocolError: a value cannot be served.
        """
        query, settings = self._socket.query_params, self._settings
        try:
            audio_format = AudioFormat(
                sample_rate=_integer(query.get("sample_rate", "16000"), "sample_rate"),
                channels=_integer(query.get("channels", "1"), "channels"),
                encoding=query.get("encoding", "s16le"),  # type: ignore[arg-type]  # checked by AudioFormat
            )
        except AudioError as error:
            raise ProtocolError(4415, str(error)) from None
        _choice(query, "events", ("json", "text"), "text")
        endpointing = _choice(query, "endpointing", ENDPOINTINGS, "auto")
        task = _choice(query, "task", TASKS, settings.task)
        language = query.get("language", settings.language).lower()
        if language != "auto" and language not in LANGUAGES:
            raise ProtocolError(4400, f"language must be auto or a Whisper code such as ko or en, not {language!r:.20}")
        decoding = Decoding(language, task)
        vad, options, longest_s = await self._server.vad(), settings.endpointing_options, settings.max_push_to_talk_s
        if self._json:
            self._session = EventSession(
                audio_format,
                vad,
                options,
                ready=self._ready(),
                endpointing=endpointing,
                decoding=decoding,
                max_push_to_talk_s=longest_s,
            )
        else:
            self._session = PlainSession(
                audio_format,
                vad,
                options,
                endpointing=endpointing,
                decoding=decoding,
                max_push_to_talk_s=longest_s,
                failure_text=settings.failure_text,
                phrases=await self._phrases(),
            )
        self._session.mender = self._repair
        if self._server.recorder is not None:
            declared = {"language": language, "task": task} | {name: query[name] for name in QUERY if name in query}
            about = About(self._id, __version__, self._server.engine.model, declared, settings.recorded())
            self._session.witness = self._tape = Tape(about, self._server.recorder, settings.max_recording_bytes)
            self._tape.mender = self._repair

    async def _phrases(self) -> PhraseBook | None:
        """In plain mode phrases count only where the matched one is all that is wanted."""
        phrases = tuple(
            filter(None, (phrase.strip() for phrase in self._socket.query_params.get("phrases", "").split(",")))
        )
        if _choice(self._socket.query_params, "match", ("text", "only"), "text") == "text":
            return None
        if not phrases:
            raise ProtocolError(4400, "match=only needs phrases=, with commas between them")
        try:
            return await anyio.to_thread.run_sync(phrase_book, phrases)
        except PhraseError as error:
            raise ProtocolError(4400, str(error)) from None

    def _ready(self) -> Ready:
        return Ready(
            session_id=self._id,
            version=__version__,
            model=self._server.engine.model,
            language=self._settings.language,
            limits=self._settings.on_the_wire(),
        )

    # ---- the loop

    async def _run(self) -> None:
        """Serve until the client leaves.

        Raises:
            ProtocolError, Overloaded, ModelError: the socket must be closed, and why.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            self._tasks = group
            group.start_soon(self._read)
            try:
                failure = await self._handle_events()
            finally:
                while self._jobs:
                    self._jobs.popitem()[1].withdraw()
                self._record()
                if self._tape is not None:
                    self._tape.close()
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
            if self._inbox_bytes > self._settings.max_buffered_bytes:
                self._send_event.send_nowait(_Flooded())
                return
            self._send_event.send_nowait(_Message(data, time.monotonic()))

    async def _handle_events(self) -> Exception | None:
        """Until the client leaves (None) or must be turned away (why)."""
        try:
            if self._authorized and not await self._greet():
                return None
            while True:
                event = await self._next_event()
                await asyncio.sleep(0)  # however much has come from this client: others, and its reader, go on
                if self._gone:  # whatever else has come needs no answer
                    return None
                self._now()
                for action in await self._handle(event):
                    if not await self._carry_out(action):
                        return None
                self._record()
                if self._leaving and self._session.settled:
                    return self._leaving
        except (ProtocolError, Overloaded, ModelError) as error:
            return error

    def _now(self) -> float:
        self._session.now_s = now_s = time.monotonic()
        return now_s

    async def _handle(self, event: _Event) -> Iterable[Action]:
        """What an event leads to.

        Raises:
            ProtocolError, Overloaded, ModelError: the session must end.
        """
        match event:
            case _Message(data, arrived_s):
                self._inbox_bytes -= len(data) + MESSAGE_COST_BYTES
                self._last_message_s = arrived_s
                self._session.now_s = arrived_s
                return () if self._leaving else await self._receive(data, arrived_s)
            case _Result(number, transcript, timing):
                return self._session.receive_transcript(number, transcript, timing)
            case _Lost(number):
                return self._session.receive_refusal(number)
            case _Failed(number, error):
                return self._session.receive_failure(number, error)
            case _Found(findings, utterance):
                return self._complain(findings, utterance)
            case _Leave(error, grace_s):
                return self._leave(error, grace_s)
            case _Flooded():
                raise Overloaded("audio comes faster than it can be handled")
            case "pause":
                return self._session.idle()
            case "token":
                raise ProtocolError(4401, "no token came: send 'Authorization: Bearer TOKEN', ?token= or start.token")
            case "idle":
                raise ProtocolError(4408, f"nothing came for {self._settings.idle_timeout_s:.0f} s; send keepalive")
            case "going_away":
                self._warned = True
                left_s = self._began_s + self._settings.session_timeout_s - time.monotonic()
                in_ms = max(0, round(1000 * left_s))
                return [Send(GoingAway(reason="session_limit", in_ms=in_ms))] if self._json else ()
            case "session_limit":
                limit_s = self._settings.session_timeout_s
                return self._leave(
                    ProtocolError(4410, f"a session lasts {limit_s:.0f} s at most; connect anew"), LEAVE_GRACE_S
                )
            case "left":
                assert self._leaving is not None
                raise self._leaving
            case _Gone():  # `_gone` is set before it is sent
                return ()

    def _leave(self, error: ProtocolError, grace_s: float) -> Iterable[Action]:
        if self._leaving is not None:
            return
        self._leaving = error
        self._leave_by_s = time.monotonic() + grace_s
        if self._json and error.code == CLOSE_CODES["restarting"]:
            yield Send(GoingAway(reason="restarting", in_ms=round(1000 * grace_s)))
        yield from self._session.finalise()

    async def _next_event(self) -> _Event:
        """The next event, or the next time that comes.

        What has already arrived goes first, so that a busy server does not mistake its own delay for a pause.
        """
        with suppress(anyio.WouldBlock):
            return self._events.receive_nowait()
        at_s, due = min(self._dues())
        with anyio.move_on_after(at_s - time.monotonic()):
            return await self._events.receive()
        for _ in range(LAST_LOOKS):  # a server that stood still finds the time and the messages at once
            await asyncio.sleep(0)
            with suppress(anyio.WouldBlock):
                return self._events.receive_nowait()
        return due

    def _dues(self) -> Iterable[tuple[float, Due]]:
        settings = self._settings
        if self._leaving:
            yield self._leave_by_s, "left"
            return
        yield self._last_message_s + settings.idle_timeout_s, "idle"
        yield self._began_s + settings.session_timeout_s, "session_limit"
        if not self._authorized:
            yield self._began_s + settings.token_timeout_s, "token"
        if not self._warned:
            yield self._began_s + settings.session_timeout_s - settings.going_away_s, "going_away"
        if (pause_s := self._session.idle_after_s) is not None:
            yield self._last_audio_s + pause_s, "pause"

    # ---- what comes

    async def _receive(self, data: bytes | str, arrived_s: float) -> Iterable[Action]:
        if isinstance(data, str) and len(data.encode()) > self._settings.max_control_bytes:
            raise ProtocolError(4400, f"a text message may have {self._settings.max_control_bytes} bytes")
        if not self._authorized and data:
            await self._receive_token(data)
        if isinstance(data, str):
            if not self._control_budget.take(1, arrived_s):
                raise ProtocolError(4429, "too many text messages; send fewer")
            self._keep(data, arrived_s)
            if len(data) <= THREAD_CHARACTERS:
                return self._receive_text(data)
            return await anyio.to_thread.run_sync(lambda: list(self._receive_text(data)))
        if data:
            self._last_audio_s = arrived_s
        audio_s = self._session.audio_format.duration_s(len(data))
        self._server.metrics.received(audio_s)
        if not self._audio_budget.take(audio_s, arrived_s):
            raise ProtocolError(4429, f"audio comes faster than {self._settings.audio_rate} times real time")
        self._keep(data, arrived_s)
        if self._checkup and data and self._checkup.push(data, self._session.audio_format, arrived_s):
            self._examine(None, whole=False)
        if len(data) <= THREAD_BYTES:
            return self._hear(data)
        return await anyio.to_thread.run_sync(lambda: list(self._hear(data)))

    def _hear(self, data: bytes) -> Iterator[Action]:
        actions = iter(self._session.receive_bytes(data))
        while True:
            with self._server.metrics.work("audio"):
                action = next(actions, None)
            if action is None:
                return
            yield action

    def _keep(self, data: bytes | str, arrived_s: float) -> None:
        """For debug recordings."""
        if self._tape is not None:
            self._tape.add(data, arrived_s, self._session.audio_format, speaking=self._session.holds_speech)

    def _record(self) -> None:
        """Hand over the debug recordings that are finished."""
        if self._tape is not None and self._server.recorder is not None:
            for recording in self._tape.finished():
                self._server.recorder.submit(recording)

    async def _receive_token(self, data: bytes | str) -> None:
        """The first message of a client that has brought no token: a `start` that does.

        Raises:
            ProtocolError: it does not, or the token is wrong.
        """
        try:
            start = parse_client_message(data) if isinstance(data, str) else None
        except MessageError as error:
            if error.code == "unsupported_format":
                raise ProtocolError(4415, str(error)) from None
            start = None
        self._json = self._json or start is not None
        if not isinstance(start, Start) or not start.token:
            raise ProtocolError(4401, "a token is required: 'Authorization: Bearer TOKEN', ?token= or start.token")
        self._server.authorize(self, self._known([start.token]))
        self._authorized = True
        if self._json:
            await self._greet()

    def _receive_text(self, text: str) -> Iterable[Action]:
        if isinstance(self._session, PlainSession) and text.lstrip().startswith("{"):
            try:
                parse_client_message(text)
            except MessageError as error:
                if not error.is_json:
                    raise ProtocolError(4400, "expected binary PCM, the text 'flush' or JSON") from None
            self._session, actions = EventSession.taking_over(self._session, self._ready())
            self._json = True
            yield from actions
        yield from self._session.receive_text(text)

    async def _greet(self) -> bool:
        """In JSON mode, say that the session may begin."""
        return not isinstance(self._session, EventSession) or await self._carry_out(self._session.greet())

    # ---- what the session wants

    async def _carry_out(self, action: Action) -> bool:
        """Do what the session says; return whether the client is still there.

        Raises:
            Overloaded, ModelError: an utterance that somebody waits for cannot be transcribed.
        """
        match action:
            case Transcribe(number, request, speculative=speculative):
                self._ask(number, request, Priority.SPECULATIVE if speculative else Priority.FINAL)
            case LookAgain(number, request, speculative):
                self._ask(number, request, Priority.SPECULATIVE if speculative else Priority.SECOND_LOOK)
            case Draft(number, request):
                self._ask(number, request, Priority.PARTIAL)
            case Promote(number):
                if number in self._jobs:
                    self._jobs[number].promote()
            case Withdraw(number):
                if number in self._jobs:
                    self._jobs.pop(number).withdraw()
            case SendText(text, utterance, ttfs_s):
                sent = await self._send(text)
                if utterance is not None:
                    self._count(utterance, ttfs_s)
                    self._examine(None, whole=utterance.reason in CLIENTS_REASONS, ended=True)
                return sent
            case Send(message):
                return await self._send_message(message)
            case Close():
                await self._close(1000, "")
                return False
        return True

    async def _send_message(self, message: ServerMessage) -> bool:
        metrics = self._server.metrics
        match message:
            case Dropped(from_ms=from_ms, to_ms=to_ms):
                metrics.dropped((to_ms - from_ms) / 1000)
                if self._checkup:  # what nobody listened to is nobody's fault
                    self._checkup.next_utterance()
            case Error(code=code):
                metrics.error(code)
            case Final(reason=reason, timing=timing):
                metrics.utterance(reason, timing.audio_ms / 1000)
                if timing.audio_ms:
                    metrics.ttfs("flush" if reason == "flush" else "endpoint", timing.ttfs_ms / 1000)
        sent = await self._send(message.to_json())
        if sent and isinstance(message, Final):  # one without speech, too: broken audio may not sound like any
            self._examine(message.utterance, whole=message.reason in CLIENTS_REASONS, ended=True)
        if sent and isinstance(message, Ready) and not self._server.loaded:
            return await self._send(Status(eta_ms=round(1000 * self._server.eta_s)).to_json())
        return sent

    def _examine(self, utterance: int | None, *, whole: bool, ended: bool = False) -> None:
        """Have the doctor look at what has come. Nobody waits for that, so while the workers have all hands full nobody
        looks: what is broken will be broken in the next utterance, too."""
        if self._checkup is not None:
            if not self._server.players_need_all:
                self._tasks.start_soon(self._look, self._checkup.look(whole=whole), utterance)
            if ended:
                self._checkup.next_utterance()

    async def _look(self, look: Callable[[], list[Finding]], utterance: int | None) -> None:
        def counted() -> list[Finding]:
            with self._server.metrics.work("doctor"):
                return look()

        self._send_event.send_nowait(_Found(await anyio.to_thread.run_sync(counted), utterance))

    def _complain(self, findings: list[Finding], utterance: int | None) -> Iterable[Action]:
        """Say what is wrong with the audio: JSON clients in a message, all others in the log, once a session.

        What the server has undone is said even where nothing else is.
        """
        assert self._checkup is not None
        for finding in self._checkup.news(findings):
            undone = self._repair is not None and self._repair.undid(finding)
            if not (self._settings.doctor or undone):
                continue
            self._server.metrics.warning(finding.code)
            if self._json:
                korean = self._session.decoding.language == "ko"
                message, hint = (finding.message_ko, finding.hint_ko) if korean else (finding.message, finding.hint)
                message += (REPAIRED_KO if korean else REPAIRED) * undone
                yield Send(Warning(utterance=utterance, code=finding.code, message=message, hint=hint))
            elif finding.code not in self._complaints:
                self._complaints.add(finding.code)
                logger.warning("Session %s: %s%s %s", self._id, finding.message, REPAIRED * undone, finding.hint)

    def _count(self, utterance: Utterance, ttfs_s: float) -> None:
        metrics = self._server.metrics
        metrics.utterance(utterance.reason, utterance.duration_s)
        if len(utterance.samples):
            metrics.ttfs("flush" if utterance.reason in ("flush", "message") else "endpoint", ttfs_s)

    async def _send(self, text: str) -> bool:
        """Send a text message; return whether the client is still there and reads."""
        if self._tape is not None:
            self._tape.said(text, time.monotonic())
        try:
            with anyio.fail_after(self._settings.send_timeout_s):
                await self._socket.send_text(text)
        except TimeoutError:
            logger.info("A client stopped reading; it was cut off.")
            self._abort()
            return False
        except (WebSocketDisconnect, RuntimeError):  # it left while the line was on its way
            return False
        return True

    def _ask(self, number: int, request: transcription.Request, priority: Priority) -> None:
        try:
            job = self._server.enqueue(request, self, priority)
        except Overloaded as error:
            self._send_event.send_nowait(_settled(number, priority, error))
            return
        self._jobs[number] = job
        job.future.add_done_callback(partial(self._settle, number))

    def _settle(self, number: int, future: asyncio.Future[Transcript]) -> None:
        """The scheduler is done with a request."""
        job = self._jobs.get(number)
        if job is None or job.future is not future:
            return
        del self._jobs[number]
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._send_event.send_nowait(_Result(number, future.result(), job.timing))
            return
        if not isinstance(error, Overloaded | ModelError):
            logger.error("An utterance could not be transcribed.", exc_info=error)
        assert isinstance(error, Exception)
        self._send_event.send_nowait(_settled(number, job.priority, error))

    # ---- end

    async def _say_goodbye(self, error: Exception, *, refused: bool) -> None:
        """Close with the code of an error, after saying so in JSON mode."""
        retry_after_ms = None
        match error:
            case ProtocolError(code=close):
                code, sentence = CODE_OF_CLOSE.get(close, "bad_message"), str(error)
                if code == "rate_limited":
                    retry_after_ms = RETRY_AFTER_MS
            case Overloaded():
                code, close, sentence, retry_after_ms = "busy", CLOSE_CODES["busy"], str(error), RETRY_AFTER_MS
            case ModelError():
                logger.warning("A client was turned away: %s", error)
                code, close = "internal", CLOSE_CODES["internal"]
                sentence = "the model is not available; see the server's log"
            case _:
                code, close, sentence = "internal", CLOSE_CODES["internal"], "internal error; see the server's log"
        self._server.metrics.error(code)
        if refused or code == "unauthorized":
            self._server.metrics.refused(code)
        if self._json and not await self._send(
            error_message(code, sentence, close=True, retry_after_ms=retry_after_ms).to_json()
        ):
            return
        await self._close(close, sentence)

    async def _close(self, code: int, reason: str) -> None:
        """Close with an ASCII reason, which is what Unreal can decode; a client that is gone already is fine."""
        short = reason.encode("ascii", "replace")[:MAX_REASON_BYTES].decode()
        with suppress(RuntimeError, WebSocketDisconnect):
            with anyio.move_on_after(CLOSE_TIMEOUT_S) as scope:
                await self._socket.close(code, short)
            if scope.cancelled_caught:
                self._abort()

    def _abort(self) -> None:
        """Cut the connection, where the transport can: a close would wait for a client that does not read."""
        abort: Callable[[], None] | None = (
            self._socket.scope.get("extensions", {}).get(ABORT_EXTENSION, {}).get("abort")
        )
        if abort is not None:
            abort()


def _settled(number: int, priority: Priority, error: Exception) -> _Lost | _Failed:
    speculative = priority in (Priority.SPECULATIVE, Priority.PARTIAL)
    return _Lost(number) if speculative else _Failed(number, error)


def _choice(query: Mapping[str, str], name: str, choices: tuple[ChoiceT, ...], default: ChoiceT) -> ChoiceT:
    value = query.get(name, default)
    for choice in choices:
        if choice == value:
            return choice
    raise ProtocolError(4400, f"{name} must be {', '.join(choices)}, not {value!r:.20}")


def _integer(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise AudioError(f"{name} must be a whole number, not {text!r:.20}")
    return int(text)

"""uvicorn, made safe to put in front of strangers.

What a client can do to a server before the app hears of it is decided here: how long it may take, how much it may
send, how little it may read. Stock uvicorn bounds none of that for WebSockets, so its two protocol classes are
extended, in four places:

- Parsers. `_Requests` (HTTP) and `_Frames` (WebSocket) refuse while they parse. A flood of frames ends inside the
  parser: neither its events nor its messages are ever made, and other clients do not wait for them.
- Deadlines. Every connection is looked at once a second (`_Watched.check`): a request that is not complete in time,
  or bytes that the client does not take, end with `transport.abort()`. Closing is not enough, because a transport
  closes only when its buffer is empty, which the client decides. The app may abort too: `scope["extensions"]`.
- Last words. Who is refused in the middle of sending is ignored for a moment before the socket is closed
  (`_Watched.linger`), so that the refusal arrives.
- Leaving. A signal lets the app finish what it has begun (`drain`) before uvicorn closes the sockets, and a second
  signal, or `exit_timeout_s`, ends the process whatever its threads do.

HTTP is parsed by h11: pure Python, strict, and it bounds the head of a request. httptools is faster and does not;
here a connection has one request, its handshake.
"""

import asyncio
import codecs
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import HANDLED_SIGNALS, ServerState
from websockets.exceptions import ProtocolError
from websockets.frames import CTRL_OPCODES, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from stt_core.limits import LARGEST_MESSAGE_BYTES, TokenBucket

logger = logging.getLogger(__name__)

ABORT_EXTENSION = "stt.abort"  # of the ASGI scope, which has no other way to cut a connection
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
RECEIVE_BYTES = 16 * 1024  # at a time; asyncio's 256 KiB hold so many small frames that others would wait for them
LINE_INTERVAL_S = 60.0  # between two lines of one kind in the log


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one client may do, and how long the server waits. Real clients stay far below each of them.

    The largest burst that must pass is a recording of 65 s in messages of 10 ms, sent as fast as the network takes
    it: 6,500 frames.
    """

    max_connections: int = 2000  # TCP, of all kinds; more are answered 503
    max_head_bytes: int = 16 * 1024  # of a request: its line and headers (431)
    max_target_bytes: int = 8 * 1024  # of a request: its path and query (414)
    max_message_bytes: int = LARGEST_MESSAGE_BYTES  # of a WebSocket message (1009)
    max_fragments: int = 1024  # of a WebSocket message (1008)
    frames_per_s: float = 400.0  # of all kinds (1008)
    frames_burst: int = 8000
    control_frames_per_s: float = 10.0  # ping, pong, close (1008)
    control_frames_burst: int = 100
    bytes_per_s: float = 8e6  # of payload (1008); 192 kHz, 8 channels, f32le is 6.1e6
    bytes_burst: int = 64 * 1024 * 1024
    small_chunk_bytes: int = 512  # chunks of an HTTP body that are smaller count as frames (400)
    handshake_timeout_s: float = 10.0  # for a whole request head, and for the WebSocket to open
    body_timeout_s: float = 300.0  # for a whole request body
    keep_alive_s: int = 5  # between two requests
    send_timeout_s: float = 10.0  # a client that leaves bytes untaken for longer is cut off
    send_buffer_bytes: int = 64 * 1024  # of the socket; what it holds is not noticed as untaken
    ping_interval_s: float = 5.0
    ping_timeout_s: float = 25.0  # of hearing nothing at all; a network that stalls for 20 s is forgiven
    close_timeout_s: float = 5.0  # for the client's answer to a close frame
    linger_s: float = 2.0  # after a refusal, so that it arrives
    linger_bytes: int = 64 * 1024 * 1024
    drain_timeout_s: float = 6.0  # for the open utterances, when the server is told to stop
    shutdown_timeout_s: int = 2  # for the connections after that
    exit_timeout_s: float = 9.5  # for everything


class Config(uvicorn.Config):
    """How uvicorn is run, in `python -m local_dev` and in tests alike."""

    def __init__(self, app: Any, limits: EdgeLimits | None = None) -> None:
        self.limits = limits = limits or EdgeLimits()
        super().__init__(
            app,
            loop="asyncio",  # uvloop, where it is installed, counts and fails in its own ways
            http=HttpProtocol,
            ws=SocketProtocol,
            ws_max_size=limits.max_message_bytes,
            ws_ping_interval=limits.ping_interval_s,
            ws_ping_timeout=limits.ping_timeout_s,
            ws_per_message_deflate=False,  # PCM does not compress, and each connection would cost 40 KiB more
            timeout_keep_alive=limits.keep_alive_s,
            timeout_graceful_shutdown=limits.shutdown_timeout_s,
            backlog=512,  # also how often asyncio tries, and logs, when it is out of file descriptors
            lifespan="on",
            log_config=None,
            log_level="warning",  # uvicorn's own lines would show tokens in URLs
            access_log=False,
            server_header=False,
        )


class _Requests(h11.Connection):
    """Requests as strict as a server needs that speaks to nobody but games, browsers and scripts."""

    def __init__(self, limits: EdgeLimits) -> None:
        super().__init__(h11.SERVER, limits.max_head_bytes)
        self.refusal: h11.RemoteProtocolError | None = None
        self._limits = limits
        self._small_chunks = TokenBucket(limits.frames_per_s, limits.frames_burst)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._check_request(event)
            elif isinstance(event, h11.Data) and len(event.data) < self._limits.small_chunk_bytes:
                self._check_chunk()
        except h11.RemoteProtocolError as error:
            self.refusal = error
            raise
        return event

    def _check_request(self, request: h11.Request) -> None:
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        if len(request.target) > self._limits.max_target_bytes:
            raise h11.RemoteProtocolError("its address is too long", 414)
        if size > self._limits.max_head_bytes:
            raise h11.RemoteProtocolError("its headers are too long", 431)
        names = {name for name, _ in request.headers}
        if b"upgrade" in names and request.http_version != b"1.1":
            raise h11.RemoteProtocolError("a WebSocket needs HTTP/1.1")
        if {b"content-length", b"transfer-encoding"} <= names:
            raise h11.RemoteProtocolError("its length is given twice")

    def _check_chunk(self) -> None:
        if not self._small_chunks.take(1, time.monotonic()):
            raise h11.RemoteProtocolError("its body comes in too small pieces")


class _Frames(ServerProtocol):
    """WebSocket frames within a budget, and text that is UTF-8."""

    def __init__(self, limits: EdgeLimits) -> None:
        super().__init__(max_size=limits.max_message_bytes, logger=logging.getLogger("uvicorn.error"))
        self._limits = limits
        self._frames = TokenBucket(limits.frames_per_s, limits.frames_burst)
        self._control_frames = TokenBucket(limits.control_frames_per_s, limits.control_frames_burst)
        self._bytes = TokenBucket(limits.bytes_per_s, limits.bytes_burst)
        self._fragments = 0
        self._text: codecs.IncrementalDecoder | None = None  # of the message that is coming in

    def recv_frame(self, frame: Frame) -> None:
        if excess := self._excess(frame):
            self.fail(CloseCode.POLICY_VIOLATION, excess)
            self.parser_exc = ProtocolError(excess)
            return
        if frame.opcode not in CTRL_OPCODES:
            self._check_text(frame)
        super().recv_frame(frame)

    def _excess(self, frame: Frame) -> str | None:
        """What there is too much of, if anything."""
        now = time.monotonic()
        if not self._frames.take(1, now):
            return "too many messages"
        if not self._bytes.take(len(frame.data), now):
            return "too much data"
        if frame.opcode in CTRL_OPCODES:
            return None if self._control_frames.take(1, now) else "too many pings"
        self._fragments = self._fragments + 1 if frame.opcode is Opcode.CONT else 1
        return None if self._fragments <= self._limits.max_fragments else "too many fragments"

    def _check_text(self, frame: Frame) -> None:
        """Look at text as it comes, not when its message is complete.

        Raises:
            UnicodeDecodeError: it is not UTF-8; the parser closes with 1007.
        """
        if frame.opcode is Opcode.TEXT:
            self._text = codecs.getincrementaldecoder("utf-8")()
        elif frame.opcode is Opcode.BINARY:
            self._text = None
        if self._text:
            self._text.decode(bytes(frame.data), final=frame.fin)


def refusal(status: int, sentence: str) -> bytes:
    """An HTTP response after which the connection is closed."""
    body = sentence.encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class _Watched:
    """A connection with deadlines. It is aborted when its client misses one."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    limits: EdgeLimits
    lingering = False  # the client has its last answer
    _ignored_bytes = 0  # that came after it
    _deadline_s: float | None = None  # for what the client must send next, in monotonic time
    _untaken_since_s: float | None = None  # bytes for the client are waiting

    def expect(self, within_s: float | None) -> None:
        """Something must come from the client; with None, nothing needs to."""
        self._deadline_s = None if within_s is None else time.monotonic() + within_s

    def check(self, now: float) -> None:
        if not self.transport.get_write_buffer_size():
            self._untaken_since_s = None
        elif self._untaken_since_s is None:
            self._untaken_since_s = now
        late = self._deadline_s is not None and now > self._deadline_s
        stuck = self._untaken_since_s is not None and now - self._untaken_since_s > self.limits.send_timeout_s
        if late or stuck:
            self.transport.abort()

    def refuse(self, answer: bytes) -> None:
        """Answer instead of the app, and close."""
        self.transport.write(answer)
        self.linger()

    def linger(self) -> asyncio.TimerHandle:
        """Close once the client has stopped sending, or in a moment.

        To close at once, with data unread, would reset the connection. That takes with it what the network still holds
        of the answer and, on Windows, all that the client has not read yet.
        """
        self.lingering = True
        if self.transport.can_write_eof():  # not with TLS
            with suppress(OSError):  # the client has gone meanwhile; the next read says so
                self.transport.write_eof()
        self.transport.resume_reading()
        return self.loop.call_later(self.limits.linger_s, self.transport.close)

    def shutdown(self) -> None:
        """The server leaves. A client that has its last answer gets no other."""
        if self.lingering:
            self.transport.close()
        else:
            super().shutdown()  # type: ignore[misc]  # uvicorn's

    def ignore(self, data: bytes) -> None:
        self._ignored_bytes += len(data)
        if self._ignored_bytes > self.limits.linger_bytes:
            self.transport.abort()


class _LingeringTransport:
    """What uvicorn answers a request through: its `close` waits for a client that is still sending the body."""

    def __init__(self, connection: "HttpProtocol") -> None:
        self._connection = connection
        self.write = connection.transport.write

    def is_closing(self) -> bool:
        return self._connection.lingering or self._connection.transport.is_closing()

    def close(self) -> None:
        if self._connection.conn.their_state is h11.SEND_BODY:
            self._connection.linger()
        else:
            self._connection.transport.close()


class HttpProtocol(_Watched, H11Protocol):
    """Every connection begins here; most go on as a `SocketProtocol`."""

    conn: _Requests

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = config.limits
        self.conn = _Requests(config.limits)
        self._their_state: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        with suppress(OSError):  # the client has gone already
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_buffer_bytes
            )
        transport.max_size = RECEIVE_BYTES  # type: ignore[attr-defined]
        self._answers = cast(asyncio.Transport, _LingeringTransport(self))
        self._set_deadline()
        if len(self.connections) > self.limits.max_connections:
            transport.write(refusal(503, "The server has too many connections. Try again in a moment."))
            transport.close()  # who is too many gets no moment more

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self.ignore(data)
        else:
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle:  # made just now or before; the app is not called before the next turn of the loop
            self.cycle.transport = self._answers
        self._set_deadline()

    def _set_deadline(self) -> None:
        state = self.conn.their_state
        if state is not self._their_state:
            self._their_state = state
            if state is h11.IDLE:
                self.expect(self.limits.handshake_timeout_s)
            else:
                self.expect(self.limits.body_timeout_s if state is h11.SEND_BODY else None)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        early, _ = self.conn.trailing_data
        if early and not self.transport.is_closing():
            cast(SocketProtocol, self.transport.get_protocol()).data_received(early)

    def send_400_response(self, msg: str) -> None:
        error = self.conn.refusal
        assert error is not None
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()  # the app need not wait for the rest
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.refuse(refusal(error.error_status_hint, f"The request cannot be served: {error}."))
        else:  # its answer is on the way already
            self.transport.close()


class SocketProtocol(_Watched, WebSocketsSansIOProtocol):
    """A WebSocket, from its handshake on."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.limits = config.limits
        self.close_timeout = config.limits.close_timeout_s
        self.conn = _Frames(config.limits)
        self._early = b""  # sent before the handshake was answered
        self._heard_s = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.expect(self.limits.handshake_timeout_s)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self.loop.time()
        if self.lingering:
            self.ignore(data)
        elif self.handshake_initiated and not self.handshake_complete:  # to answer now would be before the 101
            self._early += data
            self.transport.pause_reading()
        else:
            super().data_received(data)
            if self.conn.handshake_exc and not self.handshake_initiated:
                answer = b"".join(self.conn.data_to_send())
                self.refuse(answer or refusal(400, "The request cannot be served: it is no WebSocket handshake."))

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][ABORT_EXTENSION] = {"abort": self.transport.abort}

    async def receive(self) -> Any:
        if not self.queue.empty():  # a burst; others go on between its messages
            await asyncio.sleep(0)
        return await super().receive()

    async def send(self, message: Any) -> None:
        if self.lingering or (self.transport.is_closing() and not self.close_sent):
            raise ClientDisconnected
        await super().send(message)
        if self.close_sent:  # a refusal that the app worded itself is an answer, too
            self.handshake_complete = True
        if self.handshake_complete and self._deadline_s is not None:
            self.expect(None)
            early, self._early = self._early, b""
            if early and not self.close_sent:
                self.transport.resume_reading()
                self.data_received(early)

    def handle_parser_exception(self) -> None:
        """Close for a fault of the client's."""
        if self.close_timer is not None:  # it is closing already
            return
        close = self.conn.close_sent
        assert close is not None
        logger.info("A client was cut off: %d %s.", close.code, close.reason)
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_timer = self.linger()

    def keepalive_timeout(self) -> None:
        """A pong waits behind the audio in a slow network; whoever is heard at all is there."""
        assert self.ping_timeout is not None
        left_s = self._heard_s + self.ping_timeout - self.loop.time()
        if left_s > 0:
            self.pong_timer = self.loop.call_later(left_s, self.keepalive_timeout)
        else:
            super().keepalive_timeout()


class Server(uvicorn.Server):
    """Looks after its connections, finishes what it has begun, and exits with 0 when it is told to stop.

    Args:
        config: of uvicorn.
        drain: called once when the server is to stop, with the seconds it may take; new clients still get in, to be
            told that the server leaves. uvicorn closes what is open after it.
    """

    config: Config

    def __init__(self, config: Config, drain: Callable[[float], Awaitable[None]] | None = None) -> None:
        super().__init__(config)
        self.signalled = False
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await super().startup(sockets)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Out of file descriptors, asyncio accepts again after a second, and fails if the server has left by then."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
            logger.warning("No more connections can be accepted for now (%s).", error.strerror)
        elif not (self.should_exit and "_start_serving" in context["message"]):
            loop.default_exception_handler(context)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                cast(_Watched, connection).check(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain:
            limit_s = self.config.limits.drain_timeout_s
            try:
                async with asyncio.timeout(limit_s + 0.5):
                    await self._drain(limit_s)
            except TimeoutError:
                logger.warning("Not every open session could be finished in time.")
            except Exception:  # whatever it is, the server must still stop
                logger.exception("The open sessions could not be finished.")
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stock uvicorn raises the signal again after its clean shutdown, and the exit code is not 0."""
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.signalled:  # asked twice: now
            os._exit(128 + sig)
        self.signalled = self.should_exit = True
        exit_within(self.config.limits.exit_timeout_s)


def exit_within(timeout_s: float) -> None:
    """End the process with 0 after `timeout_s` even if a thread, such as one that loads a model, cannot be stopped."""
    timer = threading.Timer(timeout_s, os._exit, (0,))
    timer.daemon = True
    timer.start()


def allow_open_files(number: int) -> None:
    """Raise this process's limit of open files as far as it may be; a common default is 1024, macOS has 256."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class SparingFilter(logging.Filter):
    """Lets one line of a kind through in `LINE_INTERVAL_S`, so that nobody can fill a disk by misbehaving."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = str(record.msg).partition("\n")[0]
        if record.created - self._last_s.get(kind, 0.0) < LINE_INTERVAL_S:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._last_s[kind] = record.created
        if left_out := self._left_out.pop(kind, 0):
            record.msg = f"{record.msg} (and {left_out} more since the last such line)"
        return True


def be_sparing_with_lines() -> None:
    """Of what clients can make this server log."""
    sparing = SparingFilter()
    for name in (__name__, "uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(sparing)

"""Raw sockets against the real uvicorn: what clients can do wrong, slowly or too often, and what it costs them."""

import asyncio
import logging
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest
import websockets.sync.client
from echo_server import echo
from servers import REPOSITORY, STOP_S, Address, environment, wait_until
from websockets.frames import apply_mask

from local_dev.edge import Config, EdgeLimits, HttpProtocol, Server, SocketProtocol, SparingFilter

ANSWER_S = 20.0
TEXT, BINARY, CLOSE, PING, PONG, CONT = 1, 2, 8, 9, 10, 0
MASK = b"\x01\x02\x03\x04"
QUICK = EdgeLimits(handshake_timeout_s=1, body_timeout_s=1, send_timeout_s=1, close_timeout_s=1, linger_s=1)


@dataclass(frozen=True, slots=True)
class Running(Address):
    uvicorn: Server


@contextmanager
def running(limits: EdgeLimits | None = None, app=echo, drain=None) -> Iterator[Running]:
    server = Server(Config(app, limits), drain)
    failures: list[Exception] = []

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except Exception as error:  # noqa: BLE001 - a thread would keep it to itself
            failures.append(error)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "uvicorn to start")
            yield Running(listener.getsockname()[1], server)
        finally:
            server.should_exit = True
            thread.join(STOP_S)
            assert not thread.is_alive()
            assert [] == failures


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with running() as address:
        yield address


@pytest.fixture(scope="module")
def quick_server() -> Iterator[Address]:
    with running(QUICK) as address:
        yield address


class Raw:
    """A client that is free to do everything wrong."""

    def __init__(self, server: Address, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(ANSWER_S)
        self.socket.connect(("127.0.0.1", server.port))
        self.received = b""

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send; a server that has hung up meanwhile is found by the next read."""
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def _more(self) -> bool:
        """Read something; return whether the connection is still open."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.received += data
        return bool(data)

    def exactly(self, size: int) -> bytes:
        while len(self.received) < size:
            assert self._more(), f"the server closed after {self.received!r:.200}"
        data, self.received = self.received[:size], self.received[size:]
        return data

    def head(self) -> str:
        """An HTTP response's head."""
        while b"\r\n\r\n" not in self.received:
            assert self._more(), f"the server closed after {self.received!r:.200}"
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        return head.decode()

    def status(self) -> int:
        return int(self.head().split()[1])

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        while self._more():
            pass
        return self.received

    def frame(self) -> tuple[int, bytes]:
        """The server's next frame that is not a ping: opcode and payload."""
        while True:
            first, size = self.exactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", self.exactly(2))
            assert size != 127
            payload = self.exactly(size)
            if first & 15 != PING:
                return first & 15, payload

    def close_code(self) -> int:
        """The code of the close frame, with everything before it ignored."""
        while True:
            opcode, payload = self.frame()
            if opcode == CLOSE:
                return struct.unpack("!H", payload[:2])[0]


def request(
    path: str = "/ws/audio",
    *headers: str,
    method: str = "GET",
    version: str = "1.1",
    upgrade: bool = True,
    **changed: str,
) -> bytes:
    """A request; by default a good WebSocket handshake, of which `changed` replaces a header, or removes it with ''."""
    fields = {"Host": "localhost"}
    if upgrade:
        fields |= {"Upgrade": "websocket", "Connection": "Upgrade"}
        fields |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    fields |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [
        f"{method} {path} HTTP/{version}",
        *(f"{name}: {value}" for name, value in fields.items() if value),
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """A frame on the wire; `length` is what its header says, whatever is in it."""
    length = len(payload) if length is None else length
    if length < 126:
        size, extra = length, b""
    elif length < 65536:
        size, extra = 126, struct.pack("!H", length)
    else:
        size, extra = 127, struct.pack("!Q", length)
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode, (0x80 if masked else 0) | size]) + extra
    return head + MASK + apply_mask(payload, MASK) if masked else head + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


@contextmanager
def opened(server: Address, **options: int) -> Iterator[Raw]:
    """A client whose handshake has been answered."""
    with Raw(server, **options) as client:
        client.send(request())
        assert 101 == client.status()
        yield client


@contextmanager
def bystander(server: Address) -> Iterator[None]:
    """A player who talks and is answered, as is `/healthz`, before, while and after something happens."""
    answers: list[str] = []
    done = threading.Event()

    def talk() -> None:
        with websockets.sync.client.connect(server.url, compression=None) as client:
            while not done.is_set():
                client.send(bytes(640))
                answers.append(str(client.recv(timeout=ANSWER_S)))
                answers.append(str(server.status("/healthz")))
            client.send(b"end")
            answers.append(str(client.recv(timeout=ANSWER_S)))

    def goes_on() -> None:
        heard = len(answers)
        wait_until(lambda: len(answers) >= heard + 4, "the bystander to go on", ANSWER_S)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        goes_on()
        yield
        goes_on()
    finally:
        done.set()
        thread.join(ANSWER_S)
    assert "3" == answers[-1]
    assert {"640", "200"} == set(answers[:-1])


# -- frames


@pytest.mark.parametrize(
    ("code", "frames"),
    [
        (1002, frame(BINARY, b"ab", masked=False)),
        (1002, frame(BINARY, b"ab", rsv=4)),  # compressed, which was not agreed on
        (1002, frame(BINARY, b"ab", rsv=2)),
        (1002, frame(BINARY, b"ab", rsv=1)),
        *((1002, frame(opcode)) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        (1002, frame(PING, bytes(126))),
        (1002, frame(PING, b"", fin=False)),
        (1002, frame(CLOSE, b"", fin=False)),
        (1002, frame(CONT, b"ab")),
        (1002, frame(CONT, b"ab", fin=False)),
        (1002, frame(TEXT, b"ab", fin=False) + frame(TEXT, b"cd")),
        (1002, frame(BINARY, b"ab", fin=False) + frame(BINARY, b"cd")),
        (1002, frame(CLOSE, b"\x03")),
        *((1002, close_frame(code)) for code in (0, 999, 1004, 1005, 1006, 1015, 5000)),
        (1002, close_frame(1000, bytes(124))),
        (1002, b"GET / HTTP/1.1\r\n\r\n"),
        (1007, frame(TEXT, b"\xff")),
        (1007, frame(TEXT, "가".encode()[:2])),
        (1007, frame(TEXT, b"\xed\xa0\x80")),  # a surrogate
        (1007, frame(TEXT, b"\xc0\xaf")),  # not the shortest form
        (1007, frame(TEXT, b"ab", fin=False) + frame(CONT, b"\xff", fin=False)),  # at once, not at the end
        (1007, close_frame(1000, b"\xff")),
        (1009, frame(BINARY, b"", length=2 * 1024 * 1024 + 1)),
        (1009, frame(BINARY, b"", length=2**63)),
        (1009, frame(BINARY, b"", length=2**64 - 1)),
        (1009, frame(TEXT, b"", length=2**63)),
        (1009, frame(BINARY, bytes(2**20), fin=False) + frame(CONT, b"", length=2**20 + 1)),
        (1000, close_frame(1000, b"done")),
        (1001, close_frame(1001)),
        (3000, close_frame(3000)),
        (4999, close_frame(4999)),
        (1000, close_frame(1000) + frame(BINARY, b"after the close") + frame(15)),
        (4400, frame(TEXT, b"bye") + frame(TEXT, b"more") + frame(BINARY, b"and more")),
    ],
)
def test_a_frame_that_is_wrong_has_its_close_code(server, code, frames):
    with opened(server) as client:
        client.send(frames)

        assert code == client.close_code()
        client.send(close_frame(1000))
        assert b"" == client.rest()


@pytest.mark.parametrize(
    ("answers", "frames"),
    [
        ([(TEXT, b"2")], frame(BINARY, b"ab")),
        ([(TEXT, b"0")], frame(BINARY)),
        ([(TEXT, b"6")], frame(BINARY, b"ab", fin=False) + frame(CONT, b"cd", fin=False) + frame(CONT, b"ef")),
        ([(PONG, b"hi"), (TEXT, b"4")], frame(BINARY, b"ab", fin=False) + frame(PING, b"hi") + frame(CONT, b"cd")),
        ([(PONG, bytes(125))], frame(PING, bytes(125))),
        ([(TEXT, b"2")], frame(PONG, b"unasked") + frame(BINARY, b"ab")),
        ([(TEXT, "가나".encode())], frame(TEXT, "가나".encode())),
        ([(TEXT, "가나".encode())], frame(TEXT, "가나".encode()[:1], fin=False) + frame(CONT, "가나".encode()[1:])),
        ([(TEXT, b"2097152")], frame(BINARY, bytes(2 * 1024 * 1024))),
        ([(TEXT, b"2097152")], frame(BINARY, bytes(2**20), fin=False) + frame(CONT, bytes(2**20))),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_frame_that_is_right_is_taken_however_it_is_cut(server, answers, frames, at_once):
    with opened(server) as client:
        if at_once or len(frames) > 1000:
            client.send(frames)
        else:
            for position in range(len(frames)):
                client.send(frames[position : position + 1])

        assert answers == [client.frame() for _ in answers]


def test_an_empty_close_is_answered(server):
    with opened(server) as client:
        client.send(frame(CLOSE))

        assert (CLOSE, b"") == client.frame()
        assert b"" == client.rest()


# -- too much


def test_a_recording_of_65_s_in_messages_of_10_ms_may_come_at_once(server):
    with opened(server) as client:
        client.send(frame(BINARY, bytes(320)) * 6500 + frame(TEXT, b"that was all"))

        assert [b"320"] * 6500 == [client.frame()[1] for _ in range(6500)]
        assert (TEXT, b"that was all") == client.frame()


FLOODS = {
    "empty continuations": (frame(BINARY, b"", fin=False), frame(CONT, b"", fin=False)),
    "fragments of one byte": (frame(BINARY, b"a", fin=False), frame(CONT, b"a", fin=False)),
    "fragments of two bytes": (frame(TEXT, b"ab", fin=False), frame(CONT, b"ab", fin=False)),
    "pings": (b"", frame(PING)),
    "long pings": (b"", frame(PING, bytes(125))),
    "pongs": (b"", frame(PONG, b"?")),
    "empty messages": (b"", frame(BINARY)),
    "commands": (b"", frame(TEXT, b"flush")),
    "pings between fragments": (frame(BINARY, b"", fin=False), frame(PING) + frame(CONT, b"", fin=False)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut_off_and_nobody_else_notices(server, name):
    first, then = FLOODS[name]
    with bystander(server), opened(server) as client:
        client.send(first + then * 100_000)

        assert 1008 == client.close_code()


def test_a_flood_of_bytes_is_cut_off():
    with running(EdgeLimits(bytes_burst=2 * 10**6, bytes_per_s=1e6)) as server, opened(server) as client:
        client.send(frame(BINARY, bytes(10**6)) * 20)

        assert 1008 == client.close_code()


def test_what_comes_after_the_fault_is_read_for_a_moment():
    """A connection that is closed with data unread is reset, and its close code may be lost with it."""
    with running(EdgeLimits(linger_s=60)) as server, opened(server) as client:
        client.socket.sendall(frame(15))
        assert 1002 == client.close_code()
        assert b"" == client.socket.recv(1)
        client.socket.sendall(bytes(10_000))
        assert 200 == server.status("/healthz")
        assert any(isinstance(each, SocketProtocol) for each in list(server.uvicorn.server_state.connections))


def test_who_never_stops_after_the_fault_is_cut_off():
    with running(EdgeLimits(linger_s=60, linger_bytes=10**6)) as server, opened(server) as client:
        client.socket.sendall(frame(15))
        assert 1002 == client.close_code()
        with pytest.raises(ConnectionError):
            client.socket.sendall(bytes(10**8))


# -- too slow


def hangs_up(client: Raw) -> bool:
    client.rest()
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n",
        request()[:-2],
        b"\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab",
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        request("/healthz", upgrade=False),
        request("/healthz", upgrade=False) + b"GET /",
    ],
)
def test_who_does_not_finish_a_request_is_hung_up_on(quick_server, sent):
    with Raw(quick_server) as client:
        client.send(sent)

        assert hangs_up(client)


@pytest.mark.parametrize("sent", [request("/healthz", upgrade=False)[:-4], request("/healthz", upgrade=False)])
def test_a_trickle_of_headers_is_hung_up_on(quick_server, sent):
    """In the first request of a connection, and in the next."""
    done = threading.Event()
    with Raw(quick_server) as client, bystander(quick_server):

        def trickle() -> None:
            while not done.wait(0.1):
                client.send(b"X-A: b\r\n")

        client.send(sent)
        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert hangs_up(client)
        finally:
            done.set()
            thread.join()


def test_an_honest_client_waits_for_nobody_else(quick_server):
    slow = [Raw(quick_server) for _ in range(300)]
    try:
        for client in slow[::2]:
            client.send(b"GET / HTTP/1.1\r\nX-")
        with bystander(quick_server):
            assert all(hangs_up(client) for client in slow)
    finally:
        for client in slow:
            client.socket.close()


@pytest.mark.parametrize(
    "limits",
    [
        QUICK,
        EdgeLimits(ping_interval_s=0.2, ping_timeout_s=0.2, send_timeout_s=1),  # the close frame waits with the rest
    ],
)
def test_a_client_that_never_reads_is_cut_off_and_its_app_told(limits):
    told = threading.Event()

    async def app(scope, receive, send):
        try:
            await echo(scope, receive, send)
        finally:
            if scope["type"] == "websocket":
                told.set()

    with running(limits, app) as server, opened(server, receive_buffer=4096) as client:
        client.send(frame(TEXT, b"lines 100000"))

        wait_until(told.is_set, "the app to be told", ANSWER_S)


def test_a_client_that_reads_a_little_is_cut_off_too():
    with running(QUICK) as server, opened(server, receive_buffer=4096) as client:
        client.send(frame(TEXT, b"lines 100000"))

        def read_a_little() -> bool:
            """The server is gone when it answers nothing but a reset."""
            try:
                client.socket.send(frame(PONG))
                client.socket.recv(1)
            except ConnectionError:
                return True
            return False

        wait_until(read_a_little, "the server to hang up", ANSWER_S)


def test_the_app_can_cut_a_connection():
    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            await echo(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        scope["extensions"]["stt.abort"]["abort"]()
        await receive()

    with running(app=app) as server, opened(server) as client:
        assert b"" == client.rest()


def test_a_close_that_is_never_answered_ends_all_the_same(quick_server):
    with opened(quick_server) as client:
        client.send(frame(TEXT, b"bye"))

        assert 4400 == client.close_code()
        assert b"" == client.rest()


def test_a_peer_that_answers_no_ping_is_given_up():
    with running(EdgeLimits(ping_interval_s=0.1, ping_timeout_s=0.3)) as server, opened(server) as client:
        assert 1011 == client.close_code()


def test_audio_is_as_good_as_a_pong():
    """In a slow network the pong waits behind it."""
    with running(EdgeLimits(ping_interval_s=0.05, ping_timeout_s=60)) as server, opened(server) as client:
        [connection] = list(server.uvicorn.server_state.connections)
        wait_until(lambda: connection.pong_timer, "a ping", ANSWER_S)

        connection._heard_s -= 61  # nothing for a minute …
        client.send(frame(BINARY, b"ab"))  # … and then audio
        assert (TEXT, b"2") == client.frame()
        connection.loop.call_soon_threadsafe(connection.keepalive_timeout)  # what the pong's timer does
        client.send(frame(BINARY, b"abc"))
        assert (TEXT, b"3") == client.frame()

        connection._heard_s -= 61
        connection.loop.call_soon_threadsafe(connection.keepalive_timeout)
        assert 1011 == client.close_code()


# -- handshakes


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (405, request(method="POST")),
        (400, request(version="1.0")),
        (400, request(Sec_WebSocket_Version="8")),
        (400, request(Sec_WebSocket_Version="99")),
        (400, request(Sec_WebSocket_Version="")),
        (400, request(Sec_WebSocket_Key="")),
        (400, request(Sec_WebSocket_Key="c2hvcnQ=")),
        (400, request(Sec_WebSocket_Key="가".encode().decode("latin-1"))),
        (400, request(Host="")),
        (400, request("/ws/audio", "Content-Length: 5") + b"hello"),
        (400, request("/ws/audio", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"),
        (400, request("/ws/audio", "Content-Length: 5", "Transfer-Encoding: chunked", upgrade=False)),
        (400, request("/ws/audio", "Content-Length: -5", upgrade=False)),
        (400, request("/ws/audio", "Content-Length: 5", "Content-Length: 6", upgrade=False)),
        (400, request("/ws/audio?a=\0b")),
        (400, request("/ws/audio", "X-A: b\0c")),
        (400, request("/ws/audio", " folded: b")),
        (400, b"nonsense\r\n\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)),  # https on the http port
        (414, request("/ws/audio?" + "a" * 9000)),
        (431, request("/ws/audio", "X-A: " + "b" * 20_000)),
        (431, request("/ws/audio", "X-A: " + "b" * 9000)),
        (431, request("/ws/audio", *["X-A: b"] * 200)),
        (431, request("/ws/audio", *["X-A: b"] * 5000)),
        (431, request("/healthz", "X-A: " + "b" * 20_000, upgrade=False)),
        (431, b"GET / HTTP/1.1\r\nX-A: " + b"b" * 20_000),
        (431, b"GET /" + b"a" * 70_000),
        (403, request("/healthz")),
        (429, request("/refused")),
        (200, request("/healthz", upgrade=False)),
        (200, request("/healthz", "Upgrade: h2c", "Connection: Upgrade", upgrade=False)),
        (101, request()),
        (101, request(Connection="keep-alive, Upgrade", Upgrade="WebSocket")),
        (101, request("/ws/audio", "X-A: " + "b" * 7000)),
    ],
)
def test_a_handshake_is_answered_with_its_status(server, status, sent):
    with Raw(server) as client:
        client.send(sent)

        assert status == client.status()
        if status >= 400:
            assert "Traceback" not in client.rest().decode()


def test_a_body_in_tiny_chunks_is_refused(server):
    with bystander(server), Raw(server) as client:
        client.send(request("/healthz", "Transfer-Encoding: chunked", method="POST", upgrade=False))
        client.send(b"1\r\na\r\n" * 50_000)

        assert 400 == client.status()


def test_a_body_in_chunks_of_any_reasonable_size_is_taken(server):
    with Raw(server) as client:
        client.send(request("/healthz", "Transfer-Encoding: chunked", method="POST", upgrade=False))
        client.send((b"400\r\n" + bytes(1024) + b"\r\n") * 20_000 + b"0\r\n\r\n")

        assert 200 == client.status()


async def refuse_unread(scope, receive, send):
    if scope["type"] == "http":
        headers = [(b"content-length", b"8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"too long"})
    else:
        await echo(scope, receive, send)


UPLOAD = request("/upload", "Content-Length: 1000000000", method="POST", upgrade=False)


def test_what_comes_after_the_refusal_of_a_body_is_read_for_a_moment():
    """A connection that is closed with data unread is reset, and the answer may be lost with it."""
    with running(EdgeLimits(linger_s=60, keep_alive_s=60), refuse_unread) as server, Raw(server) as client:
        client.socket.sendall(UPLOAD + bytes(1000))
        assert (413, b"too long") == (client.status(), client.rest())
        client.socket.sendall(bytes(10_000_000))
        assert 413 == server.status("/healthz")
        assert any(isinstance(each, HttpProtocol) for each in list(server.uvicorn.server_state.connections))
        client.socket.close()
        wait_until(lambda: not server.uvicorn.server_state.connections, "the connection to be closed")


def test_who_never_stops_after_the_refusal_is_cut_off():
    limits = EdgeLimits(linger_s=60, linger_bytes=10**6, keep_alive_s=60)
    with running(limits, refuse_unread) as server, Raw(server) as client:
        client.socket.sendall(UPLOAD)
        assert (413, b"too long") == (client.status(), client.rest())
        with pytest.raises(ConnectionError):
            client.socket.sendall(bytes(10**8))


def test_who_only_waits_after_the_refusal_is_let_go():
    with running(QUICK, refuse_unread) as server, Raw(server) as client:
        client.socket.sendall(UPLOAD)
        assert (413, b"too long") == (client.status(), client.rest())
        wait_until(lambda: not server.uvicorn.server_state.connections, "the connection to be closed")


REFUSED = {
    "address": request("/" + "a" * 9000, upgrade=False),
    "handshake's address": request("/ws/audio?" + "a" * 9000),
    "length": request("/", "Content-Length: 5", "Transfer-Encoding: chunked", upgrade=False),
    "headers": request("/ws/audio", *["X-A: b"] * 200),
    "handshake's length": request("/ws/audio", "Content-Length: 5") + b"hello",
    "chunks": request("/", "Transfer-Encoding: chunked", method="POST", upgrade=False) + b"1\r\na\r\n" * 50_000,
    "nonsense": b"nonsense\r\n\r\n",
    "body": UPLOAD + bytes(1000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_who_was_refused_does_not_hold_up_the_servers_end(name, caplog):
    """Nor break it."""
    with running(EdgeLimits(linger_s=60, shutdown_timeout_s=60), refuse_unread) as server, Raw(server) as client:
        client.send(REFUSED[name])
        assert 400 <= client.status() < 500
        server.uvicorn.should_exit = True
        client.rest()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_refusal_in_place_of_a_100_continue_is_all_that_is_said(caplog):
    with running(EdgeLimits(linger_s=60)) as server, Raw(server) as client:
        head = request("/", "Expect: 100-continue", "Transfer-Encoding: chunked", method="POST", upgrade=False)
        client.send(head + b"zz\r\n")

        assert 400 == client.status()
        assert b"cannot be served" in client.rest()
        client.socket.close()
        wait_until(lambda: not server.uvicorn.server_state.connections, "the connection to be closed")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_offers_of_compression_and_subprotocols_are_not_taken_up(server):
    subprotocols = ", ".join(f"protocol{number}" for number in range(50))
    with Raw(server) as client:
        client.send(request(Sec_WebSocket_Extensions="permessage-deflate", Sec_WebSocket_Protocol=subprotocols))
        head = client.head().lower()
        client.send(frame(BINARY, b"ab"))

        assert "101" == head.split()[1]
        assert "sec-websocket-extensions" not in head
        assert "sec-websocket-protocol" not in head
        assert (TEXT, b"2") == client.frame()


def test_frames_sent_before_the_101_are_answered_after_it(server):
    for sent in (
        [request() + frame(PING, b"a") + frame(BINARY, b"ab")],
        [request(), frame(PING, b"a"), frame(BINARY, b"ab")],
    ):
        with Raw(server) as client:
            for data in sent:
                client.send(data)

            assert 101 == client.status()
            assert [(PONG, b"a"), (TEXT, b"2")] == [client.frame(), client.frame()]


def test_frames_sent_before_a_slow_accept_wait_for_it():
    may_accept = threading.Event()

    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await asyncio.to_thread(may_accept.wait, ANSWER_S)
        await echo(scope, receive, send)

    with running(app=app) as server, Raw(server) as client:
        client.send(request())
        client.send(frame(PING, b"a") + frame(BINARY, b"ab"))
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.head()
        client.socket.settimeout(ANSWER_S)
        may_accept.set()

        assert 101 == client.status()
        assert [(PONG, b"a"), (TEXT, b"2")] == [client.frame(), client.frame()]


def test_requests_may_come_before_the_handshake_on_the_same_connection(server):
    with Raw(server) as client:
        client.send(request("/healthz", upgrade=False) * 2 + request() + frame(BINARY, b"ab"))

        assert [200, b"ok"] == [client.status(), client.exactly(2)]
        assert [200, b"ok"] == [client.status(), client.exactly(2)]
        assert 101 == client.status()
        assert (TEXT, b"2") == client.frame()


# -- many


def test_one_connection_too_many_is_told_so():
    with running(EdgeLimits(max_connections=3)) as server:
        held = [Raw(server) for _ in range(3)]
        for client in held:
            client.send(request())
        assert [101] * 3 == [client.status() for client in held]
        with Raw(server) as client:
            assert 503 == client.status()
            assert b"Try again" in client.rest()
        held[0].send(frame(BINARY, b"ab"))
        assert (TEXT, b"2") == held[0].frame()
        for client in held:
            client.socket.close()
        wait_until(lambda: server.status("/healthz") == 200, "room for another")


@contextmanager
def program(*arguments: str) -> Iterator[tuple[Address, subprocess.Popen[str]]]:
    """The echo server as a process of its own, everything logged."""
    process = subprocess.Popen(
        [sys.executable, "tests/echo_server.py", *arguments],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = Address(int(process.stdout.readline()))
        wait_until(lambda: address.status("/healthz") == 200, "the program to serve")
        yield address, process
    finally:
        process.kill()
        process.communicate()


def log_of(process: subprocess.Popen[str]) -> str:
    """What it has logged when it has been told to stop."""
    process.terminate()
    _, log = process.communicate(timeout=STOP_S)
    assert 0 == process.returncode, log
    return log


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_without_file_descriptors_it_serves_on_logs_one_line_and_recovers():
    with program("end_at_once", "64") as (server, process):
        with opened(server) as player:
            crowd = [Raw(server) for _ in range(200)]
            for client in crowd[:80]:
                client.send(request("/healthz", upgrade=False))
            answered = sum(b"200 OK" in client.socket.recv(999) for client in crowd[:10])
            player.send(frame(BINARY, b"ab"))
            assert (TEXT, b"2") == player.frame()
            assert 10 == answered
            for client in crowd:
                client.socket.close()
            wait_until(lambda: server.status("/healthz") == 200, "the server to accept again", ANSWER_S)
        log = log_of(process)

    assert 1 == len(re.findall("No more connections can be accepted", log))
    assert "Traceback" not in log


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to another process")
def test_bad_clients_write_little_into_the_log_and_tokens_never():
    with program() as (server, process):
        for number in range(60):
            with opened(server) as client:
                client.send(frame(TEXT, b"\xff") * 40)
                assert 1007 == client.close_code()
            with Raw(server) as client:
                client.send([b"nonsense\r\n\r\n", request("/ws/audio?token=sesame", Upgrade="h2c")][number % 2])
                assert client.status() in {200, 400}
            with Raw(server) as client:
                client.send(request("/ws/audio?token=sesame", "Authorization: Bearer sesame"))
                assert 101 == client.status()
        log = log_of(process)

    assert "sesame" not in log
    assert "Traceback" not in log
    assert len(log.splitlines()) < 20
    assert 1 == len(re.findall("1007", log))


def test_a_line_that_was_left_out_is_counted():
    def record(message: str, at_s: float) -> logging.LogRecord:
        made = logging.LogRecord("edge", logging.INFO, "", 0, message, (), None)
        made.created = at_s
        return made

    sparing = SparingFilter()
    records = [record("a", 100), record("a", 101), record("b", 102), record("a", 103), record("a", 161)]

    assert [True, False, True, False, True] == [sparing.filter(each) for each in records]
    assert ["a", "b", "a (and 2 more since the last such line)"] == [records[index].getMessage() for index in (0, 2, 4)]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to another process")
@pytest.mark.parametrize(
    "sent",
    [
        [b""],
        [b"GET /ws/aud"],
        [request("/healthz", upgrade=False)],
        [request("/healthz")],
        [request("/refused")],
        [request()],
        [request(), frame(BINARY, bytes(1000))[:500]],
        [request(), frame(BINARY, bytes(1000), fin=False)],
        [request(), frame(TEXT, b"lines 100")],
        [request(), close_frame(1000)],
        [request(), frame(15)],
        [request(), frame(TEXT, b"hello") * 20_000],
    ],
)
def test_a_connection_that_breaks_at_any_moment_leaves_no_trace(sent):
    with program() as (server, process):
        with bystander(server):
            for _ in range(20):
                with Raw(server) as client:
                    for data in sent:
                        client.send(data)
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        log = log_of(process)

    assert "Traceback" not in log
    assert [] == re.findall("ERROR|WARNING", log)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_as_many_files_are_allowed_as_the_connections_need():
    script = """
import resource
from local_dev.edge import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))
for wanted in (50, 500, 5000):
    allow_open_files(wanted)
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )

    assert ["(100, 1000)", "(500, 1000)", "(1000, 1000)"] == result.stdout.splitlines()


# -- leaving


def test_open_work_is_finished_before_the_sockets_close():
    """And who comes meanwhile is let in, so that the app can tell him."""
    may_end = threading.Event()

    async def drain(limit_s: float) -> None:
        await asyncio.to_thread(may_end.wait, limit_s)

    with running(EdgeLimits(drain_timeout_s=60), drain=drain) as server, opened(server) as client:
        server.uvicorn.should_exit = True
        for _ in range(3):
            time.sleep(0.1)  # the server's own tick, in which it sees that it must stop
            client.send(frame(BINARY, b"ab"))
            assert (TEXT, b"2") == client.frame()
            with opened(server) as another:
                another.send(frame(BINARY, b"abc"))
                assert (TEXT, b"3") == another.frame()
        may_end.set()

        assert 1012 == client.close_code()


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to another process")
@pytest.mark.parametrize(
    ("number", "drain"),
    [
        (signal.SIGINT, "end_at_once"),
        (signal.SIGTERM, "end_at_once"),
        (signal.SIGTERM, "fail"),
        (signal.SIGTERM, "never_end"),
        (signal.SIGTERM, "leave_a_thread"),
    ],
)
def test_a_signal_closes_with_1012_and_ends_it_with_0_whatever_holds_it(number, drain):
    with program(drain, "", "3") as (server, process), opened(server) as client:
        process.send_signal(number)

        assert 1012 == client.close_code()
        assert 0 == process.wait(STOP_S)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to another process")
def test_a_signal_ends_it_with_0_even_when_its_loop_hangs():
    with program("block_the_loop") as (_, process):
        process.terminate()

        assert 0 == process.wait(STOP_S)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to another process")
@pytest.mark.parametrize("drain", ["never_end", "block_the_loop"])
def test_a_second_signal_ends_it_at_once(drain):
    with program(drain, "", "30") as (_, process):
        process.terminate()
        assert process.stdout is not None
        assert "draining\n" == process.stdout.readline()
        process.terminate()

        assert 128 + signal.SIGTERM == process.wait(STOP_S)

"""JSON mode over sockets: the door, the limits, the way out, and many clients side by side. The engine is a fake."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import websockets.asyncio.client
import websockets.sync.client
from conftest import in_chunks, s16le, silence, tone
from servers import fake_server, wait_until
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from test_app import client_of, connect

from stt_core import __version__, messages
from stt_core.audio import Samples
from stt_core.errors import ModelError
from stt_core.fakes import EnergyVad, FakeEngine
from stt_core.messages import Closed, Error, Final, GoingAway, Ready, ServerMessage, Status, parse_server_message
from stt_core.settings import Settings
from stt_core.transcription import Request
from stt_core.vad import Probabilities

JSON = "?events=json"
WORD = s16le(tone(0.64))  # 20 windows
WAIT_S = 60.0


class Player:
    """A client of JSON mode on a TestClient's socket."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket = socket

    def tell(self, kind: str, **fields: Any) -> "Player":
        self.socket.send_text(json.dumps({"type": kind, **fields}))
        return self

    def hear(self, *audio: bytes) -> "Player":
        for chunk in in_chunks(b"".join(audio), [3200]):
            self.socket.send_bytes(chunk)
        return self

    def next(self) -> ServerMessage:
        return parse_server_message(self.socket.receive_text())

    def until(self, kind: type[ServerMessage]) -> list[Any]:
        """All that comes up to the first message of this kind."""
        came = [self.next()]
        while not isinstance(came[-1], kind):
            came.append(self.next())
        return came

    def final(self) -> Final:
        return self.until(Final)[-1]

    def goodbye(self) -> tuple[list[ServerMessage], int]:
        """All that comes before the close, and its code."""
        came = []
        try:
            while True:
                came.append(self.next())
        except WebSocketDisconnect as close:
            assert close.reason.isascii()
            assert len(close.reason) <= 123
            return came, close.code


@contextmanager
def player(client: TestClient, query: str = JSON, **headers: str) -> Iterator[Player]:
    with connect(client, query, **headers) as socket:
        yield Player(socket)


def types(came: list[ServerMessage]) -> list[str]:
    return [message.type for message in came]


def loudness(request: Request) -> str:
    """The canary: how loud a client was tells whose text it is."""
    return f"canary {abs(request.samples).max():.2f}"


def voice(amplitude: float, duration_s: float = 0.64) -> bytes:
    return s16le(2 * amplitude * tone(duration_s))


class Gate:
    """An engine's text that does not come before it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, request: Request) -> str:
        assert self.open.wait(timeout=WAIT_S)
        return loudness(request)


# ---- the beginning


def test_with_events_json_in_the_url_ready_comes_at_once() -> None:
    with client_of(FakeEngine(), model="large-v3-turbo") as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the model")
        query = JSON + "&sample_rate=48000&channels=2&encoding=f32le&language=EN"
        with player(client, query) as first, player(client) as second:
            ready = first.next()
            assert isinstance(ready, Ready)
            assert (1, __version__, "fake", "en") == (ready.protocol, ready.version, ready.model, ready.language)
            assert (48_000, 2, "f32le") == (ready.sample_rate, ready.channels, ready.encoding)
            assert Settings().on_the_wire() == ready.limits
            assert ready.session_id != second.next().session_id


def test_without_it_ready_answers_the_first_json_message() -> None:
    with client_of(FakeEngine(loudness)) as client, player(client, "") as it:
        it.tell("start", id="a")
        assert "ready" == it.next().type
        it.hear(WORD).tell("flush")
        assert ("a", "canary 0.50") == (it.until(Final)[-1].id, "canary 0.50")


def test_a_plain_client_that_begins_to_speak_json_loses_nothing() -> None:
    with client_of(FakeEngine(loudness)) as client, player(client, "") as it:
        it.hear(voice(0.3)).tell("flush", id="a")
        came = it.until(Final)
        assert ["ready", "speech_started", "speech_ended", "final"] == [t for t in types(came) if t != "status"]
        assert ("a", "canary 0.30", 640) == (came[-1].id, came[-1].text, came[-1].timing.audio_ms)


def test_the_client_is_told_that_the_model_loads_and_is_answered_when_it_has() -> None:
    engine = FakeEngine(loudness)
    engine.may_load.clear()
    with client_of(engine) as client, player(client) as it:
        assert ["ready", "status"] == types([it.next(), status := it.next()])
        assert isinstance(status, Status) and (status.state, 0 < status.eta_ms < 10_000) == ("warming", True)
        it.tell("start", id="a").hear(WORD).tell("flush").tell("end")
        assert ["speech_started", "speech_ended"] == types([it.next(), it.next()])
        engine.may_load.set()
        assert ("canary 0.50", 1000) == (it.next().text, it.goodbye()[1])


def test_a_model_that_cannot_be_loaded_is_an_internal_error() -> None:
    engine = FakeEngine()
    engine.load_error = ModelError("There is no model here.")
    with client_of(engine, on_load_failed=lambda _: None) as client:
        wait_until(lambda: client.get("/readyz").json()["status"] == "failed", "the failure")
        with player(client) as it:
            [error], code = it.goodbye()
    assert ("internal", 1011, 1011, True) == (error.code, error.close, code, error.retryable)
    assert "There is no model here." not in error.message


def test_a_session_from_ready_to_closed() -> None:
    with client_of(FakeEngine(loudness)) as client, player(client) as it:
        it.tell("start", id="a").hear(WORD).tell("flush").tell("keepalive").tell("end")
        came, code = it.goodbye()
    assert ["ready", "speech_started", "speech_ended", "final", "closed"] == [t for t in types(came) if t != "status"]
    assert (640, 640, 1000) == (came[-1].audio_ms, came[-1].speech_ms, code)


def test_partials_come_while_somebody_speaks() -> None:
    with client_of(FakeEngine(loudness)) as client, player(client) as it:
        it.tell("start", id="a", partials=True).hear(s16le(tone(0.7)))
        assert "partial" == it.until(messages.Partial)[-1].type
        assert "canary 0.50" == it.tell("flush").final().text


# ---- tokens


@pytest.mark.parametrize(
    ("query", "headers"),
    [(JSON + "&token=sesame", {}), (JSON, {"Authorization": "Bearer sesame"})],
    ids=["url", "header"],
)
def test_the_token_opens_json_mode_from_header_or_url(query: str, headers: dict[str, str]) -> None:
    with client_of(FakeEngine(), token="simsim,sesame") as client, player(client, query, **headers) as it:
        assert "ready" == it.next().type


@pytest.mark.parametrize("query", [JSON, ""])
def test_the_token_may_come_with_the_first_message(query: str) -> None:
    with client_of(FakeEngine(loudness), token="sesame") as client, player(client, query) as it:
        it.tell("start", id="a", token="sesame").hear(WORD).tell("flush")
        came = it.until(Final)
    assert ["ready", "speech_started", "speech_ended", "final"] == [t for t in types(came) if t != "status"]


@pytest.mark.parametrize("query", [JSON, ""])
def test_without_a_token_in_time_the_socket_closes_with_4401(query: str) -> None:
    with client_of(FakeEngine(), token="sesame", token_timeout_s=0.05) as client, player(client, query) as it:
        came, code = it.goodbye()
    assert (4401, ["error"] if query else []) == (code, types(came))
    assert [] == [error.code for error in came if (error.code, error.close) != ("unauthorized", 4401)]


NO_TOKEN = [
    '{"type":"start"}',
    '{"type":"start","token":""}',
    '{"type":"start","token":"wrong"}',
    '{"type":"start","token":"sesame\\u0000"}',
    '{"type":"start","token":"세서미"}',
    '{"type":"start","token":"' + "s" * 100_000 + '"}',
    '{"type":"start","token":["sesame"]}',
    '{"type":"configure","token":"sesame"}',
    '{"type":"flush"}',
    "sesame",
    "[" * 100_000,
    b"\0\0" * 16_000,
]


@pytest.mark.parametrize("message", NO_TOKEN, ids=lambda message: ascii(message[:24]))
def test_a_first_message_without_the_token_closes_with_4401_and_nothing_is_heard(message: str | bytes) -> None:
    engine = FakeEngine()
    with client_of(engine, token="sesame") as client, player(client) as it:
        if isinstance(message, bytes):
            it.socket.send_bytes(message)
        else:
            it.socket.send_text(message)
        [error], code = it.goodbye()
    assert ("unauthorized", 4401, 4401, False) == (error.code, error.close, code, error.retryable)
    assert "sesame" not in error.message
    assert [] == engine.batches


def test_a_wrong_token_in_the_first_json_message_of_a_plain_url_is_told_in_json() -> None:
    with client_of(FakeEngine(), token="sesame") as client, player(client, "") as it:
        it.tell("start", token="wrong")
        came, code = it.goodbye()
    assert (["unauthorized"], 4401) == ([error.code for error in came], code)


# ---- how many


@pytest.mark.parametrize("query", [JSON, ""])
def test_one_client_too_many_is_told_when_to_come_back(query: str) -> None:
    with client_of(FakeEngine(), max_sessions=2) as client:
        with player(client), connect(client), player(client, query) as third:
            came, code = third.goodbye()
            assert 2 == client.get("/readyz").json()["sessions"]
        assert 4503 == code
        assert [("busy", 4503, True, 2000)] * bool(query) == [
            (e.code, e.close, e.retryable, e.retry_after_ms) for e in came
        ]
        wait_until(lambda: client.get("/readyz").json()["sessions"] == 0, "the clients to leave")
        with player(client) as it:
            assert "ready" == it.next().type


def test_a_token_has_a_limit_of_its_own_however_it_comes() -> None:
    with client_of(FakeEngine(), token="a,b", max_sessions_per_token=1) as client:
        with (
            player(client, JSON + "&token=a") as first,
            player(client) as second,
            player(client, JSON + "&token=b") as b,
        ):
            assert "ready" == first.next().type
            second.tell("start", token="a")
            [error], code = second.goodbye()
            assert ("busy", 4503) == (error.code, code)
            assert "ready" == b.next().type
        wait_until(lambda: client.get("/readyz").json()["sessions"] == 0, "the clients to leave")
        with player(client, JSON + "&token=a") as again:
            assert "ready" == again.next().type


def test_who_has_no_token_yet_takes_nobodys_place() -> None:
    with client_of(FakeEngine(), token="a", max_sessions=1) as client, player(client), player(client, JSON) as stranger:
        with player(client, JSON + "&token=a") as first, player(client, JSON + "&token=a") as second:
            assert "ready" == first.next().type
            [error], code = second.goodbye()
            assert ("busy", 4503) == (error.code, code)
        [error], code = stranger.goodbye()
        assert ("busy", 4503) == (error.code, code)


# ---- how long and how much


@pytest.mark.parametrize("query", [JSON, ""])
def test_a_client_that_sends_nothing_is_closed_with_4408(query: str) -> None:
    with client_of(FakeEngine(), idle_timeout_s=0.1) as client, player(client, query) as it:
        came, code = it.goodbye()
    assert (4408, ["idle"] * bool(query)) == (code, [e.code for e in came if isinstance(e, Error)])


def test_a_session_that_grows_too_old_is_warned_gets_its_last_text_and_is_closed_with_4410() -> None:
    with client_of(FakeEngine(loudness), session_timeout_s=5.0, going_away_s=4.9) as client, player(client) as it:
        it.tell("start", id="a").hear(WORD)
        came, code = it.goodbye()
    assert ["speech_ended", "final", "error"] == types(came)[-3:]
    assert ("a", "end", "canary 0.50") == (came[-2].id, came[-2].reason, came[-2].text)
    assert ("session_limit", 4410, 4410, True) == (came[-1].code, came[-1].close, code, came[-1].retryable)
    [warning] = [message for message in came if isinstance(message, GoingAway)]
    assert ("session_limit", True) == (warning.reason, 0 < warning.in_ms <= 4900)


def test_a_plain_session_that_grows_too_old_gets_its_last_line() -> None:
    with (
        client_of(FakeEngine(loudness), session_timeout_s=3.0) as client,
        connect(client, "?endpointing=off") as socket,
    ):
        socket.send_bytes(WORD)
        assert "canary 0.50" == socket.receive_text()
        assert 4410 == Player(socket).goodbye()[1]


@pytest.mark.parametrize("query", [JSON, ""])
def test_too_many_text_messages_close_with_4429(query: str) -> None:
    with client_of(FakeEngine(), control_rate=0.001, control_burst=3) as client, player(client, query) as it:
        for _ in range(4):
            it.tell("keepalive")
        came, code = it.goodbye()
    assert ("rate_limited", 4429, 4429, 2000) == (came[-1].code, came[-1].close, code, came[-1].retry_after_ms)
    assert ["error"] == [t for t in types(came) if t not in ("ready", "status")]


@pytest.mark.parametrize("query", [JSON, ""])
def test_audio_that_comes_too_fast_closes_with_4429(query: str) -> None:
    with client_of(FakeEngine(), audio_burst_s=1.0) as client, player(client, query) as it:
        it.socket.send_bytes(bytes(96_000))
        came, code = it.goodbye()
    assert (4429, ["rate_limited"] * bool(query)) == (code, [e.code for e in came if isinstance(e, Error)])


def test_this_machine_may_send_audio_as_fast_as_it_likes() -> None:
    with (
        fake_server(FakeEngine(loudness), Settings(audio_burst_s=1.0)) as server,
        websockets.sync.client.connect(server.url) as socket,
    ):
        socket.send(s16le(tone(3.0)))
        assert "canary 0.50" == socket.recv(timeout=WAIT_S)


@pytest.mark.parametrize("query", [JSON, ""])
@pytest.mark.parametrize("text", ["x" * 257, '{"type":"keepalive","x":"' + "음" * 100 + '"}'], ids=["letters", "bytes"])
def test_a_text_message_that_is_too_long_closes_with_4400(query: str, text: str) -> None:
    with client_of(FakeEngine(), max_control_bytes=256) as client, player(client, query) as it:
        it.socket.send_text(text)
        came, code = it.goodbye()
    assert (4400, ["bad_message"] * bool(query)) == (code, [e.code for e in came if isinstance(e, Error)])


def test_the_length_of_a_text_counts_before_it_is_searched_for_a_token() -> None:
    with client_of(FakeEngine(), max_control_bytes=256, token="sesame") as client, player(client) as it:
        it.tell("start", token="sesame", hotwords="x" * 250)
        assert 4400 == it.goodbye()[1]


def test_audio_that_nobody_can_keep_closes_with_4503() -> None:
    class SlowVad(EnergyVad):
        go_on = threading.Event()

        def _rate(self, windows: Samples) -> Probabilities:
            assert self.go_on.wait(timeout=WAIT_S)
            return super()._rate(windows)

    engine = FakeEngine()
    with client_of(engine, max_buffered_bytes=64 * 1024) as client, player(client) as it:
        server = client.app.state.server
        server._vad = vad = SlowVad()
        with player(client) as slow:
            assert "ready" == slow.next().type
            [*_, connection] = server._clients
            for _ in range(3):
                slow.socket.send_bytes(bytes(40_000))
            wait_until(lambda: connection._inbox_bytes > 64 * 1024, "the flood")
            vad.go_on.set()
            came, code = slow.goodbye()
        assert (4503, "busy") == (code, came[-1].code)
        assert "ready" == it.next().type


# ---- the way out


def drain(client: TestClient, grace_s: float) -> None:
    client.portal.call(client.app.state.server.drain, grace_s)


def test_a_restart_delivers_what_is_open_and_closes_everybody_with_1012() -> None:
    with client_of(FakeEngine(loudness)) as client, player(client) as it, connect(client) as plain:
        with connect(client, "?endpointing=off") as push_to_talk, player(client) as idle:
            it.tell("start", id="a").hear(voice(0.2))
            plain.send_bytes(voice(0.3))
            push_to_talk.send_bytes(voice(0.4))
            assert "speech_started" == it.until(messages.SpeechStarted)[-1].type
            server = client.app.state.server
            wait_until(lambda: "stt_received_audio_seconds_total 1.92" in client.get("/metrics").text, "the audio")
            drain(client, WAIT_S)

            came, code = it.goodbye()
            assert (["going_away", "speech_ended", "final", "error"], 1012) == (types(came), code)
            assert ("restarting", "a", "end", "canary 0.20", "restarting", 1012, True) == (
                came[0].reason,
                came[2].id,
                came[2].reason,
                came[2].text,
                came[3].code,
                came[3].close,
                came[3].retryable,
            )
            for socket, line in [(plain, "canary 0.30"), (push_to_talk, "canary 0.40")]:
                assert line == socket.receive_text()
                assert ([], 1012) == Player(socket).goodbye()
            came, code = idle.goodbye()
            assert (["going_away", "error"], 1012) == (types(came)[-2:], code)
        assert 0 == server.sessions


@pytest.mark.parametrize("query", [JSON, ""])
def test_a_server_that_stops_lets_nobody_in(query: str) -> None:
    with client_of(FakeEngine()) as client:
        drain(client, 1.0)
        assert (503, "stopping") == ((answer := client.get("/readyz")).status_code, answer.json()["status"])
        with player(client, query) as it:
            came, code = it.goodbye()
    assert (1012, ["restarting"] * bool(query)) == (code, [error.code for error in came])


def test_an_engine_that_is_too_slow_does_not_hold_up_a_restart() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    with client_of(engine) as client, player(client) as it:
        it.tell("start", id="a").hear(WORD).tell("flush")
        wait_until(lambda: engine.batches, "the utterance to be decoded")
        drain(client, 0.2)
        came, code = it.goodbye()
        gate.open.set()
    assert ("error", 1012) == (types(came)[-1], code)
    assert "final" not in types(came)


# ---- who may connect


REFUSED = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"origin": "http://evil.example", "host": "evil.example"},
]


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_a_page_that_may_not_connect_is_refused_before_the_accept(headers: dict[str, str]) -> None:
    with (
        client_of(FakeEngine()) as client,
        pytest.raises(WebSocketDenialResponse) as refused,
        connect(client, JSON, **headers),
    ):
        pass
    assert 403 == refused.value.status_code
    assert {"message"} == set(refused.value.json())


def test_on_the_wire_that_is_403_and_the_own_page_may_connect() -> None:
    with fake_server(FakeEngine()) as server:
        with (
            pytest.raises(websockets.exceptions.InvalidStatus) as refused,
            websockets.sync.client.connect(server.url, origin="https://evil.example"),
        ):
            pass
        assert 403 == refused.value.response.status_code
        with websockets.sync.client.connect(server.url + JSON, origin=server.http) as socket:
            assert "ready" == json.loads(socket.recv(timeout=WAIT_S))["type"]


# ---- the URL


@pytest.mark.parametrize(("query", "language"), [("&language=EN", "en"), ("&language=Auto", "auto"), ("", "ko")])
def test_a_language_may_be_written_large_in_the_url(query: str, language: str) -> None:
    with client_of(FakeEngine()) as client, player(client, JSON + query) as it:
        assert language == it.next().language


def test_what_the_url_says_besides_is_ignored() -> None:
    """A newer client's parameters, and those of whatever made the URL."""
    with client_of(FakeEngine()) as client, player(client, JSON + "&utm_source=x&partials=1&id=../../x") as it:
        assert "ready" == it.next().type


@pytest.mark.parametrize(
    ("query", "code", "close"),
    [
        ("&sample_rate=16k", "unsupported_format", 4415),
        ("&language=zz", "bad_message", 4400),
        ("&task=x", "bad_message", 4400),
    ],
)
def test_what_the_url_gets_wrong_is_told_in_json(query: str, code: str, close: int) -> None:
    with client_of(FakeEngine()) as client, player(client, JSON + query) as it:
        [error], closed_with = it.goodbye()
    assert (code, close, close) == (error.code, error.close, closed_with)
    assert query[1:].partition("=")[0] in error.message


def test_events_must_be_json_or_text() -> None:
    with client_of(FakeEngine()) as client, player(client, "?events=xml") as it:
        assert ([], 4400) == it.goodbye()


# ---- the engine


def test_an_overloaded_engine_costs_an_utterance_and_not_the_session() -> None:
    with client_of(FakeEngine(loudness)) as client, player(client) as it:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the model")
        client.app.state.server._batches._max_waiting = 0
        it.tell("start", id="a").hear(WORD).tell("flush")
        came = it.until(Final)
        assert ["error", "dropped", "final"] == types(came)[-3:]
        assert ("busy", "a", "") == (came[-3].code, came[-1].id, came[-1].text)
        client.app.state.server._batches._max_waiting = 1000
        assert "canary 0.50" == it.tell("start", id="b").hear(WORD).tell("flush").final().text
        exposition = client.get("/metrics").text
    assert 'stt_errors_total{code="busy"} 1.0' in exposition
    assert "stt_dropped_audio_seconds_total 0.64" in exposition


def test_an_engine_that_raises_costs_an_utterance_and_tells_no_detail(caplog: pytest.LogCaptureFixture) -> None:
    def text(_: Request) -> str:
        raise RuntimeError("CUDA out of memory")

    with client_of(FakeEngine(text)) as client, player(client) as it:
        came = it.tell("start", id="a").hear(WORD).tell("flush").until(Final)
        assert "closed" == it.tell("end").until(Closed)[-1].type
    assert ["error", "dropped", "final"] == types(came)[-3:]
    assert "CUDA" not in "".join(message.to_json() for message in came)
    assert "CUDA out of memory" in caplog.text


def test_a_late_result_of_what_was_cancelled_never_answers_the_next_request() -> None:
    gate = Gate()
    engine = FakeEngine(gate, max_batch_size=1)
    with client_of(engine) as client, player(client) as it:
        it.tell("start", id="a").hear(voice(0.2)).tell("flush")
        wait_until(lambda: engine.batches, "the first utterance to be decoded")
        it.tell("cancel", id="a").tell("start", id="a").hear(voice(0.3)).tell("flush")
        assert ("a", "") == ((final := it.final()).id, final.text)
        gate.open.set()
        assert ("a", "canary 0.30") == ((final := it.final()).id, final.text)
        assert ["closed"] == types(it.tell("end").goodbye()[0])


# ---- side by side


def test_plain_and_json_clients_do_not_mix() -> None:
    with client_of(FakeEngine(loudness, workers=2)) as client, ExitStack() as stack:
        players = [stack.enter_context(player(client)) for _ in range(4)]
        sockets = [stack.enter_context(connect(client)) for _ in range(4)]
        for i in range(4):
            players[i].tell("start", id=f"{i}").hear(voice(0.1 + 0.02 * i))
            sockets[i].send_bytes(voice(0.5 + 0.02 * i, 1.28))
            players[i].tell("flush")
        for i in range(4):
            assert (f"{i}", f"canary {0.1 + 0.02 * i:.2f}") == ((final := players[i].final()).id, final.text)
            assert f"canary {0.5 + 0.02 * i:.2f}" == sockets[i].receive_text()


async def converse(url: str, canary: int) -> list[str]:
    """A client says its canary three times, in JSON or in plain mode, and returns what it was answered."""
    async with websockets.asyncio.client.connect(url + (JSON if canary % 2 else "")) as socket:
        word = voice(canary / 100, 1.28)
        if not canary % 2:
            for _ in range(3):
                await socket.send(word)
            return [str(await asyncio.wait_for(socket.recv(), WAIT_S)) for _ in range(3)]
        for turn in range(3):
            await socket.send(json.dumps({"type": "start", "id": f"{canary}-{turn}"}))
            for chunk in in_chunks(word, [6400]):
                await socket.send(chunk)
            await socket.send('{"type":"flush"}')
        await socket.send('{"type":"end"}')
        came = [parse_server_message(str(text)) async for text in socket]
        finals = [message for message in came if isinstance(message, Final)]
        assert [f"{canary}-{turn}" for turn in range(3)] == [final.id for final in finals]
        return [final.text for final in finals]


def test_fifty_clients_at_once_hear_only_themselves() -> None:
    async def everybody(url: str) -> list[list[str]]:
        return await asyncio.gather(*(converse(url, canary) for canary in range(10, 60)))

    with fake_server(FakeEngine(loudness, workers=2, max_batch_size=4)) as server:
        assert [[f"canary {canary / 100:.2f}"] * 3 for canary in range(10, 60)] == asyncio.run(everybody(server.url))
        assert 0 == server.json("/readyz")["sessions"]


# ---- the contract, served


def test_the_schemas_are_served() -> None:
    with client_of(FakeEngine()) as client:
        assert messages.schema() == client.get("/messages.schema.json").json()
        assert messages.asyncapi(__version__) == client.get("/asyncapi.json").json()


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_the_device_may_change_between_utterances(rate: int) -> None:
    stereo = np.repeat(tone(0.64, sample_rate=rate), 2).astype("<f4").tobytes()
    with client_of(FakeEngine(loudness)) as client, player(client) as it:
        it.tell("start", id="a").hear(WORD).tell("flush")
        it.tell("start", id="b", sample_rate=rate, channels=2, encoding="f32le").hear(stereo).tell("flush")
        it.tell("start", id="c", sample_rate=16_000, channels=1, encoding="s16le").hear(WORD, s16le(silence(0.1))).tell(
            "flush"
        )
        finals = [it.final() for _ in range(3)]
    assert ["canary 0.50"] * 3 == [final.text[:11] for final in finals]
    assert [640] * 3 == [pytest.approx(final.timing.audio_ms, abs=97) for final in finals]

"""The Python client: typed messages, lines, clear errors, and connections that come back."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from conftest import in_chunks, s16le, silence, tone
from hypothesis import given
from hypothesis import strategies as st
from servers import Address, fake_server, free_port, wait_until
from websockets.asyncio.server import ServerConnection, serve

from stt_core import client_socket
from stt_core.client import Client, ClientError, PlainClient
from stt_core.client_socket import backoff_s
from stt_core.fakes import FakeEngine
from stt_core.messages import Closed, Error, Final, MessageError, Ready, SpeechEnded, SpeechStarted
from stt_core.settings import Settings

PCM = s16le(tone(1.28))
WAIT_S = 60.0

Handler = Callable[[ServerConnection, int], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with fake_server(FakeEngine()) as address:
        wait_until(lambda: address.status("/readyz") == 200, "the model to be loaded")
        yield address


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections come back without delay."""
    monkeypatch.setattr(client_socket, "FIRST_DELAY_S", 0.01)


def run(talk: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(WAIT_S):
            await talk()

    asyncio.run(within_time())


async def until(client: Client, kind: type) -> object:
    """The next message of this kind."""
    return await anext(message async for message in client if isinstance(message, kind))


class Network:
    """A way to the server that can be cut, and be closed."""

    def __init__(self, server: Address) -> None:
        self.is_open = True
        self._server = server
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/audio"

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._writers += [writer, server_writer]
        await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def network(server: Address) -> AsyncIterator[Network]:
    way = Network(server)
    async with await asyncio.start_server(way.carry, "127.0.0.1", 0) as listener:
        way.port = listener.sockets[0].getsockname()[1]
        yield way
        way.cut()


READY = Ready(session_id="1", version="1", model="fake", language="ko", limits={}).to_json()


@asynccontextmanager
async def scripted(handler: Handler) -> AsyncIterator[str]:
    """A server that does what `handler` says; it is told how many connections there were before. Yields its address."""
    connections = 0

    async def handle(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await handler(socket, connections - 1)

    async with serve(handle, "127.0.0.1", 0) as listener:
        yield f"ws://127.0.0.1:{next(iter(listener.sockets)).getsockname()[1]}/"


# -- JSON mode


def test_a_flush_returns_its_final(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            await client.start("question-1", language="en")
            assert await client.send(PCM)
            final = await client.flush("question-1")
        assert ("question-1", "en 1280 ms", "flush") == (final.id, final.text, final.reason)

    run(talk)


def test_a_flush_is_for_the_utterance_that_is_being_said(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            for name in ("a", "b"):
                await client.start(name)
                await client.send(PCM)
                assert name == (await client.flush()).id

    run(talk)


def test_flushes_of_several_tasks_get_their_own_finals(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            waiting = {}
            for name, duration_s in {"a": 0.64, "b": 0.96, "c": 1.28}.items():
                await client.start(name)
                await client.send(s16le(tone(duration_s)))
                waiting[name] = asyncio.create_task(client.flush(name))
                await asyncio.sleep(0)
            texts = {name: (await task).text for name, task in waiting.items()}
        assert {"a": "ko 640 ms", "b": "ko 960 ms", "c": "ko 1280 ms"} == texts

    run(talk)


def test_silence_is_an_empty_final(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            await client.start("1")
            await client.send(s16le(silence(1.0)))
            final = await client.flush()
        assert ("", True) == (final.text, final.no_speech)

    run(talk)


def test_an_open_microphone_hears_the_end_of_speech(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            await client.start(partials=False)
            for chunk in in_chunks(s16le(tone(1.28), silence(1.5)), [3200]):
                await client.send(chunk)
            kinds = [type(await anext(client)) for _ in range(4)]
        assert [Ready, SpeechStarted, SpeechEnded, Final] == kinds

    run(talk)


def test_an_open_microphone_can_be_flushed(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            await client.start()
            await client.send(PCM)
            final = await client.flush()
            named = await client.flush("again")
        assert (None, "ko 1280 ms") == (final.id, final.text)
        assert ("again", "") == (named.id, named.text)

    run(talk)


def test_what_was_cancelled_has_no_text(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            await client.start("1")
            await client.send(PCM)
            await client.cancel()
            await client.start("2")
            await client.send(s16le(tone(0.64)))
            assert "ko 640 ms" == (await client.flush()).text
            closed = await client.end()
        assert 1280 == closed.cancelled_ms

    run(talk)


def test_end_returns_the_totals_and_then_there_is_nothing_more(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            await client.start("1")
            await client.send(PCM)
            closed = await client.end()
            messages = [message async for message in client]
            with pytest.raises(ClientError):
                await client.send(PCM)
        assert (1, 1280) == (closed.utterances, closed.audio_ms)
        assert closed == messages[-1]
        assert ["end"] == [message.reason for message in messages if isinstance(message, Final)]

    run(talk)


def test_configure_and_keepalive_are_understood(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            await client.configure(language="fr", phrases=["bonjour"])
            await client.keepalive()
            await client.start("1")
            await client.send(PCM)
            assert "fr 1280 ms" == (await client.flush()).text
            await client.end()
            assert [] == [message async for message in client if isinstance(message, Error)]

    run(talk)


def test_ready_tells_the_format_and_the_limits(server: Address) -> None:
    async def talk() -> None:
        async with Client(server.url + "?sample_rate=48000") as client:
            assert 48_000 == client.ready.sample_rate
            assert 65.0 == client.ready.limits["max_push_to_talk_s"]
            await client.start("1", sample_rate=44_100)
            await client.send(s16le(tone(0.5, sample_rate=44_100)))
            await client.flush()
            assert 44_100 == client.ready.sample_rate

    run(talk)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("sample_rate", {"sample_rate": 5}), ("id", {"id": ""}), ("language", {"language": "Korean"})],
)
def test_a_value_that_is_none_of_the_protocols_is_named(server: Address, name: str, fields: dict[str, object]) -> None:
    async def talk() -> None:
        async with Client(server.url) as client:
            with pytest.raises(MessageError, match=rf"start\.{name}: "):
                await client.start(**fields)

    run(talk)


def test_a_message_of_a_newer_server_is_left_out() -> None:
    async def handle(socket: ServerConnection, _: int) -> None:
        for message in [READY, '{"type":"applause","loud":true}', Closed(**dict.fromkeys(TOTALS, 0)).to_json()]:
            await socket.send(message)

    async def talk() -> None:
        async with scripted(handle) as url, Client(url) as client:
            assert [Ready, Closed] == [type(message) async for message in client]

    run(talk)


TOTALS = ("utterances", "audio_ms", "speech_ms", "silence_ms", "cancelled_ms", "dropped_ms")


def test_what_nobody_fetches_is_forgotten() -> None:
    async def handle(socket: ServerConnection, _: int) -> None:
        for number in range(1001):
            await socket.send(str(number))

    async def talk() -> None:
        async with scripted(handle) as url, PlainClient(url) as client:
            with pytest.raises(ClientError):
                while True:  # until the server has closed
                    await client.flush()
                    await asyncio.sleep(0.01)
            lines = [line async for line in client]
        assert 1000 == len(lines)
        assert ("1", "1000") == (lines[0], lines[-1])

    run(talk)


# -- plain mode


def test_a_plain_client_gets_lines(server: Address) -> None:
    async def talk() -> None:
        async with PlainClient(server.url + "?endpointing=off&language=en") as client:
            await client.send(PCM)
            assert await client.flush()
            await client.send(s16le(tone(0.64)))
            assert await client.flush()
            assert ["en 1280 ms", "en 640 ms"] == [await anext(client), await anext(client)]

    run(talk)


# -- errors


def error_of(*arguments: object, kind: type = Client, **options: object) -> ClientError:
    """How connecting fails."""

    async def connect() -> ClientError:
        with pytest.raises(ClientError) as raised:
            async with kind(*arguments, **options) as client:
                await anext(client)
        return raised.value

    return asyncio.run(asyncio.wait_for(connect(), WAIT_S))


@pytest.mark.parametrize("kind", [Client, PlainClient])
def test_a_wrong_token_is_told_without_showing_it(kind: type) -> None:
    with fake_server(FakeEngine(), Settings.from_environment({}, token="sesame")) as guarded:
        error = error_of(guarded.url, "swordfish", kind=kind)
    assert ("unauthorized", 4401, False) == (error.code, error.close, error.retryable)
    assert "The server closed the connection: 4401 wrong token" in str(error)
    assert "swordfish" not in str(error)


def test_a_server_that_is_full_says_when_to_come_again() -> None:
    with fake_server(FakeEngine(), Settings.from_environment({}, max_sessions=1)) as small:

        async def talk() -> None:
            async with Client(small.url):
                with pytest.raises(ClientError) as raised:
                    await Client(small.url).__aenter__()
            error = raised.value
            assert ("busy", 4503, True, 2.0) == (error.code, error.close, error.retryable, error.retry_after_s)

        run(talk)


@pytest.mark.parametrize("url", ["127.0.0.1:8018", "http://127.0.0.1:8018", "ws://127.0.0.1:99999/", "ws://a..b/"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    assert f"{url} is not a WebSocket address" in str(error_of(url))


def test_a_server_that_is_not_there_is_told_without_the_token() -> None:
    error = error_of(f"ws://127.0.0.1:{free_port()}/ws/audio?token=sesame&x=1")
    assert "No server answers at ws://127.0.0.1:" in str(error)
    assert "token=…&x=1" in str(error)
    assert (None, True) == (error.close, error.retryable)


def test_a_token_that_no_header_can_carry_is_told_without_showing_it() -> None:
    error = error_of("ws://127.0.0.1/", "열려라")
    assert "letters, digits and signs" in str(error)
    assert "열려라" not in str(error)


def test_a_client_that_is_not_connected_says_how_to() -> None:
    async def talk() -> None:
        client = Client("ws://127.0.0.1/")
        for forgotten in (client.send(PCM), client.start("1"), client.flush(), anext(client)):
            with pytest.raises(ClientError, match="async with"):
                await forgotten

    run(talk)


def test_whoever_waits_learns_why_the_server_closed() -> None:
    async def handle(socket: ServerConnection, _: int) -> None:
        await socket.send(READY)
        while json.loads(await socket.recv())["type"] != "flush":
            pass
        await socket.close(1012, "the server restarts")

    async def talk() -> None:
        async with scripted(handle) as url, Client(url) as client:
            await client.start("1")
            for ask in (client.flush, lambda: client.send(PCM), client.end, lambda: until(client, Final)):
                with pytest.raises(ClientError, match="1012 the server restarts") as raised:
                    await ask()
                assert ("restarting", 1012) == (raised.value.code, raised.value.close)

    run(talk)


def test_importing_the_client_loads_no_websockets() -> None:
    script = "import sys, stt_core.client; print('websockets' in sys.modules)"
    assert "False\n" == subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout


def test_without_websockets_the_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    assert 'pip install -e ".[local]"' in str(error_of("ws://127.0.0.1/"))


# -- connections that break


@given(st.integers(min_value=0, max_value=10_000))
def test_delays_double_from_half_a_second_to_thirty(attempt: int) -> None:
    longest_s = min(30.0, 0.5 * 2 ** min(attempt, 10))
    assert longest_s / 2 <= backoff_s(attempt) <= longest_s


def test_push_to_talk_survives_a_cut_anywhere(server: Address, at_once: None) -> None:
    chunks = [*in_chunks(PCM, [3200])]

    async def say(way: Network, cut_after: int) -> Final:
        async with Client(way.url, reconnect=True) as client:
            await client.configure(language="en")
            await client.start("1")
            for number, chunk in enumerate(chunks):
                if number == cut_after:
                    way.cut()
                assert await client.send(chunk)
            answer = asyncio.create_task(client.flush())
            await asyncio.sleep(0)
            if cut_after == len(chunks):
                way.cut()
            return await answer

    async def talk() -> None:
        async with network(server) as way:
            for cut_after in (0, 1, len(chunks) // 2, len(chunks)):
                final = await say(way, cut_after)
                assert ("1", "en 1280 ms") == (final.id, final.text)

    run(talk)


def test_what_has_its_final_is_not_said_again(server: Address, at_once: None) -> None:
    async def talk() -> None:
        async with network(server) as way, Client(way.url, reconnect=True) as client:
            await client.start("1")
            await client.send(PCM)
            await client.flush()
            await client.start("2")
            await client.send(PCM)
            await client.cancel()
            await until(client, Final)
            way.cut()
            await until(client, Ready)
            await client.start("3")
            await client.send(s16le(tone(0.64)))
            assert "ko 640 ms" == (await client.flush()).text
            closed = await client.end()
        assert (1, 640) == (closed.utterances, closed.audio_ms)

    run(talk)


def test_an_open_microphone_goes_on_with_its_options(server: Address, at_once: None) -> None:
    async def talk() -> None:
        async with network(server) as way, Client(way.url, reconnect=True) as client:
            await until(client, Ready)
            await client.start(language="en", sample_rate=48_000)
            await until(client, Ready)
            way.cut()
            while (await until(client, Ready)).sample_rate != 48_000:  # the new server's own comes first
                pass
            await client.send(s16le(tone(0.96, sample_rate=48_000)))
            language, duration, _ = (await client.flush()).text.split()
        assert "en" == language
        assert 960 == pytest.approx(int(duration), abs=40)

    run(talk)


def test_what_an_open_microphone_hears_without_a_connection_is_dropped(server: Address, at_once: None) -> None:
    async def talk() -> None:
        async with network(server) as way, Client(way.url, reconnect=True) as client:
            await until(client, Ready)
            await client.start()
            way.is_open = False
            way.cut()
            while await client.send(PCM):
                await asyncio.sleep(0)
            for ask in (client.flush, client.end):
                with pytest.raises(ClientError, match="no connection at present"):
                    await ask()
            way.is_open = True
            await until(client, Ready)
            while not await client.send(PCM):
                await asyncio.sleep(0)
            assert "ko 1280 ms" == (await client.flush()).text

    run(talk)


def test_a_flush_that_cannot_be_answered_any_more_says_so(at_once: None) -> None:
    async def handle(socket: ServerConnection, number: int) -> None:
        await socket.send(READY)
        async for _ in socket:
            if number == 0:
                socket.transport.abort()

    async def talk() -> None:
        async with scripted(handle) as url, Client(url, reconnect=True) as client:
            with pytest.raises(ClientError, match="say it again"):
                await client.flush()

    run(talk)


def test_an_end_that_nobody_confirms_is_an_error(at_once: None) -> None:
    async def handle(socket: ServerConnection, _: int) -> None:
        await socket.send(READY)
        await socket.recv()
        socket.transport.abort()

    async def talk() -> None:
        async with scripted(handle) as url, Client(url, reconnect=True) as client:
            with pytest.raises(ClientError, match="it broke"):
                await client.end()

    run(talk)


@pytest.mark.parametrize("close", [4400, 4401, 4415, 1009])
def test_a_client_that_is_not_wanted_does_not_come_back(close: int, at_once: None) -> None:
    connections = []

    async def handle(socket: ServerConnection, number: int) -> None:
        connections.append(number)
        if number == 0:
            await socket.send(READY)
            await socket.close(1012)
        else:
            await socket.close(close)

    async def talk() -> None:
        async with scripted(handle) as url, Client(url, reconnect=True) as client:
            with pytest.raises(ClientError) as raised:
                async for _ in client:
                    pass
        assert close == raised.value.close

    run(talk)
    assert [0, 1] == connections


def test_a_client_comes_back_when_the_server_is_no_longer_busy(at_once: None) -> None:
    busy = Error(code="busy", message="full", close=4503, retryable=True, retry_after_ms=10)

    async def handle(socket: ServerConnection, number: int) -> None:
        if number in (1, 2):
            await socket.send(busy.to_json())
            await socket.close(4503)
        await socket.send(READY)
        await socket.close(1012 if number == 0 else 1000)

    async def talk() -> None:
        async with scripted(handle) as url, Client(url, reconnect=True) as client:
            kinds = [type(message) async for message in client]
        assert [Ready, Error, Error, Ready] == kinds

    run(talk)


def test_leaving_while_there_is_no_connection_is_quick(server: Address) -> None:
    async def talk() -> None:
        async with network(server) as way, Client(way.url, reconnect=True) as client:
            await client.start()
            way.is_open = False
            way.cut()
            while await client.send(PCM):
                await asyncio.sleep(0)

    run(talk)

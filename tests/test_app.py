"""The app with a fake engine: sockets, HTTP, start-up and everything that can go wrong between them."""

import logging
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest
import websockets.sync.client
from conftest import in_chunks, s16le, silence, tone
from servers import fake_server, wait_until
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from stt_core import __version__
from stt_core.app import create_app
from stt_core.errors import ModelError
from stt_core.fakes import EnergyVad, FakeEngine
from stt_core.session import IDLE_S
from stt_core.settings import Settings
from stt_core.transcription import Request
from stt_core.vad import VadStream

ANSWER_S = 60.0
FAILURE = "인식 실패"


def seconds(windows: int) -> float:
    """So many windows of the VAD: audio of this length is handed to the engine as it is."""
    return windows * 0.032


WORD = s16le(tone(seconds(40)))  # 1280 ms, so a message that is an utterance of its own
SHORT_WORD = s16le(tone(seconds(10)))  # 320 ms


@contextmanager
def client_of(
    engine: FakeEngine, *, on_load_failed: Callable[[ModelError], None] | None = None, **settings: object
) -> Iterator[TestClient]:
    app = create_app(
        Settings.from_environment({}, **{"doctor": False, **settings}),
        engine,
        vad=EnergyVad(),
        on_load_failed=on_load_failed,
    )
    with TestClient(app) as client:
        try:
            yield client
        finally:
            engine.may_load.set()


async def _receive_in_time(socket: WebSocketTestSession) -> dict[str, object]:
    with anyio.fail_after(ANSWER_S):
        return await socket._send_rx.receive()


@contextmanager
def connect(client: TestClient, query: str = "", **headers: str) -> Iterator[WebSocketTestSession]:
    """A socket on which no wait is endless."""
    with client.websocket_connect("/ws/audio" + query, headers=headers) as socket:
        socket.receive = lambda: socket.portal.call(_receive_in_time, socket)
        yield socket


def closing(socket: WebSocketTestSession) -> tuple[int, str]:
    """Code and reason of the close, which must be the next thing that comes."""
    with pytest.raises(WebSocketDisconnect) as caught:
        socket.receive_text()
    return caught.value.code, caught.value.reason


def ready(client: TestClient) -> bool:
    return client.get("/readyz").status_code == 200


# -- HTTP and start-up


def test_numpy_leaves_the_cores_to_the_engines_workers() -> None:
    script = """
import time
from starlette.testclient import TestClient
from threadpoolctl import threadpool_info
from stt_core.app import create_app
from stt_core.fakes import EnergyVad, FakeEngine
from stt_core.settings import Settings

with TestClient(create_app(Settings.from_environment({}), FakeEngine(), vad=EnergyVad())) as client:
    while client.get("/readyz").status_code != 200:
        time.sleep(0.01)
    print([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
"""
    # Of this process nothing could be said: whoever limits the threads first does so for all that follows.
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert run.stdout.strip() in ("[1]", "[]"), run.stderr  # none where numpy brings another library, as on macOS


def test_the_server_is_alive_while_the_model_loads() -> None:
    engine = FakeEngine()
    engine.may_load.clear()
    with client_of(engine) as client:
        assert {"status": "ok"} == client.get("/healthz").json()


def test_readyz_says_loading_and_then_ready_with_version_and_model() -> None:
    engine = FakeEngine()
    engine.may_load.clear()
    state = {"version": __version__, "model": "fake", "language": "ko", "sessions": 0}
    with client_of(engine) as client:
        answer = client.get("/readyz")
        assert (503, {"status": "loading", **state}) == (answer.status_code, answer.json())
        engine.may_load.set()
        wait_until(lambda: ready(client), "the model to be loaded")
        assert {"status": "ready", **state} == client.get("/readyz").json()


def test_audio_that_comes_before_the_model_is_ready_is_answered_after() -> None:
    engine = FakeEngine()
    engine.may_load.clear()
    with client_of(engine) as client, connect(client) as socket:
        socket.send_bytes(WORD)
        socket.send_bytes(WORD)
        assert 503 == client.get("/readyz").status_code
        assert [] == engine.batches
        engine.may_load.set()
        assert ["ko 1280 ms", "ko 1280 ms"] == [socket.receive_text(), socket.receive_text()]


def test_a_model_that_cannot_be_loaded_is_told_in_a_sentence() -> None:
    engine = FakeEngine()
    engine.load_error = ModelError("There is no model here.")
    told: list[ModelError] = []
    with client_of(engine, on_load_failed=told.append) as client:
        wait_until(lambda: told, "the failure")
        answer = client.get("/readyz")
        assert (503, "failed", "There is no model here.") == (
            answer.status_code,
            answer.json()["status"],
            answer.json()["message"],
        )
        assert 200 == client.get("/healthz").status_code
        with connect(client) as socket:
            socket.send_bytes(WORD)
            assert (1011, "the model is not available; see the server's log") == closing(socket)
    assert [engine.load_error] == told


def test_who_sent_audio_before_the_model_failed_is_told_too() -> None:
    engine = FakeEngine()
    engine.load_error = ModelError("There is no model here.")
    engine.may_load.clear()
    with client_of(engine) as client, connect(client) as socket:
        socket.send_bytes(WORD)
        engine.may_load.set()
        assert 1011 == closing(socket)[0]


def test_an_engine_with_a_bug_in_its_loading_does_not_load_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.load_error = RuntimeError("a bug")
    with client_of(engine) as client:
        wait_until(lambda: client.get("/readyz").json()["status"] == "failed", "the failure")
        assert "a bug" in client.get("/readyz").json()["message"]
    assert "RuntimeError: a bug" in caplog.text  # with its traceback


def test_the_page_has_a_microphone_button_and_links() -> None:
    with client_of(FakeEngine()) as client:
        page = client.get("/")
        assert "text/html; charset=utf-8" == page.headers["content-type"]
        assert '<button id="microphone"' in page.text
        for link in ["/docs", "/readyz", "/healthz"]:
            assert f'href="{link}"' in page.text
            assert client.get(link).status_code in (200, 503)


# -- the token


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?token=sesame", {}),
        ("", {"Authorization": "Bearer sesame"}),
        ("", {"authorization": "bearer  sesame "}),
        ("?token=wrong", {"Authorization": "Bearer sesame"}),
    ],
)
def test_the_token_opens_the_socket_from_header_or_query(query: str, headers: dict[str, str]) -> None:
    with client_of(FakeEngine(), token="sesame") as client, connect(client, query, **headers) as socket:
        socket.send_bytes(WORD)
        assert "ko 1280 ms" == socket.receive_text()


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("?token=", {}),
        ("?token=Sesame", {}),
        ("?token=sesam", {}),
        ("?token=%EC%97%B4%EB%A0%A4%EB%9D%BC", {}),
        ("?token=%FF%FE", {}),
        ("", {"Authorization": "Bearer wrong"}),
        ("", {"Authorization": "Basic sesame"}),
        ("", {"Authorization": "sesame"}),
        ("", {"Authorization": "Bearer"}),
        ("", {"Authorization": b"Bearer \xec\x97\xb4"}),
    ],
)
def test_without_the_token_the_socket_is_accepted_and_closed_with_4401(
    query: str, headers: dict[str, str | bytes]
) -> None:
    with client_of(FakeEngine(), token="sesame") as client, connect(client, query, **headers) as socket:
        code, reason = closing(socket)
    assert 4401 == code
    assert "token" in reason
    assert "sesame" not in reason


def test_healthz_and_readyz_need_no_token() -> None:
    with client_of(FakeEngine(), token="sesame") as client:
        assert 200 == client.get("/healthz").status_code
        wait_until(lambda: ready(client), "the model to be loaded")


# -- what a client may not say


@pytest.mark.parametrize(
    ("query", "code", "named"),
    [
        ("?endpointing=vad", 4400, "endpointing"),
        ("?endpointing=", 4400, "endpointing"),
        ("?language=Korean", 4400, "language"),
        ("?language=한국어", 4400, "language"),
        ("?language=" + "k" * 3000, 4400, "language"),
        ("?sample_rate=7999", 4415, "sample_rate"),
        ("?sample_rate=192001", 4415, "sample_rate"),
        ("?sample_rate=16k", 4415, "sample_rate"),
        ("?sample_rate=-16000", 4415, "sample_rate"),
        ("?sample_rate=" + "9" * 5000, 4415, "sample_rate"),
        ("?sample_rate=%D9%A1%D9%A6%D9%A0%D9%A0%D9%A0", 4415, "sample_rate"),
        ("?channels=0", 4415, "channels"),
        ("?channels=9", 4415, "channels"),
        ("?encoding=mp3", 4415, "encoding"),
        ("?encoding=" + "삐" * 200, 4415, "encoding"),
    ],
)
def test_what_cannot_be_served_closes_with_a_short_ascii_reason(query: str, code: int, named: str) -> None:
    with client_of(FakeEngine()) as client, connect(client, query) as socket:
        got, reason = closing(socket)
    assert code == got
    assert named in reason
    assert reason.isascii()
    assert len(reason) <= 123


@pytest.mark.parametrize("text", ["hello", "", "Flush", '{"type":', "음" * 5000])
def test_text_nonsense_closes_its_socket_and_no_other(text: str) -> None:
    with client_of(FakeEngine()) as client, connect(client) as other:
        with connect(client) as socket:
            socket.send_bytes(SHORT_WORD)
            socket.send_text(text)
            code, reason = closing(socket)
        assert 4400 == code
        assert reason.isascii()
        assert len(reason) <= 123
        other.send_bytes(WORD)
        assert "ko 1280 ms" == other.receive_text()


def test_a_message_longer_than_an_utterance_may_be_closes_with_1009() -> None:
    with client_of(FakeEngine()) as client, connect(client, "?sample_rate=8000") as socket:
        socket.send_bytes(bytes(67 * 8000 * 2))
        assert 1009 == closing(socket)[0]


# -- lines


def test_a_short_message_alone_is_answered_after_a_pause() -> None:
    with client_of(FakeEngine()) as client, connect(client) as socket:
        socket.send_bytes(SHORT_WORD)
        assert "ko 320 ms" == socket.receive_text()


def test_an_open_microphone_gets_a_line_for_each_utterance() -> None:
    audio = s16le(tone(seconds(20)), silence(1), tone(seconds(30)), silence(1))
    with client_of(FakeEngine()) as client, connect(client, "?endpointing=on") as socket:
        for chunk in in_chunks(audio, [640]):
            socket.send_bytes(chunk)
        first, second = socket.receive_text(), socket.receive_text()
    assert first.startswith("ko ")
    assert second.startswith("ko ")


def test_push_to_talk_gets_one_line_for_every_flush() -> None:
    with client_of(FakeEngine()) as client, connect(client, "?endpointing=off") as socket:
        socket.send_text("flush")
        assert FAILURE == socket.receive_text()
        for chunk in in_chunks(WORD, [640]):
            socket.send_bytes(chunk)
        socket.send_text("flush")
        assert "ko 1280 ms" == socket.receive_text()


def test_the_declared_format_is_understood() -> None:
    stereo = np.repeat(tone(seconds(50), sample_rate=48_000), 2).astype("<f4").tobytes()
    query = "?sample_rate=48000&channels=2&encoding=f32le&language=en"
    with client_of(FakeEngine()) as client, connect(client, query) as socket:
        socket.send_bytes(stereo)
        language, duration, _ = socket.receive_text().split()
    assert "en" == language
    assert 1600 == pytest.approx(int(duration), abs=40)


def test_the_failure_text_is_a_setting() -> None:
    with client_of(FakeEngine(lambda _: ""), failure_text="???") as client, connect(client) as socket:
        socket.send_bytes(WORD)
        assert "???" == socket.receive_text()


def test_an_engine_that_raises_costs_one_line_and_not_the_session(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter(["one", None, "three"])

    def text(_: Request) -> str:
        answer = next(answers)
        if answer is None:
            raise RuntimeError("CUDA out of memory")
        return answer

    with client_of(FakeEngine(text, max_batch_size=1)) as client, connect(client) as socket:
        for _ in range(3):
            socket.send_bytes(WORD)
        assert ["one", FAILURE, "three"] == [socket.receive_text() for _ in range(3)]
    assert "CUDA out of memory" in caplog.text


def test_a_vad_that_raises_closes_the_socket_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenVad:
        def stream(self) -> VadStream:
            raise RuntimeError("no VAD today")

    with TestClient(create_app(Settings(), FakeEngine(), vad=BrokenVad())) as client, connect(client) as socket:
        assert (1011, "internal error; see the server's log") == closing(socket)
    assert "no VAD today" in caplog.text


def test_a_bug_in_the_middle_of_a_session_closes_it_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    class BreakingVad(EnergyVad):
        def _rate(self, windows: np.ndarray) -> np.ndarray:
            raise RuntimeError("no VAD any more")

    with TestClient(create_app(Settings(), FakeEngine(), vad=BreakingVad())) as client, connect(client) as socket:
        socket.send_bytes(WORD)
        assert 1011 == closing(socket)[0]
    assert "no VAD any more" in caplog.text


def test_lines_keep_the_order_of_the_audio_although_the_first_takes_longest() -> None:
    second_is_done = threading.Event()

    def text(request: Request) -> str:
        if len(request.samples) > 16_000 * 2:
            assert second_is_done.wait(timeout=ANSWER_S)
            return "slow"
        second_is_done.set()
        return "fast"

    engine = FakeEngine(text, workers=2, max_batch_size=1)
    with client_of(engine) as client, connect(client) as socket:
        socket.send_bytes(s16le(tone(3)))
        socket.send_bytes(WORD)
        assert ["slow", "fast"] == [socket.receive_text(), socket.receive_text()]


def test_the_texts_of_ten_sockets_do_not_mix() -> None:
    lengths = range(32, 42)  # windows
    engine = FakeEngine(workers=2, max_batch_size=4)
    with client_of(engine) as client, ExitStack() as stack:
        sockets = {windows: stack.enter_context(connect(client)) for windows in lengths}
        for more in (0, 10, 20):
            for windows, socket in sockets.items():
                socket.send_bytes(s16le(tone(seconds(windows + more))))
        for windows, socket in sockets.items():
            expected = [f"ko {32 * (windows + more)} ms" for more in (0, 10, 20)]
            assert expected == [socket.receive_text() for _ in range(3)]


def test_the_work_of_a_client_that_has_gone_is_dropped() -> None:
    may_answer = threading.Event()

    def text(_: Request) -> str:
        assert may_answer.wait(timeout=ANSWER_S)
        return "text"

    engine = FakeEngine(text, max_batch_size=1)
    with fake_server(engine) as server:
        with websockets.sync.client.connect(server.url) as socket:
            for _ in range(3):
                socket.send(WORD)
            wait_until(lambda: engine.batches, "the first utterance to be decoded")
        wait_until(lambda: 0 == server.json("/readyz")["sessions"], "the server to see the client go")
        may_answer.set()
        with websockets.sync.client.connect(server.url) as socket:
            socket.send(WORD)
            assert "text" == socket.recv(timeout=ANSWER_S)
    assert 2 == len(engine.batches)


def test_a_server_that_stood_still_does_not_take_that_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    rate, stands_still, all_sent = EnergyVad._rate, threading.Event(), threading.Event()

    def stall_once(self, windows):
        if len(windows) and not stands_still.is_set():
            stands_still.set()
            assert all_sent.wait(ANSWER_S)  # on the event loop
            time.sleep(IDLE_S + 0.4)
        return rate(self, windows)

    monkeypatch.setattr(EnergyVad, "_rate", stall_once)
    first, *rest = in_chunks(WORD + s16le(silence(1.2)), [2048])
    with (
        fake_server(FakeEngine()) as server,
        websockets.sync.client.connect(server.url + "?endpointing=on", compression=None) as socket,
    ):
        socket.send(first)
        assert stands_still.wait(ANSWER_S)
        for chunk in rest:
            socket.send(chunk)
        all_sent.set()
        assert "ko 1376 ms" == socket.recv(timeout=ANSWER_S)  # and not only what came before


# -- debug recordings


def test_debug_audio_keeps_what_the_engine_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    with client_of(FakeEngine(), debug_audio=folder) as client, connect(client) as socket:
        for _ in range(2):
            socket.send_bytes(WORD)
            socket.receive_text()
    assert ["debug_0001.wav", "debug_0002.wav"] == sorted(path.name for path in folder.glob("debug_????.wav"))
    with wave.open(str(folder / "debug_0001.heard.wav")) as recording:
        assert WORD == recording.readframes(recording.getnframes())


def test_a_debug_folder_that_cannot_be_written_costs_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with (
        caplog.at_level(logging.WARNING),
        client_of(FakeEngine(), debug_audio=tmp_path / "file" / "x") as client,
        connect(client) as socket,
    ):
        socket.send_bytes(WORD)
        assert "ko 1280 ms" == socket.receive_text()
    assert "Debug recordings cannot be written" in caplog.text


def test_the_hotwords_of_ten_sockets_do_not_mix() -> None:
    engine = FakeEngine(lambda request: request.hotwords or "none", delay_s=0.05)
    with client_of(engine) as client, ExitStack() as stack:
        sockets = [stack.enter_context(connect(client)) for _ in range(10)]
        for number, socket in enumerate(sockets):
            if number:  # the first has none
                socket.send_json({"type": "configure", "hotwords": f"name {number}"})
            socket.send_json({"type": "start", "id": "a"})
        for socket in sockets:
            socket.send_bytes(WORD)
            socket.send_json({"type": "flush"})

        def text(socket: WebSocketTestSession) -> str:
            while (message := socket.receive_json())["type"] != "final":
                pass
            return str(message["text"])

        assert ["none", *(f"name {number}" for number in range(1, 10))] == [text(socket) for socket in sockets]

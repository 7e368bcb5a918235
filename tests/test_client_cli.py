"""`python -m local_dev client`: texts on stdout, everything else on stderr, never a traceback."""

import asyncio
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import websockets.sync.client
from conftest import in_chunks, s16le, silence, tone
from hypothesis import given
from hypothesis import strategies as st
from servers import (
    REPOSITORY,
    STOP_S,
    TEST_AUDIO,
    Address,
    environment,
    fake_server,
    free_port,
    letters,
    running_server,
    wait_until,
)

from local_dev.cli import main
from local_dev.client import FRAMES_BEFORE, is_local, pieces, send_again
from stt_core.audio import SAMPLE_RATE, read_audio, to_s16le
from stt_core.fakes import FakeEngine
from stt_core.messages import Closed, Final, Ready, parse_server_message
from stt_core.recordings import read_recording
from stt_core.settings import Settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"STT_{name.upper()}", raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with fake_server(FakeEngine()) as address:
        yield address


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.wav"
    soundfile.write(path, tone(1.28), 16_000)
    return path


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command in this process, which must fail with one line on stderr and print nothing; return the line."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 1
        printed = capsys.readouterr()
        assert "" == printed.out
        assert re.fullmatch(r"error: .+\n", printed.err), printed.err
        return printed.err.strip()

    return run


def run_client(*words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the client in a process of its own, until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "local_dev", "client", *map(str, words)],
        cwd=REPOSITORY,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


# -- recordings


def test_the_client_prints_the_text_and_nothing_else(
    server: Address, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["client", str(recording), "--url", server.url])
    assert ("ko 1280 ms\n", "") == capsys.readouterr()


@pytest.mark.parametrize("duration_s", [0.3, 0.6, 1.0])
def test_a_short_recording_is_one_line_too(
    server: Address, tmp_path: Path, duration_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "short.wav", tone(duration_s), 16_000)
    assert 0 == main(["client", str(tmp_path / "short.wav"), "--url", server.url])
    assert 1 == len(capsys.readouterr().out.splitlines())


def test_a_recording_longer_than_a_message_goes_in_pieces(
    server: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "long.wav", np.concatenate([tone(1.28), silence(60), tone(0.64)]), 16_000)
    assert 0 == main(["client", str(tmp_path / "long.wav"), "--url", server.url])
    assert re.fullmatch(r"(ko \d+ ms\n){2}", capsys.readouterr().out)


def test_a_44100_hz_stereo_flac_is_resampled(
    server: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tone(1.6, sample_rate=44_100)
    soundfile.write(tmp_path / "music.flac", np.stack([left, left], axis=1), 44_100)
    assert 0 == main(["client", str(tmp_path / "music.flac"), "--url", server.url, "--language", "en"])
    language, duration, _ = capsys.readouterr().out.split()
    assert "en" == language
    assert 1600 == pytest.approx(int(duration), abs=40)


def test_realtime_sends_as_a_microphone_would(
    server: Address, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["client", str(recording), "--url", server.url, "--realtime"])
    assert "ko 1280 ms\n" == capsys.readouterr().out


@pytest.mark.parametrize("realtime", [[], ["--realtime"]])
def test_json_prints_the_messages(
    server: Address, recording: Path, realtime: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["client", str(recording), "--url", server.url, "--json", *realtime])
    messages = [parse_server_message(line) for line in capsys.readouterr().out.splitlines()]
    assert (Ready, Closed) == (type(messages[0]), type(messages[-1]))
    assert ["ko 1280 ms"] == [message.text for message in messages if isinstance(message, Final)]


def test_a_folder_is_a_line_for_each_recording(
    server: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "b.wav", tone(0.64), 16_000)
    soundfile.write(tmp_path / "a.flac", np.concatenate([tone(1.28), silence(60), tone(0.64)]), 16_000)
    (tmp_path / "notes.txt").write_text("no audio")
    assert 0 == main(["client", str(tmp_path), "--url", server.url])
    out, err = capsys.readouterr()
    assert re.fullmatch(r"a\.flac\tko \d+ ms ko \d+ ms\nb\.wav\tko 640 ms\n", out)
    assert "" == err


def test_a_folder_goes_on_after_what_cannot_be_transcribed(
    server: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio at all")
    soundfile.write(tmp_path / "b.wav", silence(1.0), 16_000)
    soundfile.write(tmp_path / "c.wav", tone(0.64), 16_000)
    assert 1 == main(["client", str(tmp_path), "--url", server.url])
    out, err = capsys.readouterr()
    assert "b.wav\t\nc.wav\tko 640 ms\n" == out
    unreadable, silent = err.splitlines()
    assert unreadable.startswith(f"error: {tmp_path / 'a.wav'} is not audio that can be read")
    assert f"error: Nothing intelligible is said in {tmp_path / 'b.wav'}." == silent


def test_a_folder_without_recordings_is_one_line(
    complaint: Callable[..., str], server: Address, tmp_path: Path
) -> None:
    assert f"no WAV, FLAC, OGG or MP3 file in {tmp_path}" in complaint("client", tmp_path, "--url", server.url)


def test_a_recording_of_silence_is_one_line(complaint: Callable[..., str], server: Address, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", silence(1.0), 16_000)
    assert "Nothing intelligible is said" in complaint("client", tmp_path / "silence.wav", "--url", server.url)


@given(st.lists(st.integers(min_value=0, max_value=30_000), min_size=1, max_size=8))
def test_pieces_are_all_of_a_recording_and_none_is_too_long(lengths: list[int]) -> None:
    parts = [(tone if number % 2 else silence)(length / SAMPLE_RATE) for number, length in enumerate(lengths)]
    samples = np.concatenate(parts)
    cut = list(pieces(samples, 1.0))
    assert np.array_equal(samples, np.concatenate(cut))
    assert all(len(piece) <= SAMPLE_RATE for piece in cut)


def test_a_long_recording_is_cut_where_it_is_quiet() -> None:
    first, _ = pieces(np.concatenate([tone(1.6), silence(0.3), tone(1.0)]), 2.0)
    assert 1.6 * SAMPLE_RATE < len(first) < 1.9 * SAMPLE_RATE


def test_only_this_machine_is_local() -> None:
    assert is_local("ws://127.0.0.1:8018/ws/audio")
    assert is_local("ws://localhost:8018/ws/audio")
    assert is_local("ws://[::1]:8018/ws/audio")
    assert not is_local("wss://game.example/ws/audio")
    assert not is_local("ws://[/")


def test_the_output_is_utf8_whatever_the_console_prefers(recording: Path) -> None:
    with fake_server(FakeEngine(lambda request: "엄마")) as korean:
        finished = run_client(recording, "--url", korean.url, PYTHONIOENCODING="cp1252")
    assert (0, "엄마\n", "") == (finished.returncode, finished.stdout, finished.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_the_latency_stands_behind_the_text(server: Address, recording: Path) -> None:
    import pty

    command = [sys.executable, "-m", "local_dev", "client", str(recording), "--url", server.url, "--realtime"]
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(TERM="xterm", COLUMNS="80"), stdout=other_end, stderr=other_end
    ) as process:
        os.close(other_end)
        shown = b""
        try:
            while part := os.read(terminal, 4096):
                shown += part
        except OSError:  # it has ended
            pass
        os.close(terminal)
    assert 0 == process.returncode
    assert re.search(r"ko 1280 ms(\x1b\[[\d;]*m)*  \d+ ms", shown.decode())


# -- microphone


class Microphone:
    """Stands in for the package sounddevice: hears what it is told to."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, sample_rate: float = 16_000.0) -> None:
        self.sample_rate = sample_rate
        self.module = types.ModuleType("sounddevice")
        self.module.PortAudioError = self.PortAudioError
        self.module.query_devices = self.query_devices
        self.module.RawInputStream = self.open

    def query_devices(self, kind: str) -> dict[str, float]:
        assert "input" == kind
        return {"default_samplerate": self.sample_rate}

    def open(self, **options: object) -> "Microphone":
        assert (1, "int16", self.sample_rate) == (options["channels"], options["dtype"], options["samplerate"])
        self._callback = options["callback"]
        self._step = 2 * options["blocksize"]
        return self

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def hear(self, samples: np.ndarray) -> None:
        pcm = s16le(samples)
        for begin in range(0, len(pcm), self._step):
            self._callback(memoryview(pcm[begin : begin + self._step]), None, None, None)


@pytest.fixture
def microphone(monkeypatch: pytest.MonkeyPatch) -> Microphone:
    microphone = Microphone()
    monkeypatch.setitem(sys.modules, "sounddevice", microphone.module)
    return microphone


def type_keys(monkeypatch: pytest.MonkeyPatch, keys: Iterator[str]) -> None:
    """What comes on stdin; between two keys the generator may let the microphone hear something."""
    monkeypatch.setattr(sys, "stdin", keys)


def test_the_open_microphone_is_flushed_with_enter(
    server: Address, microphone: Microphone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def keys() -> Iterator[str]:
        microphone.hear(tone(1.28))
        yield "\n"
        microphone.hear(tone(0.64))

    type_keys(monkeypatch, keys())
    assert 0 == main(["client", "--mic", "--url", server.url])
    assert "ko 1280 ms\nko 640 ms\n" == capsys.readouterr().out


def test_push_to_talk_hears_what_comes_between_two_enters_and_just_before(
    server: Address, microphone: Microphone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def keys() -> Iterator[str]:
        microphone.hear(tone(3.2))  # of which the last moment is kept
        yield "\n"
        microphone.hear(tone(1.0))
        yield "\n"
        microphone.hear(tone(3.2))

    type_keys(monkeypatch, keys())
    assert 0 == main(["client", "--push-to-talk", "--url", server.url])
    assert f"ko {1000 + 50 * FRAMES_BEFORE} ms\n" == capsys.readouterr().out


def test_a_microphone_of_another_rate_is_declared(
    server: Address, microphone: Microphone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    microphone.sample_rate = 44_100.0

    def keys() -> Iterator[str]:
        microphone.hear(tone(1.28, sample_rate=44_100))
        yield "\n"

    type_keys(monkeypatch, keys())
    assert 0 == main(["client", "--mic", "--url", server.url, "--language", "en"])
    language, duration, _ = capsys.readouterr().out.split()
    assert "en" == language
    assert 1280 == pytest.approx(int(duration), abs=40)


def test_a_missing_microphone_is_told(server: Address, microphone: Microphone, complaint: Callable[..., str]) -> None:
    def query_devices(kind: str) -> None:
        raise microphone.PortAudioError("Error querying device -1")

    microphone.module.query_devices = query_devices
    line = complaint("client", "--mic", "--url", server.url)
    assert "error: No microphone can be opened (Error querying device -1)." in line


def test_a_missing_package_for_the_microphone_is_told(
    server: Address, monkeypatch: pytest.MonkeyPatch, complaint: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert 'pip install -e ".[mic]"' in complaint("client", "--push-to-talk", "--url", server.url)


@pytest.mark.parametrize("words", [[], ["x.wav", "--mic"], ["--mic", "--push-to-talk"]])
def test_one_source_of_speech_is_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["client", *words])
    assert 2 == exit_.value.code


# -- what can go wrong


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_with_130_and_without_a_traceback(server: Address, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", tone(50), 16_000)
    options = ["--url", server.url, "--realtime", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "local_dev", "client", str(tmp_path / "long.wav"), *options],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        assert '"type":"ready"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=STOP_S)
    assert (130, "") == (process.returncode, err)


def test_without_websockets_the_client_says_what_to_install(
    recording: Path, monkeypatch: pytest.MonkeyPatch, complaint: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    assert 'pip install -e ".[local]"' in complaint("client", recording)


def test_an_unknown_language_is_one_line(complaint: Callable[..., str], server: Address, recording: Path) -> None:
    assert "language: " in complaint("client", recording, "--url", server.url, "--language", "Korean")


def test_a_missing_file_is_one_line(complaint: Callable[..., str], tmp_path: Path) -> None:
    assert f"There is no audio file at {tmp_path / 'x.wav'}" in complaint("client", tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.wav", b"hello, this is no audio at all, but it is long enough to be one"),
        ("empty.wav", b""),
        ("cut.wav", b"RIFF\x24\x00\x00\x00WAVE"),
    ],
)
def test_a_file_that_is_not_audio_is_one_line(
    complaint: Callable[..., str], tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"{tmp_path / name} is not audio that can be read" in complaint("client", tmp_path / name)


def test_a_file_without_samples_is_one_line(complaint: Callable[..., str], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0, np.float32), 16_000)
    assert "holds no audio" in complaint("client", tmp_path / "nothing.wav")


def test_a_server_that_is_not_running_is_one_line(complaint: Callable[..., str], recording: Path) -> None:
    line = complaint("client", recording, "--url", f"ws://127.0.0.1:{free_port()}/ws/audio")
    assert "Start one: python -m local_dev" in line


@pytest.mark.parametrize("url", ["127.0.0.1:8018", "http://127.0.0.1:8018", "ws://127.0.0.1:99999/", "ws://a..b/"])
def test_an_address_that_is_none_is_one_line(complaint: Callable[..., str], recording: Path, url: str) -> None:
    line = complaint("client", recording, "--url", url)
    assert f"{url} is not a WebSocket address" in line


@contextmanager
def web_server() -> Iterator[int]:
    """A server that speaks HTTP and no WebSocket; yields its port."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"hi")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(STOP_S)


def test_a_server_that_is_no_websocket_server_is_one_line(complaint: Callable[..., str], recording: Path) -> None:
    with web_server() as port:
        line = complaint("client", recording, "--url", f"ws://127.0.0.1:{port}/")
    assert "answered, but not as this server would" in line


def test_a_server_that_speaks_no_http_is_one_line(complaint: Callable[..., str], recording: Path) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"220 mail.example.com ESMTP\r\n\r\n")

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        line = complaint("client", recording, "--url", f"ws://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join(STOP_S)
    assert "answered, but not as this server would" in line


def test_another_path_of_the_server_is_one_line(
    complaint: Callable[..., str], server: Address, recording: Path
) -> None:
    line = complaint("client", recording, "--url", f"ws://127.0.0.1:{server.port}/elsewhere")
    assert "answered, but not as this server would" in line


def test_a_wrong_token_is_one_line_that_does_not_show_it(complaint: Callable[..., str], recording: Path) -> None:
    settings = Settings.from_environment({}, token="sesame", token_timeout_s=0.2)
    with fake_server(FakeEngine(), settings) as guarded:
        for words in (["--token", "wrong"], []):
            line = complaint("client", recording, "--url", guarded.url, *words)
            assert "closed the connection: 4401" in line
            assert "wrong'" not in line
        assert 0 == main(["client", str(recording), "--url", guarded.url, "--token", "sesame"])


def test_a_token_in_the_url_is_not_shown(complaint: Callable[..., str], recording: Path) -> None:
    line = complaint("client", recording, "--url", f"ws://127.0.0.1:{free_port()}/ws/audio?token=sesame&x=1")
    assert "token=…&x=1" in line
    assert "sesame" not in line


def test_a_token_that_no_header_can_carry_is_one_line(complaint: Callable[..., str], recording: Path) -> None:
    line = complaint("client", recording, "--token", "열려라")
    assert "token" in line
    assert "열려라" not in line


def test_the_clients_token_is_a_variable_too(recording: Path) -> None:
    with fake_server(FakeEngine(), Settings.from_environment({}, token="sesame")) as guarded:
        finished = run_client(recording, "--url", guarded.url, STT_TOKEN="sesame")
    assert (0, "ko 1280 ms\n", "") == (finished.returncode, finished.stdout, finished.stderr)


def test_a_server_that_goes_away_is_one_line(complaint: Callable[..., str], recording: Path) -> None:
    engine = FakeEngine()
    engine.may_load.clear()  # so that no answer comes
    with fake_server(engine) as going:
        line = ""

        def ask() -> None:
            nonlocal line
            line = complaint("client", recording, "--url", going.url)

        thread = threading.Thread(target=ask)
        thread.start()
        assert 200 == going.status("/healthz")
        engine.load_error = RuntimeError("going")
        engine.may_load.set()
        thread.join(STOP_S)
    assert "The server closed the connection: 10" in line


# -- replay


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=20))
def test_a_replay_sends_each_message_in_order_at_its_time_or_as_soon_as_it_can(
    steps: list[tuple[float, float]],
) -> None:
    """Each step: how long after the one before a message came, and how long sending it takes now."""
    times_s = np.cumsum([after_s for after_s, _ in steps]).tolist()
    messages = [(at_s, b"%d" % number) for number, at_s in enumerate(times_s)]
    clock_s, sent = 100.0, []

    async def sleep(seconds: float) -> None:
        nonlocal clock_s
        assert seconds > 0
        clock_s += seconds

    async def say(payload: bytes | str) -> None:
        nonlocal clock_s
        sent.append((clock_s - 100.0, payload))
        clock_s += steps[len(sent) - 1][1]

    asyncio.run(send_again(say, messages, now=lambda: clock_s, sleep=sleep))

    free_s, expected = 0.0, []
    for (at_s, payload), (_, takes_s) in zip(messages, steps, strict=True):
        expected.append((max(free_s, at_s), payload))
        free_s = max(free_s, at_s) + takes_s
    assert [payload for _, payload in expected] == [payload for _, payload in sent]
    assert [at_s for at_s, _ in expected] == pytest.approx([at_s for at_s, _ in sent])


TALK = [
    ("?endpointing=off", [*in_chunks(s16le(tone(0.64)), [3000]), "flush"]),
    ("", [s16le(tone(1.28))]),
    ("", [*in_chunks(s16le(silence(0.5), tone(0.64), silence(1.2)), [3201])]),
    (
        "?sample_rate=48000&encoding=f32le&endpointing=off",
        [np.float32(tone(0.64, sample_rate=48_000)).tobytes(), "flush"],
    ),
    ("?events=json", ['{"type":"start","id":"a"}', *in_chunks(s16le(tone(0.64)), [3000]), '{"type":"flush"}']),
    ("?events=json", [*in_chunks(s16le(tone(0.64)), [3000]), '{"type":"end"}']),
]


@pytest.mark.parametrize(("query", "talk"), TALK, ids=["push", "whole", "stream", "floats", "json", "json end"])
def test_a_replay_sends_what_was_recorded_and_hears_the_same(
    query: str, talk: list[bytes | str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with (
        fake_server(FakeEngine(), Settings(doctor=False, debug_audio=first)) as server,
        websockets.sync.client.connect(server.url + query) as socket,
    ):
        for message in talk:
            socket.send(message)
        wait_until(lambda: [*first.glob("*.json")], "the recording")
    [path] = first.glob("*.json")
    recorded, messages = read_recording(path)
    with fake_server(FakeEngine(), Settings(doctor=False, debug_audio=second)) as server:
        assert 0 == main(["client", "--replay", str(path.with_suffix(".wav")), "--url", server.url])
    again, messages_again = read_recording(second / "debug_0001.json")

    assert [payload for _, payload in messages] == [payload for _, payload in messages_again]
    assert recorded.query == again.query
    assert (f"{recorded.text}\n", "") == capsys.readouterr()


def test_a_replay_says_when_the_text_is_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        fake_server(FakeEngine(), Settings(doctor=False, debug_audio=tmp_path)) as server,
        websockets.sync.client.connect(server.url) as socket,
    ):
        socket.send(s16le(tone(1.28)))
        wait_until(lambda: [*tmp_path.glob("*.json")], "the recording")
    with fake_server(FakeEngine(lambda request: "다른 말")) as server:
        assert 0 == main(["client", "--replay", str(tmp_path / "debug_0001.json"), "--url", server.url])
    out, err = capsys.readouterr()
    assert ("다른 말\n", "When it was recorded, the text was: ko 1280 ms\n") == (out, err)


def test_a_replay_of_silence_ends_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    engine.may_load.clear()  # silence is answered, and recorded, without a model
    with fake_server(engine, Settings(doctor=False, debug_audio=tmp_path)) as server:
        with websockets.sync.client.connect(server.url + "?events=json") as socket:
            for message in ('{"type":"start","id":"a"}', bytes(6400), '{"type":"flush"}'):
                socket.send(message)
            wait_until(lambda: [*tmp_path.glob("*.json")], "the recording")
        engine.may_load.set()
        assert 1 == main(["client", "--replay", str(tmp_path / "debug_0001.wav"), "--url", server.url])
    out, err = capsys.readouterr()
    assert ("", True) == (out, "Nothing intelligible is said in" in err)


def test_what_cannot_be_replayed_is_one_line(complaint: Callable[..., str], recording: Path) -> None:
    assert "a replay takes debug_XXXX.wav and the JSON beside it" in complaint("client", "--replay", recording)
    assert "leave --language and --realtime out" in complaint("client", "--replay", recording, "--language", "en")


@pytest.mark.model
@pytest.mark.parametrize("query", ["?endpointing=off", "", "?events=json"], ids=["push-to-talk", "stream", "json"])
def test_a_recording_of_the_real_server_says_the_same_when_it_is_replayed(query: str, tmp_path: Path) -> None:
    speech = to_s16le(read_audio(TEST_AUDIO / "answer_tree_frog.wav"))
    with running_server(STT_DEBUG_AUDIO=str(tmp_path)) as server:
        with websockets.sync.client.connect(server.url + query) as socket:
            for chunk in in_chunks(speech + bytes(48_000), [3200]):
                socket.send(chunk)
            if "off" in query:
                socket.send("flush")
            wait_until(lambda: [*tmp_path.glob("*.json")], "the recording", 60)
        [path] = tmp_path.glob("*.json")
        recorded, _ = read_recording(path)
        finished = run_client("--replay", path, "--url", server.url)

    assert "정답은청개구리입니다" == letters(recorded.text)
    assert (0, recorded.text, "") == (finished.returncode, finished.stdout.strip(), finished.stderr)

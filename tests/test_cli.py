"""The command line: what goes wrong is one clear line on stderr and a non-zero exit, never a traceback."""

import http.server
import re
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import silence, tone
from servers import REPOSITORY, STOP_S, Address, environment, fake_server, free_port

from local_dev.cli import main
from local_dev.serve import fetch_model
from stt_core import __version__
from stt_core.fakes import FakeEngine
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


def run_command(*words: object, timeout_s: float = 120.0, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own, until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "local_dev", *map(str, words)],
        cwd=REPOSITORY,
        env=environment(**variables),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_s,
        check=False,
    )


def last_line(finished: "subprocess.CompletedProcess[str]") -> str:
    """The last line on stderr of a process that failed without a traceback."""
    assert finished.returncode == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stderr.splitlines()[-1]


# -- help


def test_help_names_every_setting_command_and_extra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())  # argparse wraps where it likes
    assert 0 == exit_.value.code
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
        assert f"[STT_{name.upper()}]" in text
    for word in ["serve", "client", "bench", "local", "modal", "gpu", "dev", "cache folder", "this folder"]:
        assert word in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert (0, f"game-stt {__version__}\n") == (exit_.value.code, capsys.readouterr().out)


@pytest.mark.parametrize(
    "words", [["dance"], ["--colour", "red"], ["client"], ["--port", "9000", "client", "x.wav"], ["--port"]]
)
def test_an_unknown_command_or_option_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert 2 == exit_.value.code
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("words", "package"), [([], "uvicorn"), (["client", "x.wav"], "websockets")])
def test_a_package_that_is_not_installed_is_one_line(
    words: list[str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["local_dev", *words])
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("local_dev.serve", "local_dev.client"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("local_dev", run_name="__main__")
    assert f'error: {package} is not installed here. Install the server with: pip install -e ".[local]"' == (
        exit_.value.code
    )


# -- serve


def test_a_taken_port_is_one_line(complaint: Callable[..., str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = complaint("--port", port)
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert "--port (STT_PORT)" in line


@pytest.mark.parametrize("host", ["203.0.113.7", "nowhere.invalid", ".."])
def test_a_host_that_is_not_this_machine_is_one_line(complaint: Callable[..., str], host: str) -> None:
    assert f"cannot listen on {host}:8018" in complaint("--host", host, "--token", "secret")


def test_listening_on_the_network_without_a_token_is_one_line(complaint: Callable[..., str]) -> None:
    line = complaint("--host", "0.0.0.0", "--port", free_port())
    assert "it needs a token: --token SECRET (STT_TOKEN)" in line


def test_a_bad_option_value_is_one_line(complaint: Callable[..., str]) -> None:
    assert "error: STT_PORT (--port): " in complaint("--port", "http")
    assert "error: STT_LANGUAGE (--language): " in complaint("serve", "--language", "Korean")
    assert "error: STT_TOKEN (--token): " in complaint("--token", "")


def test_a_bad_variable_is_one_line(complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_BEAM_SIZE", "many")
    assert "error: STT_BEAM_SIZE (--beam-size): " in complaint()


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_model_directory_that_holds_no_model_ends_the_server(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    line = last_line(run_command("--port", free_port(), "--model", tmp_path / name))
    assert line.startswith("error: The model directory ")
    assert str(tmp_path / name) in line


def test_a_corrupt_model_ends_the_server(tmp_path: Path) -> None:
    for file, content in {"config.json": "{}", "model.bin": "garbage " * 100, "vocabulary.txt": "a\n"}.items():
        (tmp_path / file).write_text(content)
    line = last_line(run_command("--port", free_port(), "--model", tmp_path))
    assert line.startswith(f"error: The model in {tmp_path} cannot be loaded on ")


class UnpackingEngine:
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def fetch(self, on_progress: Callable[[int, int], None]) -> None:
        for step in range(self.steps):
            on_progress(step, self.steps)


@pytest.mark.parametrize(("steps", "said"), [(0, ""), (3, "Unpacking the model, this once …\n")])
def test_the_first_start_says_that_it_unpacks_the_model(
    steps: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_model(UnpackingEngine(steps))
    assert said == capsys.readouterr().err


# -- client


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
    soundfile.write(tmp_path / "long.wav", np.concatenate([tone(1.28), silence(59.2)]), 16_000)
    assert 0 == main(["client", str(tmp_path / "long.wav"), "--url", server.url])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("ko ")
    assert "인식 실패" == second  # half a second of silence


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
    with fake_server(FakeEngine(), Settings.from_environment({}, token="sesame")) as guarded:
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
        finished = run_command("client", recording, "--url", guarded.url, STT_TOKEN="sesame")
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


def test_a_folder_for_recordings_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert 1 == main(["--port", "0", "--debug-audio", str(tmp_path / "file")])
    error = capsys.readouterr().err
    assert error.startswith("error: Debug recordings cannot be written into") and 1 == error.count("\n")

"""The command line: what goes wrong is one clear line on stderr and a non-zero exit, never a traceback."""

import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import REPOSITORY, environment, free_port

from local_dev.cli import main
from local_dev.serve import fetch_model, with_recordings
from stt_core import __version__
from stt_core.settings import Settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"STT_{name.upper()}", raising=False)


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
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and line.endswith("--help")


def test_a_package_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["local_dev"])
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "local_dev.serve", raising=False)
    monkeypatch.delitem(sys.modules, "local_dev.edge", raising=False)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("local_dev", run_name="__main__")
    assert 'error: uvicorn is not installed here. Install the server with: pip install -e ".[local]"' == (
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
    line = last_line(run_command("--port", 0, "--model", tmp_path / name))
    assert line.startswith("error: The model directory ")
    assert str(tmp_path / name) in line


def test_a_corrupt_model_ends_the_server(tmp_path: Path) -> None:
    for file, content in {"config.json": "{}", "model.bin": "garbage " * 100, "vocabulary.txt": "a\n"}.items():
        (tmp_path / file).write_text(content)
    line = last_line(run_command("--port", 0, "--model", tmp_path))
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


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "debug_audio"),
        ({"debug_audio": "mine"}, "mine"),
        ({"debug_audio": "off"}, None),
        ({"host": "0.0.0.0", "insecure": True}, None),
        ({"host": "0.0.0.0", "insecure": True, "debug_audio": "mine"}, "mine"),
    ],
)
def test_local_development_records_and_nobody_else_does_unasked(
    options: dict[str, object], folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = with_recordings(Settings.from_environment({}, **options))
    assert settings.debug_audio == (Path(folder) if folder else None)
    assert [folder] * bool(folder) == [path.name for path in tmp_path.iterdir()]


def test_where_local_development_cannot_record_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "debug_audio").touch()
    monkeypatch.chdir(tmp_path)
    assert with_recordings(Settings()).debug_audio is None


def test_a_folder_for_recordings_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert 1 == main(["--port", "0", "--debug-audio", str(tmp_path / "file")])
    error = capsys.readouterr().err
    assert error.startswith("error: Debug recordings cannot be written into") and 1 == error.count("\n")

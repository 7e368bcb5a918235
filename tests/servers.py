"""Servers for tests: the real one in a process of its own, and one with a fake engine in a thread."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from local_dev.edge import Config, EdgeLimits, Server
from stt_core.app import create_app
from stt_core.fakes import EnergyVad, FakeEngine
from stt_core.settings import Settings

REPOSITORY = Path(__file__).parent.parent
TEST_AUDIO = REPOSITORY / "test_audio"
START_S = 180.0  # the first start on a machine unpacks the model
STOP_S = 30.0
ANSWER_S = 60.0  # for one line, on a machine that is busy with other things


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = ANSWER_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


def letters(text: str) -> str:
    """What of a transcript is speech: no spaces, no punctuation, no capitals."""
    return re.sub(r"\W", "", text).lower()


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with no settings of the server but where its model is unpacked."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STT_")}
    if cache_dir := os.environ.get("STT_CACHE_DIR"):
        kept["STT_CACHE_DIR"] = cache_dir
    return kept | {"PYTHONIOENCODING": "utf-8", "STT_DEBUG_AUDIO": "off"} | variables


@dataclass(frozen=True, slots=True)
class Address:
    port: int

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/audio"

    def json(self, path: str) -> Any:
        """What `path` answers."""
        with urllib.request.urlopen(self.http + path, timeout=ANSWER_S) as response:
            return json.load(response)

    def status(self, path: str) -> int:
        """The HTTP status of `path`; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=ANSWER_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except (OSError, HTTPException):
            return 0


@dataclass(frozen=True, slots=True)
class ServerProcess(Address):
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """What it has printed so far, stdout and stderr together."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"the server ended:\n{self.output}"
        return self.status("/readyz") == 200


@contextmanager
def running_server(*options: str, **variables: str) -> Iterator[ServerProcess]:
    """`python -m local_dev` on a free port, ready."""
    port = free_port()
    command = [sys.executable, "-m", "local_dev", "--port", str(port), *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment(**variables), stdout=output, stderr=subprocess.STDOUT
            )
        server = ServerProcess(port, process, log)
        try:
            wait_until(server.is_ready, "the server to be ready", START_S)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            finally:
                process.kill()
                process.wait()


@contextmanager
def fake_server(engine: FakeEngine, settings: Settings | None = None) -> Iterator[Address]:
    """The app under uvicorn in a thread of this process, with a fake engine."""
    settings = settings or Settings(doctor=False)  # tones that are cut anywhere would worry it
    app = create_app(settings, engine, vad=EnergyVad())
    server = Server(Config(app, EdgeLimits(shutdown_timeout_s=1)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started, "uvicorn to start")
            yield Address(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(STOP_S)
            assert not thread.is_alive()

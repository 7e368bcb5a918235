"""The server that a benchmark measures: started for it in a process of its own, or running already."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from stt_core.errors import SettingsError, SttError

START_S = 180.0  # the first start on a machine unpacks the model
STOP_S = 15.0
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server has used of its machine so far."""

    cpu_s: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Server:
    url: str  # of its WebSocket
    pid: int | None  # None: it runs elsewhere, so what it uses cannot be seen

    def usage(self) -> Usage | None:
        """Of the process and its children."""
        if self.pid is None:
            return None
        psutil = extra("psutil")
        cpu_s = rss_bytes = 0.0
        try:
            process = psutil.Process(self.pid)
            for part in [process, *process.children(recursive=True)]:
                times = part.cpu_times()
                cpu_s += times.user + times.system
                rss_bytes += part.memory_info().rss
        except psutil.NoSuchProcess:
            return None
        return Usage(cpu_s, rss_bytes / MIB)


def extra(package: str) -> Any:
    """A package that the server does not need.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError:
        name = package.partition(".")[0]
        raise SettingsError(f'This needs {name}, which is not installed: pip install -e ".[bench]"') from None


@contextmanager
def server_under_test(
    url: str | None, pid: int | None, options: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Iterator[Server]:
    """The running server at `url`; without one, `python -m local_dev OPTIONS` on a free port. Ready.

    Settings in the environment are left out, so that the options alone say what was measured; only where the
    model is unpacked (STT_CACHE_DIR) is kept.

    Raises:
        SttError: it does not become ready.
    """
    if url:
        _wait_until_ready(url, None, None)
        yield Server(url, pid)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    kept = {name: value for name, value in environment.items() if not name.startswith("STT_")}
    kept["STT_DEBUG_AUDIO"] = "off"
    if cache_dir := environment.get("STT_CACHE_DIR"):
        kept["STT_CACHE_DIR"] = cache_dir
    command = [sys.executable, "-m", "local_dev", "--port", str(port), "--log-level", "warning", *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=kept | {"PYTHONIOENCODING": "utf-8"}, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            address = f"ws://127.0.0.1:{port}/ws/audio"
            _wait_until_ready(address, process, log)
            yield Server(address, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes] | None, log: Path | None) -> None:
    address = url.replace("ws", "http", 1).partition("?")[0].removesuffix("/ws/audio") + "/readyz"
    deadline_s = time.monotonic() + START_S
    while not _answers(address):
        if process and log and process.poll() is not None:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise SttError(f"The server to measure ended with {process.returncode}: {' '.join(last)}")
        if time.monotonic() > deadline_s:
            raise SttError(f"The server at {url} was not ready within {START_S:.0f} s.")
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):  # urllib.error.URLError is an OSError; ValueError: not an address
        return False

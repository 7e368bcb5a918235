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
from http.client import HTTPException
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
class Profile:
    """What a server's processor time went into so far, in seconds, and what was asked of the model, by priority."""

    cpu_s: dict[str, float]
    requests: dict[str, int]

    def since(self, before: "Profile", seconds: float) -> dict[str, dict[str, float]]:
        """Cores by work, and requests."""
        return {
            "cores": {work: round((cpu_s - before.cpu_s[work]) / seconds, 5) for work, cpu_s in self.cpu_s.items()},
            "requests": {kind: count - before.requests[kind] for kind, count in self.requests.items()},
        }


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

    def profile(self, token: str | None = None) -> Profile | None:
        """Of `/metrics`, and of the thread that runs the event loop; None if the server's process cannot be seen."""
        usage = self.usage()
        if usage is None:
            return None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(_http(self.url) + "/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read().decode()
        work: dict[str, float] = {}
        requests: dict[str, int] = {}
        for family in extra("prometheus_client.parser").text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "stt_cpu_seconds_total" and sample.labels["work"] != "other":
                    work[sample.labels["work"]] = sample.value
                elif sample.name == "stt_queue_wait_seconds_count" and sample.labels["priority"] != "other":
                    requests[sample.labels["priority"]] = int(sample.value)
        threads = extra("psutil").Process(self.pid).threads()
        [loop_s] = [each.user_time + each.system_time for each in threads if each.id == self.pid] or [0.0]
        work["network"] = max(0.0, loop_s - work["audio"] - work["detector"])
        work["decoding"] = max(0.0, usage.cpu_s - sum(work.values()))
        return Profile(work, requests)


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
    address = _http(url) + "/readyz"
    deadline_s = time.monotonic() + START_S
    while not _answers(address):
        if process and log and process.poll() is not None:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise SttError(f"The server to measure ended with {process.returncode}: {' '.join(last)}")
        if time.monotonic() > deadline_s:
            raise SttError(f"The server at {url} was not ready within {START_S:.0f} s.")
        time.sleep(0.2)


def _http(url: str) -> str:
    """Of the server whose WebSocket is at `url`."""
    return url.replace("ws", "http", 1).partition("?")[0].removesuffix("/ws/audio")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, ValueError, HTTPException):  # URLError is an OSError; ValueError: not an address
        return False

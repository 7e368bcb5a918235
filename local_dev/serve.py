"""Run the app under uvicorn, with a few friendly lines."""

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, DownloadColumn, Progress

from stt_core.app import create_app
from stt_core.engine import WhisperEngine
from stt_core.errors import ModelError, SettingsError
from stt_core.settings import Settings, check_exposure
from stt_core.transcriber import build_engine

MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # Modal's limit; the same everywhere
SHUTDOWN_S = 3

console = Console(stderr=True, highlight=False, soft_wrap=True)


def serve(settings: Settings) -> int:
    """Serve until stopped; return the exit code.

    Raises:
        SettingsError: the address cannot be used.
        ModelError: the model cannot be found or loaded.
    """
    check_exposure(settings)
    check_folder(settings.debug_audio)
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    console.print(f"[bold]Game STT[/] · model [bold]{settings.model}[/] · language [bold]{settings.language}[/]")
    engine = build_engine(settings, cores=available_cores())
    fetch_model(engine)

    configure_logging(settings.log_level)

    failure: ModelError | None = None

    def on_load_failed(error: ModelError) -> None:
        nonlocal failure
        failure = error
        server.should_exit = True

    server = _Server(
        uvicorn.Config(
            create_app(settings, engine, on_load_failed=on_load_failed),
            log_config=None,
            log_level="warning",  # uvicorn's own lines would show tokens in URLs
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # PCM does not compress, and each connection would cost 40 KiB more
            timeout_graceful_shutdown=SHUTDOWN_S,
            server_header=False,
        )
    )
    greet(settings, host, port)
    server.run(sockets=[listener])
    if failure:
        raise failure
    return 0


def without_traceback_of_bad_text(record: logging.LogRecord) -> bool:
    """Text that is not UTF-8 is the client's mistake (close code 1007): one line tells it."""
    if record.getMessage().startswith("Invalid UTF-8"):
        record.exc_info = None
    return True


def configure_logging(level: str) -> None:
    """Log to stderr: in colours on a terminal, in whole lines into a file."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        layout = "%(message)s"
    else:
        handler = logging.StreamHandler()
        layout = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level.upper(), format=layout, handlers=[handler])
    logging.getLogger("uvicorn.error").addFilter(without_traceback_of_bad_text)
    for noisy in ("httpx", "huggingface_hub", "faster_whisper", "websockets", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Server(uvicorn.Server):
    """Exits with 0 when it is told to stop. Stock uvicorn raises the signal again after its clean shutdown."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_folder(folder: Path | None) -> None:
    """Make the folder for debug recordings.

    Raises:
        SettingsError: nothing can be written there.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(
            f"Debug recordings cannot be written into {folder} ({error.strerror or error}): "
            "name another folder with --debug-audio (STT_DEBUG_AUDIO)."
        ) from None


def fetch_model(engine: WhisperEngine) -> None:
    """Unpack or download the model; where it must be unpacked, say so and show the progress."""
    with Progress(
        BarColumn(), DownloadColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=None, visible=False)
        announced = False

        def show(done: int, total: int) -> None:
            nonlocal announced
            if not announced:
                console.print("Unpacking the model, this once …")
                announced = True
            progress.update(task, completed=done, total=total, visible=True)

        engine.fetch(show)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        SettingsError: the port is taken or the host is not an address of this machine.
    """
    listener = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":  # there it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host cannot be a name at all
        if listener:
            listener.close()
        raise SettingsError(
            f"The server cannot listen on {host}:{port} ({getattr(error, 'strerror', None) or error}). "
            "If it is running already, use that one or stop it; otherwise choose another with --port (STT_PORT)."
        ) from None
    return listener


def this_python() -> str:
    """How to call this Python from here, as somebody would type it."""
    try:
        path = os.path.relpath(sys.executable)
    except ValueError:  # on another drive of Windows
        path = sys.executable
    return sys.executable if path.startswith("..") else path


def greet(settings: Settings, host: str, port: int) -> None:
    """Where it is, and what to try next."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    query = "?token=…" if settings.token else ""  # the page passes it on
    console.print(f"  page       http://{shown}:{port}/{query}        talk to it in a browser", markup=False)
    console.print(f"  WebSocket  ws://{shown}:{port}/ws/audio  for the game: PCM in, text out", markup=False)
    if shown != host:
        console.print(f"  from another PC, put this machine's LAN address in place of {shown}")
    if settings.debug_audio:
        console.print(f"  utterances are recorded into {settings.debug_audio}", markup=False)
    url = "" if port == 8018 else f" --url ws://{shown}:{port}/ws/audio"
    token = " --token …" if settings.token else ""
    console.print(f"  try        {this_python()} -m local_dev client test_audio/mom.wav{url}{token}", markup=False)
    console.print("  stop       Ctrl+C")

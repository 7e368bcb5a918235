"""Run the app under uvicorn, with a few friendly lines."""

import logging
import os
import socket
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, DownloadColumn, Progress

from local_dev.edge import Config, EdgeLimits, Server, allow_open_files, be_sparing_with_lines, exit_within
from stt_core.app import create_app
from stt_core.engine import WhisperEngine
from stt_core.errors import ModelError, SettingsError
from stt_core.memory import share_heaps
from stt_core.settings import Settings, check_exposure, is_loopback
from stt_core.transcriber import build_engine

OTHER_FILES = 256  # that the process opens besides its connections
RECORDINGS = Path("debug_audio")  # of local development
THREADS_S = 1.0  # for a thread to end by itself, once everything else is over

console = Console(stderr=True, highlight=False, soft_wrap=True)


def serve(settings: Settings) -> int:
    """Serve until stopped; return the exit code.

    Raises:
        SettingsError: the address cannot be used.
        ModelError: the model cannot be found or loaded.
    """
    check_exposure(settings)
    share_heaps()
    settings = with_recordings(settings)
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

    limits = EdgeLimits(max_message_bytes=settings.max_message_bytes, send_timeout_s=settings.send_timeout_s)
    allow_open_files(limits.max_connections + OTHER_FILES)
    app = create_app(settings, engine, on_load_failed=on_load_failed)
    server = Server(Config(app, limits), drain=app.state.server.drain)
    greet(settings, host, port)
    server.run(sockets=[listener])
    if failure:
        raise failure
    if server.signalled:
        exit_within(THREADS_S)
    return 0


def configure_logging(level: str) -> None:
    """Log to stderr: in colours on a terminal, in whole lines into a file."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        layout = "%(message)s"
    else:
        handler = logging.StreamHandler()
        layout = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level.upper(), format=layout, handlers=[handler])
    be_sparing_with_lines()
    for noisy in ("httpx", "huggingface_hub", "faster_whisper", "websockets", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def with_recordings(settings: Settings) -> Settings:
    """Debug recordings are on where nobody but this machine can reach the server, unless the settings say more.

    Raises:
        SettingsError: nothing can be written where they are wanted.
    """
    if "debug_audio" in settings.model_fields_set or not is_loopback(settings.host):
        check_folder(settings.debug_audio)
        return settings
    try:
        check_folder(RECORDINGS)
    except SettingsError:  # nobody has asked for them
        return settings
    return settings.model_copy(update={"debug_audio": RECORDINGS})


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
        console.print(f"  recording  {settings.debug_audio}/debug_XXXX.wav  (--debug-audio off)", markup=False)
    url = "" if port == 8018 else f" --url ws://{shown}:{port}/ws/audio"
    token = " --token …" if settings.token else ""
    console.print(f"  try        {this_python()} -m local_dev client test_audio/mom.wav{url}{token}", markup=False)
    console.print("  stop       Ctrl+C")

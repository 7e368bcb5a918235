"""The server on Modal: GPU containers that come when players talk and go when they stop.

    modal run modal_app.py --wav test_audio/mom.wav      try it: one recording, no secret needed
    modal secret create game-stt STT_TOKEN=...           the token that clients must send
    STT_SECRET=game-stt modal deploy modal_app.py        a public wss://.../ws/audio

Each container serves the app that `python -m local_dev` serves. This file only says where it runs: settings,
image, app, one GPU class, an entrypoint. Modal imports it three times: where you deploy, where it builds the image
(`stt_core` is not there yet, so everything of it is imported late) and in every container.
"""

import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import modal

if TYPE_CHECKING:
    from fastapi import FastAPI

    from stt_core.audio import Samples

logger = logging.getLogger(__name__)


# Settings. `STT_*` variables, read where you deploy: those of `stt_core.settings`, and these.


def setting(name: str, default: str) -> str:
    """The variable, or the default. An empty one counts as unset, as in `stt_core.settings`."""
    return os.environ.get(name, "").strip() or default


MODEL = setting("STT_MODEL", "large-v3-turbo")  # baked into the image
DEVICE = setting("STT_DEVICE", "cuda")  # not `auto`: a container that misses its GPU must fail, not crawl
SECRET = setting("STT_SECRET", "")  # the Modal Secret that holds STT_TOKEN; without it nobody is let in
GPUS = [gpu.strip() for gpu in setting("STT_GPU", "L4").split(",")]  # the first one that is free
MIN_CONTAINERS = int(setting("STT_MIN_CONTAINERS", "0"))  # kept warm, and paid for, around the clock
MAX_CONTAINERS = int(setting("STT_MAX_CONTAINERS", "4"))  # the most that can ever be paid for at once
SCALEDOWN_WINDOW_S = int(setting("STT_SCALEDOWN_WINDOW_S", "180"))  # a container without sockets goes after this
MAX_SOCKETS = int(setting("STT_MAX_SOCKETS", "32"))  # on one container; more are spread over others, or wait

SESSION_S = 3600  # the longest that one socket may last; Modal's default cuts a game off after five minutes
STARTUP_S = 600  # pulling the image and loading the model

# What shapes the class below must read the same in the container, so it all goes there. The token does not: it
# would be stored with the app.
ENVIRONMENT: dict[str, str | None] = {
    **{name: value for name, value in os.environ.items() if name.startswith("STT_") and name != "STT_TOKEN"},
    "STT_MODEL": MODEL,
    "STT_DEVICE": DEVICE,
    "STT_MAX_BATCH_SIZE": setting("STT_MAX_BATCH_SIZE", "16"),  # the core's default is a CPU's
}

if modal.is_local():  # a wrong value stops the deploy, instead of every container
    from stt_core.settings import Settings

    Settings.from_environment(os.environ)


# Image. CTranslate2 needs cuBLAS and no other part of CUDA; the driver is the host's. The lock is made with
#   uv pip compile pyproject.toml --extra gpu --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
#     --generate-hashes --no-emit-index-url --no-header -o locks/modal.txt      (newer versions: --upgrade)


def download(model: str) -> None:
    """Fetch the weights while the image is built, so that no container ever waits for them."""
    from faster_whisper import download_model

    download_model(model)


image = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install(requirements=[str(Path(__file__).parent / "locks" / "modal.txt")])
    .env({"HF_HOME": "/models"})
    .run_function(download, args=(MODEL,))
    .env({"HF_HUB_OFFLINE": "1"})  # from here on the weights are there
    # Last, so that a change of code builds nothing. By default only .py files would go along.
    .add_local_python_source("stt_core", ignore=["**/__pycache__", "**/.*"])
)


# App.

app = modal.App("game-stt")


# The GPU class.


@app.cls(
    image=image,
    env=ENVIRONMENT,
    secrets=[modal.Secret.from_name(SECRET, required_keys=["STT_TOKEN"])] if SECRET else [],
    gpu=GPUS if len(GPUS) > 1 else GPUS[0],
    cpu=2.0,
    memory=4096,  # MiB
    timeout=SESSION_S,
    startup_timeout=STARTUP_S,
    min_containers=MIN_CONTAINERS,
    max_containers=MAX_CONTAINERS,
    scaledown_window=SCALEDOWN_WINDOW_S,
    enable_memory_snapshot=True,
)
@modal.concurrent(max_inputs=MAX_SOCKETS, target_inputs=max(1, MAX_SOCKETS * 3 // 4))  # a socket is an input
class SpeechToText:
    """One container: one model, many sockets."""

    @modal.enter(snap=True)
    def preload(self) -> None:
        """What takes time and needs no GPU: later containers start from a snapshot of this memory.

        No GPU is there yet, and CUDA would not work in a process that has looked for one.
        """
        import stt_core.app
        import stt_core.engine  # noqa: F401
        from stt_core.vad import SileroVad

        self.vad = SileroVad()

    @modal.enter(snap=False)
    def load(self) -> None:
        """What the snapshot must not hold: the secret and the model on the GPU."""
        from stt_core.settings import Settings
        from stt_core.transcriber import build_engine

        self.settings = Settings.from_environment(os.environ)
        logging.basicConfig(level=self.settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        self.engine = build_engine(self.settings)
        self.engine.load()

    @modal.asgi_app(label="game-stt")
    def web(self) -> "FastAPI":
        """The server. Its address is public, so without a token it lets nobody in."""
        from pydantic import SecretStr

        from stt_core.app import create_app

        settings = self.settings
        if settings.token is None and not settings.insecure:
            logger.error(
                "There is no token, so every socket is closed with 4401. Put one into a Modal Secret and deploy with "
                "its name: modal secret create game-stt STT_TOKEN=...; STT_SECRET=game-stt modal deploy modal_app.py. "
                "STT_INSECURE=1 lets everybody in, at your cost."
            )
            settings = settings.model_copy(update={"token": SecretStr(secrets.token_urlsafe())})
        return create_app(settings, self.engine, vad=self.vad)

    @modal.method()
    def transcribe(self, samples: "Samples") -> str:
        """The text of one recording, (n,) float32 at 16 kHz: the line that the server would answer it with."""
        from stt_core.transcription import Request
        from stt_core.utterances import whole_utterance

        utterance = whole_utterance(samples, self.vad, self.settings.endpointing_options)
        if not len(utterance.samples):
            return self.settings.failure_text
        [transcript] = self.engine.transcribe([Request(utterance.samples, self.settings.language)])
        return transcript.text or self.settings.failure_text


# Local entrypoint.


@app.local_entrypoint()
def main(wav: str) -> None:
    """Transcribe a recording (WAV, FLAC, OGG or MP3) in a container and print its text."""
    from stt_core.audio import read_audio
    from stt_core.errors import AudioError

    try:
        samples = read_audio(wav)
    except AudioError as error:
        raise SystemExit(f"error: {error}") from None
    print(SpeechToText().transcribe.remote(samples))  # noqa: T201  # this is the answer

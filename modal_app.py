"""The server on Modal: GPU containers that come when players talk and go when they stop.

    modal run modal_app.py --wav test_audio/mom.wav      try it: one recording, no secret needed
    modal secret create game-stt STT_TOKEN=...           the token that clients must send
    STT_SECRET=game-stt modal deploy modal_app.py        a public wss://.../ws/audio

Each container serves the app that `python -m local_dev` serves. This file only says where it runs: settings,
image, app, one GPU class, an entrypoint. Modal imports it where you deploy and in every container; both must come to
the same class, so all that shapes it is settings, and all settings go along. See docs/deploy-modal.md.
"""

import logging
import os
import re
import secrets
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import modal
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from stt_core.errors import ModelError, SettingsError
from stt_core.models import check_model_name, split_revision
from stt_core.settings import ENVIRONMENT_PREFIX, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from stt_core.audio import Samples

logger = logging.getLogger(__name__)


# Settings. `STT_*` variables, read where you deploy: those of `stt_core.settings`, and the deployment's own.

TIMEOUT_S = 3600  # the longest that one socket may last; Modal's default cuts a game off after five minutes
STARTUP_S = 600  # pulling the image and loading the model
SPARE_INPUTS = 8  # beyond the sessions, so that a full container can still say so, and answer /readyz
MODELS = "/models"  # where a Volume is seen
HUB = "/hub"  # where the image keeps what the hub gave it
GPU = re.compile(r"[A-Za-z0-9-]+!?(:[1-8])?")


class Deployment(Settings):
    """The server's settings with a GPU's defaults, and what Modal is asked for."""

    # The weights are pinned, as the packages are: what worked yesterday is deployed today.
    model: Annotated[str, Field(min_length=1)] = "large-v3-turbo@0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf"
    device: Literal["auto", "cpu", "cuda"] = "cuda"  # not `auto`: a container that misses its GPU must fail, not crawl
    max_batch_size: Annotated[int, Field(ge=1, le=64)] = 16
    max_sessions: Annotated[int, Field(ge=1, le=1000 - SPARE_INPUTS)] = 32  # in one container; more get one more
    session_timeout_s: Annotated[float, Field(gt=0, le=TIMEOUT_S - 60)] = 3480.0
    allowed_hosts: str = "*"  # the name is Modal's; nobody else can point one here

    secret: Annotated[str, Field(description="The Modal Secret with STT_TOKEN; without it nobody is let in.")] = ""
    gpu: Annotated[str, Field(description="Modal's name; of several, with commas, the first that is free.")] = "L4"
    region: Annotated[str, Field(description="Modal's names, with commas; at a price. Anywhere if empty.")] = ""
    min_containers: Annotated[int, Field(ge=0, description="Kept warm, and paid for, around the clock.")] = 0
    buffer_containers: Annotated[int, Field(ge=0, description="Idle ones beyond the need, while there is any.")] = 0
    max_containers: Annotated[
        int, Field(ge=1, validate_default=True, description="The most that can ever be paid for at once.")
    ] = 4
    scaledown_window_s: Annotated[
        int, Field(ge=2, le=3600, description="A container without sockets ends after this, in seconds.")
    ] = 180
    model_volume: Annotated[
        str, Field(validate_default=True, description="The Modal Volume, seen as /models, that holds STT_MODEL.")
    ] = ""
    gpu_snapshot: Annotated[bool, Field(description="Snapshot the GPU's memory, too: an alpha of Modal's.")] = False

    @field_validator("gpu")
    @classmethod
    def _check_gpu(cls, gpu: str) -> str:
        if not all(GPU.fullmatch(name.strip()) for name in gpu.split(",")):
            raise PydanticCustomError("gpu", "Input should be Modal's name of a GPU, such as L4, or several: L4,A10")
        return gpu

    @field_validator("max_containers")
    @classmethod
    def _check_max_containers(cls, most: int, info: ValidationInfo) -> int:
        least = info.data.get("min_containers", 0) + info.data.get("buffer_containers", 0)
        if most < least:
            raise PydanticCustomError(
                "max_containers",
                "Input should not be below STT_MIN_CONTAINERS and STT_BUFFER_CONTAINERS together, {least}",
                {"least": least},
            )
        return most

    @field_validator("model_volume")
    @classmethod
    def _check_model_volume(cls, volume: str, info: ValidationInfo) -> str:
        if bool(volume) != str(info.data.get("model", "")).startswith(MODELS + "/"):
            raise PydanticCustomError(
                "model_volume",
                "Input should name a Volume if, and only if, STT_MODEL is a directory of it such as /models/my-whisper",
            )
        return volume


try:
    deployment = Deployment.from_environment(os.environ)
    if modal.is_local() and not deployment.model_volume:
        check_model_name(deployment.model)
except (SettingsError, ModelError) as error:  # stops the deploy, instead of every container
    raise SystemExit(f"error: {error}") from None

# Not the token: it would be stored with the app.
ENVIRONMENT: dict[str, str | None] = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(ENVIRONMENT_PREFIX) and name != ENVIRONMENT_PREFIX + "TOKEN"
}


# Image. CTranslate2 needs cuBLAS and no other part of CUDA; the driver is the host's. The lock is made with
#   uv pip compile pyproject.toml --extra gpu --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
#     --generate-hashes --no-emit-index-url --no-header -o locks/modal.txt      (newer versions: --upgrade)

image = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install(requirements=[str(Path(__file__).parent / "locks" / "modal.txt")])
    .env({"HF_HOME": HUB})
)
if not deployment.model_volume:  # the weights are fetched while the image is built: no container waits for them
    _name, _revision = split_revision(deployment.model)
    _fetch = f"from faster_whisper import download_model; download_model({_name!r}, revision={_revision!r})"
    image = image.run_commands(f"python -c {shlex.quote(_fetch)}")
image = image.env({"HF_HUB_OFFLINE": "1"}).add_local_python_source(
    "stt_core",  # last, so that a change of code builds nothing
    ignore=["**/__pycache__", "**/.*"],  # by default only .py files would go along
)


# App.

app = modal.App("game-stt")


# The GPU class.

gpus = [gpu.strip() for gpu in deployment.gpu.split(",")]


@app.cls(
    image=image,
    env=ENVIRONMENT,
    secrets=[modal.Secret.from_name(deployment.secret, required_keys=["STT_TOKEN"])] if deployment.secret else [],
    volumes={MODELS: modal.Volume.from_name(deployment.model_volume)} if deployment.model_volume else {},
    gpu=gpus if len(gpus) > 1 else gpus[0],
    region=[region.strip() for region in deployment.region.split(",")] if deployment.region else None,
    cpu=2.0,
    memory=4096,  # MiB
    timeout=TIMEOUT_S,
    startup_timeout=STARTUP_S,
    min_containers=deployment.min_containers,
    buffer_containers=deployment.buffer_containers,
    max_containers=deployment.max_containers,
    scaledown_window=deployment.scaledown_window_s,
    enable_memory_snapshot=True,
    experimental_options={"enable_gpu_snapshot": True} if deployment.gpu_snapshot else {},
)
@modal.concurrent(  # a socket is an input
    max_inputs=deployment.max_sessions + SPARE_INPUTS, target_inputs=max(1, deployment.max_sessions * 3 // 4)
)
class SpeechToText:
    """One container: one model, many sockets."""

    @modal.enter(snap=True)
    def preload(self) -> None:
        """What takes time and needs no GPU: later containers start from a snapshot of this memory.

        No GPU is there yet, and CUDA would not work in a process that has looked for one.
        """
        import ctranslate2  # noqa: F401
        import faster_whisper  # noqa: F401

        import stt_core.app  # noqa: F401
        from stt_core.vad import SileroVad

        self.vad = SileroVad()

    @modal.enter(snap=deployment.gpu_snapshot)
    def load(self) -> None:
        """What the snapshot must not hold: the model on the GPU. The first decode is slow, so no player gets it."""
        import numpy as np

        from stt_core.transcriber import build_engine
        from stt_core.transcription import Request

        logging.basicConfig(level=deployment.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        self.engine = build_engine(deployment)
        with suppress(ModelError):  # the app says so, to everybody; a container that crashes is started over and over
            self.engine.load()
            hiss = np.random.default_rng(0).normal(scale=1e-3, size=8000).astype(np.float32)
            self.engine.transcribe([Request(hiss, deployment.language)])

    @modal.asgi_app(label="game-stt")
    def web(self) -> "FastAPI":
        """The server. Its address is public, so without a token it lets nobody in."""
        from stt_core.app import create_app

        settings: Settings = Deployment.from_environment(os.environ)  # not a snapshot's: the token may have changed
        if settings.token is None and not settings.insecure:
            logger.error(
                "There is no token, so every socket is closed with 4401. Put one into a Modal Secret and deploy with "
                "its name: modal secret create game-stt STT_TOKEN=...; STT_SECRET=game-stt modal deploy modal_app.py. "
                "STT_INSECURE=1 lets everybody in, at your cost."
            )
            settings = settings.model_copy(update={"token": SecretStr(secrets.token_urlsafe())})
        self.app = create_app(settings, self.engine, vad=self.vad)
        return self.app

    @modal.method()
    def transcribe(self, samples: "Samples") -> str:
        """The text of one recording, (n,) float32 at 16 kHz: the line that the server would answer it with."""
        from stt_core.transcription import Request
        from stt_core.utterances import whole_utterance

        utterance = whole_utterance(samples, self.vad, deployment.endpointing_options)
        if not len(utterance.samples):
            return deployment.failure_text
        self.engine.load()  # says what is wrong if it could not be loaded
        request = Request(utterance.samples, deployment.language, vad_ratio=utterance.vad_ratio)
        [transcript] = self.engine.transcribe([request])
        return transcript.text or deployment.failure_text

    @modal.exit()
    def leave(self) -> None:
        """The last line of the log. Every socket has ended by now: Modal waits for them, or has cancelled them."""
        logger.info("This container ends, with %d sessions open.", self.app.state.server.sessions)


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

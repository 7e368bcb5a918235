"""Every setting, with its default, unit and meaning. Entry points build it; the core only reads it.

An environment variable `STT_<NAME>` sets the field of that name; nothing in this package reads the
environment by itself.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from stt_core.endpointing import EndpointingOptions
from stt_core.errors import SettingsError
from stt_core.languages import LANGUAGES
from stt_core.limits import Limits
from stt_core.transcription import Task

ENVIRONMENT_PREFIX = "STT_"


class Settings(Limits):
    """How the server behaves, its limits included."""

    model: Annotated[
        str,
        Field(min_length=1, description="A faster-whisper name, a Hugging Face id or a directory."),
    ] = "base"
    language: Annotated[
        str,
        Field(description="A Whisper code such as `ko` or `en`, or `auto`."),
    ] = "ko"
    task: Annotated[Task, Field(description="`transcribe`, or `translate` into English, where the model can.")] = (
        "transcribe"
    )
    host: Annotated[
        str,
        Field(min_length=1, description="Address to listen on. Beyond this machine it needs a token."),
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8018
    token: Annotated[
        SecretStr | None,
        Field(
            description="Clients must send it: in the header `Authorization: Bearer …`, as `?token=…` or in `start`. "
            "Several, with commas between them, all count."
        ),
    ] = None
    insecure: Annotated[bool, Field(description="Listen beyond this machine without a token.")] = False
    cache_dir: Annotated[
        Path | None,
        Field(description="Where the embedded model is unpacked; the user's cache folder if unset."),
    ] = None
    debug_audio: Annotated[
        Path | None,
        Field(
            description="Record each utterance into this folder: debug_XXXX.wav, what the model heard, and a JSON "
            "that `client --replay` sends again. `off` records nothing."
        ),
    ] = None
    doctor: Annotated[
        bool,
        Field(description="Look at the audio of clients and say what is wrong with it: `warning` messages, log lines."),
    ] = True
    repair: Annotated[
        bool,
        Field(
            description="Undo what is certainly wrong with the bytes of clients before the model hears them: WAV "
            "headers, a stray first byte, big-endian samples. They are told all the same."
        ),
    ] = False
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="Where the model runs.")] = "auto"
    compute_type: Annotated[
        str, Field(description="CTranslate2's compute type; `auto` is int8 on a CPU, float16 on a GPU.")
    ] = "auto"
    workers: Annotated[
        int,
        Field(ge=0, le=64, description="Batches in parallel; 0 means one for each CPU core, one on a GPU."),
    ] = 0
    cut_vocabulary: Annotated[
        bool,
        Field(description="On a CPU, drop the words of other languages from the model: a quarter faster."),
    ] = True
    beam_size: Annotated[int, Field(ge=1, le=10, description="Width of the beam search; 1 is greedy.")] = 5
    max_batch_size: Annotated[
        int, Field(ge=1, le=64, description="Utterances decoded together; a GPU takes more than a CPU.")
    ] = 4
    failure_text: Annotated[
        str, Field(min_length=1, description="The line for an utterance in which nothing was understood.")
    ] = "인식 실패"
    threshold: Annotated[
        float, Field(gt=0, lt=1, description="Speech probability above which a 32 ms window is speech.")
    ] = 0.5
    min_silence_duration_ms: Annotated[
        int, Field(ge=100, le=5000, description="A shorter pause never ends an utterance, in ms.")
    ] = 448
    max_silence_duration_ms: Annotated[
        int,
        Field(ge=100, le=5000, description="A longer pause always does; between the two the words decide, in ms."),
    ] = 800
    allowed_origins: Annotated[
        str,
        Field(
            description="Web pages that may connect, as in `https://game.example`, with commas between them; `*` is "
            "any. The server's own page always may, and so may whatever is not a browser."
        ),
    ] = ""
    allowed_hosts: Annotated[
        str,
        Field(
            description="Names by which browsers may address the server, with commas between them; `*` is any. "
            "Addresses, localhost and the host it listens on always count."
        ),
    ] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="What is logged.")] = "info"

    @field_validator("language")
    @classmethod
    def _check_language(cls, language: str) -> str:
        if language != "auto" and language not in LANGUAGES:
            raise PydanticCustomError("language", "Input should be auto or a Whisper code such as ko or en")
        return language

    @field_validator("debug_audio", mode="before")
    @classmethod
    def _check_debug_audio(cls, folder: object) -> object:
        return None if isinstance(folder, str) and folder.lower() == "off" else folder

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not all(map(is_header_value, token.get_secret_value().split(","))):
            raise PydanticCustomError("token", "Input should be letters, digits and signs of ASCII, without spaces")
        return token

    @property
    def tokens(self) -> tuple[str, ...]:
        """Any of these lets a client in; none: everybody may."""
        return tuple(self.token.get_secret_value().split(",")) if self.token else ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **overrides: object) -> Self:
        """Settings from `STT_*` variables; `overrides` that are not None win.

        An empty variable counts as unset, because Windows and compose files cannot unset one.

        Raises:
            SettingsError: a value is out of range or of the wrong kind.
        """
        values: dict[str, object] = {}
        for name in cls.model_fields:
            if text := environment.get(ENVIRONMENT_PREFIX + name.upper(), "").strip():
                values[name] = text
        values |= {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(" ".join(_sentence(detail) for detail in error.errors())) from None

    def recorded(self) -> dict[str, Any]:
        """What a debug recording tells of them: nothing secret, and nothing of the machine."""
        private = {"token", "host", "port", "insecure", "cache_dir", "debug_audio", "allowed_origins", "allowed_hosts"}
        return self.model_dump(mode="json", exclude=private)

    @property
    def endpointing_options(self) -> EndpointingOptions:
        return EndpointingOptions(
            threshold=self.threshold,
            min_silence_duration_ms=self.min_silence_duration_ms,
            max_silence_duration_ms=self.max_silence_duration_ms,
            max_speech_duration_s=self.max_utterance_s,
        )


def _sentence(detail: Mapping[str, object]) -> str:
    location = detail["loc"]
    assert isinstance(location, tuple)
    name = str(location[0])
    came = "" if name == "token" else f", not {detail['input']!r:.80}"
    return f"{ENVIRONMENT_PREFIX}{name.upper()} (--{name.replace('_', '-')}): {detail['msg']}{came}."


def is_header_value(token: str) -> bool:
    """Whether every client can send this token in a header."""
    return bool(token) and all("!" <= character <= "~" for character in token)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Refuse to offer the server to a network without a token.

    Raises:
        SettingsError: the host is not loopback, there is no token, and `insecure` is off.
    """
    if not (is_loopback(settings.host) or settings.token or settings.insecure):
        raise SettingsError(
            f"Listening on {settings.host} lets others reach this server, so it needs a token: "
            "--token SECRET (STT_TOKEN), or --insecure (STT_INSECURE=1) if everybody may use it."
        )

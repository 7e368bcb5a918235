"""The messages of JSON mode: one class each, one closed union per direction, told apart by `type`.

What a client sends is parsed here once; what is not understood becomes a `MessageError` that names the field. Unknown
fields are ignored, so that newer clients talk to older servers. Times are milliseconds of the session's audio unless
their name says otherwise; a message that the server sends stays under a kilobyte where its text does, because Unreal
decodes UTF-8 piece by piece as it arrives.

`schema` is the JSON Schema of both unions, `asyncapi` the whole contract of the socket in AsyncAPI 3.0.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import models_json_schema
from pydantic_core import ErrorDetails, PydanticCustomError

from stt_core.audio import CHANNELS, SAMPLE_RATE, SAMPLE_RATES_HZ, AudioFormat, Encoding
from stt_core.errors import SttError
from stt_core.languages import LANGUAGES
from stt_core.phrases import MAX_PHRASE_CHARS, MAX_PHRASES
from stt_core.transcription import Task

PROTOCOL = 1
MAX_ID_CHARACTERS = 64
MAX_HOTWORDS_CHARACTERS = 500
MAX_ERROR_CHARACTERS = 300
FORMAT_FIELDS = ("sample_rate", "channels", "encoding")

Endpointing = Literal["auto", "on", "off"]
Reason = Literal["endpoint", "flush", "idle", "max_length", "end"]
ErrorCode = Literal[
    "bad_message",
    "unauthorized",
    "idle",
    "session_limit",
    "unsupported_format",
    "rate_limited",
    "busy",
    "restarting",
    "internal",
]

# With which code a socket closes, where the error ends the session.
CLOSE_CODES: Mapping[ErrorCode, int] = {
    "bad_message": 4400,
    "unauthorized": 4401,
    "idle": 4408,
    "session_limit": 4410,
    "unsupported_format": 4415,
    "rate_limited": 4429,
    "busy": 4503,
    "restarting": 1012,
    "internal": 1011,
}
# The same request may succeed later, or on another connection.
RETRYABLE: frozenset[ErrorCode] = frozenset({"idle", "session_limit", "rate_limited", "busy", "restarting", "internal"})


MessageT = TypeVar("MessageT")


class MessageError(SttError):
    """A text message is not one of the protocol's. `str(error)` names the field."""

    def __init__(self, sentence: str, code: ErrorCode = "bad_message", *, is_json: bool = True) -> None:
        super().__init__(sentence)
        self.code = code
        self.is_json = is_json


def _check_language(language: str) -> str:
    if language != "auto" and language not in LANGUAGES:
        raise PydanticCustomError("language", "Input should be auto or a Whisper code such as ko or en")
    return language


Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS),
    Field(description="The client's own name for an utterance; its `final` has it again."),
]
Language = Annotated[
    str,
    StringConstraints(max_length=8, to_lower=True),
    AfterValidator(_check_language),
    Field(description="A Whisper code such as `ko` or `en`, or `auto`."),
]
Phrase = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PHRASE_CHARS)]
Phrases = Annotated[
    list[Phrase],
    Field(max_length=MAX_PHRASES, description="What the game hopes to hear; a `final` says which of them was meant."),
]
Hotwords = Annotated[
    str,
    StringConstraints(max_length=MAX_HOTWORDS_CHARACTERS),
    Field(description="Words to expect, such as names: they bias the decoder and promise nothing."),
]
Milliseconds = Annotated[int, Field(ge=0, description="Milliseconds of audio since the session began.")]
UtteranceNumber = Annotated[int, Field(ge=1, description="The utterances of a session are counted from 1.")]


class Message(BaseModel):
    """What all messages have in common."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def to_json(self) -> str:
        """The text that travels, without fields that have no value."""
        return self.model_dump_json(exclude_none=True)


# ---- client → server


class Vocabulary(Message):
    """What `start` and `configure` may change. A field that is missing stays as it is."""

    language: Language | None = None
    task: Annotated[Task | None, Field(description="`translate`: into English, where the model can.")] = None
    partials: Annotated[bool | None, Field(description="Send `partial` messages. Off at first.")] = None
    phrases: Phrases | None = None
    hotwords: Hotwords | None = None


class Start(Vocabulary):
    """Opens a push-to-talk utterance (with `id`) or an open microphone (without). May be sent again."""

    type: Literal["start"] = "start"
    id: Id | None = None
    token: Annotated[
        str | None,
        Field(max_length=512, description="The server's token, if neither the header nor the URL had it."),
    ] = None
    sample_rate: Annotated[
        int | None,
        Field(ge=SAMPLE_RATES_HZ.start, lt=SAMPLE_RATES_HZ.stop, description="Hz. 16000 at first."),
    ] = None
    channels: Annotated[
        int | None, Field(ge=CHANNELS.start, lt=CHANNELS.stop, description="Interleaved. 1 at first.")
    ] = None
    encoding: Annotated[Encoding | None, Field(description="`s16le` at first.")] = None
    endpointing: Annotated[
        Endpointing | None,
        Field(
            description="Whether silence ends an utterance; `auto`: not in push-to-talk, but with an open microphone."
        ),
    ] = None


class Flush(Message):
    """Push-to-talk released: finalise now and keep the socket. Exactly one `final` answers it."""

    type: Literal["flush"] = "flush"
    id: Id | None = None


class Cancel(Message):
    """Throw away what was said."""

    type: Literal["cancel"] = "cancel"
    id: Id | None = None


class Configure(Vocabulary):
    """Vocabulary follows game state."""

    type: Literal["configure"] = "configure"


class Keepalive(Message):
    """Resets the idle timer."""

    type: Literal["keepalive"] = "keepalive"


class End(Message):
    """Finalise, `closed`, close 1000."""

    type: Literal["end"] = "end"


ClientMessage = Start | Flush | Cancel | Configure | Keepalive | End
_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])


# ---- server → client


class Ready(Message):
    """The session may begin, in this format. Comes again when a `start` changes the format."""

    type: Literal["ready"] = "ready"
    session_id: Annotated[str, Field(description="For the server's log and the client's.")]
    protocol: Annotated[int, Field(description="Goes up when a client would have to change.")] = PROTOCOL
    version: Annotated[str, Field(description="Of the server.")]
    model: str
    language: str
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    encoding: Encoding = "s16le"
    limits: Annotated[dict[str, int | float], Field(description="What the server allows; see the settings.")]


class Status(Message):
    """The model is being loaded. Audio is kept meanwhile and transcribed when it is up."""

    type: Literal["status"] = "status"
    state: Literal["warming"] = "warming"
    eta_ms: Annotated[int, Field(ge=0, description="A guess of how long it takes, in milliseconds.")]


class SpeechStarted(Message):
    """Somebody began to speak."""

    type: Literal["speech_started"] = "speech_started"
    utterance: UtteranceNumber
    at_ms: Milliseconds


class SpeechEnded(Message):
    """The utterance is over; its `final` follows, unless it was cancelled."""

    type: Literal["speech_ended"] = "speech_ended"
    utterance: UtteranceNumber
    at_ms: Milliseconds


class Partial(Message):
    """The utterance so far. Replaces the one before; never follows the `final`."""

    type: Literal["partial"] = "partial"
    utterance: UtteranceNumber
    text: Annotated[str, Field(description="The whole text so far.")]
    stable: Annotated[str, Field(description="The beginning of `text` that later partials keep.")]


class Match(Message):
    """Which of the phrases was meant."""

    phrase: str
    score: Annotated[float, Field(ge=0, le=1)]
    accepted: Annotated[bool, Field(description="Whether score and distance to the runner-up suffice.")] = True
    runner_up: str | None = None
    runner_up_score: Annotated[float | None, Field(ge=0, le=1)] = None
    by: Annotated[
        Literal["text", "audio"], Field(description="audio: how likely the model finds the phrase is in the score.")
    ] = "text"


class Timing(Message):
    """Where the time went, in milliseconds of the clock."""

    audio_ms: Annotated[int, Field(ge=0, description="Audio that was transcribed.")]
    queue_ms: Annotated[int, Field(ge=0, description="Waiting for the model.")]
    infer_ms: Annotated[int, Field(ge=0, description="In the model.")]
    ttfs_ms: Annotated[int, Field(ge=0, description="From the end of speech, or from `flush`, to this message.")]


class Final(Message):
    """The text of an utterance."""

    type: Literal["final"] = "final"
    utterance: UtteranceNumber
    id: Id | None = None
    text: Annotated[str, Field(description="Empty where nothing intelligible was said.")]
    reason: Annotated[Reason, Field(description="Why the utterance ended.")]
    no_speech: Annotated[bool, Field(description="Nobody spoke, or nothing that could be understood.")]
    language: str
    confidence: Annotated[float, Field(ge=0, le=1)]
    start_ms: Milliseconds
    end_ms: Milliseconds
    match: Match | None = None
    timing: Timing


class Warning(Message):
    """Something about the audio makes it hard to understand."""

    type: Literal["warning"] = "warning"
    utterance: UtteranceNumber | None = None
    code: str
    message: str
    hint: Annotated[str, Field(description="What to change in the game.")]


class Dropped(Message):
    """This stretch of audio was not transcribed."""

    type: Literal["dropped"] = "dropped"
    from_ms: Milliseconds
    to_ms: Milliseconds


class GoingAway(Message):
    """The connection ends soon: connect anew."""

    type: Literal["going_away"] = "going_away"
    reason: Literal["session_limit", "restarting"]
    in_ms: Annotated[int, Field(ge=0)]


class Error(Message):
    """Something is wrong. With `close` it ends the session, and the socket closes with that code."""

    type: Literal["error"] = "error"
    code: ErrorCode
    message: str
    close: int | None = None
    retryable: bool
    retry_after_ms: Annotated[int | None, Field(ge=0)] = None


class Closed(Message):
    """The answer to `end`, and the last message: the session's audio, all of it."""

    type: Literal["closed"] = "closed"
    utterances: Annotated[int, Field(ge=0, description="That got a `final`.")]
    audio_ms: Annotated[int, Field(ge=0, description="Received; the sum of the next four.")]
    speech_ms: Annotated[int, Field(ge=0, description="In finals.")]
    silence_ms: Annotated[int, Field(ge=0, description="Between them.")]
    cancelled_ms: Annotated[int, Field(ge=0)]
    dropped_ms: Annotated[int, Field(ge=0, description="As `dropped` said.")]


ServerMessage = (
    Ready | Status | SpeechStarted | SpeechEnded | Partial | Final | Warning | Dropped | GoingAway | Error | Closed
)
_SERVER: TypeAdapter[ServerMessage] = TypeAdapter(Annotated[ServerMessage, Field(discriminator="type")])

CLIENT_MESSAGES: tuple[type[Message], ...] = get_args(ClientMessage)
SERVER_MESSAGES: tuple[type[Message], ...] = get_args(ServerMessage)


def parse_client_message(text: str) -> ClientMessage:
    """What a client says.

    Raises:
        MessageError: it is not JSON, or not a message of the protocol; the sentence names the field.
    """
    return _parse(_CLIENT, text)


def parse_server_message(text: str) -> ServerMessage:
    """What the server says, for clients written in Python.

    Raises:
        MessageError: it is not a message of this protocol.
    """
    return _parse(_SERVER, text)


def _parse(adapter: TypeAdapter[MessageT], text: str) -> MessageT:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False)[0]
        [*_, field] = detail["loc"] or [""]
        code: ErrorCode = "unsupported_format" if field in FORMAT_FIELDS else "bad_message"
        raise MessageError(_sentence(detail), code, is_json=detail["type"] != "json_invalid") from None


def _sentence(detail: ErrorDetails) -> str:
    """What is wrong, with the first field that is; never more of the message than a few characters."""
    kind, came = detail["type"], f"{detail['input']!r:.40}"
    if kind == "json_invalid":
        return f'expected a JSON object such as {{"type":"flush"}}; {detail["msg"][:80]}'
    if kind in ("union_tag_not_found", "model_attributes_type", "dict_type", "model_type"):
        return 'expected a JSON object with a "type", such as {"type":"flush"}'
    if kind == "union_tag_invalid":
        kinds = ", ".join(message.model_fields["type"].default for message in CLIENT_MESSAGES)
        return f"type must be one of {kinds}, not {_type_of(detail['input'])!r:.40}"
    message, *path = (str(part) for part in detail["loc"])
    sentence = f"{message}.{'.'.join(path)}: {detail['msg']}"
    return sentence if path == ["token"] else f"{sentence}, not {came}"


def _type_of(message: Any) -> Any:
    return message.get("type") if isinstance(message, Mapping) else message


def error_message(code: ErrorCode, message: str, *, close: bool, retry_after_ms: int | None = None) -> Error:
    """An `error` with what the contract says about its code."""
    return Error(
        code=code,
        message=message[:MAX_ERROR_CHARACTERS],
        close=CLOSE_CODES[code] if close else None,
        retryable=code in RETRYABLE,
        retry_after_ms=retry_after_ms,
    )


def declared_format(start: Start, present: AudioFormat) -> AudioFormat:
    """The format that a `start` asks for; what it does not name stays as it is."""
    return AudioFormat(
        sample_rate=start.sample_rate or present.sample_rate,
        channels=start.channels or present.channels,
        encoding=start.encoding or present.encoding,
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of every message, by name under `$defs`; `client` and `server` are the unions."""
    definitions = models_json_schema(
        [(message, "validation") for message in (*CLIENT_MESSAGES, *SERVER_MESSAGES)],
        ref_template="#/$defs/{model}",
    )[1]["$defs"]
    for message in (*CLIENT_MESSAGES, *SERVER_MESSAGES):
        definitions[message.__name__].setdefault("required", []).insert(0, "type")
    unions = {
        name: {
            "oneOf": [{"$ref": f"#/$defs/{message.__name__}"} for message in messages],
            "discriminator": {
                "propertyName": "type",
                "mapping": {_wire_name(message): f"#/$defs/{message.__name__}" for message in messages},
            },
        }
        for name, messages in (("client", CLIENT_MESSAGES), ("server", SERVER_MESSAGES))
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Game STT, JSON mode",
        "$defs": definitions | unions,
    }


def _wire_name(message: type[Message]) -> str:
    return str(message.model_fields["type"].default)


def asyncapi(version: str) -> dict[str, Any]:
    """The socket in AsyncAPI 3.0: both directions, every message."""
    definitions = schema()["$defs"]
    schemas = {name: _with_references(definitions[name], "#/components/schemas/") for name in definitions}

    def message(kind: type[Message]) -> dict[str, Any]:
        return {
            "name": _wire_name(kind),
            "contentType": "application/json",
            "summary": (kind.__doc__ or "").split("\n")[0],
            "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        }

    audio = {
        "name": "audio",
        "contentType": "application/octet-stream",
        "summary": "PCM in the declared format, cut anywhere.",
        "payload": {"type": "string", "format": "binary"},
    }
    kinds = [*CLIENT_MESSAGES, *SERVER_MESSAGES]
    references = {kind: {"$ref": f"#/channels/audio/messages/{kind.__name__}"} for kind in kinds}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Game STT",
            "version": version,
            "description": "JSON mode of the WebSocket; see docs/protocol.md for plain mode and the rules.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "audio": {
                "address": "/ws/audio?events=json",
                "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in kinds}
                | {"Audio": {"$ref": "#/components/messages/Audio"}},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            "speak": {
                "action": "receive",
                "channel": {"$ref": "#/channels/audio"},
                "messages": [
                    *(references[kind] for kind in CLIENT_MESSAGES),
                    {"$ref": "#/channels/audio/messages/Audio"},
                ],
            },
            "answer": {
                "action": "send",
                "channel": {"$ref": "#/channels/audio"},
                "messages": [references[kind] for kind in SERVER_MESSAGES],
            },
        },
        "components": {
            "messages": {kind.__name__: message(kind) for kind in kinds} | {"Audio": audio},
            "schemas": schemas,
        },
    }


def _with_references(value: Any, prefix: str) -> Any:
    """A schema whose references point elsewhere."""
    if isinstance(value, dict):
        return {key: _with_references(item, prefix) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_references(item, prefix) for item in value]
    if isinstance(value, str) and value.startswith("#/$defs/"):
        return prefix + value.removeprefix("#/$defs/")
    return value

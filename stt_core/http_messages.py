"""What travels over HTTP: the fields of OpenAI's audio endpoints, their answers, and the shape of all errors.

Checked against the official `openai` client. What OpenAI has and we have not is ignored in a request (`include`,
`chunking_strategy`) and empty in an answer (`tokens`); what we add is optional. Times are seconds of the file.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from stt_core.errors import SttError
from stt_core.languages import LANGUAGES
from stt_core.messages import Language, Phrase
from stt_core.transcription import Segment, Task

OPENAI_MODEL = "whisper-1"  # what clients ask for that were written for OpenAI
MAX_PROMPT_CHARACTERS = 1000

ErrorType = Literal["invalid_request_error", "server_error"]
HttpErrorCode = Literal[
    "missing_required_parameter",
    "invalid_value",
    "invalid_form",
    "invalid_audio",
    "invalid_api_key",
    "forbidden",
    "not_found",
    "model_not_found",
    "method_not_allowed",
    "upload_timeout",
    "file_too_large",
    "unsupported_media_type",
    "internal_error",
    "model_loading",
    "model_unavailable",
    "restarting",
    "overloaded",
]


class FieldError(SttError):
    """A field of a form has a value that cannot be served. `str(error)` names it."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


# ---- requests


def _truth(text: object) -> object:
    if isinstance(text, str) and text.lower() not in ("true", "false"):  # Pydantic would take `off` and `1` as well
        raise PydanticCustomError("stream", "Input should be true or false")
    return text


_LANGUAGE_SCHEMA = {
    "type": "string",
    "enum": ["auto", *sorted(LANGUAGES)],
    "description": "What is spoken; the server's own setting if missing.",
}


class TranslationFields(BaseModel):
    """The fields beside `file`. Others are ignored, and an empty one counts as missing."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: Annotated[
        str,
        Field(description=f"`{OPENAI_MODEL}` or the served model's name: both mean the served one."),
    ] = OPENAI_MODEL
    prompt: Annotated[
        str,
        Field(max_length=MAX_PROMPT_CHARACTERS, description="Text to go on from: names, spelling, style."),
    ] = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[
        float, Field(ge=0, le=1, description="Taken, but decoding is always that of 0: the same file, the same text.")
    ] = 0.0


class TranscriptionFields(TranslationFields):
    """The fields beside `file`. Others are ignored, and an empty one counts as missing."""

    language: Annotated[Language | None, WithJsonSchema(_LANGUAGE_SCHEMA)] = None
    timestamp_granularities: Annotated[
        list[Literal["segment", "word"]],
        Field(max_length=8, description="What `verbose_json` holds beside the text."),
    ] = ["segment"]
    keywords: Annotated[
        list[Phrase],
        Field(max_length=32, description="Words to expect, such as names: they bias the model and promise nothing."),
    ] = []
    stream: Annotated[
        bool,
        BeforeValidator(_truth),
        Field(description="Answer with server-sent events, one for each utterance, whatever `response_format` says."),
    ] = False


def parse_fields(kind: type[TranslationFields], form: Mapping[str, Sequence[str]]) -> TranslationFields:
    """The fields of a form.

    Raises:
        FieldError: a value cannot be served.
    """
    values: dict[str, Any] = {}
    for name, about in kind.model_fields.items():
        given = [text for text in form.get(name, ()) if text]
        if get_origin(about.annotation) is list:
            values |= {name: given} if given else {}
        elif len(given) > 1:
            raise FieldError(name, f"{name}: expected one in the form, not {len(given)}.")
        elif given:
            values[name] = given[0]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False)[0]
        name = str(detail["loc"][0])
        raise FieldError(name, f"{name}: {detail['msg']}, not {detail['input']!r:.80}.") from None


def form_schema(kind: type[TranslationFields]) -> dict[str, Any]:
    """The JSON schema of a form with these fields and a file."""
    schema = kind.model_json_schema()
    audio = {
        "type": "string",
        "format": "binary",
        "description": "wav, mp3, ogg, flac, m4a, mp4 or webm; what it is called does not matter.",
    }
    properties = {"file": audio, **schema["properties"]}
    return {"title": kind.__name__, "type": "object", "properties": properties, "required": ["file"]}


# ---- answers


class Model(BaseModel):
    """A model that answers."""

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="When the server started, in seconds of Unix time.")]
    owned_by: str = "game-stt"


class ModelList(BaseModel):
    """The models that answer."""

    object: Literal["list"] = "list"
    data: list[Model]


class Usage(BaseModel):
    """How much audio there was."""

    type: Literal["duration"] = "duration"
    seconds: float


class TranscriptionJson(BaseModel):
    """`response_format=json`."""

    text: Annotated[str, Field(description="Empty where nothing intelligible was said.")]
    usage: Usage


class VerboseSegment(BaseModel):
    """A piece of the text."""

    id: int
    seek: Annotated[int, Field(description="Where it begins, in hundredths of a second.")]
    start: float
    end: float
    text: str
    tokens: Annotated[list[int], Field(description="Always empty.")] = []
    temperature: float = 0.0
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseWord(BaseModel):
    """A word of the text."""

    word: str
    start: float
    end: float


class TranscriptionVerbose(BaseModel):
    """`response_format=verbose_json`."""

    task: Task
    language: Annotated[str, Field(description="The Whisper code, such as `ko`, of most of the speech.")]
    duration: Annotated[float, Field(description="Of the file, in seconds.")]
    text: str
    segments: list[VerboseSegment] | None = None
    words: list[VerboseWord] | None = None
    usage: Usage


class TextDelta(BaseModel):
    """With `stream`: the text of one more utterance."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str


class TextDone(BaseModel):
    """With `stream`: the whole text, at the end."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: Annotated[str, Field(description="A sentence: what was expected, what came, what to do.")]
    type: ErrorType
    param: Annotated[str | None, Field(description="The field of the form.")]
    code: HttpErrorCode | None


class ErrorBody(BaseModel):
    """The shape of every error, which is OpenAI's."""

    error: ErrorDetail


def to_event(body: BaseModel) -> str:
    """A server-sent event."""
    return f"data: {body.model_dump_json()}\n\n"


def verbose_segments(segments: Iterable[Segment]) -> list[VerboseSegment]:
    """Segments as OpenAI writes them."""
    return [
        VerboseSegment(
            id=number,
            seek=round(segment.start_s * 100),
            start=round(segment.start_s, 2),
            end=round(segment.end_s, 2),
            text=segment.text.strip(),
            avg_logprob=segment.avg_logprob,
            compression_ratio=compression_ratio(segment.text),
            no_speech_prob=segment.no_speech_prob,
        )
        for number, segment in enumerate(segments)
    ]


def verbose_words(segments: Iterable[Segment]) -> list[VerboseWord]:
    """Their words as OpenAI writes them."""
    return [
        VerboseWord(word=word.text.strip(), start=round(word.start_s, 2), end=round(word.end_s, 2))
        for segment in segments
        for word in segment.words
    ]


def compression_ratio(text: str) -> float:
    """How often a text repeats itself, as openai/whisper measures it."""
    encoded = text.encode()
    return round(len(encoded) / len(zlib.compress(encoded)), 3)

"""What the OpenAPI page says of the endpoints that are not FastAPI's own way: forms that are read as they come in, and
answers of several types."""

from typing import Any

from stt_core.http_messages import (
    ErrorBody,
    TextDelta,
    TextDone,
    TranscriptionJson,
    TranscriptionVerbose,
    TranslationFields,
    Usage,
    form_schema,
    to_event,
    verbose_segments,
    verbose_words,
)
from stt_core.subtitles import to_srt, to_vtt
from stt_core.transcription import Segment, Word

EVENT_DATA = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {"anyOf": [body.model_json_schema() for body in (TextDelta, TextDone)]},
    "description": "What goes wrong on the way comes as an event with an `error`.",
}
Responses = dict[int | str, dict[str, Any]]  # as FastAPI takes them

ERRORS = {
    400: "The form or the audio cannot be read, or a field has a value that is not served.",
    401: "The token is wrong or missing.",
    403: "A web page that may not connect.",
    404: "The model is not served here.",
    408: "The file took too long to arrive.",
    413: "The file is too large.",
    415: "The body is not a form.",
    500: "A defect of the server.",
    503: "The model is being loaded, or there is too much to do: `Retry-After` says when to try again.",
}
_SEGMENT = Segment("엄마", 0.0, 0.8, avg_logprob=-0.21, no_speech_prob=0.01, words=(Word("엄마", 0.0, 0.8, 0.93),))
EXAMPLES = {
    "json": {"value": TranscriptionJson(text="엄마", usage=Usage(seconds=1.3)).model_dump()},
    "verbose_json": {
        "value": TranscriptionVerbose(
            task="transcribe",
            language="ko",
            duration=1.3,
            text="엄마",
            segments=verbose_segments([_SEGMENT]),
            words=verbose_words([_SEGMENT]),
            usage=Usage(seconds=1.3),
        ).model_dump()
    },
}
TEXT_EXAMPLES = {"text": {"value": "엄마\n"}, "srt": {"value": to_srt([_SEGMENT])}}


def request_body(kind: type[TranslationFields]) -> dict[str, Any]:
    """For a route whose body is a form with these fields and a file."""
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form_schema(kind)}}}}


def errors(*statuses: int) -> Responses:
    """For a route that answers with these besides."""
    return {status: {"model": ErrorBody, "description": ERRORS[status]} for status in statuses}


def metrics_page(*statuses: int) -> Responses:
    """For a route that answers with text, and only its errors are JSON."""
    error = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}
    page = {"text/plain": {"schema": {"type": "string"}, "example": "stt_sessions 12.0\n"}}
    return {
        200: {"content": page},
        **{status: {"content": error, "description": ERRORS[status]} for status in statuses},
    }


def answers(*, streams: bool) -> Responses:
    """For a route that takes a file."""
    content: dict[str, Any] = {
        "application/json": {"examples": EXAMPLES},
        "text/plain": {"schema": {"type": "string"}, "examples": TEXT_EXAMPLES},
        "text/vtt": {"schema": {"type": "string"}, "example": to_vtt([_SEGMENT])},
    }
    if streams:
        events = [TextDelta(delta="엄마"), TextDone(text="엄마")]
        content["text/event-stream"] = {
            "itemSchema": {"type": "object", "required": ["data"], "properties": {"data": EVENT_DATA}},
            "example": "".join(map(to_event, events)),
        }
    answer = {
        "model": TranscriptionJson | TranscriptionVerbose,
        "description": "The text, as `response_format` has it.",
        "content": content,
    }
    return {200: answer, **errors(400, 404, 408, 413, 415, 500, 503)}

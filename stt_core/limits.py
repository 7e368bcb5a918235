"""What one client, or all of them together, may ask of the server. Every limit is a setting with the same name.

`Limits.on_the_wire` is what `ready` tells a client, so that it can keep within them.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LARGEST_MESSAGE_BYTES = 2 * 1024 * 1024  # Modal's own limit, and so everybody's

# In `ready`; the others are the operator's business.
TOLD = (
    "max_message_bytes",
    "max_utterance_s",
    "max_push_to_talk_s",
    "audio_rate",
    "audio_burst_s",
    "control_rate",
    "idle_timeout_s",
    "session_timeout_s",
)


class Limits(BaseModel):
    """The limits, with their units and defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_message_bytes: Annotated[
        int,
        Field(ge=1024, le=LARGEST_MESSAGE_BYTES, description="Longest message, in bytes; a longer one closes 1009."),
    ] = LARGEST_MESSAGE_BYTES
    max_utterance_s: Annotated[
        float, Field(ge=1, le=300, description="An open microphone's utterance is split after this, in seconds.")
    ] = 30.0
    max_push_to_talk_s: Annotated[
        float, Field(ge=1, le=300, description="A push-to-talk utterance is split after this, in seconds.")
    ] = 65.0
    max_buffered_bytes: Annotated[
        int,
        Field(
            ge=64 * 1024,
            description="Audio of one client that has come and not been handled, in bytes; beyond it 4503.",
        ),
    ] = 8 * 1024 * 1024
    audio_rate: Annotated[
        float,
        Field(ge=0, description="Audio that a client of the network may send, in times real time; 0 is any."),
    ] = 1.5
    audio_burst_s: Annotated[
        float, Field(gt=0, description="Seconds of audio that it may send at once; beyond both it is closed with 4429.")
    ] = 130.0
    control_rate: Annotated[
        float, Field(ge=0, description="Text messages a second from one client; more closes 4429. 0 is any.")
    ] = 20.0
    control_burst: Annotated[int, Field(ge=1, description="Text messages that may come at once.")] = 60
    max_control_bytes: Annotated[
        int, Field(ge=256, description="Longest text message, in bytes; a longer one closes 4400.")
    ] = 256 * 1024
    max_sessions: Annotated[int, Field(ge=1, description="Connections in all; one more is answered 4503.")] = 1000
    max_sessions_per_token: Annotated[
        int, Field(ge=1, description="Connections with the same token; one more is answered 4503.")
    ] = 1000
    token_timeout_s: Annotated[
        float, Field(gt=0, description="Where a token is required it is due within this, in seconds; else 4401.")
    ] = 5.0
    idle_timeout_s: Annotated[
        float, Field(gt=0, description="A client that sends nothing for this long is closed with 4408, in seconds.")
    ] = 300.0
    session_timeout_s: Annotated[
        float, Field(gt=0, description="The longest session, in seconds; then 4410. Modal ends sockets after an hour.")
    ] = 3480.0
    going_away_s: Annotated[
        float, Field(ge=0, description="How long before that JSON clients are told `going_away`, in seconds.")
    ] = 30.0
    send_timeout_s: Annotated[
        float, Field(gt=0, description="A client that takes longer to read a message is cut off, in seconds.")
    ] = 10.0
    max_upload_bytes: Annotated[
        int, Field(ge=1024, description="Largest file over HTTP, in bytes; a larger one is answered 413.")
    ] = 25 * 1024 * 1024
    max_upload_audio_s: Annotated[
        float, Field(ge=1, description="Longest file over HTTP, in seconds of audio; a longer one is answered 400.")
    ] = 1800.0
    max_uploads: Annotated[
        int, Field(ge=1, description="Files that are worked on at a time; one more is answered 503.")
    ] = 64
    max_uploads_bytes: Annotated[
        int, Field(ge=1024, description="What they hold in memory together, in bytes; beyond it 503.")
    ] = 100 * 1024 * 1024
    upload_timeout_s: Annotated[
        float, Field(gt=0, description="How long a file may take to arrive, in seconds; else 408.")
    ] = 120.0
    max_queue_wait_s: Annotated[
        float, Field(gt=0, description="An utterance that would wait longer for the model is refused, in seconds.")
    ] = 30.0
    max_recordings: Annotated[
        int, Field(ge=1, description="Debug recordings that are kept; beyond it the oldest is deleted.")
    ] = 500
    max_recordings_bytes: Annotated[
        int, Field(ge=1024 * 1024, description="What they take on the disk together, in bytes; beyond it likewise.")
    ] = 1024 * 1024 * 1024
    max_recordings_age_s: Annotated[
        float, Field(gt=0, description="An older one is deleted at the start or with the next one, in seconds.")
    ] = 604_800.0
    max_recording_bytes: Annotated[
        int,
        Field(
            ge=64 * 1024,
            description="What is kept in memory of what one client sent, for its recording, in bytes; beyond it the "
            "beginning is missing.",
        ),
    ] = 32 * 1024 * 1024

    def on_the_wire(self) -> dict[str, int | float]:
        """The limits that `ready` names; whole numbers without a point, which strict readers stumble over."""
        values = {name: getattr(self, name) for name in TOLD}
        return {name: int(value) if value == int(value) else value for name, value in values.items()}


class TokenBucket:
    """Allows `rate` a second on average and `burst` at once. `rate` 0 allows anything.

    Source: the token bucket of RFC 2697.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._since_s: float | None = None

    def take(self, amount: float, now_s: float) -> bool:
        """Whether so much more is allowed at this time; if it is not, nothing is taken."""
        if not self._rate:
            return True
        elapsed_s = now_s - (now_s if self._since_s is None else self._since_s)
        self._since_s = now_s
        self._level = min(self._burst, self._level + elapsed_s * self._rate)
        if amount > self._level:
            return False
        self._level -= amount
        return True

    def wait_s(self, amount: float) -> float:
        """How long until so much is allowed, at the time of the last `take`."""
        return max(0.0, amount - self._level) / self._rate if self._rate else 0.0

"""Endpointing: deciding where an utterance begins and where it ends.

A state machine over the speech probabilities of 32 ms windows:

    SILENCE ──p ≥ threshold──▶ STARTING ──long enough──▶ SPEECH ──p < negative──▶ ENDING
       ▲                          │                         ▲                       │
       ├───────p < negative───────┘                         └─────p ≥ threshold─────┤
       └───────────────────────────silence long enough──────────────────────────────┘

Two thresholds give it hysteresis: speech begins above `threshold` and is only doubted below
`threshold - 0.15`, so a wavering consonant does not end an utterance. Time is a count of windows.

How long is long enough depends on what was said (`stt_core.completeness`), which only the session knows: this
machine ends an utterance after `max_silence_duration_ms`, the session may from `min_silence_duration_ms` on.

Source: Silero's `VADIterator`; options have the names used there and in faster-whisper.
"""

from dataclasses import dataclass
from enum import Enum, auto

from stt_core.vad import WINDOW_MS

HYSTERESIS = 0.15


@dataclass(frozen=True, slots=True)
class EndpointingOptions:
    """When speech is believed to begin and to end."""

    threshold: float = 0.5  # speech probability above which a window is speech
    min_speech_duration_ms: int = 64  # a shorter burst is a click, not speech
    min_silence_duration_ms: int = 448  # a shorter pause never ends the utterance
    max_silence_duration_ms: int = 800  # a longer one always does; between the two it depends on what was said
    speech_pad_ms: int = 500  # audio kept before the speech, whose quiet beginning the detector may miss
    speech_tail_ms: int = 96  # audio kept after the speech
    max_speech_duration_s: float = 30.0  # an open microphone's utterance is split after this

    @property
    def neg_threshold(self) -> float:
        """Speech probability below which speech is believed to be over."""
        return max(self.threshold - HYSTERESIS, 0.01)

    @property
    def min_speech_windows(self) -> int:
        return max(1, round(self.min_speech_duration_ms / WINDOW_MS))

    @property
    def max_silence_windows(self) -> int:
        return max(1, round(max(self.min_silence_duration_ms, self.max_silence_duration_ms) / WINDOW_MS))

    @property
    def pad_windows(self) -> int:
        return round(self.speech_pad_ms / WINDOW_MS)

    @property
    def tail_windows(self) -> int:
        return round(self.speech_tail_ms / WINDOW_MS)


class State(Enum):
    SILENCE = auto()
    STARTING = auto()  # loud enough, but not yet for long enough
    SPEECH = auto()
    ENDING = auto()  # silent, but not yet for long enough


class Event(Enum):
    SPEECH_STARTED = auto()
    SPEECH_ENDED = auto()


class Endpointer:
    """Follows one connection's windows. `start` and `end` count windows since the connection began."""

    def __init__(self, options: EndpointingOptions) -> None:
        self.options = options
        self.position = 0  # windows seen
        self.reset()

    def reset(self) -> None:
        """Believe that nobody is speaking."""
        self.state = State.SILENCE
        self.start = self.end = self.position

    @property
    def in_speech(self) -> bool:
        return self.state in (State.SPEECH, State.ENDING)

    def push(self, probability: float) -> Event | None:
        """Take the next window; say whether speech was found to have started or ended with it."""
        window, options = self.position, self.options
        self.position += 1
        loud = probability >= options.threshold
        silent = probability < options.neg_threshold

        if self.state is State.SILENCE and loud:
            self.state, self.start = State.STARTING, window
        elif self.state is State.STARTING and silent:
            self.state = State.SILENCE
        elif self.state is State.SPEECH and silent:
            self.state, self.end = State.ENDING, window
        elif self.state is State.ENDING and loud:
            self.state = State.SPEECH

        if self.state is State.STARTING and self.position - self.start >= options.min_speech_windows:
            self.state = State.SPEECH
            return Event.SPEECH_STARTED
        if self.state is State.ENDING and self.position - self.end >= options.max_silence_windows:
            self.state = State.SILENCE
            return Event.SPEECH_ENDED
        return None

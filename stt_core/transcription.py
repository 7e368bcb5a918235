"""What sessions and engines say to each other. Pure data; neither side knows the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stt_core.audio import Samples


@dataclass(frozen=True, slots=True)
class Request:
    """One utterance to transcribe."""

    samples: Samples  # (n,) float32 at 16 kHz, trimmed to the speech
    language: str  # a Whisper code (`ko`, `en`, …) or `auto`


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the model heard. `text` is empty where nothing intelligible was said."""

    text: str
    language: str
    avg_logprob: float = 0.0  # mean log probability of a token
    no_speech_prob: float = 0.0  # how much the model believes that this is not speech
    full_window: bool = False  # the fast path was doubted, so the whole 30 s window was encoded


class Engine(Protocol):
    """A model that several threads may call at once."""

    model: str  # what it is called on the wire
    workers: int  # calls of `transcribe` that run in parallel
    max_batch_size: int

    def load(self) -> None:
        """Load the model; blocking. Raises ModelError with a sentence for the operator."""
        ...

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        """One transcript for each request, in order; blocking."""
        ...

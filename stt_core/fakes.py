"""Stand-ins for the VAD and the engine: deterministic, instant, and able to fail. For tests and drills."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.transcription import Request, Segment, Transcript, Word
from stt_core.vad import Probabilities, VadStream


class EnergyVad:
    """A window is speech if its RMS is above `threshold`. Stands in for SileroVad."""

    def __init__(self, threshold: float = 0.01) -> None:
        self.threshold = threshold

    def stream(self) -> VadStream:
        return self._rate

    def _rate(self, windows: Samples) -> Probabilities:
        rms = np.sqrt(np.square(windows).mean(axis=1)) if len(windows) else np.zeros(0)
        return (rms > self.threshold).astype(np.float32)


def describe(request: Request) -> str:
    """The default fake transcript: language and length, so that a test sees what the engine was given."""
    return f"{request.language} {len(request.samples) / 16:.0f} ms"


class FakeEngine:
    """Answers at once, or after `delay_s`, with `text(request)`; raises what `text` raises."""

    model = "fake"

    def __init__(
        self,
        text: Callable[[Request], str] = describe,
        *,
        delay_s: float = 0.0,
        workers: int = 1,
        max_batch_size: int = 8,
    ) -> None:
        self._text = text
        self._delay_s = delay_s
        self.workers = workers
        self.max_batch_size = max_batch_size
        self.may_load = threading.Event()  # clear it to hold `load` back
        self.may_load.set()
        self.load_error: Exception | None = None
        self.batches: list[list[Request]] = []
        self.counts = {"looped": 0, "weak": 0, "sparse": 0, "whole_model": 0}

    def load(self) -> None:
        self.may_load.wait(timeout=60)
        if self.load_error:
            raise self.load_error

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        self.batches.append(list(requests))
        time.sleep(self._delay_s)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Transcript:
        """Where times are asked for, one segment for all of it, and its words of equal length."""
        text = self._text(request)
        words = text.split()
        if not request.timestamps or not words:
            return Transcript(text, request.language)
        edges_s = np.linspace(0, len(request.samples) / SAMPLE_RATE, len(words) + 1).tolist()
        timed = tuple(Word(f" {word}", edges_s[i], edges_s[i + 1], 1.0) for i, word in enumerate(words))
        segment = Segment(text, 0.0, edges_s[-1], words=timed if request.timestamps == "word" else ())
        return Transcript(text, request.language, segments=(segment,))

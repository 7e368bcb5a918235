"""Stand-ins for the VAD and the engine: deterministic, instant, and able to fail. For tests and drills."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from stt_core.audio import Samples
from stt_core.transcription import Request, Transcript
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

    def load(self) -> None:
        self.may_load.wait(timeout=60)
        if self.load_error:
            raise self.load_error

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        self.batches.append(list(requests))
        time.sleep(self._delay_s)
        return [Transcript(self._text(request), request.language) for request in requests]

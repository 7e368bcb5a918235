"""One connection's audio becomes utterances: samples in, utterances out.

Samples are cut into windows, the VAD rates each window, the endpointer decides. Audio is kept from a little
before the speech began (`speech_pad_ms`) and forgotten when it can no longer belong to an utterance, so a
microphone that stays open over hours of silence costs nothing. The clock is the audio: positions are sample
counts since the connection began.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.endpointing import Endpointer, EndpointingOptions, Event
from stt_core.vad import WINDOW_SAMPLES, Vad, VadStream

Reason = Literal["endpoint", "flush", "idle", "max_length", "message"]

# Speech that grows too long is cut at its quietest window, looked for in this last part of it.
SPLIT_SEARCH_S = 10.0


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of speech to transcribe, or the knowledge that there was none."""

    reason: Reason  # why it ended
    start_samples: int  # position in the connection's audio
    samples: Samples  # (n,) from a little before the speech to a little after; empty: nothing was said

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class UtteranceStream:
    """Finds the utterances in a stream of samples.

    Args:
        vad: rates this connection's windows.
        options: when speech begins and ends.
        endpointing: whether silence ends an utterance. Without it only `flush` does (push-to-talk).
    """

    def __init__(self, vad: VadStream, options: EndpointingOptions, *, endpointing: bool) -> None:
        self._vad = vad
        self._options = options
        self._endpointing = endpointing
        self._endpointer = Endpointer(options)
        self._rest = np.zeros(0, np.float32)  # samples that do not fill a window yet
        self._padding = 0  # samples that flushes made up to fill their last window
        self._windows: list[Samples] = []  # kept audio
        self._first = 0  # the number of the first kept window, as the endpointer counts them
        self._speech: tuple[int, int] | None = (
            None  # first window of the open speech and the one after its last
        )

    @property
    def holds_speech(self) -> bool:
        """Whether speech has begun that has not been handed out as an utterance."""
        return self._speech is not None

    def push(self, samples: Samples) -> Iterator[Utterance]:
        """Take samples; yield the utterances that ended in them."""
        pending = np.concatenate([self._rest, samples])
        whole = len(pending) - len(pending) % WINDOW_SAMPLES
        self._rest = pending[whole:]
        windows = pending[:whole].reshape(-1, WINDOW_SAMPLES)
        for window, probability in zip(windows, self._vad(windows), strict=True):
            if self._push_window(window, float(probability)) and self._endpointing:
                yield self._cut("endpoint")
            elif self._is_too_long():
                yield self._split()

    def flush(self, reason: Reason) -> Utterance:
        """End the utterance now, whatever was said. The next sample begins anew."""
        missing = -len(self._rest) % WINDOW_SAMPLES
        if missing:
            window = np.pad(self._rest, (0, missing))
            self._push_window(window, float(self._vad(window[None])[0]))
            self._rest = np.zeros(0, np.float32)
        utterance = self._cut(reason)
        self._padding += missing  # moves what comes after this utterance, not the utterance itself
        self._endpointer.reset()
        self._drop(len(self._windows))
        return utterance

    def _push_window(self, window: Samples, probability: float) -> bool:
        """Take a window; return whether it ended the speech."""
        number = self._endpointer.position
        self._windows.append(window)
        event = self._endpointer.push(probability)
        if event is Event.SPEECH_STARTED and self._speech is None:
            self._speech = self._endpointer.start, number + 1
        elif self._speech is not None and probability >= self._options.neg_threshold:
            self._speech = self._speech[0], number + 1
        if (
            self._speech is None
        ):  # before speech only the pad is worth keeping, and what may turn out to start it
            keep = self._options.pad_windows + self._options.min_speech_windows
            self._drop(max(0, len(self._windows) - keep))
        return event is Event.SPEECH_ENDED

    def _cut(self, reason: Reason) -> Utterance:
        """Hand out the open speech with its pads; keep the audio after it."""
        if self._speech is None:
            return self._utterance(reason, 0, 0)
        start, end = self._speech
        pad = self._options.pad_windows
        start = max(0, start - pad - self._first)
        end = min(len(self._windows), end + pad - self._first)
        utterance = self._utterance(reason, start, end)
        self._drop(end)
        self._speech = None
        return utterance

    def _is_too_long(self) -> bool:
        if self._speech is None:
            return False
        spoken = (self._endpointer.position - self._speech[0]) * WINDOW_SAMPLES / SAMPLE_RATE
        return spoken >= self._options.max_speech_duration_s

    def _split(self) -> Utterance:
        """Cut speech that has grown too long at its quietest late window; what was said after stays open."""
        assert self._speech is not None
        start, end = self._speech
        search = min(round(SPLIT_SEARCH_S * SAMPLE_RATE / WINDOW_SAMPLES), len(self._windows) // 2)
        loudness = [float(np.square(window).mean()) for window in self._windows[-search:]]
        cut = len(self._windows) - search + int(np.argmin(loudness))
        pad = self._options.pad_windows
        # Push-to-talk may be held long after the last word: that silence is nothing to transcribe.
        spoken = min(cut, end + pad - self._first)
        utterance = self._utterance("max_length", max(0, start - pad - self._first), spoken)
        self._drop(cut)
        if end > self._first:
            self._speech = self._first, end
        else:
            self._speech = None
            self._endpointer.reset()
        return utterance

    def _utterance(self, reason: Reason, start: int, end: int) -> Utterance:
        samples = np.concatenate([np.zeros(0, np.float32), *self._windows[start:end]])
        position = (self._first + start) * WINDOW_SAMPLES - self._padding
        return Utterance(reason, max(0, position), samples)

    def _drop(self, count: int) -> None:
        del self._windows[:count]
        self._first += count


def whole_utterance(samples: Samples, vad: Vad, options: EndpointingOptions) -> Utterance:
    """The speech in audio whose ends are known: silence around it cut away, pauses inside kept."""
    unlimited = replace(options, max_speech_duration_s=float("inf"))
    stream = UtteranceStream(vad.stream(), unlimited, endpointing=False)
    utterances = list(stream.push(samples))  # nothing but `flush` can end one here
    assert not utterances
    return stream.flush("message")

"""One connection's audio becomes utterances: samples in, utterances out.

Samples are cut into windows, the VAD rates each window, the endpointer decides. Audio is kept from a little
before the speech began (`speech_pad_ms`) and forgotten when it can no longer belong to an utterance, so a
microphone that stays open over hours of silence costs nothing. The clock is the audio: positions are sample
counts since the connection began.

Most of the wait for an endpoint is silence that tells nothing new. So when `speech_tail_ms` of it have passed the
utterance is handed out on speculation (`Paused`): its text can be ready when the endpoint is confirmed, or the
push-to-talk key released. If anything that could be speech follows, it is taken back (`Resumed`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.endpointing import Endpointer, EndpointingOptions
from stt_core.endpointing import Event as Endpoint
from stt_core.evidence import vad_ratio
from stt_core.vad import WINDOW_MS, WINDOW_SAMPLES, Vad, VadStream

Reason = Literal["endpoint", "flush", "idle", "max_length", "end", "message"]
CLIENTS_REASONS: tuple[Reason, ...] = ("flush", "message", "end")  # the client chose where the utterance ends

# Once speech has begun it lasts as long as anything might be speech: quiet last words have been seen at 0.2.
FAINT_PROBABILITY = 0.15

# Speech that grows too long is cut at its quietest window, looked for in this last part of it.
SPLIT_SEARCH_S = 10.0

NOTHING: Samples = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of speech to transcribe, or the knowledge that there was none."""

    reason: Reason  # why it ended
    start_samples: int  # position in the connection's audio
    samples: Samples  # (n,) from a little before the speech to a little after; empty: nothing was said
    speech_end_samples: int = 0  # position of the end of the speech itself; of the audio's end if there was none
    vad_ratio: float | None = None  # how sure the detector is of it (`stt_core.evidence`)

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    @property
    def end_samples(self) -> int:
        """Position of the end of `samples`."""
        return self.start_samples + len(self.samples)


@dataclass(frozen=True, slots=True)
class Started:
    """Speech has begun."""

    at_samples: int  # position in the connection's audio


@dataclass(frozen=True, slots=True)
class Paused:
    """The speech may be over. If it is, `utterance` is what will be handed out: the very same samples."""

    utterance: Utterance


@dataclass(frozen=True, slots=True)
class Resumed:
    """It was not over: what `Paused` handed out is void."""


Event = Started | Paused | Resumed | Utterance


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
        self._rest = NOTHING  # samples that do not fill a window yet
        self._padding = 0  # samples that flushes made up to fill their last window
        self._windows: list[Samples] = []  # kept audio
        self._probabilities: list[float] = []  # what the detector says of it
        self._first = 0  # the number of the first kept window, as the endpointer counts them
        self._speech: tuple[int, int] | None = None  # the open speech: its first window and the one after its last
        self._likely_end = 0  # the window after the last one that was likely speech
        self._announced = False  # whether `Started` has been said of it
        self._pause: Utterance | None = None  # the open speech, handed out on speculation

    @property
    def holds_speech(self) -> bool:
        """Whether speech has begun that has not been handed out as an utterance."""
        return self._speech is not None

    @property
    def position_samples(self) -> int:
        """Samples that have been pushed since the connection began."""
        return self._position(len(self._windows)) + len(self._rest)

    def listen(self, options: EndpointingOptions, *, endpointing: bool) -> None:
        """Follow these rules from here on. No speech may be open."""
        assert self._speech is None, "flush or discard the open speech first"
        self._options = options
        self._endpointing = endpointing
        self._endpointer.options = options

    def push(self, samples: Samples) -> Iterator[Event]:
        """Take samples; yield the speech that began, and the utterances that ended in them or may have."""
        pending = np.concatenate([self._rest, samples])
        whole = len(pending) - len(pending) % WINDOW_SAMPLES
        self._rest = pending[whole:]
        windows = pending[:whole].reshape(-1, WINDOW_SAMPLES)
        for window, probability in zip(windows, self._vad(windows), strict=True):
            ended = self._push_window(window, float(probability))
            if self._speech is not None and not self._announced:
                self._announced = True
                yield Started(self._position(max(0, self._speech[0] - self._first)))
            if ended and self._endpointing:
                yield self._cut("endpoint")
            elif self._is_too_long():
                yield self._split()
            elif self._speech is not None:
                quiet_windows = self._endpointer.position - self._speech[1]
                if self._pause is None and quiet_windows == max(1, self._options.tail_windows):
                    self._pause = self._open_utterance("endpoint")
                    yield Paused(self._pause)
                elif self._pause is not None and not quiet_windows:
                    self._pause = None
                    yield Resumed()

    @property
    def silence_ms(self) -> float:
        """How long nothing like speech has followed the open speech."""
        return 0 if self._speech is None else (self._endpointer.position - self._likely_end) * WINDOW_MS

    def end(self) -> Utterance:
        """End the open speech here, although the endpointer is not sure yet. The audio after it is kept."""
        utterance = self._cut("endpoint")
        self._endpointer.reset()
        return utterance

    def draft(self) -> tuple[Samples, float | None]:
        """The open speech so far, to look at while it goes on, and its `vad_ratio`; empty if none is open."""
        if self._speech is None:
            return NOTHING, None
        start = max(0, self._speech[0] - self._options.pad_windows - self._first)
        return np.concatenate([*self._windows[start:], self._rest]), vad_ratio(self._probabilities[start:])

    def announce_again(self) -> None:
        """Say once more that the open speech has begun: to somebody who has not been told."""
        self._announced = False

    def discard(self) -> tuple[int, int]:
        """Throw away what is open. Returns the positions between which the audio was thrown away."""
        start = self._position(0)
        self.flush("flush")
        return start, self.position_samples

    def flush(self, reason: Reason) -> Utterance:
        """End the utterance now, whatever was said. The next sample begins anew."""
        here = self.position_samples
        missing = -len(self._rest) % WINDOW_SAMPLES
        if missing:
            window = np.pad(self._rest, (0, missing))
            self._push_window(window, float(self._vad(window[None])[0]))
            self._rest = NOTHING
        utterance = self._cut(reason) if self._speech is not None else Utterance(reason, here, NOTHING, here)
        if utterance.end_samples > here:
            utterance = replace(
                utterance, samples=utterance.samples[: here - utterance.start_samples], speech_end_samples=here
            )
        self._padding += missing  # moves what comes after this utterance, not the utterance itself
        self._endpointer.reset()
        self._drop(len(self._windows))
        return utterance

    def _push_window(self, window: Samples, probability: float) -> bool:
        """Take a window; return whether it ended the speech."""
        number = self._endpointer.position
        self._windows.append(window)
        self._probabilities.append(probability)
        event = self._endpointer.push(probability)
        if event is Endpoint.SPEECH_STARTED and self._speech is None:
            self._speech = self._endpointer.start, number + 1
        elif self._speech is not None and probability >= FAINT_PROBABILITY:
            self._speech = self._speech[0], number + 1
        if probability >= self._options.neg_threshold:
            self._likely_end = number + 1
        if self._speech is None:  # before it only the pad is worth keeping, and what may turn out to start it
            keep = self._options.pad_windows + self._options.min_speech_windows
            self._drop(max(0, len(self._windows) - keep))
        return event is Endpoint.SPEECH_ENDED

    def _cut(self, reason: Reason) -> Utterance:
        """Hand out the open speech with its pads; keep the audio after it."""
        assert self._speech is not None
        end = self._speech[1] + self._options.tail_windows - self._first
        utterance = self._open_utterance(reason)
        if self._pause is not None and len(self._pause.samples) == len(utterance.samples):
            utterance = replace(self._pause, reason=reason)  # the very same samples: they are being transcribed
        self._drop(min(end, len(self._windows)))
        self._speech = self._pause = None
        self._announced = False
        return utterance

    def _is_too_long(self) -> bool:
        if self._speech is None:
            return False
        spoken = (self._endpointer.position - self._speech[0]) * WINDOW_SAMPLES / SAMPLE_RATE
        return spoken >= self._options.max_speech_duration_s

    def _split(self) -> Utterance:
        """Cut speech that has grown too long at its quietest late window; what was said after stays open."""
        assert self._speech is not None
        end = self._speech[1]
        search = min(round(SPLIT_SEARCH_S * SAMPLE_RATE / WINDOW_SAMPLES), len(self._windows) // 2)
        loudness = [float(np.square(window).mean()) for window in self._windows[-search:]]
        cut = len(self._windows) - search + int(np.argmin(loudness))
        # Push-to-talk may be held long after the last word: `_open_utterance` leaves that silence out.
        utterance = self._open_utterance("max_length", self._first + cut)
        self._drop(cut)
        self._pause = None
        self._announced = False
        if end > self._first:
            self._speech = self._first, end
        else:
            self._speech = None
            self._endpointer.reset()
        return utterance

    def _open_utterance(self, reason: Reason, before: int | None = None) -> Utterance:
        """The open speech with its pads, as far as it lies before window `before`."""
        assert self._speech is not None
        start = max(0, self._speech[0] - self._options.pad_windows - self._first)
        end = self._speech[1] + self._options.tail_windows
        end = (end if before is None else min(end, before)) - self._first
        samples = np.concatenate(self._windows[start:end])
        speech_end = min(self._position(self._speech[1] - self._first), self._position(start) + len(samples))
        ratio = vad_ratio(self._probabilities[start:end])
        return Utterance(reason, self._position(start), samples, speech_end, ratio)

    def _position(self, index: int) -> int:
        """Where the kept window `index` began, in samples since the connection began."""
        return max(0, (self._first + index) * WINDOW_SAMPLES - self._padding)

    def _drop(self, count: int) -> None:
        del self._windows[:count], self._probabilities[:count]
        self._first += count


def whole_utterance(samples: Samples, vad: Vad, options: EndpointingOptions) -> Utterance:
    """The speech in audio whose ends are known: silence around it cut away, pauses inside kept."""
    unlimited = replace(options, max_speech_duration_s=float("inf"))
    stream = UtteranceStream(vad.stream(), unlimited, endpointing=False)
    for _ in stream.push(samples):  # pauses; nothing but `flush` can end an utterance here
        pass
    return stream.flush("message")

"""Voice activity detection: how likely each 32 ms window holds speech.

The detector is Silero VAD v6, which ships inside faster-whisper as an ONNX file. It is recurrent: a window's
probability depends on all windows before it, so every connection has a stream of its own (its state and the
last 64 samples), while all share the one loaded network. Windows stepped one by one or many at a time give
bit-identical probabilities.

A hundred open microphones are silent most of the time, and rating silence costs as much as rating speech. So
`GatedVad` asks the detector only while there is something to rate: once it has found no speech for a second,
windows hardly louder than most of that second were are taken for silence unheard. Louder ones open the gate again, and
the detector first hears what came just before them, as its memory needs. If it finds nothing in a quarter of a second
more, that was the noise, which is now and then louder than it is most of the time.

A bang must not make the gate deaf to the softer voices after it. So the ceiling is made from the median, which a short
sound does not move, and while the gate is closed it falls with the noise: after a vacuum cleaner of a minute, half a
second of quiet is enough. `bench endpoints` measures what the gate misses.

Source: https://github.com/snakers4/silero-vad, `utils_vad.py` (OnnxWrapper, VADIterator).
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stt_core.audio import SAMPLE_RATE, Samples

WINDOW_SAMPLES = 512
WINDOW_MS = 1000 * WINDOW_SAMPLES // SAMPLE_RATE  # 32
CONTEXT_SAMPLES = 64  # of the window before, put in front of each window

Probabilities = NDArray[np.float32]  # (n,) one for each window


class VadStream(Protocol):
    """Takes the windows of one connection in order and says how likely each holds speech."""

    def __call__(self, windows: Samples) -> Probabilities:
        """`windows` is (n, 512) float32; returns (n,) probabilities in [0, 1]."""
        ...


class Vad(Protocol):
    """A loaded detector, shared by all connections."""

    def stream(self) -> VadStream: ...


class SileroVad:
    """The loaded Silero network. Thread-safe; `stream()` gives each connection its own state."""

    def __init__(self) -> None:
        import onnxruntime
        from faster_whisper.utils import get_assets_path

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(Path(get_assets_path()) / "silero_vad_v6.onnx"),
            providers=["CPUExecutionProvider"],
            sess_options=options,
        )

    def stream(self) -> VadStream:
        return _SileroStream(self._session)


class _SileroStream:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)

    def __call__(self, windows: Samples) -> Probabilities:
        if not len(windows):
            return np.zeros(0, np.float32)
        tails = windows[:, -CONTEXT_SAMPLES:]
        contexts = np.vstack([self._context, tails[:-1]])
        self._context = tails[-1].copy()
        inputs = {"input": np.hstack([contexts, windows]), "h": self._h, "c": self._c}
        probabilities, self._h, self._c = self._session.run(None, inputs)
        return np.asarray(probabilities, np.float32).ravel()


GATE_CLOSES_WINDOWS = 31  # after one second in which the detector found nothing
GATE_RECLOSES_WINDOWS = 8  # the same where it had been closed before: 256 ms
GATE_PROBABILITY = 0.1  # below this it found nothing
GATE_FACTOR = 1.5  # 3.5 dB above the median loudness begins what is worth rating; a room swells by 3
GATE_SILENCE = 1e-5  # -100 dBFS, below any microphone's noise
GATE_REPLAY_WINDOWS = 8  # what the detector hears first when the gate opens, 256 ms


class GatedVad:
    """A detector that is asked only while there is something to rate."""

    def __init__(self, vad: Vad) -> None:
        self._vad = vad

    def stream(self) -> VadStream:
        return _GatedStream(self._vad.stream())


class _GatedStream:
    def __init__(self, stream: VadStream) -> None:
        self._stream = stream
        self._ceiling: float | None = None  # windows no louder than this are silence; None: the gate is open
        self._nothing_windows = 0  # in a row, until now
        self._loudness: deque[float] = deque(maxlen=GATE_CLOSES_WINDOWS)  # of the last windows
        self._unheard: deque[Samples] = deque(maxlen=GATE_REPLAY_WINDOWS)  # the last windows, gate closed

    def __call__(self, windows: Samples) -> Probabilities:
        probabilities = np.zeros(len(windows), np.float32)
        loudness = voice_loudness(windows).tolist()
        i = 0
        while i < len(windows):
            if self._ceiling is not None and loudness[i] <= self._ceiling:
                self._pass_by(windows[i], loudness[i])
                i += 1
                continue
            self._open()
            j = min(len(windows), i + GATE_CLOSES_WINDOWS - self._nothing_windows)  # it cannot close before
            probabilities[i:j] = self._stream(windows[i:j])
            self._listen(probabilities[i:j], loudness[i:j])
            i = j
        return probabilities

    def _pass_by(self, window: Samples, loudness: float) -> None:
        """Take a window for silence; let the ceiling fall with the noise."""
        self._unheard.append(window)
        self._loudness.append(loudness)
        self._nothing_windows += 1
        if self._ceiling is not None and self._nothing_windows % GATE_RECLOSES_WINDOWS == 0:
            self._ceiling = min(self._ceiling, self._lowest_ceiling())

    def _open(self) -> None:
        if self._ceiling is not None:
            self._ceiling = None
            self._nothing_windows = GATE_CLOSES_WINDOWS - GATE_RECLOSES_WINDOWS
            if self._unheard:
                self._stream(np.array(self._unheard))
                self._unheard.clear()

    def _listen(self, probabilities: Probabilities, loudness: Sequence[float]) -> None:
        """Close the gate after enough of nothing."""
        self._loudness.extend(loudness)
        something = np.flatnonzero(probabilities >= GATE_PROBABILITY)
        since = len(probabilities) - 1 - int(something[-1]) if len(something) else None
        self._nothing_windows = self._nothing_windows + len(probabilities) if since is None else since
        if self._nothing_windows >= GATE_CLOSES_WINDOWS:
            self._ceiling = self._lowest_ceiling()

    def _lowest_ceiling(self) -> float:
        """Above most of the last second."""
        return max(GATE_SILENCE, GATE_FACTOR * median(self._loudness))


def voice_loudness(windows: Samples) -> NDArray[np.float32]:
    """Loudness below 2 kHz, where voices are and hiss is little: (n, 512) windows to (n,) RMS.

    Averages of four samples are a low-pass filter that is good enough, and cheap; the deviation leaves out DC.
    """
    return np.asarray(windows.reshape(-1, WINDOW_SAMPLES // 4, 4).mean(axis=2).std(axis=1), np.float32)

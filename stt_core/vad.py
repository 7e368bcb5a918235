"""Voice activity detection: how likely each 32 ms window holds speech.

The detector is Silero VAD v6, which ships inside faster-whisper as an ONNX file. It is recurrent: a window's
probability depends on all windows before it, so every connection has a stream of its own (its state and the
last 64 samples), while all share the one loaded network. Windows stepped one by one or many at a time give
bit-identical probabilities.

A hundred open microphones are silent most of the time, and rating silence costs as much as rating speech. So
`GatedVad` asks the detector only while there is something to rate: once it has found no speech for a second,
windows no louder than that second was are taken for silence unheard. Louder ones open the gate again, and the
detector first hears what came just before them, as its memory needs. Of the detector's speech windows in 127 clips,
after six seconds of white noise and in it, 0.1 % were missed at -60 dBFS, 0.03 % at -45 and 0.9 % at -35, where two
clips softer than the noise were lost (measured once, by a script that is not kept; `tests/test_vad.py` guards it).

Source: https://github.com/snakers4/silero-vad, `utils_vad.py` (OnnxWrapper, VADIterator).
"""

from collections import deque
from pathlib import Path
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
GATE_PROBABILITY = 0.1  # below this it found nothing
GATE_QUANTILE = 0.9  # of that second's loudness: one click must not close the gate on quiet speech
GATE_FACTOR = 1.2  # 1.6 dB above it begins what is worth rating
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
        loudness = voice_loudness(windows)
        i = 0
        while i < len(windows):
            if self._ceiling is not None and loudness[i] <= self._ceiling:
                self._unheard.append(windows[i])
                i += 1
                continue
            self._open()
            j = min(len(windows), i + GATE_CLOSES_WINDOWS - self._nothing_windows)  # it cannot close before
            probabilities[i:j] = self._stream(windows[i:j])
            self._listen(probabilities[i:j], loudness[i:j])
            i = j
        return probabilities

    def _open(self) -> None:
        if self._ceiling is not None:
            self._ceiling = None
            self._nothing_windows = 0
            if self._unheard:
                self._stream(np.array(self._unheard))
                self._unheard.clear()

    def _listen(self, probabilities: Probabilities, loudness: NDArray[np.float32]) -> None:
        """Close the gate after a second of nothing, at the loudness of that second."""
        self._loudness.extend(loudness.tolist())
        something = np.flatnonzero(probabilities >= GATE_PROBABILITY)
        since = len(probabilities) - 1 - int(something[-1]) if len(something) else None
        self._nothing_windows = self._nothing_windows + len(probabilities) if since is None else since
        if self._nothing_windows >= GATE_CLOSES_WINDOWS:
            self._ceiling = max(GATE_SILENCE, GATE_FACTOR * float(np.quantile(self._loudness, GATE_QUANTILE)))


def voice_loudness(windows: Samples) -> NDArray[np.float32]:
    """Loudness below 2 kHz, where voices are and hiss is little: (n, 512) windows to (n,) RMS.

    Averages of four samples are a low-pass filter that is good enough, and cheap; the deviation leaves out DC.
    """
    return np.asarray(windows.reshape(-1, WINDOW_SAMPLES // 4, 4).mean(axis=2).std(axis=1), np.float32)

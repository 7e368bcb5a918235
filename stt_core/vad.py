"""Voice activity detection: how likely each 32 ms window holds speech.

The detector is Silero VAD v6, which ships inside faster-whisper as an ONNX file. It is recurrent: a window's
probability depends on all windows before it, so every connection has a stream of its own (its state and the
last 64 samples), while all share the one loaded network. Windows stepped one by one or many at a time give
bit-identical probabilities.

Source: https://github.com/snakers4/silero-vad, `utils_vad.py` (OnnxWrapper, VADIterator).
"""

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

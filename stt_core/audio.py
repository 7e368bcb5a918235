"""Bytes from the wire become samples: 16 kHz mono float32, whatever the client declared.

A client may cut its audio anywhere, in the middle of a sample or of a WAV header, so the decoder keeps
what is incomplete until the rest arrives: any chunking of the same bytes gives the same samples. An odd
byte that were dropped would shift every following sample by eight bits and turn speech into noise.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stt_core.errors import AudioError

SAMPLE_RATE = 16_000  # Hz, of Whisper, of Silero VAD and of every array in this package

Samples = NDArray[np.float32]  # (n,) mono at SAMPLE_RATE, in [-1, 1]
Encoding = Literal["s16le", "f32le"]

SAMPLE_BYTES: dict[Encoding, int] = {"s16le": 2, "f32le": 4}
SAMPLE_RATES_HZ = range(8_000, 192_001)
CHANNELS = range(1, 9)
WAV_HEADER_MAX_BYTES = 64 * 1024  # a header longer than this (a picture in a LIST chunk) is not speech


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What a client says its bytes are.

    Raises:
        AudioError: a value is outside what the server takes.
    """

    sample_rate: int = SAMPLE_RATE  # Hz
    channels: int = 1  # interleaved
    encoding: Encoding = "s16le"

    def __post_init__(self) -> None:
        if self.sample_rate not in SAMPLE_RATES_HZ:
            raise AudioError(f"sample_rate must be 8000 to 192000 Hz, not {self.sample_rate}")
        if self.channels not in CHANNELS:
            raise AudioError(f"channels must be 1 to 8, not {self.channels}")
        if self.encoding not in SAMPLE_BYTES:
            raise AudioError(f"encoding must be {' or '.join(get_args(Encoding))}, not {self.encoding!r:.40}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return SAMPLE_BYTES[self.encoding] * self.channels

    def duration_s(self, byte_count: int) -> float:
        """How long this many bytes play."""
        return byte_count / self.frame_bytes / self.sample_rate


def wav_header_bytes(data: bytes | bytearray | memoryview) -> int | None:
    """Length of the RIFF/WAV header that `data` begins with: 0 if there is none, None if more is needed.

    The header ends where the samples of its `data` chunk begin; chunks before that one are skipped.
    """
    head = bytes(data[:12])
    if head[:4] != b"RIFF"[: len(head)] or head[8:12] != b"WAVE"[: max(0, len(head) - 8)]:
        return 0
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if name == b"data":
            return position
        position += size + size % 2  # chunks are padded to even length
        if position > WAV_HEADER_MAX_BYTES:
            return 0
    return None


def is_wav(data: bytes) -> bool:
    """Whether `data` begins with the first twelve bytes of a WAV file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WAVE"


class PcmDecoder:
    """Turns one connection's bytes into samples. Keeps incomplete samples, strips a leading WAV header."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self.reset()

    def reset(self) -> None:
        """Forget what is incomplete: the next byte begins a sample, or a WAV header."""
        self._carry = bytearray()
        self._header_possible = True
        self._resampler: Any = None

    @property
    def carried_bytes(self) -> int:
        """Bytes that wait for the rest of their sample, or of their header."""
        return len(self._carry)

    def align(self, message: bytes) -> None:
        """Prepare for a message that may stand alone: a WAV file, or an utterance sent whole.

        What is left over from the message before belongs to this one if together they fill their frames and
        sound smoother than this one by itself. Otherwise it is a stray byte, and would turn this into noise.
        """
        joined = bytes(self._carry) + message
        if (
            is_wav(message)
            or self._header_possible  # the header that the message before began with never ended
            or len(joined) % self.format.frame_bytes
            or self._roughness(joined) > self._roughness(message)
        ):
            self.reset()

    def _roughness(self, data: bytes) -> float:
        """How much neighbouring samples of the first frames differ: much, where bytes are misaligned."""
        frames = self._downmix(data[: min(len(data), 16_384) // self.format.frame_bytes * self.format.frame_bytes])
        return float(np.abs(np.diff(frames)).mean()) if len(frames) > 1 else 0.0

    def decode(self, chunk: bytes) -> Samples:
        """Samples that are complete with this chunk, (n,) float32 at 16 kHz; n may be 0."""
        self._carry += chunk
        if self._header_possible:
            header = wav_header_bytes(self._carry)
            if header is None:
                return np.zeros(0, np.float32)
            self._header_possible = False
            del self._carry[:header]
        whole = len(self._carry) - len(self._carry) % self.format.frame_bytes
        frames = bytes(self._carry[:whole])
        del self._carry[:whole]
        return self._to_16k(self._downmix(frames))

    def finish(self) -> Samples:
        """The last samples, which the resampler holds back; then forget everything."""
        tail = np.zeros(0, np.float32)
        if self._resampler is not None:
            tail = _resampled(self._resampler.resample(None))
        self.reset()
        return tail

    def _downmix(self, frames: bytes) -> Samples:
        if self.format.encoding == "s16le":
            samples = np.frombuffer(frames, "<i2").astype(np.float32) / np.float32(32768)
        else:
            # One NaN costs the model 49 s of decoding; an Inf poisons the resampler for good.
            floats = np.nan_to_num(np.frombuffer(frames, "<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
            samples = np.clip(floats, -1, 1).astype(np.float32)
        if self.format.channels > 1:
            # PyAV's own downmix makes two identical channels 1.41 times louder: average instead.
            samples = np.asarray(samples.reshape(-1, self.format.channels).mean(axis=1), np.float32)
        return samples

    def _to_16k(self, samples: Samples) -> Samples:
        if self.format.sample_rate == SAMPLE_RATE or not len(samples):
            return samples
        import av  # 0.1 s, and only for clients that do not send 16 kHz

        if self._resampler is None:
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = self.format.sample_rate
        return _resampled(self._resampler.resample(frame))


def _resampled(frames: list[Any]) -> Samples:
    arrays = [frame.to_ndarray().ravel() for frame in frames]
    return np.clip(np.concatenate(arrays), -1, 1) if arrays else np.zeros(0, np.float32)


def to_s16le(samples: Samples) -> bytes:
    """Samples as 16-bit PCM; what was decoded from s16le becomes the same bytes again."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def read_audio(path: str | Path) -> Samples:
    """A WAV, FLAC, OGG or MP3 file as (n,) float32 samples at 16 kHz mono.

    Raises:
        AudioError: the file is missing or is not audio that soundfile reads.
    """
    import soundfile

    if not Path(path).is_file():
        raise AudioError(f"There is no audio file at {path}.")
    try:
        frames, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        detail = re.sub(r"^Error opening .*?: ", "", str(error))
        raise AudioError(f"{path} is not audio that can be read (WAV, FLAC, OGG or MP3): {detail}") from None
    decoder = PcmDecoder(AudioFormat(sample_rate, frames.shape[1], "f32le"))
    decoder._header_possible = False
    return np.concatenate([decoder.decode(frames.astype("<f4").tobytes()), decoder.finish()])

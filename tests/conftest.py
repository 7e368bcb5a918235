"""What several test files share: sounds, ways to cut them up, and how hard Hypothesis tries."""

import struct
from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
from hypothesis import settings

from stt_core.audio import SAMPLE_RATE, Samples

settings.register_profile("quick", max_examples=25, deadline=None)
settings.load_profile("quick")


def tone(duration_s: float, frequency_hz: float = 440.0, sample_rate: int = SAMPLE_RATE) -> Samples:
    """A sine at half of full scale, which EnergyVad takes for speech."""
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def silence(duration_s: float, sample_rate: int = SAMPLE_RATE) -> Samples:
    return np.zeros(round(duration_s * sample_rate), np.float32)


def s16le(*parts: Samples) -> bytes:
    """The parts, one after the other, as they travel on the wire."""
    return (np.concatenate(parts) * 32767).astype("<i2").tobytes()


def wav_header(data_bytes: int, *, extra_chunks: bytes = b"", sample_rate: int = SAMPLE_RATE) -> bytes:
    """The header of a 16-bit mono WAV file, `extra_chunks` standing before the samples."""
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    body = b"WAVE" + fmt + extra_chunks + b"data" + struct.pack("<I", data_bytes)
    return b"RIFF" + struct.pack("<I", len(body) + data_bytes) + body


def in_chunks(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """`data` cut into chunks of these sizes, over and over again until it is used up."""
    position = 0
    for size in cycle(sizes):
        if position >= len(data):
            return
        yield data[position : position + size]
        position += size

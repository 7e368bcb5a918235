"""What the bytes are: a file, text, or samples of some width, byte order and alignment.

The right way to read bytes is the one that makes them compress best: neighbouring samples of sound are alike, and a
wrong width, order or alignment turns their low bytes into noise on top. So every way to read is rated by the bits
that the difference between neighbours takes, as FLAC would write it, and one that saves bits almost everywhere
is what the sender meant. White noise takes the same bits whichever way it is read, and accuses nobody.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stt_core.audio import SAMPLE_BYTES, AudioFormat, Encoding, wav_header_bytes
from stt_core.diagnosis.findings import Code, Finding

Bytes = NDArray[np.uint8]

BLOCK_BYTES = 2048
BLOCKS = 40  # rated at most, evenly spread
SAVES_BITS = 2.0  # of 16, by which a reading must beat the declared one in a block
AUDIBLE = 3e-5  # of full scale: floats below this are not sound
SURE_BITS = 16.0  # what is saved by floats that are all sane: integers never are
SAVES_IN = 0.7  # of the blocks that hold sound
BITS_OF_NONSENSE = 40.0  # for what is NaN, huge or tiny
MAGIC = (b"OggS", b"ID3", b"fLaC", b"\x1aE\xdf\xa3", b"caff", b"FORM")
MP3_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
MP3_KBITS_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
MP3_RATES_HZ = (44_100, 48_000, 32_000)


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read samples."""

    encoding: Encoding
    skip_bytes: int = 0  # before the first whole sample
    swapped: bool = False  # big-endian

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype({"s16le": "i2", "f32le": "f4"}[self.encoding]).newbyteorder(">" if self.swapped else "<")


@dataclass(frozen=True, slots=True)
class WavHeader:
    at_byte: int
    header_bytes: int
    sample_rate: int  # Hz
    channels: int
    bits: int
    is_float: bool

    def says(self, audio_format: AudioFormat) -> bool:
        """Whether it declares the same."""
        return (self.sample_rate, self.channels, self.bits, self.is_float) == (
            audio_format.sample_rate,
            audio_format.channels,
            8 * SAMPLE_BYTES[audio_format.encoding],
            audio_format.encoding == "f32le",
        )


def find_file(head: bytes) -> Finding | None:
    """A compressed file or text where samples should be, by its first bytes."""
    if head.startswith(MAGIC) or head[4:8] == b"ftyp" or _mp3_frames(head) >= 2:
        return Finding("encoded_audio", 1.0, {})
    if len(head) >= 32:
        printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head) / len(head)
        jumps = np.abs(np.diff(np.frombuffer(head[: len(head) // 2 * 2], "<i2").astype(np.float64))).mean()
        if printable > 0.97 and jumps > 1000:  # a constant offset may be printable as well
            return Finding("text_as_audio", 1.0, {"printable_percent": 100 * printable})
    return None


def _mp3_frames(head: bytes) -> int:
    """How many MP3 frames follow one another from the first byte on."""
    position = frames = 0
    while frames < 3 and position + 4 <= len(head):
        word = int.from_bytes(head[position : position + 4], "big")
        version, layer = word >> 19 & 3, word >> 17 & 3
        bitrate, rate = word >> 12 & 15, word >> 10 & 3
        if word >> 21 != 0x7FF or version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
            break
        kbits = (MP3_KBITS if version == 3 else MP3_KBITS_LOW)[bitrate]
        rate_hz = MP3_RATES_HZ[rate] >> (3 - version if version else 2)
        position += (144 if version == 3 else 72) * 1000 * kbits // rate_hz + (word >> 9 & 1)
        frames += 1
    return frames


def find_wav_headers(data: bytes) -> list[WavHeader]:
    """Every WAV header in the bytes, wherever it lies."""
    found = []
    at = data.find(b"RIFF")
    while at >= 0:
        size = wav_header_bytes(memoryview(data)[at:]) if data[at + 8 : at + 12] == b"WAVE" else 0
        fmt = data.find(b"fmt ", at, at + (size or 0))
        if size and fmt > 0:
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, fmt + 8)
            if tag == 0xFFFE and fmt + 34 <= at + size:  # WAVE_FORMAT_EXTENSIBLE: the tag is in its GUID
                tag = struct.unpack_from("<H", data, fmt + 32)[0]
            found.append(WavHeader(at, size, rate, channels, bits, tag == 3))
        at = data.find(b"RIFF", at + max(4, size or 0))
    return found


def without_headers(data: bytes, headers: Sequence[WavHeader]) -> bytes:
    """The bytes between the headers."""
    parts, position = [], 0
    for header in headers:
        parts.append(data[position : header.at_byte])
        position = header.at_byte + header.header_bytes
    return b"".join([*parts, data[position:]])


def decode(data: bytes, reading: Reading) -> NDArray[np.float64]:
    """Every sample, channels interleaved, full scale 1; what is not a sane number is 0."""
    body = data[reading.skip_bytes :]
    size = SAMPLE_BYTES[reading.encoding]
    with np.errstate(invalid="ignore"):
        samples = np.frombuffer(body[: len(body) // size * size], reading.dtype).astype(np.float64)
        if reading.encoding == "s16le":
            return samples / 32768
        return np.where(np.abs(samples) <= 8, samples, 0.0)  # false for NaN


def _blocks(data: bytes) -> tuple[NDArray[np.intp], Bytes]:
    """Where blocks begin, and the blocks with 8 bytes beyond, (n, BLOCK_BYTES + 8); those without sound left out."""
    raw = np.frombuffer(data, np.uint8)
    count = (len(raw) - 8) // BLOCK_BYTES
    if count < 1:
        return np.zeros(0, np.intp), np.zeros((0, BLOCK_BYTES + 8), np.uint8)
    starts = np.unique(np.linspace(0, count - 1, min(count, BLOCKS)).astype(np.intp)) * BLOCK_BYTES
    blocks = raw[starts[:, None] + np.arange(BLOCK_BYTES + 8)]
    sounding = (blocks[:, 8:] != blocks[:, :-8]).mean(axis=1) > 0.2
    return starts[sounding], blocks[sounding]


def _bits(blocks: Bytes, reading: Reading, channels: int) -> tuple[NDArray[np.float64], float]:
    """Bits that 16 bits of each block take when read so, (n,), and the share of sane numbers."""
    body = np.ascontiguousarray(blocks[:, reading.skip_bytes : reading.skip_bytes + BLOCK_BYTES])
    samples = body.view(reading.dtype)
    sane = 1.0
    if reading.encoding == "f32le":
        with np.errstate(invalid="ignore", over="ignore"):
            values = samples.astype(np.float64)
            nonsense = ~((values == 0) | ((np.abs(values) > 1e-7) & (np.abs(values) <= 8)))
        sane = 1 - float(nonsense.sum() / max(1, (values != 0).sum()))
        values = np.where(nonsense, 0.0, values)
        if np.percentile(np.abs(values), 95) < AUDIBLE:
            sane = 0.0  # integers in the wrong place may be tiny floats
        values = values * 32768
    else:
        values = samples.astype(np.float64)
    costs = []
    for lag in {1, 2, channels}:
        cost = np.log2(1 + np.abs(values[:, lag:] - values[:, :-lag]))
        if reading.encoding == "f32le":
            cost = np.where(nonsense[:, lag:], BITS_OF_NONSENSE, cost)
        costs.append(cost.mean(axis=1) * 2 / SAMPLE_BYTES[reading.encoding])
    return np.min(costs, axis=0), sane


def find_reading(data: bytes, audio_format: AudioFormat) -> tuple[Reading, Finding | None]:
    """How the samples must be read, and what is wrong if that is not how they were declared."""
    declared = Reading(audio_format.encoding)
    starts, blocks = _blocks(data)
    if len(blocks) < 2:
        return declared, None
    channels = audio_format.channels
    own, own_sane = _bits(blocks, declared, channels)
    if declared.encoding == "s16le":
        others = [
            Reading("s16le", swapped=True),
            Reading("s16le", 1),
            *(Reading("f32le", skip) for skip in range(4)),
        ]
    else:
        others = [
            Reading("f32le", swapped=True),
            *(Reading("f32le", skip) for skip in (1, 2, 3)),
            Reading("s16le"),
            Reading("s16le", 1),
        ]
    rated = {reading: _bits(blocks, reading, channels) for reading in others}

    def saved(reading: Reading) -> NDArray[np.float64]:
        bits, sane = rated[reading]
        if reading.encoding != declared.encoding == "s16le" and sane > 0.97:
            return np.full(len(own), SURE_BITS)
        return own - bits if sane > 0.9 else np.zeros(len(own))

    most = max(float(saved(reading).mean()) for reading in others)
    close = [reading for reading in others if saved(reading).mean() >= most - 2]
    # Floats that were integers make a wrong reading smooth as well, but not all of its numbers are sane.
    best = max(close, key=lambda reading: _likeness(data, reading))
    gains = saved(best)
    better = gains > SAVES_BITS
    if better.mean() >= SAVES_IN:
        gain, share = float(gains.mean()), float(better.mean())
        if best.encoding != declared.encoding:
            sane = rated[best][1] if best.encoding == "f32le" else own_sane
            code: Code = "float32_as_int16" if best.encoding == "f32le" else "int16_as_float32"
            return best, Finding(code, share, {"sane_percent": 100 * sane, "gain_bits": gain})
        if best.swapped:
            evidence = {"gain_bits": gain, "sample_bytes": float(SAMPLE_BYTES[best.encoding])}
            return best, Finding("byte_swapped", share, evidence)
        return best, _misaligned(0, best.skip_bytes, share, gain)
    return _find_slip(data, declared, starts, rated, own)


def _likeness(data: bytes, reading: Reading) -> float:
    """How much samples are like those before them: floats with the right sign and a wrong size are so less."""
    samples = decode(data[: 512 * BLOCK_BYTES], reading)
    energy = float(np.square(samples).sum()) + 1e-12
    return sum((float((samples[lag:] * samples[:-lag]).sum()) / energy) ** 2 for lag in range(1, 9))


def _misaligned(at_byte: int, skip_bytes: int, confidence: float, gain_bits: float) -> Finding:
    evidence = {"at_byte": float(at_byte), "skip_bytes": float(skip_bytes), "gain_bits": gain_bits}
    return Finding("misaligned", confidence, evidence)


def _find_slip(
    data: bytes,
    declared: Reading,
    starts: NDArray[np.intp],
    rated: dict[Reading, tuple[NDArray[np.float64], float]],
    own: NDArray[np.float64],
) -> tuple[Reading, Finding | None]:
    """A byte lost or added on the way: from some block on, another alignment is the better one."""
    for reading in rated:
        if reading.encoding != declared.encoding or reading.swapped:
            continue
        shifted = own - rated[reading][0] > SAVES_BITS
        aligned = rated[reading][0] - own > SAVES_BITS
        if shifted.sum() < 2 or aligned.sum() < 2:
            continue
        # The cut that leaves the most aligned blocks before it and the most shifted ones behind it.
        agree = (
            np.r_[0, np.cumsum(aligned.astype(int) - shifted)]
            + np.r_[np.cumsum((shifted.astype(int) - aligned)[::-1])[::-1], 0]
        )
        cut = int(agree.argmax())
        if 0 < cut < len(starts) and agree[cut] >= 0.8 * (shifted.sum() + aligned.sum()):
            at = _slip_byte(data, declared, reading.skip_bytes, int(starts[cut - 1]), int(starts[cut]) + BLOCK_BYTES)
            return declared, _misaligned(at, reading.skip_bytes, float(agree[cut] / (shifted | aligned).sum()), 0.0)
    return declared, None


def _slip_byte(data: bytes, declared: Reading, skip_bytes: int, low: int, high: int) -> int:
    """Where between two bytes the alignment changes: the cut that leaves the least roughness on both sides."""
    size = SAMPLE_BYTES[declared.encoding]
    before = np.abs(np.diff(decode(data[low:high], declared)))
    behind = np.abs(np.diff(decode(data[low + skip_bytes : high], declared)))
    count = min(len(before), len(behind))
    roughness = np.r_[0, np.cumsum(before[:count])] + np.r_[np.cumsum(behind[:count][::-1])[::-1], 0]
    return low + size * int(roughness.argmin() + 1)

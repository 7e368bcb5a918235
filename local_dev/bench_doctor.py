"""`bench doctor`: how often the audio doctor finds what is wrong, and how often it finds what is not.

Every clip is sent as a good client sends it (0.3 s of its own room before and after the speech, 40 ms a message, a
pre-roll that comes at once, jitter) and in each of the ways below that clients get wrong, at several strengths.
A fault is *found* if its code is among the findings. Faults marked "whole" come as one message: without a clock. A
gate that left nothing out between the first word and the last only cut the edges: there `cut_start` or `cut_end` is
right, too.

`rise` is by how many points the fault raises CER (WER of English clips): measured on 60 clips, 30 of each half, by
`base` with greedy decoding and no second look behind the detector (`RISES`); its standard error is up to 6 points. With
`--cer` it is measured again, and asked of every single clip, too. The goal is to find 95 % of what raises CER by more
than 10 points.

Microphones hear more than 8 kHz, the clips do not: what is "captured" at 44.1 or 48 kHz gets hiss there that
follows the loudness of the fricatives, or the empty band would give the doctor away.

"tuned" are the clips on which thresholds were chosen. "held out" are as many others of the same corpus, on which the
methods and thresholds of gates, gaps, packets, cut edges and the rate by its sound were only tried; those of the other
findings are older, and for some of them these clips were seen. Speakers may be the same in both halves. The noise files
and the clips as they are, without a room around them, are of both halves, and were looked at.
"""

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from local_dev.bench import Clip, bench_progress, read_manifest
from local_dev.live_report import Sheet, header, new_figure, write_report
from stt_core.audio import SAMPLE_RATE, AudioFormat, PcmDecoder, Samples, read_audio, to_s16le
from stt_core.diagnosis import CODES, Code, diagnose
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import WhisperEngine
from stt_core.errors import SettingsError
from stt_core.scoring import score
from stt_core.transcription import Request
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad

Floats = NDArray[np.float64]
Arrivals = list[tuple[float, int]]  # (seconds, bytes)
Random = np.random.Generator

DEFAULT_CLIPS = 50  # in each half
CER_CLIPS = 30  # of each half, that are transcribed
MAX_CLIP_S = 15.0
MESSAGE_S, PREROLL_S, JITTER_S = 0.04, 0.3, 0.005
GOAL_RISE, GOAL_FOUND = 0.10, 0.95
S16 = AudioFormat()
F32 = AudioFormat(encoding="f32le")


# Points of CER or WER by which each fault raised it on average: 60 clips, `base`, greedy.
RISES = {
    "float32": 84.6, "float32, exact": 84.6, "float32 stereo 48 kHz": 84.6, "int16 as float32": 83.7,
    "48 kHz as 16": 84.6, "44.1 kHz as 16": 84.1, "32 kHz as 16": 72.9, "24 kHz as 16": 25.5, "22.05 kHz as 16": 13.5,
    "16 kHz as 48": 84.6, "16 kHz as 44.1": 84, "8 kHz as 16": 72.7, "stereo, same": 77.1, "stereo, left": 81.2,
    "stereo, near": 80.2, "stereo, far": 83.4, "byte-swapped": 84.3, "byte-swapped float32": 84.6,
    "a byte before": 84.6, "a byte before float32": 84.6, "a byte lost": 42.1, "odd length": 0.3,
    "WAV, 48 kHz stereo": 84.6, "WAV in every message": 10.7, "MP3": 84.6, "FLAC": 84.6, "Base64": 84.6,
    "clipped x2": -1.2, "clipped x4": 3.2, "clipped x8": 10.6, "clipped x16": 20.1, "wrapped x1.5": 2.4,
    "wrapped x3": 31.3, "wrapped x6": 67.2, "offset 0.05": -0.1, "offset 0.2": 6.2, "offset 0.4": 18.3, "zeros": 84.6,
    "muted, dithered": 84.6, "speech at -55 dBFS": 0.3, "speech at -65 dBFS": 23, "speech at -75 dBFS": 84.6,
    "gate at -20 dB, hold 0 ms, left out": 16, "gate at -20 dB, hold 0 ms, zeroed": 9.6,
    "gate at -14 dB, hold 0 ms, left out": 42.2, "gate at -14 dB, hold 0 ms, zeroed": 23,
    "gate at -14 dB, hold 100 ms, left out": 11.3, "gate at -14 dB, hold 100 ms, zeroed": 12.2,
    "gate at -10 dB, hold 40 ms, left out": 39.6, "gate at -10 dB, hold 40 ms, zeroed": 27.6,
    "every third of 10 ms packets left out": 18.6, "every third of 10 ms packets zeroed": 11.4,
    "20 % of 10 ms packets left out": 8.8, "20 % of 10 ms packets zeroed": 9.3, "5 % of 10 ms packets left out": -0.5,
    "5 % of 10 ms packets zeroed": 3.4, "every third of 20 ms packets left out": 16.7,
    "every third of 20 ms packets zeroed": 26.7, "20 % of 20 ms packets left out": 14.4,
    "20 % of 20 ms packets zeroed": 13.9, "5 % of 20 ms packets left out": 1.4, "5 % of 20 ms packets zeroed": 2.9,
    "every third of 32 ms packets left out": 17.3, "every third of 32 ms packets zeroed": 23,
    "20 % of 32 ms packets left out": 10.2, "20 % of 32 ms packets zeroed": 13.4,
    "5 % of 32 ms packets left out": 2.3, "5 % of 32 ms packets zeroed": 6.4, "first 100 ms cut": 13.5,
    "last 100 ms cut": 2.1, "first 200 ms cut": 21.7, "last 200 ms cut": 9.5, "first 300 ms cut": 27.4,
    "last 300 ms cut": 18.9, "OGG": 84.6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sent:
    """What arrives at the server."""

    data: bytes
    declared: AudioFormat = S16
    arrivals: Arrivals | None = None
    also: frozenset[Code] = frozenset()  # what is right to say as well, in place of the fault's code


@dataclass(frozen=True, slots=True)
class Case:
    """A fault at one strength."""

    name: str
    code: Code | None  # what ought to be found; None: nothing
    make: Callable[[Floats, Random], Sent]

    @property
    def rise(self) -> float:
        """By how much it raises CER, on average."""
        return RISES.get(self.name.removesuffix(", whole"), 0.0) / 100


def pcm(samples: Floats) -> bytes:
    return to_s16le(np.clip(samples, -1, 1).astype(np.float32))


def floats(samples: Floats) -> bytes:
    return samples.astype("<f4").tobytes()


def resampled(samples: Floats, rate: int, base: int = SAMPLE_RATE) -> Floats:
    """Band-limited, by the Fourier transform of the whole."""
    count = round(len(samples) * rate / base)
    spectrum = np.fft.rfft(samples)
    other = np.zeros(count // 2 + 1, complex)
    shared = min(len(spectrum), len(other))
    other[:shared] = spectrum[:shared]
    return np.asarray(np.fft.irfft(other, count) * count / len(samples))


def captured(samples: Floats, rate: int, random: Random) -> Floats:
    """As a microphone at `rate` would have heard it."""
    heard = resampled(samples, rate)
    if rate <= SAMPLE_RATE:
        return heard
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE) < 4000] = 0
    loudness = np.abs(resampled(np.abs(np.fft.irfft(spectrum, len(samples))), rate))
    loudness = np.convolve(loudness, np.ones(rate // 100) / (rate // 100), "same")[: len(heard)]
    hiss = np.fft.rfft(random.standard_normal(len(heard)))
    frequency = np.fft.rfftfreq(len(heard), 1 / rate)
    above = np.fft.irfft(np.where(frequency > 8000, hiss * (8000 / np.maximum(frequency, 1)) ** 1.5, 0), len(heard))
    above = above / (above.std() + 1e-9)
    return np.asarray(heard + 0.7 * above * loudness + 2e-4 * random.standard_normal(len(heard)))


def in_its_room(samples: Samples, random: Random) -> Floats:
    """A clip with the noise of its own room around it, as a client that cuts nothing sends it."""
    x = samples[: round(MAX_CLIP_S * SAMPLE_RATE)].astype(np.float64)
    frames = x[: len(x) // 160 * 160].reshape(-1, 160)
    room = max(1e-4, float(np.percentile(np.sqrt(np.square(frames).mean(axis=1)), 5)))
    ramp = np.linspace(0, 1, 160)
    x[:160] *= ramp
    x[-160:] *= ramp[::-1]
    around = round(PREROLL_S * SAMPLE_RATE)
    noise = room * random.standard_normal(len(x) + 2 * around)
    noise[around:-around] = 0
    noise[around:-around] += x
    return noise


def paced(
    data: bytes,
    declared: AudioFormat,
    random: Random,
    *,
    speed: float = 1.0,
    message_s: float = MESSAGE_S,
    preroll_s: float = PREROLL_S,
    true_bytes_per_s: float | None = None,
) -> Sent:
    """Messages as a client sends them while its player speaks."""
    per_s = true_bytes_per_s or declared.sample_rate * declared.frame_bytes
    size = max(1, round(per_s * message_s))
    arrivals: Arrivals = []
    for position in range(0, len(data), size):
        count = min(size, len(data) - position)
        due_s = max(0.0, (position + count) / per_s - preroll_s) / speed + random.exponential(JITTER_S)
        arrivals.append((max(due_s, arrivals[-1][0] if arrivals else 0.0), count))
    return Sent(data, declared, arrivals)


def kept(blocks: Floats, keep: NDArray[np.bool_], random: Random, *, timed: bool) -> Sent:
    """Only some blocks (n, samples) are sent, each when it was captured."""
    block_s = blocks.shape[1] / SAMPLE_RATE
    arrivals: Arrivals = []
    for index in np.flatnonzero(keep):
        due_s = (index + 1) * block_s + random.exponential(JITTER_S)
        arrivals.append((max(float(due_s), arrivals[-1][0] if arrivals else 0.0), 2 * blocks.shape[1]))
    return Sent(pcm(blocks[keep].ravel()), S16, arrivals if timed else None)


def in_blocks(samples: Floats, size: int) -> Floats:
    return np.asarray(samples[: len(samples) // size * size].reshape(-1, size))


def gate(samples: Floats, below_db: float, hold: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Blocks of 20 ms, and which of them a gate lets through that closes so far below the loudest ones."""
    blocks = in_blocks(samples, 320)
    level = np.sqrt(np.square(blocks).mean(axis=1))
    is_open = level > np.percentile(level, 98) * 10 ** (-below_db / 20)
    held = is_open.copy()
    for late in range(1, hold + 1):
        held[late:] |= is_open[:-late]
    return blocks, held


def two_channels(samples: Floats, kind: str, random: Random) -> Floats:
    left = samples
    right = {
        "same": samples,
        "left": 0 * samples,
        "near": 0.7 * np.roll(samples, 3) + 0.0018 * random.standard_normal(len(samples)),
        "far": 0.9 * np.roll(samples, 9) + 0.3 * np.roll(samples, 37),
    }[kind]
    return np.stack([left, right], axis=1).ravel()


def full_scale(samples: Floats) -> Floats:
    return np.asarray(samples / np.abs(samples).max())


def speech_bounds(samples: Floats) -> tuple[int, int]:
    """Where speech begins and ends, to 10 ms."""
    level = np.sqrt(np.square(in_blocks(samples, 160)).mean(axis=1))
    threshold = min(level.max() / 2, max(level.max() * 10 ** (-25 / 20), 2 * float(np.percentile(level, 10))))
    loud = np.flatnonzero(level > threshold)
    return int(loud[0]) * 160, int(loud[-1] + 1) * 160


def at_speech_level(samples: Floats, dbfs: float) -> Floats:
    level = np.sqrt(np.square(in_blocks(samples, 160)).mean(axis=1))
    return np.asarray(samples / np.percentile(level, 95) * 10 ** (dbfs / 20))


def wrapped(samples: Floats) -> bytes:
    return ((np.round(samples * 32767).astype(np.int64) + 32768) % 65536 - 32768).astype("<i2").tobytes()


def wav(data: bytes, rate: int, channels: int) -> bytes:
    import io
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(data)
    return file.getvalue()


def encoded(samples: Floats, kind: str) -> bytes:
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.float32), SAMPLE_RATE, format=kind)
    return file.getvalue()


def cases() -> Iterator[Case]:
    """Everything that is tried on a clip."""

    def clean(name: str, make: Callable[[Floats, Random], Sent]) -> Case:
        return Case(f"clean, {name}", None, make)

    yield clean("16 kHz", lambda x, r: paced(pcm(x), S16, r))
    yield clean("whole", lambda x, r: Sent(pcm(x)))
    yield clean("0.15 s around, whole", lambda x, r: Sent(pcm(_around(x, 150))))
    yield clean("open microphone, a stall", _stalled)
    yield clean("20 dB softer", lambda x, r: Sent(pcm(0.1 * x)))
    yield clean("20 dB of noise", lambda x, r: Sent(pcm(x + 0.1 * x.std() * r.standard_normal(len(x)))))
    yield clean("48 kHz", lambda x, r: paced(pcm(captured(x, 48_000, r)), AudioFormat(48_000), r))
    wide = AudioFormat(44_100, 2, "f32le")
    yield clean("44.1 kHz f32 stereo", lambda x, r: paced(floats(_wide(x, 44_100, r)), wide, r))
    yield clean("8 kHz", lambda x, r: paced(pcm(resampled(x, 8000)), AudioFormat(8000), r))

    yield Case("float32", "float32_as_int16", lambda x, r: paced(floats(x), S16, r, true_bytes_per_s=64_000))
    yield Case("float32, exact, whole", "float32_as_int16", lambda x, r: Sent(floats(np.round(x * 8192) / 32768)))
    yield Case(
        "float32 stereo 48 kHz",
        "float32_as_int16",
        lambda x, r: paced(floats(_wide(x, 48_000, r)), S16, r, true_bytes_per_s=48_000 * 8),
    )
    yield Case("int16 as float32", "int16_as_float32", lambda x, r: paced(pcm(x), F32, r, true_bytes_per_s=32_000))
    for true, declared in (
        (48_000, 16_000), (44_100, 16_000), (32_000, 16_000), (24_000, 16_000),
        (22_050, 16_000), (16_000, 48_000), (16_000, 44_100), (8_000, 16_000),
    ):  # fmt: skip
        yield _wrong_rate(true, declared, timed=True)
        if max(true, declared) >= 44_100:
            yield _wrong_rate(true, declared, timed=False)
    for kind in ("same", "left", "near", "far"):
        yield Case(
            f"stereo, {kind}",
            "stereo_as_mono",
            lambda x, r, kind=kind: paced(pcm(two_channels(x, kind, r)), S16, r, true_bytes_per_s=64_000),  # type: ignore[misc]
        )
        yield Case(
            f"stereo, {kind}, whole",
            "stereo_as_mono",
            lambda x, r, kind=kind: Sent(pcm(two_channels(x, kind, r))),  # type: ignore[misc]
        )
    yield Case("byte-swapped", "byte_swapped", lambda x, r: Sent(np.frombuffer(pcm(x), "<i2").astype(">i2").tobytes()))
    yield Case("byte-swapped float32", "byte_swapped", lambda x, r: Sent(x.astype(">f4").tobytes(), F32))
    yield Case("a byte before", "misaligned", lambda x, r: Sent(b"\x01" + pcm(x)))
    yield Case("a byte before float32", "misaligned", lambda x, r: Sent(b"\x01" + floats(x), F32))
    yield Case("a byte lost", "misaligned", _byte_lost)
    yield Case("odd length", "odd_length", lambda x, r: Sent(pcm(x)[:-1]))
    yield Case("WAV, 48 kHz stereo", "wav_header", lambda x, r: Sent(wav(pcm(_wide(x, 48_000, r)), 48_000, 2)))
    yield Case("WAV in every message", "wav_header", _wav_in_every_message)
    for kind in ("OGG", "MP3", "FLAC"):
        yield Case(kind, "encoded_audio", lambda x, r, kind=kind: Sent(encoded(x, kind)))  # type: ignore[misc]
    yield Case("Base64", "text_as_audio", lambda x, r: Sent(base64.b64encode(pcm(x))))
    for gain in (2, 4, 8, 16):
        yield Case(
            f"clipped x{gain}",
            "clipping",
            lambda x, r, g=gain: paced(pcm(g * full_scale(x)), S16, r),  # type: ignore[misc]
        )
    for times in (1.5, 3.0, 6.0):
        yield Case(
            f"wrapped x{times:g}",
            "wrap_around",
            lambda x, r, g=times: paced(wrapped(g * full_scale(x)), S16, r),  # type: ignore[misc]
        )
    for offset in (0.05, 0.2, 0.4):
        yield Case(
            f"offset {offset:g}",
            "dc_offset",
            lambda x, r, o=offset: paced(pcm(0.5 * x + o), S16, r),  # type: ignore[misc]
        )
    yield Case("zeros", "digital_silence", lambda x, r: paced(bytes(2 * len(x)), S16, r))
    yield Case(
        "muted, dithered",
        "digital_silence",
        lambda x, r: paced(r.integers(-1, 2, len(x)).astype("<i2").tobytes(), S16, r),
    )
    for dbfs in (-55, -65, -75):
        yield Case(
            f"speech at {dbfs} dBFS",
            "too_quiet",
            lambda x, r, v=dbfs: paced(pcm(at_speech_level(x, v)), S16, r),  # type: ignore[misc]
        )
    for below_db, hold in ((20, 0), (14, 0), (14, 5), (10, 2)):
        for way in ("left out", "left out, whole", "zeroed"):
            yield Case(
                f"gate at -{below_db} dB, hold {20 * hold} ms, {way}",
                "noise_gate",
                lambda x, r, b=below_db, h=hold, w=way: _gated(x, b, h, w, r),  # type: ignore[misc]
            )
    for packet in (160, 320, 512):
        for share in ("every third", "20 %", "5 %"):
            for way in ("left out", "left out, whole", "zeroed"):
                yield Case(
                    f"{share} of {1000 * packet // SAMPLE_RATE} ms packets {way}",
                    "dropped_packets",
                    lambda x, r, p=packet, s=share, w=way: _dropped(x, p, s, w, r),  # type: ignore[misc]
                )
    for ms in (100, 200, 300):
        yield Case(f"first {ms} ms cut", "cut_start", lambda x, r, m=ms: paced(pcm(_cut(x, m, 0)), S16, r))  # type: ignore[misc]
        yield Case(f"last {ms} ms cut", "cut_end", lambda x, r, m=ms: paced(pcm(_cut(x, 0, m)), S16, r))  # type: ignore[misc]
    for speed in (1.7, 4.3):
        yield Case(
            f"{speed:g} times real time",
            "faster_than_real_time",
            lambda x, r, s=speed: paced(pcm(x), S16, r, speed=s, preroll_s=0),  # type: ignore[misc]
        )
    for speed in (0.6, 0.28):
        yield Case(
            f"{speed:g} of real time",
            "slower_than_real_time",
            lambda x, r, s=speed: paced(pcm(x), S16, r, speed=s, message_s=0.01, preroll_s=0),  # type: ignore[misc]
        )


def _wide(x: Floats, rate: int, random: Random) -> Floats:
    return two_channels(captured(x, rate, random), "near", random)


def _wrong_rate(true: int, declared: int, *, timed: bool) -> Case:
    def make(x: Floats, random: Random) -> Sent:
        data, audio_format = pcm(captured(x, true, random)), AudioFormat(declared)
        return paced(data, audio_format, random, true_bytes_per_s=2 * true) if timed else Sent(data, audio_format)

    name = f"{true / 1000:g} kHz as {declared / 1000:g}" + ("" if timed else ", whole")
    return Case(name, "sample_rate", make)


def _byte_lost(x: Floats, random: Random) -> Sent:
    data = pcm(x)
    at = round(len(data) * random.uniform(0.3, 0.7))
    return Sent(data[:at] + data[at + 1 :])


def _wav_in_every_message(x: Floats, random: Random) -> Sent:
    data = pcm(x)
    return Sent(b"".join(wav(data[at : at + 3200], SAMPLE_RATE, 1) for at in range(0, len(data), 3200)))


def _gated(x: Floats, below_db: float, hold: int, way: str, random: Random) -> Sent:
    blocks, is_open = gate(x, below_db, hold)
    if way == "zeroed":
        return paced(pcm((blocks * is_open[:, None]).ravel()), S16, random)
    sent = kept(blocks, is_open, random, timed="whole" not in way)
    first, last = np.flatnonzero(is_open)[[0, -1]]
    return replace(sent, also=frozenset({"cut_start", "cut_end"})) if is_open[first : last + 1].all() else sent


def _dropped(x: Floats, packet: int, share: str, way: str, random: Random) -> Sent:
    blocks = in_blocks(x, packet)
    if share == "every third":
        keep = np.arange(len(blocks)) % 3 != 2
    else:
        keep = random.random(len(blocks)) >= float(share.partition(" ")[0]) / 100
    if way == "zeroed":
        return paced(pcm((blocks * keep[:, None]).ravel()), S16, random)
    return kept(blocks, keep, random, timed="whole" not in way)


def _cut(x: Floats, first_ms: int, last_ms: int) -> Floats:
    begin, end = speech_bounds(x)
    begin = min(begin + 16 * first_ms, end - 3200) if first_ms else 0
    end = max(end - 16 * last_ms, begin + 3200) if last_ms else len(x)
    return x[max(0, begin) : end]


def _stalled(x: Floats, random: Random) -> Sent:
    """Three seconds of a quiet room before it, and a network that once holds everything back for a moment."""
    sound = np.concatenate([np.zeros(3 * SAMPLE_RATE), x])
    sent = paced(pcm(sound + 0.001 * random.standard_normal(len(sound))), S16, random, message_s=0.1, preroll_s=0.0)
    assert sent.arrivals is not None
    stall = int(random.integers(1, len(sent.arrivals) - 1))
    until_s = sent.arrivals[stall][0] + random.uniform(0.05, 0.3)
    late = [(max(at_s, until_s) if i >= stall else at_s, count) for i, (at_s, count) in enumerate(sent.arrivals)]
    return replace(sent, arrivals=late)


def _around(x: Floats, ms: int) -> Floats:
    """The speech and so much of its room before and after it."""
    begin, end = speech_bounds(x)
    return x[max(0, begin - 16 * ms) : end + 16 * ms]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the doctor said about one clip in one case."""

    clip: str
    held_out: bool
    codes: tuple[Code, ...]
    found: bool  # in a case where nothing is wrong: something was found
    rise: float | None  # of CER on this clip, where it was measured


def run_doctor_bench(
    data: Path,
    out: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    cer: bool = False,
    cache_dir: Path | None = None,
    console: Console | None = None,
) -> int:
    """Run the benchmark; write `doctor.json`, `.md`, `.png` and `.html`; return the exit code, 0.

    Args:
        data: a folder with a `manifest.tsv`.
        out: the folder for the result; it is made.
        limit: so many clips with speech in each half, 50 otherwise.
        seed: of noise, jitter and the choice of clips.
        cer: transcribe 30 clips of each half, to know what each fault does to them: half a minute of one core for
            each clip, once; the rates are kept in `doctor_cer.jsonl` in `out`.
        cache_dir: as in `WhisperEngine`.

    Raises:
        SettingsError: there is nothing to measure, or matplotlib is not installed.
    """
    console = console or Console()
    manifest = read_manifest(data)
    spoken = [clip for clip in manifest if clip.text]
    if not spoken:
        raise SettingsError(f"{data} holds no clip whose text is known.")
    figure, [axis] = new_figure(1)
    order = np.random.default_rng(seed).permutation(len(spoken)).tolist()
    half = limit or DEFAULT_CLIPS
    heard = {*order[:CER_CLIPS], *order[half : half + CER_CLIPS]} if cer else set()
    outcomes: dict[str, list[Outcome]] = {}
    spent_s = audio_s = 0.0
    every = list(cases())
    out.mkdir(parents=True, exist_ok=True)
    listener = Listener(out / "doctor_cer.jsonl", cache_dir)
    with bench_progress(console) as progress:
        for index in progress.track(order[: 2 * half], description="clips"):
            clip = spoken[index]
            room = in_its_room(read_audio(clip.path), np.random.default_rng([seed, index]))
            sent = [case.make(room, np.random.default_rng([seed, index, 1])) for case in every]
            rates = listener.rates(clip, [Sent(pcm(room)), *sent]) if index in heard else []
            for number, (case, message) in enumerate(zip(every, sent, strict=True), 1):
                began = time.process_time()
                findings = diagnose(message.data, message.declared, message.arrivals)
                spent_s += time.process_time() - began
                audio_s += message.declared.duration_s(len(message.data))
                codes = tuple(finding.code for finding in findings)
                found = bool(codes) if case.code is None else not {case.code, *message.also}.isdisjoint(codes)
                rise = rates[number] - rates[0] if rates else None
                outcome = Outcome(clip.id, index not in order[:half], codes, found, rise)
                outcomes.setdefault(case.name, []).append(outcome)
    as_they_are = [_healthy(clip) for clip in spoken]
    noises = [_healthy(clip) for clip in manifest if clip.kind == "noise"]

    rows = [_row(case, outcomes[case.name]) for case in every]
    alarms = [outcome for case in every if case.code is None for outcome in outcomes[case.name]]
    matter = [row for row in rows if row["code"] and row["rise"] > GOAL_RISE]
    hurt = [
        outcome
        for case in every
        for outcome in outcomes[case.name]
        if case.code and outcome.rise is not None and outcome.rise > GOAL_RISE
    ]
    summary = {
        "clips": min(half, len(spoken)),
        "clips_held_out": max(0, min(half, len(spoken) - half)),
        "cost_percent_of_real_time": round(100 * spent_s / audio_s, 3),
        "goal_cells": len(matter),
        **{f"goal_cells_met_{key}": sum(row[key] >= GOAL_FOUND for row in matter) for key in ("tuned", "held_out")},
        **{f"found_where_it_matters_{key}": _mean([row[key] for row in matter]) for key in ("tuned", "held_out")},
        "false_clean_tuned": _mean([outcome.found for outcome in alarms if not outcome.held_out]),
        "false_clean_held_out": _mean([outcome.found for outcome in alarms if outcome.held_out]),
        "false_clean": [[outcome.clip, *outcome.codes] for outcome in alarms if outcome.found],
        "clips_as_they_are": {name: list(codes) for name, codes in as_they_are if codes},
        "noises": {name: list(codes) for name, codes in noises if codes},
        "noise_files": len(noises),
    }
    if hurt:
        summary["found_of_what_hurt_tuned"] = _mean([outcome.found for outcome in hurt if not outcome.held_out])
        summary["found_of_what_hurt_held_out"] = _mean([outcome.found for outcome in hurt if outcome.held_out])
    result = {
        **header({"data": data.name, "limit": limit, "seed": seed, "cer": cer}),
        "summary": summary,
        "cases": rows,
    }
    sheets = [
        Sheet("Faults", ("case", "expected", "CER +", "tuned", "held out", "also"), [_cells(row) for row in rows]),
        Sheet("Summary", ("", ""), [(key, json.dumps(value, ensure_ascii=False)) for key, value in summary.items()]),
    ]
    _plot(axis, rows)
    assert __doc__
    write_report(out, "doctor", "The audio doctor", __doc__, result, sheets, figure, console)
    untouched = {name: [outcome for outcome in own if outcome.held_out] for name, own in outcomes.items()}
    (out / "doctor.md").write_text(confusion(every, untouched), encoding="utf-8")
    return 0


def _mean(values: Sequence[float | bool]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


class Listener:
    """The engine (`base`, greedy, no second look), which hears the same audio only once.

    Faults that differ in their arrival times alone are one to it, all the faults of a clip are one batch, and the
    rates are kept in a file, so that a run that was stopped goes on where it was.
    """

    def __init__(self, file: Path, cache_dir: Path | None) -> None:
        self._file = file
        self._cache_dir = cache_dir
        self._engines: dict[str, WhisperEngine] = {}
        self._vad = SileroVad()
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self._rates: dict[str, float] = dict(json.loads(line) for line in lines)

    def rates(self, clip: Clip, every: Sequence[Sent]) -> list[float]:
        """CER or WER of the clip as it was sent in each of the ways, at most 1."""
        heard = [_decoded(sent) for sent in every]
        keys = [f"{clip.id} {sha256(samples.tobytes()).hexdigest()[:16]}" for samples in heard]
        new = {key: samples for key, samples in zip(keys, heard, strict=True) if key not in self._rates}
        options = EndpointingOptions()
        speech = {key: whole_utterance(samples, self._vad, options).samples for key, samples in new.items()}
        rates = dict.fromkeys(new, 1.0)  # of what holds no speech
        spoken = [key for key in new if len(speech[key])]
        requests = [Request(speech[key], clip.language, draft=True) for key in spoken]
        transcripts = self._engine(clip.language).transcribe(requests) if requests else []
        for key, transcript in zip(spoken, transcripts, strict=True):
            rates[key] = round(min(1.0, score(clip.text, transcript.text, clip.language).rate), 4)
        with self._file.open("a", encoding="utf-8") as file:
            for pair in rates.items():
                file.write(json.dumps(pair) + "\n")
        self._rates |= rates
        return [self._rates[key] for key in keys]

    def _engine(self, language: str) -> WhisperEngine:
        if language not in self._engines:
            engine = WhisperEngine("base", languages=(language,), cache_dir=self._cache_dir, device="cpu", beam_size=1)
            engine.load()
            self._engines[language] = engine
        return self._engines[language]


def _decoded(sent: Sent) -> Samples:
    decoder = PcmDecoder(sent.declared)
    return np.concatenate([decoder.decode(sent.data), decoder.finish()])


def _healthy(clip: Clip) -> tuple[str, tuple[Code, ...]]:
    """What is found in a file as it is."""
    findings = diagnose(to_s16le(read_audio(clip.path)), S16)
    return clip.id, tuple(finding.code for finding in findings)


def _row(case: Case, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    rises = [outcome.rise for outcome in outcomes if outcome.rise is not None]
    also = Counter(code for outcome in outcomes for code in outcome.codes if code != case.code)
    return {
        "case": case.name,
        "code": case.code,
        "rise": round(float(np.mean(rises)), 3) if rises else case.rise,
        "tuned": _mean([outcome.found for outcome in outcomes if not outcome.held_out]),
        "held_out": _mean([outcome.found for outcome in outcomes if outcome.held_out]),
        "also": dict(also.most_common()),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    also = ", ".join(f"{code} {count}" for code, count in row["also"].items())
    shares = (f"{100 * row[key]:.0f} %" for key in ("tuned", "held_out"))
    return row["case"], row["code"] or "", f"{100 * row['rise']:.0f}", *shares, also


def confusion(every: Sequence[Case], outcomes: dict[str, list[Outcome]]) -> str:
    """A Markdown table: for each code that was right, how often (%) each code was found."""
    counts: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for case in every:
        truth: str = case.code or "clean"
        for outcome in outcomes[case.name]:
            totals[truth] += 1
            counts.setdefault(truth, Counter()).update(outcome.codes or ("nothing",))
    columns: list[str] = [code for code in CODES if any(code in row for row in counts.values())] + ["nothing"]
    lines = [
        "| fault \\ found, % | " + " | ".join(f"`{code}`" for code in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for truth, row in counts.items():
        cells = (f"{100 * row[code] / totals[truth]:.0f}" if row[code] else "" for code in columns)
        lines.append(f"| `{truth}` ({totals[truth]}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plot(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """What is found against how much it hurts."""
    faults = [row for row in rows if row["code"]]
    axis.scatter([100 * row["rise"] for row in faults], [100 * row["held_out"] for row in faults], s=14)
    axis.axhline(95, color="#999", linewidth=0.8)
    axis.axvline(100 * GOAL_RISE, color="#999", linewidth=0.8)
    axis.set_xlabel("CER rises by, points")
    axis.set_ylabel("found in the clips held out, %")

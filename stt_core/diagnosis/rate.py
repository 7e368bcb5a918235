"""How many channels there are, which sample rate a speed stands for, and which one the sound speaks for.

The clock tells a sample rate for certain. A recording that was sent whole has none, but speech has a pace of its own:
in each third of an octave its level rises and falls so far and so fast, whoever speaks, in whichever language, through
whichever microphone. From that a linear regression estimates by what factor a recording is slowed down. It is asked
twice, of the samples as they were declared and as another rate would have them: only what sounds slow (or fast) in the
first reading and natural in the second is told. The rest may be a child, a singer or a machine.

The weights are a ridge regression on 50 clips (Korean and English, men and women), each slowed down and sped up by up
to a factor of 3.3, filtered, and with noise: `python -m local_dev bench doctor DATA --fit-rate` fits them again. On
clips left out the standard error is 0.3, as a natural logarithm.
"""

from typing import NamedTuple

import numpy as np

from stt_core.diagnosis.findings import Finding
from stt_core.diagnosis.signal import Floats

OTHERS_HZ = {16_000: 48_000, 44_100: 16_000, 48_000: 16_000}  # told by the sound: factors of about 3
BANDS_HZ = 80 * 2 ** (np.arange(16) / 3)
# Of the standard deviation (dB) in each band, and of the mean step between frames where it is loud.
RANGE_WEIGHTS = (
    0.029, 0.0, 0.013, 0.013, 0.006, 0.003, 0.008, -0.008, 0.001, -0.015, -0.013, 0.001, -0.012, 0.009, 0.038,
)  # fmt: skip
STEP_WEIGHTS = (
    0.013, 0.012, -0.05, 0.033, -0.03, 0.018, 0.011, -0.011, -0.027, -0.018, -0.016, 0.016, -0.033, -0.049, -0.102,
)  # fmt: skip
BIAS = 0.455
SLOW, FAST = 0.25, 0.1  # by which both readings together must speak for the other rate: who drawls is slow as well
NATURAL = 0.45  # how slow or fast the right reading may sound
LEAST_RANGE_DB = 5.0  # of what is speech, in the right reading; noise has less
STEPS_DB = (1.8, 5.2)  # likewise; wind has less, music and effects have more
RATES_HZ = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
FRAMES_OF_SAMPLES = 1600  # judged one by one, so that one click does not decide


def nearest_rate(rate_hz: float, tolerance: float) -> int | None:
    """The usual sample rate that this is, if it is one."""
    nearest = min(RATES_HZ, key=lambda usual: abs(np.log(usual / rate_hz)))
    return nearest if abs(np.log(nearest / rate_hz)) <= tolerance else None


class Pace(NamedTuple):
    """How the sound moves when it is read at some rate."""

    slowed: float  # natural logarithm of the factor by which speech is slowed down; 0: it is not
    range_db: float  # standard deviation of the level in a third of an octave
    step_db: float  # by which it changes in 16 ms


def measure_movement(samples: Floats, sample_rate: int) -> tuple[Floats, Floats] | None:
    """How levels move, of samples (n,) at `sample_rate` Hz; None if there is too little.

    Returns:
        The standard deviation in each third of an octave, and the mean step in 16 ms where it is loud, (15,) dB each.
    """
    frame, hop = round(0.032 * sample_rate), round(0.016 * sample_rate)
    if len(samples) < 8 * frame:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(samples - samples.mean(), frame)[::hop] * np.hanning(frame)
    size = 1 << (2 * frame - 1).bit_length()
    power = np.square(np.abs(np.fft.rfft(windows, size)))
    edges = np.searchsorted(np.fft.rfftfreq(size, 1 / sample_rate), BANDS_HZ)
    bands = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1)
    loudest = float(np.percentile(bands.sum(axis=1), 95))
    if loudest <= 0:
        return None
    level = 10 * np.log10(bands / loudest + 1e-4)
    loud = bands.sum(axis=1) > 1e-2 * loudest
    if loud.sum() < 8:
        return None
    return level.std(axis=0), np.abs(np.diff(level, axis=0))[loud[1:]].mean(axis=0)


def measure_pace(samples: Floats, sample_rate: int) -> Pace | None:
    """The pace of speech, (n,) at `sample_rate` Hz; None if there is too little."""
    movement = measure_movement(samples, sample_rate)
    if movement is None:
        return None
    ranges, steps = movement
    slowed = float(ranges @ RANGE_WEIGHTS + steps @ STEP_WEIGHTS) + BIAS
    return Pace(slowed, float(ranges.mean()), float(steps.mean()))


def find_rate(samples: Floats, sample_rate: int) -> Finding | None:
    """Whether speech, (n,) read at `sample_rate` Hz, is rather at another rate, three times as high or low."""
    other = OTHERS_HZ.get(sample_rate)
    if not other:
        return None
    declared, right = measure_pace(samples, sample_rate), measure_pace(samples, other)
    if not declared or not right:
        return None
    contrast = (declared.slowed + right.slowed) * (1 if other > sample_rate else -1)
    speech = right.range_db > LEAST_RANGE_DB and STEPS_DB[0] < right.step_db < STEPS_DB[1]
    if contrast < (SLOW if other > sample_rate else FAST) or abs(right.slowed) > NATURAL or not speech:
        return None
    evidence = {
        "declared_sample_rate_hz": float(sample_rate),
        "likely_sample_rate_hz": float(other),
        "slowed_down": float(np.exp(declared.slowed)),
    }
    return Finding("sample_rate", min(0.9, 0.6 + contrast / 4), evidence)


def find_channels(samples: Floats) -> int:
    """2 if the samples are two interleaved channels, else 1.

    In one channel it means nothing whether a sample is an even or an odd one. Two channels differ in loudness, or are
    so alike that the step from left to right is smaller than the step from right to the next left, or each is
    smoother in itself than the two in turn.
    """
    count = len(samples) // FRAMES_OF_SAMPLES
    if count < 3:
        return 1
    frames = samples[: count * FRAMES_OF_SAMPLES].reshape(count, FRAMES_OF_SAMPLES)
    frames = frames - frames.mean()
    power = np.square(frames).mean(axis=1)
    frames = frames[power > max(1e-8, float(np.percentile(power, 95)) * 1e-2)]
    if len(frames) < 3:
        return 1
    tiny = 1e-12
    step = np.square(np.diff(frames, axis=1))
    within, between = (np.sqrt(step[:, first::2]).mean(axis=1) + tiny for first in (0, 1))
    left, right = np.square(frames[:, ::2]).mean(axis=1) + tiny, np.square(frames[:, 1::2]).mean(axis=1) + tiny
    two_steps = np.square(frames[:, 2:] - frames[:, :-2]).mean(axis=1)
    turns = two_steps < 0.7 * step.mean(axis=1)
    differ = _stands_out(np.log2(within / between)) or _stands_out(np.log2(left / right))
    return 2 if differ or turns.mean() > 0.8 else 1


def _stands_out(values: Floats) -> bool:
    """Whether the frames agree on a difference."""
    middle = float(np.median(values))
    spread = float(np.median(np.abs(values - middle))) * 1.5
    agree = (np.sign(values) == np.sign(middle)).mean()
    return bool(abs(middle) > max(0.15, 4 * spread / len(values) ** 0.5) and agree > 0.85)

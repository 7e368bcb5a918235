"""How many channels there are, and which sample rate a speed stands for.

The sample rate is told by the clock alone. Sound betrays it too little: of speech at 48 kHz read as 16 kHz, a logistic
regression on its spectrum, pitch and rhythm, trained on half of 127 clips, knew 60 % of the other half by itself at no
false alarm, and 87 % at 3 % of them.
"""

import numpy as np

from stt_core.diagnosis.signal import Floats

RATES_HZ = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
FRAMES_OF_SAMPLES = 1600  # judged one by one, so that one click does not decide


def nearest_rate(rate_hz: float, tolerance: float) -> int | None:
    """The usual sample rate that this is, if it is one."""
    nearest = min(RATES_HZ, key=lambda usual: abs(np.log(usual / rate_hz)))
    return nearest if abs(np.log(nearest / rate_hz)) <= tolerance else None


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

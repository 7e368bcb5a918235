"""Where the weights of `stt_core.diagnosis.rate` come from: `python -m local_dev bench doctor DATA --fit-rate`.

The 50 clips that the doctor's thresholds were chosen on are slowed down and sped up by up to a factor of 3.3, a quarter
of the copies not at all, as samples read at a wrong rate are: pitch, formants and pace together. Each copy gets a
microphone of its own (a tilt, three wide bumps, now and then the band of a telephone) and noise 12 to 45 dB below it.
A ridge regression (A. Hoerl and R. Kennard, 1970) on the movement of the levels, each scaled to a standard deviation of
1, then says by how much a copy is slowed down. With half of the ridge or twice of it the error is the same.

What it prints is what stands in the module: on the same clips it fits the same numbers again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from local_dev.bench import bench_progress, read_manifest
from local_dev.bench_doctor import DEFAULT_CLIPS, captured, in_its_room, resampled
from stt_core.audio import SAMPLE_RATE, read_audio
from stt_core.diagnosis.rate import BIAS, RANGE_WEIGHTS, STEP_WEIGHTS, measure_movement
from stt_core.errors import SettingsError

Floats = NDArray[np.float64]

COPIES = 24  # of each clip
CLIP_S, COPY_S = 8, 12  # used at most
MOST = 1.2  # natural logarithm of the largest factor
RIDGE = 30.0
FOLDS = 5
SEED = 5  # of what is done to the copies


class Fit(NamedTuple):
    """A linear function of 2 * bands features."""

    weights: Floats  # (features,) per dB, rounded to what the module holds
    bias: float
    error: float  # standard deviation on clips that were left out


def copy_of(samples: Floats, slowed: float | None, random: np.random.Generator) -> tuple[float, Floats]:
    """A clip, (n,) at 16 kHz, as it sounds through some microphone and read at a wrong rate.

    Args:
        samples: the clip.
        slowed: by what it is slowed down, as a natural logarithm; None for something within MOST.
        random: decides the rest.
    """
    factor = random.uniform(-MOST, MOST) if slowed is None else slowed
    rate = round(SAMPLE_RATE * np.exp(factor))
    spectrum, frequency = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequency, 50) / 1000)
    gain_db = random.normal(0, 3) * octaves
    for _ in range(3):
        gain_db = gain_db + random.normal(0, 3) * np.exp(-np.square(octaves - random.uniform(-3, 3)))
    gain = 10 ** (gain_db / 20)
    if random.random() < 0.3:
        lowest, highest = random.uniform(60, 350), random.uniform(3200, 7500)
        gain = gain * (frequency > lowest) * (frequency < highest)
    heard = np.fft.irfft(spectrum * gain, len(samples))
    heard = heard + heard.std() * 10 ** (-random.uniform(12, 45) / 20) * random.standard_normal(len(heard))
    other = resampled(heard, rate) if rate < SAMPLE_RATE else captured(heard, rate, random)
    return factor, other[: COPY_S * SAMPLE_RATE]


def solve(features: Floats, slowed: Floats) -> tuple[Floats, float]:
    """Weights (features,) and bias of a ridge regression of slowed (n,) on features (n, features)."""
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    scaled = (features - mean) / spread
    ridge = RIDGE * np.eye(features.shape[1])
    weights = np.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ (slowed - slowed.mean())) / spread
    return weights, float(slowed.mean() - mean @ weights)


def fit(features: Floats, slowed: Floats, clips: Sequence[int]) -> Fit:
    """Fit to all, and measure the error on folds of clips that were left out.

    Args:
        features: (n, features) dB.
        slowed: (n,) natural logarithms.
        clips: (n,) of which clip each row is a copy: a clip is left out with all its copies.
    """
    fold_of = {clip: place % FOLDS for place, clip in enumerate(np.random.default_rng(0).permutation(np.unique(clips)))}
    folds = np.array([fold_of[clip] for clip in clips])
    predicted = np.zeros(len(slowed))
    for fold in np.unique(folds):
        weights, bias = solve(features[folds != fold], slowed[folds != fold])
        predicted[folds == fold] = features[folds == fold] @ weights + bias
    weights, bias = solve(features, slowed)
    return Fit(np.round(weights, 3) + 0.0, round(bias, 3), float((predicted - slowed).std()))


def run_rate_fit(data: Path, *, seed: int = 0, copies: int = COPIES, console: Console | None = None) -> int:
    """Fit the weights to a corpus and print them as they stand in the module; return the exit code, 0.

    Args:
        data: a folder with a `manifest.tsv`.
        seed: as in `run_doctor_bench`: it chooses the clips.
        copies: of each clip.
        console: where to print.

    Raises:
        SettingsError: there are too few clips with a text.
    """
    console = console or Console()
    spoken = [clip for clip in read_manifest(data) if clip.text]
    if len(spoken) < FOLDS:
        raise SettingsError(f"Expected at least {FOLDS} clips with a text in {data}, found {len(spoken)}.")
    tuned = sorted(np.random.default_rng(seed).permutation(len(spoken))[:DEFAULT_CLIPS].tolist())
    random = np.random.default_rng(SEED)
    rows, slowed, clips = [], [], []
    with bench_progress(console) as progress:
        for index in progress.track(tuned, description="clips"):
            room = in_its_room(read_audio(spoken[index].path), np.random.default_rng([seed, index]))
            for number in range(copies):
                factor, samples = copy_of(room[: CLIP_S * SAMPLE_RATE], 0.0 if number % 4 == 0 else None, random)
                movement = measure_movement(samples, SAMPLE_RATE)
                if movement is not None:
                    rows.append(np.concatenate(movement))
                    slowed.append(factor)
                    clips.append(index)
    fitted = fit(np.array(rows), np.array(slowed), clips)
    ranges, steps = np.split(fitted.weights, 2)
    used = np.array([*RANGE_WEIGHTS, *STEP_WEIGHTS, BIAS])
    for name, weights in (("RANGE_WEIGHTS", ranges), ("STEP_WEIGHTS", steps)):
        console.print(f"{name} = {tuple(weights.tolist())}", soft_wrap=True, highlight=False)
    console.print(f"BIAS = {fitted.bias}", highlight=False)
    apart = float(np.abs(used - [*fitted.weights, fitted.bias]).max())
    console.print(f"{len(rows)} copies of {len(tuned)} clips; standard error on clips left out {fitted.error:.2f};")
    console.print(f"at most {apart:.3f} from the numbers in use.")
    return 0

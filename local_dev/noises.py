"""What a microphone picks up when nobody speaks, synthesised: 16 kHz mono, every sound from a seed.

Two dozen kinds of sound, each drawn anew with other pitches, tempi and levels every time: silence and hiss, mains and
fans, hands on keys and mice, steps, music, the effects of games, and what comes close to a voice without being one
(breaths, wind, noise in syllables). Nothing of it is recorded, so anybody can make it again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stt_core.audio import SAMPLE_RATE, Samples

SHORTEST_S, LONGEST_S = 5.0, 20.0
PIECE_SAMPLES = SAMPLE_RATE // 10  # over which loudness is taken

Sound = NDArray[np.float64]  # (n,)
Chance = np.random.Generator


@dataclass(frozen=True, slots=True)
class Noise:
    """A sound in which nobody speaks."""

    id: str
    kind: str
    samples: Samples


def make_noises(minutes: float, seed: int) -> list[Noise]:
    """So many minutes of sounds of 5 to 20 s, every kind in turn."""
    noises: list[Noise] = []
    seconds = 0.0
    while seconds < 60 * minutes:
        number = len(noises)
        kind = list(KINDS)[number % len(KINDS)]
        chance = np.random.default_rng([seed, number])
        length = round(chance.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE)
        level_dbfs, make = KINDS[kind]
        sound = at_level(make(chance, length), chance.uniform(*level_dbfs))
        room = at_level(coloured(chance, length, 1), chance.uniform(-75, -50))  # no microphone is quite silent
        samples = sound if kind == "silence" else sound + room
        noises.append(Noise(f"{kind}_{number}", kind, np.clip(samples, -1, 1).astype(np.float32)))
        seconds += length / SAMPLE_RATE
    return noises


def at_level(sound: Sound, rms_dbfs: float) -> Sound:
    """The sound with this loudness; its loudest tenth of a second counts, so that clicks are not made bangs."""
    pieces = np.pad(sound, (0, -len(sound) % PIECE_SAMPLES)).reshape(-1, PIECE_SAMPLES)
    loudest = float(np.sqrt(np.square(pieces).mean(axis=1).max()))
    return sound * (10 ** (rms_dbfs / 20) / loudest) if loudest else sound


def coloured(chance: Chance, length: int, slope: float) -> Sound:
    """Noise whose power falls with frequency to the power of `slope`: 0 is white, 1 pink, 2 brown."""
    return shaped(chance, length, lambda hz: np.maximum(hz, 20.0) ** (-slope / 2))


def shaped(chance: Chance, length: int, gain: Callable[[Sound], Any]) -> Sound:
    """White noise through a filter that is given by its gain at each frequency."""
    spectrum = np.fft.rfft(chance.standard_normal(length))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(length, 1 / SAMPLE_RATE).astype(np.float64)), length)


def band(centre_hz: float, width_hz: float) -> Callable[[Sound], Any]:
    """The gain of a resonance."""
    return lambda hz: np.exp(-0.5 * np.square((hz - centre_hz) / width_hz))


def seconds_of(length: int) -> Sound:
    return np.arange(length) / SAMPLE_RATE


def tone(length: int, hz: float | Sound, harmonics: int = 1, fall: float = 1.0) -> Sound:
    """A tone whose harmonics fall off; its pitch may move."""
    turns = np.cumsum(np.broadcast_to(np.asarray(hz, np.float64), length)) / SAMPLE_RATE
    highest = float(np.max(hz))
    numbers = [n for n in range(1, harmonics + 1) if n * highest < SAMPLE_RATE / 2]
    return summed(np.sin(2 * np.pi * n * turns) / n**fall for n in numbers or [1])


def summed(sounds: Iterable[Sound]) -> Sound:
    return np.asarray(np.sum(list(sounds), axis=0))


def fading(length: int, half_s: float) -> Sound:
    """An envelope that halves in this time, after an attack of 3 ms."""
    time = seconds_of(length)
    return np.minimum(time / 0.003, 1) * 0.5 ** (time / half_s)


def placed(length: int, sounds: list[tuple[float, Sound]]) -> Sound:
    """Sounds at their times, in seconds."""
    mixed = np.zeros(length)
    for at_s, sound in sounds:
        start = round(at_s * SAMPLE_RATE)
        own = sound[: max(0, length - start)]
        mixed[start : start + len(own)] += own
    return mixed


def moments(chance: Chance, length: int, least_s: float, most_s: float) -> list[float]:
    """Times with gaps between these bounds."""
    found, now_s = [], chance.uniform(0, most_s)
    while now_s < length / SAMPLE_RATE:
        found.append(now_s)
        now_s += chance.uniform(least_s, most_s)
    return found


def silence(chance: Chance, length: int) -> Sound:
    """Digital silence, or the last bit of a converter."""
    return np.zeros(length) if chance.random() < 0.5 else chance.integers(-1, 2, length) / 32768


def white(chance: Chance, length: int) -> Sound:
    return coloured(chance, length, 0)


def pink(chance: Chance, length: int) -> Sound:
    return coloured(chance, length, 1)


def brown(chance: Chance, length: int) -> Sound:
    return coloured(chance, length, 2)


def hum(chance: Chance, length: int) -> Sound:
    """Mains of 50 or 60 Hz with its harmonics, odd ones first."""
    mains_hz = chance.choice([50.0, 60.0])
    time = seconds_of(length)
    return summed(
        chance.uniform(0.2, 1) / n ** (0.6 if n % 2 else 1.2) * np.sin(2 * np.pi * n * mains_hz * time)
        for n in range(1, 16)
    )


def fan(chance: Chance, length: int) -> Sound:
    """Moving air, and the whine of blades in it."""
    blades_hz = chance.uniform(80, 320) * (1 + 0.005 * np.sin(2 * np.pi * 0.2 * seconds_of(length)))
    air = at_level(coloured(chance, length, chance.uniform(1, 2)), -20)
    return air + at_level(tone(length, blades_hz, 6), chance.uniform(-40, -24))


def click(chance: Chance, centre_hz: float, half_s: float) -> Sound:
    length = round(12 * half_s * SAMPLE_RATE)
    return at_level(shaped(chance, length, band(centre_hz, centre_hz / 2)) * fading(length, half_s), -20)


def keyboard(chance: Chance, length: int) -> Sound:
    """Keys go down and, a tenth of a second later, up."""
    strokes = []
    for at_s in moments(chance, length, 0.05, 0.45):
        down = click(chance, chance.uniform(1500, 4500), chance.uniform(0.004, 0.015)) * chance.uniform(0.4, 1)
        up = click(chance, chance.uniform(2500, 6000), 0.004) * chance.uniform(0.1, 0.4)
        strokes += [(at_s, down), (at_s + chance.uniform(0.06, 0.14), up)]
    return placed(length, strokes)


def mouse(chance: Chance, length: int) -> Sound:
    """Single and double clicks, now and then the wheel."""
    clicks = []
    for at_s in moments(chance, length, 0.3, 2.0):
        for n in range(int(chance.integers(1, 6))):
            clicks.append((at_s + n * chance.uniform(0.08, 0.15), click(chance, chance.uniform(2000, 5000), 0.003)))
    return placed(length, clicks)


def footsteps(chance: Chance, length: int) -> Sound:
    """A thump and the scuff of a sole, twice a second."""
    pace_s = chance.uniform(0.3, 0.7)
    return placed(
        length,
        [
            (at_s + scuff_s, click(chance, centre_hz, half_s) * gain)
            for at_s in moments(chance, length, 0.9 * pace_s, 1.1 * pace_s)
            for scuff_s, centre_hz, half_s, gain in ((0, 90, 0.04, 1), (0.05, 1500, 0.02, chance.uniform(0.1, 0.5)))
        ],
    )


def scale_hz(chance: Chance, notes: int) -> Sound:
    """Pitches of a major or minor scale, (notes,), upwards from a random key."""
    steps = np.array(chance.choice([[0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10]]))
    degrees = np.arange(notes)
    root = chance.uniform(110, 330)
    return np.asarray(root * 2 ** ((steps[degrees % 7] + 12 * (degrees // 7)) / 12))


def chords(chance: Chance, length: int) -> Sound:
    """Pads of three notes that follow each other."""
    pitches = scale_hz(chance, 12)
    beat_s = chance.uniform(1, 2.5)
    voices = int(chance.integers(2, 9))
    notes = []
    for at_s in np.arange(0, length / SAMPLE_RATE, beat_s):
        own = round(beat_s * 1.2 * SAMPLE_RATE)
        swell = np.sin(np.linspace(0, np.pi, own))
        degree = int(chance.integers(0, 7))
        notes += [(float(at_s), swell * tone(own, pitches[degree + third], voices)) for third in (0, 2, 4)]
    return placed(length, notes)


def arpeggio(chance: Chance, length: int) -> Sound:
    """Quick notes up and down, as an old console plays them."""
    pitches = scale_hz(chance, 15)
    beat_s = chance.uniform(0.08, 0.25)
    own = round(beat_s * SAMPLE_RATE)
    times = np.arange(0, length / SAMPLE_RATE, beat_s)
    square = chance.random() < 0.5
    return placed(
        length,
        [
            (float(at_s), fading(own, beat_s / 2) * tone(own, pitches[int(degree)], 12 if square else 3))
            for at_s, degree in zip(times, chance.integers(0, 15, len(times)), strict=True)
        ],
    )


def drums(chance: Chance, length: int) -> Sound:
    """Bass drum, snare and hi-hat, four to the bar."""
    beat_s = 60 / chance.uniform(80, 170)
    hits = []
    for n, at_s in enumerate(np.arange(0, length / SAMPLE_RATE, beat_s / 2)):
        own = round(0.25 * SAMPLE_RATE)
        if n % 4 == 0:
            hits.append((float(at_s), fading(own, 0.06) * tone(own, 40 + 120 * fading(own, 0.02))))
        if n % 4 == 2:
            hits.append((float(at_s), click(chance, 2000, 0.04) * 4))
        hits.append((float(at_s), click(chance, 7000, 0.015) * chance.uniform(0.5, 1.5)))
    return placed(length, hits)


def bells(chance: Chance, length: int) -> Sound:
    """Struck metal: harmonics that are none."""
    pitches = scale_hz(chance, 14)
    own = 2 * SAMPLE_RATE
    strokes = []
    for at_s in moments(chance, length, 0.2, 1.2):
        pitch = 2 * float(chance.choice(pitches))
        parts = (fading(own, 0.4 / part) * tone(own, pitch * part) / part for part in (1, 2.76, 5.4))
        strokes.append((at_s, summed(parts)))
    return placed(length, strokes)


def lead(chance: Chance, length: int) -> Sound:
    """A melody with vibrato and formants, as near to singing as a synthesiser comes by itself."""
    pitches = scale_hz(chance, 10)
    notes = []
    for at_s in moments(chance, length, 0.2, 0.8):
        own = round(chance.uniform(0.2, 0.8) * SAMPLE_RATE)
        vibrato = 1 + 0.015 * np.sin(2 * np.pi * 5.5 * seconds_of(own))
        notes.append((at_s, np.sin(np.linspace(0, np.pi, own)) * tone(own, chance.choice(pitches) * vibrato, 20)))
    return placed(length, notes)


def explosions(chance: Chance, length: int) -> Sound:
    return placed(
        length,
        [
            (at_s, coloured(chance, own, 1.5) * fading(own, chance.uniform(0.1, 0.5)))
            for at_s in moments(chance, length, 1, 4)
            for own in [round(chance.uniform(1, 3) * SAMPLE_RATE)]
        ],
    )


def gunshots(chance: Chance, length: int) -> Sound:
    """Single shots and bursts."""
    shots = []
    for at_s in moments(chance, length, 0.5, 2.5):
        gap_s = chance.uniform(0.07, 0.12)
        for n in range(int(chance.choice([1, 1, 3, 8]))):
            own = round(0.4 * SAMPLE_RATE)
            shots.append((at_s + n * gap_s, coloured(chance, own, 0.5) * fading(own, 0.03)))
    return placed(length, shots)


def lasers(chance: Chance, length: int) -> Sound:
    """Sweeps, down or up."""
    sweeps = []
    for at_s in moments(chance, length, 0.15, 1.5):
        own = round(chance.uniform(0.1, 0.8) * SAMPLE_RATE)
        pitch = np.geomspace(chance.uniform(200, 3500), chance.uniform(100, 3500), own)
        sweeps.append((at_s, fading(own, own / SAMPLE_RATE / 2) * tone(own, pitch, int(chance.integers(1, 6)))))
    return placed(length, sweeps)


def interface(chance: Chance, length: int) -> Sound:
    """The beeps of menus, and the jingle of a coin or a level."""
    beeps = []
    for at_s in moments(chance, length, 0.3, 2):
        own = round(chance.uniform(0.05, 0.15) * SAMPLE_RATE)
        root_hz = chance.uniform(400, 1800)
        for n in range(int(chance.integers(1, 5))):
            pitch = root_hz * 2 ** (n * chance.choice([3, 4, 5, 7]) / 12)
            beeps.append((at_s + n * own / SAMPLE_RATE, fading(own, 0.05) * tone(own, pitch, 4)))
    return placed(length, beeps)


def siren(chance: Chance, length: int) -> Sound:
    """An alarm, an engine or a monster: one pitch that wanders."""
    rate_hz = chance.uniform(0.2, 3)
    swing = chance.uniform(0.1, 0.5)
    pitch = chance.uniform(80, 900) * (1 + swing * np.sin(2 * np.pi * rate_hz * seconds_of(length)))
    return tone(length, pitch, int(chance.integers(2, 16)))


def breath(chance: Chance, length: int) -> Sound:
    """In and out, close to the microphone."""
    breaths = []
    for n, at_s in enumerate(moments(chance, length, 1.2, 3)):
        own = round(chance.uniform(0.5, 1.2) * SAMPLE_RATE)
        centre_hz = chance.uniform(500, 1000) if n % 2 else chance.uniform(1200, 2500)
        breaths.append((at_s, np.hanning(own) * at_level(shaped(chance, own, band(centre_hz, centre_hz)), -20)))
    return placed(length, breaths)


def wind(chance: Chance, length: int) -> Sound:
    """Air that hits the microphone."""
    gusts = np.interp(np.arange(length), np.linspace(0, length, 12), chance.uniform(0, 1, 12))
    return coloured(chance, length, 2.2) * gusts


def rain(chance: Chance, length: int) -> Sound:
    drops = [(at_s, click(chance, chance.uniform(1500, 6000), 0.005)) for at_s in moments(chance, length, 0.01, 0.08)]
    return at_level(coloured(chance, length, 0.5), -30) + placed(length, drops) * chance.uniform(0.1, 1)


def murmur(chance: Chance, length: int) -> Sound:
    """Noise in syllables: three resonances that move four times a second, without a voice and without a word."""
    syllables = []
    now_s = 0.0
    while now_s < length / SAMPLE_RATE:
        own = round(chance.uniform(0.12, 0.35) * SAMPLE_RATE)
        formants = ((500, 1.0), (1500, 0.5), (2500, 0.25))  # Hz, gain
        sound = summed(gain * shaped(chance, own, band(hz * chance.uniform(0.6, 1.5), 120)) for hz, gain in formants)
        syllables.append((now_s, np.hanning(own) * at_level(sound, -20)))
        now_s += own / SAMPLE_RATE * chance.uniform(0.8, 1.3) + (chance.random() < 0.1) * 0.6
    return placed(length, syllables)


def phone(chance: Chance, length: int) -> Sound:
    """A telephone that rings or shakes on the desk."""
    own = round(0.4 * SAMPLE_RATE)
    pitch = chance.choice([150.0, 440.0, 1000.0, 2000.0])
    trill = pitch * np.where(np.sin(2 * np.pi * 20 * seconds_of(own)) > 0, 1, 1.25)
    return placed(length, [(at_s, tone(own, trill, 5)) for at_s in moments(chance, length, 0.6, 1.5)])


def game(chance: Chance, length: int) -> Sound:
    """What comes out of the loudspeakers: music and effects together."""
    music = (chords, arpeggio, lead, bells)[int(chance.integers(4))]
    effect = (explosions, gunshots, lasers)[int(chance.integers(3))]
    beat = at_level(drums(chance, length), chance.uniform(-34, -24))
    return at_level(music(chance, length), -24) + beat + at_level(effect(chance, length), chance.uniform(-30, -18))


LOUD, USUAL, QUIET = (-24, -10), (-45, -18), (-70, -30)  # dBFS

# How loud each sound may be, and how it is made.
KINDS: dict[str, tuple[tuple[float, float], Callable[[Chance, int], Sound]]] = {
    "silence": ((-96, -90), silence),
    "white": (QUIET, white),
    "keyboard": (USUAL, keyboard),
    "lead": (USUAL, lead),
    "explosions": (LOUD, explosions),
    "breath": (USUAL, breath),
    "pink": (USUAL, pink),
    "chords": (USUAL, chords),
    "lasers": (USUAL, lasers),
    "murmur": (USUAL, murmur),
    "hum": ((-60, -20), hum),
    "arpeggio": (USUAL, arpeggio),
    "gunshots": (LOUD, gunshots),
    "mouse": (USUAL, mouse),
    "wind": (USUAL, wind),
    "brown": (QUIET, brown),
    "drums": (USUAL, drums),
    "interface": (USUAL, interface),
    "siren": (USUAL, siren),
    "fan": ((-55, -22), fan),
    "bells": (USUAL, bells),
    "game": (LOUD, game),
    "footsteps": (USUAL, footsteps),
    "rain": (USUAL, rain),
    "phone": (USUAL, phone),
}

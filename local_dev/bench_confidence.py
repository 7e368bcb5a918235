"""`bench confidence`: whether the confidence of a final means what it says.

Each recording of DATA is heard as it is and spoiled in fifteen ways, by the engine as the server uses it (vocabulary
cut to the language, beam 5). Noises are DATA's own and pink noise, other voices are DATA's other speakers; whoever
presses a key late or lets it go early loses 0.3 s of speech. A text is right if at most a fifth of its letters are
wrong, numbers written alike (`stt_core.scoring`); what is heard where nobody speaks is wrong. Empty texts are left out:
their confidence is 0 and `no_speech` tells them.

The numbers in `stt_core.confidence` are fitted anew: a logistic regression (iteratively reweighted least squares) with
an offset for each language and weights for all. All figures of "refitted" are cross-validated over ten folds of
speakers: all versions of a recording, and all recordings of a speaker or with one text, are on one side.

    Brier   mean squared distance between confidence and outcome; the smaller the better
    ECE     expected calibration error: ten bins with equally many texts, mean distance of confidence and share right
    AUC     how often a right text has more confidence than a wrong one

Intervals are 95 % intervals of a bootstrap over speakers, not over texts: sixteen versions of a recording are not
sixteen recordings. "asked again" holds threshold by threshold what part of the wrong texts lies below it, and what
part of the right ones.

The numbers are fitted to texts of vocabularies cut to one language. "other ways" holds the shipped ones against what a
vocabulary cut to both languages says, the whole model, and a server in a hurry (greedy), in two of the conditions.

The exit code is 1 if the shipped numbers are off: confidences by the refitted ones differ from theirs by more than 0.03
in the mean. Fewer than 1000 texts are too little to say so.
"""

import csv
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from local_dev.bench import Clip, bench_progress, read_manifest
from local_dev.live_report import Sheet, header, new_figure, write_report
from stt_core.audio import SAMPLE_RATE, Samples, read_audio
from stt_core.confidence import OFFSET_ELSEWHERE, OFFSETS, TOLERANCE, WEIGHTS, confidence, features
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import LONGEST_SPEECH_S, WhisperEngine
from stt_core.errors import SettingsError
from stt_core.scoring import edit_distance, units
from stt_core.transcription import Request, Transcript
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad

LANGUAGES = ("ko", "en")
NAMES = ("sqrt(-avg_logprob)", "1 / letters", "no_speech_prob")  # the features
FOLDS = 10
RIDGE = 0.01
BINS = 10
RESAMPLES = 1000
STALE = 0.03
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
AUDIBLE_RMS = 0.003  # a quieter noise is silence, and no noise at any level
BATCH = 8  # utterances that are decoded together
EDGE_S = 0.3  # of speech that a key cuts off
ENOUGH = 1000  # texts to say that the shipped numbers are off
LEAST = 10  # right texts of a language, and wrong ones, to fit anything

Random = np.random.Generator
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Around:
    """What else may be heard beside a recording."""

    noises: Sequence[Samples]
    voices: Sequence[Samples]  # of other speakers in the same language


Condition = Callable[[Samples, Random, Around], Samples]


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def mixed(samples: Samples, other: Samples, snr_db: float) -> Samples:
    """The samples with another sound from a second before them to a second after."""
    padded = np.pad(samples, SAMPLE_RATE)
    scale = rms(samples) / max(rms(other), 1e-9) * 10 ** (-snr_db / 20)
    return np.asarray(padded + scale * np.resize(other, len(padded)), np.float32)


def in_noise(snr_db: float) -> Condition:
    return lambda samples, random, around: mixed(samples, _somewhere(around.noises, random), snr_db)


def in_company(snr_db: float) -> Condition:
    return lambda samples, random, around: mixed(samples, _somewhere(around.voices or around.noises, random), snr_db)


def _somewhere(sounds: Sequence[Samples], random: Random) -> Samples:
    """One of the sounds, from any moment on."""
    sound = sounds[int(random.integers(len(sounds)))]
    return np.roll(sound, -int(random.integers(len(sound))))


def pink(seconds: float, random: Random) -> Samples:
    """Noise whose power falls by 3 dB an octave."""
    spectrum = np.fft.rfft(random.standard_normal(round(seconds * SAMPLE_RATE)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum)
    return np.asarray(noise / np.abs(noise).max(), np.float32)


def band(samples: Samples, low_hz: float, high_hz: float) -> Samples:
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum[(hz < low_hz) | (hz > high_hz)] = 0
    return np.asarray(np.fft.irfft(spectrum, len(samples)), np.float32)


def reverberant(samples: Samples, random: Random, rt60_s: float) -> Samples:
    """In a room: noise that decays by 60 dB within `rt60_s`, behind the direct sound and as loud as it."""
    t = np.arange(round(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = random.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s)
    tail /= np.sqrt(np.square(tail).sum())
    tail[0] = 1.0
    size = len(samples) + len(tail)
    wet = np.asarray(np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size), np.float32)
    return wet * np.float32(rms(samples) / max(rms(wet), 1e-9))


def quantised(samples: Samples, gain_db: float) -> Samples:
    """As 16-bit numbers after a gain: clipped where it is too much, coarse where it is too little."""
    return np.asarray(np.clip(np.round(samples * 10 ** (gain_db / 20) * 32768), -32768, 32767) / 32768, np.float32)


def faster(samples: Samples, times: float) -> Samples:
    return np.asarray(np.interp(np.arange(0, len(samples) - 1, times), np.arange(len(samples)), samples), np.float32)


def cut(samples: Samples, start_s: float, end_s: float) -> Samples:
    """Without so much at the start or at the end of what is loud."""
    loud = np.flatnonzero(np.abs(samples) > 0.1 * np.abs(samples).max())
    first = loud[0] + round(start_s * SAMPLE_RATE) if start_s else 0
    last = loud[-1] + 1 - round(end_s * SAMPLE_RATE) if end_s else len(samples)
    return samples[first : max(first, last)]


CONDITIONS: Mapping[str, Condition] = {
    "as recorded": lambda samples, random, around: samples,
    "noise 20 dB": in_noise(20),
    "noise 10 dB": in_noise(10),
    "noise 5 dB": in_noise(5),
    "noise 0 dB": in_noise(0),
    "another voice 10 dB": in_company(10),
    "another voice 3 dB": in_company(3),
    "50 dB quieter": lambda samples, random, around: quantised(samples, -50),
    "clipped by 25 dB": lambda samples, random, around: quantised(samples, 25),
    "telephone": lambda samples, random, around: band(samples, 300, 3400),
    "muffled": lambda samples, random, around: band(samples, 0, 1200),
    "room 0.8 s": lambda samples, random, around: reverberant(samples, random, 0.8),
    "begins 0.3 s late": lambda samples, random, around: cut(samples, EDGE_S, 0),
    "ends 0.3 s early": lambda samples, random, around: cut(samples, 0, EDGE_S),
    "1.3 times faster": lambda samples, random, around: faster(samples, 1.3),
    "1.3 times slower": lambda samples, random, around: faster(samples, 1 / 1.3),
}
NOBODY = "nobody speaks"
DEFAULT_WAY = "cut to the language"
# Other ways to decode: the languages that the vocabulary is cut to (None: the recording's own), and whether in a hurry.
WAYS: Mapping[str, tuple[tuple[str, ...] | None, bool]] = {
    "cut to ko and en": (("ko", "en"), False),
    "whole": ((), False),
    "hurried": (None, True),
}
WAYS_CONDITIONS = ("as recorded", "noise 5 dB")


class Recordings:
    """The recordings of a language, no longer than the engine hears at once, in any condition.

    Args:
        limit: only the first so many.
    """

    def __init__(self, data: Path, language: str, seed: int, limit: int | None = None) -> None:
        every = read_manifest(data)
        self._every = every
        clips = [clip for clip in every if clip.text and clip.language == language]
        self._sounds = {clip.id: read_audio(clip.path) for clip in clips}
        self.clips = [clip for clip in clips if len(self._sounds[clip.id]) <= LONGEST_SPEECH_S * SAMPLE_RATE][:limit]
        self.noises = [read_audio(clip.path) for clip in every if clip.kind == "noise"][:limit]
        self.speakers = speakers(data, self.clips)
        self.language = language
        self.seed = seed
        self._audible = [noise for noise in self.noises if rms(noise) > AUDIBLE_RMS]
        self._audible.append(pink(10, np.random.default_rng(seed)))
        self._vad = SileroVad()

    def texts(self, language: str) -> list[str]:
        """What is said in any language of the folder."""
        return [clip.text for clip in self._every if clip.text and clip.language == language]

    def speech(self, clip: Clip, condition: str) -> Samples:
        """What the server would hand to the engine; empty where nobody is found to speak."""
        random = np.random.default_rng([self.seed, zlib.crc32(f"{clip.id} {condition}".encode())])
        own = self.speakers[clip.id]
        voices = [self._sounds[other.id] for other in self.clips if self.speakers[other.id] != own]
        made = CONDITIONS[condition](self._sounds[clip.id], random, Around(self._audible, voices))
        return self._found(np.clip(made, -1, 1))

    def false_alarms(self) -> Iterator[Samples]:
        """What the detector takes for speech where nobody speaks, as recorded and 20 dB louder."""
        for noise in self.noises:
            for gain_db in (0, 20):
                if len(found := self._found(quantised(noise, gain_db))):
                    yield found

    def _found(self, samples: Samples) -> Samples:
        return whole_utterance(samples, self._vad, EndpointingOptions()).samples


def speakers(data: Path, clips: Sequence[Clip]) -> dict[str, str]:
    """A name for the speaker of each recording, as far as a manifest tells: recordings out of one folder of their
    `source` share it, and so do folders in which the same text is said."""
    with (data / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        folders = {row["id"]: (row.get("source") or "").rpartition("/")[0] or row["id"] for row in rows}
    names = {clip.id: folders[clip.id] for clip in clips}
    said: dict[str, str] = {}
    for clip in clips:
        text = "".join(units(clip.text, clip.language))
        one, other = names[clip.id], names[said.setdefault(text, clip.id)]
        names = {id: other if name == one else name for id, name in names.items()}
    return names


@dataclass(frozen=True, slots=True)
class Heard:
    """A text, as the numbers that tell how sure to be of it, and how wrong it is."""

    id: str
    speaker: str
    language: str
    condition: str
    transcript: Transcript
    error_rate: float  # wrong letters of those that were said

    @property
    def right(self) -> bool:
        return self.error_rate <= TOLERANCE


def letter_error_rate(said: str, heard: str, language: str) -> float:
    """Wrong letters over letters, in any language."""
    one, other = ("".join(units(text, language)) for text in (said, heard))
    return edit_distance(one, other) / max(1, len(one))


def listen(
    engine: WhisperEngine,
    recordings: Recordings,
    progress: Progress,
    conditions: Sequence[str] = tuple(CONDITIONS),
    *,
    hurried: bool = False,
) -> Iterator[Heard]:
    """Every recording in every condition, and what is heard where nobody speaks. Texts that are not empty."""
    language = recordings.language
    jobs = [(clip, condition) for condition in conditions for clip in recordings.clips]
    task = progress.add_task(f"listening, {language}", total=len(jobs))
    for start in range(0, len(jobs), BATCH):
        batch = [(*job, recordings.speech(*job)) for job in jobs[start : start + BATCH]]
        batch = [job for job in batch if len(job[2])]
        requests = [Request(speech, language, hurried=hurried) for _, _, speech in batch]
        for (clip, condition, _), transcript in zip(batch, engine.transcribe(requests), strict=True):
            if transcript.text:
                rate = letter_error_rate(clip.text, transcript.text, language)
                yield Heard(clip.id, recordings.speakers[clip.id], language, condition, transcript, rate)
        progress.advance(task, min(BATCH, len(jobs) - start))
    for number, speech in enumerate(recordings.false_alarms()):
        [transcript] = engine.transcribe([Request(speech, language, hurried=hurried)])
        if transcript.text:
            yield Heard(f"noise {number}", NOBODY, language, NOBODY, transcript, 1.0)


def run_confidence_bench(
    data: Path,
    out: Path,
    *,
    languages: Sequence[str] = LANGUAGES,
    model: str = "base",
    cache_dir: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Measure, print, and write confidence.json, .png and .html into `out`; return the exit code.

    Args:
        data: a folder with a `manifest.tsv`.
        model: as in `WhisperEngine`.
        cache_dir: likewise.
        limit: the first so many recordings of each language.
        seed: of noises and resampling.

    Raises:
        SettingsError: there is too little to measure.
    """
    console = console or Console()
    new_figure(1)  # says at once if matplotlib is missing
    settings = {"data": data.name, "model": model, "limit": limit, "seed": seed, "tolerance": TOLERANCE}
    head = header(settings)

    def engine(*cut_to: str) -> WhisperEngine:
        made = WhisperEngine(model, languages=cut_to, cache_dir=cache_dir, device="cpu", max_batch_size=BATCH)
        made.load()
        return made

    texts: list[Heard] = []
    ways: dict[str, list[Heard]] = {name: [] for name in WAYS}
    with bench_progress(console) as progress:
        for language in languages:
            recordings = Recordings(data, language, seed, limit)
            texts += listen(engine(language), recordings, progress)
            for name, (cut_to, hurried) in WAYS.items():
                other = engine(*((language,) if cut_to is None else cut_to))
                ways[name] += listen(other, recordings, progress, WAYS_CONDITIONS, hurried=hurried)
    return report(texts, ways, out, head, seed, console)


def report(
    texts: Sequence[Heard],
    ways: Mapping[str, Sequence[Heard]],
    out: Path,
    head: Mapping[str, Any],
    seed: int,
    console: Console,
) -> int:
    """The tables and the plot of texts that were heard; 1 if the shipped numbers are off."""
    languages = tuple(dict.fromkeys(text.language for text in texts))
    outcomes = [(text.language, text.right) for text in texts]
    few = any(outcomes.count((code, right)) < LEAST for code in languages for right in (True, False))
    if not texts or few or any(len({t.speaker for t in texts if t.language == code}) < 2 for code in languages):
        raise SettingsError(
            f"Too little was heard to calibrate by: each language needs {LEAST} right texts, {LEAST} wrong ones and "
            "two speakers."
        )
    table = np.array([_columns(text, languages) for text in texts])
    right = np.array([text.right for text in texts])
    speaker = [text.speaker for text in texts]
    count = len(languages)
    raw = np.array([np.exp(min(0.0, text.transcript.avg_logprob)) for text in texts])
    shipped = np.array([confidence(text.transcript) for text in texts])
    validated = cross_validated(table, right, speaker, count)
    numbers = fit(table, right, count)
    moved = float(np.abs(_sigmoid(table @ numbers) - shipped).mean())
    methods = {
        "exp(avg_logprob)": raw,
        "refitted, avg_logprob alone": cross_validated(table[:, : count + 1], right, speaker, count),
        "refitted, and letters": cross_validated(table[:, : count + 2], right, speaker, count),
        "refitted": validated,
        "shipped": shipped,
    }
    fitted = {name: round(float(number), 3) for name, number in zip((*languages, *NAMES), numbers, strict=True)}
    result: dict[str, Any] = {**head, "fitted": fitted, "shipped_is_off_by": round(moved, 4), "languages": {}}
    sheets = [_numbers_sheet(fitted, moved)]
    figure, axes = new_figure(count)
    for axis, code in zip(axes, languages, strict=True):
        own = np.array([text.language == code for text in texts])
        found = assess(
            [text for text in texts if text.language == code],
            {name: values[own] for name, values in methods.items()},
            seed,
        )
        result["languages"][code] = found
        sheets += _sheets(code, found)
        _draw(axis, code, found)
    usual = [text for text in texts if text.condition in (*WAYS_CONDITIONS, NOBODY)]
    result["ways"] = [
        _way(name, code, [text for text in heard if text.language == code])
        for code in languages
        for name, heard in {DEFAULT_WAY: usual, **ways}.items()
        if any(text.language == code for text in heard)
    ]
    sheets.append(_ways_sheet(result["ways"]))
    result["texts"] = [_row(text) for text in texts]
    write_report(out, "confidence", "Confidence", __doc__ or "", result, sheets, figure, console)
    if moved > STALE and len(texts) >= ENOUGH:
        console.print(f"The numbers in stt_core/confidence.py are off by {moved:.3f}: take the refitted ones.")
        return 1
    return 0


def assess(texts: Sequence[Heard], methods: Mapping[str, Floats], seed: int = 0) -> dict[str, Any]:
    """Everything that is told of one language, by the confidences that each method has in its texts."""
    right = np.array([text.right for text in texts])
    speaker = [text.speaker for text in texts]
    raw, validated = methods["exp(avg_logprob)"], methods["refitted"]
    condition = np.array([text.condition for text in texts])
    return {
        "texts": len(texts),
        "speakers": len(set(speaker) - {NOBODY}),
        "right": float(right.mean()),
        "quality": {name: quality(values, right) for name, values in methods.items()},
        "reliability": {
            "exp(avg_logprob)": reliability(raw, right, speaker, seed),
            "confidence": reliability(validated, right, speaker, seed),
        },
        "asked": [
            {
                "below": threshold,
                "wrong_caught": float((validated[~right] < threshold).mean()),
                "right_asked": float((validated[right] < threshold).mean()),
                "right_above": float(right[validated >= threshold].mean()) if (validated >= threshold).any() else 1.0,
            }
            for threshold in THRESHOLDS
        ],
        "conditions": [
            {
                "condition": name,
                "texts": int((condition == name).sum()),
                "right": float(right[condition == name].mean()),
                "confidence": float(validated[condition == name].mean()),
                "raw": float(raw[condition == name].mean()),
            }
            for name in dict.fromkeys(text.condition for text in texts)
        ],
    }


def _way(name: str, language: str, texts: Sequence[Heard]) -> dict[str, Any]:
    """How well the shipped numbers fit texts that were decoded in some way."""
    predicted = np.array([confidence(text.transcript) for text in texts])
    right = np.array([text.right for text in texts])
    return {
        "way": name,
        "language": language,
        "texts": len(texts),
        "right": float(right.mean()),
        "confidence": float(predicted.mean()),
        "brier": float(np.square(predicted - right).mean()),
    }


def _columns(text: Heard, languages: Sequence[str]) -> list[float]:
    """A one for the text's language, then the features."""
    return [*(float(text.language == language) for language in languages), *features(text.transcript)]


def fit(table: Floats, right: NDArray[np.bool_], offsets: int) -> Floats:
    """The offsets and weights of a logistic regression, by iteratively reweighted least squares.

    Args:
        table: (n, offsets + features)
        offsets: columns that the ridge leaves alone.
    """
    numbers = np.zeros(table.shape[1])
    ridge = np.diag([1e-9] * offsets + [RIDGE] * (table.shape[1] - offsets))
    for _ in range(50):
        likely = _sigmoid(table @ numbers)
        slope = table.T @ (right - likely) - ridge @ numbers
        curvature = (table * (likely * (1 - likely))[:, None]).T @ table + ridge
        step = np.linalg.solve(curvature, slope)
        numbers += step
        if np.abs(step).max() < 1e-9:
            break
    return numbers


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -50, 50))))


def folds(groups: Sequence[str]) -> NDArray[np.intp]:
    """The fold of each item, (n,): groups stay together, the largest first into the emptiest fold."""
    names, counts = np.unique(np.array(groups), return_counts=True)
    sizes = np.zeros(FOLDS)
    fold_of: dict[str, int] = {}
    for i in np.argsort(-counts, kind="stable"):
        fold_of[str(names[i])] = fold = int(sizes.argmin())
        sizes[fold] += counts[i]
    return np.array([fold_of[group] for group in groups])


def cross_validated(table: Floats, right: NDArray[np.bool_], groups: Sequence[str], offsets: int) -> Floats:
    """The confidence of each text by numbers that know nothing of its group, (n,)."""
    fold = folds(groups)
    predicted = np.zeros(len(right))
    for number in np.unique(fold):
        out = fold == number
        predicted[out] = _sigmoid(table[out] @ fit(table[~out], right[~out], offsets))
    return predicted


def quality(predicted: Floats, right: NDArray[np.bool_]) -> dict[str, float]:
    """Brier score, ECE and AUC."""
    order = np.argsort(predicted, kind="stable")
    ece = sum(
        len(bin_) * abs(float(predicted[bin_].mean() - right[bin_].mean())) for bin_ in np.array_split(order, BINS)
    )
    above = predicted[right][:, None] - predicted[~right][None]
    return {
        "brier": float(np.square(predicted - right).mean()),
        "ece": ece / len(right),
        "auc": float((above > 0).mean() + (above == 0).mean() / 2),
    }


def reliability(
    predicted: Floats, right: NDArray[np.bool_], groups: Sequence[str], seed: int = 0
) -> list[dict[str, float]]:
    """Mean confidence and share of right texts in bins of equally many, and a bootstrap's interval over groups."""
    names, group = np.unique(np.array(groups), return_inverse=True)
    draws = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    rows = []
    for bin_ in np.array_split(np.argsort(predicted, kind="stable"), BINS):
        hits = np.bincount(group[bin_], right[bin_].astype(np.float64), len(names))
        counts = np.bincount(group[bin_], minlength=len(names))
        drawn = counts[draws].sum(axis=1)
        low, high = np.percentile(hits[draws].sum(axis=1)[drawn > 0] / drawn[drawn > 0], [2.5, 97.5])
        rows.append(
            {
                "confidence": float(predicted[bin_].mean()),
                "right": float(right[bin_].mean()),
                "low": float(low),
                "high": float(high),
            }
        )
    return rows


def _row(text: Heard) -> dict[str, Any]:
    """Numbers alone: what was said is not everybody's to pass on."""
    return {
        "id": text.id,
        "speaker": text.speaker,
        "language": text.language,
        "condition": text.condition,
        "features": [round(value, 5) for value in features(text.transcript)],
        "second_look": text.transcript.second_look,
        "error_rate": round(text.error_rate, 4),
        "confidence": round(confidence(text.transcript), 4),
    }


def _numbers_sheet(fitted: Mapping[str, float], moved: float) -> Sheet:
    shipped = {**OFFSETS, **dict(zip(NAMES, WEIGHTS, strict=True))}
    return Sheet(
        f"Offsets and weights; confidences differ by {moved:.3f} in the mean",
        ("", "shipped", "refitted"),
        [(name, f"{shipped.get(name, OFFSET_ELSEWHERE):.2f}", f"{number:.2f}") for name, number in fitted.items()],
    )


def _sheets(language: str, found: Mapping[str, Any]) -> list[Sheet]:
    title = f"{language}: {found['texts']} texts of {found['speakers']} speakers, {100 * found['right']:.0f} % right"
    return [
        Sheet(
            title,
            ("", "Brier", "ECE", "AUC"),
            [
                (name, f"{row['brier']:.3f}", f"{row['ece']:.3f}", f"{row['auc']:.3f}")
                for name, row in found["quality"].items()
            ],
        ),
        Sheet(
            f"{language}: asked again below a confidence",
            ("below", "wrong texts caught", "right texts asked", "right above it"),
            [(f"{row['below']:.1f}", *(f"{100 * row[key]:.0f} %" for key in list(row)[1:])) for row in found["asked"]],
        ),
        Sheet(
            f"{language}: by condition",
            ("", "texts", "right", "confidence", "exp(avg_logprob)"),
            [
                (row["condition"], str(row["texts"]), *(f"{row[key]:.2f}" for key in ("right", "confidence", "raw")))
                for row in found["conditions"]
            ],
        ),
    ]


def _ways_sheet(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        "Other ways: the shipped numbers, " + " and ".join(WAYS_CONDITIONS),
        ("", "texts", "right", "confidence", "Brier"),
        [
            (
                f"{row['language']}, {row['way']}",
                str(row["texts"]),
                *(f"{row[key]:.3f}" for key in ("right", "confidence", "brier")),
            )
            for row in rows
        ],
    )


def _draw(axis: Any, language: str, found: Mapping[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color="tab:gray", linewidth=1)
    for (name, rows), color in zip(found["reliability"].items(), ("tab:orange", "tab:blue"), strict=True):
        x = [row["confidence"] for row in rows]
        axis.plot(x, [row["right"] for row in rows], "o-", color=color, label=name)
        axis.fill_between(x, [row["low"] for row in rows], [row["high"] for row in rows], color=color, alpha=0.2)
    title = f"{language}: {found['texts']} texts of {found['speakers']} speakers"
    axis.set(title=title, xlabel="confidence", ylabel="share of texts that are right", xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="upper left")

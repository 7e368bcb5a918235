"""`bench endpoints`: how soon utterances end, and how often that cuts somebody off. Faster than real time.

The session, the detector and the model are the real ones; only time is made up. Audio goes into the session in frames
of 20 ms and the clock is that audio; what the model is asked takes as long as it really took, or `infer_ms`. So a few
minutes give as many trials as `bench ttfs` gives in an hour, at the price of a machine on which nothing else waits.

Trials, end of speech and cut-offs are those of `bench ttfs`: clips as recorded, and pairs of clips joined so that a
known pause lies between their speech. Endpoint TTFS is the time from the end of speech to the last line.

The gate before the detector (`stt_core.vad.GatedVad`) is held against the detector alone, on every clip in white noise
of several levels, and after a bang in the quietest: how many of the detector's speech windows it misses, and how many
clips it loses altogether.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from local_dev.live_report import Sheet, header, ms, new_figure, percentile, write_report
from local_dev.live_ttfs import (
    ALLOWED_PAUSE_MS,
    MAX_CLIP_S,
    SHORT_S,
    Spoken,
    choose_clips,
    find_speech,
    joined_pairs,
    longest_pause_ms,
)
from stt_core.audio import SAMPLE_RATE, AudioFormat, Samples, read_audio, to_s16le
from stt_core.engine import WhisperEngine
from stt_core.errors import SettingsError
from stt_core.session import Action, LookAgain, PlainSession, SendText, Transcribe, Withdraw
from stt_core.settings import Settings
from stt_core.transcription import Decoding, Request, Transcript
from stt_core.vad import WINDOW_SAMPLES, GatedVad, SileroVad

FRAME_S = 0.02
SILENCE_S = 3.0  # after the clip
PAUSES_MS = (100, 200, 300, 400)
NOISE_DBFS = (-60, -45, -35)
NOISE_BEFORE_S = 6.0  # long enough for the gate to close
BANGS = (0.3, 2.0)  # seconds of a loud noise, in the quietest room, that ends BANG_BEFORE_S before the clip
BANG_DBFS = -20
BANG_BEFORE_S = 1.5
SPEECH = 0.5  # probability of a window that the gate must not miss


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing said to an open microphone, and when its lines came."""

    id: str
    pause_ms: float  # the longest within the speech
    joined_ms: int | None  # the known one, if two clips were joined
    audio_s: float
    ttfs_s: float  # of the last line; infinite if none came
    lines: list[str]

    @property
    def is_cut_off(self) -> bool:
        return len(self.lines) > 1 and self.pause_ms < ALLOWED_PAUSE_MS


class Simulation:
    """A player and the server on a clock made of audio."""

    def __init__(self, engine: WhisperEngine, vad: SileroVad, settings: Settings, infer_s: float | None) -> None:
        self._engine = engine
        self._vad = vad
        self._settings = settings
        self._infer_s = infer_s

    def listen(self, spoken: Spoken, joined_ms: int | None = None) -> Trial:
        decoding = Decoding(spoken.clip.language)
        options = self._settings.endpointing_options
        session = PlainSession(AudioFormat(), self._vad, options, endpointing="on", decoding=decoding)
        due: list[tuple[float, int, Transcript]] = []
        lines: list[tuple[float, str]] = []
        now_s = free_s = 0.0

        def carry_out(actions: Sequence[Action]) -> None:
            nonlocal free_s
            for action in actions:
                match action:
                    case Transcribe(number, request) | LookAgain(number, request):
                        transcript, took_s = self._transcribe(request)
                        free_s = max(free_s, now_s) + took_s
                        due.append((free_s, number, transcript))
                    case Withdraw(number):
                        due[:] = [item for item in due if item[1] != number]
                    case SendText(text):
                        lines.append((now_s, text))

        pcm = to_s16le(np.pad(spoken.samples, (0, round(SILENCE_S * SAMPLE_RATE))))
        step = 2 * round(FRAME_S * SAMPLE_RATE)
        position = 0
        while position < len(pcm) or due:
            frame_s = (position + step) / 2 / SAMPLE_RATE  # when the next frame is full
            if due and (due[0][0] <= frame_s or position >= len(pcm)):
                now_s, number, transcript = due.pop(0)
                carry_out(list(session.receive_transcript(number, transcript)))
            else:
                now_s = frame_s
                carry_out(list(session.receive_bytes(pcm[position : position + step])))
                position += step
        ttfs_s = lines[-1][0] - spoken.speech[-1][1] if lines else math.inf
        return Trial(
            spoken.clip.id,
            round(longest_pause_ms(spoken.speech)),
            joined_ms,
            round(spoken.audio_s, 3),
            round(max(0.0, ttfs_s), 4),
            [text for _, text in lines],
        )

    def _transcribe(self, request: Request) -> tuple[Transcript, float]:
        began_s = perf_counter()
        [transcript] = self._engine.transcribe([request])
        return transcript, perf_counter() - began_s if self._infer_s is None else self._infer_s


def run_endpoint_bench(
    data: Path,
    out: Path,
    *,
    languages: Sequence[str] = ("ko",),
    limit: int | None = None,
    pauses_ms: Sequence[int] = PAUSES_MS,
    pause_trials: int = 50,
    infer_ms: float | None = None,
    min_silence_duration_ms: int | None = None,
    max_silence_duration_ms: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Measure, print and write `endpoints.json`, `.png` and `.html`; return the exit code.

    Args:
        data: a folder with a `manifest.tsv`.
        limit: so many clips of each language.
        pauses_ms: known pauses, each tried on `pause_trials` pairs.
        infer_ms: what a request takes; None: what it takes.
        min_silence_duration_ms, max_silence_duration_ms: instead of the server's defaults.

    Raises:
        SettingsError: there is nothing to measure.
    """
    console = console or Console()
    figure, axes = new_figure(2)
    drawn = random.Random(seed)
    vad = SileroVad()
    clips = choose_clips(data, languages, ("human",), limit, MAX_CLIP_S, drawn)
    everything = [Spoken(clip, samples := read_audio(clip.path), find_speech(samples, vad)) for clip in clips]
    spoken = [each for each in everything if each.speech and each.audio_s <= MAX_CLIP_S]
    if not spoken:
        raise SettingsError(f"{data} holds no clip in {', '.join(languages)} in which one speaks.")
    pairs = joined_pairs(spoken, pauses_ms, pause_trials, ALLOWED_PAUSE_MS, drawn)
    settings = Settings.from_environment(
        {},
        min_silence_duration_ms=min_silence_duration_ms,
        max_silence_duration_ms=max_silence_duration_ms,
    )
    engine = WhisperEngine(languages=languages)
    engine.load()
    result = header(
        {
            "data": data.name,
            "languages": list(languages),
            "clips": len(spoken),
            "pauses_ms": list(pauses_ms),
            "infer_ms": infer_ms,
            "min_silence_duration_ms": settings.min_silence_duration_ms,
            "max_silence_duration_ms": settings.max_silence_duration_ms,
            "seed": seed,
        }
    )
    simulation = Simulation(engine, vad, settings, None if infer_ms is None else infer_ms / 1000)
    with Progress(console=console) as progress:
        task = progress.add_task("endpoints", total=len(spoken) + len(pairs))
        trials = []
        for each, pause_ms in [*((each, None) for each in spoken), *pairs]:
            trials.append(simulation.listen(each, pause_ms))
            progress.advance(task)
        conditions = [*((level, 0.0) for level in NOISE_DBFS), *((min(NOISE_DBFS), bang_s) for bang_s in BANGS)]
        gate = [_gate(vad, spoken, *each, seed) for each in progress.track(conditions, description="gate")]
    result |= {"ttfs": _ttfs(trials), "cut_off": _cut_offs(trials), "gate": gate}
    result["trials"] = [asdict(trial) for trial in trials]
    _plot(axes, trials)
    about = (__doc__ or "").partition("\n\n")[2]
    write_report(out, "endpoints", "Endpoints", about, result, _sheets(result), figure, console)
    return 0


def _ttfs(trials: Sequence[Trial]) -> dict[str, float]:
    waits = [trial.ttfs_s for trial in trials if trial.joined_ms is None and trial.audio_s <= SHORT_S]
    return {"n": len(waits), **{f"p{percent}_s": percentile(waits, percent) for percent in (50, 95)}}


def _cut_offs(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """By the pause that was known, then of all."""
    kinds = sorted({trial.joined_ms for trial in trials if trial.joined_ms is not None})
    rows = []
    for kind in (None, *kinds, "all"):
        members = [
            trial
            for trial in trials
            if trial.pause_ms < ALLOWED_PAUSE_MS and (kind == "all" or trial.joined_ms == kind)
        ]
        cut = sum(trial.is_cut_off for trial in members)
        low, high = wilson(cut, len(members))
        name = "as recorded" if kind is None else "all" if kind == "all" else f"{kind} ms pause"
        rows.append({"kind": name, "trials": len(members), "cut": cut, "low": low, "high": high})
    return rows


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The interval that holds a rate with 95 % confidence.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if not trials:
        return 0.0, 1.0
    z, rate = 1.96, hits / trials
    centre, spread = rate + z * z / (2 * trials), z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _gate(vad: SileroVad, spoken: Sequence[Spoken], level_dbfs: int, bang_s: float, seed: int) -> dict[str, float]:
    """What the gate misses of what the detector finds, all clips in noise of this level, after a bang if it lasts."""
    drawn = np.random.default_rng(seed)
    found = missed = lost = heard = rated = total = 0
    for each in spoken:
        windows = _in_noise(each.samples, level_dbfs, bang_s, drawn)
        alone = vad.stream()(windows) >= SPEECH
        asked = _Counting(vad)
        gated = GatedVad(asked).stream()(windows) >= SPEECH
        found += int(alone.sum())
        missed += int((alone & ~gated).sum())
        heard += bool(alone.any())
        lost += bool(alone.any() and not gated.any())
        rated, total = rated + asked.windows, total + len(windows)
    return {
        "noise_dbfs": level_dbfs,
        "bang_s": bang_s,
        "windows": found,
        "missed": missed,
        "clips": heard,
        "lost": lost,
        "rated": rated / total,
    }


def _in_noise(samples: Samples, level_dbfs: int, bang_s: float, drawn: np.random.Generator) -> Samples:
    """Noise, a bang, and then the clip in the noise: (n, 512) windows."""
    sound = np.concatenate([np.zeros(round(NOISE_BEFORE_S * SAMPLE_RATE), np.float32), samples])
    sound = np.pad(sound, (0, -len(sound) % WINDOW_SAMPLES))
    level = np.full(len(sound), 10 ** (level_dbfs / 20))
    bang_end = round((NOISE_BEFORE_S - BANG_BEFORE_S) * SAMPLE_RATE)
    level[bang_end - round(bang_s * SAMPLE_RATE) : bang_end] = 10 ** (BANG_DBFS / 20)
    noisy = np.clip(sound + level * drawn.standard_normal(len(sound)), -1, 1)
    return np.asarray(noisy, np.float32).reshape(-1, WINDOW_SAMPLES)


class _Counting:
    """A detector that counts the windows it rates."""

    def __init__(self, vad: SileroVad) -> None:
        self._vad = vad
        self.windows = 0

    def stream(self) -> Any:
        stream = self._vad.stream()

        def rate(windows: Samples) -> Any:
            self.windows += len(windows)
            return stream(windows)

        return rate


def _sheets(result: dict[str, Any]) -> list[Sheet]:
    ttfs = result["ttfs"]
    cuts = [
        [
            row["kind"],
            str(row["trials"]),
            str(row["cut"]),
            f"{100 * row['cut'] / row['trials']:.1f} % ({100 * row['low']:.1f} … {100 * row['high']:.1f})"
            if row["trials"]
            else "",
        ]
        for row in result["cut_off"]
    ]
    gate = [
        [
            f"{row['noise_dbfs']} dBFS" + (f", after a bang of {row['bang_s']} s" if row["bang_s"] else ""),
            f"{row['missed']} of {row['windows']} ({100 * row['missed'] / max(1, row['windows']):.2f} %)",
            f"{row['lost']} of {row['clips']}",
            f"{100 * row['rated']:.0f} %",
        ]
        for row in result["gate"]
    ]
    return [
        Sheet(
            f"Endpoint TTFS, clips up to {SHORT_S:.0f} s",
            ["n", "p50", "p95"],
            [[str(ttfs["n"]), ms(ttfs["p50_s"]), ms(ttfs["p95_s"])]],
        ),
        Sheet("Cut-offs", ["trial", "n", "cut off", "rate (95 %)"], cuts),
        Sheet("The gate before the detector", ["noise", "speech windows missed", "clips lost", "windows rated"], gate),
    ]


def _plot(axes: Sequence[Any], trials: Sequence[Trial]) -> None:
    """Left: how many waited how long. Right: cut-offs by the pause."""
    waits = sorted(trial.ttfs_s for trial in trials if trial.joined_ms is None and math.isfinite(trial.ttfs_s))
    axes[0].step(waits, [(n + 1) / len(waits) for n in range(len(waits))], where="post")
    axes[0].set(xlabel="endpoint TTFS, s", ylabel="share of clips answered", xlim=(0, None), ylim=(0, 1))
    rows = _cut_offs(trials)[:-1]
    rates = [row["cut"] / max(1, row["trials"]) for row in rows]
    spreads = [
        [max(0.0, rate - row["low"]) for rate, row in zip(rates, rows, strict=True)],
        [max(0.0, row["high"] - rate) for rate, row in zip(rates, rows, strict=True)],
    ]
    axes[1].bar([row["kind"] for row in rows], rates, yerr=spreads, capsize=4)
    axes[1].set(ylabel="share of trials cut off", ylim=(0, None))

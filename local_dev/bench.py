"""`bench engine`: this engine and stock faster-whisper side by side, on the same files in the same run.

Both get the same samples, one thread, one worker, the same weights (int8) and beam, and take turns at going
first. Stock is `WhisperModel.transcribe(samples, language=…, beam_size=…)` with nothing else changed. Ours is
what the server does: the voice activity detector cuts the speech out, then the engine transcribes it. The
detector works while the audio arrives, so its time is told apart from the engine's, which is what a player waits.

Errors are those of `stt_core.scoring`. "pooled" counts all errors over all letters or words, "mean" is the mean
of the files' own rates, in which a wrong "yes" weighs as much as a wrong sentence. Intervals are 95 % intervals
of a bootstrap over files that keeps the two systems of a file together (paired). The time against stock is the median
of the files' own ratios: on a busy machine both systems wait.

Then, on the first clips of each language: how many texts of each cut vocabulary (`stt_core.vocabulary`) are those
of the whole one, greedy and with the beam, second looks left out; how long an utterance takes in batches; and how
many utterances a second workers and their threads get done, second looks left out as well.

DATA is a folder with a `manifest.tsv` (columns id, file, language, seconds, kind, text; tab-separated).
"""

import csv
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stt_core.audio import Samples, read_audio
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import WhisperEngine
from stt_core.errors import SettingsError
from stt_core.scoring import CHARACTER_LANGUAGES, Score, score
from stt_core.transcription import Request, Transcript
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad

if TYPE_CHECKING:
    from local_dev.live_report import Sheet

BUCKETS_S = (0.0, 2.0, 5.0, 10.0, 30.0, float("inf"))
RESAMPLES = 10_000
PACKAGES = ("game-stt", "faster-whisper", "ctranslate2", "onnxruntime", "numpy")

Floats = NDArray[np.float64]  # (n,) one for each file


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the manifest."""

    id: str
    path: Path
    language: str
    kind: str  # human, tts or noise
    text: str  # what is said; empty: unknown or nothing


@dataclass(frozen=True, slots=True)
class Run:
    """What one system made of one clip."""

    text: str
    seconds: float
    score: Score


@dataclass(frozen=True, slots=True)
class Pair:
    """What the systems made of one clip."""

    clip: Clip
    audio_s: float
    stock: Run
    ours: Run  # as the server is by default: with the vocabulary cut to the clip's language
    whole: Run  # ours with the whole vocabulary
    vad_s: float
    second_look: bool


def read_manifest(data: Path) -> list[Clip]:
    """The clips of a folder.

    Raises:
        SettingsError: there is no manifest, or it lacks a column.
    """
    manifest = data / "manifest.tsv"
    if not manifest.is_file():
        raise SettingsError(
            f"{data} has no manifest.tsv; DATA is a folder with one (tab-separated: id, file, language, seconds, "
            "kind, text), such as test_audio."
        )
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    try:
        return [Clip(row["id"], data / row["file"], row["language"], row["kind"], row["text"].strip()) for row in rows]
    except KeyError as error:
        raise SettingsError(f"{manifest} lacks the column {error}.") from None


class Ours:
    """The engine as the server uses it: speech cut out by the detector, then transcribed."""

    def __init__(self, model: str, languages: Iterable[str], cache_dir: Path | None, beam_size: int) -> None:
        self.engine = WhisperEngine(model, languages=languages, cache_dir=cache_dir, device="cpu", beam_size=beam_size)
        self.engine.load()
        self._vad = SileroVad()

    def transcribe(self, samples: Samples, language: str) -> tuple[Transcript, float, float]:
        """The transcript, the engine's seconds and the detector's."""
        started = time.perf_counter()
        speech = whole_utterance(samples, self._vad, EndpointingOptions())
        heard = time.perf_counter()
        if not len(speech.samples):
            return Transcript("", language), 0.0, heard - started
        [transcript] = self.engine.transcribe([Request(speech.samples, language, vad_ratio=speech.vad_ratio)])
        return transcript, time.perf_counter() - heard, heard - started


class Stock:
    """faster-whisper as it comes."""

    def __init__(self, folder: Path, beam_size: int) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1, num_workers=1)
        self._beam_size = beam_size

    def transcribe(self, samples: Samples, language: str) -> tuple[str, float]:
        """The text and the seconds that it took."""
        started = time.perf_counter()
        segments, _ = self._model.transcribe(samples, language=language, beam_size=self._beam_size)
        text = " ".join(segment.text.strip() for segment in segments)
        return text, time.perf_counter() - started


def run_engine_bench(
    data: Path,
    out: Path,
    *,
    model: str = "base",
    cache_dir: Path | None = None,
    language: str | None = None,
    kinds: Collection[str] = ("human",),
    beam_size: int = 5,
    limit: int | None = None,
    seed: int = 0,
    study: bool = False,
    console: Console | None = None,
) -> int:
    """Run the benchmark; write `engine.json`, `.png` and `.html`; return the exit code, 0.

    Args:
        data: a folder with a `manifest.tsv`.
        out: the folder for the result; it is made.
        model: as in `WhisperEngine`.
        cache_dir: likewise.
        language: only clips in this language; otherwise Korean and English.
        kinds: only clips of these kinds; all kinds if the folder has none of them.
        beam_size: of both systems.
        limit: the first so many clips of each language.
        seed: of the bootstrap, and of the clips of the study.
        study: measure the curves behind the engine's defaults instead; see `local_dev.study`.

    Raises:
        SettingsError: there is nothing to measure.
    """
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")  # "one thread" is said of both systems' spectrograms, too, as in the server
    console = console or Console()
    if study:
        from local_dev.study import run_study

        return run_study(
            data, out, model=model, cache_dir=cache_dir, language=language, limit=limit, seed=seed, console=console
        )
    from local_dev.live_report import Sheet, header, new_figure, write_report
    from local_dev.study_serving import compare_cuts, sheets_of, time_batches, time_workers

    new_figure(1)  # says at once if matplotlib is missing
    languages = (language,) if language else ("ko", "en")
    clips = [clip for code in languages for clip in select_clips(data, code, kinds)[:limit]]
    noises = [clip for clip in read_manifest(data) if clip.kind == "noise"][:limit]
    if not clips:
        raise SettingsError(f"{data} holds no clip in {' or '.join(languages)} whose text is known.")

    settings = {
        "data": data.name,
        "model": model,
        "beam_size": beam_size,
        "kinds": sorted(kinds),
        "limit": limit,
        "seed": seed,
        "resamples": RESAMPLES,
    }
    head = header(settings)
    with bench_progress(console) as progress:
        pairs, silent = _measure(clips, noises, model, cache_dir, beam_size, progress)
        cuts = compare_cuts(clips, model, cache_dir, beam_size, progress)
        batches = time_batches(clips, model, cache_dir, beam_size, progress)
        workers = time_workers(clips, model, cache_dir, beam_size, progress)

    by_language = {code: [pair for pair in pairs if pair.clip.language == code] for code in languages}
    result = head | {
        "languages": {code: _summary(own, seed) for code, own in by_language.items() if own},
        "noise": silent,
        "cuts": cuts,
        "batches": batches,
        "workers": workers,
        "files": [_row(pair) for pair in pairs],
    }
    figure, [times, errors] = new_figure(2)
    _draw(times, errors, pairs, result["languages"])
    sheets = [
        *(_sheet(code, summary) for code, summary in result["languages"].items()),
        Sheet("noise", ["files", "words heard by stock", "by ours"], [[str(value) for value in silent.values()]]),
        *sheets_of(cuts, batches, workers),
    ]
    about = (__doc__ or "").strip()
    write_report(out, "engine", "The engine against stock faster-whisper", about, result, sheets, figure, console)
    return 0


def select_clips(data: Path, language: str, kinds: Collection[str] = ("human",)) -> list[Clip]:
    """The clips in a language whose text is known, of these kinds; of all kinds if none is of these.

    Raises:
        SettingsError: there is no manifest, or it lacks a column.
    """
    spoken = [clip for clip in read_manifest(data) if clip.text and clip.language == language]
    return [clip for clip in spoken if clip.kind in kinds] or spoken


def describe_machine() -> dict[str, Any]:
    """Where a benchmark ran: processor, cores, system, versions."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def bench_progress(console: Console) -> Progress:
    """A bar for each thing that is measured."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console)


def _measure(
    clips: Sequence[Clip],
    noises: Sequence[Clip],
    model: str,
    cache_dir: Path | None,
    beam_size: int,
    progress: Progress,
) -> tuple[list[Pair], dict[str, int]]:
    """The systems on every clip, in turns, and on how many noises each of them heard words."""
    whole = Ours(model, (), cache_dir, beam_size)
    cut = {code: Ours(model, (code,), cache_dir, beam_size) for code in dict.fromkeys(clip.language for clip in clips)}
    stock = Stock(whole.engine.fetch(), beam_size)
    task = progress.add_task("stock and ours", total=len(clips) + len(noises))
    first: list[Stock | Ours] = [stock, whole, *cut.values()]
    for system in first:
        system.transcribe(read_audio(clips[0].path), clips[0].language)  # the first run is slow

    pairs = []
    for number, clip in enumerate(clips):
        samples = read_audio(clip.path)
        ours = cut[clip.language]
        systems: list[Stock | Ours] = [stock, whole, ours]
        runs: dict[Any, Any] = {}
        for system in systems[number % 3 :] + systems[: number % 3]:
            runs[system] = system.transcribe(samples, clip.language)
        text, stock_s = runs[stock]
        transcript, engine_s, vad_s = runs[ours]
        uncut, uncut_s, _ = runs[whole]
        pairs.append(
            Pair(
                clip,
                audio_s=len(samples) / 16_000,
                stock=Run(text, stock_s, score(clip.text, text, clip.language)),
                ours=Run(transcript.text, engine_s, score(clip.text, transcript.text, clip.language)),
                whole=Run(uncut.text, uncut_s, score(clip.text, uncut.text, clip.language)),
                vad_s=vad_s,
                second_look=transcript.second_look,
            )
        )
        progress.advance(task)

    silent = {"files": len(noises), "stock": 0, "ours": 0}
    for clip in noises:
        samples = read_audio(clip.path)
        silent["stock"] += bool(stock.transcribe(samples, clips[0].language)[0])
        silent["ours"] += bool(cut[clips[0].language].transcribe(samples, clips[0].language)[0].text)
        progress.advance(task)
    return pairs, silent


def _summary(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """The numbers of one language."""
    language = pairs[0].clip.language
    errors = {name: _column(pairs, name, lambda run: run.score.errors) for name in ("stock", "ours")}
    rates = {name: _column(pairs, name, lambda run: run.score.rate) for name in ("stock", "ours")}
    seconds = {name: _column(pairs, name, lambda run: run.seconds) for name in ("stock", "ours")}
    ratios = seconds["ours"] / seconds["stock"]
    length = _column(pairs, "stock", lambda run: run.score.length)
    draws = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))

    def pooled(name: str) -> Floats:
        return np.asarray(errors[name][draws].sum(axis=1) / length[draws].sum(axis=1))

    def mean(name: str) -> Floats:
        return np.asarray(rates[name][draws].mean(axis=1))

    return {
        "metric": "CER" if language in CHARACTER_LANGUAGES else "WER",
        "files": len(pairs),
        "audio_s": round(sum(pair.audio_s for pair in pairs), 1),
        **{
            name: {
                "pooled": _interval(errors[name].sum() / length.sum(), pooled(name)),
                "mean": _interval(rates[name].mean(), mean(name)),
                "median_s": round(float(np.median(seconds[name])), 3),
                "p95_s": round(float(np.percentile(seconds[name], 95)), 3),
            }
            for name in ("stock", "ours")
        },
        "difference": {
            "pooled": _interval(
                (errors["ours"] - errors["stock"]).sum() / length.sum(), pooled("ours") - pooled("stock")
            ),
            "mean": _interval((rates["ours"] - rates["stock"]).mean(), mean("ours") - mean("stock")),
        },
        "time_ratio": _interval(np.median(ratios), np.median(ratios[draws], axis=1)),
        "whole_vocabulary": {
            "pooled": round(sum(pair.whole.score.errors for pair in pairs) / float(length.sum()), 4),
            "mean": round(float(np.mean([pair.whole.score.rate for pair in pairs])), 4),
            "median_s": round(float(np.median([pair.whole.seconds for pair in pairs])), 3),
            "unequal": [pair.clip.id for pair in pairs if pair.whole.text != pair.ours.text],
        },
        "vad_median_s": round(float(np.median([pair.vad_s for pair in pairs])), 3),
        "fallbacks": sum(pair.second_look for pair in pairs),
        "buckets": [
            _bucket(low, high, members)
            for low, high in pairwise(BUCKETS_S)
            if (members := [pair for pair in pairs if low <= pair.audio_s < high])
        ],
    }


def _bucket(low: float, high: float, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The numbers of the clips whose length lies in a range."""
    length = sum(pair.stock.score.length for pair in pairs)
    return {
        "from_s": low,
        "to_s": None if high == float("inf") else high,
        "files": len(pairs),
        "fallbacks": sum(pair.second_look for pair in pairs),
        **{
            name: {
                "pooled": round(sum(getattr(pair, name).score.errors for pair in pairs) / length, 4),
                "median_s": round(float(np.median([getattr(pair, name).seconds for pair in pairs])), 3),
            }
            for name in ("stock", "ours")
        },
    }


def _column(pairs: Sequence[Pair], system: str, value: Callable[[Run], float]) -> Floats:
    return np.array([value(getattr(pair, system)) for pair in pairs], np.float64)


def _interval(value: float, draws: Floats) -> dict[str, float]:
    """A value with the 95 % interval that its resampled values span."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _row(pair: Pair) -> dict[str, Any]:
    def run(own: Run) -> dict[str, Any]:
        return {
            "errors": own.score.errors,
            "length": own.score.length,
            "seconds": round(own.seconds, 4),
            "text": own.text,
        }

    return {
        "id": pair.clip.id,
        "language": pair.clip.language,
        "audio_s": round(pair.audio_s, 2),
        "vad_s": round(pair.vad_s, 4),
        "second_look": pair.second_look,
        "stock": run(pair.stock),
        "ours": run(pair.ours),
        "whole": run(pair.whole),
    }


def _draw(times: Any, errors: Any, pairs: Sequence[Pair], summaries: Mapping[str, Any]) -> None:
    for name, color in (("stock", "tab:gray"), ("ours", "tab:blue")):
        x = [pair.audio_s for pair in pairs]
        times.scatter(x, [getattr(pair, name).seconds for pair in pairs], s=12, color=color, label=name)
    times.set(title="time of one utterance, one thread", xlabel="recording in seconds", ylabel="seconds")
    times.set_ylim(bottom=0)
    times.legend()
    labels = [f"{code}, {measure}" for code in summaries for measure in ("pooled", "mean")]
    for shift, (name, color) in zip((-0.2, 0.2), (("stock", "tab:gray"), ("ours", "tab:blue")), strict=True):
        found = [summary[name][measure] for summary in summaries.values() for measure in ("pooled", "mean")]
        values = [100 * interval["value"] for interval in found]
        spans = [
            [100 * (interval["value"] - interval["low"]) for interval in found],
            [100 * (interval["high"] - interval["value"]) for interval in found],
        ]
        errors.bar(np.arange(len(labels)) + shift, values, 0.4, yerr=spans, color=color, label=name, capsize=3)
    errors.set_xticks(range(len(labels)), labels)
    errors.set(title="errors, with 95 % intervals", ylabel="CER or WER in %")
    errors.legend()


def _sheet(language: str, summary: dict[str, Any]) -> "Sheet":
    def percent(interval: dict[str, float], sign: str = "") -> str:
        value, low, high = (100 * interval[key] for key in ("value", "low", "high"))
        return f"{value:{sign}.1f} % ({low:{sign}.1f} … {high:{sign}.1f})"

    def seconds(system: dict[str, Any]) -> str:
        return f"{system['median_s']:.2f} s / {system['p95_s']:.2f} s"

    from local_dev.live_report import Sheet

    stock, ours, difference = summary["stock"], summary["ours"], summary["difference"]
    rows = [
        [
            f"{summary['metric']}, {name}",
            percent(stock[name]),
            percent(ours[name]),
            percent(difference[name], "+"),
        ]
        for name in ("pooled", "mean")
    ]
    ratio = summary["time_ratio"]
    speed = f"{ratio['value']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f})"
    rows.append(["time, median / p95", seconds(stock), seconds(ours), speed])
    whole = summary["whole_vocabulary"]
    told = f"{100 * whole['pooled']:.1f} % / {100 * whole['mean']:.1f} %, {whole['median_s']:.2f} s"
    rows.append(["ours, whole vocabulary", "", told, f"{len(whole['unequal'])} texts differ"])
    rows.append(["detector, median", "", f"{summary['vad_median_s']:.2f} s", "while the audio arrives"])
    for bucket in summary["buckets"]:
        to = "" if bucket["to_s"] is None else f"{bucket['to_s']:.0f}"
        cells = [
            f"{100 * bucket[name]['pooled']:.1f} %, {bucket[name]['median_s']:.2f} s" for name in ("stock", "ours")
        ]
        ratio_of_medians = bucket["ours"]["median_s"] / bucket["stock"]["median_s"]
        label = f"{bucket['from_s']:.0f} … {to} s ({bucket['files']} files)"
        rows.append([label, *cells, f"{ratio_of_medians:.2f}, {bucket['fallbacks']} fallbacks"])
    title = f"{language}: {summary['files']} files, {summary['audio_s']:.0f} s, {summary['fallbacks']} fallbacks"
    return Sheet(title, ["", "stock", "ours", "ours against stock"], rows)

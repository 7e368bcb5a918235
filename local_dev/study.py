"""`bench engine DATA --study`: the curves behind the engine's defaults, and where its time goes.

**Curves.** Every clip is decoded in every cell of a grid: silence encoded behind the speech (`margin_s`), what the
decoder attends to (`states`, speech and silence together; 1500 is Whisper's own window), and beam. The cells take
turns on each clip, so that a busy machine is busy for all of them, and stock faster-whisper (beam 5) is timed on the
same clip. "time" is the median over the clips of the cell's time divided by stock's; it is processor time, which
neighbours disturb least. CER and WER as in `stt_core.scoring`, pooled. Buckets are by length of speech.

**Profile.** CTranslate2 has no hooks, so the engine's own steps are timed from outside: mel, encoding (without
mel), decoding, second looks. Decoding is a line: seconds = start + tokens x seconds per token, fitted by least
squares over first looks; the start holds the keys and values of the memory and the prompt.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from local_dev.bench import Clip, Stock, bench_progress, select_clips
from local_dev.live_report import Sheet, header, new_figure, slope, write_report
from stt_core.audio import SAMPLE_RATE, Samples, read_audio
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import Memory, WhisperEngine
from stt_core.scoring import Score, score
from stt_core.transcription import Request
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad

MARGINS_S = (0.25, 0.5, 1.0)
STATES = (500, 750, 1000, 1250, 1500)
BEAMS = (1, 2, 3, 5)
BUCKETS_S = (0.0, 2.0, 5.0, 10.0, float("inf"))  # of speech
CLIPS = 16  # of each language, where no limit is given
DEFAULT = Memory()
STEPS = {"_mel": "mel", "_encode": "encode", "_generate": "decode", "_look_again": "second looks"}


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A point of the grid."""

    margin_s: float
    states: int
    beam_size: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a cell, or stock where there is none, made of a clip."""

    clip: str
    language: str
    speech_s: float
    cell: Cell | None
    seconds: float  # of a processor
    score: Score


@dataclass(frozen=True, slots=True)
class Spoken:
    """A clip, and its speech as the server would hand it to the engine."""

    clip: Clip
    samples: Samples
    speech: Samples


def run_study(
    data: Path,
    out: Path,
    *,
    model: str = "base",
    cache_dir: Path | None = None,
    language: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    console: Console | None = None,
    cells: Sequence[Cell] = (),
) -> int:
    """Measure the curves and the profile; write `study.json`, `.png` and `.html`; return the exit code, 0.

    Args:
        data: a folder with a `manifest.tsv`.
        limit: so many clips of each language, drawn by `seed`; CLIPS if None.
        cells: instead of the whole grid.

    Raises:
        SettingsError: there is nothing to measure, or matplotlib is missing.
    """
    console = console or Console()
    new_figure(1)  # says at once if matplotlib is missing
    languages = (language,) if language else ("ko", "en")
    drawn = np.random.default_rng(seed)
    spoken = [hear(clip) for code in languages for clip in _draw(select_clips(data, code), limit or CLIPS, drawn)]
    spoken = [one for one in spoken if len(one.speech)]
    cells = cells or [Cell(*values) for values in product(MARGINS_S, STATES, BEAMS)]
    with bench_progress(console) as progress:
        looks = _measure_curves(spoken, cells, model, cache_dir, progress)
        profiles = {
            code: _profile([o for o in spoken if o.clip.language == code], model, cache_dir) for code in languages
        }
    spoken_languages = [code for code in languages if any(look.language == code for look in looks)]
    summaries = {code: summarise([look for look in looks if look.language == code]) for code in spoken_languages}
    settings = {"data": data.name, "model": model, "clips": len(spoken), "limit": limit or CLIPS, "seed": seed}
    result = header(settings) | {"curves": summaries, "profile": profiles, "looks": [_row(look) for look in looks]}
    figure, axes = new_figure(2 * len(spoken_languages))
    for number, code in enumerate(spoken_languages):
        _draw_curves(axes[2 * number], axes[2 * number + 1], code, summaries[code])
    sheets = [
        sheet
        for code in spoken_languages
        for sheet in (*_sheets(code, summaries[code]), _profile_sheet(code, profiles[code]))
    ]
    write_report(out, "study", "The engine's curves", (__doc__ or "").strip(), result, sheets, figure, console)
    return 0


def hear(clip: Clip) -> Spoken:
    samples = read_audio(clip.path)
    return Spoken(clip, samples, whole_utterance(samples, SileroVad(), EndpointingOptions()).samples)


def _draw(clips: Sequence[Clip], count: int, drawn: np.random.Generator) -> list[Clip]:
    return [clips[i] for i in sorted(drawn.permutation(len(clips))[:count])]


def _measure_curves(
    spoken: Sequence[Spoken], cells: Sequence[Cell], model: str, cache_dir: Path | None, progress: Progress
) -> list[Look]:
    engines = {
        code: WhisperEngine(model, languages=(code,), cache_dir=cache_dir, device="cpu")
        for code in dict.fromkeys(one.clip.language for one in spoken)
    }
    for engine in engines.values():
        engine.load()
    stock = Stock(next(iter(engines.values())).fetch(), 5)
    stock.transcribe(spoken[0].samples, spoken[0].clip.language)  # the first run is slow
    task = progress.add_task("curves", total=len(spoken) * (len(cells) + 1))
    looks = []
    for number, one in enumerate(spoken):
        language, engine = one.clip.language, engines[one.clip.language]
        request = Request(one.speech, language)
        engine.transcribe([request])
        turns: list[Cell | None] = [None, *cells]
        start = number * 7 % len(turns)
        for cell in turns[start:] + turns[:start]:
            began = time.process_time()
            if cell is None:
                text = stock.transcribe(one.samples, language)[0]
            else:
                engine.memory = Memory(margin_s=cell.margin_s, states=cell.states)
                engine.beam_size = cell.beam_size
                text = engine.transcribe([request])[0].text
            seconds = time.process_time() - began
            speech_s = len(one.speech) / SAMPLE_RATE
            looks.append(Look(one.clip.id, language, speech_s, cell, seconds, score(one.clip.text, text, language)))
            progress.advance(task)
    return looks


def summarise(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """One row for each cell and bucket, and for each cell over all buckets (`from_s` and `to_s` None)."""
    stock = {look.clip: look for look in looks if look.cell is None}
    rows = []
    for cell in sorted({look.cell for look in looks if look.cell is not None}):
        own = [look for look in looks if look.cell == cell]
        for low, high in ((None, None), *pairwise(BUCKETS_S)):
            members = [look for look in own if low is None or (high is not None and low <= look.speech_s < high)]
            if not members:
                continue
            rows.append(
                {
                    "margin_s": cell.margin_s,
                    "states": cell.states,
                    "beam_size": cell.beam_size,
                    "from_s": low,
                    "to_s": None if high == float("inf") else high,
                    "clips": len(members),
                    "errors": pooled(members),
                    "stock_errors": pooled([stock[look.clip] for look in members]),
                    "time": float(np.median([look.seconds / stock[look.clip].seconds for look in members])),
                }
            )
    return rows


def pooled(looks: Iterable[Look]) -> float:
    """All errors over all letters or words."""
    scores = [look.score for look in looks]
    return sum(one.errors for one in scores) / max(1, sum(one.length for one in scores))


def _cells(rows: Sequence[Mapping[str, Any]], **fixed: Any) -> list[Mapping[str, Any]]:
    """The rows over all buckets that have these values."""
    return [row for row in rows if row["from_s"] is None and all(row[key] == value for key, value in fixed.items())]


def _sheets(code: str, rows: Sequence[Mapping[str, Any]]) -> list[Sheet]:
    """Two ways through the grid from the default, and the buckets."""

    def told(row: Mapping[str, Any]) -> str:
        return f"{100 * row['errors']:.1f} %, {row['time']:.2f}"

    def table(title: str, across: str, down: str, **fixed: Any) -> Sheet:
        chosen = _cells(rows, **fixed)
        columns = sorted({row[across] for row in chosen})
        lines = sorted({row[down] for row in chosen})
        found = {(row[down], row[across]): told(row) for row in chosen}
        body = [[str(line), *(found.get((line, column), "") for column in columns)] for line in lines]
        return Sheet(title, [f"{down} \\ {across}", *map(str, columns)], body)

    best = max(row["beam_size"] for row in rows)
    stock = _cells(rows)[0]["stock_errors"]
    buckets = [
        row
        for row in rows
        if (row["margin_s"], row["states"]) == (DEFAULT.margin_s, DEFAULT.states) and row["from_s"] is not None
    ]
    return [
        table(
            f"{code}: errors, time of stock (stock {100 * stock:.1f} %), margin {DEFAULT.margin_s} s",
            "states",
            "beam_size",
            margin_s=DEFAULT.margin_s,
        ),
        table(f"{code}: beam {best}", "states", "margin_s", beam_size=best),
        Sheet(
            f"{code}: {DEFAULT.margin_s} s margin, {DEFAULT.states} states, by length of speech",
            ["speech", "beam", "clips", "stock", "ours, time of stock"],
            [
                [
                    f"{row['from_s']:.0f} … {'' if row['to_s'] is None else format(row['to_s'], '.0f')} s",
                    str(row["beam_size"]),
                    str(row["clips"]),
                    f"{100 * row['stock_errors']:.1f} %",
                    told(row),
                ]
                for row in sorted(buckets, key=lambda row: (row["from_s"], row["beam_size"]))
            ],
        ),
    ]


def _draw_curves(errors: Any, times: Any, code: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for beam in sorted({row["beam_size"] for row in rows}):
        line = sorted(_cells(rows, beam_size=beam, margin_s=DEFAULT.margin_s), key=lambda row: int(row["states"]))
        x = [row["states"] for row in line]
        errors.plot(
            x, [100 * row["errors"] for row in line], marker="o", label="greedy" if beam == 1 else f"beam {beam}"
        )
        times.plot(x, [row["time"] for row in line], marker="o", label="greedy" if beam == 1 else f"beam {beam}")
    errors.axhline(100 * _cells(rows)[0]["stock_errors"], color="gray", linestyle="--", label="stock, beam 5")
    for axis, label in ((errors, "errors in %"), (times, "time of stock")):
        axis.set(title=f"{code}: {label}", xlabel="states that the decoder attends to (1500: Whisper's window)")
        axis.axvline(DEFAULT.states, color="gray", linewidth=0.8)
        axis.legend()
    times.set_ylim(bottom=0)


def _profile(spoken: Sequence[Spoken], model: str, cache_dir: Path | None) -> dict[str, float]:
    """Milliseconds of one utterance, of a processor: the median of each step, and the line that decoding is."""
    if not spoken:
        return {}
    language = spoken[0].clip.language
    engine = WhisperEngine(model, languages=(language,), cache_dir=cache_dir, device="cpu")
    engine.load()
    engine.transcribe([Request(spoken[0].speech, language)])
    rows, steps, decodes = [], dict.fromkeys(STEPS, 0.0), list[tuple[int, float]]()
    for name in STEPS:
        setattr(engine, name, _timed(getattr(engine, name), name, steps, decodes))
    for one in spoken:
        steps.update(dict.fromkeys(STEPS, 0.0))
        began = time.process_time()
        engine.transcribe([Request(one.speech, language, quick=True)])
        rows.append({**steps, "all": time.process_time() - began})
    steps.update(dict.fromkeys(STEPS, 0.0))
    before = engine.counts
    began = time.process_time()
    for one in spoken:
        engine.transcribe([Request(one.speech, language)])
    whole = time.process_time() - began
    tokens, seconds = zip(*decodes[: len(spoken)], strict=True)
    token_s = slope(tokens, seconds)
    looks = sum(engine.counts[doubt] - before[doubt] for doubt in ("looped", "weak", "sparse"))

    def median_ms(values: Iterable[float]) -> float:
        return round(1000 * float(np.median(list(values))), 1)

    return {
        "utterance_ms": median_ms(row["all"] for row in rows),
        "mel_ms": median_ms(row["_mel"] for row in rows),
        "encode_ms": median_ms(row["_encode"] - row["_mel"] for row in rows),
        "decode_ms": median_ms(row["_generate"] for row in rows),
        "decode_start_ms": round(1000 * (float(np.mean(seconds)) - token_s * float(np.mean(tokens))), 1),
        "decode_token_ms": round(1000 * token_s, 1),
        "second_looks": looks,
        "second_looks_share": round(steps["_look_again"] / whole, 3),
    }


def _timed(
    step: Callable[..., Any], name: str, steps: dict[str, float], decodes: list[tuple[int, float]]
) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        result = step(*args, **kwargs)
        seconds = time.process_time() - began
        steps[name] += seconds
        if name == "_generate":
            decodes.append((result[0].tokens, seconds))
        return result

    return timed


def _profile_sheet(code: str, profile: Mapping[str, float]) -> Sheet:
    return Sheet(f"{code}: where the time goes", ["step", ""], [[key, f"{value}"] for key, value in profile.items()])


def _row(look: Look) -> dict[str, Any]:
    cell = look.cell
    return {
        "clip": look.clip,
        "cell": None if cell is None else [cell.margin_s, cell.states, cell.beam_size],
        "speech_s": round(look.speech_s, 2),
        "seconds": round(look.seconds, 4),
        "errors": look.score.errors,
        "length": look.score.length,
    }

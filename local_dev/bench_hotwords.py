"""`bench hotwords`: what hotwords do to lines that hold them, and to lines that do not.

No list of rare names comes with a folder of recordings, so the references make one. Each recording is decoded without
hotwords first. Its word is the longest of its reference that the model then missed; if it missed none, the longest
of all. (Words are those between spaces: in Korean with their particles.) "missed" and "heard" are told apart, because
a hotword can only help the former and only harm the latter. Distractors are words that were chosen for other
recordings in the same way, and more words of theirs where those do not suffice; none of them is said in this one, nor
taken for what is said by `stt_core.phrases`. So are the lists of a game: names that hardly anybody says just now, and
sometimes the right one.

    none            no hotwords
    alone           the right word
    in 10, in 50    the right word among so many, at a place drawn by the seed
    10, 50 others   the same without the right word: whoever sends a list never knows what is said next

    written      the word stands in the text: Korean is compared without spaces, English word by word
    found        the list's words as phrases, the right one among them: it is accepted (`stt_core.phrases`)
    mistaken     another word of the list is accepted as a phrase
    errors       CER or WER, pooled, and the difference to none with its 95 % interval (bootstrap over recordings)
    inserted     lines that hold a word of the list which nobody said
    worse        lines with more errors than without hotwords
    time         median of the recordings' own ratios to none, processor time
    whole model  decodings that the cut vocabulary could not do
    too long     lists that did not fit the prompt: their last words were not told

A hotword with letters that were cut away is answered by the whole model. How many of the words that are said in the
other languages of DATA would be such ones, and what that costs, is measured apart: the first recordings with their
word alone, and with 龍 behind it, which no cut vocabulary has.

Missed words were chosen by what one decoding got wrong, and any other decoding gets some of these right: how many, the
rows with others alone say.
"""

import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from local_dev.bench import Clip, bench_progress
from local_dev.bench_confidence import CONDITIONS, Recordings
from local_dev.live_report import Sheet, header, new_figure, percentile, write_report
from stt_core.audio import Samples
from stt_core.engine import MAX_BIAS_TOKENS, WhisperEngine
from stt_core.errors import SettingsError
from stt_core.phrases import PhraseBook
from stt_core.scoring import CHARACTER_LANGUAGES, Score, score, units
from stt_core.transcription import Request

LANGUAGES = ("ko", "en")
SHORTEST = {"ko": 2}  # letters of a word that is worth sending
SHORTEST_ELSEWHERE = 4
SIZES = (10, 50)
CELLS = ("none", "alone", *(f"in {size}" for size in SIZES), *(f"{size} others" for size in SIZES))
MAX_CHARS = 500  # of the hotwords on the wire
RESAMPLES = 2000
CUT_AWAY = "龍"  # no cut vocabulary has it
TIMED_CLIPS = 16  # with that


@dataclass(frozen=True, slots=True)
class Line:
    """What one recording became in one cell."""

    id: str
    language: str
    missed: bool  # without hotwords
    cell: str
    written: bool
    found: bool
    mistaken: bool
    inserted: bool
    score: Score
    seconds: float
    whole_model: int
    fits: bool


def words_of(text: str, language: str) -> list[str]:
    """The words that could be hotwords, each once."""
    shortest = SHORTEST.get(language, SHORTEST_ELSEWHERE)
    words = [re.sub(r"^\W+|\W+$", "", word) for word in text.split()]
    return [word for word in dict.fromkeys(words) if len(word) >= shortest and not re.search(r"\d", word)]


def holds(text: str, word: str, language: str) -> bool:
    """Whether a word stands in a text."""
    line, own = units(text, language), units(word, language)
    return any(line[at : at + len(own)] == own for at in range(len(line) - len(own) + 1))


def said(text: str, word: str, language: str) -> bool:
    """Whether a word, or one that a player would take for it, stands in a text."""
    match = PhraseBook([word]).match(text)
    return holds(text, word, language) or (match is not None and match.accepted)


def rarest(reference: str, heard: str, language: str) -> tuple[str, bool] | None:
    """The longest word of a line that was missed, or the longest of all, and whether it was missed; None without."""
    words = words_of(reference, language)
    missed = [word for word in words if not holds(heard, word, language)]
    longest = max(missed or words, key=len, default=None)
    return (longest, bool(missed)) if longest else None


def lists_of(word: str, others: Sequence[str], drawn: random.Random) -> dict[str, list[str]]:
    """The hotwords of each cell."""
    cells: dict[str, list[str]] = {"none": [], "alone": [word]}
    for size in SIZES:
        chosen = list(others[:size])
        with_it = chosen[: size - 1]
        with_it.insert(drawn.randrange(len(with_it) + 1), word)
        cells |= {f"in {size}": with_it, f"{size} others": chosen}
    return cells


def joined(words: Sequence[str]) -> str:
    """As a client sends them: as many as the wire takes."""
    return ", ".join(words)[:MAX_CHARS]


def run_hotwords_bench(
    data: Path,
    out: Path,
    *,
    languages: Sequence[str] = LANGUAGES,
    conditions: Sequence[str] = ("as recorded",),
    model: str = "base",
    cache_dir: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Measure, print, and write hotwords.json, .png and .html into `out`; return the exit code, 0.

    Args:
        data: a folder with a `manifest.tsv`.
        conditions: of `local_dev.bench_confidence`; every recording is heard in each.
        model: as in `WhisperEngine`.
        cache_dir: likewise.
        limit: the first so many recordings of each language.
        seed: of lists, places and noises.

    Raises:
        SettingsError: there is nothing to measure, or no such condition.
    """
    console = console or Console()
    if unknown := set(conditions) - CONDITIONS.keys():
        raise SettingsError(f"{', '.join(sorted(unknown))}: no such condition; there are {', '.join(CONDITIONS)}.")
    figure, axes = new_figure(len(languages))
    settings = {"data": data.name, "model": model, "conditions": conditions, "limit": limit, "seed": seed}
    result = header(settings)
    lines: list[Line] = []
    cut_away: dict[str, dict[str, float]] = {}
    with bench_progress(console) as progress:
        for language in languages:
            recordings = Recordings(data, language, seed, limit)
            engine = WhisperEngine(model, languages=(language,), cache_dir=cache_dir, device="cpu")
            engine.load()
            task = progress.add_task(f"hotwords, {language}", total=len(recordings.clips) * len(conditions))
            for condition in conditions:
                for line in _measure(engine, recordings, condition):
                    lines.append(line)
                    progress.update(task, advance=line.cell == CELLS[0])
            cut_away[language] = beside_the_cut(engine, recordings)
    if not lines:
        raise SettingsError(f"{data} holds no recording in {' or '.join(languages)} whose text is known.")
    sheets = []
    for axis, language in zip(axes, dict.fromkeys(line.language for line in lines), strict=False):
        rows = summarise([line for line in lines if line.language == language], seed)
        result[language] = rows
        sheets += _sheets(language, rows)
        _draw(axis, language, rows)
    result["cut_away"] = cut_away
    result["lines"] = [_row(line) for line in lines]
    sheets.append(_cut_sheet(cut_away))
    write_report(out, "hotwords", "Hotwords", __doc__ or "", result, sheets, figure, console)
    return 0


def _measure(engine: WhisperEngine, recordings: Recordings, condition: str) -> Iterator[Line]:
    """Every recording in every cell; the cells take turns at going first."""
    language = recordings.language
    spoken = {clip.id: recordings.speech(clip, condition) for clip in recordings.clips}
    clips = [clip for clip in recordings.clips if len(spoken[clip.id])]
    chosen: dict[str, tuple[str, bool]] = {}
    for clip in clips:
        [plain] = engine.transcribe([Request(spoken[clip.id], language)])
        if found := rarest(clip.text, plain.text, language):
            chosen[clip.id] = found
    spare = [word for clip in clips for word in words_of(clip.text, language)]
    for number, clip in enumerate(clip for clip in clips if clip.id in chosen):
        drawn = random.Random(f"{recordings.seed} {clip.id}")
        rare = [word for word, _ in chosen.values()]
        every = [*drawn.sample(rare, len(rare)), *drawn.sample(spare, len(spare))]
        others = [other for other in dict.fromkeys(every) if not said(clip.text, other, language)]
        word, missed = chosen[clip.id]
        lists = lists_of(word, others, drawn)
        for cell in [*CELLS[number % len(CELLS) :], *CELLS[: number % len(CELLS)]]:
            yield _line(engine, clip, spoken[clip.id], word, missed, cell, lists[cell])


def _line(
    engine: WhisperEngine, clip: Clip, speech: Samples, word: str, missed: bool, cell: str, listed: Sequence[str]
) -> Line:
    language, hotwords = clip.language, joined(listed)
    before = engine.counts["whole_model"]
    text, seconds = _timed(engine, Request(speech, language, hotwords=hotwords))
    book = PhraseBook(dict.fromkeys([*listed, *([] if cell.endswith("others") else [word])]))
    match = book.match(text) if text else None
    accepted = match.phrase if match and match.accepted else None
    return Line(
        clip.id,
        language,
        missed,
        cell,
        written=holds(text, word, language),
        found=accepted == word,
        mistaken=accepted not in (None, word),
        inserted=any(holds(text, other, language) for other in listed if other != word),
        score=score(clip.text, text, language),
        seconds=seconds,
        whole_model=engine.counts["whole_model"] - before,
        fits=len(engine._encoded(hotwords)) <= MAX_BIAS_TOKENS,
    )


def beside_the_cut(engine: WhisperEngine, recordings: Recordings) -> dict[str, float]:
    """What a hotword costs whose letters were cut away, and how many words of other languages are such ones."""
    language = recordings.language
    requests = []
    for clip in recordings.clips[:TIMED_CLIPS]:
        speech, words = recordings.speech(clip, "as recorded"), words_of(clip.text, language)
        if len(speech) and words:
            requests.append(Request(speech, language, hotwords=max(words, key=len)))
    foreign = [replace(request, hotwords=joined([request.hotwords, CUT_AWAY])) for request in requests]
    engine.transcribe(foreign[:1])  # loads the whole model
    ratios = [_timed(engine, other)[1] / _timed(engine, own)[1] for own, other in zip(requests, foreign, strict=True)]
    others = [code for code in LANGUAGES if code != language]
    elsewhere = {word for code in others for text in recordings.texts(code) for word in words_of(text, code)}
    unknown = sum(not engine._loaded.knows(engine._encoded(word)) for word in elsewhere)
    return {
        "lines": len(requests),
        "time": percentile(ratios, 50),
        "words_elsewhere": len(elsewhere),
        "cut_away": unknown,
    }


def _timed(engine: WhisperEngine, request: Request) -> tuple[str, float]:
    started = time.process_time()
    [transcript] = engine.transcribe([request])
    return transcript.text, time.process_time() - started


def summarise(lines: Sequence[Line], seed: int = 0) -> list[dict[str, Any]]:
    """The figures of each cell. `lines` hold each recording in each cell as often as there are conditions."""
    plain = [line for line in lines if line.cell == CELLS[0]]
    rows = []
    for cell in CELLS:
        own = [line for line in lines if line.cell == cell]
        low, high = _interval([(line.score, base.score) for line, base in zip(own, plain, strict=True)], seed)
        missed, heard = ([line for line in own if line.missed is kind] for kind in (True, False))
        rows.append(
            {
                "cell": cell,
                "lines": len(own),
                "missed": len(missed),
                "written_of_missed": _share([line.written for line in missed]),
                "written_of_heard": _share([line.written for line in heard]),
                "found_of_missed": _share([line.found for line in missed]),
                "found_of_heard": _share([line.found for line in heard]),
                "mistaken": _share([line.mistaken for line in own]),
                "errors": pooled([line.score for line in own]),
                "difference": pooled([line.score for line in own]) - pooled([line.score for line in plain]),
                "low": low,
                "high": high,
                "inserted": _share([line.inserted for line in own]),
                "worse": _share([line.score.errors > base.score.errors for line, base in zip(own, plain, strict=True)]),
                "time": percentile([line.seconds / base.seconds for line, base in zip(own, plain, strict=True)], 50),
                "whole_model": sum(line.whole_model for line in own),
                "too_long": sum(not line.fits for line in own),
            }
        )
    return rows


def pooled(scores: Sequence[Score]) -> float:
    return sum(each.errors for each in scores) / max(1, sum(each.length for each in scores))


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0


def _interval(pairs: Sequence[tuple[Score, Score]], seed: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two pooled rates, the two of a recording kept together."""
    errors = np.array([one.errors - other.errors for one, other in pairs], np.float64)
    lengths = np.array([one.length for one, _ in pairs], np.float64)
    draws = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    low, high = np.percentile(errors[draws].sum(axis=1) / lengths[draws].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _row(line: Line) -> dict[str, Any]:
    return asdict(line) | {"seconds": round(line.seconds, 4)}


def _sheets(language: str, rows: Sequence[Mapping[str, Any]]) -> list[Sheet]:
    def percent(row: Mapping[str, Any], *keys: str) -> list[str]:
        return [f"{100 * row[key]:.0f} %" for key in keys]

    measure = "CER" if language in CHARACTER_LANGUAGES else "WER"
    missed = rows[0]["missed"]
    return [
        Sheet(
            f"{language}: the words, {missed} missed without hotwords and {rows[0]['lines'] - missed} heard",
            ("", "missed: written", "found", "heard: written", "found", "mistaken"),
            [
                (
                    row["cell"],
                    *percent(row, "written_of_missed", "found_of_missed", "written_of_heard", "found_of_heard"),
                    *percent(row, "mistaken"),
                )
                for row in rows
            ],
        ),
        Sheet(
            f"{language}: the lines",
            ("", measure, "difference", "inserted", "worse", "time", "whole model", "too long"),
            [
                (
                    row["cell"],
                    f"{100 * row['errors']:.1f} %",
                    f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} … {100 * row['high']:+.1f})",
                    *percent(row, "inserted", "worse"),
                    f"{row['time']:.2f}",
                    str(row["whole_model"]),
                    str(row["too_long"]),
                )
                for row in rows
            ],
        ),
    ]


def _cut_sheet(cut_away: Mapping[str, Mapping[str, float]]) -> Sheet:
    return Sheet(
        "Hotwords with letters that were cut away",
        ("", "words of other languages", "cut away", "lines", "time"),
        [
            (
                language,
                f"{row['words_elsewhere']:.0f}",
                f"{row['cut_away']:.0f}",
                f"{row['lines']:.0f}",
                f"{row['time']:.2f}",
            )
            for language, row in cut_away.items()
        ],
    )


def _draw(axis: Any, language: str, rows: Sequence[Mapping[str, Any]]) -> None:
    places = np.arange(len(rows))
    bars = {
        "missed word written": "written_of_missed",
        "heard word written": "written_of_heard",
        "inserted": "inserted",
    }
    for shift, (name, key) in zip((-0.27, 0.0, 0.27), bars.items(), strict=True):
        axis.bar(places + shift, [100 * row[key] for row in rows], 0.27, label=name)
    axis.set_xticks(places, [row["cell"] for row in rows])
    axis.set(title=language, ylabel="% of lines", ylim=(0, 100))
    axis.legend()

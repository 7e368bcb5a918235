"""`bench phrases`: how well phrases are told apart, and how long it takes.

The cases are tests/phrases_ko.tsv and tests/phrases_en.tsv: what Whisper `base` wrote for synthesised lines, quiet
and in noise, with a list of phrases each. In some lists is what was said (the column `expected`), in others only
what sounds like it.

    precision   of the matches that were accepted, those of the phrase that was said
    recall      of the cases whose phrase is on the list, those that were accepted with it

Beside the matcher stands what one would write in an afternoon: Levenshtein's distance with a free beginning and end
over the letters (Hangul in jamo), 1 - distance / length, no margin.

With DATA, a folder of recordings with a manifest.tsv, there are cases of it as well: the model transcribes each
recording, and the phrases are words, alone and in pairs, of what is said in it and in the others; for each list with
one that was said there is one without. Nothing of the matcher was chosen by these. All this is by the text alone; with
--by-audio the audio is asked as well, as the server does it, see `local_dev.phrase_audio`.

Time is taken against MAX_PHRASES phrases, the table's own and pairs of them, with every text of the table. Wall time
is what a player waits; processor time is the same without whatever else the machine was doing.
"""

import csv
import random
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

from rich.console import Console

from local_dev import phrase_audio
from local_dev.bench import Clip, Ours, read_manifest
from local_dev.bench_confidence import Recordings
from local_dev.live_report import Sheet, header, new_figure, percentile, write_report
from local_dev.phrase_audio import List
from stt_core.audio import SAMPLE_RATE, Samples, read_audio
from stt_core.engine import WhisperEngine
from stt_core.errors import SettingsError
from stt_core.phrases import MARGIN, MAX_PHRASES, MAX_TEXT_CHARS, SURE, THRESHOLD, PhraseBook

LANGUAGES = {"ko": "Korean", "en": "English"}
LISTED = 10  # phrases of a list that is made of recordings
SPOKEN = 4  # such lists of a recording
NEAR = 6  # phrases of a list of those that sound alike
LONGEST_S = 30
THRESHOLDS = [round(0.5 + step / 50, 2) for step in range(26)]


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table."""

    phrases: tuple[str, ...]  # that the game would expect
    heard: str  # what Whisper wrote
    expected: str  # the phrase that was said; empty: none of them
    said: str  # empty: the text is made up
    outcome: str  # accepted, missed, refused or mistaken, with the default threshold and margin
    source: str  # the voice and the noise; own: the text is made up


@dataclass(frozen=True, slots=True)
class Guess:
    """The nearest phrase, if the one after it is far enough behind."""

    phrase: str
    score: float


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold does."""

    threshold: float
    precision: float
    recall: float


def read_cases(folder: Path, language: str) -> list[Case]:
    """The cases of a language.

    Raises:
        SettingsError: they are not there.
    """
    table = folder / f"phrases_{language}.tsv"
    if not table.is_file():
        raise SettingsError(f"{table} is missing; run the benchmark in the repository.")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Case(phrases=tuple(row.pop("phrases").split("|")), **row) for row in rows]


def spoken_cases(data: Path, language: str, model: str, cache_dir: Path | None, seed: int) -> list[Case]:
    """Cases of recordings: SPOKEN lists for each, and as many without what was said.

    Raises:
        SettingsError: there is no manifest, or hardly a recording of the language.
    """
    clips = [clip for clip in read_manifest(data) if clip.language == language and clip.kind != "noise" and clip.text]
    ours = Ours(model, (language,), cache_dir, beam_size=5)
    heard = {clip.id: ours.transcribe(samples, language)[0].text for clip in clips if (samples := _short(clip)).size}
    clips = [clip for clip in clips if clip.id in heard]
    texts = {clip.id: clip.text for clip in clips}
    return [
        Case(phrases, heard[id], expected, texts[id], "", id)
        for id, lists in phrase_lists(clips, seed).items()
        for phrases, expected in lists
    ]


def phrase_lists(clips: Sequence[Clip], seed: int) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """For each recording SPOKEN lists with what was said in it, and as many without.

    Raises:
        SettingsError: there is hardly a recording.
    """
    said = {clip.id: _pieces(clip.text) for clip in clips}
    chance = random.Random(seed)
    lists: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for clip in clips:
        others = [piece for other in clips if other is not clip for piece in said[other.id]]
        others = [piece for piece in dict.fromkeys(others) if _letters(piece) not in _letters(clip.text)]
        if len(others) < LISTED:
            raise SettingsError(f"The folder has too few recordings to make lists of {LISTED} phrases of; add some.")
        lists[clip.id] = []
        for piece in chance.sample(said[clip.id], min(SPOKEN, len(said[clip.id]))):
            without = tuple(chance.sample(others, LISTED))
            lists[clip.id] += [((piece, *without[1:]), piece), (without, "")]
    return lists


def alike_lists(clips: Sequence[Clip], seed: int) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """The same with the NEAR phrases of other recordings that come nearest in sound to what was said, and not with any;
    what sounds the same as a part of the recording is left out."""
    said = {clip.id: _pieces(clip.text) for clip in clips}
    chance = random.Random(seed)
    every = list(dict.fromkeys(piece for pieces in said.values() for piece in pieces))
    book = PhraseBook(chance.sample(every, min(len(every), MAX_PHRASES)), threshold=0)
    lists: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for clip in clips:
        lists[clip.id] = []
        for piece in chance.sample(said[clip.id], min(SPOKEN, len(said[clip.id]))):
            others = [other for other, _ in book.nearest(piece) if not _holds(clip.text, other)][:NEAR]
            if len(others) == NEAR:
                lists[clip.id] += [((piece, *others[1:]), piece), (tuple(others), "")]
    return lists


def _holds(text: str, phrase: str) -> bool:
    """Whether somebody who says the text says the phrase, or what sounds the same."""
    match = PhraseBook([phrase]).match(text)
    return _letters(phrase) in _letters(text) or (match is not None and match.score >= SURE)


def _short(clip: Clip) -> Samples:
    """The samples of a recording that has the length of an utterance; none of a longer one."""
    samples = read_audio(clip.path)
    return samples if len(samples) <= LONGEST_S * SAMPLE_RATE else samples[:0]


def _pieces(text: str) -> list[str]:
    """Words and pairs of words of a text, of 3 to 8 letters in Korean, and to 16 elsewhere."""
    words = [word.strip(".,?!") for word in text.split()]
    pieces = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
    longest = 8 if re.search("[가-힣]", text) else 16
    return [piece for piece in dict.fromkeys(pieces) if 3 <= len(re.sub(r"[\W_]", "", piece)) <= longest]


def outcome(case: Case) -> str:
    """What becomes of a case with the default threshold and margin."""
    match = PhraseBook(case.phrases).match(case.heard)
    if match is None or not match.accepted:
        return "missed" if case.expected else "refused"
    return "accepted" if match.phrase == case.expected else "mistaken"


def run_phrases_bench(
    out: Path,
    *,
    cases: Path = Path("tests"),
    data: Path | None = None,
    language: str = "ko",
    model: str = "base",
    cache_dir: Path | None = None,
    seed: int = 0,
    audio: bool = False,
) -> int:
    """Measure, print, and write phrases.json, .png and .html into `out`.

    Args:
        cases: the folder of the tables.
        data: a folder of recordings with a manifest.tsv, for cases of its own.
        language: of the recordings that are taken.
        audio: score the phrases against the recordings, too.
    """
    console = Console()
    if audio and not data:
        raise SettingsError("--by-audio needs recordings: bench phrases DATA --by-audio, as in test_audio.")
    figure, axes = new_figure(3 if data else 2)
    tables = {name: read_cases(cases, language) for language, name in LANGUAGES.items()}
    if data:
        tables[f"{data.name}, {language}"] = spoken_cases(data, language, model, cache_dir, seed)
    result = header({"threshold": THRESHOLD, "margin": MARGIN, "seed": seed})
    sheets = []
    for axis, (title_of_table, table) in zip(axes, tables.items(), strict=True):
        curves = {"matcher": curve(table, guess), "letters alone": curve(table, plain_guess)}
        result[title_of_table] = {name: [asdict(point) for point in points] for name, points in curves.items()}
        sheets.append(_sheet(title_of_table, table, curves))
        for (name, points), style in zip(curves.items(), ("-", "--"), strict=True):
            axis.plot([point.recall for point in points], [point.precision for point in points], style, label=name)
        chosen = next(point for point in curves["matcher"] if point.threshold == THRESHOLD)
        axis.plot([chosen.recall], [chosen.precision], "o", label=f"threshold {THRESHOLD}")
        axis.set(title=title_of_table, xlabel="recall", ylabel="precision", xlim=(0.4, 1), ylim=(0.6, 1.01))
        axis.legend(loc="lower left")
    result["time"] = times([case for table in tables.values() for case in table], seed)
    sheets.append(
        Sheet(
            f"Time against {MAX_PHRASES} phrases, ms",
            ("", "median", "p95", "most"),
            [(name, *(f"{value:.1f}" for value in values.values())) for name, values in result["time"].items()],
        )
    )
    about = __doc__ or ""
    if audio and data:
        table = tables.get(LANGUAGES.get(language, ""), [])
        result["audio"], more = listen_to_lists(data, language, table, model, cache_dir, seed, console)
        sheets += more
        about += phrase_audio.__doc__ or ""
    write_report(out, "phrases", "Phrases", about, result, sheets, figure, console)
    return 0


def listen_to_lists(
    data: Path,
    language: str,
    table: Sequence[Case],
    model: str,
    cache_dir: Path | None,
    seed: int,
    console: Console,
) -> tuple[dict[str, Any], list[Sheet]]:
    """What `local_dev.phrase_audio` makes of the recordings' own lists, and of those rows of the table whose line is
    one of them."""
    recordings = Recordings(data, language, seed)
    drawn, alike = phrase_lists(recordings.clips, seed), alike_lists(recordings.clips, seed)
    lists = {}
    for clip in recordings.clips:
        rows = {(case.phrases, case.expected) for case in table if _letters(case.said) == _letters(clip.text)}
        kinds = {"drawn": drawn[clip.id], "alike": alike[clip.id], "table": sorted(rows)}
        lists[clip.id] = [List(kind, *own) for kind, of_kind in kinds.items() for own in dict.fromkeys(of_kind)]
    engine = WhisperEngine(model, languages=(language,), cache_dir=cache_dir, device="cpu")
    engine.load()
    return phrase_audio.compare(engine, recordings, lists, seed, console)


def curve(cases: Sequence[Case], guess: Callable[[Case], Guess | None]) -> list[Point]:
    """Precision and recall at every threshold."""
    guesses = [(case, guess(case)) for case in cases]
    possible = sum(bool(case.expected) for case in cases)
    points = []
    for threshold in THRESHOLDS:
        accepted = [(case, found) for case, found in guesses if found and found.score >= threshold]
        right = sum(found.phrase == case.expected for case, found in accepted)
        points.append(Point(threshold, right / max(1, len(accepted)), right / possible))
    return points


def guess(case: Case) -> Guess | None:
    """The matcher's, whatever its score."""
    match = PhraseBook(case.phrases, threshold=0).match(case.heard)
    return Guess(match.phrase, match.score) if match and match.accepted else None


def plain_guess(case: Case) -> Guess | None:
    """The one of Levenshtein's distance over the letters."""
    text = _letters(case.heard)
    return max((Guess(phrase, _plain_score(_letters(phrase), text)) for phrase in case.phrases), key=lambda g: g.score)


def _letters(text: str) -> str:
    return unicodedata.normalize("NFD", re.sub(r"[\W_]", "", text.lower()))


def _plain_score(phrase: str, text: str) -> float:
    """1 - distance / length for the best window of the text."""
    row = [0] * (len(text) + 1)
    for i, letter in enumerate(phrase, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(text, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return 1 - min(row) / len(phrase)


def times(cases: Sequence[Case], seed: int) -> dict[str, dict[str, float]]:
    """Milliseconds: median, 95th percentile and most."""
    own = list(dict.fromkeys(phrase for case in cases for phrase in case.phrases))
    pairs = [f"{one} {other}" for one, other in permutations(own, 2)]
    random.Random(seed).shuffle(pairs)
    started = time.perf_counter()
    book = PhraseBook((own + pairs)[:MAX_PHRASES])
    built = time.perf_counter() - started
    wall, processor = [], []
    for case in cases:
        started, busy = time.perf_counter(), time.process_time()
        book.match(case.heard)
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - busy)
    started = time.perf_counter()
    book.match(" ".join(case.heard for case in cases)[:MAX_TEXT_CHARS])
    longest = time.perf_counter() - started
    samples = {"match": wall, "match, processor time": processor, "to make a book": [built]}
    samples[f"a text of {MAX_TEXT_CHARS} characters"] = [longest]
    return {
        name: {
            "median": 1000 * percentile(values, 50),
            "p95": 1000 * percentile(values, 95),
            "most": 1000 * max(values),
        }
        for name, values in samples.items()
    }


def _sheet(title_of_table: str, table: Sequence[Case], curves: dict[str, list[Point]]) -> Sheet:
    def cells(point: Point) -> list[str]:
        return [f"{100 * point.precision:.1f} %", f"{100 * point.recall:.1f} %"]

    made_up = sum(case.source == "own" for case in table)
    rows = [
        [f"{points[0].threshold:.2f}", *(cell for point in points for cell in cells(point))]
        for points in zip(*curves.values(), strict=True)
        if points[0].threshold >= 0.6
    ]
    columns = ["threshold", *(f"{name}, {what}" for name in curves for what in ("precision", "recall"))]
    title = f"{title_of_table}: {len(table)} cases, {len(table) - made_up} of them heard by the model"
    return Sheet(title, columns, rows)

"""`bench phrases DATA --by-audio`: what it is worth to ask the model about phrases.

Where the text is not sure of a phrase, the server asks the model how likely it finds the nearest three, given the audio
(`stt_core.phrases`). Here every list is decided both ways, by the text alone and as the server does it, on each
recording as it is and in noise:

    drawn    the lists of `bench phrases DATA`: words and pairs of words of all recordings
    alike    for each such phrase the NEAR others that come nearest to it in sound, with it and without it
    table    the rows of tests/phrases_*.tsv whose line is one of the recordings

    precision              of what was accepted, how much was right
    recall                 of what was said and on the list, how much was accepted
    false acceptances      of the lists without what was said, those of which a phrase was accepted
    against the text       recall, with its 95 % interval (bootstrap over recordings), to that of the text alone with
                           the threshold as it is

Time is the processor's: what an utterance takes with three phrases to be asked about, against the same without.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from local_dev.bench import bench_progress
from local_dev.bench_confidence import Recordings
from local_dev.live_report import Sheet, percentile
from stt_core.engine import WhisperEngine
from stt_core.phrases import ASKED, MARGIN, THRESHOLD, Match, PhraseBook
from stt_core.transcription import Request

CONDITIONS = ("as recorded", "noise 5 dB")
THRESHOLDS = (0.65, 0.7, 0.74, THRESHOLD, 0.84, 0.9)
TIMED = 24  # utterances
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class List:
    """Phrases that a game might expect."""

    kind: str  # drawn, alike or table
    phrases: tuple[str, ...]
    expected: str  # the one that was said; empty: none


@dataclass(frozen=True, slots=True)
class Hearing:
    """A list, and what a recording says to it."""

    clip: str
    condition: str
    kind: str
    expected: str
    text: Match | None  # by the text alone
    both: Match | None  # as the server does it
    asked: bool  # whether the audio was asked


@dataclass(frozen=True, slots=True)
class Figures:
    """What a way of deciding is worth."""

    accepted: int
    right: int
    possible: int  # lists with what was said
    false: int  # acceptances of the lists without
    impossible: int

    @property
    def precision(self) -> float:
        return self.right / max(1, self.accepted)

    @property
    def recall(self) -> float:
        return self.right / max(1, self.possible)

    @property
    def false_share(self) -> float:
        return self.false / max(1, self.impossible)


def listen(
    engine: WhisperEngine,
    recordings: Recordings,
    lists: Mapping[str, Sequence[List]],
    console: Console,
    conditions: Sequence[str] = CONDITIONS,
) -> tuple[list[Hearing], list[float]]:
    """Each list of each recording in each condition, and how much longer an utterance takes with phrases to be asked
    about, as a share.

    Args:
        lists: by the recording's id.
    """
    hearings, shares = list[Hearing](), list[float]()
    jobs = [(clip, condition) for condition in conditions for clip in recordings.clips if lists.get(clip.id)]
    with bench_progress(console) as progress:
        for clip, condition in progress.track(jobs, description=f"phrases, {recordings.language}"):
            samples = recordings.speech(clip, condition)
            if not len(samples):
                continue
            books = {one: PhraseBook(one.phrases) for one in lists[clip.id]}

            def alternatives(text: str, books: Mapping[List, PhraseBook] = books) -> dict[str, str]:
                return {name: other for book in books.values() for name, other in book.alternatives(text).items()}

            request = Request(samples, recordings.language, alternatives=alternatives)
            [transcript] = engine.transcribe([request])
            if not transcript.text:
                continue
            for one, book in books.items():
                asked = book.alternatives(transcript.text)
                heard = {name: transcript.heard[name] for name in asked if name in transcript.heard}
                by_text, by_both = book.match(transcript.text), book.match(transcript.text, heard)
                hearings.append(Hearing(clip.id, condition, one.kind, one.expected, by_text, by_both, bool(heard)))
            most = max((book.alternatives(transcript.text) for book in books.values()), key=len, default={})
            if len(shares) < TIMED and len(most) >= ASKED:
                shares.append(_share(engine, Request(samples, recordings.language), most))
    return hearings, shares


def _share(engine: WhisperEngine, request: Request, others: Mapping[str, str]) -> float:
    """How much longer an utterance takes if the model is asked about these."""
    asking = Request(request.samples, request.language, alternatives=lambda text: others)
    took = []
    for one in (request, asking):
        started = time.process_time()
        engine.transcribe([one])
        took.append(time.process_time() - started)
    return took[1] / took[0] - 1


def accept(match: Match | None, threshold: float) -> str:
    """The phrase that is accepted with a threshold, by what a client is told; empty: none."""
    if match is None or match.score < threshold:
        return ""
    if match.accepted:
        return match.phrase
    next_score = match.runner_up[1] if match.runner_up else 0.0
    return match.phrase if match.score < THRESHOLD and match.score - next_score >= MARGIN else ""


def figures(hearings: Sequence[Hearing], accepted: Sequence[str]) -> Figures:
    """What was made of the lists. `accepted`: each list's phrase; empty: none."""
    pairs = list(zip(hearings, accepted, strict=True))
    return Figures(
        accepted=sum(bool(phrase) for _, phrase in pairs),
        right=sum(bool(phrase) and phrase == hearing.expected for hearing, phrase in pairs),
        possible=sum(bool(hearing.expected) for hearing in hearings),
        false=sum(bool(phrase) and not hearing.expected for hearing, phrase in pairs),
        impossible=sum(not hearing.expected for hearing in hearings),
    )


def interval(hearings: Sequence[Hearing], accepted: Sequence[str], before: Sequence[str], seed: int) -> list[float]:
    """95 % of what the recall changes, over recordings drawn again."""
    clips = sorted({hearing.clip for hearing in hearings})
    gains, possible = np.zeros(len(clips)), np.zeros(len(clips))
    for hearing, new, old in zip(hearings, accepted, before, strict=True):
        if hearing.expected:
            at = clips.index(hearing.clip)
            possible[at] += 1
            gains[at] += (new == hearing.expected) - (old == hearing.expected)
    draws = np.random.default_rng(seed).integers(0, len(clips), (RESAMPLES, len(clips)))
    changes: NDArray[np.float64] = gains[draws].sum(axis=1) / np.maximum(1, possible[draws].sum(axis=1))
    return [float(bound) for bound in np.percentile(changes, [2.5, 97.5])]


def summarise(hearings: Sequence[Hearing], seed: int) -> list[dict[str, Any]]:
    """A row for each way and threshold."""
    before = [accept(hearing.text, THRESHOLD) for hearing in hearings]
    rows = []
    for way, matches in (("text", [one.text for one in hearings]), ("text and audio", [one.both for one in hearings])):
        for threshold in THRESHOLDS:
            accepted = [accept(match, threshold) for match in matches]
            found = figures(hearings, accepted)
            low, high = interval(hearings, accepted, before, seed)
            rows.append(
                {
                    "way": f"{way}, {threshold}",
                    "precision": found.precision,
                    "recall": found.recall,
                    "false acceptances": found.false_share,
                    "change": found.recall - figures(hearings, before).recall,
                    "low": low,
                    "high": high,
                }
            )
    return rows


def compare(
    engine: WhisperEngine, recordings: Recordings, lists: Mapping[str, Sequence[List]], seed: int, console: Console
) -> tuple[dict[str, Any], list[Sheet]]:
    """Both ways on every list, and what asking takes."""
    hearings, shares = listen(engine, recordings, lists, console)
    result: dict[str, Any] = {}
    sheets = []
    for condition in CONDITIONS:
        for kind in dict.fromkeys(hearing.kind for hearing in hearings):
            own = [hearing for hearing in hearings if (hearing.condition, hearing.kind) == (condition, kind)]
            rows = summarise(own, seed)
            asked = sum(hearing.asked for hearing in own) / len(own)
            result[f"{condition}, {kind}"] = {"lists": len(own), "asked": asked, "rows": rows}
            title = f"{recordings.language}, {condition}, {kind}: {len(own)} lists, asked about {100 * asked:.0f} %"
            columns = ("", "precision", "recall", "false acceptances", "against the text (95 %)")
            sheets.append(Sheet(title, columns, [_cells(row) for row in rows]))
    result["longer"] = percentile(shares, 50)
    took = [("utterances", str(len(shares))), ("longer, median", f"{100 * result['longer']:.0f} %")]
    sheets.append(Sheet(f"To ask about {ASKED} phrases", ("", ""), took))
    return result, sheets


def _cells(row: Mapping[str, Any]) -> list[str]:
    shares = [f"{100 * row[name]:.1f} %" for name in ("precision", "recall", "false acceptances")]
    return [row["way"], *shares, f"{100 * row['change']:+.1f} ({100 * row['low']:+.1f} … {100 * row['high']:+.1f})"]

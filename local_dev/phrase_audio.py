"""`bench phrases DATA --by-audio`: whether the model tells phrases apart better than its text does.

`stt_core.phrases` looks for the phrases in the text. The model could be asked instead how likely it finds each of
them, given the audio, as whisper.cpp's example `command` does in its guided mode (there by the first token alone). One
pass of the decoder over all tokens of a text gives the probability of each (teacher forcing; CTranslate2's
`Whisper.align` returns them). For a phrase P and a transcript T:

    in place   log p(T with P for the part of it that resembles P most) - log p(T), over the tokens of P
    alone      log p(P as the whole text), over its tokens

0 in place means: as likely as what the model wrote itself. The end of text has no part in it: `align` shares the
probability among text tokens alone, so that "alone" cannot tell a phrase from one that goes on.

Each pass computes the keys and values of what the decoder attends to anew, for each phrase. The silence behind the
speech (`stt_core.engine`) is there to make the decoder end, which it need not do here, so the passes get the speech
and its margin without it.

The lists are those of `bench phrases DATA`, with the rows of the tables whose line is among the recordings; each
recording as it is and in noise. Every way may decide otherwise than the matcher:

    matcher            its best phrase, by its score and margin
    alone, in place    the best of all phrases by the audio
    in place, 3        the best of the matcher's first three by the audio
    matcher, then 3    what the matcher accepts by its defaults; what it does not accept, by "in place, 3"
    both of 3          the matcher's first three by its score + WEIGHT * in place

    precision, recall      as above
    false acceptances      of the lists without what was said, those of which a phrase was accepted
    against the matcher    recall, with its 95 % interval (bootstrap over recordings)

The recordings are halved. Each half's threshold is that of the most recall on the other half with no more mistakes than
the matcher makes there by its defaults; what is shown are both halves together. So no threshold is shown on what it
was chosen by, and the matcher's default was chosen without these recordings.

Time is the processor's, of one utterance against its decoding in the same run: the transcript and so many phrases.
"""

import math
import random
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from local_dev.bench import Clip, bench_progress
from local_dev.bench_confidence import Recordings
from local_dev.live_report import Sheet, percentile
from stt_core.audio import Samples
from stt_core.engine import States, WhisperEngine
from stt_core.phrases import THRESHOLD, PhraseBook
from stt_core.transcription import Request

CONDITIONS = ("as recorded", "noise 5 dB")
FIRST = 3  # phrases that the matcher leaves to the audio
SIZES = (FIRST, 10)  # phrases whose passes are timed
TIMED = 24  # utterances
WEIGHT = 0.1  # of the audio beside the matcher's score
UNSCORED = -math.inf  # of a phrase that the model cannot write
ALIGNED_FRAMES = 16  # `align` also aligns, which nobody asked for: as little as it takes
ROWS = 16  # of a batch
LEAST = 1e-12  # probability of a token
RESAMPLES = 2000
LATIN = re.compile("[A-Za-z']{2}")

List = tuple[tuple[str, ...], str]  # phrases, and the one of them that was said; empty: none


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of a phrase."""

    phrase: str
    match: float  # the matcher's score
    alone: float
    in_place: float


@dataclass(frozen=True, slots=True)
class Hearing:
    """A list, and what a recording says to it."""

    clip: str
    condition: str
    expected: str
    matched: str  # the matcher's phrase, if no other comes too near
    score: float  # its score
    phrases: tuple[Scored, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds of an utterance."""

    decoding: float
    passes: Mapping[tuple[str, int], float]  # by memory and phrases


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


Decision = tuple[str, float]  # a phrase, and what is compared with the threshold
Way = Callable[[Hearing], Decision]


def place(phrase: str, text: str) -> tuple[int, int]:
    """Where the part of the text begins and ends that costs least to turn into the phrase, letter by letter, Hangul in
    jamo (P. H. Sellers, 1980), the longest of those; all of the text where no letter is the same."""
    own = [letter for letter, _ in _letters(phrase)]
    letters = _letters(text)
    costs, starts = [0] * (len(letters) + 1), list(range(len(letters) + 1))
    for i, letter in enumerate(own, start=1):
        diagonal, costs[0] = (costs[0], starts[0]), i
        for j, (other, _) in enumerate(letters, start=1):
            above, left = (costs[j], starts[j]), (costs[j - 1], starts[j - 1])
            insertion, omission = (left[0] + 1, left[1]), (above[0] + 1, above[1])
            costs[j], starts[j] = min((diagonal[0] + (letter != other), diagonal[1]), insertion, omission)
            diagonal = above
    end = min(range(len(costs)), key=lambda j: (costs[j], starts[j] - j))
    if costs[end] == len(own) or starts[end] == end:
        return 0, len(text)
    return _whole_words(text, letters[starts[end]][1], letters[end - 1][1] + 1)


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """A place that holds no part of a word in Latin letters; in Korean, what is left of a word may be its particle."""
    while 0 < start < len(text) and LATIN.fullmatch(text[start - 1 : start + 1]):
        start -= 1
    while 0 < end < len(text) and LATIN.fullmatch(text[end - 1 : end + 1]):
        end += 1
    return start, end


def put_in_place(phrase: str, text: str) -> str:
    """The text with the phrase for the part that resembles it most; as it is if that is the phrase already."""
    start, end = place(phrase, text)
    if [letter for letter, _ in _letters(text[start:end])] == [letter for letter, _ in _letters(phrase)]:
        return text
    return text[:start] + (_capital(phrase) if text[start : start + 1].isupper() else phrase) + text[end:]


def _letters(text: str) -> list[tuple[str, int]]:
    """The letters of a text, and the character that each is of."""
    return [
        (letter, at)
        for at, character in enumerate(text)
        for letter in unicodedata.normalize("NFD", character.lower())
        if re.match(r"[^\W_]", letter)
    ]


def _capital(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:]


class Listener:
    """An engine, asked how likely it finds what it did not write itself."""

    def __init__(self, engine: WhisperEngine, language: str) -> None:
        self._engine = engine
        self._language = language
        self._start = engine._loaded.into(engine._tokenizer(language, "transcribe").sot_sequence)

    def memories(self, samples: Samples) -> dict[str, States]:
        """What the decoder attends to, with the silence behind the speech and without."""
        request = Request(samples, self._language)
        [memory] = self._engine._memories([request])
        return {"with silence": memory, "speech alone": memory[:, : self._engine._encoder_frames(request) // 2]}

    def transcribe(self, samples: Samples) -> str:
        return self._engine.transcribe([Request(samples, self._language)])[0].text

    def can_write(self, text: str) -> bool:
        """Whether the vocabulary, which may be cut, has the tokens."""
        return self._engine._loaded.knows(self._engine._encoded(text))

    def unknown(self, texts: Collection[str]) -> tuple[int, int]:
        """How many of so many texts it cannot write."""
        return sum(not self.can_write(text) for text in texts), len(texts)

    def tokens(self, text: str) -> int:
        return len(self._engine._encoded(text))

    def log_probs(self, memory: States, texts: Sequence[str]) -> list[float]:
        """The sum over the tokens of each text; UNSCORED where one is not in the vocabulary, 0 of an empty text."""
        sums = [0.0 if not text else UNSCORED for text in texts]
        known = [i for i, text in enumerate(texts) if text and self.can_write(text)]
        model = self._engine._loaded
        for at in range(0, len(known), ROWS):
            rows = known[at : at + ROWS]
            alignments = model.whisper.model.align(
                _repeated(memory, len(rows)),
                self._start,
                [model.into(self._engine._encoded(texts[i])) for i in rows],
                [ALIGNED_FRAMES] * len(rows),
            )
            for i, alignment in zip(rows, alignments, strict=True):
                sums[i] = float(np.log(np.maximum(alignment.text_token_probs, LEAST)).sum())
        return sums


def _repeated(memory: States, times: int) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(np.repeat(memory, times, axis=0)))


def listen(
    listener: Listener,
    recordings: Recordings,
    lists: Mapping[str, Sequence[List]],
    console: Console,
    memory_of: str = "speech alone",
    conditions: Sequence[str] = CONDITIONS,
) -> tuple[list[Hearing], list[Cost]]:
    """Each list of each recording in each condition, and what an utterance takes.

    Args:
        lists: by the recording's id.
        memory_of: "speech alone" or "with silence".
    """
    hearings, costs = list[Hearing](), list[Cost]()
    jobs = [(clip, condition) for condition in conditions for clip in recordings.clips if lists.get(clip.id)]
    with bench_progress(console) as progress:
        for clip, condition in progress.track(jobs, description=f"phrases, {recordings.language}"):
            samples = recordings.speech(clip, condition)
            if not len(samples):
                continue
            started = time.process_time()
            text = listener.transcribe(samples)
            decoding = time.process_time() - started
            memories = listener.memories(samples)
            hearings += _hear(listener, memories[memory_of], clip, condition, text, lists[clip.id])
            if len(costs) < TIMED:
                costs.append(Cost(decoding, dict(_passes(listener, memories, text, lists[clip.id][0][0]))))
    return hearings, costs


def _hear(
    listener: Listener, memory: States, clip: Clip, condition: str, text: str, lists: Sequence[List]
) -> Iterator[Hearing]:
    """What one recording says to its lists. No text is scored twice."""
    phrases = list(dict.fromkeys(phrase for own, _ in lists for phrase in own))
    placed = [put_in_place(phrase, text) for phrase in phrases]
    [before, *rest] = listener.log_probs(memory, [text, *placed, *map(_capital, phrases)])
    scored = {}
    for phrase, with_it, alone in zip(phrases, rest[: len(phrases)], rest[len(phrases) :], strict=True):
        match = PhraseBook([phrase], threshold=0).match(text)
        tokens = listener.tokens(phrase)
        gain = with_it - before if math.isfinite(before) else UNSCORED
        scored[phrase] = Scored(phrase, match.score if match else 0.0, alone / tokens, gain / tokens)
    for own, expected in lists:
        match = PhraseBook(own, threshold=0).match(text)
        clear = match is not None and match.accepted
        yield Hearing(
            clip.id,
            condition,
            expected,
            match.phrase if match and clear else "",
            match.score if match and clear else 0.0,
            tuple(scored[phrase] for phrase in own),
        )


def _passes(
    listener: Listener, memories: Mapping[str, States], text: str, phrases: Sequence[str]
) -> Iterator[tuple[tuple[str, int], float]]:
    """Seconds of the passes of a transcript and so many phrases."""
    for name, memory in memories.items():
        for size in SIZES:
            started = time.process_time()
            listener.log_probs(memory, [text, *(put_in_place(phrase, text) for phrase in phrases[:size])])
            yield (name, size), time.process_time() - started


def by_matcher(hearing: Hearing) -> Decision:
    return hearing.matched, hearing.score


def first(hearing: Hearing) -> list[Scored]:
    """The phrases that the matcher likes best."""
    return sorted(hearing.phrases, key=lambda one: -one.match)[:FIRST]


def best_by(phrases: Iterable[Scored], key: Callable[[Scored], float]) -> Decision:
    best = max(phrases, key=key)
    return best.phrase, key(best)


def matcher_then_audio(hearing: Hearing) -> Decision:
    if hearing.matched and hearing.score >= THRESHOLD:
        return hearing.matched, math.inf
    return best_by(first(hearing), lambda one: one.in_place)


WAYS: Mapping[str, Way] = {
    "matcher": by_matcher,
    "alone": lambda hearing: best_by(hearing.phrases, lambda one: one.alone),
    "in place": lambda hearing: best_by(hearing.phrases, lambda one: one.in_place),
    "in place, 3": lambda hearing: best_by(first(hearing), lambda one: one.in_place),
    "matcher, then 3": matcher_then_audio,
    "both of 3": lambda hearing: best_by(first(hearing), lambda one: one.match + WEIGHT * one.in_place),
}


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


def accept(hearings: Iterable[Hearing], way: Way, threshold: float) -> list[str]:
    """Each list's phrase by a way and a threshold; empty: none."""
    return [phrase if phrase and score >= threshold else "" for phrase, score in map(way, hearings)]


def by_default(hearings: Iterable[Hearing]) -> list[str]:
    """What the matcher accepts as it is."""
    return accept(hearings, by_matcher, THRESHOLD)


def most_recall(hearings: Sequence[Hearing], way: Way, mistakes: int) -> float:
    """The lowest threshold from which a way makes no more mistakes than so many; infinite where there is none."""
    decisions = sorted(
        ((score, phrase == hearing.expected) for hearing in hearings for phrase, score in [way(hearing)] if phrase),
        key=lambda one: (-one[0], one[1]),
    )
    best, made = math.inf, 0
    for number, (score, right) in enumerate(decisions):
        made += not right
        if made > mistakes:
            break
        if number + 1 == len(decisions) or decisions[number + 1][0] < score:
            best = score
    return best


def halves(hearings: Sequence[Hearing], seed: int) -> tuple[list[Hearing], list[Hearing]]:
    """The lists in two halves, all of a recording in one."""
    clips = sorted({hearing.clip for hearing in hearings})
    random.Random(seed).shuffle(clips)
    one = set(clips[: len(clips) // 2])
    return [h for h in hearings if h.clip in one], [h for h in hearings if h.clip not in one]


def crossed(halved: tuple[Sequence[Hearing], Sequence[Hearing]], way: Way) -> list[str]:
    """What a way accepts of both halves, each with the threshold that is best on the other."""
    accepted = []
    for own, other in (halved, halved[::-1]):
        before = figures(other, by_default(other))
        accepted += accept(own, way, most_recall(other, way, before.accepted - before.right))
    return accepted


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
    """A row for each way, and for the matcher as it is."""
    halved = halves(hearings, seed)
    ordered = [*halved[0], *halved[1]]
    before = by_default(ordered)
    rows = []
    for name, accepted in (
        (f"matcher, {THRESHOLD}", before),
        *((name, crossed(halved, way)) for name, way in WAYS.items()),
    ):
        found = figures(ordered, accepted)
        low, high = interval(ordered, accepted, before, seed)
        rows.append(
            {
                "way": name,
                "precision": found.precision,
                "recall": found.recall,
                "false acceptances": found.false_share,
                "change": found.recall - figures(ordered, before).recall,
                "low": low,
                "high": high,
            }
        )
    return rows


def time_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """What the passes take, as a share of the decoding: the median over utterances."""
    return [
        {
            "memory": memory,
            "phrases": size,
            "share": percentile([cost.passes[memory, size] / cost.decoding for cost in costs], 50),
            "ms": 1000 * percentile([cost.passes[memory, size] for cost in costs], 50),
        }
        for memory, size in (costs[0].passes if costs else ())
    ]


def compare(
    listener: Listener, recordings: Recordings, lists: Mapping[str, Sequence[List]], seed: int, console: Console
) -> tuple[dict[str, Any], list[Sheet]]:
    """Every way on every list, what it takes, and how many phrases the vocabulary cannot write."""
    hearings, costs = listen(listener, recordings, lists, console)
    result: dict[str, Any] = {
        condition: summarise([hearing for hearing in hearings if hearing.condition == condition], seed)
        for condition in CONDITIONS
    }
    sheets = [
        Sheet(
            f"Against the audio, {recordings.language}, {condition}: "
            f"{sum(hearing.condition == condition for hearing in hearings)} lists",
            ("", "precision", "recall", "false acceptances", "against the matcher (95 %)"),
            [
                (
                    row["way"],
                    *(f"{100 * row[name]:.1f} %" for name in ("precision", "recall", "false acceptances")),
                    f"{100 * row['change']:+.1f} ({100 * row['low']:+.1f} … {100 * row['high']:+.1f})",
                )
                for row in result[condition]
            ],
        )
        for condition in CONDITIONS
    ]
    result["time"] = time_rows(costs)
    rows = [
        (row["memory"], str(row["phrases"]), f"{row['ms']:.0f}", f"{100 * row['share']:.0f} %")
        for row in result["time"]
    ]
    sheets.append(Sheet("Time of the passes", ("memory", "phrases", "ms", "of the decoding"), rows))
    result["not in the vocabulary"] = unwritten = {
        "phrases of the lists": listener.unknown(
            {phrase for own in lists.values() for one, _ in own for phrase in one}
        ),
        "words of the other languages": listener.unknown(_other_words(recordings)),
    }
    rows_of = [(name, str(unknown), str(every)) for name, (unknown, every) in unwritten.items()]
    sheets.append(Sheet("Not in the vocabulary", ("", "cannot be written", "of"), rows_of))
    return result, sheets


def _other_words(recordings: Recordings) -> set[str]:
    texts = [text for code in ("ko", "en") if code != recordings.language for text in recordings.texts(code)]
    return {word for text in texts for word in re.findall(r"[\w']+", text)}

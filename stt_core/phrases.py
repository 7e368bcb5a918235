"""Which of the phrases that a game expects was said, as near as the transcript can tell.

Phrases do not bias the model; they are looked for in what it wrote. It writes what it heard: for the answer
청개구리 it has written 청계구리, 천개구리요 and 창계구리어. So both sides are spelled by sound (`stt_core.korean`; for
English its letters, and Lawrence Philips' Metaphone beside them), numbers in one form, and each phrase slides along
the utterance to the place that costs least to turn into it: a weighted Levenshtein distance with a free beginning
and end (P. H. Sellers, "The theory and computation of evolutionary distances: pattern recognition", 1980).

    score = 1 - cost / weight of the phrase's sounds

The costs were measured: less for what the model really confuses (ㅐ and ㅔ, ㄱ and ㅋ, c and k) or drops (ㅎ). A place
that begins or ends within a word costs extra, unless what is left of the word is a particle or an ending (은,
입니다, 이에요). Where both sides hold numbers and they are not the same, the phrase was not said, however alike 세 개
and 네 개 sound.

Where the text is not sure, the model is asked how likely it finds each of the nearest phrases, given the audio
(`alternatives`, see `stt_core.alternatives`):

    score = score + AUDIO_WEIGHT * (AUDIO_USUAL + mean log probability of the phrase's tokens)

That tells more than either alone: what is written wrong but heard right is accepted, and what only looks alike is not.
Where the model cannot write what the text comes nearest to, or nobody asked it, the text decides alone: what the audio
says about the others is no measure then.

Of many phrases, only those are compared in full that share the most sounds, and pairs of sounds, with the
utterance. `docs/phrases.md` tells what that loses (nothing that would be accepted), and all other measurements.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise, permutations
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from stt_core import korean
from stt_core.alternatives import put_in_place, writings
from stt_core.errors import SttError
from stt_core.scoring import ENGLISH_ONES, ENGLISH_TENS, english_number

MAX_PHRASES = 1000
MAX_PHRASE_CHARS = 100
MAX_CHARS = 20_000  # of all phrases together: their book takes memory and time
MAX_TEXT_CHARS = 2000  # of an utterance; what comes after is not looked at

# A phrase is accepted from this score on, if the next one is at least the margin behind, or if it alone is exact.
THRESHOLD = 0.78
MARGIN = 0.03

# The audio is asked about the phrases that come nearest, unless the text is as good as sure of one.
ASKED = 3
SURE = 0.95
# What counts beside the score is how likely the model finds the phrase, by its avg_logprob.
AUDIO_WEIGHT = 0.06
AUDIO_USUAL = 4.0  # an avg_logprob of -4 changes nothing
AUDIO_MARGIN = 0.1  # scores lie further apart then

# Costs in hundredths of a sound, whole so that they add up exactly.
SOUND = 100  # to add, to leave out, or to take for another
OTHER_KIND = 160  # to take a vowel for a consonant
LIGHT = {"ㅎ": 40, "ㅡ": 40}  # to add or to leave out: hardly heard, easily made up
NEAR = "ㅐㅔ ㄱㄲㅋ ㄷㄸㅌ ㅂㅃㅍ ㅈㅉㅊ ㅅㅆ ckq sz fv iy"
NEAR_COST = 30
ALIKE = "ㅏㅓㅗ ㅗㅜㅡㅓ ㅏㅐ ㅔㅣ ㄴㅁㅇ ㄴㄹ ㄱㅎ ㄷㅈ ㅌㅊ ㅅㅈ aeiouy mn lr dt bp gk gj uw"
ALIKE_COST = 50
WITHIN_START = 150  # a place that begins in the middle of a word
WITHIN_END = 50  # one that ends there
OTHER_NUMBER = 0.3  # taken off the score

# A longer phrase that scores this little less than one within it (마법, 불 마법) is what was said.
LONGER = 0.1
CANDIDATES = 96  # phrases that are compared in full
CELLS = 30_000_000  # of the tables of all candidates: fewer are compared where phrases and utterance are very long
PIECE = 300  # sounds of an utterance among which candidates share theirs
PLACE = 1 << 14  # more than there are sounds in a line; all costs of a phrase times this fit 32 bits

VOWELS = "ㅏㅐㅓㅔㅗㅜㅡㅣaeiouy"
ARTICLES = frozenset({"the", "a", "an"})
ENGLISH_NUMERALS = frozenset({*ENGLISH_ONES, *ENGLISH_TENS, "hundred", "thousand"})
UNSPACED = re.compile("(?<=[가-힣]{2}[은는을를])(?=[가-힣]{2})")  # 정답은고양이
ABBREVIATION = re.compile(r"\b(?:[A-Za-z]\.)+(?:[A-Za-z]\b|(?<=\..\.))")  # A.I, N.P.C.

Costs = NDArray[np.int32]
Rows = NDArray[np.intp]
Floats = NDArray[np.float64]


class PhraseError(SttError):
    """A list of phrases is more than the matcher takes."""


@dataclass(frozen=True, slots=True)
class Match:
    """The phrase that comes nearest to an utterance."""

    phrase: str  # as the game wrote it
    score: float  # 0 … 1, 1: all of it was heard
    runner_up: tuple[str, float] | None  # the next phrase that is no part of this one, and its score
    accepted: bool  # the score reaches the threshold, and the runner-up is the margin behind
    by_audio: bool = False  # the score holds how likely the model finds the phrase


@dataclass(frozen=True, slots=True)
class _Line:
    """A text as its n sounds, and what a place pays for beginning or ending before each of them, and at the end."""

    sounds: str
    starts: Sequence[int]  # (n + 1,)
    ends: Sequence[int]  # (n + 1,)


@dataclass(frozen=True, slots=True)
class _Ear:
    """One way of spelling words by sound."""

    words: Callable[[str], list[str]]  # the words of a text, spelled
    endings: re.Pattern[str]  # what may be left of a word behind a phrase
    numbers: Callable[[str], frozenset[object]]  # the numbers of a text

    def line(self, text: str) -> _Line:
        sounds, starts, ends = "", list[int](), [0]
        for word in self.words(text):
            starts += [0] + [WITHIN_START] * (len(word) - 1)
            ends += [0 if self.endings.fullmatch(word, at) else WITHIN_END for at in range(1, len(word))] + [0]
            sounds += word
        return _Line(sounds[: PLACE - 1], [*starts, 0], ends)


def _tidy(text: str) -> str:
    """NFC, and 1,000 as 1000."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", unicodedata.normalize("NFC", text))


def _plain_words(text: str) -> list[str]:
    """The words of a text without punctuation; I'm and A.I. are one each."""
    text = re.sub(r"(?<=\w)['’](?=\w)", "", text)
    text = ABBREVIATION.sub(lambda found: found[0].replace(".", "") + " ", text)
    return re.sub(r"[\W_]+", " ", text).split()


def _korean_words(text: str) -> list[str]:
    spelled = map(korean.sounds, _plain_words(UNSPACED.sub(" ", korean.spell_digits(text))))
    return [word for word in spelled if word]


def _latin_words(text: str) -> list[str]:
    text = re.sub(r"\d{1,9}(?!\d)", lambda found: f" {english_number(int(found[0]))} ", text)
    words = [word.casefold() for word in _plain_words(text)]
    return [word for word in words if word not in ARTICLES] or words


def _metaphone_words(text: str) -> list[str]:
    import jellyfish

    return [jellyfish.metaphone(word).replace(" ", "") or word for word in _latin_words(text)]


def _latin_numbers(text: str) -> frozenset[str]:
    """The numerals of a text, word by word: twenty and one for 21."""
    return ENGLISH_NUMERALS.intersection(_latin_words(text))


HANGUL = _Ear(_korean_words, korean.ENDING_SOUNDS, korean.numbers_in)
LETTERS = _Ear(_latin_words, re.compile("s|es|d|ed|ing|ly"), _latin_numbers)
METAPHONE = _Ear(_metaphone_words, re.compile("S|T|NK|L"), _latin_numbers)


@cache
def _confusions() -> Mapping[tuple[str, str], int]:
    costs = {pair: ALIKE_COST for group in ALIKE.split() for pair in permutations(group, 2)}
    return costs | {pair: NEAR_COST for group in NEAR.split() for pair in permutations(group, 2)}


def _substitution(sound: str, other: str) -> int:
    if sound == other:
        return 0
    return _confusions().get((sound, other)) or (SOUND if (sound in VOWELS) == (other in VOWELS) else OTHER_KIND)


_COARSE = {sound: group[0] for group in reversed(NEAR.split()) for sound in group[1:]}


def _features(sounds: str) -> set[str]:
    """What texts that sound alike have in common: sounds, near ones taken for one, and pairs of them."""
    coarse = [_COARSE.get(sound, sound) for sound in sounds]
    return {*coarse, *(one + other for one, other in pairwise(coarse))}


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a phrase was found best."""

    phrase: str
    score: float
    ear: _Ear
    start: int
    end: int

    def holds(self, other: "_Found") -> bool:
        """Whether the other's place lies within this one's and is smaller."""
        within = self.start <= other.start and other.end <= self.end
        return self.ear is other.ear and within and self.end - self.start > other.end - other.start


class _Index:
    """Phrases as one ear hears them, a row for each reading, and the search for them in a line."""

    def __init__(self, ear: _Ear, readings: Sequence[tuple[str, str]]) -> None:
        self._ear = ear
        self.phrases = [phrase for phrase, _ in readings]  # (rows,) as the game wrote them
        self._numbers = [ear.numbers(text) for _, text in readings]
        spelled = ["".join(ear.words(text))[:PLACE] for _, text in readings]
        self._lengths = np.array([len(sounds) for sounds in spelled], np.intp)
        self._alphabet = sorted(set("".join(spelled)))
        number = {sound: i for i, sound in enumerate(self._alphabet)}
        # (longest, rows) places in the alphabet; beyond a text's end stands the one that weighs nothing.
        self._sounds = np.full((self._lengths.max(initial=0), len(readings)), len(number), np.intp)
        for row, sounds in enumerate(spelled):
            self._sounds[: len(sounds), row] = [number[sound] for sound in sounds]
        self._weights = np.array([*(LIGHT.get(sound, SOUND) for sound in self._alphabet), 0], np.int32)

        features = [_features(sounds) for sounds in spelled]
        self._feature_counts = np.array([max(1, len(own)) for own in features])
        rows_with = defaultdict[str, list[int]](list)
        for row, own in enumerate(features):
            for feature in own:
                rows_with[feature].append(row)
        self._rows_with = {feature: np.array(rows, np.intp) for feature, rows in rows_with.items()}

    def candidates(self, line: _Line) -> Rows:
        """The rows that share most of their features with a part of the line, at most CANDIDATES."""
        rows = len(self._lengths)
        most = min(CANDIDATES, CELLS // max(1, len(line.sounds) * len(self._sounds)))
        if rows <= most:
            return np.arange(rows)
        shared = np.zeros(rows)
        for at in range(0, len(line.sounds), PIECE // 2):
            features = _features(line.sounds[at : at + PIECE])
            if found := [self._rows_with[feature] for feature in features if feature in self._rows_with]:
                counts = np.bincount(np.concatenate(found), minlength=rows)
                shared = np.maximum(shared, counts / self._feature_counts)
        return np.argpartition(shared, -most)[-most:]

    def search(self, line: _Line, rows: Rows) -> tuple[Floats, Costs, Costs]:
        """The score, the beginning and the end of the best place of each row's text in the line, (k,) each.

        Sellers' table, one column at a time for all k texts at once: (longest + 1, k). A cell is cost * PLACE less
        the beginning of its place, so that the cheapest brings its beginning along. It is short of what leaving
        out all sounds above it costs, so that to leave some out is to take the minimum of the cells above.
        """
        sounds = self._sounds[: self._lengths[rows].max(initial=0), rows]
        skip = self._weights[sounds] * PLACE
        skipped = np.vstack([np.zeros((1, len(rows)), np.int32), np.cumsum(skip, 0, np.int32)])
        last = (self._lengths[rows], np.arange(len(rows)))
        substitute = {sound: self._substitutions(sound)[sounds] * PLACE - skip for sound in set(line.sounds)}

        cells = np.full((len(sounds) + 1, len(rows)), line.starts[0] * PLACE, np.int32)
        best, ends = (cells + skipped)[last], np.zeros(len(rows), np.int32)
        for end, sound in enumerate(line.sounds, start=1):
            column = cells + LIGHT.get(sound, SOUND) * PLACE
            column[0] = line.starts[end] * PLACE - end
            np.minimum(column[1:], cells[:-1] + substitute[sound], out=column[1:])
            cells = np.minimum.accumulate(column, 0)
            total = cells[last] + skipped[last] + line.ends[end] * PLACE
            ends[total < best] = end
            best = np.minimum(best, total)
        costs = -(-best // PLACE)
        weights = self._weights[sounds].sum(0)
        scores = np.where(weights > 0, 1 - costs / np.maximum(1, weights), 0.0)
        return scores, costs * PLACE - best, ends

    def found(self, text: str, rows: Rows, scores: Floats, starts: Costs, ends: Costs) -> Iterator[_Found]:
        """The results of a search, with what other numbers than the phrase's take off the score."""
        heard = self._ear.numbers(text)
        for row, score, start, end in zip(rows, scores.tolist(), starts.tolist(), ends.tolist(), strict=True):
            expected = self._numbers[row]
            wrong = bool(expected and heard) and not expected <= heard
            yield _Found(self.phrases[row], round(score - OTHER_NUMBER * wrong, 3), self._ear, start, end)

    def _substitutions(self, sound: str) -> Costs:
        return np.array([*(_substitution(own, sound) for own in self._alphabet), 0], np.int32)


class PhraseBook:
    """The phrases that a game expects, ready to be looked for. Immutable.

    A text in Hangul is compared in the sounds of Hangul with all phrases, 파이어볼 with "fireball" as well; a text
    without is compared with phrases without in letters and Metaphone.

    Args:
        phrases: at most MAX_PHRASES, of at most MAX_PHRASE_CHARS characters each.
        threshold: the score from which a match is accepted, 0 … 1.
        margin: how far behind the runner-up has to be.

    Raises:
        PhraseError: there are too many phrases, one is too long, or one has neither a letter nor a digit.
    """

    def __init__(self, phrases: Iterable[str], *, threshold: float = THRESHOLD, margin: float = MARGIN) -> None:
        self.phrases = tuple(dict.fromkeys(phrases))
        self._check()
        self._threshold, self._margin = threshold, margin
        readings = [(phrase, reading) for phrase in self.phrases for reading in korean.readings(_tidy(phrase))]
        self._hangul = _Index(HANGUL, readings)
        self._latin = {phrase: _tidy(phrase) for phrase in self.phrases if not _has_hangul(phrase)}
        latin = [*self._latin.items()]
        self._letters, self._metaphone = _Index(LETTERS, latin), _Index(METAPHONE, latin)

    def match(self, text: str, heard: Mapping[str, float] = MappingProxyType({})) -> Match | None:
        """The phrase that an utterance comes nearest to; None if none has a sound in common with it.

        Args:
            heard: how likely the model finds the `alternatives`, as far as it was asked: mean log probabilities, by
                their names.
        """
        found = self._ranked(text)
        if not found:
            return None
        likely = _likely(found, heard)
        scores = {one.phrase: _with_audio(one.score, likely.get(one.phrase)) for one in found}
        found.sort(key=lambda one: -scores[one.phrase])
        best = found[0]
        for other in found:
            if other.holds(best) and scores[other.phrase] >= best.score - LONGER:
                best = other
        rivals = [one for one in found if one is not best and not best.holds(one)]
        rival = rivals[0] if rivals else None
        score, next_score = scores[best.phrase], scores[rival.phrase] if rival else 0.0
        by_audio = best.phrase in likely
        # What was not asked about has to be ahead by the text as well: the audio may only have taken from its rivals.
        bar = next_score if by_audio else max([next_score, *(one.score for one in rivals)])
        clear = score - bar >= (AUDIO_MARGIN if by_audio else self._margin) or score == 1 > bar
        return Match(
            best.phrase,
            _bounded(score),
            (rival.phrase, _bounded(next_score)) if rival else None,
            accepted=score >= self._threshold and clear,
            by_audio=by_audio,
        )

    def alternatives(self, text: str) -> dict[str, str]:
        """What the audio should be asked about: the `writings` of the phrases that come nearest, as far as the audio
        can make them acceptable, each with the text that has it in its place; none where the text alone is sure."""
        match = self.match(text)
        if match is None or (match.accepted and match.score >= SURE):
            return {}
        least = self._threshold - AUDIO_WEIGHT * AUDIO_USUAL
        near = [phrase for phrase, score in self.nearest(text)[:ASKED] if score >= least]
        texts = [{put_in_place(writing, text): writing for writing in writings(phrase)} for phrase in near]
        return {writing: other for own in texts for other, writing in own.items()}

    def nearest(self, text: str) -> list[tuple[str, float]]:
        """The phrases that have a sound in common with an utterance, with their scores by the text, best first."""
        return [(one.phrase, one.score) for one in self._ranked(text)]

    def _ranked(self, text: str) -> list[_Found]:
        """Where each phrase was found best, the nearest first."""
        return sorted(self._found(_tidy(text[:MAX_TEXT_CHARS])), key=lambda one: (-one.score, one.start - one.end))

    def _check(self) -> None:
        if len(self.phrases) > MAX_PHRASES:
            raise PhraseError(f"Expected at most {MAX_PHRASES} phrases, got {len(self.phrases)}; send fewer.")
        if (count := sum(map(len, self.phrases))) > MAX_CHARS:
            raise PhraseError(f"Expected phrases of at most {MAX_CHARS} characters together, got {count}; send fewer.")
        for phrase in self.phrases:
            if len(phrase) > MAX_PHRASE_CHARS:
                raise PhraseError(
                    f"Expected phrases of at most {MAX_PHRASE_CHARS} characters, got one of {len(phrase)}; shorten it."
                )
            if not _plain_words(phrase):
                raise PhraseError("Expected phrases with letters or digits, got one without; leave it out.")

    def _found(self, text: str) -> Iterable[_Found]:
        """The best place of each phrase that has one."""
        best: dict[str, _Found] = {}
        for found in self._places(text):
            if found.score > 0 and (found.phrase not in best or found.score > best[found.phrase].score):
                best[found.phrase] = found
        return best.values()

    def _places(self, text: str) -> Iterator[_Found]:
        """The best place of each reading of a phrase that may be there."""
        line, latin = HANGUL.line(text), not _has_hangul(text)
        rows = self._hangul.candidates(line)
        if latin:
            rows = rows[[self._hangul.phrases[row] not in self._latin for row in rows]]
        yield from self._hangul.found(text, rows, *self._hangul.search(line, rows))
        if latin:
            line = LETTERS.line(text)
            rows = self._letters.candidates(line)
            letters, starts, ends = self._letters.search(line, rows)
            metaphone, _, _ = self._metaphone.search(METAPHONE.line(text), rows)
            yield from self._letters.found(text, rows, (letters + metaphone) / 2, starts, ends)


def _likely(found: Sequence[_Found], heard: Mapping[str, float]) -> dict[str, float]:
    """How likely the model finds each phrase that it was asked about, in the likeliest writing; nothing if it was not
    asked about what comes nearest by the text."""
    asked = {one.phrase: [heard[writing] for writing in writings(one.phrase) if writing in heard] for one in found}
    likely = {phrase: max(own) for phrase, own in asked.items() if own}
    return likely if all(one.phrase in likely for one in found if one.score == found[0].score) else {}


def _with_audio(score: float, avg_logprob: float | None) -> float:
    """A phrase's score by the text and, where the model was asked about it, by the audio."""
    return score if avg_logprob is None else round(score + AUDIO_WEIGHT * (avg_logprob + AUDIO_USUAL), 3)


def _bounded(score: float) -> float:
    return min(1.0, max(0.0, score))


def _has_hangul(text: str) -> bool:
    return korean.HANGUL.search(_tidy(text)) is not None


@lru_cache(maxsize=16)
def phrase_book(phrases: tuple[str, ...]) -> PhraseBook:
    """The book of these phrases, made once for all who ask for the same; a thousand take a few tenths of a second.

    Raises:
        PhraseError: there are too many, or one is too long.
    """
    return PhraseBook(phrases)

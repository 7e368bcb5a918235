"""What else may have been said: a transcript with a phrase in one place of it.

The model can be asked how likely it finds a text that it did not write: one pass of the decoder over all tokens of it
gives the probability of each, given the audio (teacher forcing; whisper.cpp's example `command` does it in its guided
mode with the first token alone). The phrase stands in the transcript for the part that resembles it most, so that all
around it is as it was heard.

The phrase stands there as a transcript would have it (`writings`): what a game writes with capitals, marks or emoji is
said like any other.

What counts are the tokens that the transcript does not have, by the mean of their log probabilities. A mean over all
tokens of the phrase would hide the one that tells 왼쪽으로 from 오른쪽으로.
"""

import math
import re
import unicodedata
from collections.abc import Sequence

LATIN = re.compile("[A-Za-z']{2}")
JOINING = frozenset("'’.,-")  # between two letters these are part of a word: I'm, 1,000
EMOJI_STYLE = "\ufe0f"  # what stands behind a symbol to make it an emoji
LEAST_PROBABILITY = 1e-12  # of a token
CELLS = 100_000  # of the table in which a place is looked for: a tenth of a second


def avg_logprob(tokens: Sequence[int], other: Sequence[int], probabilities: Sequence[float]) -> float | None:
    """The mean log probability of the tokens that another text has and a text has not; 0 if they are the same text.

    Where something is only left out it is that of the token behind the gap, and None if none is there.

    Args:
        probabilities: of all tokens of the other text.
    """
    if tokens == other:
        return 0.0
    shortest = min(len(tokens), len(other))
    before = next((i for i in range(shortest) if tokens[i] != other[i]), shortest)
    after = next((i for i in range(shortest - before) if tokens[-1 - i] != other[-1 - i]), shortest - before)
    own = probabilities[before : max(len(other) - after, before + 1)]
    return sum(math.log(max(one, LEAST_PROBABILITY)) for one in own) / len(own) if own else None


def place(phrase: str, text: str) -> tuple[int, int]:
    """Where the part of the text begins and ends that costs least to turn into the phrase, letter by letter, Hangul in
    jamo (P. H. Sellers, 1980), the longest of those; all of the text where no letter is the same, or where both are so
    long that nobody would wait for it."""
    own = [letter for letter, _ in _letters(phrase)]
    letters = _letters(text)
    if len(own) * len(letters) > CELLS:
        return 0, len(text)
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


def writings(phrase: str) -> tuple[str, ...]:
    """How a phrase may stand in a sentence, which has marks and capitals of its own: as the game wrote it but for the
    marks around it, and in small letters without those within it."""
    own = unicodedata.normalize("NFC", phrase)
    own = own.strip("".join(filter(_is_mark, own)))
    letters = [not _is_mark(character) for character in own]
    plain = "".join(
        character if letters[i] or (character in JOINING and letters[i - 1] and letters[i + 1]) else " "
        for i, character in enumerate(own)
    )
    return tuple(dict.fromkeys((own, " ".join(plain.lower().split())))) if own else (phrase,)


def put_in_place(phrase: str, text: str) -> str:
    """The text with the phrase for the part that resembles it most; as it is if that is the phrase already."""
    start, end = place(phrase, text)
    there = text[start:end]
    if [letter for letter, _ in _letters(there)] == [letter for letter, _ in _letters(phrase)]:
        return text
    return text[:start] + _capitals_as(there, phrase) + text[end:]


def _letters(text: str) -> list[tuple[str, int]]:
    """The letters of a text, and the character that each is of."""
    return [
        (letter, at)
        for at, character in enumerate(text)
        for letter in unicodedata.normalize("NFD", character.lower())
        if re.match(r"[^\W_]", letter)
    ]


def _is_mark(character: str) -> bool:
    """Whether it is punctuation, a symbol, space or nothing that is seen. (What is not alphanumeric may be a vowel.)"""
    return unicodedata.category(character)[0] in "PSZC" or character == EMOJI_STYLE


def _capitals_as(there: str, phrase: str) -> str:
    """The phrase with the capitals that it needs in the place of another."""
    if len(there) > 1 and there.isupper():
        return phrase.upper()
    return phrase[:1].upper() + phrase[1:] if there[:1].isupper() else phrase

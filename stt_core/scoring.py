"""How far a transcript is from what was said: character error rate for Korean, word error rate for English.

Both sides are made alike first: Unicode NFC, lower case, no punctuation, numbers in words ("4명" and "네 명",
"33" and "thirty three"). Korean is then compared letter by letter without its spaces, because where a Korean
writer puts spaces is a matter of taste; other languages are compared word by word.

Numbers are spelled in one way only: as a whole ("1984" is one thousand nine hundred …, never nineteen
eighty four), up to 999,999,999. Whoever reads a number otherwise is counted as wrong, on both sides alike.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# Languages whose words are not set apart by spaces, or not reliably.
CHARACTER_LANGUAGES = frozenset({"ko", "ja", "zh", "yue", "th", "lo", "km", "my"})

SINO_DIGITS = "영일이삼사오육칠팔구"
SINO_PLACES = ("", "십", "백", "천")
SINO_GROUPS = ("", "만", "억")
NATIVE_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
NATIVE_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
# What is counted with native numerals: 네 명, but 삼 일.
NATIVE_COUNTERS = (
    r"가지|개(?!월)|곳|군데|그루|달(?!러)|대|마리|명|바퀴|발|방|배|번|벌|병|사람|살|송이|시(?!즌)|자루|잔|장|채|척|"
    r"칸|켤레|통|판|포기"
)

# fmt: off
ENGLISH_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
# fmt: on
ENGLISH_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

_NUMBER = r"\d{1,9}(?!\d)"
_KOREAN_NUMBER = re.compile(rf"({_NUMBER})(?=(\s*(?:{NATIVE_COUNTERS}))?)")


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of one transcript. Scores add up: the sum over a corpus is its pooled error."""

    errors: int  # substitutions, insertions and deletions
    length: int  # letters (Korean) or words (English) of the reference

    @property
    def rate(self) -> float:
        """CER or WER; above 1 when more was added than was said."""
        return self.errors / max(1, self.length)


def score(reference: str, hypothesis: str, language: str) -> Score:
    """Compare what was recognised with what was said."""
    said, heard = units(reference, language), units(hypothesis, language)
    return Score(edit_distance(said, heard), len(said))


def units(text: str, language: str) -> list[str]:
    """The letters or words of a text that are compared."""
    text = unicodedata.normalize("NFC", text).lower()
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    if language == "ko":
        text = _KOREAN_NUMBER.sub(lambda found: korean_number(int(found[1]), native=bool(found[2])), text)
    elif language == "en":
        text = re.sub(_NUMBER, lambda found: f" {english_number(int(found[0]))} ", text)
        text = re.sub(r"(?<=\w)['’](?=\w)", "", text)  # "I'm" is one word
    if language in CHARACTER_LANGUAGES:
        return list(re.sub(r"[\W_]", "", text))
    return re.sub(r"[\W_]+", " ", text).split()


def korean_number(number: int, *, native: bool = False) -> str:
    """A number in Korean words without spaces, as it is said before a counter (스물네) or by itself (이십사)."""
    if native and 0 < number < 100:
        return "스무" if number == 20 else NATIVE_TENS[number // 10] + NATIVE_ONES[number % 10]
    if not number:
        return SINO_DIGITS[0]
    words = ""
    for group in reversed(range(len(SINO_GROUPS))):
        if part := number // 10 ** (4 * group) % 10_000:
            digits = "" if part == 1 and group == 1 else _sino_group(part)  # 만, not 일만
            words += digits + SINO_GROUPS[group]
    return words


def _sino_group(number: int) -> str:
    """A number below 10,000: 천구백팔십사."""
    words = ""
    for place in reversed(range(len(SINO_PLACES))):
        if digit := number // 10**place % 10:
            words += ("" if digit == 1 and place else SINO_DIGITS[digit]) + SINO_PLACES[place]
    return words


def english_number(number: int) -> str:
    """A number in English words without hyphens and without "and"."""
    for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {english_number(number % size)}" if number % size else ""
            return f"{english_number(number // size)} {name}{rest}"
    if number < len(ENGLISH_ONES):
        return ENGLISH_ONES[number]
    tens = ENGLISH_TENS[number // 10 - 2]
    return f"{tens} {ENGLISH_ONES[number % 10]}" if number % 10 else tens


def edit_distance(said: Sequence[str], heard: Sequence[str]) -> int:
    """The fewest substitutions, insertions and deletions that turn one into the other (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (one != other))
    return row[-1]

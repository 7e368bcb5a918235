"""How words sound, written in the letters of Hangul.

A transcript is a guess by ear, so it is compared by ear. Hangul is an alphabet of sounds, and `sounds` writes
Korean, letter names and English words as one string of them:

    청개구리, 청개굴이    ㅊㅓㅇㄱㅐㄱㅜㄹㅣ
    AI, 에이아이          ㅔㅣㅏㅣ
    quest, 퀘스트         ㅋㅜㅔㅅㅌ, ㅋㅜㅔㅅㅡㅌㅡ

Syllables are laid out letter by letter without the silent ㅇ of a syllable that begins with its vowel (the ㅇ that
is left is the sound ng). A coda that is carried over to the next syllable (굴이 is said 구리) then needs no rule.
English is spelled by rule as a Korean ear takes it down, which is near enough to be compared, no more.
"""

import re

from stt_core.scoring import NATIVE_COUNTERS, NATIVE_ONES, NATIVE_TENS, SINO_DIGITS, korean_number

ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = (
    "ㅏ",
    "ㅐ",
    "ㅣㅏ",
    "ㅣㅐ",
    "ㅓ",
    "ㅔ",
    "ㅣㅓ",
    "ㅣㅔ",
    "ㅗ",
    "ㅗㅏ",
    "ㅜㅔ",
    "ㅜㅔ",
    "ㅣㅗ",
    "ㅜ",
    "ㅜㅓ",
    "ㅜㅔ",
    "ㅜㅣ",
    "ㅣㅜ",
    "ㅡ",
    "ㅡㅣ",
    "ㅣ",
)
CODAS: tuple[str, ...] = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
CLUSTERS = {"ㄳ": "ㄱㅅ", "ㄵ": "ㄴㅈ", "ㄶ": "ㄴㅎ", "ㄺ": "ㄹㄱ", "ㄻ": "ㄹㅁ", "ㄼ": "ㄹㅂ"} | {
    "ㄽ": "ㄹㅅ", "ㄾ": "ㄹㅌ", "ㄿ": "ㄹㅍ", "ㅀ": "ㄹㅎ", "ㅄ": "ㅂㅅ"
}  # fmt: skip
HANGUL = re.compile("[가-힣]")
FIRST_SYLLABLE = ord("가")

_NAMES = "에이 비 씨 디 이 에프 지 에이치 아이 제이 케이 엘 엠 엔 오 피 큐 알 에스 티 유 브이 더블유 엑스 와이 제트"
LETTER_NAMES = dict(zip("abcdefghijklmnopqrstuvwxyz", _NAMES.split(), strict=True))

# English spelling, the longest first; a consonant's ㅡ (스, 드) is left to the comparison, which hardly counts it.
# fmt: off
ENGLISH = {
    "tion": "ㅅㅣㅓㄴ", "sion": "ㅈㅓㄴ", "ture": "ㅊㅓ", "igh": "ㅏㅣ", "dge": "ㅈㅣ", "tch": "ㅊㅣ", "ear": "ㅣㅓ",
    "air": "ㅔㅓ", "ire": "ㅏㅣㅓ", "ore": "ㅗㅓ", "our": "ㅏㅜㅓ", "sh": "ㅅㅣ", "ch": "ㅊㅣ", "ph": "ㅍ", "th": "ㅅ",
    "ck": "ㄱ", "kn": "ㄴ", "wr": "ㄹ", "gh": "", "ng": "ㅇ", "qu": "ㅋㅜ", "ee": "ㅣ", "ea": "ㅣ", "ie": "ㅣ",
    "oo": "ㅜ", "ou": "ㅏㅜ", "ow": "ㅗㅜ", "oa": "ㅗ", "ai": "ㅔㅣ", "ay": "ㅔㅣ", "oi": "ㅗㅣ", "oy": "ㅗㅣ",
    "au": "ㅗ", "aw": "ㅗ", "ew": "ㅣㅜ", "er": "ㅓ", "ir": "ㅓ", "ur": "ㅓ", "ar": "ㅏ", "or": "ㅗ", "ce": "ㅅ",
    "ci": "ㅅㅣ", "cy": "ㅅㅣ", "ge": "ㅈㅣ", "a": "ㅐ", "b": "ㅂ", "c": "ㅋ", "d": "ㄷ", "e": "ㅔ", "f": "ㅍ",
    "g": "ㄱ", "h": "ㅎ", "i": "ㅣ", "j": "ㅈ", "k": "ㅋ", "l": "ㄹ", "m": "ㅁ", "n": "ㄴ", "o": "ㅗ", "p": "ㅍ",
    "q": "ㅋ", "r": "ㄹ", "s": "ㅅ", "t": "ㅌ", "u": "ㅓ", "v": "ㅂ", "w": "ㅜ", "x": "ㄱㅅ", "y": "ㅣ", "z": "ㅈ",
}
LONG_VOWELS = {"a": "ㅔㅣ", "e": "ㅣ", "i": "ㅏㅣ", "o": "ㅗ", "u": "ㅣㅜ", "y": "ㅏㅣ"}
# fmt: on
_SPELLING = re.compile(
    r"(?P<long>[aeiouy])(?=[b-df-hj-np-tvz]es?\b)|(?<=[aeiouy][b-df-hj-np-tvz])e(?=s?\b)"  # blade
    r"|([b-df-hj-np-tvz])(?=\2)"  # one of two like letters
    "|(?P<rule>" + "|".join(ENGLISH) + ")"
)

# What may follow a noun or the stem of a verb in the same word. Contractions begin with a coda: 개구립니다.
ENDINGS = """
은 는 이 가 을 를 의 에 도 만 로 으로 와 과 랑 이랑 하고 에서 에게 한테 께 부터 까지 보다 처럼 들 씨 님 야 아 여 이여
요 이요 이다 다 입니다 ㅂ니다 입니까 이에요 예요 에요 이예요 이야 죠 지 이죠 이지 인데 인데요 인가 인가요 일까
네 네요 군요 로요 으로요 라고 라고요 이라고 이라고요 이랍니다 같아 같아요 같은데 해 해요 해줘 해주세요 하자 할게
할게요 할래 합니다 하겠습니다 하기 하는 했어 줘 주세요 줄래 봐 보자 자 라 세요 으세요 아요 어요 고 서 아서 어서
습니다 겠습니다 ㄹ게 ㄹ게요 ㄹ래
"""
NUMERAL_LABELS = "레벨|단계|문제|번호|스테이지|챕터|라운드"  # what a Sino-Korean numeral may follow: 레벨 삼
SINO_COUNTERS = "번|층|단계|레벨|호|등|점|원|골드|분|초|년"


def sounds(word: str) -> str:
    """The sounds of a word in Hangul or Latin letters (NFC); what has none is left as it is."""
    said = ""
    for part in re.findall("[가-힣]+|[A-Za-z]+|.", word):
        if HANGUL.match(part):
            said += "".join(map(_letters, part))
        elif part.isascii() and part.isalpha():
            said += english_sounds(part)
        else:
            said += part
    return said


def _letters(syllable: str) -> str:
    """The letters of a syllable that are heard, by the arithmetic of the Unicode standard, section 3.12."""
    index = ord(syllable) - FIRST_SYLLABLE
    onset, vowel, coda = ONSETS[index // 588], VOWELS[index // 28 % 21], CODAS[index % 28]
    # Article 5 of the standard pronunciation: 계 is said 게, 희 히, 쳐 처.
    if (onset != "ㅇ" and vowel in ("ㅣㅔ", "ㅡㅣ")) or onset in "ㅈㅉㅊ":
        vowel = vowel[-1] if vowel[0] in "ㅣㅡ" else vowel
    return ("" if onset == "ㅇ" else onset) + vowel + CLUSTERS.get(coda, coda)


def english_sounds(word: str) -> str:
    """An English word as a Korean ear takes it down; letter by letter where it is an acronym (AI, NPC)."""
    if len(word) == 1 or (word.isupper() and len(word) <= 4) or not re.search("[aeiouy]", word.lower()):
        return "".join(sounds(LETTER_NAMES[letter]) for letter in word.lower())

    def spell(found: re.Match[str]) -> str:
        long, rule = found["long"], found["rule"]
        return LONG_VOWELS[long] if long else ENGLISH[rule] if rule else ""

    return _SPELLING.sub(spell, word.lower())


def _ending_sounds() -> re.Pattern[str]:
    forms = sorted({sounds(ending) for ending in ENDINGS.split()}, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(forms)}){{1,3}}")


ENDING_SOUNDS = _ending_sounds()  # matched against all that is left of a word


_NATIVE = {tens + ones: 10 * i + j for i, tens in enumerate(NATIVE_TENS) for j, ones in enumerate(NATIVE_ONES)}
_NATIVE = {word: number for word, number in _NATIVE.items() if word} | {"스무": 20}
_SINO = {korean_number(number): number for number in range(1000)}
_SINO_WORD = f"[{SINO_DIGITS}십백]"
_NUMERAL = re.compile(
    r"(?<!\d)(?P<digits>\d{1,9})(?!\d)"
    rf"|(?<![가-힣])(?P<native>{'|'.join(sorted(_NATIVE, key=len, reverse=True))})(?=\s*(?:{NATIVE_COUNTERS}))"
    rf"|(?<![가-힣])(?P<counted>{_SINO_WORD}+)(?=\s*(?:{SINO_COUNTERS}))"
    rf"|(?<![가-힣])(?P<many>{_SINO_WORD}{{2,}})(?=\s*(?:{NATIVE_COUNTERS}))"  # 오십 개; 이 개 is this dog
    rf"|(?:{NUMERAL_LABELS})\s*(?P<labelled>{_SINO_WORD}+)(?=[은는이가을를에로요]|입니다|으로|\W|$)"
)


def numbers_in(text: str) -> frozenset[int]:
    """The numbers of a Korean text: in digits, before a counter (세 개, 삼 번) or behind a label (레벨 삼)."""
    values = (_value(found) for found in _NUMERAL.finditer(text))
    return frozenset(value for value in values if value is not None)


def _value(found: re.Match[str]) -> int | None:
    numeral = found[found.lastgroup or 0]
    return int(numeral) if found["digits"] else _NATIVE.get(numeral) if found["native"] else _SINO.get(numeral)


def spell_digits(text: str) -> str:
    """The text with its digits in Korean words: 세 개 for 3개, 삼 번 for 3번."""
    return _NUMERAL.sub(lambda found: _read(found) if found["digits"] else found[0], text)


def readings(text: str) -> list[str]:
    """All ways in which the numbers of a text are said or transcribed: as it is, by the counter, Sino-Korean."""
    sino = _NUMERAL.sub(lambda found: _read(found, native=False), text)
    return list(dict.fromkeys((spell_digits(text), _NUMERAL.sub(_read, text), sino)))


def _read(found: re.Match[str], *, native: bool = True) -> str:
    """A numeral in words: native before most counters, unless that is not wanted, and Sino-Korean elsewhere."""
    value = _value(found)
    if value is None:
        return found[0]
    native = native and re.match(rf"\s*(?!번)(?:{NATIVE_COUNTERS})", found.string[found.end() :]) is not None
    return found[0].replace(found[found.lastgroup or 0], korean_number(value, native=native))

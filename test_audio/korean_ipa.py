"""Korean spelling to IPA: Hangul -> standard pronunciation -> the symbols that Kokoro-82M reads.

Kokoro comes with no such step for Korean. The numbers in the comments are the articles of the Standard
Pronunciation (표준 발음법) of the National Institute of Korean Language. Only what follows from the
spelling is here: where it does not, as with 의 said 에, respell the word.
"""

from dataclasses import dataclass

ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
CODAS = ["", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"]
CLUSTERS = {
    "ㄳ": "ㄱㅅ",
    "ㄵ": "ㄴㅈ",
    "ㄶ": "ㄴㅎ",
    "ㄺ": "ㄹㄱ",
    "ㄻ": "ㄹㅁ",
    "ㄼ": "ㄹㅂ",
    "ㄽ": "ㄹㅅ",
    "ㄾ": "ㄹㅌ",
    "ㄿ": "ㄹㅍ",
    "ㅀ": "ㄹㅎ",
    "ㅄ": "ㅂㅅ",
}
SECOND_SURVIVES = {"ㄺ": "ㄱ", "ㄻ": "ㅁ", "ㄿ": "ㅂ"}  # article 11; others keep the first sound
STOPPED = dict(zip("ㄱㄲㅋㄷㅅㅆㅈㅊㅌㅎㅂㅍ", "ㄱㄱㄱㄷㄷㄷㄷㄷㄷㄷㅂㅂ", strict=True))  # articles 8 and 9
ASPIRATED = dict(zip("ㄱㄷㅂㅈ", "ㅋㅌㅍㅊ", strict=True))
TENSE = dict(zip("ㄱㄷㅂㅅㅈ", "ㄲㄸㅃㅆㅉ", strict=True))
NASAL = dict(zip("ㄱㄷㅂ", "ㅇㄴㅁ", strict=True))

VOWEL_IPA = dict(
    zip(
        VOWELS,
        [
            "a",
            "ɛ",
            "ja",
            "jɛ",
            "ʌ",
            "e",
            "jʌ",
            "je",
            "o",
            "wa",
            "wɛ",
            "we",
            "jo",
            "u",
            "wʌ",
            "we",
            "wi",
            "ju",
            "ɯ",
            "ɯi",
            "i",
        ],
        strict=True,
    )
)
VOICED = dict(zip("ㄱㄷㅂㅈ", "ɡdbʥ", strict=True))
ONSET_IPA = dict(zip(ONSETS, [*"kknttɾmppss", "", "ʨ", "ʨ", "ʨʰ", "kʰ", "tʰ", "pʰ", "h"], strict=True))
CODA_IPA = {"": "", "ㅇ": "ŋː", **dict(zip("ㄱㄷㅂㄴㅁㄹ", "ktpnml", strict=True))}  # a short ŋ is heard as n


@dataclass
class Syllable:
    """A syllable as jamo; any other character is an onset without a vowel."""

    onset: str
    vowel: str = ""
    coda: str = ""


def close_coda(coda: str) -> str:
    """The sound of a coda that stays in its syllable (articles 8 to 11)."""
    coda = SECOND_SURVIVES.get(coda, CLUSTERS.get(coda, coda)[:1])
    return STOPPED.get(coda, coda)


def split_syllable(char: str) -> Syllable:
    """Take one Hangul syllable apart by the arithmetic of the Unicode standard, section 3.12."""
    index = ord(char) - 0xAC00
    if not 0 <= index < 11172:
        return Syllable(char)
    return Syllable(ONSETS[index // 588], VOWELS[index // 28 % 21], CODAS[index % 28])


def pronounce(text: str) -> list[Syllable]:
    """The syllables of `text` as they are said, sound changes applied from left to right."""
    syllables = [split_syllable(char) for char in text]
    for position, left in enumerate(syllables):
        after = syllables[position + 1 : position + 3]
        if left.coda and after and after[0].vowel:
            link(left, after[0])
        elif left.coda:
            left.coda = close_coda(left.coda)
            if len(after) == 2 and after[0].onset == " " and after[1].vowel:  # said without a break
                assimilate(left, after[1])
    return syllables


def link(left: Syllable, right: Syllable) -> None:
    """Change a coda and the onset that follows it in the same word."""
    *kept, coda = CLUSTERS.get(left.coda, left.coda)
    rest, onset = "".join(kept), right.onset
    if coda == "ㅎ" and onset == "ㅇ":  # article 12.4: 좋아 -> 조아, 많아 -> 마나
        left.coda, right.onset = "", rest or "ㅇ"
    elif coda == "ㅎ":  # article 12.1 to 12.3: 좋다 -> 조타, 많소 -> 만쏘, 놓는 -> 논는
        right.onset = ASPIRATED.get(onset, "ㅆ" if onset == "ㅅ" else onset)
        left.coda = rest or ("ㄴ" if onset == "ㄴ" else "")
        assimilate(left, right)
    elif onset == "ㅎ" and (coda == "ㅈ" or STOPPED.get(coda) in ASPIRATED):  # article 12.1: 공격해 -> 공겨캐
        palatal = coda in "ㄷㅌ" and right.vowel in "ㅣㅕ"  # article 17: 굳히다 -> 구치다
        right.onset = "ㅊ" if palatal else ASPIRATED["ㅈ" if coda == "ㅈ" else STOPPED[coda]]
        left.coda = close_coda(rest)
    elif onset == "ㅇ" and coda != "ㅇ":  # articles 13, 14 and 17: 남았어 -> 나마써, 같이 -> 가치
        moved = "ㅆ" if rest and coda == "ㅅ" else coda
        right.onset = {"ㄷ": "ㅈ", "ㅌ": "ㅊ"}.get(moved, moved) if right.vowel in "ㅣㅕ" else moved
        left.coda = close_coda(rest)
    else:
        if rest and coda in STOPPED:  # articles 23 to 25: 앉다 -> 안따
            right.onset = TENSE.get(onset, onset)
        left.coda = close_coda(left.coda)
        assimilate(left, right)


def assimilate(left: Syllable, right: Syllable) -> None:
    """Change a closed coda and the next onset, in one word or over one space."""
    coda, onset = left.coda, right.onset
    if coda in NASAL and onset in TENSE:  # article 23: 학교 -> 학꾜
        right.onset = TENSE[onset]
    elif coda in NASAL and onset in "ㄴㅁㄹ":  # articles 18 and 19: 입니다 -> 임니다, 독립 -> 동닙
        left.coda, right.onset = NASAL[coda], onset.replace("ㄹ", "ㄴ")
    elif coda in ("ㅁ", "ㅇ") and onset == "ㄹ":  # article 19: 정류장 -> 정뉴장
        right.onset = "ㄴ"
    elif {coda, onset} == {"ㄴ", "ㄹ"}:  # article 20: 신라 -> 실라
        left.coda = right.onset = "ㄹ"


def korean_ipa(text: str) -> str:
    """IPA in Kokoro's symbols. It has no tense consonants: plain voiceless ones stand for them, and
    for the lax ones at the start of a word; between voiced sounds the lax ones are voiced.
    """
    symbols, before = "", ""  # before: the last jamo so far, empty at the start of a word
    for syllable in pronounce(text):
        if not syllable.vowel:
            symbols, before = symbols + syllable.onset, ""
            continue
        vowel = VOWEL_IPA[syllable.vowel]
        consonant = ONSET_IPA[syllable.onset]
        if syllable.onset in VOICED and before and before in VOWELS + "ㄴㅁㅇㄹ":
            consonant = VOICED[syllable.onset]
        elif consonant == "s" and (vowel[0] in "ij" or vowel == "wi"):
            consonant = "ɕ"
        elif syllable.onset == before == "ㄹ":
            consonant = "l"
        if consonant.startswith(("ʨ", "ʥ", "ɕ")):  # article 5: no glide after a palatal, 쳐 -> 처
            vowel = vowel.removeprefix("j")
        symbols += consonant + vowel + CODA_IPA[syllable.coda]
        before = syllable.coda or syllable.vowel
    return symbols + "."

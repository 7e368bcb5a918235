"""Which of the expected phrases was said."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_dev.bench import read_manifest
from local_dev.bench_phrases import LANGUAGES, Case, outcome, read_cases
from stt_core import korean, phrases
from stt_core.alternatives import writings
from stt_core.phrases import (
    ASKED,
    AUDIO_USUAL,
    AUDIO_WEIGHT,
    MARGIN,
    MAX_CHARS,
    MAX_PHRASE_CHARS,
    MAX_PHRASES,
    MAX_TEXT_CHARS,
    THRESHOLD,
    Match,
    PhraseBook,
    PhraseError,
)

HERE = Path(__file__).parent
TABLES = {language: read_cases(HERE, language) for language in LANGUAGES}
CASES = [case for table in TABLES.values() for case in table]
LINES = [clip.text for clip in read_manifest(HERE.parent / "test_audio") if clip.text]
DRESSES = ["{}!", "“{}.”", "{} 🐸", "🐸{}", "- {}", "¿{}?", "{}...", "({})"]
SYLLABLES = st.characters(min_codepoint=ord("가"), max_codepoint=ord("힣"))
WORDS = st.text(SYLLABLES, min_size=2, max_size=6)


def best(text: str, *expected: str) -> Match:
    match = PhraseBook(expected).match(text)
    assert match is not None
    return match


def accepted(text: str, *expected: str) -> str | None:
    match = PhraseBook(expected).match(text)
    return match.phrase if match and match.accepted else None


# What the model wrote


@pytest.fixture(scope="module")
def outcomes() -> dict[Case, str]:
    return {case: outcome(case) for case in CASES}


def test_every_case_of_the_table_comes_out_as_written(outcomes) -> None:
    assert [] == [(case, now) for case, now in outcomes.items() if case.outcome != now]


@pytest.mark.parametrize(("language", "least"), [("ko", 150), ("en", 80)])
def test_most_cases_are_what_the_model_wrote(language: str, least: int) -> None:
    heard = [case for case in TABLES[language] if case.source != "own"]

    assert len(TABLES[language]) >= least
    assert len(heard) > len(TABLES[language]) / 2
    assert len(set(TABLES[language])) == len(TABLES[language])


@pytest.mark.parametrize(("language", "precision", "recall"), [("ko", 0.98, 0.7), ("en", 0.98, 0.7)])
def test_what_is_accepted_was_said(outcomes, language: str, precision: float, recall: float) -> None:
    found = [outcomes[case] for case in TABLES[language]]
    right = found.count("accepted")

    assert precision <= right / (right + found.count("mistaken"))
    assert recall <= right / sum(bool(case.expected) for case in TABLES[language])


def test_a_case_expects_a_phrase_of_its_list_or_none() -> None:
    assert [] == [case for case in CASES if case.expected and case.expected not in case.phrases]


# Korean


def test_a_neighbouring_sound_is_nearer_than_a_missing_syllable() -> None:
    for heard in ("천개구리", "총개구리", "청게구리", "청개굴이", "청캐쿠리"):
        assert THRESHOLD < best(heard, "청개구리").score
    for heard in ("개구리", "황소개구리", "청소기"):
        assert THRESHOLD > best(heard, "청개구리").score


def test_a_coda_is_carried_over_to_the_next_syllable() -> None:
    assert 1.0 == best("무늘 여러", "문을 열어").score
    assert 1.0 == best("가방 아네 이써", "가방 안에 있어").score


@pytest.mark.parametrize("ending", ["", "은", "가", "요", "입니다", "예요", "라고요", "한테", "인데요", "로"])
def test_particles_and_endings_cost_nothing(ending: str) -> None:
    assert 1.0 == best(f"정답은 두꺼비{ending}", "두꺼비").score


def test_what_is_no_ending_costs_something() -> None:
    assert 1.0 > best("두꺼비탕", "두꺼비").score
    assert 1.0 > best("왕두꺼비", "두꺼비").score


def test_spaces_do_not_matter() -> None:
    for heard in ("청 개구리 입니다", "정답은청개구리입니다", "청개 구리"):
        assert "청개구리" == accepted(heard, "청개구리", "황소개구리")


def test_a_longer_phrase_beats_one_within_it() -> None:
    assert "불 마법" == accepted("불 마법을 써", "마법", "불 마법")
    assert "마법" == accepted("그 마법을 써", "마법", "불 마법")
    assert "청개구리" == accepted("천 개구리", "개구리", "청개구리")


def test_the_runner_up_is_no_part_of_the_best() -> None:
    match = best("불 마법을 써", "마법", "불 마법", "물 마법")

    assert ("불 마법", 1.0) == (match.phrase, match.score)
    assert match.runner_up is not None
    assert "물 마법" == match.runner_up[0]
    assert match.accepted


def test_two_phrases_in_one_utterance_are_not_decided() -> None:
    match = best("왼쪽 아니 오른쪽", "왼쪽", "오른쪽")

    assert 1.0 == match.score
    assert not match.accepted


def test_what_is_exact_beats_what_is_as_good_as_exact() -> None:
    margin = best("풀 마법", "불 마법", "풀 마법")

    assert margin.runner_up is not None
    assert MARGIN > margin.score - margin.runner_up[1] - 0.01
    assert "풀 마법" == accepted("풀 마법", "불 마법", "풀 마법")


# Numbers


@pytest.mark.parametrize(
    ("heard", "phrase"),
    [
        ("사과 3개 주세요", "사과 세 개"),
        ("사과 세 개 주세요", "사과 3개"),
        ("사과 삼 개", "사과 3개"),
        ("삼 번이요", "3번"),
        ("3번", "삼 번"),
        ("1번", "한 번"),
        ("레벨 삼", "레벨 3"),
        ("금화 오십 개", "금화 50개"),
        ("20명입니다", "스무 명"),
        ("천 원", "1,000원"),
        ("Level twelve.", "level 12"),
        ("Number 21", "number twenty-one"),
        ("레벨 12", "level 12"),
    ],
)
def test_a_number_is_the_same_in_digits_and_in_words(heard: str, phrase: str) -> None:
    assert 1.0 == best(heard, phrase).score


@pytest.mark.parametrize(
    ("heard", "phrase"),
    [
        ("사과 네 개", "사과 세 개"),
        ("사과 4개", "사과 세 개"),
        ("4번", "3번"),
        ("레벨 사", "레벨 3"),
        ("한 번만 더", "1번"),
        ("Four apples.", "three apples"),
        ("Level 20", "level twelve"),
    ],
)
def test_another_number_is_another_phrase(heard: str, phrase: str) -> None:
    assert accepted(heard, phrase) is None


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("사과 세 개", {3}), ("3번과 12번", {3, 12}), ("십이 층", {12}), ("이 사과는", set()), ("네, 알겠습니다", set())],
)
def test_only_what_counts_is_a_number(text: str, numbers: set[int]) -> None:
    assert numbers == korean.numbers_in(text)


# English, and English in Hangul


@pytest.mark.parametrize("heard", ["AI", "A.I.", "에이아이", "에이 아이입니다", "정답은 AI요"])
def test_letters_are_said_by_their_names(heard: str) -> None:
    assert 1.0 == best(heard, "AI").score
    assert 1.0 == best(heard, "에이아이").score


@pytest.mark.parametrize(
    ("english", "hangul"),
    [("fireball", "파이어볼"), ("quest", "퀘스트"), ("potion", "포션"), ("teleport", "텔레포트"), ("dragon", "드래곤")],
)
def test_english_is_found_in_hangul_and_hangul_in_english(english: str, hangul: str) -> None:
    assert english == accepted(f"{hangul}!", english, "castle")
    assert hangul == accepted(english, hangul, "고양이")


def test_articles_endings_and_case_do_not_matter() -> None:
    for heard in ("Open the door!", "open door", "Please open a door now.", "Open the doors!"):
        assert "open the door" == accepted(heard, "open the door", "close the window")


def test_english_is_compared_by_sound_as_well() -> None:
    assert "knight" == accepted("The night is here.", "knight", "dragon")
    assert "Gandalf" == accepted("Some in Gandalf.", "Gandalf", "Galadriel")
    assert accepted("Nobody.", "yes", "no") is None


def test_other_scripts_are_compared_letter_by_letter() -> None:
    assert "открой дверь" == accepted("Открой дверь!", "открой дверь", "стой")
    assert "ドアを開けて" == accepted("ドアを開けて。", "ドアを開けて", "止まれ")


# Anything


def test_nothing_matches_nothing() -> None:
    assert PhraseBook([]).match("문을 열어") is None
    for text in ("", "...", "!?"):
        assert PhraseBook(["문을 열어"]).match(text) is None


@settings(max_examples=50)
@given(st.lists(WORDS, min_size=1, max_size=5, unique=True), st.data())
def test_a_phrase_that_was_said_scores_one(words: list[str], data: st.DataObject) -> None:
    said = data.draw(st.sampled_from(words))

    assert 1.0 == best(said, *words).score


@settings(max_examples=50)
@given(st.lists(st.text(max_size=20), max_size=5), st.text(max_size=60))
def test_any_text_has_a_score_between_zero_and_one(expected: list[str], text: str) -> None:
    try:
        match = PhraseBook(expected).match(text)
    except PhraseError:
        return
    assert match is None or (0 < match.score <= 1 and match.phrase in expected)
    assert match is None or match.runner_up is None or match.runner_up[0] != match.phrase


@settings(max_examples=25)
@given(st.sampled_from(CASES), st.randoms(use_true_random=False))
def test_the_order_of_the_phrases_does_not_change_the_score(case: Case, random) -> None:
    shuffled = random.sample(case.phrases, len(case.phrases))
    one, other = PhraseBook(case.phrases).match(case.heard), PhraseBook(shuffled).match(case.heard)

    assert (one and (one.score, one.accepted)) == (other and (other.score, other.accepted))


def test_composed_and_decomposed_hangul_are_one() -> None:
    import unicodedata

    decomposed = unicodedata.normalize("NFD", "청개구리")

    assert 1.0 == best(decomposed, "청개구리").score
    assert (decomposed, 1.0) == (best("청개구리", decomposed).phrase, best("청개구리", decomposed).score)


def test_passing_over_phrases_loses_none_that_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    own = list(dict.fromkeys(phrase for case in TABLES["ko"] for phrase in case.phrases))
    book = PhraseBook([*own, *(f"{one} {other}" for one in own[:20] for other in own[20:60])][:MAX_PHRASES])
    texts = [case.heard for case in TABLES["ko"]][::9]
    assert len(book.phrases) > 5 * phrases.CANDIDATES

    found = [book.match(text) for text in texts]
    monkeypatch.setattr(phrases, "CANDIDATES", MAX_PHRASES * 3)
    full = [book.match(text) for text in texts]
    assert [(m.phrase, m.score) for m in full if m and m.accepted] == [
        (m.phrase, m.score) for m in found if m and m.accepted
    ]


# Bounds


def test_too_much_is_refused_with_a_sentence() -> None:
    with pytest.raises(PhraseError, match=f"at most {MAX_PHRASES} phrases, got {MAX_PHRASES + 1}; send fewer"):
        PhraseBook(f"phrase {i}" for i in range(MAX_PHRASES + 1))
    with pytest.raises(PhraseError, match=f"at most {MAX_PHRASE_CHARS} characters, got one of {MAX_PHRASE_CHARS + 1}"):
        PhraseBook(["가" * (MAX_PHRASE_CHARS + 1)])
    with pytest.raises(PhraseError, match="got one without"):
        PhraseBook(["문을 열어", "!?"])


def test_the_most_that_is_allowed_is_answered() -> None:
    book = PhraseBook(f"{i}{'밟' * (MAX_PHRASE_CHARS - 4)}" for i in range(MAX_CHARS // MAX_PHRASE_CHARS))
    match = book.match("문을 " + "뷁" * MAX_TEXT_CHARS * 2)

    assert match is None or not match.accepted


def test_more_characters_than_are_allowed_together_are_refused() -> None:
    with pytest.raises(PhraseError, match="20000 characters together"):
        PhraseBook(f"{i}{'밟' * (MAX_PHRASE_CHARS - 4)}" for i in range(MAX_PHRASES))


def test_what_lies_beyond_the_longest_text_is_not_looked_at() -> None:
    assert accepted("가 " * MAX_TEXT_CHARS + "청개구리", "청개구리") is None


def test_the_table_can_be_read_by_anything_that_reads_tsv() -> None:
    for language in LANGUAGES:
        with (HERE / f"phrases_{language}.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert {6} == {len(row) for row in rows}


# With the help of the audio


def test_the_audio_is_asked_about_what_the_text_is_not_sure_of() -> None:
    book = PhraseBook(["청개구리", "황소개구리", "두꺼비"])

    alternatives = book.alternatives("정답은 참개부리입니다.")

    assert "정답은 청개구리입니다." == alternatives["청개구리"]
    assert "두꺼비" not in alternatives


@pytest.mark.parametrize("heard", ["정답은 청개구리입니다.", "청계구리요", "안녕하세요", ""])
def test_the_audio_is_not_asked_where_the_text_is_sure_or_nothing_is_near(heard: str) -> None:
    assert {} == PhraseBook(["청개구리", "황소개구리"]).alternatives(heard)


def test_two_that_the_text_cannot_tell_apart_are_left_to_the_audio() -> None:
    book = PhraseBook(["불 마법", "풀 마법"])
    text = "뿔 마법"

    undecided = book.match(text)
    assert undecided is not None and not undecided.accepted
    assert {"불 마법": "불 마법", "풀 마법": "풀 마법"} == book.alternatives(text)
    decided = book.match(text, {"불 마법": -0.5, "풀 마법": -5.0})
    assert decided == Match("불 마법", 1.0, ("풀 마법", decided.runner_up[1]), accepted=True, by_audio=True)


def test_what_the_audio_believes_is_accepted_and_what_it_does_not_is_refused() -> None:
    book = PhraseBook(["청개구리", "두꺼비"])

    assert (False, "청개구리") == (book.match("참구리").accepted, book.match("참구리").phrase)
    assert book.match("참구리", {"청개구리": -0.5}).accepted
    assert book.match("참개구리요").accepted
    assert not book.match("참개구리요", {"청개구리": -8.0}).accepted


def test_the_audio_moves_a_score_by_how_likely_the_phrase_is() -> None:
    book = PhraseBook(["청개구리"])
    score = book.match("참구리").score

    assert score == pytest.approx(book.match("참구리", {"청개구리": -AUDIO_USUAL}).score, abs=0.001)
    assert score + AUDIO_WEIGHT == pytest.approx(book.match("참구리", {"청개구리": 1 - AUDIO_USUAL}).score, abs=0.001)


def test_what_is_within_a_longer_phrase_does_not_win_because_it_is_surely_there() -> None:
    book = PhraseBook(["마법", "불 마법"])

    assert "불 마법" == book.match("물 마법", {"마법": 0.0, "불 마법": -0.5}).phrase
    assert "마법" == book.match("물 마법", {"마법": 0.0, "불 마법": -8.0}).phrase


def test_two_that_were_asked_about_have_to_lie_further_apart() -> None:
    book = PhraseBook(["불 마법", "풀 마법"])

    near, far = (book.match("뿔 마법", {"불 마법": -4.0, "풀 마법": other}) for other in (-4.8, -6.0))

    assert (0.048, 0.12) == pytest.approx((near.score - near.runner_up[1], far.score - far.runner_up[1]))
    assert ("불 마법", True, False) == (near.phrase, near.by_audio, near.accepted)
    assert ("불 마법", True, True) == (far.phrase, far.by_audio, far.accepted)


def test_what_nobody_was_asked_about_does_not_win_because_its_rivals_were() -> None:
    book = PhraseBook(["왼쪽으로 가자", "왼쪽으로 가라", "왼쪽으로 가면", "왼쪽으로 거미"])
    text = "왼쪽으로 가마"
    asked = book.alternatives(text)
    assert (ASKED, False) == (len(asked), book.match(text).accepted)

    match = book.match(text, dict.fromkeys(asked, -8.0))

    assert match.phrase not in asked and match.score >= THRESHOLD
    assert (False, False) == (match.accepted, match.by_audio)


def test_what_is_clear_by_the_text_stays_so_where_it_was_not_asked_about() -> None:
    book = PhraseBook(["마법", "불 마법", "두꺼비"])

    match = book.match("불 마버", {"마법": -0.1})

    assert ("불 마법", True, False) == (match.phrase, match.accepted, match.by_audio)


@pytest.mark.parametrize("likely", [-0.1, -8.0])
@pytest.mark.parametrize(
    ("phrases", "text", "heard"),
    [
        (["fireball", "파이어 벽"], "파이어볼", "파이어 벽"),
        (["파이어 벽", "fireball"], "파이어볼", "파이어 벽"),
        (["불 마법", "풀 마법"], "뿔 마법", "불 마법"),  # as near, and cannot be written
        (["풀 마법", "불 마법"], "뿔 마법", "불 마법"),
    ],
)
def test_the_text_decides_where_what_is_nearest_has_no_answer(phrases, text, heard, likely) -> None:
    book = PhraseBook(phrases)

    assert book.match(text) == book.match(text, {heard: likely})


@pytest.mark.parametrize("phrase", ["open the door", "Open The Door!", "OPEN_THE_DOOR", "open, the 🐸 door"])
def test_capitals_and_marks_of_a_phrase_do_not_decide(phrase: str) -> None:
    text, rival = "Open the dar.", "Close the door"
    book = PhraseBook([phrase, rival])
    likelihoods = {"Open the door.": -0.2}  # of anything else the model thinks little

    asked = book.alternatives(text)
    match = book.match(text, {name: likelihoods.get(other, -9.0) for name, other in asked.items()})

    assert (phrase, True, True) == (match.phrase, match.by_audio, match.accepted)


@given(
    st.sampled_from(LINES),
    st.sampled_from(DRESSES),
    st.sampled_from([str.lower, str.upper, str.title, str.capitalize]),
    st.sampled_from([" ", ", ", "_", " 🐸 ", " - "]),
    st.data(),
)
def test_nothing_that_is_asked_about_depends_on_capitals_and_marks(line, dress, case, between, data) -> None:
    at = data.draw(st.integers(0, len(line) - 1))
    text = f"{line[:at]}{line[at + 1 :]}."
    dressed = dress.format(between.join(case(line).split()))
    plain, other = PhraseBook([line.lower(), "두꺼비", "Griffin"]), PhraseBook([dressed, "두꺼비", "Griffin"])

    assert plain.match(text).score == other.match(text).score
    assert set(plain.alternatives(text).values()) <= set(other.alternatives(text).values())


def test_only_the_nearest_are_asked_about() -> None:
    book = PhraseBook(["가나다라", "가나다마", "가나다바", "가나다사", "가나다아"])

    assert ASKED == len(book.alternatives("가나다하"))


@given(
    st.lists(WORDS, min_size=1, max_size=6, unique=True),
    WORDS,
    st.dictionaries(WORDS, st.floats(-30, 0), max_size=6),
    st.data(),
)
def test_whatever_the_audio_says_the_answer_is_a_phrase_of_the_list(expected, text, other, data) -> None:
    book = PhraseBook(expected)
    heard = {phrase: data.draw(st.floats(-30, 0)) for phrase in book.alternatives(text)}

    match = book.match(text, heard | {name: value for name, value in other.items() if name not in expected})

    assert match == book.match(text, heard)  # of other phrases nothing is known
    assert match is None or (match.phrase in expected and 0 <= match.score <= 1)
    assert match is None or match.runner_up is None or 0 <= match.runner_up[1] <= 1
    assert match is None or not match.by_audio or match.phrase in heard


@given(
    st.lists(WORDS | st.from_regex(r"[^\W_].{0,12}", fullmatch=True), min_size=1, max_size=6, unique=True),
    st.text(max_size=30),
)
def test_alternatives_are_phrases_of_the_list_in_the_text(expected, text) -> None:
    alternatives = PhraseBook(expected).alternatives(text)

    assert set(alternatives) <= {writing for phrase in expected for writing in writings(phrase)}
    assert len(alternatives) <= 2 * ASKED
    assert all(other == text or name.upper() in other.upper() for name, other in alternatives.items())

"""What holds a text back, and what does not: nobody's words may be lost for a ghost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_core.evidence import (
    GUARDS,
    Evidence,
    in_own_script,
    objection,
    other_script,
    repeats_itself,
    vad_ratio,
)


def evidence(text="문을 열어 줘", logprob=-0.3, no_speech=0.3, ratio=None):
    return Evidence(text, logprob, no_speech, ratio)


@pytest.mark.parametrize(
    "weak",
    [
        evidence(logprob=-1.2, no_speech=0.5),  # the model doubts its words, but hears a voice
        evidence(logprob=-0.6, no_speech=0.8),  # the other way round
        evidence(logprob=-1.05, no_speech=0.8, ratio=0.85),  # "three": the detector is sure of what the model is not
        evidence(logprob=-0.25, ratio=0.4),  # the model is sure of what the detector is not
        evidence("하하하하하하하하하하"),
        Evidence("2", -0.4, 0.3, 0.6),
    ],
)
def test_words_that_one_of_two_believes_are_kept(weak):
    assert objection(weak) is None


@pytest.mark.parametrize(
    ("guard", "weak"),
    [
        ("silence", evidence(logprob=-1.05, no_speech=0.7)),
        ("silence", evidence(logprob=-1.01, no_speech=0.9, ratio=0.95)),
        ("invention", evidence(logprob=-1.6, no_speech=0.1)),
        ("invention", evidence("... ... ...")),
        ("detector", evidence("Boor!", logprob=-0.74, no_speech=0.7, ratio=0.2)),
        ("detector", evidence("하핳핳", logprob=-1.14, no_speech=0.44, ratio=0.52)),
        ("repetition", evidence("오오오오오오오오오오오오", no_speech=0.83, ratio=0.93)),
        (
            "repetition",
            evidence("하핀, 하핀, 하핀, 하핀, 하핀, 하핀, 하핀, 하핀,", logprob=-0.1, no_speech=0.5, ratio=0.4),
        ),
        ("repetition", evidence("하핰핰핰", logprob=-0.885, no_speech=0.41, ratio=0.385)),
        ("ghost", evidence("you", logprob=-0.69, no_speech=0.88)),
        ("ghost", evidence("1, 2, 3!", logprob=-1.1, no_speech=0.5)),
        ("ghost", evidence("구독과 좋아요 부탁드립니다", logprob=-0.4, no_speech=0.8, ratio=0.3)),
    ],
)
def test_each_guard_holds_back_what_the_others_let_through(guard, weak):
    assert guard == objection(weak)
    assert objection(weak, GUARDS - {guard}) is None


@pytest.mark.parametrize(
    "text",
    [
        "감사합니다",
        "감사합니다.",
        "고맙습니다",
        "고마워요!",
        "시청해 주셔서 감사합니다.",
        "시청해주셔서 감사합니다",
        "구독과 좋아요 부탁드립니다",
        "다음 영상에서 만나요",
        "MBC 뉴스 이덕영입니다.",
        "1, 2, 3",
        "you",
        "Thank you.",
        "Thank you very much!",
        "Thanks for watching!",
        "Bye.",
    ],
)
def test_what_is_heard_in_noise_is_kept_where_it_was_said(text):
    assert objection(Evidence(text, -0.5, 0.5, 0.6)) is None
    assert objection(Evidence(text, -0.8, 0.5, 0.6)) is None
    assert objection(Evidence(text, -0.7, 0.8, 0.8)) is None
    assert objection(Evidence(text, -0.4, 0.7)) is None
    assert "ghost" == objection(Evidence(text, -0.6, 0.7))
    assert "ghost" == objection(Evidence(text, -0.6, 0.7, 0.4))
    assert objection(Evidence(text, -0.6, 0.7, 0.4), GUARDS - {"ghost"}) is None


@pytest.mark.parametrize(
    "text",
    ["고마운 사람이 왔어요", "Thank the king and open the gate", "Thanks for the potion", "your turn", "감사하는 마음"],
)
def test_what_only_begins_like_a_ghost_is_none(text):
    assert objection(Evidence(text, -0.9, 0.7, 0.6)) is None


def test_nothing_needs_no_objection():
    assert objection(evidence("", logprob=-9, no_speech=1, ratio=0)) is None


@given(st.text(), st.floats(-3, 0), st.floats(0, 1), st.none() | st.floats(0, 1))
def test_without_guards_every_text_is_kept_and_more_guards_keep_less(text, logprob, no_speech, ratio):
    weak = Evidence(text, logprob, no_speech, ratio)

    assert objection(weak, ()) is None
    alone = {guard for guard in GUARDS if objection(weak, {guard}) is not None}
    assert (objection(weak) in alone) if alone else (objection(weak) is None)


@given(st.text(), st.floats(-3, 0), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_surer_detector_never_costs_a_text(text, logprob, no_speech, ratio, other):
    less, more = sorted([ratio, other])

    if objection(Evidence(text, logprob, no_speech, less)) is None:
        assert objection(Evidence(text, logprob, no_speech, more)) is None


@pytest.mark.parametrize(
    ("ratio", "probabilities"),
    [
        (0.0, []),
        (0.0, [0.1, 0.1]),
        (1.0, [0.0, 0.9, 0.9, 0.0]),
        (0.5, [0.2, 0.9, 0.0, 0.0, 0.0, 0.0, 0.4, 0.5]),  # a pause does not count
    ],
)
def test_the_ratio_counts_only_windows_that_could_hold_speech(ratio, probabilities):
    assert ratio == vad_ratio(probabilities)


@pytest.mark.parametrize(
    "text",
    ["감사합니다 감사합니다 감사합니다", "아아아아아아아아아아", "go left, go left, go left", "가나 " * 30],
)
def test_a_text_that_runs_in_a_circle_repeats_itself(text):
    assert repeats_itself(text)


@pytest.mark.parametrize(
    "text", ["", "가자 가자!", "빨리빨리", "하하하하하", "no no no no", "왼쪽으로 가자 마법을 사용해"]
)
def test_a_text_that_people_say_does_not(text):
    assert not repeats_itself(text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("休息 좀 하자", "좀 하자"),
        ("ありがとう", ""),
        ("불을 カメラ로", "불을 로"),
        ("퀘스트 NPC, 3번!", "퀘스트 NPC, 3번!"),
        ("10㎏ ~ 50℃…", "10㎏ ~ 50℃…"),
        ("검・활", "검・활"),
    ],
)
def test_korean_is_written_neither_in_han_nor_in_kana(text, written):
    assert written == in_own_script(text, "ko")
    assert (text != written) is other_script(text, "ko")


@pytest.mark.parametrize(("text", "language"), [("休息しよう", "ja"), ("休息一下", "zh"), ("休息 좀", "en")])
def test_other_languages_are_written_as_they_are(text, language):
    assert text == in_own_script(text, language)


@given(st.text())
def test_hangul_and_everything_else_stays(text):
    assert not other_script(in_own_script(text, "ko"), "ko")

"""Confidence is a probability that falls with every sign of doubt."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_core.confidence import OFFSETS, confidence, features
from stt_core.languages import LANGUAGES
from stt_core.transcription import Transcript

LOGPROBS = st.floats(-20, 0.5)
PROBABILITIES = st.floats(0, 1)


def heard(text: str = "문을 열어 줘", language: str = "ko", avg_logprob: float = -0.3, no_speech_prob: float = 0.1):
    return Transcript(text, language, avg_logprob, no_speech_prob)


def test_no_text_deserves_no_confidence():
    assert 0.0 == confidence(heard("", avg_logprob=0.0, no_speech_prob=0.0))


@given(st.text(min_size=1), st.sampled_from(sorted(LANGUAGES)), LOGPROBS, PROBABILITIES)
def test_confidence_is_a_probability(text, language, avg_logprob, no_speech_prob):
    assert 0 <= confidence(heard(text, language, avg_logprob, no_speech_prob)) <= 1


@given(st.sampled_from(["ko", "en", "ja"]), LOGPROBS, LOGPROBS, PROBABILITIES)
def test_a_less_likely_text_never_has_more_confidence(language, one, other, no_speech_prob):
    low, high = sorted((one, other))

    doubtful = confidence(heard(language=language, avg_logprob=low, no_speech_prob=no_speech_prob))

    assert doubtful <= confidence(heard(language=language, avg_logprob=high, no_speech_prob=no_speech_prob))


@given(PROBABILITIES, PROBABILITIES)
def test_what_may_be_silence_never_has_more_confidence(one, other):
    low, high = sorted((one, other))

    assert confidence(heard(no_speech_prob=high)) <= confidence(heard(no_speech_prob=low))


def test_of_two_texts_as_likely_the_shorter_has_more_confidence():
    assert confidence(heard("네 알겠습니다 그렇게 하죠")) < confidence(heard("네 알겠습니다"))


def test_what_is_shorter_than_four_letters_has_no_more_for_it():
    assert (
        confidence(heard("왼쪽으로")) == confidence(heard("왼쪽")) == confidence(heard("네")) == confidence(heard("?"))
    )


def test_signs_and_spaces_are_no_letters():
    assert (0.5, 0.2, 0.1) == features(heard("문을 열어 줘", avg_logprob=-0.25))
    assert confidence(heard("문을 열어 줘")) == confidence(heard("문을, 열어줘!"))


def test_a_log_probability_above_zero_is_rounding_and_counts_as_zero():
    assert confidence(heard(avg_logprob=0.0)) == confidence(heard(avg_logprob=0.001))


def test_english_is_believed_more_than_korean_and_an_unknown_language_no_more_than_either():
    known = {language: confidence(heard(language=language)) for language in OFFSETS}

    assert known["ko"] < known["en"]
    assert min(known.values()) == confidence(heard(language="fi"))


@pytest.mark.parametrize(
    ("avg_logprob", "at_least", "at_most"), [(-0.05, 0.9, 1.0), (-0.45, 0.3, 0.7), (-1.2, 0.0, 0.1)]
)
def test_a_game_can_ask_again_at_a_half(avg_logprob, at_least, at_most):
    """A clear line, one in noise, and one that the engine hardly believes."""
    assert at_least <= confidence(heard("정답은 청개구리입니다", avg_logprob=avg_logprob)) <= at_most


def test_what_cannot_be_said_has_no_confidence_to_speak_of():
    assert math.isclose(0.0, confidence(heard(avg_logprob=-1000.0)), abs_tol=1e-9)

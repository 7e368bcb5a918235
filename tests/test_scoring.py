"""Scores: what counts as the same, and what as an error."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_core.scoring import Score, edit_distance, english_number, korean_number, score


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("정답은 청개구리입니다", "정답은 청개구리 입니다."),
        ("네 명 왔어요", "4명 왔어요"),
        ("스물다섯 살", "25살"),
        ("삼 일 안으로", "3일 안으로"),
        ("세 시 삼십 분", "3시 30분"),
        ("삼 개월", "3개월"),
        ("천이백 골드", "1,200 골드"),
        ("문을 열어 줘", unicodedata.normalize("NFD", "문을 열어 줘")),
        ("HP가 낮아", "hp가 낮아"),
    ],
)
def test_korean_that_is_the_same(said, heard):
    assert Score(0, len(said.replace(" ", ""))) == score(said, heard, "ko")


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("Open the gate", "open the gate!"),
        ("ten metres", "10 metres"),
        ("thirty three four six ninety two", "33-4-6-92"),
        ("a cold-hearted man", "A cold hearted man."),
        ("I'm here", "I’m here"),
    ],
)
def test_english_that_is_the_same(said, heard):
    assert 0 == score(said, heard, "en").errors


def test_korean_errors_are_letters():
    assert Score(1, 4) == score("청개구리", "천개구리", "ko")
    assert Score(2, 5) == score("왼쪽으로 가", "쪽으로", "ko")


def test_english_errors_are_words():
    assert Score(1, 3) == score("open the gate", "open the late", "en")
    assert 2.0 == score("go", "let us", "en").rate


@pytest.mark.parametrize(
    ("number", "native", "words"),
    [
        (0, False, "영"),
        (7, False, "칠"),
        (110, False, "백십"),
        (1984, False, "천구백팔십사"),
        (10_000, False, "만"),
        (250_001, False, "이십오만일"),
        (1, True, "한"),
        (20, True, "스무"),
        (24, True, "스물네"),
        (100, True, "백"),
    ],
)
def test_korean_numbers(number, native, words):
    assert words == korean_number(number, native=native)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (92, "ninety two"),
        (305, "three hundred five"),
        (1_200_000, "one million two hundred thousand"),
    ],
)
def test_english_numbers(number, words):
    assert words == english_number(number)


@given(st.text("가나다", max_size=8), st.text("가나다", max_size=8))
def test_distance_is_symmetric_and_no_more_than_the_longer_text(one, other):
    distance = edit_distance(one, other)

    assert edit_distance(other, one) == distance <= max(len(one), len(other))
    assert (distance == 0) == (one == other)

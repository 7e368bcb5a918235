"""A transcript with a phrase in its place, and how likely the model finds it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_core.alternatives import avg_logprob, place, put_in_place, writings

TOKENS = st.lists(st.integers(0, 3), max_size=8)


@pytest.mark.parametrize(
    ("phrase", "text", "there"),
    [
        ("청개구리", "정답은 청우 개구리입니다.", "청우 개구리"),
        ("청개구리", "정답은 창개부리입니다.", "창개부리"),
        ("the gate", "Open the Gate.", "the Gate"),
        ("castle", "Follow me to the cassel", "cassel"),
        ("xyz", "네 네", "네 네"),  # nothing alike: all of it
        ("문", "", ""),
    ],
)
def test_a_phrase_has_its_place_where_the_text_resembles_it_most(phrase, text, there):
    start, end = place(phrase, text)

    assert there == text[start:end]


@pytest.mark.parametrize(
    ("phrase", "text", "together"),
    [
        ("청개구리", "정답은 창개부리입니다.", "정답은 청개구리입니다."),
        ("청개구리", "정답은 청 개구리입니다.", "정답은 청 개구리입니다."),  # it stands there already
        ("open the door", "Open the gate.", "Open the door."),
        ("청개구리", "", "청개구리"),
    ],
)
def test_the_phrase_stands_for_what_resembles_it(phrase, text, together):
    assert together == put_in_place(phrase, text)


@given(
    st.text("가나다 ab.", max_size=12), st.text("가나다 ab.", max_size=12), st.text("가나다ab", min_size=1, max_size=6)
)
def test_a_phrase_that_is_said_is_found_wherever_it_stands(before, after, phrase):
    start, end = place(phrase, before + phrase + after)

    assert phrase in put_in_place(phrase, before + phrase + after)
    assert 0 <= start <= end <= len(before + phrase + after)


@given(st.text(min_size=1, max_size=20), st.text(max_size=40))
def test_any_phrase_has_a_place_in_any_text(phrase, text):
    start, end = place(phrase, text)
    together = put_in_place(phrase, text)

    assert 0 <= start <= end <= len(text)
    assert together.startswith(text[:start]) and together.endswith(text[end:])


@pytest.mark.parametrize(
    ("phrase", "written"),
    [
        ("청개구리", ["청개구리"]),
        ("“청개구리!”", ["청개구리"]),
        ("청개구리 🐸", ["청개구리"]),
        ("문 ❤️ 열어", ["문 ❤️ 열어", "문 열어"]),
        ("Open, please!", ["Open, please", "open please"]),
        ("OPEN_THE_DOOR", ["OPEN_THE_DOOR", "open the door"]),
        ("I'm at 1,000", ["I'm at 1,000", "i'm at 1,000"]),
        ("Twenty-one...", ["Twenty-one", "twenty-one"]),
        ("A.I.", ["A.I", "a.i"]),
        ("\u1106\u116e\u11ab", ["문"]),  # decomposed
        ("पानी", ["पानी"]),  # ends in a vowel sign, which is no letter
        ("🐸", ["🐸"]),
    ],
)
def test_a_phrase_is_written_as_in_a_sentence(phrase, written):
    assert written == list(writings(phrase))


@given(st.text(min_size=1, max_size=20))
def test_any_phrase_has_one_or_two_writings(phrase):
    own, *plain = writings(phrase)

    assert own and all(plain) and len(plain) <= 1
    assert [own] == [*writings(own)][:1]


@pytest.mark.parametrize(
    ("phrase", "text", "together"),
    [
        ("open it", "Opan it.", "Open it."),
        ("npc", "Talk to the NBC.", "Talk to the NPC."),
        ("kim", "K!", "Kim!"),
        ("Eldrin", "Talk to eldren.", "Talk to Eldrin."),
    ],
)
def test_a_phrase_has_the_capitals_of_its_place(phrase, text, together):
    assert together == put_in_place(phrase, text)


def test_no_place_is_looked_for_where_that_would_take_long():
    text = "가나다라" * 500

    assert (0, len(text)) == place("나다라마" * 25, text)


def test_only_the_tokens_count_that_the_text_does_not_have():
    assert math.log(0.25) == pytest.approx(avg_logprob([7, 1, 9], [7, 2, 9], [1e-9, 0.25, 1e-9]))
    assert math.log(0.25) == pytest.approx(avg_logprob([7, 1, 9], [7, 2, 3, 9], [1e-9, 0.5, 0.125, 1e-9]))


def test_the_same_text_is_as_likely_as_can_be():
    assert 0.0 == avg_logprob([7, 1, 9], [7, 1, 9], [0.1, 0.1, 0.1])


def test_what_is_left_out_is_judged_by_what_comes_next():
    assert math.log(0.5) == pytest.approx(avg_logprob([7, 1, 9], [7, 9], [1e-9, 0.5]))
    assert avg_logprob([7, 1, 9], [7, 1], [0.5, 0.5]) is None
    assert avg_logprob([7], [], []) is None


def test_an_impossible_token_is_no_infinite_loss():
    logprob = avg_logprob([1], [2], [0.0])

    assert logprob is not None and math.isfinite(logprob)


@given(TOKENS, TOKENS, st.data())
def test_any_two_texts_can_be_compared(tokens, other, data):
    probabilities = data.draw(st.lists(st.floats(0, 1), min_size=len(other), max_size=len(other)))
    logprob = avg_logprob(tokens, other, probabilities)

    assert logprob is None or -28 < logprob <= 0
    assert logprob is not None or other == tokens[: len(other)]  # None: only its end is missing

"""When to ask for a partial, and which part of it stays."""

from hypothesis import given
from hypothesis import strategies as st

from stt_core.partials import Partials

S = 16_000
START = 3 * S


def shown(*texts: str) -> list[tuple[str, str] | None]:
    partials = Partials(0)
    return [partials.take(text, S * i) for i, text in enumerate(texts, 1)]


def test_the_first_partial_is_due_a_quarter_of_a_second_into_the_speech():
    partials = Partials(START)

    assert [False, True] == [partials.is_due(START + 3999), partials.is_due(START + 4000)]


def test_none_is_due_while_one_is_under_way():
    partials = Partials(START)
    partials.asked(START + S)

    assert not partials.is_due(START + 60 * S)


def test_the_next_is_due_half_a_second_after_the_last_was_asked_for():
    partials = Partials(START)
    partials.asked(START + S)
    partials.take("문", START + S + 1600)

    assert [False, True] == [partials.is_due(START + S + 7999), partials.is_due(START + S + 8000)]


def test_while_there_is_nothing_to_show_the_next_is_due_a_quarter_of_a_second_after_the_last():
    heard_nothing, lost = Partials(START), Partials(START)
    for partials in (heard_nothing, lost):
        partials.asked(START + S)
    heard_nothing.take("", START + S + 1600)
    lost.lost(START + S + 1600)

    for partials in (heard_nothing, lost):
        assert [False, True] == [partials.is_due(START + S + 3999), partials.is_due(START + S + 4000)]


def test_while_there_is_nothing_to_show_a_slow_one_is_followed_at_once():
    partials = Partials(START)
    partials.asked(START + S)
    partials.take("", START + 2 * S)

    assert [False, True] == [partials.is_due(START + 2 * S - 1), partials.is_due(START + 2 * S)]


def test_one_that_is_lost_after_a_text_was_shown_is_not_made_up_for_sooner():
    partials = Partials(START)
    partials.take("문", START + S)
    partials.asked(START + 2 * S)
    partials.lost(START + 2 * S + 1600)

    assert [False, True] == [partials.is_due(START + 2 * S + 7999), partials.is_due(START + 2 * S + 8000)]


def test_or_twice_what_the_last_one_took():
    partials = Partials(START)
    partials.asked(START + S)
    partials.take("문", START + 2 * S)

    assert [False, True] == [partials.is_due(START + 3 * S - 1), partials.is_due(START + 3 * S)]


def test_one_that_came_to_nothing_is_waited_for_as_long():
    partials = Partials(START)
    partials.asked(START + S)
    partials.lost(START + 2 * S)

    assert [False, True] == [partials.is_due(START + 3 * S - 1), partials.is_due(START + 3 * S)]


def test_a_text_that_was_not_asked_for_puts_the_next_one_off():
    partials = Partials(START)
    partials.take("문", START + S)

    assert [False, True] == [partials.is_due(START + S + 7999), partials.is_due(START + S + 8000)]


def test_two_texts_in_a_row_make_stable_what_they_begin_with_alike_before_the_last_word_of_the_earlier():
    assert [("문을", ""), ("문을 열어", ""), ("문을 열어 줘", "문을"), ("문을 열어 줘", "문을 열어")] == shown(
        "문을", "문을 열어", "문을 열어 줘", "문을 열어 줘"
    )


def test_a_word_that_was_cut_twice_alike_is_not_stable():
    assert [("문을 열", ""), ("문을 열", "문을"), ("문을 열어 줘", "문을")] == shown(
        "문을 열", "문을 열", "문을 열어 줘"
    )


def test_a_word_of_which_more_was_heard_is_another_word():
    assert [("문을 여", ""), ("문을 열어", "문을")] == shown("문을 여", "문을 열어")


def test_what_is_stable_stays_although_a_later_text_denies_it():
    assert [
        ("문을 열어 줘", ""),
        ("문을 열어 줘", "문을 열어"),
        ("문을 열어", "문을 열어"),
        ("문을 열어 봐", "문을 열어"),
    ] == shown("문을 열어 줘", "문을 열어 줘", "창을 닫아", "창을 닫아 봐")


def test_stable_words_keep_the_spelling_in_which_they_were_shown():
    assert [("Hello there", ""), ("hello there", "hello"), ("hello There you", "hello")] == shown(
        "Hello there", "hello there", "Hello, There you"
    )


def test_a_shorter_text_takes_nothing_back():
    assert ("문을 열어", "문을 열어") == shown("문을 열어 줘", "문을 열어 줘", "문을")[-1]


def test_an_empty_text_shows_nothing_before_there_is_something():
    assert [None, ("문을", ""), None] == shown("", "문을", "")


@given(st.lists(st.text(alphabet="문을열a A,.", max_size=8), max_size=8))
def test_stable_only_grows_and_begins_the_text(texts):
    before = ""
    for text, stable in filter(None, shown(*texts)):
        assert text.startswith(stable)
        assert stable.startswith(before)
        before = stable

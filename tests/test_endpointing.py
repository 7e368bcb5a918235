"""The endpointer, driven by hand-written probabilities. One figure is one window of 32 ms."""

import pytest

from stt_core.endpointing import Endpointer, EndpointingOptions, Event, State

# Speech after two windows, silence after three.
OPTIONS = EndpointingOptions(
    threshold=0.5, min_speech_duration_ms=64, min_silence_duration_ms=96, max_silence_duration_ms=96
)
STARTED, ENDED = Event.SPEECH_STARTED, Event.SPEECH_ENDED


def events(*probabilities: float, options: EndpointingOptions = OPTIONS) -> dict[int, Event]:
    """What was said with which window."""
    endpointer = Endpointer(options)
    pushed = [endpointer.push(probability) for probability in probabilities]
    return {window: event for window, event in enumerate(pushed) if event}


def test_silence_is_no_event():
    assert {} == events(0, 0, 0, 0, 0, 0)


def test_speech_then_silence_starts_and_ends():
    assert {3: STARTED, 7: ENDED} == events(0, 0, 1, 1, 1, 0, 0, 0, 0)


def test_start_and_end_are_the_windows_where_speech_began_and_ceased():
    endpointer = Endpointer(OPTIONS)
    for probability in (0, 0, 1, 1, 1, 0, 0, 0, 0):
        endpointer.push(probability)

    assert (2, 5) == (endpointer.start, endpointer.end)


def test_a_click_is_not_speech():
    assert {} == events(0, 1, 0, 0, 1, 0, 0, 0)


def test_clicks_do_not_add_up():
    assert {} == events(1, 0, 1, 0, 1, 0, 1, 0)


def test_a_pause_that_is_too_short_ends_nothing():
    assert {1: STARTED, 10: ENDED} == events(1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0)


def test_the_threshold_itself_is_speech():
    assert {1: STARTED} == events(0.5, 0.5)
    assert {} == events(0.499, 0.499)


def test_a_wavering_voice_does_not_end_between_the_thresholds():
    assert {1: STARTED} == events(1, 1, 0.36, 0.36, 0.36, 0.36, 0.36)
    assert {1: STARTED, 4: ENDED} == events(1, 1, 0.34, 0.34, 0.34)


def test_a_wavering_beginning_still_counts():
    assert {1: STARTED} == events(0.6, 0.4)


def test_a_doubt_is_only_dispelled_by_speech():
    assert {1: STARTED, 4: ENDED} == events(1, 1, 0.1, 0.4, 0.4)


def test_speech_can_begin_and_end_again():
    assert {1: STARTED, 4: ENDED, 6: STARTED, 9: ENDED} == events(1, 1, 0, 0, 0, 1, 1, 0, 0, 0)


def test_reset_forgets_speech_but_not_the_position():
    endpointer = Endpointer(OPTIONS)
    for _ in range(4):
        endpointer.push(1)
    endpointer.reset()

    assert (State.SILENCE, False, 4) == (endpointer.state, endpointer.in_speech, endpointer.position)
    assert (4, 4) == (endpointer.start, endpointer.end)
    assert [None, STARTED] == [endpointer.push(1), endpointer.push(1)]
    assert 4 == endpointer.start


@pytest.mark.parametrize(
    ("probabilities", "state", "in_speech"),
    [
        ((0,), State.SILENCE, False),
        ((1,), State.STARTING, False),
        ((1, 1), State.SPEECH, True),
        ((1, 1, 0), State.ENDING, True),
        ((1, 1, 0, 1), State.SPEECH, True),
        ((1, 1, 0, 0, 0), State.SILENCE, False),
        ((1, 0), State.SILENCE, False),
    ],
)
def test_states(probabilities, state, in_speech):
    endpointer = Endpointer(OPTIONS)
    for probability in probabilities:
        endpointer.push(probability)

    assert (state, in_speech) == (endpointer.state, endpointer.in_speech)


def test_one_window_is_enough_where_the_options_say_so():
    one = EndpointingOptions(min_speech_duration_ms=0, min_silence_duration_ms=0, max_silence_duration_ms=0)

    assert {0: STARTED, 1: ENDED} == events(1, 0, options=one)


def test_milliseconds_become_windows_of_32_ms():
    options = EndpointingOptions(min_speech_duration_ms=64, max_silence_duration_ms=500, speech_pad_ms=250)

    assert (2, 16, 8) == (options.min_speech_windows, options.max_silence_windows, options.pad_windows)


def test_the_lower_threshold_never_reaches_zero():
    assert 0.01 == EndpointingOptions(threshold=0.1).neg_threshold
    assert pytest.approx(0.35) == EndpointingOptions(threshold=0.5).neg_threshold

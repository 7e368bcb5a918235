"""Samples become utterances. The VAD follows a script, and a window's samples are its own number."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
from conftest import silence, tone
from hypothesis import given
from hypothesis import strategies as st

from stt_core.audio import Samples
from stt_core.endpointing import EndpointingOptions
from stt_core.fakes import EnergyVad
from stt_core.utterances import Event, Paused, Resumed, Started, Utterance, UtteranceStream, whole_utterance
from stt_core.vad import WINDOW_SAMPLES, Probabilities

# Speech after two windows, silence after four, two windows of pad on each side.
OPTIONS = EndpointingOptions(
    min_speech_duration_ms=64,
    min_silence_duration_ms=128,
    max_silence_duration_ms=128,
    speech_pad_ms=64,
    speech_tail_ms=64,
)
NO_PAD = replace(OPTIONS, speech_pad_ms=0, speech_tail_ms=0)


class Script:
    """A VAD whose opinions are written down, silence after the last."""

    def __init__(self, *probabilities: float) -> None:
        self._next = chain(probabilities, repeat(0.0))

    def __call__(self, windows: Samples) -> Probabilities:
        return np.array([next(self._next) for _ in windows], np.float32)


def windows(numbers: Iterable[int]) -> Samples:
    return np.repeat(np.array([*numbers], np.float32), WINDOW_SAMPLES)


def numbers(utterance: Utterance) -> list[int]:
    """The windows that an utterance is made of."""
    return utterance.samples[::WINDOW_SAMPLES].astype(int).tolist()


def ended(events: Iterable[Event]) -> list[Utterance]:
    """The utterances that ended, without those that may have."""
    return [event for event in events if isinstance(event, Utterance)]


def streamed(*probabilities: float, options: EndpointingOptions = OPTIONS, endpointing: bool = True):
    """The stream after a window for each of these probabilities, and its utterances."""
    stream = UtteranceStream(Script(*probabilities), options, endpointing=endpointing)
    return stream, ended(stream.push(windows(range(len(probabilities)))))


SILENCE, WORD = [0.0] * 10, [1.0] * 5


# ---- endpoints ---------------------------------------------------------------------------------------------


def test_silence_yields_nothing():
    _, utterances = streamed(*[0] * 100)

    assert [] == utterances


def test_a_word_comes_with_a_pad_on_both_sides():
    _, [utterance] = streamed(*SILENCE, *WORD, *SILENCE)

    assert [8, 9, 10, 11, 12, 13, 14, 15, 16] == numbers(utterance)
    assert ("endpoint", 8 * 512) == (utterance.reason, utterance.start_samples)
    assert 9 * 0.032 == pytest.approx(utterance.duration_s)


def test_an_utterance_ends_with_the_window_that_decides_it():
    stream, utterances = streamed(*WORD, 0, 0, 0)
    assert ([], True) == (utterances, stream.holds_speech)

    [utterance] = ended(stream.push(windows([8])))
    assert ([0, 1, 2, 3, 4, 5, 6], False) == (numbers(utterance), stream.holds_speech)


def test_an_utterance_tells_how_sure_the_detector_is_of_it():
    _, [sure, unsure] = streamed(*SILENCE, *WORD, *SILENCE, 1.0, 1.0, 0.4, 0.4, 1.0, *SILENCE)

    assert (1.0, 0.6) == pytest.approx((sure.vad_ratio, unsure.vad_ratio))


def test_a_pad_never_reaches_before_the_beginning():
    _, [utterance] = streamed(0, *WORD, *SILENCE)

    assert (0, [0, 1, 2, 3, 4, 5, 6, 7]) == (utterance.start_samples, numbers(utterance))


def test_a_click_is_ignored():
    _, utterances = streamed(*SILENCE, 1, *SILENCE, 1, *SILENCE)

    assert [] == utterances


def test_a_pause_within_an_utterance_is_kept():
    _, [utterance] = streamed(*WORD, 0, 0, 0, *WORD, *SILENCE, options=NO_PAD)

    assert [*range(13)] == numbers(utterance)


def test_a_voice_between_the_thresholds_belongs_to_the_utterance():
    _, [utterance] = streamed(1, 1, 0.4, 0.4, 0.4, 0.4, 0.4, 0, 0, 0, 0, options=NO_PAD)

    assert [0, 1, 2, 3, 4, 5, 6] == numbers(utterance)


def test_neighbours_share_no_audio_however_long_their_pads():
    wide = replace(OPTIONS, speech_pad_ms=256, speech_tail_ms=256)
    _, [first, second] = streamed(*WORD, 0, 0, 0, 0, 0, *WORD, *SILENCE, options=wide)

    assert [*range(9)] == numbers(first)  # what has come when the endpoint is decided
    assert [*range(9, 19)] == numbers(second)
    assert 9 * 512 == second.start_samples


# ---- speculation -------------------------------------------------------------------------------------------


def test_silence_hands_the_utterance_out_before_it_is_sure_of_the_endpoint():
    stream = UtteranceStream(Script(*SILENCE, *WORD), OPTIONS, endpointing=True)
    started, paused = stream.push(windows(range(17)))
    [utterance] = stream.push(windows(range(17, 19)))

    assert Started(10 * 512) == started
    assert isinstance(paused, Paused)
    assert [8, 9, 10, 11, 12, 13, 14, 15, 16] == numbers(paused.utterance)
    assert utterance.samples is paused.utterance.samples
    assert "endpoint" == utterance.reason


def test_a_flush_after_such_a_silence_is_the_same_utterance():
    stream = UtteranceStream(Script(*WORD), OPTIONS, endpointing=False)
    _, paused = stream.push(windows(range(20)))

    assert stream.flush("flush").samples is paused.utterance.samples


@pytest.mark.parametrize("probability", [1.0, 0.2])
def test_what_was_handed_out_is_void_when_anything_like_speech_follows(probability):
    stream = UtteranceStream(Script(*WORD, 0, 0, probability), OPTIONS, endpointing=False)
    _, paused, resumed = stream.push(windows(range(8)))

    assert (Paused, Resumed) == (type(paused), type(resumed))
    assert [*range(8)] == numbers(stream.flush("flush"))


def test_every_pause_hands_out_all_that_was_said():
    stream = UtteranceStream(Script(*WORD, *SILENCE, *WORD, *SILENCE), NO_PAD, endpointing=False)
    _, first, resumed, second = stream.push(windows(range(30)))

    assert [[*range(5)], [*range(20)]] == [numbers(event.utterance) for event in (first, second)]
    assert isinstance(resumed, Resumed)


# ---- flush -------------------------------------------------------------------------------------------------


def test_flush_ends_open_speech():
    stream, _ = streamed(*SILENCE, *WORD)
    utterance = stream.flush("flush")

    assert ("flush", 8 * 512) == (utterance.reason, utterance.start_samples)
    assert [8, 9, 10, 11, 12, 13, 14] == numbers(utterance)
    assert not stream.holds_speech


def test_flush_without_speech_is_an_empty_utterance():
    stream, _ = streamed(*SILENCE)

    assert ("flush", 0) == (stream.flush("flush").reason, len(stream.flush("flush").samples))


def test_flush_takes_in_the_samples_that_fill_no_window():
    stream = UtteranceStream(Script(1, 1), NO_PAD, endpointing=True)
    assert [] == list(stream.push(np.ones(700, np.float32)))
    utterance = stream.flush("flush")

    assert [1.0] * 700 == utterance.samples.tolist()


def test_what_was_flushed_never_comes_again():
    stream, _ = streamed(*WORD)
    stream.flush("flush")

    assert [] == list(stream.push(windows(range(5, 20))))
    assert [] == numbers(stream.flush("flush"))


def test_a_pad_never_reaches_before_a_flush():
    stream = UtteranceStream(Script(*WORD, 0, 0, 0, *WORD), OPTIONS, endpointing=True)
    list(stream.push(windows(range(8))))
    first = stream.flush("flush")
    list(stream.push(windows(range(8, 13))))
    second = stream.flush("flush")

    assert [0, 1, 2, 3, 4, 5, 6] == numbers(first)
    assert [8, 9, 10, 11, 12] == numbers(second)


def test_speech_goes_on_after_a_flush_as_a_new_utterance():
    stream = UtteranceStream(Script(*WORD, *WORD), OPTIONS, endpointing=True)
    list(stream.push(windows(range(5))))
    first = stream.flush("flush")
    [second] = ended(stream.push(windows(range(5, 20))))

    assert [0, 1, 2, 3, 4] == numbers(first)
    assert [5, 6, 7, 8, 9, 10, 11] == numbers(second)
    assert 5 * 512 == second.start_samples


def test_positions_do_not_count_what_flush_made_up():
    stream = UtteranceStream(Script(0, 0, 0, 1, 1, 1, 1), NO_PAD, endpointing=True)
    list(stream.push(np.zeros(5 * 512 + 100, np.float32)))  # three windows of silence, two and a bit of speech
    first = stream.flush("flush")
    list(stream.push(np.zeros(2 * 512, np.float32)))  # the next word begins at once
    second = stream.flush("flush")

    assert 3 * 512 == first.start_samples
    assert 7 * 512 + 100 == second.start_samples


# ---- push-to-talk ------------------------------------------------------------------------------------------


def test_without_endpointing_only_flush_ends_an_utterance():
    stream, utterances = streamed(*SILENCE, *WORD, *SILENCE, *WORD, *SILENCE, options=NO_PAD, endpointing=False)

    assert ([], True) == (utterances, stream.holds_speech)
    assert [*range(10, 30)] == numbers(stream.flush("flush"))  # the pause too, the silence around it not


def test_a_click_after_a_pause_does_not_lengthen_push_to_talk_by_more_than_itself():
    stream, _ = streamed(*WORD, *SILENCE, 1, *SILENCE, options=NO_PAD, endpointing=False)

    assert [*range(16)] == numbers(stream.flush("flush"))


# ---- the longest utterance ---------------------------------------------------------------------------------

ONE_SECOND = replace(NO_PAD, max_speech_duration_s=0.99)  # 31 windows


def test_long_speech_is_split_at_its_quietest_window_and_nothing_is_lost_or_doubled():
    stream = UtteranceStream(Script(*[1] * 40), ONE_SECOND, endpointing=True)
    loudness = windows([*range(100, 123), 3, *range(124, 140)])  # the 24th is the quietest
    [first] = ended(stream.push(loudness))
    second = stream.flush("flush")

    assert ("max_length", [*range(100, 123)]) == (first.reason, numbers(first))
    assert ("flush", [3, *range(124, 140)]) == (second.reason, numbers(second))
    assert (0, 23 * 512) == (first.start_samples, second.start_samples)


def test_speech_without_end_is_split_again_and_again():
    stream, utterances = streamed(*[1] * 200, options=ONE_SECOND)
    utterances.append(stream.flush("flush"))

    assert [*range(200)] == [number for utterance in utterances for number in numbers(utterance)]
    assert {"max_length"} == {utterance.reason for utterance in utterances[:-1]}
    assert max(utterance.duration_s for utterance in utterances) <= 1.0


def test_the_quietest_window_is_looked_for_in_the_last_ten_seconds():
    stream = UtteranceStream(Script(*[1] * 1000), OPTIONS, endpointing=True)
    audio = windows([9] * 940)
    audio[500 * 512 : 501 * 512] = 0  # quieter, but early
    audio[900 * 512 : 901 * 512] = 1
    [first] = ended(stream.push(audio))

    assert 900 * 512 == len(first.samples)


def test_push_to_talk_is_split_too():
    _, [utterance] = streamed(*[1] * 31, options=ONE_SECOND, endpointing=False)

    assert "max_length" == utterance.reason


def test_a_key_that_is_held_long_after_the_last_word_sends_no_silence_to_the_model():
    stream, [utterance] = streamed(*WORD, *[0] * 100, options=ONE_SECOND, endpointing=False)

    assert ("max_length", [0, 1, 2, 3, 4]) == (utterance.reason, numbers(utterance))
    assert not stream.holds_speech
    assert 0 == len(stream.flush("flush").samples)


def test_a_word_after_such_a_silence_is_found():
    stream, [first] = streamed(*WORD, *[0] * 100, *WORD, *SILENCE, options=ONE_SECOND, endpointing=False)

    assert [0, 1, 2, 3, 4] == numbers(first)
    assert [105, 106, 107, 108, 109] == numbers(stream.flush("flush"))


# ---- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpointing", [True, False])
def test_ten_minutes_of_silence_costs_no_memory(endpointing):
    stream = UtteranceStream(lambda windows: np.zeros(len(windows), np.float32), OPTIONS, endpointing=endpointing)
    minute = np.zeros(60 * 16_000 // 512 * 512, np.float32)
    for _ in range(10):
        assert [] == list(stream.push(minute))
        assert len(stream._windows) <= OPTIONS.pad_windows + OPTIONS.min_speech_windows


def test_clicks_all_day_cost_no_memory():
    stream, utterances = streamed(*[0, 1] * 1000)

    assert [] == utterances
    assert len(stream._windows) <= OPTIONS.pad_windows + OPTIONS.min_speech_windows


# ---- chunking ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpointing", [True, False])
@given(
    probabilities=st.lists(st.sampled_from([0.0, 0.4, 1.0]), max_size=80),
    remainder=st.integers(0, 511),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=8),
)
def test_chunking_does_not_matter(endpointing, probabilities, remainder, sizes):
    audio = np.arange(len(probabilities) * 512 + remainder, dtype=np.float32)
    options = replace(OPTIONS, max_speech_duration_s=0.6)

    def utterances(chunks: list[Samples]) -> list[tuple[str, int, list[float]]]:
        stream = UtteranceStream(Script(*probabilities), options, endpointing=endpointing)
        found = [utterance for chunk in chunks for utterance in ended(stream.push(chunk))]
        found.append(stream.flush("flush"))
        return [(u.reason, u.start_samples, u.samples.tolist()) for u in found]

    cuts = np.cumsum(np.resize(sizes, 1 + len(audio) // min(sizes)))
    assert utterances([audio]) == utterances(np.split(audio, cuts[cuts < len(audio)]))


@given(st.lists(st.sampled_from([0.0, 0.4, 1.0]), max_size=120))
def test_positions_say_where_the_samples_were_and_none_come_twice(probabilities):
    options = replace(OPTIONS, max_speech_duration_s=0.6)
    stream, utterances = streamed(*probabilities, options=options)
    utterances.append(stream.flush("flush"))
    spoken = [u for u in utterances if len(u.samples)]

    for utterance in spoken:
        first = utterance.start_samples // 512
        assert [*range(first, first + len(numbers(utterance)))] == numbers(utterance)
    handed_out = [number for utterance in spoken for number in numbers(utterance)]
    assert sorted(set(handed_out)) == handed_out


# ---- audio whose ends are known ----------------------------------------------------------------------------


def test_a_whole_utterance_keeps_its_pauses_and_loses_the_silence_around():
    audio = np.concatenate([silence(1.024), tone(0.512), silence(2.048), tone(0.512), silence(1.024)])
    utterance = whole_utterance(audio, EnergyVad(), EndpointingOptions())

    assert "message" == utterance.reason
    assert 1.024 - 0.512 == pytest.approx(utterance.start_samples / 16_000)
    assert 0.512 + 0.512 + 2.048 + 0.512 + 0.096 == pytest.approx(utterance.duration_s)


def test_a_whole_utterance_is_never_split():
    utterance = whole_utterance(tone(64.0), EnergyVad(), replace(OPTIONS, max_speech_duration_s=1.0))

    assert 64.0 == utterance.duration_s


@pytest.mark.parametrize("duration_s", [0.0, 0.001, 5.0])
def test_a_whole_utterance_of_silence_is_empty(duration_s):
    assert 0 == len(whole_utterance(silence(duration_s), EnergyVad(), OPTIONS).samples)

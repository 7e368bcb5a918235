"""What a client may ask for: budgets over time, and what `ready` tells of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stt_core.limits import LARGEST_MESSAGE_BYTES, TOLD, Limits, TokenBucket
from stt_core.settings import Settings


def test_a_bucket_allows_its_burst_at_once_and_no_more():
    bucket = TokenBucket(rate=1.0, burst=3.0)

    assert [True, True, True, False] == [bucket.take(1, now_s=100.0) for _ in range(4)]


def test_a_bucket_fills_at_its_rate_up_to_its_burst():
    bucket = TokenBucket(rate=2.0, burst=3.0)
    assert bucket.take(3, now_s=0.0)

    assert [False, True, False] == [bucket.take(1, 0.49), bucket.take(1, 0.5), bucket.take(1, 0.5)]
    assert [True, False] == [bucket.take(3, 1000.0), bucket.take(0.1, 1000.0)]


def test_what_is_refused_takes_nothing():
    bucket = TokenBucket(rate=1.0, burst=3.0)

    assert [False, True] == [bucket.take(4, 0.0), bucket.take(3, 0.0)]


def test_a_rate_of_zero_allows_anything():
    bucket = TokenBucket(rate=0.0, burst=1.0)

    assert (True, 0.0) == (bucket.take(1e9, 0.0), bucket.wait_s(1e9))


def test_a_bucket_says_how_long_to_wait():
    bucket = TokenBucket(rate=2.0, burst=3.0)
    bucket.take(3, 0.0)

    assert (0.5, 0.0) == (bucket.wait_s(1), bucket.wait_s(0))


@given(
    rate=st.floats(0.1, 100),
    burst=st.floats(0.1, 100),
    steps=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 10)), max_size=40),
)
def test_no_bucket_gives_more_than_its_burst_and_its_rate(rate, burst, steps):
    bucket, now_s, given_out = TokenBucket(rate, burst), 0.0, 0.0
    for amount, elapsed_s in steps:
        now_s += elapsed_s
        given_out += amount if bucket.take(amount, now_s) else 0
        assert given_out <= burst + rate * now_s + 1e-6


def test_the_audio_budget_takes_two_longest_recordings_at_once_and_then_real_time():
    limits = Limits()
    bucket = TokenBucket(limits.audio_rate, limits.audio_burst_s)

    assert [True, True, False] == [bucket.take(65.0, 0.0) for _ in range(3)]
    assert all(bucket.take(0.1, 0.1 * i / 1.4) for i in range(1, 2000))  # 1.4 times real time, for ever


def test_twice_real_time_is_too_fast_after_a_while():
    bucket = TokenBucket(Limits().audio_rate, Limits().audio_burst_s)
    accepted = sum(bucket.take(0.1, 0.1 * i / 2) for i in range(10_000))

    assert 130 + 1.5 * 500 == pytest.approx(0.1 * accepted, abs=1)


def test_ready_tells_the_limits_that_a_client_can_keep():
    told = Limits(idle_timeout_s=60).on_the_wire()

    assert set(TOLD) == set(told)
    assert (60, LARGEST_MESSAGE_BYTES, 65, 30) == (
        told["idle_timeout_s"],
        told["max_message_bytes"],
        told["max_push_to_talk_s"],
        told["max_utterance_s"],
    )


def test_every_limit_is_a_setting_with_the_same_name_and_says_what_it_is():
    assert set(Limits.model_fields) <= set(Settings.model_fields)
    assert all(field.description for field in Limits.model_fields.values())
    assert 1.0 == Settings.from_environment({"STT_AUDIO_RATE": "1"}).audio_rate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_message_bytes", LARGEST_MESSAGE_BYTES + 1),
        ("max_message_bytes", 1023),
        ("max_utterance_s", 0.9),
        ("max_push_to_talk_s", 301),
        ("audio_rate", -1),
        ("audio_burst_s", 0),
        ("control_burst", 0),
        ("max_sessions", 0),
        ("idle_timeout_s", 0),
        ("going_away_s", -1),
        ("max_recordings", 0),
        ("max_recordings_bytes", 1023),
        ("max_recordings_age_s", 0),
        ("max_recording_bytes", 1023),
        ("max_nonsense", 1),
    ],
)
def test_a_limit_out_of_range_is_refused_by_its_name(name, value):
    with pytest.raises(ValidationError, match=name):
        Limits(**{name: value})

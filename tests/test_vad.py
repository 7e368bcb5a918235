"""The gate in front of the detector, and the detector itself on real windows."""

import numpy as np
import pytest
from conftest import tone
from hypothesis import given
from hypothesis import strategies as st

from local_dev.live_client import room_noise
from stt_core.audio import Samples, read_audio
from stt_core.vad import WINDOW_SAMPLES, GatedVad, Probabilities, SileroVad, VadStream

RANDOM = np.random.default_rng(1)


class CountingVad:
    """Finds speech in windows louder than 0.1 RMS, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def stream(self) -> VadStream:
        return self._rate

    def _rate(self, windows: Samples) -> Probabilities:
        self.asked += len(windows)
        return (np.sqrt(np.square(windows).mean(axis=1)) > 0.1).astype(np.float32)


def noise(windows: int, rms: float) -> Samples:
    return (RANDOM.standard_normal((windows, WINDOW_SAMPLES)) * rms).astype(np.float32)


def speech(windows: int) -> Samples:
    return tone(windows * WINDOW_SAMPLES / 16_000)[: windows * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)


def test_silence_is_rated_for_a_second_and_then_taken_for_silence() -> None:
    vad = CountingVad()
    gated = GatedVad(vad).stream()
    gated(np.zeros((1000, WINDOW_SAMPLES), np.float32))

    assert 31 == vad.asked


def test_steady_noise_is_hardly_ever_rated() -> None:
    vad = CountingVad()
    GatedVad(vad).stream()(noise(1000, 0.01))

    assert vad.asked < 100


def test_the_noise_of_a_room_swells_and_is_seldom_rated_all_the_same() -> None:
    vad = CountingVad()
    GatedVad(vad).stream()(room_noise(32.0, -60.0, 0).reshape(-1, WINDOW_SAMPLES))

    assert vad.asked < 250  # of 1,000


def test_speech_after_long_silence_is_found_from_its_first_window() -> None:
    vad = CountingVad()
    gated = GatedVad(vad).stream()
    gated(noise(200, 0.01))
    asked = vad.asked

    assert [1.0] * 5 == gated(speech(5)).tolist()
    assert 8 + 5 == vad.asked - asked  # what came just before is heard again


def test_a_click_does_not_close_the_gate_on_quiet_speech() -> None:
    vad = CountingVad()
    gated = GatedVad(vad).stream()
    quiet = noise(40, 0.001)
    quiet[20, 100] = 1.0
    gated(quiet)

    assert [1.0] * 5 == gated(speech(5)).tolist()


@pytest.mark.parametrize("bang_windows", [1, 9, 30, 300])
def test_a_bang_does_not_make_it_deaf_to_softer_voices(bang_windows: int) -> None:
    class Deaf(CountingVad):  # to everything but what is as loud as the voice
        def _rate(self, windows: Samples) -> Probabilities:
            loudness = np.sqrt(np.square(windows).mean(axis=1))
            return ((loudness > 0.1) & (loudness < 0.4)).astype(np.float32)

    gated = GatedVad(Deaf()).stream()
    gated(np.concatenate([noise(60, 0.001), noise(bang_windows, 0.8), noise(24, 0.001)]))

    assert [1.0] * 5 == gated(speech(5)).tolist()


def test_a_gate_that_was_opened_by_noise_closes_again_after_a_quarter_of_a_second() -> None:
    vad = CountingVad()
    gated = GatedVad(vad).stream()
    gated(noise(60, 0.001))
    asked = vad.asked
    gated(np.concatenate([noise(1, 0.01), noise(60, 0.001)]))

    assert 8 + 8 == vad.asked - asked  # what came just before is heard again


def test_a_closed_gate_follows_the_noise_as_it_falls() -> None:
    gated = GatedVad(CountingVad()).stream()
    gated(np.concatenate([noise(40, 0.09), noise(40, 0.02)]))
    vad_heard = gated(noise(5, 0.11))

    assert [1.0] * 5 == vad_heard.tolist()


@given(st.lists(st.sampled_from(["silence", "noise", "speech"]), max_size=12), st.integers(1, 40))
def test_chunking_does_not_matter(parts: list[str], size: int) -> None:
    made = {"silence": np.zeros((20, WINDOW_SAMPLES), np.float32), "noise": noise(20, 0.01), "speech": speech(20)}
    windows = np.concatenate([np.zeros((0, WINDOW_SAMPLES), np.float32), *(made[part] for part in parts)])
    whole, pieces = GatedVad(CountingVad()).stream(), GatedVad(CountingVad()).stream()
    chunks = [pieces(windows[i : i + size]) for i in range(0, len(windows), size)]

    assert whole(windows).tolist() == [p for chunk in chunks for p in chunk.tolist()]


@pytest.mark.model
def test_silero_rates_windows_alike_one_by_one_and_together() -> None:
    samples = read_audio("test_audio/two_sentences.wav")
    windows = samples[: len(samples) // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    vad = SileroVad()
    stream = vad.stream()
    one_by_one = np.concatenate([stream(windows[i : i + 1]) for i in range(len(windows))])

    assert np.array_equal(vad.stream()(windows), one_by_one)
    assert 0.3 < (one_by_one > 0.5).mean() < 0.9


@pytest.mark.model
def test_the_gate_hides_no_speech_from_silero() -> None:
    room = noise(190, 0.001)
    samples = read_audio("test_audio/two_sentences.wav")
    spoken = samples[: len(samples) // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    windows = np.concatenate([room, spoken, room, spoken])
    vad = SileroVad()
    heard = vad.stream()(windows) > 0.5
    gated = GatedVad(vad).stream()(windows) > 0.5

    assert (heard & ~gated).sum() <= 0.01 * heard.sum()

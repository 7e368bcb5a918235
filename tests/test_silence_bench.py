"""`bench silence`: its sounds are what they say, and its tables count what they say."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import tone
from rich.console import Console

from local_dev.bench import bench_progress
from local_dev.bench_silence import Heard, Listener, Sound, _ablation, _in_noise, _sets, run_silence_bench
from local_dev.noises import KINDS, LONGEST_S, SHORTEST_S, at_level, coloured, make_noises
from stt_core.audio import SAMPLE_RATE, read_audio
from stt_core.evidence import OBJECTIONS

TEST_AUDIO = Path(__file__).resolve().parent.parent / "test_audio"


@pytest.fixture(scope="module")
def noises():
    return make_noises(6, seed=0)


def test_every_kind_of_sound_has_its_turn(noises):
    turns = Counter(noise.kind for noise in noises)

    assert set(KINDS) == set(turns)
    assert max(turns.values()) <= min(turns.values()) + 1
    assert 6 * 60 <= sum(len(noise.samples) for noise in noises) / SAMPLE_RATE < 6 * 60 + LONGEST_S


def test_sounds_are_samples_of_their_length(noises):
    for noise in noises:
        assert np.float32 == noise.samples.dtype
        assert SHORTEST_S <= len(noise.samples) / SAMPLE_RATE <= LONGEST_S
        assert np.abs(noise.samples).max() <= 1
        assert noise.kind == "silence" or 0 < noise.samples.std()


def test_the_seed_decides_the_sounds(noises):
    again, other = make_noises(1, seed=0), make_noises(1, seed=1)

    assert all(np.array_equal(one.samples, two.samples) for one, two in zip(noises, again, strict=False))
    assert [one.id for one in again] == [noise.id for noise in noises[: len(again)]]
    assert not np.array_equal(again[1].samples[:80_000], other[1].samples[:80_000])


def test_the_loudest_tenth_of_a_second_has_the_level():
    click = np.pad(np.ones(1600), 8000)

    assert -20 == pytest.approx(20 * np.log10(np.abs(at_level(click, -20)).max()), abs=0.01)
    assert not at_level(np.zeros(8000), -20).any()


def test_pink_noise_falls_by_three_decibels_an_octave():
    power = np.square(np.abs(np.fft.rfft(coloured(np.random.default_rng(0), 16 * SAMPLE_RATE, 1))))
    low, high = (power[16 * hz : 32 * hz].mean() for hz in (500, 1000))

    assert 3 == pytest.approx(10 * np.log10(low / high), abs=0.3)


def test_noise_lies_five_decibels_below_the_speech():
    speech = Sound("a", tone(4) / 5, "ko", "가자")

    noise = _in_noise(speech, np.random.default_rng(0)).samples - speech.samples

    assert 5 == pytest.approx(10 * np.log10(np.square(speech.samples).mean() / np.square(noise).mean()), abs=0.01)


def heard(text="you", logprob=-0.7, *, said="", path="open", asked="en", ratio=0.3, in_noise=False):
    return Heard(text, said, in_noise, path, asked, asked, text, logprob, 0.8, ratio)


def test_the_ablation_counts_what_each_set_of_guards_lets_through():
    ghosts = [
        heard(),
        heard("you", -0.6, ratio=0.45),
        heard("Boor!"),
        heard("Whee!", path="ungated", ratio=None),
    ]
    voices = [heard("go left", -0.2, said="go left"), heard("you", -0.7, said="you", in_noise=True)]

    rows = {name: _ablation(name, guards, ghosts, voices) for name, guards in _sets().items()}

    assert {
        "all": 0,
        "without silence": 0,
        "without invention": 0,
        "without detector": 1,
        "without repetition": 0,
        "without ghost": 1,
        "none": 3,
    } == {name: row["open, en"] for name, row in rows.items()}
    assert [1] * len(rows) == [row["ungated, en"] for row in rows.values()]
    assert not any(row["suppressed, clear"] for row in rows.values())
    assert ["you"] == rows["all"]["suppressed, noisy"]
    assert (1.0, 0.0) == (rows["all"]["errors, noisy, en"], rows["none"]["errors, noisy, en"])


def test_each_guard_has_a_line():
    assert ["all", *(f"without {guard}" for guard in OBJECTIONS), "none"] == list(_sets())


@pytest.mark.parametrize("endpointing", ["on", "off"])
@pytest.mark.parametrize(("name", "utterances"), [("mom", 1), ("noise", 0), ("silence", 0)])
def test_the_session_asks_once_for_each_utterance(name, utterances, endpointing):
    listener = Listener("base", None, bench_progress(Console(quiet=True)))

    requests = listener.requests(read_audio(TEST_AUDIO / f"{name}.wav"), endpointing)

    assert utterances == len(requests)
    assert not any(request.quick for request in requests)


@pytest.mark.model
def test_the_bench_writes_what_it_found(tmp_path):
    assert 0 == run_silence_bench(TEST_AUDIO, tmp_path, minutes=0.2, limit=1, ungated=True, console=Console(quiet=True))

    assert {"silence.json", "silence.png", "silence.html"} == {path.name for path in tmp_path.iterdir()}
    result = json.loads((tmp_path / "silence.json").read_text(encoding="utf-8"))
    assert {"ungated": 2, "open": 0, "push-to-talk": 0} == result["utterances"]
    clear = {one["sound"]: one["told"] for one in result["thanks"] if not one["in_noise"]}
    assert {"thank_you": True, "thank_you_for_watching": True, "thanks_for_watching": True} == clear

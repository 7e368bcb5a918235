"""The calibration's own arithmetic, and a small run with the real model."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from local_dev.bench import read_manifest
from local_dev.bench_confidence import (
    CONDITIONS,
    FOLDS,
    NOBODY,
    Around,
    Heard,
    Recordings,
    cross_validated,
    fit,
    folds,
    letter_error_rate,
    listen,
    mixed,
    quality,
    reliability,
    report,
    rms,
    run_confidence_bench,
    speakers,
)
from stt_core.audio import SAMPLE_RATE, read_audio
from stt_core.confidence import confidence
from stt_core.engine import WhisperEngine
from stt_core.errors import SettingsError
from stt_core.transcription import Transcript

TEST_AUDIO = Path(__file__).resolve().parent.parent / "test_audio"
TONE = (0.3 * np.sin(np.arange(SAMPLE_RATE) * 0.2)).astype(np.float32)
QUIET = Console(file=StringIO(), width=200)


def texts_that_are_right_as_often_as_shipped_says(count: int, language: str = "ko", shift: float = 0.0) -> list[Heard]:
    chance = np.random.default_rng(0)
    texts = []
    for number in range(count):
        transcript = Transcript("가" * int(chance.integers(2, 20)), language, -float(chance.uniform(0, 1.2)), 0.1)
        right = chance.random() < confidence(transcript) + shift
        texts.append(
            Heard(f"{number}", f"speaker {number % 40}", language, "as recorded", transcript, 0.0 if right else 1.0)
        )
    return texts


def test_a_letter_in_five_may_be_wrong():
    def right(error_rate):
        return Heard("a", "b", "ko", "as recorded", Transcript("말", "ko"), error_rate).right

    assert (True, True, False) == (right(0.0), right(0.2), right(0.21))


def test_letters_are_counted_in_english_too_and_numbers_are_words():
    assert 0.1 == letter_error_rate("open gates", "open gate", "en") * 9 / 10
    assert 0.0 == letter_error_rate("네 명", "4명", "ko")


def test_noise_has_the_level_that_its_name_says():
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)

    made = mixed(TONE, noise, 10.0)

    added = made - np.pad(TONE, SAMPLE_RATE)
    assert 3 * SAMPLE_RATE == len(made)
    assert 10.0 == pytest.approx(20 * np.log10(rms(TONE) / rms(added)), abs=0.1)


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_is_the_same_sound_every_time(name):
    around = Around([TONE[::-1].copy()], [TONE[: SAMPLE_RATE // 2]])

    one, other = (CONDITIONS[name](TONE, np.random.default_rng(1), around) for _ in range(2))

    assert np.array_equal(one, other)
    assert np.isfinite(one).all()
    assert np.float32 == one.dtype


def test_recordings_of_one_folder_or_with_one_text_have_one_speaker(tmp_path):
    rows = [
        ("a", "hello there", "x/1.wav"),
        ("b", "go left", "x/2.wav"),
        ("c", "Hello there.", "y/1.wav"),
        ("d", "go right", "y/2.wav"),
        ("e", "wait", "z/1.wav"),
    ]
    lines = ["id\tfile\tlanguage\tseconds\tkind\ttext\tsource"]
    lines += [f"{id}\t{id}.wav\ten\t1\thuman\t{text}\t{source}" for id, text, source in rows]
    (tmp_path / "manifest.tsv").write_text("\n".join(lines), encoding="utf-8")

    named = speakers(tmp_path, read_manifest(tmp_path))

    assert 1 == len({named[id] for id in "abcd"})
    assert named["e"] != named["a"]


def test_a_group_is_in_one_fold_and_folds_are_about_equal():
    groups = [f"speaker {number}" for number in range(30) for _ in range(number + 1)]

    fold = folds(groups)

    assert all(1 == len(set(fold[np.array(groups) == group])) for group in set(groups))
    counts = np.bincount(fold, minlength=FOLDS)
    assert counts.max() < 1.3 * counts.min()


def test_the_fit_finds_the_numbers_that_made_the_data():
    chance = np.random.default_rng(0)
    table = np.column_stack([np.ones(20_000), chance.uniform(0, 1, 20_000)])
    right = chance.random(20_000) < 1 / (1 + np.exp(-(2 - 4 * table[:, 1])))

    assert [2, -4] == pytest.approx(fit(table, right, 1), abs=0.15)


def test_a_speaker_that_is_always_wrong_is_not_known_beforehand():
    table = np.column_stack([np.ones(200), np.zeros(200)])
    groups = [f"{number // 10}" for number in range(200)]
    right = np.array([group != "0" for group in groups])

    predicted = cross_validated(table, right, groups, 1)

    assert predicted[0] > 0.95


def test_quality_of_perfect_and_of_useless_confidence():
    right = np.array([True, False] * 50)

    assert {"brier": 0.0, "ece": 0.0, "auc": 1.0} == quality(right.astype(float), right)
    assert 0.5 == quality(np.full(100, 0.5), right)["auc"]


def test_few_speakers_make_a_wide_band_however_many_texts_they_give():
    right = np.array([number % 4 < 2 for number in range(4000)])  # two of four speakers are always understood
    predicted = np.full(4000, 0.5)

    def width(speakers):
        groups = [f"{number % speakers}" for number in range(4000)]
        return np.mean([row["high"] - row["low"] for row in reliability(predicted, right, groups)])

    assert width(4) > 0.9
    assert width(4000) < 0.15


def test_texts_as_the_shipped_numbers_say_pass_and_others_fail(tmp_path):
    fitting = texts_that_are_right_as_often_as_shipped_says(4000)
    optimistic = texts_that_are_right_as_often_as_shipped_says(4000, shift=-0.3)

    assert 0 == report(fitting, {}, tmp_path, {}, 0, QUIET)
    assert 1 == report(optimistic, {}, tmp_path, {}, 0, QUIET)
    assert 0 == report(optimistic[:900], {}, tmp_path, {}, 0, QUIET)  # too little to say so


def test_the_report_holds_no_text(tmp_path):
    texts = texts_that_are_right_as_often_as_shipped_says(500)

    report(texts, {"whole": texts[:20]}, tmp_path, {}, 0, QUIET)

    assert "가가" not in (tmp_path / "confidence.json").read_text(encoding="utf-8")
    result = json.loads((tmp_path / "confidence.json").read_text(encoding="utf-8"))
    assert 500 == len(result["texts"]) == result["languages"]["ko"]["texts"]
    assert [("cut to the language", 500), ("whole", 20)] == [(row["way"], row["texts"]) for row in result["ways"]]
    assert (tmp_path / "confidence.png").is_file()


def test_too_little_to_calibrate_by_is_a_sentence(tmp_path):
    texts = texts_that_are_right_as_often_as_shipped_says(500)

    for few in (texts[:5], [replace(text, speaker="one") for text in texts]):
        with pytest.raises(SettingsError, match="10 right texts, 10 wrong ones and two speakers"):
            report(few, {}, tmp_path, {}, 0, QUIET)


@pytest.fixture(scope="module")
def recordings() -> Recordings:
    return Recordings(TEST_AUDIO, "ko", seed=0, limit=2)


@pytest.mark.model
def test_every_recording_is_heard_in_every_condition(recordings):
    engine = WhisperEngine(languages=("ko",), device="cpu")
    engine.load()
    conditions = ("as recorded", "noise 20 dB")

    with Progress(console=QUIET) as progress:
        texts = [*listen(engine, recordings, progress, conditions)]

    spoken = [(text.condition, text.id) for text in texts if text.condition != NOBODY]
    assert [(condition, clip.id) for condition in conditions for clip in recordings.clips] == spoken
    assert 0.0 == texts[0].error_rate
    assert confidence(texts[0].transcript) > 0.5


@pytest.mark.model
def test_one_recording_is_too_little_to_calibrate_by(tmp_path):
    with pytest.raises(SettingsError, match="10 right texts"):
        run_confidence_bench(TEST_AUDIO, tmp_path, languages=("ko",), limit=1, console=QUIET)


@pytest.mark.model
def test_the_engine_gets_the_speech_alone(recordings):
    clip = recordings.clips[0]

    assert 0 < len(recordings.speech(clip, "as recorded")) <= len(read_audio(clip.path))


@pytest.mark.model
def test_noise_changes_what_is_heard_and_is_the_same_every_time(recordings):
    clip = recordings.clips[0]

    assert not np.array_equal(recordings.speech(clip, "noise 10 dB"), recordings.speech(clip, "noise 20 dB"))
    again = Recordings(TEST_AUDIO, "ko", seed=0, limit=2)
    assert np.array_equal(recordings.speech(clip, "noise 10 dB"), again.speech(clip, "noise 10 dB"))

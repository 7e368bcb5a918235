"""The engine: what it decides by itself, and what the real model makes of what was said."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import silence, tone
from hypothesis import given
from hypothesis import strategies as st

from local_dev.bench import Clip, Ours, Stock, read_manifest
from stt_core.audio import SAMPLE_RATE, read_audio
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import LONGEST_SPEECH_S, WhisperEngine, quietest, repeats_itself, split_at_pauses
from stt_core.scoring import score
from stt_core.transcription import Request
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad

REPOSITORY = Path(__file__).resolve().parent.parent
TEST_AUDIO = REPOSITORY / "test_audio"
SPEECH = Path(os.environ.get("STT_SPEECH_DIR") or REPOSITORY.parent / "shared" / "speech")

# ---- without a model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["감사합니다 감사합니다 감사합니다", "아아아아아아아아아아", "go left, go left, go left", "가나 " * 30],
)
def test_a_text_that_runs_in_a_circle_repeats_itself(text):
    assert repeats_itself(text)


@pytest.mark.parametrize(
    "text", ["", "가자 가자!", "빨리빨리", "하하하하하", "no no no no", "왼쪽으로 가자 마법을 사용해"]
)
def test_a_text_that_people_say_does_not(text):
    assert not repeats_itself(text)


def test_speech_that_fits_into_the_window_is_not_split():
    samples = tone(LONGEST_SPEECH_S)

    [piece] = split_at_pauses(samples)

    assert piece is samples


def test_long_speech_is_split_in_its_pause():
    first, second = split_at_pauses(np.concatenate([tone(20), silence(0.5), tone(20)]))

    assert (20.25, 20.25) == (
        pytest.approx(len(first) / SAMPLE_RATE, abs=0.16),
        pytest.approx(len(second) / SAMPLE_RATE, abs=0.16),
    )


@given(st.lists(st.tuples(st.floats(0.1, 30), st.floats(0, 1)), max_size=5))
def test_the_pieces_are_all_of_it_and_each_fits(parts):
    samples = np.concatenate([silence(0), *(part for on, off in parts for part in (tone(on), silence(off)))])

    pieces = split_at_pauses(samples)

    assert np.array_equal(samples, np.concatenate(pieces))
    assert all(len(piece) <= LONGEST_SPEECH_S * SAMPLE_RATE for piece in pieces)


def test_the_quietest_moment_is_in_the_middle_of_the_pause():
    samples = np.concatenate([tone(1), silence(0.2), tone(1)])

    assert 1.1 == pytest.approx(quietest(samples, 0, len(samples)) / SAMPLE_RATE, abs=0.01)


# ---- with the model ----------------------------------------------------------------------------------------


def clips(language: str) -> list[Clip]:
    return [clip for clip in read_manifest(TEST_AUDIO) if clip.language == language and clip.text]


def request(clip: Clip, language: str = "") -> Request:
    speech = whole_utterance(read_audio(clip.path), SileroVad(), EndpointingOptions()).samples
    return Request(speech, language or clip.language)


@pytest.fixture(scope="module")
def engine():
    engine = WhisperEngine("base", languages=("ko",), device="cpu")
    engine.load()
    return engine


@pytest.mark.model
def test_every_line_is_understood(engine):
    said = clips("ko")
    heard = engine.transcribe([request(clip) for clip in said])

    errors = {clip.id: score(clip.text, t.text, "ko").errors for clip, t in zip(said, heard, strict=True)}
    assert {clip.id: 0 for clip in said} == errors


@pytest.mark.model
def test_a_text_does_not_depend_on_who_else_is_in_the_batch(engine):
    requests = [request(clip) for clip in clips("ko") + clips("en")[:2]]

    alone = [engine.transcribe([one])[0].text for one in requests]

    assert alone == [transcript.text for transcript in engine.transcribe(requests)]
    assert alone[::-1] == [transcript.text for transcript in engine.transcribe(requests[::-1])]


@pytest.mark.model
def test_threads_may_share_the_engine(engine):
    requests = [request(clip) for clip in clips("ko")[:6]]
    expected = [transcript.text for transcript in engine.transcribe(requests)]

    with ThreadPoolExecutor(3) as threads:
        heard = list(threads.map(lambda one: engine.transcribe([one])[0].text, requests))

    assert expected == heard


@pytest.mark.model
@pytest.mark.parametrize("name", ["silence", "noise"])
def test_nothing_was_said(engine, name):
    samples = read_audio(TEST_AUDIO / f"{name}.wav")

    assert 0 == len(whole_utterance(samples, SileroVad(), EndpointingOptions()).samples)
    [transcript] = engine.transcribe([Request(samples, "ko")])  # what the detector lets through by mistake
    assert ("", True) == (transcript.text, transcript.second_look)


@pytest.mark.model
def test_no_audio_is_no_text(engine):
    assert [] == engine.transcribe([])
    assert "" == engine.transcribe([Request(silence(0), "ko")])[0].text


@pytest.mark.model
def test_a_language_that_is_not_served_is_answered_by_the_whole_model(engine):
    said = clips("en")
    heard = engine.transcribe([request(clip) for clip in said])

    assert 0 == sum(score(clip.text, t.text, "en").errors for clip, t in zip(said, heard, strict=True))


@pytest.mark.model
def test_auto_finds_the_language(engine):
    said = [clip for clip in clips("ko") if clip.id == "two_sentences"] + [
        clip for clip in clips("en") if clip.id == "where_is_the_treasure"
    ]
    heard = engine.transcribe([request(clip, "auto") for clip in said])

    assert ["ko", "en"] == [transcript.language for transcript in heard]
    assert [0, 0] == [score(c.text, t.text, c.language).errors for c, t in zip(said, heard, strict=True)]


@pytest.mark.model
def test_a_recording_longer_than_the_window_loses_and_doubles_nothing(engine):
    said = clips("ko") * 2
    recording = np.concatenate([part for clip in said for part in (read_audio(clip.path), silence(0.3))])
    assert len(recording) > LONGEST_SPEECH_S * SAMPLE_RATE

    [transcript] = engine.transcribe([Request(recording, "ko")])

    assert 0.1 > score(" ".join(clip.text for clip in said), transcript.text, "ko").rate


@pytest.mark.model
def test_the_cut_vocabulary_says_what_the_whole_one_says(engine):
    requests = [request(clip) for clip in clips("ko")]
    whole = WhisperEngine("base", languages=(), device="cpu")
    whole.load()

    expected = [transcript.text for transcript in whole.transcribe(requests)]

    assert expected == [transcript.text for transcript in engine.transcribe(requests)]


@pytest.mark.model
def test_without_a_place_for_the_cut_the_whole_model_serves(engine, tmp_path, caplog):
    file = tmp_path / "cache"
    file.write_text("not a folder")
    uncut = WhisperEngine(str(engine.fetch()), languages=("ko",), cache_dir=file, device="cpu")

    with caplog.at_level(logging.WARNING):
        uncut.load()

    assert ["The vocabulary was not cut"] == [record.message[:26] for record in caplog.records]
    [clip] = [clip for clip in clips("ko") if clip.id == "mom"]
    assert "엄마" == uncut.transcribe([request(clip)])[0].text.strip(".")


@pytest.mark.model
@pytest.mark.skipif(not (SPEECH / "manifest.tsv").is_file(), reason="needs real speech: STT_SPEECH_DIR")
def test_korean_people_are_understood_no_worse_than_by_stock_faster_whisper(engine):
    said = [clip for clip in read_manifest(SPEECH) if clip.language == "ko" and clip.kind == "human" and clip.text]
    ours, stock = Ours("base", (), None, 5), Stock(engine.fetch(), 5)

    def rates(clip: Clip) -> tuple[float, float]:
        samples = read_audio(clip.path)
        texts = ours.transcribe(samples, "ko")[0].text, stock.transcribe(samples, "ko")[0]
        return score(clip.text, texts[0], "ko").rate, score(clip.text, texts[1], "ko").rate

    with ThreadPoolExecutor(2) as threads:
        ours_mean, stock_mean = np.mean(list(threads.map(rates, said)), axis=0)

    assert ours_mean <= stock_mean + 0.005


@pytest.mark.model
def test_a_quick_look_says_when_it_doubts_and_the_second_look_is_the_careful_one(engine):
    backwards = read_audio(TEST_AUDIO / "count_to_five.wav")[::-1].copy()
    [careful] = engine.transcribe([Request(backwards, "ko")])
    [quick] = engine.transcribe([Request(backwards, "ko", quick=True)])
    assert quick.doubt is not None

    assert [careful] == engine.transcribe([Request(backwards, "ko", first=quick)])


@pytest.mark.model
def test_a_quick_look_that_is_sure_is_the_careful_one(engine):
    [mom] = [request(clip) for clip in clips("ko") if clip.id == "mom"]

    assert engine.transcribe([mom]) == engine.transcribe([Request(mom.samples, "ko", quick=True)])

"""What a client declares changes nothing in what is heard: every format gives the transcripts of 16 kHz mono."""

import av
import numpy as np
import pytest
from conftest import in_chunks
from servers import TEST_AUDIO

from local_dev.bench import Clip, read_manifest
from stt_core.audio import SAMPLE_RATE, AudioFormat, PcmDecoder, Samples, read_audio, to_s16le
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import WhisperEngine
from stt_core.scoring import Score, score
from stt_core.transcription import Request
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad

FORMATS = [
    AudioFormat(48_000, 2, "f32le"),
    AudioFormat(48_000, 1, "s16le"),
    AudioFormat(44_100, 2, "s16le"),
    AudioFormat(44_100, 1, "f32le"),
]
# Noise in the last bit of 16 kHz mono alone makes 0 to 3 errors in these clips: no format may do worse than that.
ERRORS = 3


def as_sent(samples: Samples, audio_format: AudioFormat) -> bytes:
    """16 kHz mono as a client with this device would have sent it."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=audio_format.sample_rate)
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    parts = [part.to_ndarray().ravel() for part in [*resampler.resample(frame), *resampler.resample(None)]]
    channels = np.repeat(np.clip(np.concatenate(parts), -1, 1)[:, None], audio_format.channels, axis=1)
    return to_s16le(channels.ravel()) if audio_format.encoding == "s16le" else channels.astype("<f4").tobytes()


def received(data: bytes, audio_format: AudioFormat) -> Samples:
    decoder = PcmDecoder(audio_format)
    return np.concatenate([decoder.decode(chunk) for chunk in in_chunks(data, [3333, 20, 7001])] + [decoder.finish()])


def errors(engine: WhisperEngine, clips: list[Clip], audio_format: AudioFormat | None) -> Score:
    vad, total = SileroVad(), Score(0, 0)
    for clip in clips:
        samples = read_audio(clip.path)
        if audio_format is not None:
            samples = received(as_sent(samples, audio_format), audio_format)
        utterance = whole_utterance(samples, vad, EndpointingOptions())
        [transcript] = engine.transcribe([Request(utterance.samples, clip.language)])
        compared = score(clip.text, transcript.text, clip.language)
        total = Score(total.errors + compared.errors, total.length + compared.length)
    return total


@pytest.mark.model
def test_every_format_is_heard_alike() -> None:
    engine = WhisperEngine(languages=("ko",))
    engine.load()
    clips = [clip for clip in read_manifest(TEST_AUDIO) if clip.language == "ko" and clip.text]
    plain = errors(engine, clips, None)

    assert len(clips) >= 10
    for audio_format in FORMATS:
        assert errors(engine, clips, audio_format).errors <= plain.errors + ERRORS, audio_format

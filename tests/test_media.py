"""Files of strangers: every format that is promised, and what must not be believed of a file."""

import struct
from io import BytesIO

import av
import numpy as np
import pytest
from conftest import s16le, silence, tone, wav_header
from servers import TEST_AUDIO

from stt_core.audio import SAMPLE_RATE, Samples, read_audio
from stt_core.errors import AudioError
from stt_core.media import PIECE_S, decode_file

A_MINUTE = 60.0


def decoded(data: bytes, max_duration_s: float = A_MINUTE) -> Samples:
    return np.concatenate(list(decode_file(BytesIO(data), max_duration_s=max_duration_s)))


def encoded(samples: Samples, container: str, codec: str, sample_rate: int, channels: int = 1) -> bytes:
    """A file in any of FFmpeg's formats."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=sample_rate, layout="stereo" if channels == 2 else "mono")
        stream.codec_context.options = {"strict": "experimental"}  # FFmpeg's own Vorbis
        data = np.repeat((samples * 32767).astype(np.int16), channels)[None]
        frame = av.AudioFrame.from_ndarray(data, format="s16", layout=stream.layout)
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(stream.format, stream.layout, sample_rate, frame_size=stream.frame_size or None)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return buffer.getvalue()


FORMATS = [
    ("wav", "pcm_s16le", 44_100, 2),
    ("wav", "pcm_u8", 16_000, 1),
    ("wav", "pcm_s24le", 48_000, 2),
    ("wav", "pcm_f32le", 48_000, 1),
    ("mp3", "libmp3lame", 44_100, 2),
    ("ogg", "vorbis", 44_100, 2),
    ("ogg", "libopus", 48_000, 2),
    ("flac", "flac", 48_000, 2),
    ("ipod", "aac", 44_100, 1),  # m4a
    ("mp4", "aac", 48_000, 2),
    ("webm", "libopus", 48_000, 1),
]


@pytest.mark.parametrize(("container", "codec", "sample_rate", "channels"), FORMATS)
def test_every_format_gives_the_same_sound(container, codec, sample_rate, channels):
    sound = np.concatenate([silence(0.5), tone(2.0), silence(0.5)])

    samples = decoded(encoded(sound, container, codec, sample_rate, channels))

    assert 3.0 == pytest.approx(len(samples) / SAMPLE_RATE, abs=0.1)
    middle = samples[SAMPLE_RATE : 2 * SAMPLE_RATE]
    assert 0.5 / np.sqrt(2) == pytest.approx(np.sqrt(np.square(middle).mean()), rel=0.1)  # no louder for two channels
    assert 440 == pytest.approx(np.argmax(np.abs(np.fft.rfft(middle))), abs=2)


def test_a_wav_file_is_what_the_rest_of_the_product_reads_from_it():
    path = TEST_AUDIO / "two_sentences.wav"

    assert np.array_equal(read_audio(path), decoded(path.read_bytes()))


def test_a_long_file_comes_in_pieces():
    pieces = list(decode_file(BytesIO(wav(tone(25.0))), max_duration_s=A_MINUTE))

    assert 25 * SAMPLE_RATE == sum(map(len, pieces))
    assert max(map(len, pieces)) <= (PIECE_S + 1) * SAMPLE_RATE


def wav(samples: Samples) -> bytes:
    data = s16le(samples)
    return wav_header(len(data)) + data


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://%s\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile '%s'\n"
MOM = bytes(TEST_AUDIO / "mom.wav")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"hello " * 1000,
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        bytes(100_000),
        PLAYLIST % MOM,
        CONCAT % MOM,
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nm=audio 5004 RTP/AVP 0\r\n",  # sdp, which opens a port
    ],
)
def test_what_is_no_audio_and_what_names_other_files_is_refused_in_a_sentence(data):
    with pytest.raises(AudioError, match=r"^The file .* expected wav, mp3, ogg, flac, m4a, mp4 or webm\.$"):
        decoded(data)


def test_a_file_without_a_sample_is_refused():
    with pytest.raises(AudioError, match="no audio"):
        decoded(wav(silence(0)))


def test_a_video_without_sound_is_refused():
    buffer = BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("rawvideo", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "gray"
        file.mux(stream.encode(av.VideoFrame(16, 16, "gray")))
        file.mux(stream.encode(None))

    with pytest.raises(AudioError, match="no audio track"):
        decoded(buffer.getvalue())


@pytest.mark.parametrize(
    ("channels", "sample_rate", "sentence"), [(16, 16_000, "channels must be 1 to 8"), (1, 4_000, "sample_rate must")]
)
def test_a_format_that_no_recording_has_is_refused(channels, sample_rate, sentence):
    frame_bytes = 2 * channels
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, 16)
    body = b"WAVE" + fmt + b"data" + struct.pack("<I", 100 * frame_bytes) + bytes(100 * frame_bytes)

    with pytest.raises(AudioError, match=sentence):
        decoded(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_a_file_that_says_it_is_too_long_is_refused_before_it_is_decoded():
    steps = decode_file(BytesIO(wav(tone(3.0))), max_duration_s=2.0)

    with pytest.raises(AudioError, match="longer than 2 s"):
        next(steps)


def test_a_file_that_lies_about_its_length_is_refused_when_it_gets_too_long():
    data = s16le(tone(30.0))
    liar = wav_header(3200) + data  # a WAV file of 0.1 s that goes on
    ogg = encoded(tone(30.0), "ogg", "libopus", 48_000)
    endless = ogg + ogg  # a chained stream: its length is not known before

    assert len(decoded(liar)) <= SAMPLE_RATE
    with pytest.raises(AudioError, match="longer than"):
        list(decode_file(BytesIO(endless), max_duration_s=40.0))


@pytest.mark.parametrize("container", ["flac", "mp3", "ogg"])
def test_of_a_damaged_file_what_is_whole_is_decoded(container):
    codec = {"flac": "flac", "mp3": "libmp3lame", "ogg": "libopus"}[container]
    data = encoded(tone(10.0), container, codec, 48_000)
    third = len(data) // 3
    damaged = data[:third] + bytes(500) + data[third + 500 : -200]

    samples = decoded(damaged)

    assert 3.0 < len(samples) / SAMPLE_RATE < 11.0
    assert np.isfinite(samples).all()


def test_numbers_that_are_none_become_silence():
    floats = tone(1.0)
    floats[100:200] = np.nan
    floats[300:400] = np.inf
    data = floats.astype("<f4").tobytes()
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 16_000, 64_000, 4, 32)
    body = b"WAVE" + fmt + b"data" + struct.pack("<I", len(data)) + data

    samples = decoded(b"RIFF" + struct.pack("<I", len(body)) + body)

    assert np.isfinite(samples).all()
    assert (0, 1) == (samples[150], samples[350])

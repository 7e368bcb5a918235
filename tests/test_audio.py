"""Bytes become samples: any chunking, any declared format, any header."""

import struct
import wave
from itertools import product

import numpy as np
import pytest
import soundfile
from conftest import in_chunks, s16le, silence, tone, wav_header
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stt_core.audio import AudioFormat, PcmDecoder, Samples, is_wav, read_audio, wav_header_bytes
from stt_core.errors import AudioError

FORMATS = [AudioFormat(16_000, channels, encoding) for channels, encoding in product((1, 2), ("s16le", "f32le"))]
LIST_CHUNK = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0"  # of odd length, so padded


def decoded(audio_format: AudioFormat, chunks: list[bytes]) -> Samples:
    decoder = PcmDecoder(audio_format)
    return np.concatenate([*(decoder.decode(chunk) for chunk in chunks), decoder.finish()])


# ---- chunking ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio_format", FORMATS, ids=lambda f: f"{f.encoding}-{f.channels}ch")
@given(
    pcm=st.binary(max_size=300),
    header=st.sampled_from([b"", wav_header(300), wav_header(300, extra_chunks=LIST_CHUNK)]),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=8),
)
def test_chunking_does_not_matter(audio_format, pcm, header, sizes):
    assume(not pcm.startswith(b"R"))  # samples that begin like a header wait for the rest of it
    expected = decoded(audio_format, [pcm])

    assert np.array_equal(expected, decoded(audio_format, [header + pcm]))
    assert np.array_equal(expected, decoded(audio_format, list(in_chunks(header + pcm, sizes))))
    assert np.array_equal(expected, decoded(audio_format, list(in_chunks(header + pcm, [1]))))


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 48_000])
@given(
    pcm=st.binary(min_size=400, max_size=4000),
    sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=5),
)
@settings(max_examples=15)
def test_chunking_does_not_matter_to_the_resampler(sample_rate, pcm, sizes):
    audio_format = AudioFormat(sample_rate)

    assert np.array_equal(decoded(audio_format, [pcm]), decoded(audio_format, list(in_chunks(pcm, sizes))))


def test_single_bytes_resample_like_the_whole():
    pcm = s16le(tone(0.02, sample_rate=48_000))

    assert np.array_equal(decoded(AudioFormat(48_000), [pcm]), decoded(AudioFormat(48_000), list(in_chunks(pcm, [1]))))


def test_an_odd_byte_waits_for_its_other_half():
    decoder = PcmDecoder(AudioFormat())

    assert [0.25] == decoder.decode(b"\x00\x20\x00").tolist()
    assert [0.5] == decoder.decode(b"\x40").tolist()


def test_an_empty_chunk_changes_nothing():
    decoder = PcmDecoder(AudioFormat())

    assert [] == decoder.decode(b"").tolist()
    assert [0.25] == decoder.decode(wav_header(2) + b"\x00\x20").tolist()


# ---- formats -----------------------------------------------------------------------------------------------


def test_s16le_spans_minus_one_to_one():
    assert [-1.0, 0.0, 32767 / 32768] == decoded(AudioFormat(), [b"\x00\x80\x00\x00\xff\x7f"]).tolist()


def test_float_samples_are_finite_and_within_full_scale():
    wild = np.array([np.nan, np.inf, -np.inf, 2.0, -3.0, 0.25], "<f4").tobytes()

    assert [0, 1, -1, 1, -1, 0.25] == decoded(AudioFormat(encoding="f32le"), [wild]).tolist()


@given(st.binary(max_size=400))
def test_any_float_bytes_give_finite_samples_within_full_scale(pcm):
    samples = decoded(AudioFormat(encoding="f32le"), [pcm])

    assert np.isfinite(samples).all()
    assert (abs(samples) <= 1).all()


def test_any_float_bytes_resample_to_finite_samples():
    wild = np.tile(np.array([np.nan, np.inf, -np.inf, 1e38, 0.1], "<f4"), 500).tobytes()
    samples = decoded(AudioFormat(48_000, encoding="f32le"), [wild])

    assert np.isfinite(samples).all()
    assert (abs(samples) <= 1).all()


def test_full_scale_does_not_resample_beyond_itself():
    square = np.repeat(np.array([32767, -32768] * 200, "<i2"), 60).tobytes()

    assert 1.0 == abs(decoded(AudioFormat(48_000), [square])).max()  # the filter overshoots by a sixth


@pytest.mark.parametrize("channels", [2, 6, 8])
def test_identical_channels_give_the_mono_samples(channels):
    mono = np.frombuffer(s16le(tone(0.1)), "<i2")
    interleaved = np.repeat(mono, channels).tobytes()

    assert np.array_equal(
        decoded(AudioFormat(), [mono.tobytes()]), decoded(AudioFormat(channels=channels), [interleaved])
    )


def test_channels_are_averaged():
    left_right = np.array([0.5, 0.25, -0.5, 0.5], "<f4").tobytes()

    assert [0.375, 0.0] == decoded(AudioFormat(channels=2, encoding="f32le"), [left_right]).tolist()


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000])
def test_a_resampled_sine_keeps_its_length_frequency_and_level(sample_rate):
    pcm = s16le(tone(1.0, 1000.0, sample_rate))
    samples = decoded(AudioFormat(sample_rate), [pcm])
    spectrum_hz = np.abs(np.fft.rfft(samples[:16_000], 16_000))  # one bin for each Hz

    assert abs(len(samples) - 16_000) <= 16  # 1 ms
    assert spectrum_hz.argmax() == 1000
    assert samples[4000:12_000].max() == pytest.approx(0.5, abs=0.01)


def test_what_16_khz_cannot_hold_is_filtered_and_not_folded_down():
    pcm = s16le(tone(0.5, 15_000.0, 48_000))

    assert abs(decoded(AudioFormat(48_000), [pcm])[1000:-1000]).max() < 0.01


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"sample_rate": 7_999}, "sample_rate must be 8000 to 192000 Hz, not 7999"),
        ({"sample_rate": 192_001}, "sample_rate must be 8000 to 192000 Hz, not 192001"),
        ({"channels": 0}, "channels must be 1 to 8, not 0"),
        ({"channels": 9}, "channels must be 1 to 8, not 9"),
        ({"encoding": "mp3"}, "encoding must be s16le or f32le, not 'mp3'"),
    ],
)
def test_a_bad_declaration_is_refused_in_a_sentence(declared, sentence):
    with pytest.raises(AudioError) as refusal:
        AudioFormat(**declared)
    assert sentence == str(refusal.value)


def test_a_hostile_declaration_makes_no_long_sentence():
    with pytest.raises(AudioError) as refusal:
        AudioFormat(encoding="x" * 100_000)
    assert len(str(refusal.value)) < 100


@pytest.mark.parametrize(
    ("audio_format", "byte_count"),
    [(AudioFormat(), 32_000), (AudioFormat(48_000, 2), 192_000), (AudioFormat(44_100, 1, "f32le"), 176_400)],
)
def test_duration_follows_the_declared_format(audio_format, byte_count):
    assert 1.0 == audio_format.duration_s(byte_count)


# ---- WAV headers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "data"),
    [
        (44, wav_header(2) + b"ab"),
        (44, wav_header(0)),
        (58, wav_header(2, extra_chunks=LIST_CHUNK) + b"ab"),
        (0, b"no header at all"),
        (0, b"RIFF\x04\0\0\0AVI LIST"),
        (0, b"RIFX\x04\0\0\0WAVE"),
        (0, wav_header(2, extra_chunks=b"LIST" + struct.pack("<I", 1 << 31))),  # a lie, or no speech
    ],
)
def test_a_header_ends_where_the_samples_begin(length, data):
    assert length == wav_header_bytes(data)
    assert length == wav_header_bytes(bytearray(data))
    assert length == wav_header_bytes(memoryview(data))


@pytest.mark.parametrize("header", [wav_header(2), wav_header(2, extra_chunks=LIST_CHUNK)])
def test_a_truncated_header_asks_for_more(header):
    assert {None} == {wav_header_bytes(header[:length]) for length in range(len(header))}


def test_a_truncated_header_gives_no_samples_until_it_is_whole():
    decoder = PcmDecoder(AudioFormat())
    header = wav_header(2)

    assert [] == decoder.decode(header[:43]).tolist()
    assert [0.25] == decoder.decode(header[43:] + b"\x00\x20").tolist()


def test_only_a_leading_header_is_stripped():
    pcm = b"\x00\x20" + wav_header(2)

    assert len(pcm) // 2 == len(decoded(AudioFormat(), [pcm]))
    assert len(pcm) // 2 == len(decoded(AudioFormat(), [pcm[:2], pcm[2:]]))


def test_is_wav_needs_the_first_twelve_bytes():
    assert is_wav(wav_header(0))
    assert not is_wav(wav_header(0)[:11])
    assert not is_wav(b"")


# ---- align -------------------------------------------------------------------------------------------------


def test_align_drops_a_stray_byte_before_a_message_that_fills_its_samples():
    decoder = PcmDecoder(AudioFormat())
    decoder.decode(b"\x00\x20\x7f")
    decoder.align(b"\x00\x40")

    assert [0.5] == decoder.decode(b"\x00\x40").tolist()


def test_align_keeps_a_byte_that_the_message_completes():
    pcm = s16le(tone(0.2))
    decoder = PcmDecoder(AudioFormat())
    before = decoder.decode(pcm[:3201])
    decoder.align(pcm[3201:])

    assert np.array_equal(decoded(AudioFormat(), [pcm]), np.concatenate([before, decoder.decode(pcm[3201:])]))


def test_align_drops_a_stray_byte_although_the_next_message_is_odd_too():
    pcm = s16le(tone(0.1))
    decoder = PcmDecoder(AudioFormat())
    decoder.decode(pcm + b"\x7f")
    decoder.align(pcm + b"\x7f")

    assert np.array_equal(decoded(AudioFormat(), [pcm]), decoder.decode(pcm + b"\x7f"))


def test_align_forgets_a_header_that_never_ended():
    decoder = PcmDecoder(AudioFormat())
    assert 0 == len(decoder.decode(wav_header(0)[:30]))
    decoder.align(b"\x00\x40")

    assert [0.5] == decoder.decode(b"\x00\x40").tolist()


def test_align_starts_anew_at_a_wav_file():
    decoder = PcmDecoder(AudioFormat())
    decoder.decode(b"\x00\x20\x7f")
    file = wav_header(2) + b"\x00\x40\x7f"  # odd, so that the stray byte would complete it
    decoder.align(file)

    assert [0.5] == decoder.decode(file).tolist()


# ---- files -------------------------------------------------------------------------------------------------


def test_a_16_khz_wav_file_reads_bit_for_bit(tmp_path):
    pcm = s16le(tone(0.1), silence(0.1))
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", None))
        file.writeframes(pcm)

    assert np.array_equal(decoded(AudioFormat(), [pcm]), read_audio(tmp_path / "a.wav"))


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_a_stereo_file_of_any_kind_becomes_16_khz_mono(tmp_path, extension):
    path = tmp_path / f"한국어 이름.{extension}"
    soundfile.write(path, np.stack([tone(1.0, 1000.0, 48_000)] * 2, axis=1), 48_000)
    samples = read_audio(str(path))

    assert len(samples) == pytest.approx(16_000, abs=1000)  # MP3 pads
    assert np.abs(np.fft.rfft(samples[:16_000], 16_000)).argmax() == pytest.approx(1000, abs=1)


def test_samples_that_spell_a_header_are_still_samples(tmp_path):
    spelled = np.frombuffer(wav_header(0), "<f4")
    soundfile.write(tmp_path / "a.wav", spelled, 16_000, subtype="FLOAT")

    assert len(spelled) == len(read_audio(tmp_path / "a.wav"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.wav", "There is no audio file at"),
        ("", "There is no audio file at"),  # the folder itself
        ("text.wav", "is not audio that can be read (WAV, FLAC, OGG or MP3): "),
        ("empty.wav", "is not audio that can be read (WAV, FLAC, OGG or MP3): "),
        ("slow.wav", "sample_rate must be 8000 to 192000 Hz, not 4000"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path, name, sentence):
    (tmp_path / "text.wav").write_text("이것은 소리가 아니다")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "slow.wav", silence(0.1), 4000)

    with pytest.raises(AudioError) as refusal:
        read_audio(tmp_path / name)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)

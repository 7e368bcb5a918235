"""The offline doctor: a file in, findings and a picture out."""

import io
import wave

import numpy as np
import pytest
from rich.console import Console
from servers import TEST_AUDIO, letters

from local_dev.bench_doctor import cases, confusion, run_doctor_bench
from local_dev.doctor import run_doctor
from stt_core.audio import read_audio, to_s16le
from stt_core.errors import AudioError, SettingsError

WAV = TEST_AUDIO / "go_left.wav"


def told(file, **options) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=400)
    code = run_doctor(file, console=console, **options)
    return code, console.file.getvalue()


def test_a_healthy_file_exits_with_0():
    code, text = told(WAV, picture=False)

    assert (0, True) == (code, "Nothing is wrong with it." in text)


def test_a_header_is_believed_unless_something_else_is_declared(tmp_path):
    stereo = tmp_path / "stereo.wav"
    with wave.open(str(stereo), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16_000)
        mono = to_s16le(read_audio(WAV))
        file.writeframes(b"".join(2 * mono[i : i + 2] for i in range(0, len(mono), 2)))

    assert 0 == told(stereo, picture=False)[0]
    code, text = told(stereo, picture=False, channels=1)
    assert (3, True) == (code, "stereo_as_mono" in text)


def test_raw_pcm_is_what_is_declared(tmp_path):
    raw = tmp_path / "sent.pcm"
    raw.write_bytes(read_audio(WAV).astype("<f4").tobytes())

    assert "float32_as_int16" in told(raw, picture=False)[1]
    assert 0 == told(raw, picture=False, encoding="f32le")[0]


def test_what_is_certain_is_repaired_when_asked(tmp_path):
    data = to_s16le(read_audio(WAV))
    raw = tmp_path / "sent.pcm"
    raw.write_bytes(b"\x01" + data)

    assert "misaligned" in told(raw, picture=False, repair_to=tmp_path / "fixed.pcm")[1]
    assert data == (tmp_path / "fixed.pcm").read_bytes()


def test_what_the_model_hears_is_printed_without_and_with_the_repair(tmp_path):
    data = to_s16le(read_audio(WAV))
    (tmp_path / "sent.pcm").write_bytes(b"\x01" + data)
    asked = []

    def listen(samples):
        asked.append(to_s16le(samples))
        return ["", "왼쪽으로 가자"][len(asked) - 1]

    text = told(tmp_path / "sent.pcm", picture=False, transcript=True, listen=listen)[1]

    assert [(b"\x01" + data)[:-1], data] == asked
    assert text.endswith("The model hears: (nothing)\nWith the repair: 왼쪽으로 가자\n")


def test_healthy_audio_is_heard_once():
    text = told(WAV, picture=False, transcript=True, listen=lambda samples: "왼쪽으로 가자", korean=True)[1]

    assert text.endswith("모델이 듣는 말: 왼쪽으로 가자\n")


@pytest.mark.model
@pytest.mark.parametrize("broken", ["misaligned", "byte_swapped"])
def test_the_model_understands_what_was_repaired(tmp_path, broken):
    data = to_s16le(read_audio(WAV))
    sent = b"\x01" + data if broken == "misaligned" else np.frombuffer(data, "<i2").astype(">i2").tobytes()
    (tmp_path / "sent.pcm").write_bytes(sent)
    text = told(tmp_path / "sent.pcm", picture=False, transcript=True)[1]
    before, after = text.splitlines()[-2:]

    assert "왼쪽으로가자" == letters(after.removeprefix("With the repair: "))
    assert "왼쪽으로가자" not in letters(before)


def test_the_texts_come_in_korean(tmp_path):
    raw = tmp_path / "sent.raw"
    raw.write_bytes(bytes(64_000))

    assert "소리가 전혀 없습니다" in told(raw, picture=False, korean=True)[1]


@pytest.mark.parametrize("name", ["clipped x8", "a byte lost", "5 % of 32 ms packets zeroed", "zeros", "odd length"])
def test_a_picture_is_saved(name, tmp_path):
    [case] = [case for case in cases() if case.name == name]
    raw = tmp_path / "sent.pcm"
    raw.write_bytes(case.make(read_audio(WAV).astype(np.float64), np.random.default_rng(0)).data)
    told(raw, out=tmp_path / "picture.png")

    assert b"\x89PNG" == (tmp_path / "picture.png").read_bytes()[:4]


def test_a_file_of_a_few_bytes_has_a_picture_too(tmp_path):
    raw = tmp_path / "sent.pcm"
    raw.write_bytes(b"abc")
    code, _ = told(raw)

    assert 3 == code
    assert (tmp_path / "sent.pcm.doctor.png").is_file()


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(AudioError, match="There is no file at"):
        run_doctor(tmp_path / "none.wav")


def test_the_benchmark_measures_and_writes(tmp_path):
    code = run_doctor_bench(TEST_AUDIO, tmp_path, limit=1, console=Console(file=io.StringIO()))

    assert 0 == code
    assert {"doctor.json", "doctor.md", "doctor.png", "doctor.html"} == {path.name for path in tmp_path.iterdir()}
    assert "| `clean` (9) |" in (tmp_path / "doctor.md").read_text()


def test_the_benchmark_wants_clips(tmp_path):
    (tmp_path / "manifest.tsv").write_text("id\tfile\tlanguage\tkind\ttext\n")

    with pytest.raises(SettingsError, match="no clip whose text is known"):
        run_doctor_bench(tmp_path, tmp_path)


def test_nothing_found_has_a_column():
    assert "nothing" in confusion([*cases()][:1], {next(iter(cases())).name: []})

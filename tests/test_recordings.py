"""Debug recordings: what came, what was heard and what was made of it; the server's own names, private, few, and never
a reason to stop."""

import json
import logging
import os
import re
import stat
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import in_chunks, s16le, silence, tone
from hypothesis import example, given
from hypothesis import strategies as st
from servers import TEST_AUDIO
from test_app import client_of, connect, wait_until

from stt_core import recordings
from stt_core.audio import AudioFormat, Samples, read_audio, to_s16le
from stt_core.endpointing import EndpointingOptions
from stt_core.errors import AudioError
from stt_core.fakes import EnergyVad, FakeEngine
from stt_core.limits import Limits
from stt_core.recordings import About, Recorder, Recording, Sidecar, read_recording, wav_header
from stt_core.session import Action, Asked, PlainSession, Transcribe
from stt_core.tape import Tape
from stt_core.transcription import Decoding, Request, Transcript
from stt_core.utterances import Utterance

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="file modes and links of POSIX")
ABOUT = About("session", "0.0", "fake", {"language": "ko"}, {"threshold": 0.5})
FLOATS_48K_STEREO = AudioFormat(48_000, 2, "f32le")


def recording_of(
    heard: Samples,
    *messages: bytes | str,
    audio_format: AudioFormat | None = None,
    text: str = "엄마",
) -> Recording:
    utterance = Utterance("flush", 0, heard, len(heard))
    sent: list[tuple[float, bytes | str]] = [(0.02 * number, message) for number, message in enumerate(messages)]
    return Recording(
        ABOUT,
        audio_format or AudioFormat(),
        sent or [(0.0, to_s16le(heard))],
        True,
        utterance,
        Asked(0, utterance, Decoding("ko")),
        transcript=Transcript(text, "ko"),
    )


BEEP = recording_of(tone(0.1))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.name[6:10]) for path in folder.glob("debug_????.wav") if path.name[6:10].isdigit())


# -- files


def test_an_utterance_is_three_files(tmp_path: Path) -> None:
    assert tmp_path / "debug_0001.wav" == Recorder(tmp_path).write(BEEP)
    assert ["debug_0001.heard.wav", "debug_0001.json", "debug_0001.wav"] == names(tmp_path)


def test_recordings_are_numbered_from_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    assert tmp_path / "debug_0001.wav" == recorder.write(BEEP)
    assert tmp_path / "debug_0002.wav" == recorder.write(BEEP)


def test_numbering_goes_on_where_the_last_server_stopped(tmp_path: Path) -> None:
    (tmp_path / "debug_0041.wav").touch()
    assert tmp_path / "debug_0042.wav" == Recorder(tmp_path).write(BEEP)


def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    first, second = Recorder(tmp_path), Recorder(tmp_path)
    for recorder in (first, second, first, second):
        recorder.write(BEEP)
    assert [1, 2, 3, 4] == numbers(tmp_path)


def test_numbers_grow_past_four_digits(tmp_path: Path) -> None:
    (tmp_path / "debug_9999.wav").touch()
    recorder = Recorder(tmp_path, Limits(max_recordings=2))
    recorder.write(BEEP)
    recorder.write(BEEP)
    assert ["debug_10000.wav", "debug_10001.wav"] == sorted(path.name for path in tmp_path.glob("debug_?????.wav"))


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert Recorder(tmp_path / "new" / "folder").write(BEEP)
    assert [1] == numbers(tmp_path / "new" / "folder")


def test_the_bytes_are_playable_as_they_came(tmp_path: Path) -> None:
    left, right = tone(0.1, sample_rate=48_000), tone(0.1, 220, sample_rate=48_000)
    sent = np.stack([left, right], axis=1)
    path = Recorder(tmp_path).write(
        recording_of(tone(0.1), *in_chunks(sent.tobytes(), [1000]), audio_format=FLOATS_48K_STEREO)
    )
    samples, rate = soundfile.read(path, dtype="float32")
    assert 48_000 == rate
    assert np.array_equal(sent, samples)


def test_what_the_model_heard_is_a_wav_of_16_khz(tmp_path: Path) -> None:
    heard = np.float32([0, 1, -1, 32767, -32768, 12345]) / np.float32(32768)
    Recorder(tmp_path).write(recording_of(heard, bytes(100), audio_format=FLOATS_48K_STEREO))
    with wave.open(str(tmp_path / "debug_0001.heard.wav")) as recording:
        assert (1, 2, 16_000) == recording.getparams()[:3]
        assert [0, 1, -1, 32767, -32768, 12345] == np.frombuffer(recording.readframes(100), "<i2").tolist()


def test_where_nothing_was_heard_there_is_only_what_came(tmp_path: Path) -> None:
    Recorder(tmp_path).write(recording_of(silence(0), bytes(3200), text=""))
    assert ["debug_0001.json", "debug_0001.wav"] == names(tmp_path)


@given(
    size=st.integers(0, 1000),
    audio_format=st.builds(
        AudioFormat, st.integers(8_000, 192_000), st.integers(1, 8), st.sampled_from(["s16le", "f32le"])
    ),
)
def test_any_bytes_come_back_from_a_wav(size: int, audio_format: AudioFormat) -> None:
    header = wav_header(audio_format, size)
    assert len(header) == recordings.wav_header_bytes(header)
    assert size == int.from_bytes(header[-4:], "little")
    assert len(header) + size + size % 2 == 8 + int.from_bytes(header[4:8], "little")


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_a_recording_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    sent = [*in_chunks(bytes(range(256)) * 20, sizes), "flush"]
    path = Recorder(tmp_path_factory.mktemp("r")).write(recording_of(tone(0.1), *sent))
    assert path is not None
    for one_of_three in (path, path.with_suffix(".json"), path.with_suffix(".heard.wav")):
        sidecar, messages = read_recording(one_of_three)
        assert ("엄마", sent) == (sidecar.text, [payload for _, payload in messages])
        assert [0.02 * number for number in range(len(sent))] == pytest.approx([at_s for at_s, _ in messages])


def test_the_sidecar_tells_what_is_needed(tmp_path: Path) -> None:
    floats = read_audio(TEST_AUDIO / "answer_tree_frog.wav").astype("<f4").tobytes()  # sent as if they were 16-bit
    Recorder(tmp_path).write(recording_of(tone(0.5), *in_chunks(floats, [3200]), "flush"))
    told = json.loads((tmp_path / "debug_0001.json").read_text(encoding="utf-8"))

    assert ("엄마", {"threshold": 0.5}, {"language": "ko"}) == (told["text"], told["settings"], told["query"])
    assert ("fake", "0.0", "session") == tuple(told["server"][name] for name in ("model", "version", "session_id"))
    assert {"sample_rate": 16_000, "channels": 1, "encoding": "s16le", "size_bytes": len(floats), "complete": True} == (
        told["audio"]
    )
    assert ("flush", 500) == (told["utterance"]["reason"], told["utterance"]["heard_ms"])
    assert "float32_as_int16" == told["findings"][0]["code"]
    assert [[0.0, 3200], [20.0, 3200]] == told["messages"][:2]


@posix_only
def test_only_the_owner_may_read(tmp_path: Path) -> None:
    path = Recorder(tmp_path / "new").write(BEEP)
    assert path is not None
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)


# -- what is kept


def test_only_the_newest_are_kept_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "debug_mine.wav").touch()
    (tmp_path / "notes.txt").touch()
    recorder = Recorder(tmp_path, Limits(max_recordings=3))
    for _ in range(5):
        recorder.write(BEEP)
    assert {"debug_mine.wav", "notes.txt"} < set(names(tmp_path))
    assert [3, 4, 5] == sorted(int(path.name[6:10]) for path in tmp_path.glob("debug_*.json"))
    assert 3 * 3 + 2 == len(names(tmp_path))


def test_the_oldest_go_where_all_together_are_too_large(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Limits(max_recordings_bytes=1 << 20))
    for _ in range(4):
        recorder.write(recording_of(tone(0.1), bytes(400_000)))
    assert [3, 4] == numbers(tmp_path)


def test_what_is_too_old_goes_at_the_start(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Limits(max_recordings_age_s=3600))
    for _ in range(3):
        recorder.write(BEEP)
    for path in tmp_path.glob("debug_000[12].*"):
        os.utime(path, (time.time() - 3601,) * 2)
    recorder.start()
    recorder.close()
    assert [3] == numbers(tmp_path)


# -- crashes, and disks that refuse


def test_what_a_dead_server_left_half_written_goes(tmp_path: Path) -> None:
    for name, age_s in {".debug_0001.json.part": 61, ".debug_0007.wav.part": 61, ".debug_0009.json.part": 0}.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    assert tmp_path / "debug_0002.wav" == Recorder(tmp_path).write(BEEP)
    assert [".debug_0009.json.part"] == [path.name for path in tmp_path.glob(".*")]


def test_a_json_means_that_its_wavs_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    replace = Path.replace

    def look(path: Path, target: Path) -> Path:
        seen.append(sorted(file.name for file in tmp_path.glob("debug_*")))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", look)
    Recorder(tmp_path).write(BEEP)
    assert [[], ["debug_0001.wav"], ["debug_0001.heard.wav", "debug_0001.wav"]] == seen


@pytest.mark.parametrize("refused", ["wav", "heard.wav", "json"])
def test_a_disk_that_fills_leaves_nothing_behind_and_the_next_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, replace = Recorder(tmp_path), Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.name == f".debug_0001.{refused}.part":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    assert recorder.write(BEEP) is None
    assert [] == names(tmp_path)
    assert recorder.write(BEEP)
    assert "No space left on device" in caplog.text


def test_a_folder_that_refuses_is_one_warning_and_no_exception(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file" / "folder")
    with caplog.at_level(logging.WARNING):
        assert recorder.write(BEEP) is None
        assert recorder.write(BEEP) is None
    [record] = caplog.records
    assert str(tmp_path / "file" / "folder") in record.getMessage()


def test_a_disk_that_is_too_slow_costs_recordings_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recordings, "QUEUE_BYTES", BEEP.cost_bytes)
    may_write, recorder = threading.Event(), Recorder(tmp_path)
    monkeypatch.setattr(recorder, "write", lambda recording: may_write.wait(10))
    recorder.start()
    for _ in range(5):
        recorder.submit(BEEP)
    may_write.set()
    recorder.close()
    assert [f"Debug recordings are left out: the disk of {tmp_path} is too slow."] == caplog.messages
    assert 0 == recorder._queued_bytes


def test_a_recorder_that_does_not_run_takes_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.submit(BEEP)
    recorder.start()
    recorder.close()
    recorder.submit(BEEP)
    assert [] == names(tmp_path)


@posix_only
def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "debug_0002.wav").symlink_to(victim)
    recorder = Recorder(folder)
    (folder / "debug_0001.wav").symlink_to(tmp_path / "dangling")
    (folder / ".debug_0003.json.part").symlink_to(victim)
    (folder / ".debug_0004.wav.part").symlink_to(victim)
    assert folder / "debug_0004.wav" == recorder.write(BEEP)
    assert "precious" == victim.read_text()
    assert not (tmp_path / "dangling").exists()


# -- reading


def with_messages(messages: str) -> Callable[[Path], int]:
    """Damage that claims other messages."""

    def damage(folder: Path) -> int:
        path = folder / "debug_0001.json"
        text = re.sub(r'"messages": .*', f'"messages": {messages}', path.read_text(encoding="utf-8"))
        return path.write_text(text, encoding="utf-8")

    return damage


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "debug_0001.json").unlink(), r"There is no .*debug_0001\.json: a replay takes"),
        (lambda folder: (folder / "debug_0001.wav").unlink(), r"There is no .*debug_0001\.wav: a replay takes"),
        (lambda folder: (folder / "debug_0001.json").write_text("{}"), r"is not the JSON of a debug recording: text"),
        (lambda folder: (folder / "debug_0001.json").write_text("no"), r"is not the JSON of a debug recording"),
        (lambda folder: (folder / "debug_0001.wav").write_bytes(b"short"), r"is not what debug_0001\.json tells of"),
        (with_messages("[[0, -2], [0, 2]]"), r"messages.*greater than or equal to 0"),
        (with_messages("[[NaN, 2]]"), r"is not the JSON of a debug recording: messages.0.0 Input should be"),
    ],
)
def test_what_is_no_recording_is_one_sentence(tmp_path: Path, damage, sentence: str) -> None:
    Recorder(tmp_path).write(BEEP)
    damage(tmp_path)
    with pytest.raises(AudioError, match=sentence):
        read_recording(tmp_path / "debug_0001.json")


# -- what belongs to an utterance


class Rig:
    """A session with a tape, whose engine answers at once."""

    def __init__(
        self,
        folder: Path,
        audio_format: AudioFormat | None = None,
        endpointing: str = "on",
        limits: Limits | None = None,
    ) -> None:
        self.recorder = Recorder(folder, limits)
        self.tape = Tape(ABOUT, self.recorder, (limits or Limits()).max_recording_bytes)
        self.session = PlainSession(
            audio_format or AudioFormat(),
            EnergyVad(),
            EndpointingOptions(),
            endpointing=endpointing,  # type: ignore[arg-type]
            decoding=Decoding("ko"),
        )
        self.session.witness = self.tape
        self.now_s = 0.0

    def send(self, *messages: bytes | str) -> "Rig":
        for message in messages:
            speaking = self.session.holds_speech
            self.tape.add(message, self.now_s, self.session.audio_format, speaking=speaking)
            receive = self.session.receive_text if isinstance(message, str) else self.session.receive_bytes
            self._carry_out(receive(message))  # type: ignore[operator]
            self.now_s += self.session.audio_format.duration_s(len(message)) if isinstance(message, bytes) else 0
        return self

    def fall_silent(self) -> list[Recording]:
        self._carry_out(self.session.idle())
        return self.tape.finished()

    def _carry_out(self, actions: Iterable[Action]) -> None:
        waiting = list(actions)
        while waiting:
            action = waiting.pop(0)
            if isinstance(action, Transcribe):
                heard = action.request.samples
                answer = Transcript(f"{np.percentile(np.abs(heard), 95):.3f}", "ko")  # how loud it is
                waiting += self.session.receive_transcript(action.number, answer)


def said(recording: Recording) -> str:
    return recording.transcript.text


@given(
    words=st.lists(st.tuples(st.integers(1, 9), st.floats(0.3, 2.0)), min_size=1, max_size=4),
    gap_s=st.floats(0.9, 3.0),
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=5),
    audio_format=st.sampled_from([AudioFormat(), FLOATS_48K_STEREO, AudioFormat(44_100)]),
)
@example(words=[(1, 1.0)] * 3, gap_s=0.9, sizes=[6641], audio_format=AudioFormat())  # a message of two utterances
def test_each_utterance_has_its_own_bytes_and_says_the_same_when_they_are_sent_again(
    tmp_path_factory: pytest.TempPathFactory,
    words: list[tuple[int, float]],
    gap_s: float,
    sizes: list[int],
    audio_format: AudioFormat,
) -> None:
    sizes = [size + 200 for size in sizes]
    folder, rate = tmp_path_factory.mktemp("r"), audio_format.sample_rate
    parts = [silence(1.5, rate)]
    for loudness, duration_s in words:
        parts += [loudness / 5 * tone(duration_s, sample_rate=rate), silence(gap_s, rate)]
    samples = np.concatenate(parts)
    if audio_format.encoding == "f32le":
        data = np.repeat(samples, audio_format.channels).astype("<f4").tobytes()
    else:
        data = to_s16le(samples)
    rig = Rig(folder, audio_format).send(*in_chunks(data, sizes))
    recorded = rig.fall_silent()

    assert [loudness / 10 for loudness, _ in words] == pytest.approx([float(said(it)) for it in recorded], abs=0.03)
    for recording in recorded:
        assert recording.complete
        assert recording.raw in data
        [again] = Rig(folder, audio_format).send(*(payload for _, payload in recording.messages)).fall_silent()
        assert float(said(recording)) == pytest.approx(float(said(again)), abs=0.03)
        assert recording.utterance.duration_s == pytest.approx(again.utterance.duration_s, abs=0.1)


def test_push_to_talk_is_recorded_from_the_last_flush_to_this_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path, endpointing="off")
    first, second = s16le(tone(0.5)), s16le(silence(1.0), tone(0.5), silence(0.3))
    rig.send(*in_chunks(first, [3200]), "flush", *in_chunks(second, [3200]), "flush")
    one, two = rig.tape.finished()

    assert (first, second) == (one.raw, two.raw)
    assert "flush" == one.messages[-1][1] == two.messages[-1][1]


def test_a_flush_that_heard_nothing_is_recorded_too(tmp_path: Path) -> None:
    [recording] = Rig(tmp_path, endpointing="off").send(bytes(3200), "flush").tape.finished()
    assert (bytes(3200), "") == (recording.raw, said(recording))


def test_a_flush_without_audio_leaves_no_recording(tmp_path: Path) -> None:
    assert [] == Rig(tmp_path, endpointing="off").send("flush").tape.finished()


def test_a_whole_message_is_a_recording_of_its_own_and_so_is_the_speech_before_it(tmp_path: Path) -> None:
    stream, whole = s16le(tone(0.5)), s16le(0.5 * tone(1.28))
    rig = Rig(tmp_path, endpointing="auto").send(*in_chunks(stream, [3200]), whole)
    one, two = rig.tape.finished()

    assert (stream, whole) == (one.raw, two.raw)


def test_what_is_split_for_its_length_is_recorded_in_two_that_do_not_overlap(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.session._stream._options = EndpointingOptions(max_speech_duration_s=2.0)
    data = s16le(tone(3.0), silence(1.5))
    one, two = rig.send(*in_chunks(data, [3200])).fall_silent()

    assert "max_length" == one.utterance.reason
    assert data == (one.raw + two.raw).ljust(len(data), b"\0")


def test_a_microphone_that_is_open_for_hours_holds_ten_seconds(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for _ in range(60):
        rig.send(*in_chunks(bytes(320_000), [32_000]))
    assert 320_000 <= rig.tape._bytes < 400_000


def test_long_speech_holds_no_more_than_its_limit_and_says_that_the_beginning_is_missing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, endpointing="off", limits=Limits(max_recording_bytes=64 * 1024))
    rig.send(*in_chunks(s16le(tone(10.0)), [3200]), "flush")
    [recording] = rig.tape.finished()

    assert not recording.complete
    assert 50_000 < len(recording.raw) <= 65_536


def test_all_tapes_together_hold_no_more_than_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "TAPES_BYTES", 100_000)
    first = Rig(tmp_path, endpointing="off")
    second = Rig(tmp_path, endpointing="off")
    second.recorder = first.recorder
    second.tape._recorder = first.recorder
    for rig in (first, second):
        rig.send(*in_chunks(s16le(tone(4.0)), [3200]))
    assert first.tape._bytes + second.tape._bytes <= 100_000
    for rig in (first, second):
        rig.tape.close()
    assert 100_000 == first.recorder.room_bytes


def test_a_tape_without_any_room_holds_nothing_and_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "TAPES_BYTES", 0)
    rig = Rig(tmp_path).send(*in_chunks(s16le(tone(1.0), silence(1.5)), [3200]))
    assert ([], 0) == (rig.fall_silent(), rig.tape._bytes)


# -- the whole way


def sidecars(folder: Path) -> list[Sidecar]:
    return [read_recording(path)[0] for path in sorted(folder.glob("debug_*.json"))]


def test_a_json_session_is_recorded_with_its_start_and_its_events(tmp_path: Path) -> None:
    sent = np.repeat(tone(1.28, sample_rate=48_000), 2).astype("<f4").tobytes()
    with client_of(FakeEngine(), debug_audio=tmp_path, token="sesame") as client:
        with connect(client, "?events=json&token=sesame&sample_rate=8000") as socket:
            socket.send_text('{"type":"start","sample_rate":48000,"channels":2,"encoding":"f32le","token":"sesame"}')
            socket.send_text('{"type":"configure","phrases":["왼쪽"],"token":"sesame"}')
            socket.send_text('{"type":"start","id":"../../x","hotwords":"용"}')
            for chunk in in_chunks(sent, [40_000]):
                socket.send_bytes(chunk)
            socket.send_text('{"type":"flush"}')
            while json.loads(socket.receive_text())["type"] != "final":
                pass
        wait_until(lambda: list(tmp_path.glob("*.json")), "the recording")
    [path] = tmp_path.glob("debug_*.json")
    sidecar, messages = read_recording(path)

    assert "sesame" not in path.read_text(encoding="utf-8")
    assert {"language": "ko", "task": "transcribe", "events": "json", "sample_rate": "8000"} == sidecar.query
    assert (48_000, 2, "f32le") == (sidecar.audio.sample_rate, sidecar.audio.channels, sidecar.audio.encoding)
    opening, *rest = [payload for _, payload in messages]
    assert {
        "type": "start",
        "sample_rate": 48_000,
        "channels": 2,
        "encoding": "f32le",
        "phrases": ["왼쪽"],
        "hotwords": "용",
        "id": "../../x",
    } == json.loads(opening)
    assert [*in_chunks(sent, [40_000]), '{"type":"flush"}'] == rest
    assert ["speech_started", "speech_ended", "final"] == [event["type"] for _, event in sidecar.events]
    assert ("../../x", sidecar.text) == (sidecar.utterance.id, sidecar.events[-1][1]["text"])


def test_audio_that_nobody_listened_to_and_what_was_cancelled_are_not_recorded(tmp_path: Path) -> None:
    with client_of(FakeEngine(), debug_audio=tmp_path) as client, connect(client, "?events=json") as socket:
        for text in ('{"type":"start","id":"a"}', '{"type":"flush"}'):
            socket.send_text(text)
        socket.send_bytes(s16le(tone(0.4)))
        socket.send_text('{"type":"start","id":"b"}')
        socket.send_bytes(s16le(tone(0.5)))
        socket.send_text('{"type":"cancel"}')
        socket.send_text('{"type":"start","id":"c"}')
        socket.send_bytes(s16le(tone(0.64)))
        socket.send_text('{"type":"end"}')
        while json.loads(socket.receive_text())["type"] != "closed":
            pass
    [sidecar] = sidecars(tmp_path)

    assert ("c", 20_480, "ko 640 ms") == (sidecar.utterance.id, sidecar.audio.size_bytes, sidecar.text)


def test_a_plain_session_is_recorded_with_its_line_and_what_the_doctor_says(tmp_path: Path) -> None:
    floats = read_audio(TEST_AUDIO / "answer_tree_frog.wav").astype("<f4").tobytes()
    with (
        client_of(FakeEngine(), debug_audio=tmp_path, doctor=True) as client,
        connect(client, "?endpointing=off") as socket,
    ):
        for chunk in in_chunks(floats, [3200]):
            socket.send_bytes(chunk)
        socket.send_text("flush")
        line = socket.receive_text()
    [sidecar] = sidecars(tmp_path)

    assert ("off", [line]) == (sidecar.query["endpointing"], [event for _, event in sidecar.events])
    assert "float32_as_int16" in [finding["code"] for finding in sidecar.findings]


def test_a_recording_that_cannot_be_made_costs_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Recording) -> Sidecar:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Recording, "sidecar", fail)
    with client_of(FakeEngine(), debug_audio=tmp_path) as client, connect(client) as socket:
        socket.send_bytes(s16le(tone(1.28)))
        assert "ko 1280 ms" == socket.receive_text()
    assert "A debug recording could not be made." in caplog.messages
    assert [] == names(tmp_path)


def test_where_nothing_is_recorded_nothing_is_kept() -> None:
    with client_of(FakeEngine()) as client, connect(client) as socket:
        socket.send_bytes(s16le(tone(1.28)))
        socket.receive_text()
        [connection] = client.app.state.server._clients
        assert (None, None) == (connection._tape, connection._session.witness)


def test_a_request_is_what_it_was_without_a_recorder(tmp_path: Path) -> None:
    def ask(**settings: object) -> list[Request]:
        engine = FakeEngine()
        with client_of(engine, **settings) as client, connect(client) as socket:
            socket.send_bytes(s16le(tone(1.28)))
            socket.receive_text()
        return [request for batch in engine.batches for request in batch]

    [with_it], [without] = ask(debug_audio=tmp_path), ask()
    assert np.array_equal(without.samples, with_it.samples)

"""Debug recordings: the server's own names, private, few, and never a reason to stop."""

import logging
import os
import stat
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from conftest import silence, tone

from stt_core.recordings import Recorder

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="file modes and links of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_recordings_are_numbered_from_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    assert tmp_path / "debug_0001.wav" == recorder.write(tone(0.1))
    assert tmp_path / "debug_0002.wav" == recorder.write(tone(0.1))


def test_numbering_goes_on_where_the_last_server_stopped(tmp_path: Path) -> None:
    (tmp_path / "debug_0041.wav").touch()
    assert tmp_path / "debug_0042.wav" == Recorder(tmp_path).write(tone(0.1))


def test_numbers_grow_past_four_digits(tmp_path: Path) -> None:
    (tmp_path / "debug_9999.wav").touch()
    recorder = Recorder(tmp_path, keep=2)
    recorder.write(tone(0.1))
    recorder.write(tone(0.1))
    assert ["debug_10000.wav", "debug_10001.wav"] == names(tmp_path)


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert Recorder(tmp_path / "new" / "folder").write(tone(0.1))
    assert ["debug_0001.wav"] == names(tmp_path / "new" / "folder")


def test_a_recording_plays_exactly_what_the_model_got(tmp_path: Path) -> None:
    sent = np.array([0, 1, -1, 32767, -32768, 12345], "<i2")
    path = Recorder(tmp_path).write(np.float32(sent) / np.float32(32768))
    with wave.open(str(path)) as recording:
        assert (1, 2, 16_000) == recording.getparams()[:3]
        assert sent.tolist() == np.frombuffer(recording.readframes(100), "<i2").tolist()


def test_too_loud_samples_are_clipped_and_do_not_wrap_around(tmp_path: Path) -> None:
    path = Recorder(tmp_path).write(np.array([2, -2], np.float32))
    with wave.open(str(path)) as recording:
        assert [32767, -32768] == np.frombuffer(recording.readframes(2), "<i2").tolist()


def test_an_empty_utterance_is_a_valid_file(tmp_path: Path) -> None:
    with wave.open(str(Recorder(tmp_path).write(silence(0)))) as recording:
        assert 0 == recording.getnframes()


@posix_only
def test_only_the_owner_may_read(tmp_path: Path) -> None:
    path = Recorder(tmp_path / "new").write(tone(0.1))
    assert path is not None
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)


def test_only_the_newest_are_kept_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "debug_mine.wav").touch()
    (tmp_path / "notes.txt").touch()
    recorder = Recorder(tmp_path, keep=3)
    for _ in range(5):
        recorder.write(tone(0.1))
    assert ["debug_0003.wav", "debug_0004.wav", "debug_0005.wav", "debug_mine.wav", "notes.txt"] == names(tmp_path)


def test_a_disk_that_refuses_is_one_warning_and_no_exception(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file" / "folder")
    with caplog.at_level(logging.WARNING):
        assert recorder.write(tone(0.1)) is None
        assert recorder.write(tone(0.1)) is None
    [record] = caplog.records
    assert str(tmp_path / "file" / "folder") in record.getMessage()


@posix_only
def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "debug_0002.wav").symlink_to(victim)
    recorder = Recorder(folder)
    (folder / "debug_0001.wav").symlink_to(tmp_path / "dangling")
    assert folder / "debug_0003.wav" == recorder.write(tone(0.1))
    assert "precious" == victim.read_text()
    assert not (tmp_path / "dangling").exists()


@posix_only
def test_a_link_planted_in_place_of_the_next_name_is_stepped_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "recordings"
    folder.mkdir()
    recorder = Recorder(folder)
    really_open, planted = os.open, []

    def plant_then_open(path: str, *arguments: int) -> int:
        if not planted:  # between the look at the folder and the creation of the file
            planted.append(path)
            Path(path).symlink_to(victim)
        return really_open(path, *arguments)

    monkeypatch.setattr(os, "open", plant_then_open)
    assert folder / "debug_0002.wav" == recorder.write(tone(0.1))
    assert "precious" == victim.read_text()

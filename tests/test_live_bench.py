"""The live benchmarks' own arithmetic, and one small run against a real server."""

import asyncio
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import silence, tone
from rich.console import Console
from servers import TEST_AUDIO

from local_dev.bench import Clip
from local_dev.live_client import Lag, Line, Player, frames, room_noise
from local_dev.live_load import Sound, Turn, load_sounds, matched, plan, run_load_bench
from local_dev.live_report import Sheet, new_figure, percentile, slope, write_report
from local_dev.live_server import server_under_test
from local_dev.live_ttfs import (
    Spoken,
    Trial,
    is_cut_off,
    joined,
    longest_pause_ms,
    run_ttfs_bench,
    speech_spans,
)
from stt_core.audio import SAMPLE_RATE
from stt_core.errors import SettingsError, SttError

WINDOW_S = 0.032


def spoken(*parts, speech):
    return Spoken(Clip("clip", Path("clip.wav"), "ko", "human", "가"), np.concatenate(parts), speech)


def trial(pause_ms, lines):
    return Trial("clip", "endpoint", 2.0, 0.0, pause_ms, 0.5, lines, 0, 1)


def sound(seconds=3.0):
    return Sound("clip", "ko", "가", bytes(round(seconds * SAMPLE_RATE) * 2), seconds)


def test_a_percentile_is_one_of_the_values():
    assert 5 == percentile([5, 1, 4, 2, 3], 95)
    assert 3 == percentile([5, 1, 4, 2, 3], 50)
    assert 95 == percentile([*range(1, 101)], 95)
    assert math.isnan(percentile([], 50))


def test_an_answer_that_never_came_counts():
    assert 1.0 == percentile([1.0, math.inf], 50)
    assert math.inf == percentile([1.0] * 9 + [math.inf], 95)


def test_a_slope_is_fitted_through_noise():
    x = [0.0, 1.0, 2.0, 3.0]

    assert 2.0 == pytest.approx(slope(x, [1, 3, 5, 7]))
    assert 0.4 == pytest.approx(slope(x, [0, 2, 0, 2]))
    assert math.isnan(slope([1.0], [1.0]))


def test_frames_are_due_when_they_are_full():
    pcm = bytes(2 * 800)  # 50 ms

    assert [(640, 0.02), (640, 0.04), (320, 0.05)] == [(len(frame), full_s) for frame, full_s in frames(pcm, 0.02)]


def test_frames_are_paced_without_drift(monkeypatch):
    now_s, sent_s = 100.0, []

    async def sleep(delay_s):
        nonlocal now_s
        now_s += max(0.0, delay_s)

    class Socket:
        async def send(self, data):
            sent_s.append(now_s)
            if len(sent_s) == 1:
                await sleep(0.1)  # it blocks for five frames

    monkeypatch.setattr("local_dev.live_client.clock", lambda: now_s)
    monkeypatch.setattr("local_dev.live_client.asyncio", SimpleNamespace(sleep=sleep))
    lag = Lag()
    player = SimpleNamespace(_client=Socket(), _frame_s=0.02, _lag=lag)

    ended_s = asyncio.run(Player.speak(player, bytes(16_000), 100.0))

    assert 100.5 == pytest.approx(ended_s)
    # Each in its time, but for those that the first one held up; they go at once.
    assert [100.02, *[100.12] * 4, *(100.12 + 0.02 * number for number in range(20))] == pytest.approx(sent_s)
    assert 25 == lag.frames
    assert 0.08 == pytest.approx(lag.worst_s)


def test_room_noise_has_its_level():
    noise = room_noise(2.0, -60.0, seed=1)

    assert (32_000,) == noise.shape
    assert 0.001 == pytest.approx(float(np.sqrt(np.square(noise).mean())), rel=0.01)
    assert np.array_equal(noise, room_noise(2.0, -60.0, seed=1))


def test_speech_lasts_down_to_the_lower_threshold():
    probabilities = np.array([0.4, 0.6, 0.4, 0.36, 0.3, 0.4, 0.1, 0.9, 0.9], np.float32)

    expected = [(WINDOW_S, 4 * WINDOW_S), (7 * WINDOW_S, 9 * WINDOW_S)]
    assert [pytest.approx(span) for span in expected] == speech_spans(probabilities)
    assert [] == speech_spans(np.array([0.4], np.float32))


@pytest.mark.parametrize("pause_ms", [200, 400])
def test_joined_clips_have_the_pause_that_was_asked_for(pause_ms):
    first = spoken(silence(0.1), tone(1.0), silence(0.05), speech=[(0.1, 1.1)])
    second = spoken(silence(1.0), tone(0.5), silence(0.3), speech=[(1.0, 1.5)])

    samples, speech = joined(first, second, pause_ms)

    assert pause_ms == pytest.approx(longest_pause_ms(speech))
    assert 1.1 + pause_ms / 1000 + 0.8 == pytest.approx(len(samples) / SAMPLE_RATE)
    loud = np.flatnonzero(samples) / SAMPLE_RATE
    assert pause_ms == pytest.approx(1000 * np.diff(loud).max(), abs=1)


def test_two_lines_without_a_long_pause_are_a_cut_off():
    assert is_cut_off(trial(400, ["가", "나"]), 500) is True
    assert is_cut_off(trial(400, ["가"]), 500) is False
    assert is_cut_off(trial(0, []), 500) is False


def test_a_pause_that_may_end_an_utterance_is_not_counted():
    assert is_cut_off(trial(500, ["가", "나"]), 500) is None


def test_a_push_to_talk_player_speaks_every_ten_seconds_at_a_random_phase():
    turns = [plan([sound()], "ptt", 60.0, random.Random(seed)) for seed in range(20)]

    for own in turns:
        starts = [turn.start_s for turn in own]
        assert [pytest.approx(10.0)] * (len(starts) - 1) == list(np.diff(starts))
        assert all(start + 3.0 <= 60.0 for start in starts)
    assert 20 == len({own[0].start_s for own in turns})
    assert plan([sound()], "ptt", 60.0, random.Random(0)) == turns[0]


def test_an_open_microphone_talks_a_tenth_of_the_time():
    turns = [turn for seed in range(50) for turn in plan([sound()], "open", 600.0, random.Random(seed))]

    assert 0.1 == pytest.approx(len(turns) * 3.0 / (50 * 600), rel=0.05)


def test_push_to_talk_lines_come_in_order():
    asked = [(Turn(0, sound()), 100.0, 103.0), (Turn(10, sound()), 110.0, 113.0)]

    answers = matched("ptt", asked, [Line("가", 111.0), Line("나", 113.5)])
    assert [8.0, 0.5] == [answer.ttfs_s for answer in answers]
    assert [0, 1] == [answer.errors for answer in answers]
    assert math.inf == matched("ptt", asked, [Line("가", 104.0)])[1].ttfs_s


def test_an_open_microphones_line_belongs_to_what_was_said_last():
    asked = [(Turn(0, sound()), 100.0, 103.0), (Turn(30, sound()), 130.0, 133.0)]

    lines = [Line("잡음", 99.0), Line("가", 101.5), Line("나", 103.5), Line("다", 133.6)]
    answers = matched("open", asked, lines)
    assert [0.5, pytest.approx(0.6)] == [answer.ttfs_s for answer in answers]
    assert [math.inf, pytest.approx(0.6)] == [answer.ttfs_s for answer in matched("open", asked, lines[:2] + lines[3:])]


def test_a_report_is_one_page_with_its_data_beside_it(tmp_path):
    figure, axes = new_figure(1)
    axes[0].plot([1, 2], [3, 4])
    sheet = Sheet("Waits <p95>", ["length", "p95"], [["all", "never"]])
    result = {"made": "2025-01-01", "settings": {"seed": 7}, "p95_s": math.inf, "n": [1, math.nan]}

    page = write_report(tmp_path / "out", "x", "Title & more", "About", result, [sheet], figure, Console(quiet=True))

    html = page.read_text(encoding="utf-8")
    assert "Waits &lt;p95&gt;" in html and "data:image/png;base64,iVBOR" in html and "&quot;seed&quot;: 7" in html
    assert 'src="http' not in html
    saved = json.loads((tmp_path / "out" / "x.json").read_text(encoding="utf-8"))
    assert {"made": "2025-01-01", "settings": {"seed": 7}, "p95_s": None, "n": [1, None]} == saved
    assert (tmp_path / "out" / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("local_dev.live_server.import_module", no_module)

    with pytest.raises(SettingsError, match=r'matplotlib.*pip install -e "\.\[bench\]"'):
        new_figure(1)


def no_module(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_data_without_fitting_clips_says_so(tmp_path):
    (tmp_path / "manifest.tsv").write_text("id\tfile\tlanguage\tseconds\tkind\ttext\n", encoding="utf-8")

    with pytest.raises(SettingsError, match="holds no clip in ko"):
        run_ttfs_bench(tmp_path, tmp_path / "out")
    with pytest.raises(SettingsError, match="of 2 to 5 s"):
        load_sounds(tmp_path, "ko", ("human",), "ptt", None, random.Random(0))


def test_a_server_that_cannot_start_is_told_in_a_line():
    expected = r"The server to measure ended with 1: error: .*--beam-size"
    with pytest.raises(SttError, match=expected), server_under_test(None, None, ["--beam-size", "0"]):
        pass


@pytest.mark.model
def test_ttfs_of_two_clips(tmp_path):
    code = run_ttfs_bench(TEST_AUDIO, tmp_path, kinds=("tts",), limit=2, max_s=2.5, pauses_ms=(300,), pause_trials=1)

    assert 0 == code
    result = json.loads((tmp_path / "ttfs.json").read_text(encoding="utf-8"))
    for mode, least_s in (("flush", 0.0), ("endpoint", 0.4)):
        [everything] = [row for row in result[mode] if row["from_s"] == 0 and row["to_s"] is None]
        assert (2, 0) == (everything["n"], everything["unanswered"])
        assert least_s < everything["p50_s"] <= everything["p95_s"] < 20
        assert everything["error_rate"] < 0.5
    assert 3 == result["cut_off"]["counted"]
    assert {"seed", "allowed_pause_ms", "frame_ms"} <= set(result["settings"])
    assert {"processor", "cores", "python", "versions"} <= set(result["machine"])


@pytest.mark.model
def test_the_load_of_one_player(tmp_path):
    assert 0 == run_load_bench(TEST_AUDIO, tmp_path, sessions=(1,), seconds=12, limit=1, crowd=(1, 3))

    result = json.loads((tmp_path / "load_ptt.json").read_text(encoding="utf-8"))
    [step] = result["steps"]
    assert (1, 0, 0) == (step["sessions"], step["turned_away"], step["unanswered"])
    assert abs(result["mib_per_session"]) < 64
    assert 0 < step["cpu_cores"]
    assert {"audio", "detector", "doctor", "model", "network", "decoding"} == set(step["cores"])
    assert 0.7 * step["cpu_cores"] < sum(step["cores"].values()) < 1.5 * step["cpu_cores"] + 0.1
    assert step["cores"]["decoding"] > step["cores"]["audio"] > 0
    assert step["requests"]["final"] + step["requests"]["speculative"] > 0

"""The doctor on duty: what JSON clients are told about their audio, and what the log says of plain ones."""

import json
import logging
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from conftest import in_chunks, s16le, tone, wav_header
from hypothesis import given
from hypothesis import strategies as st
from servers import TEST_AUDIO
from test_app import client_of, connect, ready, wait_until

from stt_core.audio import AudioFormat, read_audio, to_s16le
from stt_core.checkup import Checkup, Repair
from stt_core.fakes import FakeEngine
from stt_core.server import Server

SPEECH = read_audio(TEST_AUDIO / "answer_tree_frog.wav")
HEALTHY = to_s16le(SPEECH)
FLOATS = SPEECH.astype("<f4").tobytes()  # sent as if they were 16-bit


def codes(checkup: Checkup, data: bytes) -> list[str]:
    for chunk in in_chunks(data, [3200]):
        checkup.push(chunk, AudioFormat(), 0.0)
    return [finding.code for finding in checkup.news(checkup.look(whole=True)())]


def test_each_cause_is_told_once_an_utterance() -> None:
    checkup = Checkup()
    assert "float32_as_int16" in codes(checkup, FLOATS)
    assert [] == codes(checkup, FLOATS)
    checkup.next_utterance()
    assert "float32_as_int16" in codes(checkup, FLOATS)


def test_it_asks_for_a_first_look_after_three_seconds_and_then_no_more() -> None:
    checkup = Checkup()
    second = b"\0" * 31_998
    asked = [checkup.push(second, AudioFormat(), float(i)) for i in range(4)]
    checkup.look(whole=False)

    assert [False, False, False, True] == asked
    assert not checkup.push(second, AudioFormat(), 4.0)


def test_a_json_client_is_told_after_its_final_in_its_language() -> None:
    with client_of(FakeEngine(), doctor=True) as client, connect(client, "?events=json&language=en") as socket:
        socket.receive_text()
        socket.send_text('{"type":"start","id":"a"}')
        for chunk in in_chunks(FLOATS, [3200]):
            socket.send_bytes(chunk)
        socket.send_text('{"type":"flush"}')
        said = [json.loads(socket.receive_text())]
        while not (said[-1]["type"] == "warning" and said[-1]["code"] == "float32_as_int16"):
            said.append(json.loads(socket.receive_text()))

    assert "f32le" in said[-1]["hint"]
    assert len(json.dumps(said[-1]).encode()) < 1024


def test_a_muted_microphone_is_told_although_nobody_spoke() -> None:
    with client_of(FakeEngine(), doctor=True) as client:
        wait_until(lambda: ready(client), "the model to be loaded")  # whoever comes before gets a `status`, too
        with connect(client, "?events=json&language=en") as socket:
            socket.receive_text()
            socket.send_text('{"type":"start","id":"a"}')
            socket.send_bytes(bytes(48_000))
            socket.send_text('{"type":"flush"}')
            said = [json.loads(socket.receive_text()) for _ in range(2)]

    assert ["final", "warning"] == [message["type"] for message in said]
    assert (0, "digital_silence") == (said[0]["timing"]["audio_ms"], said[1]["code"])


def test_nobody_is_examined_while_players_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "players_need_all", property(lambda server: bool(late)))
    late = [True]
    with client_of(FakeEngine(), doctor=True) as client, connect(client, "?events=json") as socket:
        kinds = []
        for _ in range(2):
            socket.send_text('{"type":"start","id":"a"}')
            socket.send_bytes(bytes(48_000))
            socket.send_text('{"type":"flush"}')
            while kinds[-1:] != ["final"]:
                kinds.append(json.loads(socket.receive_text())["type"])
            late.clear()
            kinds.append("")
        kinds.append(json.loads(socket.receive_text())["type"])

    assert ["final", "", "final", "", "warning"] == [kind for kind in kinds if kind not in ("ready", "status")]


def test_audio_that_nobody_listened_to_is_no_fault() -> None:
    with client_of(FakeEngine(), doctor=True) as client, ExitStack() as stack:
        wait_until(lambda: ready(client), "the model to be loaded")
        socket = stack.enter_context(connect(client, "?events=json"))
        socket.receive_text()
        for text in ('{"type":"start","id":"a"}', '{"type":"cancel"}'):
            socket.send_text(text)
        socket.send_bytes(FLOATS[:60_000])
        for text in ('{"type":"flush"}', '{"type":"end"}'):
            socket.send_text(text)
        said = [json.loads(socket.receive_text())["type"] for _ in range(3)]

    assert ["dropped", "final", "closed"] == said


def test_a_plain_client_is_told_nothing_but_the_log_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), client_of(FakeEngine(), doctor=True) as client, connect(client) as socket:
        for _ in range(2):
            socket.send_bytes(FLOATS)
            socket.receive_text()
        wait_until(lambda: "float" in caplog.text, "the log line")

    assert 1 == sum("float" in record.getMessage() for record in caplog.records)


def test_it_can_be_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), client_of(FakeEngine(), doctor=False) as client, connect(client) as socket:
        socket.send_bytes(FLOATS)
        socket.receive_text()
        socket.send_bytes(to_s16le(np.clip(SPEECH, -1, 1)))
        socket.receive_text()

    assert "Session" not in caplog.text


def test_healthy_speech_is_left_in_peace(caplog: pytest.LogCaptureFixture) -> None:
    checkup = Checkup()
    assert [] == codes(checkup, HEALTHY)


# -- repair

PREFIXED = b"\x01" + HEALTHY  # a stray first byte
SWAPPED = np.frombuffer(HEALTHY, "<i2").astype(">i2").tobytes()
WITH_HEADERS = b"".join(wav_header(6400) + chunk for chunk in in_chunks(HEALTHY, [6400]))
BROKEN = {"misaligned": PREFIXED, "byte_swapped": SWAPPED, "wav_header": WITH_HEADERS}


def mended(data: bytes, sizes: list[int], mender: Repair | None = None) -> bytes:
    mender = mender or Repair()
    return b"".join(map(mender.take, in_chunks(data, sizes))) + mender.rest()


@pytest.mark.parametrize("code", ["misaligned", "byte_swapped"])
@given(sizes=st.lists(st.integers(100, 40_000), min_size=1, max_size=5))
def test_a_stream_is_repaired_from_its_first_byte_however_it_is_cut(code: str, sizes: list[int]) -> None:
    mender = Repair()
    heard = mended(BROKEN[code], sizes, mender)
    assert HEALTHY[: len(heard)] == heard
    assert len(HEALTHY) - len(heard) < 2
    assert {code} == mender.codes


def test_headers_in_every_buffer_are_taken_out() -> None:
    mender = Repair()
    heard = mended(WITH_HEADERS, [6444], mender)
    assert HEALTHY == heard.removeprefix(wav_header(6400))  # the first one is the decoder's
    assert {"wav_header"} == mender.codes


@given(sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=5))
def test_healthy_audio_is_left_as_it_is_however_it_is_cut(sizes: list[int]) -> None:
    mender = Repair()
    data = bytes(20_001) + HEALTHY[1:]
    assert data[: len(data) // 2 * 2] == mended(data, [size + 50 for size in sizes], mender)
    assert set() == mender.codes


@pytest.mark.parametrize("data", [FLOATS, np.random.default_rng(0).bytes(64_000), bytes(64_000), b"a" * 64_000])
def test_what_cannot_be_undone_is_left_as_it_is(data: bytes) -> None:
    assert data == mended(data, [3200])
    assert data == Repair().whole(data)


@pytest.mark.parametrize("broken", [PREFIXED, SWAPPED, WITH_HEADERS], ids=["misaligned", "byte_swapped", "wav_header"])
def test_a_whole_message_is_repaired(broken: bytes) -> None:
    assert HEALTHY == Repair().whole(broken)


def heard_by(engine: FakeEngine) -> np.ndarray:
    return np.concatenate([request.samples for batch in engine.batches for request in batch][-1:])


def differs(samples: np.ndarray) -> float:
    """How far what was heard is from some stretch of the speech."""
    lags = np.correlate(SPEECH, samples, "valid") if len(samples) <= len(SPEECH) else np.zeros(1)
    return 1 - float(lags.max() / np.square(samples).sum())


@pytest.mark.parametrize("broken", [PREFIXED, SWAPPED], ids=["misaligned", "byte_swapped"])
@pytest.mark.parametrize("repaired", [False, True])
def test_the_model_hears_what_was_meant_where_the_server_repairs(broken: bytes, repaired: bool) -> None:
    for sizes in ([len(broken)], [3200]):
        engine = FakeEngine()
        with client_of(engine, repair=repaired) as client, connect(client, "?endpointing=off") as socket:
            for chunk in in_chunks(broken, sizes):
                socket.send_bytes(chunk)
            socket.send_text("flush")
            socket.receive_text()
        assert repaired == (differs(heard_by(engine)) < 0.01)


def test_a_json_client_is_told_that_its_audio_was_repaired(tmp_path: Path) -> None:
    settings = {"repair": True, "doctor": False, "debug_audio": tmp_path}  # of repairs it is told all the same
    with client_of(FakeEngine(), **settings) as client, connect(client, "?events=json&language=en") as socket:
        for name in "ab":
            socket.send_text(json.dumps({"type": "start", "id": name}))
            for chunk in in_chunks(PREFIXED, [3200]):
                socket.send_bytes(chunk)
            socket.send_text('{"type":"flush"}')
            said = [json.loads(socket.receive_text())]
            while said[-1].get("code") != "misaligned":
                said.append(json.loads(socket.receive_text()))
            assert said[-1]["message"].endswith("The server has undone it. Change the game all the same.")
    sidecars = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("*.json"))]

    assert [["misaligned"]] * 2 == [sidecar["repaired"] for sidecar in sidecars]
    assert [PREFIXED] * 2 == [path.read_bytes()[44:-1] for path in sorted(tmp_path.glob("debug_????.wav"))]


def test_a_plain_clients_repair_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING),
        client_of(FakeEngine(), repair=True) as client,
        connect(client) as socket,
    ):
        socket.send_bytes(SWAPPED)
        socket.receive_text()
        wait_until(lambda: "big-endian" in caplog.text, "the log line")
    assert "The server has undone it." in caplog.text


def test_a_short_utterance_need_not_fill_what_is_held_back() -> None:
    with client_of(FakeEngine(), repair=True) as client, connect(client, "?endpointing=off") as socket:
        socket.send_bytes(s16le(tone(0.32)))
        socket.send_text("flush")
        assert "ko 320 ms" == socket.receive_text()

"""The doctor on duty: what JSON clients are told about their audio, and what the log says of plain ones."""

import json
import logging

import numpy as np
import pytest
from conftest import in_chunks
from servers import TEST_AUDIO
from test_app import client_of, connect, wait_until

from stt_core.audio import AudioFormat, read_audio, to_s16le
from stt_core.checkup import Checkup
from stt_core.fakes import FakeEngine

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
    with client_of(FakeEngine(), doctor=True) as client, connect(client, "?events=json&language=en") as socket:
        socket.receive_text()
        socket.send_text('{"type":"start","id":"a"}')
        socket.send_bytes(bytes(48_000))
        socket.send_text('{"type":"flush"}')
        said = [json.loads(socket.receive_text()) for _ in range(2)]

    assert ["final", "warning"] == [message["type"] for message in said]
    assert (0, "digital_silence") == (said[0]["timing"]["audio_ms"], said[1]["code"])


def test_audio_that_nobody_listened_to_is_no_fault() -> None:
    with client_of(FakeEngine(), doctor=True) as client, connect(client, "?events=json") as socket:
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

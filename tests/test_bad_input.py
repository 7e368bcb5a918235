"""Bad input, row by row: what one client does wrong, what it is told, and that three others notice nothing.

The rows are those of a catalogue of faults: P protocol, A audio, S access. Each is played against the real uvicorn,
with three bystanders on the same server who are in the middle of a push-to-talk utterance and then go on.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import websockets.sync.client
from conftest import in_chunks, s16le, silence, tone, wav_header
from servers import fake_server, wait_until
from websockets.exceptions import ConnectionClosed

from stt_core.fakes import FakeEngine
from stt_core.messages import Error, Final, Ready, ServerMessage, parse_server_message
from stt_core.settings import Settings
from stt_core.transcription import Request

WAIT_S = 20.0
WORD = s16le(tone(0.64))
TOKEN = "sesame"


def said(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


START, FLUSH, END = said("start", id="p"), said("flush"), said("end")
Sent = str | bytes


def canary(request: Request) -> str:
    return f"canary {abs(request.samples).max():.2f}" if len(request.samples) else ""


class Client:
    """A client of JSON mode on a real socket."""

    def __init__(self, socket: websockets.sync.client.ClientConnection) -> None:
        self.socket = socket

    def send(self, *messages: Sent) -> None:
        for message in messages:
            self.socket.send(message)

    def next(self) -> ServerMessage:
        text = self.socket.recv(timeout=WAIT_S)
        assert len(text.encode()) < 1024
        return parse_server_message(text)

    def rest(self) -> tuple[list[ServerMessage], int]:
        """All that comes before the server's close, and its code."""
        came = []
        try:
            while True:
                came.append(self.next())
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "the connection was not closed, but lost"
            assert closed.rcvd.reason.isascii()
            assert len(closed.rcvd.reason) <= 123
            return came, closed.rcvd.code


@contextmanager
def connect(url: str, query: str = f"?events=json&token={TOKEN}", **options: Any) -> Iterator[Client]:
    with websockets.sync.client.connect(url + query, **options) as socket:
        yield Client(socket)


@dataclass(frozen=True, slots=True)
class Bystander:
    """Somebody who speaks in a voice of his own, which no other text may have."""

    client: Client
    amplitude: float

    def speak(self) -> None:
        self.client.send(*in_chunks(s16le(2 * self.amplitude * tone(0.32)), [3200]))

    def notices_nothing(self, turn: int) -> None:
        self.speak()
        self.client.send(said("flush", id=f"{turn}"))
        came = [self.client.next()]
        while not isinstance(came[-1], Final):
            came.append(self.client.next())
        assert ["speech_started", "speech_ended", "final"] == [message.type for message in came]
        assert (f"{turn}", f"canary {self.amplitude:.2f}", 640) == (
            came[-1].id,
            came[-1].text,
            came[-1].timing.audio_ms,
        )


@dataclass(slots=True)
class Stage:
    url: str
    http: str
    bystanders: list[Bystander]
    turn: int = 0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    settings = Settings.from_environment({}, token=TOKEN, control_burst=60, doctor=False)
    with fake_server(FakeEngine(canary, workers=2), settings) as server, ExitStack() as stack:
        wait_until(lambda: server.status("/readyz") == 200, "the model")
        bystanders = [
            Bystander(stack.enter_context(connect(server.url)), amplitude) for amplitude in (0.11, 0.12, 0.13)
        ]
        for bystander in bystanders:
            assert isinstance(bystander.client.next(), Ready)
        yield Stage(server.url, server.http, bystanders)


@pytest.fixture
def offender(stage: Stage, caplog: pytest.LogCaptureFixture) -> Iterator[Client]:
    """A client among bystanders in mid-speech; when it has done its worst, they finish their sentences."""
    stage.turn += 1
    for bystander in stage.bystanders:
        bystander.client.send(said("start", id=f"{stage.turn}"))
        bystander.speak()
    with caplog.at_level(logging.INFO), connect(stage.url) as client:
        assert isinstance(client.next(), Ready)
        yield client
    for bystander in stage.bystanders:
        bystander.notices_nothing(stage.turn)
    assert "Traceback" not in caplog.text
    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert TOKEN not in caplog.text
    assert "canary" not in caplog.text


# ---- P: what is survived: an error for each mistake, and the session goes on

BAD_JSON = [
    "[" * 100_000,
    "[" * 65_536,
    '{"a":' * 50_000,
    '{"type":"start","sample_rate":' + "9" * 5000 + "}",
    "null",
    "[]",
    '"x"',
    "",
    "{",
    '\ufeff{"type":"flush"}',
    '{"type":"flush","id":"\\ud800"}',
]
BAD_MESSAGES = [
    '{"type":"say"}',
    '{"type":null}',
    '{"type":["flush"]}',
    '{"id":"a"}',
    '{"type":"flush","id":NaN}',
    '{"type":"cancel","id":{"$ne":null}}',
    '{"type":"start","id":"' + "x" * 65 + '"}',
    '{"type":"configure","partials":Infinity}',
    '{"type":"ready","session_id":"x"}',
]
BAD_WORDS = [
    said("start", language="zz"),
    said("configure", language="../ko"),
    said("configure", language="k" * 200_000),
    said("configure", hotwords="x" * 100_000),
    said("configure", hotwords=["x"] * 10_000),
    said("configure", phrases=["x" * 65_536]),
    said("configure", phrases=["x"] * 10_000),
]
SURVIVED = [("P20", "flush"), ("P20", "안녕하세요"), *(("P21", text) for text in BAD_JSON)]
SURVIVED += [*(("P22", text) for text in BAD_MESSAGES), *(("P25", text) for text in BAD_WORDS)]


@pytest.mark.parametrize(("row", "text"), SURVIVED, ids=lambda value: ascii(value)[:32])
def test_a_bad_text_is_answered_by_an_error_and_the_session_goes_on(row: str, text: str, offender: Client) -> None:
    offender.send(START, WORD, text, FLUSH, END)
    came, code = offender.rest()

    assert ["error", "final", "closed"] == [m.type for m in came if m.type not in ("speech_started", "speech_ended")]
    [error] = [message for message in came if isinstance(message, Error)]
    assert ("bad_message", None, 1000) == (error.code, error.close, code)
    [final] = [message for message in came if isinstance(message, Final)]
    assert ("p", "canary 0.50") == (final.id, final.text)


# ---- what is ignored

IGNORED: list[tuple[str, list[Sent]]] = [
    ("P19", [START, START, WORD, FLUSH, END, END]),
    ("P19", [START, WORD, FLUSH, END, FLUSH, START, said("cancel"), WORD, "nonsense"]),
    ("P21", ['{"type":"flush","type":"start","id":"x","id":"p"}', WORD, FLUSH, END]),
    ("P21", ['{"type":"start","id":"p","volume":1e5000,"x":NaN}', WORD, FLUSH, END]),
    ("P22", [said("start", id="p", player="../x", volume=[{"a": None}]), WORD, FLUSH, END]),
    ("P24", [said("start", id="p", session_id="0", player="1", utterance=1), WORD, FLUSH, END]),
    ("P25", [START, said("configure", hotwords="<|endoftext|><|notimestamps|>"), WORD, FLUSH, END]),
    ("A1", [START, b"", WORD[:999], b"", b"", WORD[999:], FLUSH, END]),
    ("A2", [START, *(WORD[i : i + 1] for i in range(9)), WORD[9:20_000], WORD[20_000:], FLUSH, END]),
    ("A14", [START, said("configure", sample_rate=48_000), WORD, FLUSH, END]),
    ("A15", [START, said("keepalive", timestamp_ms=-5, seq=2**63), WORD, FLUSH, END]),
]


@pytest.mark.parametrize(("row", "messages"), IGNORED, ids=[f"{row}-{i}" for i, (row, _) in enumerate(IGNORED)])
def test_what_means_nothing_changes_nothing(row: str, messages: list[Sent], offender: Client) -> None:
    offender.send(*messages)
    came, code = offender.rest()

    assert (["speech_started", "speech_ended", "final", "closed"], 1000) == ([message.type for message in came], code)
    assert ("p", "canary 0.50", 640) == (came[2].id, came[2].text, came[2].timing.audio_ms)


def test_p19_audio_before_any_start_is_an_open_microphone(offender: Client) -> None:
    offender.send(WORD, END)

    assert [("end", "canary 0.50")] == [(m.reason, m.text) for m in offender.rest()[0] if isinstance(m, Final)]


def test_p24_a_session_id_of_somebody_else_opens_nothing(stage: Stage, offender: Client) -> None:
    offender.send(said("cancel", id=f"{stage.turn}"), said("flush", id=f"{stage.turn}"), END)

    assert [(f"{stage.turn}", "")] == [(m.id, m.text) for m in offender.rest()[0] if isinstance(m, Final)]


# ---- what closes

CLOSES: list[tuple[str, list[Sent], str, int]] = [
    ("P21", ["x" * (256 * 1024 + 1)], "bad_message", 4400),
    ("P23", [said("configure", hotwords=f"{i}") for i in range(200)], "rate_limited", 4429),
    ("P25", [said("configure", language="k" * 1_000_000)], "bad_message", 4400),
    *(
        ("A4", [said("start", sample_rate=rate)], "unsupported_format", 4415)
        for rate in (0, -1, 7999, 192_001, 2**31, "16k", 16_000.5, None.__class__.__name__)
    ),
    ("A4", [said("start", channels=0)], "unsupported_format", 4415),
    ("A6", [said("start", encoding="ogg")], "unsupported_format", 4415),
]


@pytest.mark.parametrize(
    ("row", "messages", "error", "close"), CLOSES, ids=[f"{row[0]}-{i}" for i, row in enumerate(CLOSES)]
)
def test_what_cannot_go_on_is_told_before_the_close(
    row: str, messages: list[Sent], error: str, close: int, offender: Client
) -> None:
    with suppress(ConnectionClosed):  # it may be told in the middle of it
        offender.send(*messages)
    came, code = offender.rest()

    assert ["error"] == [message.type for message in came]
    assert (error, close, close) == (came[0].code, came[0].close, code)


# ---- A: audio

TONE = tone(0.64)
STEREO = np.repeat(TONE, 2)
RATES = [(8000, 1), (44_100, 1), (48_000, 2), (192_000, 8)]


@pytest.mark.parametrize(("rate", "channels"), RATES)
def test_a4_a_rate_within_bounds_is_resampled(rate: int, channels: int, offender: Client) -> None:
    pcm = s16le(np.repeat(tone(0.64, sample_rate=rate), channels))
    offender.send(said("start", id="p", sample_rate=rate, channels=channels), pcm, FLUSH, END)
    [final] = [m for m in offender.rest()[0] if isinstance(m, Final)]

    assert (640, "canary 0.5") == (pytest.approx(final.timing.audio_ms, abs=40), final.text[:10])


@pytest.mark.parametrize("size", [2, 320, 640, 3200, 32_000, 20_480])
def test_a3_the_size_of_messages_does_not_matter(size: int, offender: Client) -> None:
    pcm = WORD if size > 2 else WORD[:2000]
    offender.send(START, *in_chunks(pcm, [size]), FLUSH, END)
    [final] = [m for m in offender.rest()[0] if isinstance(m, Final)]

    assert ("p", len(pcm) // 32) == (final.id, pytest.approx(final.timing.audio_ms, abs=1))


WRONGLY_DECLARED = {
    "A5 stereo declared mono": s16le(STEREO),
    "A5 big-endian": np.frombuffer(WORD, "<i2").astype(">i2").tobytes(),
    "A5 float sent as int16": TONE.astype("<f4").tobytes(),
    "A5 shifted by a byte": b"\x7f" + WORD + b"\0",
    "A6 WAV": wav_header(len(WORD)) + WORD,
    "A6 Ogg": b"OggS\0\2" + bytes(range(256)) * 40,
    "A6 MP3": b"ID3\4\0\0" + bytes(range(256)) * 40,
    "A6 HTML": b"<!doctype html><html>" * 400,
    "A6 gzip": b"\x1f\x8b\x08" + bytes(reversed(range(256))) * 40,
    "A6 endless WAV header": b"RIFF\xff\xff\xff\xffWAVE" + b"LIST\xff\xff\xff\x7f" + WORD,
    "A8 full-scale square": np.resize(np.repeat(np.array([32767, -32768], "<i2"), 20), 16_000).tobytes(),
    "A8 DC": np.full(16_000, 30_000, "<i2").tobytes(),
    "A8 impulse": bytes(16_000) + b"\xff\x7f" + bytes(16_000),
    "A13 a sample": WORD[:2],
    "A13 half a sample": WORD[:1],
    "A13 50 ms": WORD[:1600],
    "A13 a window and a sample": WORD[:1026],
    "A13 a window less a sample": WORD[:1022],
}


@pytest.mark.parametrize("name", WRONGLY_DECLARED)
def test_audio_that_is_not_what_was_declared_gets_its_one_final(name: str, offender: Client) -> None:
    offender.send(START, WRONGLY_DECLARED[name], FLUSH, END)
    came, code = offender.rest()

    assert (["p"], 1000) == ([m.id for m in came if isinstance(m, Final)], code)
    assert [] == [m for m in came if isinstance(m, Error)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38])
def test_a7_floats_that_are_no_sound_are_silence_or_full_scale(value: float, offender: Client) -> None:
    offender.send(said("start", id="p", encoding="f32le"), np.full(10_240, value, "<f4").tobytes(), FLUSH, END)
    [final] = [m for m in offender.rest()[0] if isinstance(m, Final)]

    assert ("p", "" if np.isnan(value) else "canary 1.00") == (final.id, final.text)


def test_a9_silence_gets_no_text_and_never_asks_the_engine(offender: Client) -> None:
    offender.send(*[bytes(320_000)] * 6, END)  # a minute
    [closed] = offender.rest()[0]

    assert (0, 60_000, 60_000) == (closed.utterances, closed.audio_ms, closed.silence_ms)


def test_a11_bursts_and_gaps_within_push_to_talk_do_not_matter(offender: Client) -> None:
    offender.send(START, s16le(TONE, silence(3.0)), said("keepalive"), s16le(silence(0.2), TONE), FLUSH, END)

    assert [("p", "canary 0.50", "flush")] == [
        (m.id, m.text, m.reason) for m in offender.rest()[0] if isinstance(m, Final)
    ]


def test_a12_speech_without_a_pause_is_cut_and_nothing_is_lost(offender: Client) -> None:
    offender.send(*in_chunks(s16le(tone(70.0)), [320_000]), END)
    came, _ = offender.rest()
    finals = [m for m in came if isinstance(m, Final)]

    assert ["max_length", "max_length", "end"] == [m.reason for m in finals]
    assert [m.end_ms for m in finals[:-1]] == [m.start_ms for m in finals[1:]]
    assert (0, 70_000, 70_000) == (finals[0].start_ms, finals[-1].end_ms, came[-1].speech_ms)


def test_a14_a_new_start_changes_the_format_in_mid_stream(offender: Client) -> None:
    offender.send(
        START, WORD, said("start", id="p", channels=2, encoding="f32le"), STEREO.astype("<f4").tobytes(), FLUSH, END
    )
    came, _ = offender.rest()

    assert [("p", 1280)] == [(m.id, m.timing.audio_ms) for m in came if isinstance(m, Final)]
    assert [2] == [m.channels for m in came if isinstance(m, Ready)]


# ---- S: tokens


BAD_TOKENS = ["", "wrong", "sesam", "sesame0", "Sesame", "%00", "sesame%00", "%EC%97%B4", "t" * 4000]


@pytest.mark.parametrize("token", BAD_TOKENS, ids=lambda token: token[:10] or "none")
def test_s1_a_wrong_token_is_accepted_told_and_closed(token: str, stage: Stage, offender: Client) -> None:
    with connect(stage.url, f"?events=json&token={token}") as stranger:
        if not token:
            stranger.send(WORD)
        [error], code = stranger.rest()

    assert ("unauthorized", 4401, 4401, False) == (error.code, error.close, code, error.retryable)


def test_s1_the_wrong_token_of_the_first_message(stage: Stage, offender: Client) -> None:
    for first in [said("start", token="wrong"), said("start", token="t" * 100_000), said("flush"), WORD, b"", "x"]:
        with connect(stage.url, "?events=json") as stranger:
            stranger.send(first)
            [error], code = stranger.rest()
            assert ("unauthorized", 4401) == (error.code, code)


def test_s2_the_token_counts_in_the_url_the_header_and_the_first_message(stage: Stage, offender: Client) -> None:
    for query, headers, first in [
        (f"?events=json&token={TOKEN}", {}, START),
        ("?events=json", {"Authorization": f"Bearer {TOKEN}"}, START),
        ("?events=json", {}, said("start", id="p", token=TOKEN)),
        ("", {}, said("start", id="p", token=TOKEN)),
    ]:
        with connect(stage.url, query, additional_headers=headers) as known:
            known.send(first, WORD, FLUSH, END)
            came, code = known.rest()
            assert (["canary 0.50"], 1000) == ([m.text for m in came if isinstance(m, Final)], code)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("null", 403),
        ("https://good.evil.example", 403),
        ("https://evil.example?good.example", 403),
        ("http://127.0.0.1:1", 403),
        ("http://xn--good.example", 403),
    ],
)
def test_s5_a_page_that_is_not_listed_is_refused_before_the_accept(
    origin: str, status: int, stage: Stage, offender: Client
) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused, connect(stage.url, origin=origin):
        pass

    assert status == refused.value.response.status_code


def test_s5_no_origin_and_the_servers_own_are_fine(stage: Stage, offender: Client) -> None:
    for options in [{}, {"origin": stage.http}, {"origin": stage.http.upper()}]:
        with connect(stage.url, **options) as known:
            assert isinstance(known.next(), Ready)


# ---- plain mode: the close code is all that a game's HUD does not print

PLAIN_CLOSES: list[tuple[str, list[Sent], int]] = [
    ("P20", ["hello"], 4400),
    ("P20", [b"\0\0" * 100, ""], 4400),
    ("P21", ["[" * 100_000], 4400),
    ("P21", ["null"], 4400),
    ("P21", ['\ufeff{"type":"flush"}'], 4400),
    ("P21", ["{" * 100_000], 4400),
    ("P23", ["flush"] * 200, 4429),
    ("A4", [said("start", sample_rate=1)], 4415),
]


@pytest.mark.parametrize(
    ("row", "messages", "close"), PLAIN_CLOSES, ids=[f"{row[0]}-{i}" for i, row in enumerate(PLAIN_CLOSES)]
)
def test_a_plain_client_is_told_by_the_close_code(
    row: str, messages: list[Sent], close: int, stage: Stage, offender: Client
) -> None:
    with connect(stage.url, f"?token={TOKEN}") as plain:
        with suppress(ConnectionClosed):  # it may be told in the middle of it
            plain.send(*messages)
        came, code = plain.rest()

    assert close == code
    assert ["error"] * (row == "A4") == [message.type for message in came]  # its `start` was JSON

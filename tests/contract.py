"""What every client may rely on, wherever the server runs: one suite for uvicorn and for Modal's container runtime.

A test class inherits `Contract` and brings a fixture `service`: the address of a server with the embedded model that
was started with `SETTINGS`. The server is shared, so every test leaves it as it found it.
"""

import json
import uuid
import wave
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import websockets.sync.client
from conftest import in_chunks, wav_header
from servers import ANSWER_S, START_S, TEST_AUDIO, Address, letters, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

TOKEN = "swordfish"
SESSIONS = 6
SETTINGS = {"STT_TOKEN": f"{TOKEN},marlin", "STT_MAX_SESSIONS": str(SESSIONS)}
FRAME_BYTES = 3200  # 100 ms
LARGEST_BYTES = 2 * 1024 * 1024
MOM = "엄마"
TREE_FROG = "정답은청개구리입니다"
FAILURE = "인식 실패"
TRANSCRIPTIONS = "/v1/audio/transcriptions"


def pcm(name: str) -> bytes:
    with wave.open(str(TEST_AUDIO / f"{name}.wav")) as file:
        return file.readframes(file.getnframes())


def pause(duration_s: float) -> bytes:
    return bytes(round(duration_s * 16_000) * 2)


@contextmanager
def connected(service: Address, query: str = "", token: str | None = TOKEN) -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    with websockets.sync.client.connect(
        service.url + query, additional_headers=headers, compression=None, open_timeout=START_S
    ) as socket:
        yield socket


def line(socket: ClientConnection) -> str:
    text = socket.recv(timeout=ANSWER_S)
    assert isinstance(text, str)
    return text


def message(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next message of one of these types; others in between are left out."""
    while True:
        received = json.loads(line(socket))
        if received["type"] in kinds:
            return dict(received)


def say(socket: ClientConnection, **fields: object) -> None:
    socket.send(json.dumps(fields))


def stream(socket: ClientConnection, audio: bytes) -> None:
    for chunk in in_chunks(audio, [FRAME_BYTES]):
        socket.send(chunk)


def closed(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason of the server's close, which must come next."""
    with pytest.raises(ConnectionClosed) as caught:
        socket.recv(timeout=ANSWER_S)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def answered(service: Address, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, bytes]:
    """Status, content type and body of an HTTP request; with a body it is a POST."""
    request = Request(service.http + path, data=body, headers={"Authorization": f"Bearer {TOKEN}"} | headers)
    try:
        with urlopen(request, timeout=ANSWER_S) as response:
            return response.status, response.headers["Content-Type"], response.read()
    except HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def wait_for_sessions(service: Address, count: int) -> None:
    wait_until(lambda: service.json("/readyz")["sessions"] == count, f"{count} sessions", ANSWER_S)


class Contract:
    """The suite."""

    # -- plain mode

    def test_a_recording_in_one_message_is_one_line(self, service):
        with connected(service) as socket:
            socket.send((TEST_AUDIO / "mom.wav").read_bytes())
            socket.send(pcm("answer_tree_frog") + b"\x7f")  # and a stray byte
            assert [MOM, TREE_FROG] == [line(socket), letters(line(socket))]

    def test_silence_sent_whole_is_answered_all_the_same(self, service):
        with connected(service) as socket:
            socket.send(pcm("silence"))
            assert FAILURE == line(socket)

    def test_push_to_talk_is_answered_when_it_is_released(self, service):
        with connected(service, "?endpointing=off") as socket:
            stream(socket, pcm("mom"))
            socket.send("flush")
            assert MOM == line(socket)
            socket.send("flush")
            assert FAILURE == line(socket)

    def test_an_open_microphone_is_answered_at_each_pause(self, service):
        with connected(service, "?endpointing=on") as socket:
            stream(socket, pcm("two_sentences") + pause(1))
            assert [letters("왼쪽으로 가자"), letters("마법을 사용해")] == [
                letters(line(socket)),
                letters(line(socket)),
            ]

    def test_another_language_by_the_address(self, service):
        with connected(service, "?language=en") as socket:
            socket.send(pcm("open_the_gate"))
            assert letters("Open the gate") == letters(line(socket))

    def test_the_longest_message_is_taken_and_one_byte_more_closes_with_1009(self, service):
        with connected(service) as socket:
            socket.send(pcm("mom") + bytes(LARGEST_BYTES - len(pcm("mom"))))
            assert MOM == line(socket)
            with suppress(ConnectionClosed):  # the server may close before all is sent
                socket.send(bytes(LARGEST_BYTES + 1))
            assert 1009 == closed(socket)[0]

    @pytest.mark.parametrize(
        ("query", "code"),
        [("?language=Klingon", 4400), ("?endpointing=maybe", 4400), ("?sample_rate=99", 4415), ("?encoding=mp3", 4415)],
    )
    def test_an_address_that_cannot_be_served_closes_with_a_reason(self, service, query, code):
        with connected(service, query) as socket:
            came, reason = closed(socket)
        assert code == came
        assert reason

    def test_text_that_is_no_message_closes_with_4400(self, service):
        with connected(service) as socket:
            socket.send("hello")
            assert 4400 == closed(socket)[0]

    # -- JSON mode

    def test_json_push_to_talk_gives_one_final_with_its_id(self, service):
        with connected(service, "?events=json&sample_rate=48000") as socket:
            ready = message(socket, "ready")
            assert (1, 48000) == (ready["protocol"], ready["sample_rate"])
            assert LARGEST_BYTES == ready["limits"]["max_message_bytes"]
            say(socket, type="start", id="line-7", sample_rate=16000)
            stream(socket, pcm("mom"))
            say(socket, type="flush", id="line-7")
            final = message(socket, "final")
            assert (MOM, "line-7", "flush") == (final["text"].strip("."), final["id"], final["reason"])

    def test_an_open_microphone_tells_of_speech_and_its_end(self, service):
        with connected(service, "?events=json") as socket:
            say(socket, type="start")
            stream(socket, pcm("mom") + pause(1))
            kinds = ("speech_started", "speech_ended", "final")
            assert list(kinds) == [message(socket, *kinds)["type"] for _ in kinds]

    def test_cancel_throws_away_and_end_sums_up(self, service):
        with connected(service, "?events=json") as socket:
            say(socket, type="start", id="no")
            stream(socket, pcm("mom"))
            say(socket, type="cancel", id="no")
            say(socket, type="end")
            totals = message(socket, "final", "closed")
            assert ("closed", 0) == (totals["type"], totals["utterances"])
            assert totals["cancelled_ms"] > 0
            assert 1000 == closed(socket)[0]

    def test_the_first_json_message_begins_json_mode(self, service):
        with connected(service) as socket:
            say(socket, type="start", id="a")
            assert "ready" == json.loads(line(socket))["type"]

    @pytest.mark.parametrize("text", ["{nonsense", '{"type":"dance"}', '{"type":"start","language":"Klingon"}'])
    def test_a_wrong_message_is_an_error_and_the_session_goes_on(self, service, text):
        with connected(service, "?events=json") as socket:
            socket.send(text)
            error = message(socket, "error")
            assert "bad_message" == error["code"]
            assert "close" not in error
            say(socket, type="end")
            assert "closed" == message(socket, "closed")["type"]

    # -- the door

    def test_any_of_the_tokens_lets_in_by_header_address_or_first_message(self, service):
        with connected(service, token="marlin") as socket:
            socket.send(pcm("mom"))
            assert MOM == line(socket)
        with connected(service, f"?token={TOKEN}&events=json", token=None) as socket:
            assert "ready" == message(socket, "ready", "error")["type"]
        with connected(service, token=None) as socket:
            say(socket, type="start", token=TOKEN)
            assert "ready" == message(socket, "ready", "error")["type"]

    def test_a_wrong_token_is_told_and_closes_with_4401(self, service):
        with connected(service, token="minnow") as socket:
            code, reason = closed(socket)
        assert 4401 == code
        assert "token" in reason
        with connected(service, "?events=json", token="minnow") as socket:
            error = message(socket, "ready", "error")
            assert ("error", "unauthorized", False) == (error["type"], error["code"], error["retryable"])
            assert 4401 == closed(socket)[0]

    def test_audio_before_the_token_closes_with_4401(self, service):
        with connected(service, token=None) as socket:
            socket.send(pcm("mom"))
            assert 4401 == closed(socket)[0]

    def test_a_page_from_elsewhere_is_refused_before_the_socket_opens(self, service):
        with pytest.raises(InvalidStatus) as refused:
            websockets.sync.client.connect(
                service.url, additional_headers={"Authorization": f"Bearer {TOKEN}"}, origin="https://evil.example"
            )
        assert 403 == refused.value.response.status_code

    def test_one_client_too_many_is_told_so_at_once(self, service):
        wait_for_sessions(service, 0)  # those of the tests before may still be leaving
        with ExitStack() as inside:
            for _ in range(SESSIONS):
                socket = inside.enter_context(connected(service, "?events=json"))
                message(socket, "ready")
            with connected(service, "?events=json") as socket:
                error = message(socket, "ready", "error")
                assert ("busy", True) == (error["code"], error["retryable"])
                assert error["retry_after_ms"] > 0
                assert 4503 == closed(socket)[0]
            assert SESSIONS == service.json("/readyz")["sessions"]
        wait_for_sessions(service, 0)

    def test_a_client_that_vanishes_leaves_nothing_behind(self, service):
        with connected(service) as socket:
            stream(socket, pcm("mom"))
            wait_for_sessions(service, 1)
            socket.socket.close()  # no close frame
        wait_for_sessions(service, 0)

    # -- HTTP

    @pytest.mark.parametrize(
        ("path", "content_type"),
        [
            ("/", "text/html"),
            ("/healthz", "application/json"),
            ("/readyz", "application/json"),
            ("/metrics", "text/plain"),
            ("/asyncapi.json", "application/json"),
            ("/messages.schema.json", "application/json"),
            ("/v1/models", "application/json"),
            ("/openapi.json", "application/json"),
        ],
    )
    def test_a_route_answers(self, service, path, content_type):
        status, came, body = answered(service, path)
        assert (200, content_type) == (status, came.partition(";")[0])
        assert body

    def test_an_unknown_route_is_404(self, service):
        assert 404 == answered(service, "/nothing")[0]

    @pytest.mark.parametrize(("path", "method"), [("/v1/models", "GET"), ("/metrics", "GET"), (TRANSCRIPTIONS, "POST")])
    def test_http_wants_the_token_too(self, service, path, method):
        body = b"nothing that is read" if method == "POST" else None
        assert 401 == answered(service, path, body, Authorization="Bearer minnow")[0]

    def test_a_file_is_transcribed_as_openai_does(self, service):
        body, content_type = form(model="whisper-1", response_format="text", file=(TEST_AUDIO / "mom.wav").read_bytes())
        status, _, text = answered(service, TRANSCRIPTIONS, body, **{"Content-Type": content_type})
        assert (200, letters(MOM)) == (status, letters(text.decode()))

    def test_a_file_may_be_answered_piece_by_piece(self, service):
        body, content_type = form(
            model="whisper-1", stream="true", file=(TEST_AUDIO / "two_sentences.wav").read_bytes()
        )
        status, came, events = answered(service, TRANSCRIPTIONS, body, **{"Content-Type": content_type})
        assert (200, "text/event-stream") == (status, came.partition(";")[0])
        assert b'"type":"transcript.text.done"' in events.replace(b": ", b":")

    def test_a_body_of_megabytes_arrives_whole(self, service):
        audio = wav_header(4_000_000) + pcm("mom") + bytes(4_000_000 - len(pcm("mom")))
        body, content_type = form(model="whisper-1", response_format="text", file=audio)
        status, _, text = answered(service, TRANSCRIPTIONS, body, **{"Content-Type": content_type})
        assert (200, letters(MOM)) == (status, letters(text.decode()))

    def test_a_file_that_is_no_audio_is_a_sentence(self, service):
        body, content_type = form(model="whisper-1", file=b"not audio")
        status, _, answer = answered(service, TRANSCRIPTIONS, body, **{"Content-Type": content_type})
        assert 400 == status
        assert json.loads(answer)["error"]["message"].endswith(".")

    def test_the_metrics_count_what_was_said(self, service):
        def utterances() -> float:
            rows = answered(service, "/metrics")[2].decode().splitlines()
            return sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith("stt_utterances_total{"))

        before = utterances()
        with connected(service) as socket:
            socket.send(pcm("mom"))
            assert MOM == line(socket)
        assert before + 1 == utterances()


def form(**fields: str | bytes) -> tuple[bytes, str]:
    """A form, and its content type. Bytes are a file's."""
    boundary = uuid.uuid4().hex
    parts = []
    for name, value in fields.items():
        file_name = f'; filename="{name}.wav"' if isinstance(value, bytes) else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n\r\n'
        parts.append(head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"

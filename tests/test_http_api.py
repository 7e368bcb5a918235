"""OpenAI's endpoints: its own client against them, and everything that strangers may send instead."""

import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import anyio
import numpy as np
import openai
import pytest
from conftest import s16le, silence, tone, wav_header
from fastapi import FastAPI
from servers import TEST_AUDIO, Address, fake_server, letters, running_server, wait_until
from starlette.testclient import TestClient

from stt_core.app import create_app
from stt_core.audio import Samples
from stt_core.batching import Priority
from stt_core.errors import ModelError
from stt_core.fakes import EnergyVad, FakeEngine
from stt_core.settings import Settings
from stt_core.transcription import Request, Segment, Transcript, Word

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TOKEN = "open-sesame"
PAD_S = 0.5  # audio in front of the speech that belongs to its utterance, rounded to windows of 32 ms
ANSWER_S = 30.0


class TimedEngine(FakeEngine):
    """Hears `하나 둘` in every utterance: the words in its first second, 0.25 s to 0.5 s and 0.5 s to 1 s."""

    def __init__(self) -> None:
        super().__init__(lambda _: "하나 둘")

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        words = (Word(" 하나", 0.25, 0.5, 0.9), Word(" 둘", 0.5, 1.0, 0.8))
        return [
            replace(
                transcript,
                segments=(Segment(" 하나 둘", 0.25, 1.0, -0.2, 0.1, words if request.timestamps == "word" else ()),)
                if request.timestamps
                else (),
            )
            for request, transcript in zip(requests, super().transcribe(requests), strict=True)
        ]

    @property
    def asked(self) -> list[Request]:
        return [request for batch in self.batches for request in batch]


def wav(*parts: Samples) -> bytes:
    data = s16le(*parts)
    return wav_header(len(data)) + data


# Speech at 1 s and, after a pause that parts utterances, at 6 s of 7.
TWO_UTTERANCES = wav(silence(1.0), tone(1.0), silence(4.0), tone(1.0))
THREE_UTTERANCES = wav(*[tone(1.0), silence(4.0)] * 3)
WORD = wav(tone(0.32))


# -- OpenAI's client


@pytest.fixture(scope="module")
def engine() -> TimedEngine:
    return TimedEngine()


@pytest.fixture(scope="module")
def server(engine: TimedEngine) -> Iterator[Address]:
    with fake_server(engine, Settings.from_environment({}, token=TOKEN)) as address:
        wait_until(lambda: address.status("/readyz") == 200, "the model to be loaded")
        yield address


@pytest.fixture
def client(server: Address, engine: TimedEngine) -> Iterator[openai.OpenAI]:
    engine.batches.clear()
    with client_of(server) as client:
        yield client


@contextmanager
def client_of(server: Address, api_key: str = TOKEN) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.http + "/v1", api_key=api_key, max_retries=0, timeout=60) as client:
        yield client


def transcribe(client: openai.OpenAI, data: bytes = TWO_UTTERANCES, **options: Any) -> Any:
    return client.audio.transcriptions.create(file=("speech.wav", data), model="whisper-1", **options)


def translate(client: openai.OpenAI, data: bytes = TWO_UTTERANCES, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI's own translation ends in 2027
        return client.audio.translations.create(file=("speech.wav", data), model="whisper-1", **options)


def test_openai_json(client):
    answer = transcribe(client)

    assert ("하나 둘 하나 둘", 7.0) == (answer.text, answer.usage.seconds)


def test_openai_text(client):
    assert "하나 둘 하나 둘\n" == transcribe(client, response_format="text")


def test_openai_verbose_json_has_times_of_the_file(client, engine):
    answer = transcribe(client, response_format="verbose_json")

    assert ("하나 둘 하나 둘", "ko", 7.0, None) == (answer.text, answer.language, answer.duration, answer.words)
    assert ["하나 둘", "하나 둘"] == [segment.text for segment in answer.segments]
    assert [0, 1] == [segment.id for segment in answer.segments]
    first, second = answer.segments
    assert (1.0 - PAD_S + 0.25, 1.0 - PAD_S + 1.0) == pytest.approx((first.start, first.end), abs=0.04)
    assert (6.0 - PAD_S + 0.25, 6.0 - PAD_S + 1.0) == pytest.approx((second.start, second.end), abs=0.04)
    assert (-0.2, 0.1) == (first.avg_logprob, first.no_speech_prob)
    assert ["segment", "segment"] == [request.timestamps for request in engine.asked]


def test_openai_words(client, engine):
    answer = transcribe(client, response_format="verbose_json", timestamp_granularities=["word"])

    assert ["하나", "둘", "하나", "둘"] == [word.word for word in answer.words]
    starts = [0.75, 1.0, 5.75, 6.0]
    assert starts == pytest.approx([word.start for word in answer.words], abs=0.04)
    assert answer.segments is None
    assert ["word", "word"] == [request.timestamps for request in engine.asked]


def test_openai_words_and_segments(client):
    answer = transcribe(client, response_format="verbose_json", timestamp_granularities=["word", "segment"])

    assert (4, 2) == (len(answer.words), len(answer.segments))


def test_openai_srt_and_vtt(client):
    srt = transcribe(client, response_format="srt")
    vtt = transcribe(client, response_format="vtt")

    assert ["1", "하나 둘", "", "2", "하나 둘"] == [line for line in srt.splitlines() if "-->" not in line][:5]
    assert ["WEBVTT", "", "하나 둘", "", "하나 둘"] == [line for line in vtt.splitlines() if "-->" not in line][:5]
    assert 2 == srt.count("-->") == vtt.count("-->")


def test_openai_stream_has_an_event_for_each_utterance(client):
    events = list(transcribe(client, stream=True))

    assert [
        ("transcript.text.delta", "하나 둘"),
        ("transcript.text.delta", " 하나 둘"),
        ("transcript.text.done", "하나 둘 하나 둘"),
    ] == [(event.type, getattr(event, "delta", None) or event.text) for event in events]


def test_openai_options_reach_the_model(client, engine):
    transcribe(
        client, language="en", prompt="Gandalf", temperature=0.7, extra_body={"keywords": ["Mordor", "청개구리"]}
    )

    assert {("transcribe", "en", "Gandalf", "Mordor 청개구리", None)} == {
        (request.task, request.language, request.prompt, request.hotwords, request.timestamps)
        for request in engine.asked
    }


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt", "verbose_json"])
def test_openai_translations(client, engine, response_format):
    answer = translate(client, response_format=response_format, prompt="Gandalf")

    assert "하나 둘" in getattr(answer, "text", answer)
    assert {("translate", "ko", "Gandalf")} == {
        (request.task, request.language, request.prompt) for request in engine.asked
    }


def test_openai_models(client):
    assert ["fake", "whisper-1"] == [model.id for model in client.models.list()]
    assert "fake" == client.models.retrieve("fake").id
    with pytest.raises(openai.NotFoundError, match="'gpt-9/turbo' is not served here: expected fake or whisper-1"):
        client.models.retrieve("gpt-9/turbo")


def test_openai_file_of_silence_has_an_empty_text(client, engine):
    silent = wav(silence(2.0))

    assert "" == transcribe(client, silent).text
    assert "WEBVTT\n\n" == transcribe(client, silent, response_format="vtt")
    assert [("transcript.text.done", "")] == [
        (event.type, event.text) for event in transcribe(client, silent, stream=True)
    ]
    assert [] == engine.asked


def test_openai_errors_are_those_of_openai(client, server):
    with pytest.raises(openai.BadRequestError, match="not audio that can be read") as caught:
        transcribe(client, b"this is no audio")
    assert ("file", "invalid_audio", "invalid_request_error") == (
        caught.value.param,
        caught.value.code,
        caught.value.type,
    )
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(file=("speech.wav", WORD), model="whisper-9")
    assert "model_not_found" == caught.value.code
    with client_of(server, "wrong") as stranger, pytest.raises(openai.AuthenticationError) as caught:
        transcribe(stranger)
    assert "invalid_api_key" == caught.value.code


def test_openai_client_is_told_that_its_file_is_too_large(client, server):
    with pytest.raises(openai.APIStatusError) as caught:
        transcribe(client, bytes(60_000_000))

    assert (413, "file_too_large") == (caught.value.status_code, caught.value.code)


# -- what is not OpenAI's client


@contextmanager
def app_of(engine: FakeEngine, **settings: object) -> Iterator[TestClient]:
    """The app in this process, its model loaded."""
    with TestClient(create_app(Settings.from_environment({}, **settings), engine, vad=EnergyVad())) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the model to be loaded")
        yield client


def post(client: TestClient, data: bytes = WORD, path: str = TRANSCRIPTIONS, **fields: str | list[str]) -> Any:
    return client.post(path, files={"file": ("speech.wav", data)}, data=fields)


def error(answer: Any) -> tuple[int, str, str | None]:
    """Status, code and field of an error, whose sentence tells nobody about the machine."""
    assert {"error"} == set(answer.json())
    detail = answer.json()["error"]
    assert {"message", "type", "param", "code"} == set(detail)
    assert detail["message"].rstrip().endswith((".", ")."))
    assert not any(secret in answer.text for secret in ("Traceback", ".py", "/work", "0x", "Error("))
    return answer.status_code, detail["code"], detail["param"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"language": "kr"}, "language"),
        ({"language": ["ko", "en"]}, "language"),
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "1.1"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"timestamp_granularities[]": ["segment", "letter"]}, "timestamp_granularities"),
        ({"stream": "perhaps"}, "stream"),
        ({"prompt": "x" * 1001}, "prompt"),
        ({"keywords": ["x"] * 33}, "keywords"),
        ({"keywords": "x" * 101}, "keywords"),
    ],
)
def test_a_field_that_is_not_served_is_named(fields, param):
    with app_of(FakeEngine()) as client:
        assert (400, "invalid_value", param) == error(post(client, **fields))


def test_fields_that_are_empty_or_unknown_do_not_matter():
    with app_of(FakeEngine()) as client:
        answer = post(client, language="", model="", temperature="", chunking_strategy="auto", user="somebody")

    assert (200, "ko 320 ms") == (answer.status_code, answer.json()["text"])


def test_the_served_model_is_asked_under_both_names_and_no_other():
    with app_of(FakeEngine()) as client:
        assert [200, 200, 404] == [
            post(client, model=name).status_code for name in ("fake", "whisper-1", "gpt-4o-transcribe")
        ]


def test_a_form_without_a_file_is_told_so():
    with app_of(FakeEngine()) as client:
        without = client.post(TRANSCRIPTIONS, files={"other": ("a.wav", WORD)})
        as_text = client.post(TRANSCRIPTIONS, files={"file": (None, b"speech")})

    assert (400, "missing_required_parameter", "file") == error(without) == error(as_text)


def test_a_body_that_is_no_form_is_not_read():
    with app_of(FakeEngine()) as client:
        assert (415, "unsupported_media_type", None) == error(client.post(TRANSCRIPTIONS, content=WORD))
        assert (415, "unsupported_media_type", None) == error(client.post(TRANSCRIPTIONS, json={"file": "x"}))


def test_a_long_recording_is_split_where_it_pauses_and_where_it_grows_too_long():
    engine = FakeEngine(lambda request: f"{len(request.samples) / 16_000:.0f}s")
    with app_of(engine) as client:
        text = post(client, wav(tone(40.0), silence(3.0), tone(5.0))).json()["text"]

    durations_s = [len(request.samples) / 16_000 for [request] in engine.batches]
    assert 3 == len(text.split()) == len(durations_s)
    assert max(durations_s) <= 28.0
    assert 45.0 == pytest.approx(sum(durations_s), abs=2.0)


def test_a_short_pause_does_not_part_an_utterance():
    engine = FakeEngine()
    with app_of(engine) as client:
        post(client, wav(tone(1.0), silence(1.5), tone(1.0)))

    assert [1] == [len(batch) for batch in engine.batches]


def test_the_language_of_an_answer_is_that_of_most_of_the_speech():
    class Polyglot(FakeEngine):
        def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
            return [Transcript("x", "ko" if len(request.samples) > 32_000 else "en") for request in requests]

    with app_of(Polyglot()) as client:
        data = wav(tone(1.0), silence(3.0), tone(5.0), silence(3.0), tone(1.0))
        assert "ko" == post(client, data, language="auto", response_format="verbose_json").json()["language"]


def test_while_the_model_loads_clients_are_told_when_to_come_back():
    engine = FakeEngine()
    engine.may_load.clear()
    with TestClient(create_app(Settings(), engine, vad=EnergyVad())) as client:
        answer = post(client)
        engine.may_load.set()

    assert (503, "model_loading", None) == error(answer)
    assert answer.headers["Retry-After"].isdigit()


def test_without_a_model_clients_are_told_no_more_than_that():
    engine = FakeEngine()
    engine.load_error = ModelError("There is no model in /home/somebody/models.")
    with TestClient(create_app(Settings(), engine, vad=EnergyVad(), on_load_failed=lambda _: None)) as client:
        wait_until(lambda: client.get("/readyz").json()["status"] == "failed", "the failure")
        answer = post(client)

    assert (503, "model_unavailable", None) == error(answer)
    assert "/home" not in answer.text


def test_a_defect_is_answered_in_a_sentence(caplog):
    def fail(request: Request) -> str:
        raise RuntimeError("/srv/secret.py is broken")

    with app_of(FakeEngine(fail)) as client:
        assert (500, "internal_error", None) == error(post(client))
        events = post(client, stream="true")
    assert (500, "internal_error", None) == error(events)  # before the first event there still is a status
    assert "secret.py" in caplog.text


def test_what_goes_wrong_in_a_stream_is_its_last_event():
    texts = iter(["하나"])
    with app_of(FakeEngine(lambda request: next(texts))) as client:
        answer = post(client, TWO_UTTERANCES, stream="true")

    first, last = [line for line in answer.text.split("\n") if line]
    assert (200, 'data: {"type":"transcript.text.delta","delta":"하나"}') == (answer.status_code, first)
    assert '"code":"internal_error"' in last


def test_head_works_where_get_does_and_unused_methods_are_refused():
    with app_of(FakeEngine()) as client:
        for path in ("/", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/fake"):
            head, get = client.head(path), client.get(path)
            assert (200, b"") == (head.status_code, head.content), path
            assert get.headers["content-type"] == head.headers["content-type"]
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
                refused = client.request(method, path)
                assert (405, "method_not_allowed", None) == error(refused)
                assert {"GET", "HEAD"} == set(refused.headers["Allow"].split(", "))
        for method in ("GET", "HEAD", "PUT", "OPTIONS"):
            assert 405 == client.request(method, TRANSCRIPTIONS).status_code


@pytest.mark.parametrize(
    "path", ["/debug", "/.env", "/%2e%2e/etc/passwd", "/v1//models", "/v1", "/v1/models/", "/v1/chat"]
)
def test_there_is_nothing_at_other_addresses(path):
    with app_of(FakeEngine()) as client:
        assert 404 == error(client.get(path, follow_redirects=True))[0]


def test_a_guarded_server_shows_nothing_without_its_token():
    with app_of(FakeEngine(), token=TOKEN) as client:
        for path in ("/metrics", "/v1/models", "/v1/models/fake"):
            answer = client.get(path)
            assert (401, "invalid_api_key", None) == error(answer)
            assert "Bearer" == answer.headers["WWW-Authenticate"]
            assert 200 == client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code
        assert 401 == post(client).status_code
        assert 200 == post(client, path=f"{TRANSCRIPTIONS}?token={TOKEN}").status_code


def test_a_foreign_web_page_is_refused_and_no_origin_is_reflected():
    with app_of(FakeEngine()) as client:
        answer = client.post(
            TRANSCRIPTIONS, files={"file": ("a.wav", WORD)}, headers={"Origin": "https://evil.example"}
        )

    assert (403, "forbidden", None) == error(answer)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_what_was_done_is_counted():
    with app_of(FakeEngine()) as client:
        post(client, TWO_UTTERANCES)
        post(client, b"nonsense")
        client.get("/nowhere")
        lines = client.get("/metrics").text.splitlines()

    assert 'stt_utterances_total{reason="upload"} 2.0' in lines
    assert f'stt_http_requests_total{{route="{TRANSCRIPTIONS}",status="200"}} 1.0' in lines
    assert f'stt_http_requests_total{{route="{TRANSCRIPTIONS}",status="400"}} 1.0' in lines
    assert 'stt_http_requests_total{route="other",status="404"} 1.0' in lines


# -- bodies that no client library sends: the app is called as a server would call it


class Call:
    """One request, its body chunk by chunk."""

    def __init__(self, chunks: Iterator[bytes], *, then: str = "end", **headers: str) -> None:
        self._chunks = chunks
        self._then = then  # the client waits for its answer (`end`), leaves (`leave`) or never goes on (`stall`)
        self._headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.taken = 0  # bytes that the app has taken
        self.messages: list[dict[str, Any]] = []
        self.may_leave = anyio.Event()

    async def receive(self) -> dict[str, Any]:
        chunk = next(self._chunks, None)
        if chunk is not None:
            self.taken += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": True}
        if self._then == "end":
            self._then = "answered"
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._then == "leave":
            return {"type": "http.disconnect"}
        if self._then == "answered":
            await self.may_leave.wait()
            return {"type": "http.disconnect"}
        await anyio.sleep_forever()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    async def run(self, app: FastAPI) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": TRANSCRIPTIONS,
            "raw_path": TRANSCRIPTIONS.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1"), *self._headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        with anyio.fail_after(ANSWER_S):
            await app(scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])


FORM = "multipart/form-data; boundary=frontier"
STREAM_FIELD = b'--frontier\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
END = b"\r\n--frontier--\r\n"
FILE_HEAD = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@asynccontextmanager
async def running(engine: FakeEngine, **settings: object) -> AsyncIterator[FastAPI]:
    app = create_app(Settings.from_environment({}, **settings), engine, vad=EnergyVad())
    async with app.router.lifespan_context(app):
        with anyio.fail_after(ANSWER_S):
            while not app.state.server.ready:
                await anyio.sleep(0.01)
        yield app


def status_of(call: Call, **settings: object) -> int:
    async def main() -> int:
        async with running(FakeEngine(), **settings) as app:
            await call.run(app)
            return call.status

    return anyio.run(main)


def endless(head: bytes, chunk: bytes) -> Iterator[bytes]:
    yield head
    while True:
        yield chunk


def test_an_announced_file_that_is_too_large_is_refused_unread():
    call = Call(endless(FILE_HEAD, bytes(65_536)), content_type=FORM, content_length=str(10**9))

    assert (413, 0) == (status_of(call), call.taken)


@pytest.mark.parametrize("announced", [{}, {"content_length": "1000"}, {"content_length": "-5"}])
def test_a_file_that_never_ends_is_refused_at_the_limit(announced):
    call = Call(endless(FILE_HEAD, bytes(65_536)), content_type=FORM, **announced)

    assert 413 == status_of(call, max_upload_bytes=1_000_000)
    assert call.taken < 1_000_000 + 3 * 65_536


def test_parts_without_end_are_refused_at_the_limit():
    part = b'--frontier\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    call = Call(endless(part, part * 100), content_type=FORM)

    assert 400 == status_of(call)
    assert call.taken < 200 * len(part)


def test_a_file_that_does_not_arrive_in_time_is_given_up():
    call = Call(iter([FILE_HEAD]), then="stall", content_type=FORM)

    assert 408 == status_of(call, upload_timeout_s=0.05)


def test_a_client_without_token_is_refused_unread():
    call = Call(endless(FILE_HEAD, bytes(65_536)), content_type=FORM)

    assert (401, 0) == (status_of(call, token=TOKEN), call.taken)


def test_files_that_are_too_large_together_are_refused():
    call = Call(endless(FILE_HEAD, bytes(65_536)), content_type=FORM)

    assert 503 == status_of(call, max_uploads_bytes=1_000_000)
    assert call.taken < 1_000_000 + 3 * 65_536


def test_a_client_that_leaves_in_the_middle_of_its_file_leaves_nothing_behind():
    async def main() -> list[int]:
        async with running(FakeEngine(), max_uploads=1) as app:
            await Call(iter([FILE_HEAD, bytes(1000)]), then="leave", content_type=FORM).run(app)
            whole = Call(iter([FILE_HEAD + WORD + END]), content_type=FORM)
            await whole.run(app)
            return [whole.status, len(whole.messages)]

    assert [200, 2] == anyio.run(main)


class Held(FakeEngine):
    """Answers `free` requests at once, and waits with the next until it may go on."""

    def __init__(self, free: int = 0) -> None:
        super().__init__(self._hear)
        self._free = free
        self.began = threading.Event()  # it waits
        self.may_go_on = threading.Event()

    def _hear(self, request: Request) -> str:
        if len(self.batches) > self._free:
            self.began.set()
            assert self.may_go_on.wait(ANSWER_S)
        return "heard"


@pytest.mark.parametrize(("fields", "answered"), [(b"", 0), (b"", 1), (STREAM_FIELD, 0), (STREAM_FIELD, 1)])
def test_a_client_that_hangs_up_is_no_longer_worked_for(fields, answered):
    engine = Held(free=answered)

    async def main() -> int:
        async with running(engine, max_uploads=1) as app:
            call = Call(iter([fields + FILE_HEAD + THREE_UTTERANCES + END]), content_type=FORM)
            async with anyio.create_task_group() as group:
                group.start_soon(call.run, app)
                await anyio.to_thread.run_sync(engine.began.wait)
                call.may_leave.set()
            engine.may_go_on.set()
            after = Call(iter([FILE_HEAD + WORD + END]), content_type=FORM)
            await after.run(app)
            return after.status

    assert 200 == anyio.run(main)
    assert answered + 2 == len(engine.batches)  # the one that had begun was the last, and then there is another file


def test_one_file_more_than_are_worked_on_is_refused():
    engine = Held()

    async def main() -> tuple[int, bytes]:
        body = FILE_HEAD + WORD + END
        async with running(engine, max_uploads=1) as app, anyio.create_task_group() as group:
            first, second = (Call(iter([body]), content_type=FORM) for _ in range(2))
            group.start_soon(first.run, app)
            await anyio.to_thread.run_sync(engine.began.wait)
            await second.run(app)
            engine.may_go_on.set()
        assert 200 == first.status
        return second.status, dict(second.messages[0]["headers"])[b"retry-after"]

    assert (503, b"5") == anyio.run(main)


def test_whoever_plays_goes_before_the_rest_of_a_file():
    engine = Held()

    async def main() -> None:
        body = FILE_HEAD + TWO_UTTERANCES + END
        async with running(engine) as app, anyio.create_task_group() as group:
            call = Call(iter([body]), content_type=FORM)
            group.start_soon(call.run, app)
            await anyio.to_thread.run_sync(engine.began.wait)
            player = app.state.server.enqueue(Request(np.zeros(160, np.float32), "ko"), "player", Priority.FINAL)
            engine.may_go_on.set()
            await player.result()

    anyio.run(main)
    assert [160] == [len(request.samples) for request in engine.batches[1]]
    assert 3 == len(engine.batches)


# -- the real model


@pytest.fixture(scope="module")
def real() -> Iterator[openai.OpenAI]:
    with running_server("--language", "ko") as server, client_of(server, "any") as client:
        yield client


def file_of(name: str) -> BytesIO:
    file = BytesIO((TEST_AUDIO / name).read_bytes())
    file.name = name
    return file


def ask(real: openai.OpenAI, name: str, **options: Any) -> Any:
    return real.audio.transcriptions.create(file=file_of(name), model="whisper-1", **options)


@pytest.mark.model
def test_the_model_answers_openais_client(real):
    assert "엄마" == letters(ask(real, "mom.wav").text)


@pytest.mark.model
def test_the_model_puts_words_where_they_are(real):
    answer = ask(real, "two_sentences.wav", response_format="verbose_json", timestamp_granularities=["word", "segment"])

    assert letters(answer.text) == letters("".join(word.word for word in answer.words))
    assert letters(answer.text) == letters("".join(segment.text for segment in answer.segments))
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert sorted(times) == times
    assert 0 <= times[0] < times[-1] <= answer.duration
    assert answer.segments[0].start <= answer.words[0].start + 0.5
    assert len(answer.words) > 3


@pytest.mark.model
def test_the_model_gives_subtitles_and_a_stream(real):
    text = ask(real, "two_sentences.wav").text
    srt = ask(real, "two_sentences.wav", response_format="srt")
    *deltas, done = ask(real, "two_sentences.wav", stream=True)

    assert letters(text) in letters(
        "".join(line for line in srt.splitlines() if "-->" not in line and not line.isdigit())
    )
    assert text == done.text == "".join(event.delta for event in deltas)


@pytest.mark.model
def test_the_model_translates_into_english(real):
    answer = translate(real, (TEST_AUDIO / "mom.wav").read_bytes())

    assert answer.text.isascii()
    assert letters(answer.text)

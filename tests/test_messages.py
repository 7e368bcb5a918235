"""The messages of JSON mode: every field of both tables, what is refused and how, and the schemas made of them."""

import json

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_core import messages
from stt_core.audio import AudioFormat
from stt_core.messages import (
    CLIENT_MESSAGES,
    CLOSE_CODES,
    RETRYABLE,
    SERVER_MESSAGES,
    Cancel,
    Closed,
    Configure,
    Dropped,
    End,
    Final,
    Flush,
    GoingAway,
    Keepalive,
    Match,
    MessageError,
    Partial,
    Ready,
    SpeechEnded,
    SpeechStarted,
    Start,
    Status,
    Timing,
    Warning,
    declared_format,
    error_message,
    parse_client_message,
    parse_server_message,
)
from stt_core.settings import Settings

UNREAL_BYTES = 1024  # what Unreal is sure to decode in one piece
SENTENCE = "동굴 안쪽의 오래된 문을 열고 횃불을 든 다음 왼쪽 복도를 따라가서 청개구리 석상을 찾아 줘. " * 4  # 15 s

FROM_CLIENT = [
    Start(),
    Start(id="ptt-17", sample_rate=48_000, channels=2, encoding="f32le", language="ko", partials=True),
    Start(token="sesame", phrases=["청개구리", "불 켜"], hotwords="Zork", endpointing="on", task="translate"),
    Flush(),
    Flush(id="ptt-17"),
    Cancel(),
    Cancel(id="ptt-17"),
    Configure(language="auto", phrases=[], hotwords="", partials=False),
    Keepalive(),
    End(),
]
FROM_SERVER = [
    Ready(
        session_id="0123456789abcdef",
        version="0.1.0",
        model="large-v3-turbo",
        language="ko",
        limits=Settings().on_the_wire(),
    ),
    Status(eta_ms=4200),
    SpeechStarted(utterance=1, at_ms=320),
    SpeechEnded(utterance=1, at_ms=2100),
    Partial(utterance=1, text=SENTENCE[:100], stable=SENTENCE[:80]),
    Final(
        utterance=123_456,
        id="5f0f2f6e-8e1c-4f6b-9d9b-1d5b8b0f2a11",
        text=SENTENCE,
        reason="max_length",
        no_speech=False,
        language="ko",
        confidence=0.871,
        start_ms=3_400_000,
        end_ms=3_430_000,
        match=Match(phrase="청개구리", score=0.89, runner_up="황소개구리", runner_up_score=0.64),
        timing=Timing(audio_ms=30_000, queue_ms=12, infer_ms=450, ttfs_ms=470),
    ),
    Warning(
        utterance=2,
        code="sample_rate",
        message="The audio sounds as if it were 48000 Hz, declared were 16000 Hz.",
        hint="Send sample_rate=48000, or set the sample rate of the Audio Capture component to 16000.",
    ),
    Dropped(from_ms=0, to_ms=512),
    GoingAway(reason="session_limit", in_ms=30_000),
    error_message("busy", "the wait is over 30 s; try again in a moment", close=True, retry_after_ms=2000),
    Closed(utterances=3, audio_ms=9000, speech_ms=4000, silence_ms=3000, cancelled_ms=1500, dropped_ms=500),
]


def refusal(text: str) -> MessageError:
    with pytest.raises(MessageError) as caught:
        parse_client_message(text)
    return caught.value


# ---- what is understood


def test_the_tables_are_complete():
    assert {type(message) for message in FROM_CLIENT} == set(CLIENT_MESSAGES)
    assert {type(message) for message in FROM_SERVER} == set(SERVER_MESSAGES)
    assert {"start", "flush", "cancel", "configure", "keepalive", "end"} == {m.type for m in FROM_CLIENT}
    assert {
        "ready",
        "status",
        "speech_started",
        "speech_ended",
        "partial",
        "final",
        "warning",
        "dropped",
        "going_away",
        "error",
        "closed",
    } == {m.type for m in FROM_SERVER}


@pytest.mark.parametrize("message", FROM_CLIENT, ids=repr)
def test_what_a_client_sends_is_read_as_it_was_meant(message):
    assert message == parse_client_message(message.to_json())


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda message: message.type)
def test_what_the_server_sends_is_read_as_it_was_meant(message):
    assert message == parse_server_message(message.to_json())


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda message: message.type)
def test_what_the_server_sends_stays_under_a_kilobyte(message):
    assert len(message.to_json().encode()) < UNREAL_BYTES


@pytest.mark.parametrize("message", [*FROM_CLIENT, *FROM_SERVER], ids=lambda message: message.type)
def test_fields_that_are_not_known_are_ignored(message):
    newer = json.dumps(json.loads(message.to_json()) | {"player": "x", "session_id2": 5, "nested": {"a": [1]}})
    parse = parse_client_message if isinstance(message, CLIENT_MESSAGES) else parse_server_message

    assert message == parse(newer)


def test_a_field_without_a_value_does_not_travel():
    assert '{"type":"flush"}' == Flush().to_json()
    assert "id" not in json.loads(FROM_SERVER[4].to_json())


@pytest.mark.parametrize("text", ['{"type":"flush","id":null}', ' {"type" : "flush"}\n', '{"id":null,"type":"flush"}'])
def test_null_is_nothing_and_white_space_and_order_are_free(text):
    assert Flush() == parse_client_message(text)


def test_the_last_of_two_equal_keys_counts():
    assert Cancel(id="b") == parse_client_message('{"type":"flush","id":"a","type":"cancel","id":"b"}')


@pytest.mark.parametrize("number", ["48000", "48000.0", '"48000"'])
def test_a_whole_number_may_be_written_as_unreal_writes_its_numbers(number):
    assert Start(sample_rate=48_000) == parse_client_message(f'{{"type":"start","sample_rate":{number}}}')


def test_a_language_may_be_written_large():
    assert "ko" == parse_client_message('{"type":"configure","language":"KO"}').language


EDGES = [
    ("id", "i" * 64),
    ("id", "이" * 64),
    ("id", "\x00"),
    ("id", "../../etc/passwd"),
    ("token", "t" * 512),
    ("sample_rate", 8000),
    ("sample_rate", 192_000),
    ("channels", 1),
    ("channels", 8),
    ("encoding", "s16le"),
    ("encoding", "f32le"),
    ("language", "auto"),
    ("language", "yue"),
    ("language", "haw"),
    ("task", "transcribe"),
    ("task", "translate"),
    ("partials", False),
    ("endpointing", "auto"),
    ("endpointing", "off"),
    ("phrases", []),
    ("phrases", ["열" * 100] * 1000),
    ("hotwords", ""),
    ("hotwords", "<|endoftext|>"),
    ("hotwords", "말" * 500),
]


@pytest.mark.parametrize(("field", "value"), EDGES, ids=lambda value: str(value)[:20])
def test_a_value_at_the_edge_is_taken(field, value):
    assert value == getattr(parse_client_message(json.dumps({"type": "start", field: value})), field)


# ---- what is not

WRONG = [
    ("start", "id", ""),
    ("start", "id", "i" * 65),
    ("start", "id", 5),
    ("start", "id", ["a"]),
    ("flush", "id", {}),
    ("flush", "id", True),
    ("cancel", "id", ""),
    ("cancel", "id", 1.5),
    ("start", "token", "t" * 513),
    ("start", "token", 5),
    ("start", "sample_rate", 0),
    ("start", "sample_rate", -1),
    ("start", "sample_rate", 7999),
    ("start", "sample_rate", 192_001),
    ("start", "sample_rate", 2**31),
    ("start", "sample_rate", 10**30),
    ("start", "sample_rate", 44_100.5),
    ("start", "sample_rate", "16k"),
    ("start", "sample_rate", []),
    ("start", "channels", 0),
    ("start", "channels", 9),
    ("start", "channels", "stereo"),
    ("start", "encoding", "mp3"),
    ("start", "encoding", "S16LE"),
    ("start", "encoding", 16),
    ("start", "endpointing", "vad"),
    ("start", "endpointing", False),
    *(
        (kind, field, value)
        for kind in ("start", "configure")
        for field, value in [
            ("language", "zz"),
            ("language", "../ko"),
            ("language", ""),
            ("language", "한국어"),
            ("language", "k" * 100_000),
            ("language", 82),
            ("task", "summarize"),
            ("partials", "perhaps"),
            ("partials", 2),
            ("partials", []),
            ("phrases", "청개구리"),
            ("phrases", {}),
            ("phrases", [""]),
            ("phrases", ["a", None]),
            ("phrases", ["열" * 101]),
            ("phrases", ["a"] * 1001),
            ("hotwords", "말" * 501),
            ("hotwords", ["a"]),
        ]
    ),
]


@pytest.mark.parametrize(("kind", "field", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_a_wrong_value_is_refused_in_a_sentence_that_names_the_field(kind, field, value):
    error = refusal(json.dumps({"type": kind, field: value}))

    assert f"{kind}.{field}" in str(error)
    assert len(str(error)) < 250
    assert error.is_json
    assert ("unsupported_format" if field in ("sample_rate", "channels", "encoding") else "bad_message") == error.code


def test_a_token_is_never_repeated():
    assert "sesame" not in str(refusal(json.dumps({"type": "start", "token": "sesame" * 100})))
    assert "sesame" not in str(refusal(json.dumps({"type": "start", "token": ["sesame"]})))


@pytest.mark.parametrize("kind", ["", "Flush", "ready", "음" * 10_000, None, 5, True, [], {}, 1e300])
def test_an_unknown_type_is_refused_with_those_that_are_known(kind):
    sentence = str(refusal(json.dumps({"type": kind})))

    assert sentence.startswith("type must be one of start, flush, cancel, configure, keepalive, end, not ")
    assert len(sentence) < 150


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "5", "true", "{}", "[{}]", '[{"type":"flush"}]'])
def test_json_that_is_no_message_is_refused_with_an_example(text):
    error = refusal(text)

    assert 'expected a JSON object with a "type", such as {"type":"flush"}' == str(error)
    assert error.is_json


NOT_JSON = [
    "",
    " ",
    "flush",
    "{",
    "{'type':'flush'}",
    '{"type":"flush"} {}',
    '{"type":"flush",}',
    '\ufeff{"type":"flush"}',
    '{"type":"flush","id":"\\ud800"}',
    '{"type":"flush","id":"\x01"}',
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"type":"start","phrases":' + "[" * 65_536,
    '{"type":"start","sample_rate":' + "9" * 5000 + "}",
    "-" * 1000,
]


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: ascii(text[:20]))
def test_what_is_not_json_is_refused_with_an_example(text):
    error = refusal(text)

    assert str(error).startswith('expected a JSON object such as {"type":"flush"}; ')
    assert len(str(error)) < 200
    assert not error.is_json


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e5000", "-1e5000", "9" * 4000])
@pytest.mark.parametrize("field", ["sample_rate", "channels", "partials"])
def test_a_number_that_is_none_is_refused_where_one_is_due_and_ignored_where_none_is(field, number):
    assert f"start.{field}" in str(refusal(f'{{"type":"start","{field}":{number}}}'))

    assert Flush() == parse_client_message(f'{{"type":"flush","{field}":{number}}}')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = sorted({name for message in CLIENT_MESSAGES for name in message.model_fields})


@given(st.dictionaries(st.sampled_from(fields), json_values, max_size=5), st.sampled_from(CLIENT_MESSAGES))
def test_any_message_is_understood_or_refused_in_a_short_sentence(values, kind):
    text = json.dumps({"type": kind.model_fields["type"].default} | values)
    try:
        assert isinstance(parse_client_message(text), CLIENT_MESSAGES)
    except MessageError as error:
        assert len(str(error)) < 250
        assert (
            len(error_message(error.code, str(error), close=True, retry_after_ms=2000).to_json().encode())
            < UNREAL_BYTES
        )


@given(st.text(max_size=200))
def test_any_text_is_understood_or_refused(text):
    with pytest.raises(MessageError):
        parse_client_message(text)


# ---- errors


def test_every_error_has_its_close_code():
    assert {
        "bad_message": 4400,
        "unauthorized": 4401,
        "idle": 4408,
        "session_limit": 4410,
        "unsupported_format": 4415,
        "rate_limited": 4429,
        "busy": 4503,
        "restarting": 1012,
        "internal": 1011,
    } == dict(CLOSE_CODES)


def test_what_the_client_got_wrong_is_not_worth_a_retry():
    assert {"bad_message", "unauthorized", "unsupported_format"} == set(CLOSE_CODES) - RETRYABLE


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_an_error_that_closes_says_with_what(code):
    assert (CLOSE_CODES[code], None) == (
        error_message(code, "x", close=True).close,
        error_message(code, "x", close=False).close,
    )


def test_a_long_sentence_is_cut():
    error = error_message("internal", "말" * 10_000, close=True, retry_after_ms=2000)

    assert len(error.to_json().encode()) < UNREAL_BYTES


# ---- formats


def test_a_start_changes_of_the_format_what_it_names():
    present = AudioFormat(44_100, 2, "f32le")

    assert present == declared_format(Start(), present)
    assert AudioFormat(8000, 2, "f32le") == declared_format(Start(sample_rate=8000), present)
    assert AudioFormat(44_100, 8, "s16le") == declared_format(Start(channels=8, encoding="s16le"), present)


# ---- schemas

SCHEMA = messages.schema()
ASYNCAPI = messages.asyncapi("1.2.3")


def conforms(definition: str, value: object) -> bool:
    return jsonschema_rs.is_valid({"$ref": f"#/$defs/{definition}", **SCHEMA}, value)


def test_the_schema_is_a_json_schema():
    jsonschema_rs.meta.validate(SCHEMA)
    assert {m.__name__ for m in (*CLIENT_MESSAGES, *SERVER_MESSAGES)} | {"client", "server"} <= set(SCHEMA["$defs"])


@pytest.mark.parametrize("message", FROM_CLIENT, ids=repr)
def test_what_a_client_may_send_conforms_to_the_schema(message):
    value = json.loads(message.to_json())

    assert (True, True, False) == (
        conforms(type(message).__name__, value),
        conforms("client", value),
        conforms("server", value),
    )


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda message: message.type)
def test_what_the_server_sends_conforms_to_the_schema(message):
    value = json.loads(message.to_json())

    assert (True, True, False) == (
        conforms(type(message).__name__, value),
        conforms("server", value),
        conforms("client", value),
    )


@pytest.mark.parametrize(
    "value", [{}, {"type": "say"}, {"id": "a"}, {"type": "flush", "id": 5}, {"type": "start", "channels": 9}]
)
def test_the_schema_refuses_what_the_server_refuses(value):
    assert not conforms("client", value)
    refusal(json.dumps(value))


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        return ({value["$ref"]} if "$ref" in value else set()).union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def resolve(document: object, reference: str) -> object:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_every_reference_of_the_asyncapi_document_leads_somewhere():
    found = references(ASYNCAPI)

    assert 40 < len(found)
    assert all(resolve(ASYNCAPI, reference) for reference in found)


def test_the_asyncapi_document_has_every_message_of_both_directions_once():
    assert ("3.0.0", "1.2.3") == (ASYNCAPI["asyncapi"], ASYNCAPI["info"]["version"])
    names = {
        action: [resolve(ASYNCAPI, resolve(ASYNCAPI, m["$ref"])["$ref"])["name"] for m in operation["messages"]]
        for action, operation in ASYNCAPI["operations"].items()
    }

    assert ["start", "flush", "cancel", "configure", "keepalive", "end", "audio"] == names["speak"]
    assert [message.model_fields["type"].default for message in SERVER_MESSAGES] == names["answer"]
    assert ("receive", "send") == (
        ASYNCAPI["operations"]["speak"]["action"],
        ASYNCAPI["operations"]["answer"]["action"],
    )


@pytest.mark.parametrize("message", [*FROM_CLIENT, *FROM_SERVER], ids=lambda message: message.type)
def test_every_example_conforms_to_its_payload_of_the_asyncapi_document(message):
    payload = ASYNCAPI["components"]["messages"][type(message).__name__]["payload"]

    assert jsonschema_rs.is_valid({**payload, "components": ASYNCAPI["components"]}, json.loads(message.to_json()))

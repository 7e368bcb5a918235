"""Phrases in both modes: which one was meant, and that each session and utterance has its own."""

from collections.abc import Iterable

import pytest
from conftest import s16le, silence, tone

from stt_core.audio import AudioFormat
from stt_core.endpointing import EndpointingOptions
from stt_core.event_session import EventSession
from stt_core.fakes import EnergyVad
from stt_core.messages import Error, Final, Ready
from stt_core.phrases import phrase_book
from stt_core.session import (
    Action,
    Draft,
    LookAgain,
    PlainSession,
    Promote,
    Send,
    SendText,
    Transcribe,
    Withdraw,
)
from stt_core.transcription import Request, Transcript

WORD = s16le(silence(0.3), tone(0.5), silence(0.3))
READY = Ready(session_id="0", version="0", model="fake", language="ko", limits={})


def events() -> EventSession:
    return EventSession(AudioFormat(), EnergyVad(), EndpointingOptions(), ready=READY)


def answered(
    session: PlainSession | EventSession, actions: Iterable[Action], text: str, **heard: float
) -> list[Action]:
    """What the session does, with an engine that hears `text` in everything, and how likely it finds phrases."""
    done = []
    for action in actions:
        if isinstance(action, Promote) or (isinstance(action, Transcribe) and not action.speculative):
            transcript = Transcript(text, "ko", heard=heard)
            done += answered(session, session.receive_transcript(action.number, transcript), text, **heard)
        else:
            done.append(action)
    return done


def final(session: EventSession, text: str, **heard: float) -> Final:
    actions = [*session.receive_bytes(WORD), *session.receive_text('{"type":"flush"}')]
    [message] = [
        action.message
        for action in answered(session, actions, text, **heard)
        if isinstance(action, Send) and isinstance(action.message, Final)
    ]
    return message


def test_a_final_names_the_phrase_that_was_meant() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["청개구리","황소개구리"]}'))
    match = final(session, "정답은 천개구리입니다.").match

    assert match is not None
    assert ("청개구리", True, "황소개구리") == (match.phrase, match.accepted, match.runner_up)
    assert 0.78 <= match.score < 1


def test_what_comes_near_to_no_phrase_is_not_accepted() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["왼쪽","오른쪽"]}'))
    match = final(session, "고양이가 좋아요").match

    assert match is None or not match.accepted


def test_without_phrases_there_is_no_match() -> None:
    assert final(events(), "왼쪽").match is None


def test_phrases_follow_the_game_and_an_empty_list_takes_them_away() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["왼쪽","오른쪽"]}'))
    assert "왼쪽" == final(session, "왼쪽이요").match.phrase
    list(session.receive_text('{"type":"configure","phrases":["청개구리"]}'))
    assert "청개구리" == final(session, "청개구리").match.phrase
    list(session.receive_text('{"type":"configure","phrases":[]}'))
    assert final(session, "청개구리").match is None


def test_an_utterance_is_matched_against_the_phrases_of_its_own_time() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["왼쪽"]}'))
    asked = [*session.receive_bytes(WORD), *session.receive_text('{"type":"flush"}')]
    list(session.receive_text('{"type":"configure","phrases":["오른쪽"]}'))
    [message] = [
        action.message
        for action in answered(session, asked, "왼쪽")
        if isinstance(action, Send) and isinstance(action.message, Final)
    ]

    assert "왼쪽" == message.match.phrase


def test_a_phrase_without_letters_is_an_error_and_the_session_goes_on() -> None:
    session = events()
    actions = list(session.receive_text('{"type":"start","phrases":["!!!"]}'))

    [error] = [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, Error)]
    assert ("bad_message", None) == (error.code, error.close)
    assert "안녕" == final(session, "안녕").text


@pytest.mark.parametrize(
    ("heard", "line"), [("정답은 천개구리입니다.", "청개구리"), ("모르겠어요", "인식 실패"), ("", "인식 실패")]
)
def test_plain_mode_may_answer_with_the_phrase_alone(heard: str, line: str) -> None:
    book = phrase_book(("청개구리", "황소개구리"))
    session = PlainSession(AudioFormat(), EnergyVad(), EndpointingOptions(), phrases=book)
    actions = session.receive_bytes(s16le(silence(0.3), tone(1.0), silence(0.3)))

    assert [SendText(line)] == [a for a in answered(session, actions, heard) if isinstance(a, SendText)]


def requests(actions: Iterable[Action]) -> list[Request]:
    return [action.request for action in actions if isinstance(action, Transcribe | Draft | LookAgain)]


def test_the_audio_decides_what_the_text_leaves_open() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["불 마법","풀 마법"]}'))

    by_text, by_audio = (
        final(session, "뿔 마법").match,
        final(session, "뿔 마법", **{"불 마법": -5, "풀 마법": -0.5}).match,
    )

    assert (False, "text") == (by_text.accepted, by_text.by)
    assert ("풀 마법", True, "audio", "불 마법") == (
        by_audio.phrase,
        by_audio.accepted,
        by_audio.by,
        by_audio.runner_up,
    )


def test_every_request_for_a_final_asks_about_its_phrases_and_no_draft_does() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["청개구리"],"partials":true}'))
    actions = list(session.receive_bytes(s16le(tone(2.0), silence(0.3))))
    [guess] = [action for action in actions if isinstance(action, Transcribe)]
    actions += session.receive_transcript(guess.number, Transcript("참개구리", "ko", doubt="weak"))
    actions += session.receive_bytes(s16le(tone(1.0)))
    actions += session.receive_text('{"type":"flush"}')

    asked = requests(actions)
    assert {True, False} == {request.draft for request in asked}
    assert any(request.first is not None for request in asked)
    for request in asked:
        assert (None if request.draft else {"청개구리": "청개구리"}) == (
            request.alternatives and request.alternatives("참개구리")
        )


def test_without_phrases_nothing_is_asked() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["청개구리"]}'))
    list(session.receive_text('{"type":"configure","phrases":[]}'))

    [request] = requests([*session.receive_bytes(WORD), *session.receive_text('{"type":"flush"}')])
    assert request.alternatives is None


def test_a_guess_that_asked_about_other_phrases_is_withdrawn() -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["왼쪽"]}'))
    [guess] = [a for a in session.receive_bytes(s16le(tone(0.5), silence(0.3))) if isinstance(a, Transcribe)]

    assert [] == list(session.receive_text('{"type":"configure","phrases":["왼쪽"]}'))
    assert [Withdraw(guess.number)] == list(session.receive_text('{"type":"configure","phrases":["오른쪽"]}'))


@pytest.mark.parametrize("again", ['["왼쪽","오른쪽"]', '["왼쪽","오른쪽","왼쪽"]'])
def test_a_guess_stays_where_the_same_phrases_come_again(again: str) -> None:
    session = events()
    list(session.receive_text('{"type":"start","phrases":["왼쪽","오른쪽"]}'))
    [guess] = [a for a in session.receive_bytes(s16le(tone(0.5), silence(0.3))) if isinstance(a, Transcribe)]
    phrase_book.cache_clear()  # as by what other sessions expect

    assert [] == list(session.receive_text(f'{{"type":"configure","phrases":{again}}}'))
    assert [Withdraw(guess.number)] == list(session.receive_text('{"type":"configure","phrases":["오른쪽","왼쪽"]}'))


def test_plain_mode_asks_the_audio_as_well() -> None:
    book = phrase_book(("불 마법", "풀 마법"))
    session = PlainSession(AudioFormat(), EnergyVad(), EndpointingOptions(), phrases=book)
    actions = list(session.receive_bytes(s16le(silence(0.3), tone(1.0), silence(0.3))))

    [request] = requests(actions)
    assert {"불 마법", "풀 마법"} == set(request.alternatives("뿔 마법"))
    lines = answered(session, actions, "뿔 마법", **{"불 마법": -5, "풀 마법": -0.5})
    assert [SendText("풀 마법")] == [line for line in lines if isinstance(line, SendText)]


def test_plain_phrases_are_not_those_of_json_mode() -> None:
    plain = PlainSession(AudioFormat(), EnergyVad(), EndpointingOptions(), phrases=phrase_book(("왼쪽",)))
    session, _ = EventSession.taking_over(plain, READY)
    list(session.receive_text('{"type":"keepalive"}'))

    [request] = requests([*session.receive_bytes(WORD), *session.receive_text('{"type":"flush"}')])
    assert request.alternatives is None

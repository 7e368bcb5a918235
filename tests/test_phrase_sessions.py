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
from stt_core.session import Action, PlainSession, Promote, Send, SendText, Transcribe
from stt_core.transcription import Transcript

WORD = s16le(silence(0.3), tone(0.5), silence(0.3))
READY = Ready(session_id="0", version="0", model="fake", language="ko", limits={})


def events() -> EventSession:
    return EventSession(AudioFormat(), EnergyVad(), EndpointingOptions(), ready=READY)


def answered(session: PlainSession | EventSession, actions: Iterable[Action], text: str) -> list[Action]:
    """What the session does, with an engine that hears `text` in everything."""
    done = []
    for action in actions:
        if isinstance(action, Promote) or (isinstance(action, Transcribe) and not action.speculative):
            done += answered(session, session.receive_transcript(action.number, Transcript(text, "ko")), text)
        else:
            done.append(action)
    return done


def final(session: EventSession, text: str) -> Final:
    actions = [*session.receive_bytes(WORD), *session.receive_text('{"type":"flush"}')]
    [message] = [
        action.message
        for action in answered(session, actions, text)
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

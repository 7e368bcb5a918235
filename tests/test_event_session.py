"""JSON mode, rule by rule: what the client says, what the server says. No sockets, no clock, no model."""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from conftest import in_chunks, s16le, silence, tone, wav_header
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_core.audio import AudioFormat, Samples
from stt_core.confidence import confidence
from stt_core.endpointing import EndpointingOptions
from stt_core.errors import ModelError, Overloaded, ProtocolError
from stt_core.event_session import EventSession
from stt_core.fakes import EnergyVad
from stt_core.messages import Closed, Dropped, Error, Final, Partial, Ready, ServerMessage
from stt_core.session import (
    Action,
    Close,
    Draft,
    Endpointing,
    LookAgain,
    PlainSession,
    Promote,
    Send,
    Transcribe,
    Withdraw,
)
from stt_core.transcription import Decoding, Request, Timing, Transcript

READY = Ready(session_id="s", version="0", model="fake", language="ko", limits={})
WORD = s16le(tone(0.512))  # 16 windows
LONG_WORD = s16le(tone(1.024))
PAUSE = s16le(silence(0.8))  # longer than the endpoint's 500 ms
BREATH = s16le(silence(0.192))  # long enough for a guess, too short for an endpoint
FINISHED = "문을 열어 줘."

# Half a second of silence ends an utterance that does not sound finished, a quarter one that does.
OPTIONS = EndpointingOptions(min_silence_duration_ms=256, max_silence_duration_ms=500)


def length(request: Request) -> str:
    return f"{len(request.samples) / 16:.0f} ms"


class Talk:
    """Drives a session. Its engine answers finals at once, or, if it is to `wait`, when it is told to."""

    def __init__(
        self,
        endpointing: Endpointing = "auto",
        *,
        text: Callable[[Request], str] = length,
        wait: bool = False,
        **options: Any,
    ) -> None:
        self.session = EventSession(
            options.pop("audio_format", AudioFormat()),
            EnergyVad(),
            OPTIONS,
            ready=READY,
            endpointing=endpointing,
            decoding=Decoding("ko"),
            **options,
        )
        self._prepare(text, wait)
        self._do([self.session.greet()])

    def _prepare(self, text: Callable[[Request], str], wait: bool) -> None:
        self.text, self.wait = text, wait
        self.messages: list[ServerMessage] = []
        self.requests: dict[int, Transcribe | Draft | LookAgain] = {}  # that have not been answered or withdrawn
        self.asked: list[Request] = []  # all there ever were
        self.heard: list[Samples] = []  # what of them became final
        self.closed = False

    @classmethod
    def after(cls, plain: PlainSession, *, text: Callable[[Request], str] = length, wait: bool = False) -> "Talk":
        """The talk that takes over from plain mode."""
        talk = cls.__new__(cls)
        talk._prepare(text, wait)
        talk.session, actions = EventSession.taking_over(plain, READY)
        talk._do(actions)
        return talk

    # what the client does

    def hear(self, *audio: bytes, chunk_bytes: int = 640) -> "Talk":
        for chunk in in_chunks(b"".join(audio), [chunk_bytes]):
            self._do(self.session.receive_bytes(chunk))
        return self

    def tell(self, kind: str, **fields: Any) -> "Talk":
        self._do(self.session.receive_text(json.dumps({"type": kind, **fields})))
        return self

    def pause(self) -> "Talk":
        """No audio comes for a while."""
        if self.session.idle_after_s is not None:
            self._do(self.session.idle())
        return self

    # what the engine does

    def answer(self, number: int, text: str = "말", **details: Any) -> "Talk":
        self.requests.pop(number, None)
        self._do(self.session.receive_transcript(number, Transcript(text, "ko", **details)))
        return self

    def fail(self, number: int, error: Exception) -> "Talk":
        self.requests.pop(number, None)
        self._do(self.session.receive_failure(number, error))
        return self

    def refuse(self, number: int) -> "Talk":
        self.requests.pop(number, None)
        self._do(self.session.receive_refusal(number))
        return self

    def of(self, kind: type[Transcribe | Draft | LookAgain]) -> list[int]:
        """The requests of this kind that wait."""
        return [number for number, request in self.requests.items() if isinstance(request, kind)]

    # what came of it

    @property
    def kinds(self) -> list[str]:
        """What the server said, after the first `ready`."""
        return [message.type for message in self.messages[1:]]

    def all(self, kind: type[ServerMessage]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def finals(self) -> list[tuple[str | None, str, str]]:
        return [(final.id, final.text, final.reason) for final in self.all(Final)]

    @property
    def partials(self) -> list[tuple[str, str]]:
        return [(partial.text, partial.stable) for partial in self.all(Partial)]

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self.messages.append(message)
                case Close():
                    self.closed = True
                case Transcribe() | Draft() | LookAgain():
                    self.requests[action.number] = action
                    self.asked.append(action.request)
                    if isinstance(action, Transcribe) and not action.speculative:
                        self.heard.append(action.request.samples)
                        if not self.wait:
                            self.answer(action.number, self.text(action.request))
                case Promote(number, utterance):
                    self.heard.append(utterance.samples)
                    if not self.wait and number in self.requests:
                        self.answer(number, self.text(self.requests[number].request))
                case Withdraw(number):
                    self.requests.pop(number, None)
                case _:
                    raise AssertionError(f"a JSON session does no {action}")


def accounted(closed: Closed) -> int:
    """What `closed` says became of the audio, less what it says there was, in ms."""
    return closed.speech_ms + closed.silence_ms + closed.cancelled_ms + closed.dropped_ms - closed.audio_ms


# ---- an open microphone ------------------------------------------------------------------------------------


def test_an_utterance_of_an_open_microphone_is_announced_ended_and_answered():
    talk = Talk().hear(PAUSE, WORD, PAUSE)

    assert ["speech_started", "speech_ended", "final"] == talk.kinds
    started, ended, final = talk.messages[1:]
    assert (1, 800, 1, 1312) == (started.utterance, started.at_ms, ended.utterance, pytest.approx(ended.at_ms, abs=33))
    assert (1, None, "endpoint", False, "ko") == (
        final.utterance,
        final.id,
        final.reason,
        final.no_speech,
        final.language,
    )
    assert (pytest.approx(300, abs=33), pytest.approx(1408, abs=33)) == (final.start_ms, final.end_ms)
    assert final.timing.audio_ms == final.end_ms - final.start_ms


def test_audio_before_any_start_and_after_one_without_an_id_is_an_open_microphone():
    for talk in [Talk().hear(WORD, PAUSE), Talk().tell("start").hear(WORD, PAUSE)]:
        assert ["endpoint"] == [final.reason for final in talk.all(Final)]


def test_the_audio_of_two_utterances_close_together_does_not_overlap():
    first, second = Talk().hear(WORD, s16le(silence(0.544)), WORD, PAUSE).all(Final)

    assert first.end_ms == second.start_ms


def test_utterances_are_counted_from_one():
    talk = Talk().hear(WORD, PAUSE, WORD, PAUSE, WORD, PAUSE)

    assert [1, 2, 3] == [final.utterance for final in talk.all(Final)]


def test_silence_of_an_open_microphone_is_not_worth_a_message():
    talk = Talk().hear(PAUSE, PAUSE).pause().hear(PAUSE)

    assert ([], []) == (talk.kinds, talk.asked)


@pytest.mark.parametrize("chunk_bytes", [640, 32_000, 64_001])
def test_the_size_of_a_message_means_nothing(chunk_bytes):
    talk = Talk().hear(PAUSE, WORD, PAUSE, WORD, PAUSE, chunk_bytes=chunk_bytes)

    assert ["endpoint", "endpoint"] == [final.reason for final in talk.all(Final)]


def test_open_speech_is_ended_when_no_audio_comes():
    talk = Talk().hear(WORD)
    assert 0.6 == pytest.approx(talk.session.idle_after_s, abs=0.03)

    assert [(None, "512 ms", "idle")] == talk.pause().finals
    assert talk.session.idle_after_s is None


def test_large_buffers_hold_the_idle_end_off_until_the_next_is_due():
    assert 1.6 == Talk().hear(s16le(tone(2.0)), chunk_bytes=32_000).session.idle_after_s


def test_an_open_microphone_is_split_after_30_seconds_and_goes_on():
    talk = Talk().hear(s16le(tone(35.0)), chunk_bytes=6400).tell("flush")
    first, second = talk.all(Final)

    assert [(1, "max_length"), (2, "flush")] == [(final.utterance, final.reason) for final in (first, second)]
    assert ["speech_started", "speech_ended", "final"] * 2 == talk.kinds
    assert first.end_ms == pytest.approx(second.start_ms, abs=1)
    assert 35_000 == pytest.approx(first.timing.audio_ms + second.timing.audio_ms, abs=40)


def test_endpointing_off_lets_only_flush_end_an_open_microphone():
    talk = Talk("off").hear(WORD, PAUSE, WORD, PAUSE).pause()
    assert ["speech_started"] == talk.kinds

    assert ["flush"] == [final.reason for final in talk.tell("flush").all(Final)]


def test_endpointing_of_a_start_overrides_the_one_of_the_url():
    assert ["endpoint"] == [
        final.reason for final in Talk("off").tell("start", endpointing="on").hear(WORD, PAUSE).all(Final)
    ]
    assert [] == Talk("on").tell("start", endpointing="off").hear(WORD, PAUSE).finals


def test_a_start_without_an_id_in_mid_speech_interrupts_nobody():
    talk = Talk().hear(WORD).tell("start", partials=True).hear(WORD, PAUSE)

    assert ["endpoint"] == [final.reason for final in talk.all(Final)]
    assert 1024 == pytest.approx(talk.all(Final)[0].timing.audio_ms, abs=130)


# ---- push-to-talk ------------------------------------------------------------------------------------------


def test_push_to_talk_is_one_utterance_pauses_and_all_with_its_id():
    talk = Talk().tell("start", id="a").hear(WORD, PAUSE, WORD, PAUSE).pause()
    assert ["speech_started"] == talk.kinds

    talk.tell("flush")
    assert ["speech_started", "speech_ended", "final"] == talk.kinds
    assert [("a", "1920 ms", "flush")] == talk.finals


@pytest.mark.parametrize("name", ["a", "다른 이름"])
def test_the_id_of_a_flush_is_the_id_of_its_final(name):
    talk = Talk().tell("start", id="a").hear(WORD).tell("flush", id=name)

    assert [(name, "512 ms", "flush")] == talk.finals


def test_an_id_of_an_open_microphone_names_only_the_flush_that_has_it():
    talk = Talk().hear(WORD).tell("flush", id="a").hear(WORD, PAUSE).hear(WORD).tell("flush")

    assert [("a", "flush"), (None, "endpoint"), (None, "flush")] == [(id, reason) for id, _, reason in talk.finals]


def test_flush_without_anything_said_gets_exactly_one_empty_final():
    for talk in [Talk(), Talk().tell("start", id="a"), Talk("off"), Talk().hear(PAUSE)]:
        talk.tell("flush", id="x")
        assert ["final"] == talk.kinds
        final = talk.all(Final)[0]
        assert ("x", "", "flush", True, 0.0) == (final.id, final.text, final.reason, final.no_speech, final.confidence)
        assert (0, final.start_ms) == (final.timing.audio_ms, final.end_ms)
        assert [] == talk.asked


def test_every_flush_gets_exactly_one_final():
    talk = Talk().tell("start", id="a").hear(WORD).tell("flush").tell("flush").tell("flush", id="b")

    assert [("a", "512 ms", "flush"), (None, "", "flush"), ("b", "", "flush")] == talk.finals
    assert [1, 2, 3] == [final.utterance for final in talk.all(Final)]


def test_flush_after_an_endpoint_gets_one_final_more():
    talk = Talk().hear(WORD, PAUSE).tell("flush", id="a")

    assert [(None, "endpoint"), ("a", "flush")] == [(id, reason) for id, _, reason in talk.finals]


def test_flush_of_what_nobody_understands_gets_an_empty_final():
    talk = Talk(text=lambda _: "").tell("start", id="a").hear(WORD).tell("flush")

    assert [("a", "", "flush", True)] == [(f.id, f.text, f.reason, f.no_speech) for f in talk.all(Final)]


def test_a_word_too_short_to_have_been_announced_is_announced_with_its_end():
    talk = Talk().tell("start", id="a").hear(s16le(tone(0.04)), chunk_bytes=10_000)
    assert [] == talk.kinds

    assert ["speech_started", "speech_ended", "final"] == talk.tell("flush").kinds


def test_another_start_ends_what_is_open():
    talk = Talk().tell("start", id="a").hear(WORD).tell("start", id="b").hear(LONG_WORD).tell("flush")

    assert [("a", "512 ms", "end"), ("b", "1024 ms", "flush")] == talk.finals


def test_another_start_answers_push_to_talk_in_which_nothing_was_said():
    talk = Talk().tell("start", id="a").tell("start", id="b").tell("flush")

    assert [("a", "", "end"), ("b", "", "flush")] == talk.finals


def test_an_open_microphone_goes_on_after_push_to_talk():
    talk = Talk().tell("start", id="a").hear(WORD).tell("flush").tell("start").hear(WORD, PAUSE)

    assert [("a", "flush"), (None, "endpoint")] == [(id, reason) for id, _, reason in talk.finals]


def test_push_to_talk_with_endpointing_ends_at_silence_and_at_its_flush():
    talk = Talk().tell("start", id="a", endpointing="on").hear(WORD, PAUSE, WORD).tell("flush")

    assert [("a", "endpoint"), ("a", "flush")] == [(id, reason) for id, _, reason in talk.finals]


def test_push_to_talk_is_split_after_its_limit_and_keeps_its_id():
    talk = Talk(max_push_to_talk_s=3.0).tell("start", id="a").hear(s16le(tone(4.0))).tell("flush")

    assert [("a", "max_length"), ("a", "flush")] == [(id, reason) for id, _, reason in talk.finals]


def test_push_to_talk_may_last_a_minute():
    talk = Talk().tell("start", id="a").hear(s16le(tone(64.0)), chunk_bytes=64_000).tell("flush")

    assert [("a", "64000 ms", "flush")] == talk.finals


# ---- audio that nobody listens to --------------------------------------------------------------------------


def test_audio_after_the_flush_of_push_to_talk_is_dropped_and_the_next_message_says_so():
    talk = Talk().tell("start", id="a").hear(WORD).tell("flush").hear(WORD, PAUSE)
    assert ["speech_started", "speech_ended", "final"] == talk.kinds

    talk.tell("start", id="b")
    assert [Dropped(from_ms=512, to_ms=1824)] == talk.all(Dropped)
    assert 1 == len(talk.asked)


def test_dropped_audio_moves_what_comes_after_it():
    talk = Talk().tell("start", id="a").hear(WORD).tell("flush").hear(PAUSE)
    talk.tell("start", id="b").hear(WORD).tell("flush")

    assert [(0, 512), (1312, 1824)] == [(final.start_ms, final.end_ms) for final in talk.all(Final)]
    assert [0, 1312] == [message.at_ms for message in talk.messages if message.type == "speech_started"]


def test_dropped_audio_is_told_at_a_second_flush_and_at_the_end():
    talk = Talk().tell("start", id="a").tell("flush").hear(WORD).tell("flush").hear(WORD).tell("end")

    assert [(0, 512), (512, 1024)] == [(dropped.from_ms, dropped.to_ms) for dropped in talk.all(Dropped)]
    assert 0 == accounted(talk.all(Closed)[0])


# ---- cancel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [{}, {"id": "a"}], ids=["unnamed", "named"])
def test_cancel_throws_away_what_is_open(named):
    talk = Talk().tell("start", id="a").hear(WORD).tell("cancel", **named)

    assert ["speech_started", "speech_ended"] == talk.kinds
    assert [] == talk.asked
    assert [("b", "512 ms", "flush")] == talk.tell("start", id="b").hear(WORD).tell("flush").finals


def test_after_a_cancel_push_to_talk_listens_no_more():
    talk = Talk().tell("start", id="a").hear(WORD).tell("cancel").hear(WORD).tell("start", id="b")

    assert [(512, 1024)] == [(dropped.from_ms, dropped.to_ms) for dropped in talk.all(Dropped)]


def test_after_a_cancel_an_open_microphone_listens_on():
    talk = Talk().hear(WORD).tell("cancel").hear(LONG_WORD, PAUSE)

    assert [(None, "1120 ms", "endpoint")] == talk.finals


def test_a_flush_after_a_cancel_gets_its_empty_final():
    talk = Talk().tell("start", id="a").hear(WORD).tell("cancel", id="a").tell("flush", id="a")

    assert [("a", "", "flush")] == talk.finals


def test_cancel_withdraws_the_guess_and_its_late_text_is_never_shown():
    talk = Talk(wait=True).tell("start", id="a", partials=True).hear(WORD, BREATH)
    [guess] = talk.of(Transcribe)
    talk.tell("cancel").answer(guess, "버린 말")

    assert ["speech_started", "speech_ended"] == talk.kinds


def test_cancel_of_a_pending_utterance_empties_its_final():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush")
    [number] = talk.of(Transcribe)
    talk.tell("cancel", id="a")

    assert [("a", "", "flush")] == talk.finals
    assert {} == talk.requests
    assert [("a", "", "flush")] == talk.answer(number, "버린 말").finals
    closed = talk.tell("end").all(Closed)[0]
    assert (512, 0) == (closed.cancelled_ms, closed.speech_ms)


def test_a_late_result_of_a_cancelled_utterance_does_not_fill_the_final_that_still_waits_its_turn():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush")
    talk.tell("start", id="b").hear(WORD).tell("flush")
    first, second = talk.of(Transcribe)
    talk.tell("cancel", id="b").answer(second, "버린 말").answer(first, "말")

    assert [("a", "말", "flush"), ("b", "", "flush")] == talk.finals


@pytest.mark.parametrize("trouble", ["failure", "refusal"])
def test_late_trouble_with_a_cancelled_utterance_is_nobodys(trouble):
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush")
    talk.tell("start", id="b").hear(WORD).tell("flush")
    first, second = talk.of(Transcribe)
    talk.tell("cancel", id="b")
    if trouble == "failure":
        talk.fail(second, Overloaded("too much"))
    else:
        talk.refuse(second)
    assert ([], [first]) == (talk.all(Error) + talk.all(Dropped), [*talk.requests])

    talk.answer(first).tell("end")
    assert 0 == accounted(talk.all(Closed)[0])


def test_cancel_empties_a_final_whose_text_is_there_and_waits_its_turn():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush")
    talk.tell("start", id="b").hear(WORD).tell("flush")
    first, second = talk.of(Transcribe)
    talk.answer(second, "버린 말").tell("cancel", id="b").answer(first, "말")

    assert [("a", "말", "flush"), ("b", "", "flush")] == talk.finals


def test_a_late_result_never_answers_the_next_request():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush")
    [old] = talk.of(Transcribe)
    talk.tell("cancel", id="a").tell("start", id="a").hear(WORD).tell("flush")
    talk.answer(old, "옛말")
    assert [("a", "", "flush")] == talk.finals

    [new] = talk.of(Transcribe)
    assert [("a", "", "flush"), ("a", "새말", "flush")] == talk.answer(new, "새말").finals


def test_cancel_of_an_unknown_id_does_nothing():
    talk = Talk().tell("start", id="a").hear(WORD).tell("cancel", id="z")
    assert ["speech_started"] == talk.kinds

    assert [("a", "512 ms", "flush")] == talk.tell("flush").finals


def test_cancel_of_a_final_that_was_sent_does_nothing():
    talk = Talk().tell("start", id="a").hear(WORD).tell("flush").tell("cancel", id="a")

    assert ["speech_started", "speech_ended", "final"] == talk.kinds


# ---- configure ---------------------------------------------------------------------------------------------


def test_configure_applies_to_what_ends_afterwards():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush")
    talk.tell("configure", language="EN", hotwords="Zork", task="translate")
    talk.tell("start", id="b").hear(WORD).tell("flush")

    assert [("ko", "", "transcribe"), ("en", "Zork", "translate")] == [
        (request.language, request.hotwords, request.task) for request in talk.asked
    ]


def test_configure_in_a_pause_applies_to_what_is_open():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD, BREATH).tell("configure", language="en").tell("flush")

    assert ["en"] == [request.request.language for request in talk.requests.values()]


def test_configure_that_changes_nothing_keeps_the_guess():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD, BREATH)
    guess = talk.of(Transcribe)

    assert guess == talk.tell("configure", language="ko", hotwords="").of(Transcribe)


def test_what_another_start_ends_is_decoded_as_it_was_spoken():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("start", id="b", language="en")

    assert ["ko"] == [request.language for request in talk.asked]


def test_what_configure_does_not_name_stays():
    talk = Talk(wait=True).tell("configure", language="en", hotwords="Zork").tell("configure").tell("start")
    talk.hear(WORD).tell("flush")

    assert [("en", "Zork")] == [(request.language, request.hotwords) for request in talk.asked]


def test_hotwords_are_cleared_by_an_empty_text():
    talk = Talk(wait=True).tell("configure", hotwords="Zork").tell("configure", hotwords="").hear(WORD).tell("flush")

    assert [""] == [request.hotwords for request in talk.asked]


def test_a_final_is_matched_with_the_phrases_of_its_time():
    talk = Talk(wait=True).tell("configure", phrases=["청개구리"])
    talk.tell("start", id="a").hear(WORD).tell("flush").tell("configure", phrases=["두꺼비"])
    talk.tell("start", id="b").hear(WORD).tell("flush")
    for number in talk.of(Transcribe):
        talk.answer(number, "청개구리")

    matches = [final.match for final in talk.all(Final)]
    assert [("청개구리", 1.0, True), ("두꺼비", False)] == [
        (matches[0].phrase, matches[0].score, matches[0].accepted),
        (matches[1].phrase, matches[1].accepted),
    ]


def test_no_phrases_match_nothing():
    talk = Talk(text=lambda _: "불 켜").tell("start", phrases=["불 켜"]).hear(WORD).tell("flush")
    talk.tell("configure", phrases=[]).hear(WORD).tell("flush")

    assert [True, False] == [final.match is not None for final in talk.all(Final)]


# ---- end ---------------------------------------------------------------------------------------------------


def test_end_finishes_open_speech_and_closes_with_the_totals():
    talk = Talk().hear(PAUSE, WORD).tell("end")

    assert ["speech_started", "speech_ended", "final", "closed"] == talk.kinds
    assert talk.closed
    assert "end" == talk.all(Final)[0].reason
    closed = talk.all(Closed)[0]
    assert (1, 1312, 0, 0) == (closed.utterances, closed.audio_ms, closed.cancelled_ms, closed.dropped_ms)
    assert (pytest.approx(300, abs=33), 0) == (closed.silence_ms, accounted(closed))


def test_end_without_open_speech_closes_at_once():
    talk = Talk().hear(PAUSE).tell("end")

    assert ["closed"] == talk.kinds
    assert (
        Closed(utterances=0, audio_ms=800, speech_ms=0, silence_ms=800, cancelled_ms=0, dropped_ms=0)
        == talk.messages[-1]
    )


def test_end_in_push_to_talk_answers_it_even_if_nothing_was_said():
    assert [("a", "", "end")] == Talk().tell("start", id="a").tell("end").finals


def test_closed_waits_for_every_final():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush").tell("start", id="b").hear(WORD).tell("end")
    first, second = talk.of(Transcribe)
    assert not talk.answer(second).closed

    assert ["final", "final", "closed"] == talk.answer(first).kinds[-3:]
    assert talk.closed


def test_nothing_counts_after_end():
    talk = Talk(wait=True).hear(WORD).tell("end")
    talk.hear(LONG_WORD, PAUSE).tell("flush").tell("start", id="b").tell("end").pause()
    [number] = talk.of(Transcribe)
    talk.answer(number)

    assert ["speech_started", "speech_ended", "final", "closed"] == talk.kinds
    assert 512 == talk.all(Closed)[0].audio_ms


def test_nothing_follows_closed():
    talk = Talk(wait=True).hear(WORD, BREATH)
    [guess] = talk.of(Transcribe)
    talk.hear(WORD).tell("end")
    [final] = talk.of(Transcribe)
    talk.answer(final)
    assert "closed" == talk.kinds[-1]

    said = len(talk.messages)
    talk.answer(guess).answer(final).fail(final, Overloaded("late")).refuse(guess).tell("end").hear(WORD)
    assert said == len(talk.messages)


def test_every_sample_is_accounted_for():
    talk = Talk().hear(PAUSE, WORD, PAUSE).tell("start", id="a").hear(WORD).tell("cancel").hear(WORD)
    talk.tell("start", id="b").hear(WORD).tell("flush").tell("end")
    closed = talk.all(Closed)[0]

    assert (4 * 512 + 2 * 800, 512, 2) == (closed.audio_ms, closed.dropped_ms, closed.utterances)
    assert 512 <= closed.cancelled_ms
    assert 0 == pytest.approx(accounted(closed), abs=3)


# ---- ready and errors --------------------------------------------------------------------------------------


def silent() -> EventSession:
    return EventSession(AudioFormat(), EnergyVad(), OPTIONS, ready=READY, decoding=Decoding("ko"))


@pytest.mark.parametrize("text", ['{"type":"start"}', '{"type":"keepalive"}', '{"type":"flush"}', "{}", "nonsense"])
def test_ready_answers_the_first_message(text):
    first, *rest = silent().receive_text(text)

    assert isinstance(first, Send) and isinstance(first.message, Ready)
    assert not any(isinstance(action, Send) and isinstance(action.message, Ready) for action in rest)


def test_ready_tells_format_and_language_as_they_are():
    [ready] = silent().receive_text(
        '{"type":"start","sample_rate":48000,"channels":2,"encoding":"f32le","language":"en"}'
    )

    assert (48_000, 2, "f32le", "en") == (
        ready.message.sample_rate,
        ready.message.channels,
        ready.message.encoding,
        ready.message.language,
    )


def test_ready_comes_again_only_when_the_format_changes():
    talk = Talk().tell("start").tell("start", id="a").tell("start", sample_rate=16_000)
    assert 1 == len(talk.all(Ready))

    assert [16_000, 48_000] == [ready.sample_rate for ready in talk.tell("start", sample_rate=48_000).all(Ready)]


def test_keepalive_is_not_answered():
    assert [] == Talk().tell("keepalive").kinds


@pytest.mark.parametrize(
    "text", ["", "flush", "[]", "null", '{"type":"say"}', '{"type":"flush","id":7}', "[" * 100_000]
)
def test_what_is_not_understood_is_an_error_and_nothing_else_happens(text):
    talk = Talk().tell("start", id="a").hear(WORD)
    before = vars(talk.session).copy()
    talk._do(talk.session.receive_text(text))

    [error] = talk.all(Error)
    assert ("bad_message", None, False) == (error.code, error.close, error.retryable)
    assert before == vars(talk.session)
    assert [("a", "1024 ms", "flush")] == talk.hear(WORD).tell("flush").finals


@pytest.mark.parametrize("wrong", [{"sample_rate": 7999}, {"channels": 0}, {"encoding": "mp3"}])
def test_a_format_that_cannot_be_served_ends_the_session_with_4415(wrong):
    with pytest.raises(ProtocolError) as refusal:
        Talk().tell("start", **wrong)

    assert 4415 == refusal.value.code
    assert next(iter(wrong)) in str(refusal.value)


def test_an_overloaded_engine_costs_the_utterance_and_says_so():
    talk = Talk(wait=True).hear(PAUSE).tell("start", id="a").hear(WORD).tell("flush")
    [number] = talk.of(Transcribe)
    talk.fail(number, Overloaded("the wait is over 30 s; try again in a moment"))

    assert ["error", "dropped", "final"] == talk.kinds[-3:]
    error, dropped, final = talk.messages[-3:]
    assert ("busy", None, True, "the wait is over 30 s; try again in a moment") == (
        error.code,
        error.close,
        error.retryable,
        error.message,
    )
    assert 0 < error.retry_after_ms
    assert (dropped.from_ms, 1312) == (final.start_ms, dropped.to_ms)
    assert ("a", "", "flush", False, 0) == (final.id, final.text, final.reason, final.no_speech, final.timing.audio_ms)
    closed = talk.tell("end").all(Closed)[0]
    assert (dropped.to_ms - dropped.from_ms, 0) == (closed.dropped_ms, closed.speech_ms)
    assert 0 == accounted(closed)


def test_an_engine_that_raises_costs_the_utterance_and_tells_no_detail():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush")
    [number] = talk.of(Transcribe)
    talk.fail(number, RuntimeError("CUDA out of memory at 0xdeadbeef"))

    assert ["error", "dropped", "final"] == talk.kinds[-3:]
    assert ("internal", None, True) == (talk.messages[-3].code, talk.messages[-3].close, talk.messages[-3].retryable)
    assert "CUDA" not in talk.messages[-3].message
    assert [("b", "512 ms", "flush")] == Talk().tell("start", id="b").hear(WORD).tell("flush").finals


def test_a_lost_utterance_waits_its_turn():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD).tell("flush").tell("start", id="b").hear(WORD).tell("flush")
    first, second = talk.of(Transcribe)

    assert [] == talk.fail(second, Overloaded("too much")).finals
    assert [("a", "말", "flush"), ("b", "", "flush")] == talk.answer(first).finals


def test_without_a_model_the_session_cannot_go_on():
    talk = Talk(wait=True).hear(WORD).tell("flush")

    with pytest.raises(ModelError):
        talk.fail(talk.of(Transcribe)[0], ModelError("There is no model here."))


# ---- second looks and speculation --------------------------------------------------------------------------


def test_a_doubtful_final_is_looked_at_again_before_it_is_sent():
    talk = Talk(wait=True).hear(WORD).tell("flush", id="a")
    [number] = talk.of(Transcribe)
    assert [] == talk.answer(number, "어어어", doubt="looped").finals
    assert [number] == talk.of(LookAgain)

    assert [("a", "엄마", "flush")] == talk.answer(number, "엄마").finals


def test_a_second_look_that_fails_leaves_the_first_text():
    talk = Talk(wait=True).hear(WORD).tell("flush", id="a")
    [number] = talk.of(Transcribe)
    talk.answer(number, "어", doubt="weak").fail(number, Overloaded("too much"))

    assert [("a", "어", "flush")] == talk.finals
    assert [] == talk.all(Error) + talk.all(Dropped)


def test_a_released_key_finds_its_text_ready():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD, BREATH)
    talk.answer(talk.of(Transcribe)[0], "다 됐다").tell("flush")

    assert [("a", "다 됐다", "flush")] == talk.finals
    assert 1 == len(talk.asked)


def test_words_that_sound_finished_end_an_open_microphones_utterance_sooner():
    talk = Talk(wait=True).hear(WORD, s16le(silence(0.3)))
    talk.answer(talk.of(Transcribe)[0], FINISHED, avg_logprob=-0.2)

    assert [(None, FINISHED, "endpoint")] == talk.finals


def test_but_not_push_to_talk():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD, s16le(silence(0.3)))

    assert [] == talk.answer(talk.of(Transcribe)[0], FINISHED, avg_logprob=-0.2).finals


def test_speech_that_goes_on_withdraws_the_guess():
    talk = Talk(wait=True).hear(WORD, BREATH)
    [guess] = talk.of(Transcribe)
    talk.hear(WORD).answer(guess, "반쪽")
    assert {} == talk.requests

    talk.tell("flush")
    assert [(None, "전부", "flush")] == talk.answer(talk.of(Transcribe)[0], "전부").finals


@pytest.mark.parametrize("flushed", [False, True])
def test_a_guess_that_was_refused_is_asked_for_again_when_it_is_final(flushed):
    talk = Talk(wait=True).tell("start", id="a").hear(WORD, BREATH)
    [guess] = talk.of(Transcribe)
    talk = talk.tell("flush").refuse(guess) if flushed else talk.refuse(guess).tell("flush")

    assert [("a", "말", "flush")] == talk.answer(talk.of(Transcribe)[0]).finals


# ---- partials ----------------------------------------------------------------------------------------------


def drafted(talk: Talk, *texts: str) -> Talk:
    """Let these be the answers of the drafts that the next words ask for."""
    for text in texts:
        while not talk.of(Draft):
            talk.hear(s16le(tone(0.1)))
        talk.answer(talk.of(Draft)[0], text)
    return talk


def test_partials_are_off_until_they_are_asked_for():
    assert [] == Talk(wait=True).hear(LONG_WORD).asked
    assert [] == Talk(wait=True).tell("start", partials=True).tell("configure", partials=False).hear(LONG_WORD).asked


def test_a_partial_tells_how_sure_the_detector_is():
    talk = Talk(wait=True).tell("start", partials=True).hear(LONG_WORD)

    [asked] = talk.asked
    assert asked.draft and asked.vad_ratio is not None and 0.5 < asked.vad_ratio <= 1


def test_partials_show_the_whole_text_and_which_beginning_of_it_is_stable():
    talk = drafted(Talk(wait=True).tell("start", partials=True), "문을", "문을 열어", "문을 열어 줘")

    assert [("문을", ""), ("문을 열어", ""), ("문을 열어 줘", "문을")] == talk.partials
    assert {1} == {partial.utterance for partial in talk.all(Partial)}


def test_a_draft_is_greedy_and_holds_the_speech_so_far():
    talk = Talk(wait=True).tell("start", partials=True).hear(PAUSE, LONG_WORD)
    [draft] = [talk.requests[number].request for number in talk.of(Draft)]

    assert draft.draft
    assert 500 + 250 == pytest.approx(len(draft.samples) / 16, abs=50)


def test_there_is_one_draft_at_a_time():
    talk = Talk(wait=True).tell("start", partials=True).hear(s16le(tone(5.0)))

    assert 1 == len(talk.asked)


def test_a_slow_engine_is_asked_for_fewer_partials():
    talk = Talk(wait=True).tell("start", partials=True).hear(s16le(tone(2.0)))
    talk.answer(talk.of(Draft)[0], "느린").hear(s16le(tone(1.0)))
    assert [] == talk.of(Draft)  # it took 1.6 s, so the next comes 3.2 s after the first was asked for

    assert 1 == len(talk.hear(s16le(tone(1.0))).of(Draft))


@pytest.mark.parametrize(("text", "drafts"), [("", 1), ("문", 0)])
def test_a_draft_in_which_nothing_is_heard_is_followed_sooner(text, drafts):
    talk = drafted(Talk(wait=True).tell("start", partials=True), text).hear(s16le(tone(0.3)))

    assert drafts == len(talk.of(Draft))


@pytest.mark.parametrize("end", ["flush", "end", "cancel", "pause", "start"])
def test_a_late_partial_never_follows_the_end_of_its_utterance(end):
    talk = Talk(wait=True).tell("start", id="a", endpointing="on", partials=True).hear(s16le(tone(1.0)))
    [draft] = talk.of(Draft)
    if end == "pause":
        talk.pause()
    else:
        talk.tell(end)
    assert [] == talk.of(Draft)  # withdrawn

    assert [] == talk.answer(draft, "늦었다").partials


def test_partials_begin_anew_with_every_utterance():
    talk = drafted(Talk(wait=True).tell("start", partials=True), "문을", "문을 열어", "문을 열어").hear(PAUSE)
    talk.answer(talk.of(Transcribe)[0], "문을 열어")
    drafted(talk, "문을 닫아")

    assert [(1, "문을", ""), (1, "문을 열어", ""), (1, "문을 열어", "문을"), (2, "문을 닫아", "")] == [
        (partial.utterance, partial.text, partial.stable) for partial in talk.all(Partial)
    ]


def test_partials_of_a_cut_utterance_belong_to_its_second_half():
    talk = Talk(wait=True, max_push_to_talk_s=2.0).tell("start", id="a", partials=True)
    drafted(talk, "하나").hear(s16le(tone(2.0)))
    [number] = talk.of(Transcribe)
    drafted(talk, "둘")

    assert [(1, "하나"), (2, "둘")] == [(partial.utterance, partial.text) for partial in talk.all(Partial)]
    assert [("a", "하나", "max_length")] == talk.answer(number, "하나").finals


def test_a_draft_that_is_refused_costs_nothing_and_another_follows():
    talk = Talk(wait=True).tell("start", partials=True).hear(s16le(tone(0.5)))
    talk.refuse(talk.of(Draft)[0])
    assert ["speech_started"] == talk.kinds

    assert [("말", "")] == drafted(talk, "말").partials


def test_a_draft_in_which_nothing_is_heard_shows_nothing():
    assert [] == drafted(Talk(wait=True).tell("start", partials=True), "", "").partials


def test_the_guess_of_a_pause_is_a_partial_and_takes_the_place_of_the_draft():
    talk = Talk(wait=True).tell("start", id="a", partials=True).hear(WORD)
    [draft] = talk.of(Draft)
    talk.hear(BREATH)
    [guess] = talk.of(Transcribe)
    talk.answer(guess, "다 들었다").answer(draft, "반만")

    assert [("다 들었다", "")] == talk.partials


def test_a_doubtful_guess_is_not_shown():
    talk = Talk(wait=True).tell("start", id="a", partials=True).hear(WORD, BREATH)

    assert [] == talk.answer(talk.of(Transcribe)[0], "어어어", doubt="looped").partials


@given(st.lists(st.lists(st.sampled_from(["문", "문,", "을", "을.", "열어", "Door", "door"]), max_size=4), max_size=6))
def test_what_is_stable_only_grows_and_begins_the_text(texts):
    talk = drafted(Talk(wait=True).tell("start", partials=True), *(" ".join(words) for words in texts))
    before = ""
    for text, stable in talk.partials:
        assert text.startswith(stable)
        assert stable.startswith(before)
        before = stable


# ---- timing ------------------------------------------------------------------------------------------------


def test_ttfs_of_a_flush_is_from_the_flush_to_the_final():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD)
    talk.session.now_s = 100.0
    talk.tell("flush")
    talk.session.now_s = 100.25
    talk.answer(talk.of(Transcribe)[0])

    assert 250 == talk.all(Final)[0].timing.ttfs_ms


def test_ttfs_of_an_endpoint_is_from_the_last_speech_to_the_final_its_silence_included():
    talk = Talk(wait=True)
    talk.session.now_s = 10.0
    for chunk in in_chunks(WORD + PAUSE, [1024]):  # one window in a message, as a microphone gives it
        talk.session.now_s += 0.032
        talk._do(talk.session.receive_bytes(chunk))
    talk.session.now_s = 11.5
    talk.answer(talk.of(Transcribe)[0])

    assert 1000 * (11.5 - 10.512) == pytest.approx(talk.all(Final)[0].timing.ttfs_ms, abs=1)


def test_ttfs_of_an_idle_end_is_from_the_last_speech():
    talk = Talk(wait=True)
    talk.session.now_s = 10.0
    talk.hear(WORD)
    talk.session.now_s = 10.6
    talk.pause()
    talk.session.now_s = 10.8
    talk.answer(talk.of(Transcribe)[0])

    assert 800 == pytest.approx(talk.all(Final)[0].timing.ttfs_ms, abs=1)


def test_a_guess_that_was_ready_has_a_ttfs_of_nothing_after_the_flush():
    talk = Talk(wait=True).tell("start", id="a").hear(WORD, BREATH)
    talk.answer(talk.of(Transcribe)[0])
    talk.session.now_s = 5.0

    assert 0 == talk.tell("flush").all(Final)[0].timing.ttfs_ms


def test_timing_adds_up_what_both_looks_took():
    talk = Talk(wait=True).hear(WORD).tell("flush")
    [number] = talk.of(Transcribe)
    for text, doubt, timing in [("어", "weak", Timing(0.1, 0.2)), ("말", None, Timing(0.03, 0.5))]:
        talk._do(talk.session.receive_transcript(number, Transcript(text, "ko", doubt=doubt), timing))

    assert (130, 700) == (talk.all(Final)[0].timing.queue_ms, talk.all(Final)[0].timing.infer_ms)


def test_confidence_is_that_of_the_text_to_three_places():
    talk = Talk(wait=True).hear(WORD).tell("flush")
    talk.answer(talk.of(Transcribe)[0], "말", avg_logprob=-0.5)

    assert round(confidence(Transcript("말", "ko", avg_logprob=-0.5)), 3) == talk.all(Final)[0].confidence


# ---- any format, any chunks --------------------------------------------------------------------------------

SPOKEN = [silence(0.3), tone(0.6), silence(0.9), tone(0.4), silence(0.2), tone(0.5), silence(0.9)]
FORMATS = [
    (rate, channels, encoding)
    for rate in (16_000, 44_100, 48_000)
    for channels in (1, 2)
    for encoding in ("s16le", "f32le")
]


def spoken(sample_rate: int, channels: int, encoding: str) -> bytes:
    parts = [tone(0.6, sample_rate=sample_rate) if part.any() else silence(0.6, sample_rate) for part in SPOKEN]
    lengths = [round(len(part) * sample_rate / 16_000) for part in SPOKEN]
    samples = np.concatenate([np.resize(part, size) for part, size in zip(parts, lengths, strict=True)])
    if channels == 2:  # left and right differ, as a stereo microphone's do
        samples = np.stack([1.5 * samples, 0.5 * samples], axis=1).ravel()
    return samples.astype("<f4").tobytes() if encoding == "f32le" else (samples * 32767).astype("<i2").tobytes()


def seconds(request: Request) -> str:
    return f"{len(request.samples) / 16_000:.1f} s"


@pytest.mark.parametrize(("rate", "channels", "encoding"), FORMATS)
def test_any_format_gives_the_same_finals(rate, channels, encoding):
    def finals(rate: int, channels: int, encoding: str) -> list[tuple[int, str, str]]:
        talk = Talk(text=seconds).tell("start", sample_rate=rate, channels=channels, encoding=encoding)
        talk.hear(spoken(rate, channels, encoding), chunk_bytes=3333).tell("end")
        return [(final.utterance, final.text, final.reason) for final in talk.all(Final)]

    expected = [(1, "1.0 s", "endpoint"), (2, "1.7 s", "endpoint")]
    assert expected == finals(rate, channels, encoding)


@given(
    sizes=st.lists(st.integers(1, 9_999), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 999 * len(sizes))
)
@settings(max_examples=8)
@pytest.mark.parametrize(("rate", "channels", "encoding"), [(16_000, 1, "s16le"), (44_100, 2, "f32le")])
def test_chunking_does_not_matter(rate, channels, encoding, sizes):
    def heard(sizes: list[int]) -> list[Samples]:
        talk = Talk().tell("start", sample_rate=rate, channels=channels, encoding=encoding)
        for chunk in in_chunks(spoken(rate, channels, encoding), sizes):
            talk._do(talk.session.receive_bytes(chunk))
        return talk.tell("end").heard

    expected, found = heard([9_999]), heard(sizes)
    assert 2 == len(expected)
    assert [len(samples) for samples in expected] == [len(samples) for samples in found]
    assert all(map(np.array_equal, expected, found))


def test_the_format_may_change_between_utterances():
    talk = Talk(text=seconds)
    for number, (rate, channels, encoding) in enumerate(FORMATS, 1):
        talk.tell("start", id=f"{number}", sample_rate=rate, channels=channels, encoding=encoding)
        talk.hear(spoken(rate, channels, encoding), chunk_bytes=4800).tell("flush")

    assert [(f"{number}", "3.0 s", "flush") for number in range(1, 13)] == talk.finals
    assert 12 == len(talk.all(Ready))  # the first format is the one that was there


def test_the_same_id_again_changes_the_format_in_mid_speech():
    stereo = np.repeat(tone(0.5, sample_rate=48_000), 2).astype("<f4").tobytes()
    talk = Talk(text=seconds).tell("start", id="a").hear(s16le(tone(0.5)))
    talk.tell("start", id="a", sample_rate=48_000, channels=2, encoding="f32le").hear(stereo).tell("flush")

    assert [("a", "1.0 s", "flush")] == talk.finals
    assert ["speech_started", "ready", "speech_ended", "final"] == talk.kinds


def test_every_wav_file_loses_its_header():
    talk = Talk()
    for name in "ab":
        talk.tell("start", id=name).hear(wav_header(len(WORD)) + WORD, chunk_bytes=4096).tell("flush")
    first, second = (request.samples for request in talk.asked)

    assert np.array_equal(first, second)
    assert np.allclose(tone(0.512), first, atol=0.001)


def test_a_stray_byte_before_a_pause_does_not_turn_what_follows_into_noise():
    talk = Talk().hear(WORD, PAUSE, b"\x7f").pause().hear(WORD, PAUSE)
    first, second = (abs(request.samples).max() for request in talk.asked)

    assert (pytest.approx(0.5, abs=0.001), pytest.approx(0.5, abs=0.001)) == (first, second)


def test_an_empty_message_is_ignored():
    assert Talk().hear(b"").session.idle_after_s is None
    talk = Talk().hear(WORD)
    list(talk.session.receive_bytes(b""))
    assert [(None, "512 ms", "flush")] == talk.tell("flush").finals


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_floats_that_are_no_sound_never_reach_the_engine(value):
    floats = np.full(16_000, value, "<f4")
    floats[::2] = 0.25
    talk = Talk().tell("start", id="a", encoding="f32le").hear(floats.tobytes()).tell("flush")

    assert 1 == len(talk.all(Final))
    assert all(np.isfinite(request.samples).all() and abs(request.samples).max() <= 1 for request in talk.asked)


# ---- taking over from plain mode ---------------------------------------------------------------------------


def plain(*messages: bytes) -> PlainSession:
    session = PlainSession(AudioFormat(), EnergyVad(), OPTIONS, decoding=Decoding("ko"))
    for message in messages:
        list(session.receive_bytes(message))
    return session


def test_a_plain_session_becomes_an_open_microphone():
    talk = Talk.after(plain()).tell("start").hear(WORD, PAUSE)

    assert ["ready", "speech_started", "speech_ended", "final"] == [message.type for message in talk.messages]


def test_a_short_message_that_plain_mode_held_is_the_beginning_of_the_speech():
    talk = Talk.after(plain(WORD)).tell("flush", id="a")

    assert ["ready", "speech_started", "speech_ended", "final"] == [message.type for message in talk.messages]
    assert [("a", "512 ms", "flush")] == talk.finals


def test_an_utterance_that_plain_mode_asked_about_is_answered_in_json():
    session = plain()
    [asked] = session.receive_bytes(LONG_WORD)
    talk = Talk.after(session).tell("keepalive").answer(asked.number, "길다")

    assert [(1, "길다", "flush")] == [(final.utterance, final.text, final.reason) for final in talk.all(Final)]
    assert 0 == accounted(talk.tell("end").all(Closed)[0])


def test_what_plain_mode_has_answered_is_accounted_for():
    session = plain()
    [asked] = session.receive_bytes(LONG_WORD + PAUSE)
    list(session.receive_transcript(asked.number, Transcript("길다", "ko")))
    closed = Talk.after(session).hear(WORD).tell("end").all(Closed)[0]

    assert 1024 + 800 + 512 == closed.audio_ms
    assert 1024 + 512 == pytest.approx(closed.speech_ms, abs=100)
    assert 0 == accounted(closed)


def test_speech_that_was_open_goes_on_and_is_announced():
    talk = Talk.after(plain(*in_chunks(WORD, [640]))).tell("start").hear(WORD)
    assert ["ready", "speech_started"] == [message.type for message in talk.messages]
    assert 0 == talk.messages[1].at_ms

    assert [(None, "1120 ms", "endpoint")] == talk.hear(PAUSE).finals


def test_speech_that_was_open_may_be_cancelled():
    talk = Talk.after(plain(*in_chunks(WORD, [640]))).tell("cancel").tell("end")

    assert ["ready", "closed"] == [message.type for message in talk.messages]
    assert 512 == talk.all(Closed)[0].cancelled_ms


def test_a_guess_that_was_under_way_is_not_asked_for_twice():
    session = plain(*in_chunks(WORD, [640]))
    [guess] = [action for chunk in in_chunks(BREATH, [640]) for action in session.receive_bytes(chunk)]
    talk = Talk.after(session).tell("flush", id="a").answer(guess.number, "짐작")

    assert [("a", "짐작", "flush")] == talk.finals
    assert [] == talk.asked


def test_a_start_with_an_id_ends_the_speech_that_was_open():
    talk = Talk.after(plain(*in_chunks(WORD, [640]))).tell("start", id="a").hear(LONG_WORD).tell("flush")

    assert "ready" == talk.messages[0].type
    assert [(None, "512 ms", "end"), ("a", "1024 ms", "flush")] == talk.finals

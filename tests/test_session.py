"""Plain mode, rule by rule: what goes in, which lines come out. No sockets, no clock, no model."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from conftest import in_chunks, s16le, silence, tone, wav_header
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_core.audio import AudioFormat
from stt_core.endpointing import EndpointingOptions
from stt_core.errors import Overloaded, ProtocolError
from stt_core.fakes import EnergyVad
from stt_core.session import Action, Endpointing, LookAgain, PlainSession, Promote, SendText, Transcribe, Withdraw
from stt_core.transcription import Transcript
from stt_core.utterances import Utterance

FAILURE = "인식 실패"
WORD = s16le(tone(0.5))
PAUSE = s16le(silence(0.8))  # longer than the endpoint's 500 ms
WHOLE_WORD = s16le(silence(0.5), tone(0.5), silence(0.5))
WHOLE_SILENCE = s16le(silence(1.5))
SHORT_SILENCE = s16le(silence(0.5))


# Half a second of silence ends an utterance that does not sound finished, a quarter one that does.
OPTIONS = EndpointingOptions(min_silence_duration_ms=256, max_silence_duration_ms=500)


def plain(endpointing: Endpointing = "auto", audio_format: AudioFormat | None = None) -> PlainSession:
    return PlainSession(audio_format or AudioFormat(), EnergyVad(), OPTIONS, endpointing=endpointing)


def why_it_ended(utterance: Utterance) -> str:
    return utterance.reason


class Conversation:
    """Drives a session whose engine answers finals at once, by default with the reason why the utterance ended."""

    def __init__(
        self,
        endpointing: Endpointing = "auto",
        audio_format: AudioFormat | None = None,
        answer: Callable[[Utterance], str] = why_it_ended,
    ) -> None:
        self.session = plain(endpointing, audio_format)
        self.answer = answer
        self.lines: list[str] = []
        self.utterances: list[Utterance] = []

    def send(self, *messages: bytes) -> "Conversation":
        for message in messages:
            self._carry_out(self.session.receive_bytes(message))
        return self

    def stream(self, *audio: bytes, chunk_bytes: int = 3200) -> "Conversation":
        return self.send(*in_chunks(b"".join(audio), [chunk_bytes]))

    def flush(self) -> "Conversation":
        self._carry_out(self.session.receive_text("flush"))
        return self

    def wait(self) -> "Conversation":
        """No audio comes for a while."""
        if self.session.idle_after_s is not None:
            self._carry_out(self.session.idle())
        return self

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, SendText):
                self.lines.append(action.text)
            elif isinstance(action, Promote) or (isinstance(action, Transcribe) and not action.speculative):
                self.utterances.append(action.utterance)
                transcript = Transcript(self.answer(action.utterance), "ko")
                self._carry_out(self.session.receive_transcript(action.number, transcript))


def test_a_short_message_right_after_a_whole_one_may_be_whole_too():
    conversation = Conversation().send(s16le(tone(1.2)), s16le(silence(0.5)))
    assert ["message"] == conversation.lines

    assert ["message", "인식 실패"] == conversation.wait().lines


# ---- whole messages ----------------------------------------------------------------------------------------


def test_a_whole_message_gets_exactly_one_line():
    assert ["message"] == Conversation().send(WHOLE_WORD).wait().flush().lines


def test_a_whole_message_of_several_words_gets_exactly_one_line():
    assert ["message"] == Conversation().send(WORD + PAUSE + WORD + PAUSE + PAUSE + WORD).wait().lines


def test_whole_messages_get_a_line_each():
    conversation = Conversation(answer=lambda utterance: f"{utterance.duration_s:.0f} s")
    conversation.send(s16le(tone(1)), s16le(tone(2)), s16le(tone(3)))

    assert ["1 s", "2 s", "3 s"] == conversation.lines


def test_a_whole_message_of_silence_gets_the_failure_text():
    conversation = Conversation().send(WHOLE_SILENCE).wait()

    assert [FAILURE] == conversation.lines
    assert [] == conversation.utterances  # the model is not asked


def test_a_whole_message_that_nobody_understands_gets_the_failure_text():
    assert [FAILURE] == Conversation(answer=lambda _: "").send(WHOLE_WORD).wait().lines


def test_the_failure_text_is_a_setting():
    session = PlainSession(AudioFormat(), EnergyVad(), EndpointingOptions(), failure_text="…")

    assert [SendText("…")] == list(session.receive_bytes(WHOLE_SILENCE))


@pytest.mark.parametrize(
    ("audio_format", "one_second_bytes"),
    [
        (AudioFormat(), 32_000),
        (AudioFormat(48_000), 96_000),
        (AudioFormat(48_000, 2), 192_000),
        (AudioFormat(16_000, 1, "f32le"), 64_000),
    ],
)
def test_one_second_is_the_boundary(audio_format, one_second_bytes):
    whole = Conversation(audio_format=audio_format).send(bytes(one_second_bytes))
    short = Conversation(audio_format=audio_format).send(bytes(one_second_bytes - audio_format.frame_bytes))

    assert [FAILURE] == whole.lines
    assert [] == short.lines


def test_a_header_does_not_count_towards_the_second():
    header = wav_header(32_000)

    assert [] == Conversation().send(header + bytes(32_000 - len(header))).lines
    assert [FAILURE] == Conversation().send(header + bytes(32_000)).lines


def test_a_wav_file_gets_one_line_and_its_header_is_not_heard():
    conversation = Conversation().send(wav_header(len(WHOLE_WORD)) + WHOLE_WORD)
    raw = Conversation().send(WHOLE_WORD)

    assert ["message"] == conversation.lines
    assert np.array_equal(raw.utterances[0].samples, conversation.utterances[0].samples)


def test_every_wav_file_of_a_connection_loses_its_header():
    file = wav_header(len(WHOLE_WORD)) + WHOLE_WORD
    first, second = Conversation().send(file, file).utterances

    assert np.array_equal(first.samples, second.samples)


def test_an_odd_byte_is_carried_to_the_message_that_completes_it():
    pcm = s16le(tone(2.5))
    conversation = Conversation().send(pcm[:40_001], pcm[40_001:])

    assert ["message", "message"] == conversation.lines
    heard = np.concatenate([utterance.samples[:20_000] for utterance in conversation.utterances])
    assert np.allclose(tone(2.5), heard, atol=0.001)


def test_a_stray_byte_does_not_turn_the_next_whole_message_into_noise():
    first, second = Conversation().send(WHOLE_WORD + b"\x7f", WHOLE_WORD).utterances

    assert np.array_equal(first.samples, second.samples)


def test_the_longest_recording_is_taken():
    conversation = Conversation().send(s16le(tone(65.0)))

    assert ["message"] == conversation.lines
    assert 65.0 == pytest.approx(conversation.utterances[0].duration_s, abs=0.04)


def test_an_over_long_message_is_refused():
    with pytest.raises(ProtocolError) as refusal:
        Conversation().send(bytes(67 * 32_000))

    assert (1009, "a message may hold 66 s of audio, got 67.0 s") == (refusal.value.code, str(refusal.value))


# ---- streams -----------------------------------------------------------------------------------------------


def test_speech_then_silence_yields_one_line():
    assert ["endpoint"] == Conversation().stream(WORD, PAUSE).wait().lines


def test_every_utterance_of_a_stream_gets_its_line():
    assert ["endpoint"] * 3 == Conversation().stream(WORD, PAUSE, WORD, PAUSE, WORD, PAUSE).wait().lines


def test_a_stream_in_which_nobody_speaks_gets_nothing():
    conversation = Conversation().stream(PAUSE, PAUSE).wait().stream(PAUSE, PAUSE).wait()

    assert ([], []) == (conversation.lines, conversation.utterances)


def test_an_utterance_of_a_stream_that_nobody_understands_gets_nothing():
    assert [] == Conversation(answer=lambda _: "").stream(WORD, PAUSE, WORD).wait().lines


def test_open_speech_is_ended_when_no_audio_comes():
    assert ["idle"] == Conversation().stream(WORD).wait().lines


def test_speech_goes_on_after_a_stall_as_a_new_utterance():
    assert ["idle", "endpoint"] == Conversation().stream(WORD).wait().stream(WORD, PAUSE).wait().lines


def test_idle_is_due_600_ms_after_audio_and_only_once():
    conversation = Conversation()
    assert conversation.session.idle_after_s is None

    conversation.stream(WORD)
    assert 0.6 == conversation.session.idle_after_s

    conversation.wait()
    assert conversation.session.idle_after_s is None


def test_a_wav_header_in_front_of_a_stream_is_not_heard():
    with_header = Conversation().stream(wav_header(len(WORD)), WORD, PAUSE, chunk_bytes=20)
    without = Conversation().stream(WORD, PAUSE, chunk_bytes=20)

    assert ["endpoint"] == with_header.lines
    assert np.array_equal(without.utterances[0].samples, with_header.utterances[0].samples)


def test_odd_chunks_give_the_same_samples():
    even = Conversation().stream(WORD, PAUSE, chunk_bytes=640)
    odd = Conversation().stream(WORD, PAUSE, chunk_bytes=641)

    assert np.array_equal(even.utterances[0].samples, odd.utterances[0].samples)


def test_a_stray_byte_before_a_pause_does_not_turn_what_follows_into_noise():
    conversation = Conversation().stream(WORD, PAUSE).send(b"\x7f").wait().stream(WORD, PAUSE)
    first, second = conversation.utterances

    assert 0.5 == pytest.approx(abs(first.samples).max(), abs=0.001)
    assert 0.5 == pytest.approx(abs(second.samples).max(), abs=0.001)


def test_a_stream_resumes_where_the_player_paused_without_the_transport_noticing():
    conversation = Conversation(answer=lambda utterance: f"{utterance.duration_s:.1f} s")
    conversation.stream(WORD, s16le(silence(0.3)), WORD, PAUSE)

    assert ["1.4 s"] == conversation.lines  # 0.5 s, the short pause, 0.5 s and the tail


# ---- one short message alone -------------------------------------------------------------------------------


def test_a_single_short_message_was_an_utterance_sent_whole():
    conversation = Conversation().send(WORD)
    assert [] == conversation.lines

    assert ["message"] == conversation.wait().lines


@pytest.mark.parametrize("audio", [SHORT_SILENCE, b"\0\0", b"\0"], ids=["0.5 s", "one sample", "half a sample"])
def test_a_single_short_message_without_speech_gets_the_failure_text(audio):
    assert [FAILURE] == Conversation().send(audio).wait().lines


def test_single_short_messages_with_pauses_between_get_a_line_each():
    conversation = Conversation().send(WORD).wait().send(SHORT_SILENCE).wait().send(WORD).wait()

    assert ["message", FAILURE, "message"] == conversation.lines


def test_a_single_short_wav_file_loses_its_header():
    conversation = Conversation().send(wav_header(len(WORD)) + WORD).wait()

    assert ["message"] == conversation.lines
    assert np.allclose(tone(0.5), conversation.utterances[0].samples[:8000], atol=0.001)


def test_a_short_message_that_another_follows_begins_a_stream():
    conversation = Conversation(answer=lambda utterance: f"{utterance.reason} {utterance.duration_s:.2f} s")
    conversation.send(WORD, WORD).wait()

    assert ["idle 1.00 s"] == conversation.lines


def test_a_flush_right_after_a_short_message_answers_it_once():
    assert ["flush"] == Conversation().send(WORD).flush().wait().lines


def test_a_whole_message_right_after_a_short_one_makes_two_lines():
    conversation = Conversation(answer=lambda utterance: f"{utterance.duration_s:.1f} s")

    assert ["0.5 s", "2.0 s"] == conversation.send(WORD, s16le(tone(2.0))).wait().lines


# ---- whole messages among a stream -------------------------------------------------------------------------


def test_a_whole_message_while_speech_is_open_ends_it_first():
    conversation = Conversation(answer=lambda utterance: f"{utterance.duration_s:.1f} s")
    conversation.stream(WORD).send(s16le(tone(2.0))).wait()

    assert ["0.5 s", "2.0 s"] == conversation.lines


def test_a_whole_message_after_a_silent_stream_gets_one_line():
    assert ["message"] == Conversation().stream(PAUSE).send(WHOLE_WORD).wait().flush().lines


def test_a_stream_goes_on_after_a_whole_message():
    conversation = Conversation().stream(WORD, PAUSE).send(WHOLE_WORD).stream(WORD, PAUSE).wait()

    assert ["endpoint", "message", "endpoint"] == conversation.lines


# ---- flush -------------------------------------------------------------------------------------------------


def test_flush_ends_open_speech_with_one_line():
    assert ["flush"] == Conversation().stream(WORD).flush().wait().lines


def test_flush_after_silence_gets_the_failure_text():
    conversation = Conversation().stream(PAUSE).flush()

    assert ([FAILURE], []) == (conversation.lines, conversation.utterances)


def test_flush_after_silence_and_a_pause_gets_the_failure_text():
    assert [FAILURE] == Conversation().stream(PAUSE).wait().flush().lines


def test_flush_of_what_nobody_understands_gets_the_failure_text():
    assert [FAILURE] == Conversation(answer=lambda _: "").stream(WORD).flush().lines


def test_flush_without_audio_gets_nothing():
    assert [] == Conversation().flush().flush().lines


def test_a_second_flush_gets_nothing():
    assert ["flush"] == Conversation().stream(WORD).flush().flush().lines


def test_flush_after_a_whole_message_gets_nothing():
    assert ["message"] == Conversation().send(WHOLE_WORD).flush().lines


def test_flush_after_idle_has_answered_gets_nothing():
    assert ["idle"] == Conversation().stream(WORD).wait().flush().lines


@pytest.mark.parametrize("waits", [False, True])
def test_flush_after_an_endpoint_and_its_trailing_silence_gets_nothing(waits):
    conversation = Conversation().stream(WORD, PAUSE, PAUSE)
    if waits:
        conversation.wait()

    assert ["endpoint"] == conversation.flush().lines


def test_flush_after_an_endpoint_answers_what_was_said_since():
    assert ["endpoint", "flush"] == Conversation().stream(WORD, PAUSE, WORD).flush().lines


def test_flush_after_an_answered_pause_answers_the_silence_since():
    conversation = Conversation().stream(WORD, PAUSE).wait().stream(PAUSE).flush()

    assert ["endpoint", FAILURE] == conversation.lines


@pytest.mark.parametrize("text", ["flush\n", " flush "])
def test_white_space_around_flush_is_forgiven(text):
    conversation = Conversation().stream(WORD)

    assert 1 == len(list(conversation.session.receive_text(text)))


# ---- endpointing=off: push-to-talk -------------------------------------------------------------------------


def test_push_to_talk_ends_only_at_its_flush():
    conversation = Conversation("off").stream(WORD, PAUSE, WORD, PAUSE).wait().send(WHOLE_WORD).wait()
    assert [] == conversation.lines

    assert ["flush"] == conversation.flush().wait().lines


def test_push_to_talk_keeps_its_pauses():
    conversation = Conversation("off").stream(WORD, PAUSE).wait().stream(WORD).flush()

    assert 0.5 + 0.8 + 0.5 == pytest.approx(conversation.utterances[0].duration_s, abs=0.04)


def test_push_to_talk_may_last_a_minute_and_is_split_after_65_seconds():
    minute, more = (
        Conversation("off").stream(s16le(tone(60.0))),
        Conversation("off").stream(s16le(tone(66.0))),
    )

    assert ["flush"] == minute.flush().lines
    assert ["max_length", "flush"] == more.flush().lines


def test_every_flush_of_push_to_talk_gets_a_line():
    conversation = Conversation("off").flush().stream(WORD).flush().flush().stream(PAUSE).flush()

    assert [FAILURE, "flush", FAILURE, FAILURE] == conversation.lines


def test_a_message_longer_than_a_recording_is_push_to_talk_audio_like_any_other():
    conversation = Conversation("off").send(s16le(tone(1.0), silence(66.0))).flush()

    assert "max_length" == conversation.lines[0]
    assert [FAILURE] == conversation.lines[1:]


@given(st.lists(st.sampled_from([WORD, PAUSE, WHOLE_WORD, WORD[:333], b"\x7f", b"", "flush", "idle"]), max_size=20))
def test_push_to_talk_has_as_many_lines_as_flushes(events):
    conversation = Conversation("off")
    for event in events:
        if event == "flush":
            conversation.flush()
        elif event == "idle":
            conversation.wait()
        else:
            conversation.send(event)

    assert events.count("flush") == len(conversation.lines)


# ---- endpointing=on: an open microphone with any buffer size -----------------------------------------------


def test_buffers_of_a_second_are_a_stream():
    audio = s16le(silence(0.7), tone(1.5), silence(2.8), tone(0.5), silence(1.5))
    conversation = Conversation("on").stream(audio, chunk_bytes=32_000).wait()

    assert ["endpoint", "endpoint"] == conversation.lines


def test_buffers_of_a_second_hold_the_next_idle_off_for_as_long():
    conversation = Conversation("on").stream(s16le(tone(2.0)), chunk_bytes=32_000)
    assert 1.6 == conversation.session.idle_after_s

    assert ["idle"] == conversation.wait().lines


def test_every_wav_file_of_an_open_microphone_loses_its_header():
    file = wav_header(len(WORD + PAUSE)) + WORD + PAUSE
    first, second = Conversation("on").send(file, file).utterances

    assert 0.5 == pytest.approx(abs(first.samples).max(), abs=0.001)
    assert 0.5 == pytest.approx(abs(second.samples).max(), abs=0.001)


def test_a_silent_buffer_of_a_second_gets_nothing():
    assert [] == Conversation("on").send(WHOLE_SILENCE).wait().lines


def test_a_single_short_message_of_an_open_microphone_is_not_held():
    assert ["endpoint"] == Conversation("on").send(WORD + PAUSE[: 32_000 - len(WORD) - 2], PAUSE).wait().lines


def test_flush_of_an_open_microphone_answers_only_unanswered_audio():
    assert [] == Conversation("on").flush().lines
    assert ["flush"] == Conversation("on").stream(WORD).flush().flush().lines
    assert [FAILURE] == Conversation("on").stream(PAUSE).flush().lines
    assert ["endpoint"] == Conversation("on").stream(WORD, PAUSE).flush().lines


def test_an_open_microphone_is_split_after_30_seconds():
    conversation = Conversation("on").stream(s16le(tone(35.0)), chunk_bytes=32_000).wait()

    assert ["max_length", "idle"] == conversation.lines
    assert 35.0 == pytest.approx(sum(utterance.duration_s for utterance in conversation.utterances), abs=0.04)


# ---- chunking ----------------------------------------------------------------------------------------------

SPOKEN = s16le(silence(0.3), tone(0.4), silence(0.7), tone(0.2), silence(0.2), tone(0.3), silence(0.6), tone(0.1))


@pytest.mark.parametrize("endpointing", ["auto", "on", "off"])
@given(sizes=st.lists(st.integers(1, 31_999), min_size=1, max_size=6).filter(lambda sizes: max(sizes) > 50))
@settings(max_examples=20)
def test_chunking_does_not_matter(endpointing, sizes):
    def utterances(sizes: list[int]) -> list[tuple[str, int, list[float]]]:
        conversation = Conversation(endpointing).send(*in_chunks(SPOKEN, sizes)).flush()
        return [(u.reason, u.start_samples, u.samples.tolist()) for u in conversation.utterances]

    expected = utterances([3200])
    assert (1 if endpointing == "off" else 3) == len(expected)
    assert expected == utterances(sizes)


# ---- the order of lines ------------------------------------------------------------------------------------


def transcribes(actions: Iterable[Action]) -> list[int]:
    return [action.number for action in actions if isinstance(action, Transcribe)]


def test_lines_keep_the_order_of_the_audio_when_transcripts_do_not():
    session = plain()
    [first], [second], [third] = (transcribes(session.receive_bytes(WHOLE_WORD)) for _ in range(3))

    assert [] == list(session.receive_transcript(third, Transcript("셋", "ko")))
    assert [SendText("하나")] == list(session.receive_transcript(first, Transcript("하나", "ko")))
    assert [SendText("둘"), SendText("셋")] == list(session.receive_transcript(second, Transcript("둘", "ko")))


def test_a_failure_text_waits_for_the_lines_before_it():
    session = plain()
    [first] = transcribes(session.receive_bytes(WHOLE_WORD))

    assert [] == list(session.receive_bytes(WHOLE_SILENCE))
    assert [SendText("하나"), SendText(FAILURE)] == list(session.receive_transcript(first, Transcript("하나", "ko")))


def test_an_utterance_without_a_line_holds_up_no_other():
    session = plain()
    actions = [action for chunk in in_chunks(WORD + PAUSE, [3200]) for action in session.receive_bytes(chunk)]
    [unheard] = transcribes(actions)
    [whole] = transcribes(session.receive_bytes(WHOLE_WORD))

    assert [] == list(session.receive_transcript(whole, Transcript("하나", "ko")))
    assert [SendText("하나")] == list(session.receive_transcript(unheard, Transcript("", "ko")))


@given(st.permutations(range(6)))
def test_every_order_of_transcripts_gives_the_same_lines(order):
    session = plain()
    numbers = [number for _ in range(6) for number in transcribes(session.receive_bytes(WHOLE_WORD))]
    lines = [
        action for index in order for action in session.receive_transcript(numbers[index], Transcript(f"{index}", "ko"))
    ]

    assert [SendText(f"{index}") for index in range(6)] == lines


# ---- what is not audio -------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpointing", ["auto", "on", "off"])
def test_an_empty_message_is_ignored(endpointing):
    conversation = Conversation(endpointing).send(b"", b"").wait()
    assert ([], None) == (conversation.lines, conversation.session.idle_after_s)

    assert Conversation(endpointing).stream(WORD).flush().lines == (
        Conversation(endpointing).send(b"", *in_chunks(WORD, [3200]), b"").flush().lines
    )


def test_an_empty_message_after_a_single_short_one_does_not_make_it_a_stream():
    assert ["message"] == Conversation().send(WORD, b"").wait().lines


@pytest.mark.parametrize("text", ["", "안녕", "flush flush", "x" * 100_000])
def test_another_text_closes_with_4400(text):
    with pytest.raises(ProtocolError) as refusal:
        list(plain().receive_text(text))

    assert 4400 == refusal.value.code
    assert str(refusal.value).isascii()
    assert len(str(refusal.value)) <= 123
    assert "expected" in str(refusal.value)
    assert "flush" in str(refusal.value)


# ---- speculation -------------------------------------------------------------------------------------------


def carried_out(session: PlainSession, pcm: bytes) -> list[Action]:
    return [action for chunk in in_chunks(pcm, [640]) for action in session.receive_bytes(chunk)]


def test_an_utterance_is_transcribed_as_soon_as_the_player_falls_silent():
    session = plain("on")
    [guess] = carried_out(session, WORD + s16le(silence(0.2)))
    assert isinstance(guess, Transcribe) and guess.speculative

    assert [] == list(session.receive_transcript(guess.number, Transcript("ready", "ko")))
    [promote, line] = carried_out(session, s16le(silence(0.5)))
    assert SendText("ready") == line
    assert isinstance(promote, Promote) and promote.utterance.samples is guess.utterance.samples


def test_a_promoted_utterance_is_answered_when_its_text_comes():
    session = plain("on")
    guess, promote = carried_out(session, WORD + PAUSE)

    assert guess.number == promote.number
    assert [SendText("late")] == list(session.receive_transcript(guess.number, Transcript("late", "ko")))


def test_speech_that_goes_on_withdraws_the_guess_and_its_text_is_never_sent():
    session = plain("on")
    guess, withdraw = carried_out(session, WORD + s16le(silence(0.2)) + WORD)
    assert Withdraw(guess.number) == withdraw

    assert [] == list(session.receive_transcript(guess.number, Transcript("half", "ko")))
    second, promote = carried_out(session, PAUSE)
    assert second.number == promote.number != guess.number
    assert [SendText("all")] == list(session.receive_transcript(second.number, Transcript("all", "ko")))


def test_words_that_sound_finished_end_the_utterance_sooner():
    session = plain("on")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    finished = Transcript("문을 열어 줘.", "ko", avg_logprob=-0.2)

    promote, line = session.receive_transcript(guess.number, finished)
    assert (guess.number, SendText("문을 열어 줘.")) == (promote.number, line)


def test_they_wait_for_the_shortest_silence_that_may_end_an_utterance():
    session = plain("on")
    [guess] = carried_out(session, WORD + s16le(silence(0.2)))
    finished = Transcript("문을 열어 줘.", "ko", avg_logprob=-0.2)

    assert [] == list(session.receive_transcript(guess.number, finished))
    assert [SendText("문을 열어 줘.")] == carried_out(session, s16le(silence(0.1)))[1:]


def test_a_word_after_an_utterance_that_ended_sooner_is_the_next_one():
    session = plain("on")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    list(session.receive_transcript(guess.number, Transcript("끝.", "ko", avg_logprob=-0.2)))
    [second, _] = carried_out(session, WORD + PAUSE)

    assert guess.utterance.start_samples + len(guess.utterance.samples) <= second.utterance.start_samples


def test_push_to_talk_never_ends_before_its_flush_however_finished_it_sounds():
    session = plain("off")
    [guess] = carried_out(session, WORD + PAUSE)

    assert [] == list(session.receive_transcript(guess.number, Transcript("끝.", "ko", avg_logprob=-0.2)))


def test_a_released_key_finds_its_text_ready():
    session = plain("off")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    list(session.receive_transcript(guess.number, Transcript("ready", "ko")))

    assert [SendText("ready")] == [a for a in session.receive_text("flush") if isinstance(a, SendText)]


def test_a_guess_that_understood_nothing_is_a_failure_when_it_is_flushed():
    session = plain("off")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    list(session.receive_transcript(guess.number, Transcript("", "ko")))

    assert [SendText("인식 실패")] == [a for a in session.receive_text("flush") if isinstance(a, SendText)]


def test_a_guess_that_was_refused_is_asked_for_again_when_it_is_final():
    session = plain("off")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    assert [] == list(session.receive_refusal(guess.number))

    [final] = session.receive_text("flush")
    assert isinstance(final, Transcribe) and not final.speculative


def test_a_guess_that_is_refused_after_it_became_final_is_asked_for_again():
    session = plain("on")
    guess, _ = carried_out(session, WORD + PAUSE)
    [final] = session.receive_refusal(guess.number)

    assert isinstance(final, Transcribe) and (final.number, final.speculative) == (guess.number, False)
    assert [SendText("late")] == list(session.receive_transcript(guess.number, Transcript("late", "ko")))


# ---- second looks ------------------------------------------------------------------------------------------


def test_a_doubtful_final_is_looked_at_again_before_it_is_answered():
    session = plain("auto")
    [asked] = session.receive_bytes(s16le(tone(1.2)))
    doubtful = Transcript("어어어어", "ko", avg_logprob=-1.2, doubt="weak")

    [again] = session.receive_transcript(asked.number, doubtful)
    assert isinstance(again, LookAgain) and again.number == asked.number
    assert again.request.first is doubtful and again.request.samples is asked.utterance.samples
    assert [SendText("엄마")] == list(session.receive_transcript(asked.number, Transcript("엄마", "ko")))


@pytest.mark.parametrize(
    ("text", "no_speech_prob", "line"),
    [
        ("문을 열어 줘", 0.1, "문을 열어 줘"),
        ("시청해 주셔서 감사합니다.", 0.9, "인식 실패"),
    ],
    ids=["said", "a ghost"],
)
def test_without_its_second_look_a_doubtful_text_must_do_unless_nobody_said_it(text, no_speech_prob, line):
    session = plain("auto")
    [asked] = session.receive_bytes(s16le(tone(1.2)))
    doubtful = Transcript(text, "ko", avg_logprob=-1.2, no_speech_prob=no_speech_prob, doubt="weak")
    list(session.receive_transcript(asked.number, doubtful))

    assert [SendText(line)] == list(session.receive_failure(asked.number, Overloaded("late")))


def test_a_doubtful_guess_is_looked_at_again_while_the_silence_lasts():
    session = plain("off")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    [again] = session.receive_transcript(guess.number, Transcript("어", "ko", doubt="weak"))
    assert isinstance(again, LookAgain) and (guess.number, True) == (again.number, again.speculative)

    assert [] == list(session.receive_transcript(guess.number, Transcript("엄마", "ko")))
    assert [SendText("엄마")] == [a for a in session.receive_text("flush") if isinstance(a, SendText)]


def test_a_second_look_that_is_under_way_when_the_key_is_released_answers_it():
    session = plain("off")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    list(session.receive_transcript(guess.number, Transcript("어", "ko", doubt="weak")))

    [promote] = session.receive_text("flush")
    assert isinstance(promote, Promote)
    assert [SendText("엄마")] == list(session.receive_transcript(guess.number, Transcript("엄마", "ko")))


def test_a_second_look_that_was_refused_is_asked_for_again_when_the_utterance_is_final():
    session = plain("off")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))
    list(session.receive_transcript(guess.number, Transcript("어", "ko", doubt="weak")))
    assert [] == list(session.receive_refusal(guess.number))

    _, again = session.receive_text("flush")
    assert isinstance(again, LookAgain) and not again.speculative


def test_doubtful_words_do_not_end_an_utterance_however_finished_they_sound():
    session = plain("on")
    [guess] = carried_out(session, WORD + s16le(silence(0.3)))

    [again] = session.receive_transcript(guess.number, Transcript("끝.", "ko", doubt="sparse"))
    assert isinstance(again, LookAgain)

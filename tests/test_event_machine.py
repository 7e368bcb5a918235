"""JSON mode against a simple model of the protocol: any sequence of messages, chunks, answers and failures.

The audio is noise, so that the samples of a request fit in one place only: each range is found again in what was sent,
to the sample. Loud stretches are at least four windows long, so that none of them can be taken for a click.
"""

import itertools
import json
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from conftest import in_chunks
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stt_core.audio import AudioFormat, Encoding
from stt_core.endpointing import EndpointingOptions
from stt_core.errors import Overloaded
from stt_core.event_session import EventSession
from stt_core.fakes import EnergyVad
from stt_core.messages import (
    Closed,
    Dropped,
    Error,
    Final,
    Partial,
    Ready,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    parse_server_message,
)
from stt_core.session import (
    Action,
    Close,
    Draft,
    LookAgain,
    PlainSession,
    Promote,
    Send,
    SendText,
    Transcribe,
    Withdraw,
)
from stt_core.transcription import Decoding, Transcript

READY = Ready(session_id="s", version="0", model="fake", language="ko", limits={})
OPTIONS = EndpointingOptions(min_silence_duration_ms=256, max_silence_duration_ms=500, max_speech_duration_s=3.0)
MAX_PUSH_TO_TALK_S = 4.0
LOUD, QUIET = 8000, 2  # amplitudes: far above the detector's threshold, and far below it
IDS = st.sampled_from([None, None, "a", "b", "다"])
NOISE = np.random.default_rng(0).integers(-LOUD, LOUD, 2_000_000).astype(np.int16)

# What a job turns into, by the contract of the adapter: nobody is told of a failing guess but that it is lost.
GUESS, FINAL, DRAFT = "guess", "final", "draft"


@dataclass
class Heard:
    """What the client has sent, by sample."""

    samples: list[np.ndarray] = field(default_factory=list)
    loud: list[np.ndarray] = field(default_factory=list)
    length: int = 0

    def add(self, samples: np.ndarray, loud: bool) -> None:
        self.samples.append(samples)
        self.loud.append(np.full(len(samples), loud))
        self.length += len(samples)


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.heard = Heard()
        self.said: list[ServerMessage] = []
        self.jobs: dict[int, str] = {}  # what the engine may still answer, and as what
        self.looks: set[int] = set()  # the requests whose second look is under way, which ends all doubt
        self.late: dict[int, str] = {}  # what it did answer just before it was withdrawn
        self.requests: dict[int, np.ndarray] = {}  # the samples of each final request
        self.flushed: deque[str | None] = deque()  # the ids of flushes, in order
        self.cancelled: list[tuple[int, int]] = []  # where a client threw open audio away
        self.format = AudioFormat()
        self.closed = False
        self.ended_at: int | None = None  # the audio that counts

    # ---- the adapter

    def do(self, actions: object) -> None:
        for action in actions:
            self.one(action)

    def one(self, action: Action) -> None:
        assert not self.closed, f"{action} after the close"
        match action:
            case Send(message):
                assert not (self.said and isinstance(self.said[-1], Closed)), f"{message} after closed"
                assert len(message.to_json().encode()) < 1024
                assert message == parse_server_message(message.to_json())
                self.check(message)
                self.said.append(message)
            case Transcribe(number, request, _, speculative):
                self.jobs[number] = GUESS if speculative else FINAL
                self.requests[number] = request.samples
                self.looks.discard(number)
            case LookAgain(number, _, speculative):
                self.jobs[number] = GUESS if speculative else FINAL
                self.looks.add(number)
            case Draft(number):
                self.jobs[number] = DRAFT
            case Promote(number):
                if number in self.jobs:
                    self.jobs[number] = FINAL
            case Withdraw(number):
                if number in self.jobs:
                    self.late[number] = self.jobs.pop(number)
            case Close():
                assert isinstance(self.said[-1], Closed)
                self.closed = True
            case SendText():
                raise AssertionError("a plain line in JSON mode")

    def check(self, message: ServerMessage) -> None:
        """What every message must keep to, given those before it."""
        speech = [before for before in self.said if isinstance(before, SpeechStarted | SpeechEnded)]
        open_speech = speech[-1].utterance if speech and isinstance(speech[-1], SpeechStarted) else None
        last = max((before.utterance for before in speech), default=0)
        finals = [before.utterance for before in self.said if isinstance(before, Final)]
        match message:
            case SpeechStarted(utterance=utterance):
                assert open_speech is None
                assert utterance > last
                assert message.at_ms >= (speech[-1].at_ms - 1000 if speech else 0)
            case SpeechEnded(utterance=utterance):
                assert open_speech == utterance
                assert message.at_ms >= speech[-1].at_ms
            case Partial(utterance=utterance, text=text, stable=stable):
                assert open_speech == utterance
                assert utterance not in finals
                assert text.startswith(stable)
                before = [p.stable for p in self.said if isinstance(p, Partial) and p.utterance == utterance]
                assert stable.startswith(before[-1] if before else "")
            case Final(utterance=utterance, reason=reason, id=name):
                assert utterance != open_speech
                assert all(utterance > final for final in finals), "finals in the order of the audio"
                if reason == "flush" and not self.taken_over(utterance):
                    assert self.flushed.popleft() == name
            case Error(close=close):
                assert close is None

    def taken_over(self, utterance: int) -> bool:
        """Whether a final answers what plain mode had been sent whole."""
        return utterance <= self.pending_at_takeover

    # ---- beginnings

    @initialize(
        mode=st.sampled_from(["json", "json", "plain"]),
        endpointing=st.sampled_from(["auto", "on", "off"]),
        before=st.lists(st.tuples(st.booleans(), st.integers(2048, 20_000)), max_size=3),
    )
    def begin(self, mode: str, endpointing: str, before: list[tuple[bool, int]]) -> None:
        decoding = Decoding("ko")
        self.pending_at_takeover = 0
        self.plain_s = 0
        if mode == "json":
            self.session = EventSession(
                self.format,
                EnergyVad(),
                OPTIONS,
                ready=READY,
                endpointing=endpointing,
                decoding=decoding,
                max_push_to_talk_s=MAX_PUSH_TO_TALK_S,
            )
            self.do([self.session.greet()])
            return
        plain = PlainSession(
            self.format,
            EnergyVad(),
            OPTIONS,
            endpointing=endpointing,
            decoding=decoding,
            max_push_to_talk_s=MAX_PUSH_TO_TALK_S,
        )
        for loud, length in before:
            for action in plain.receive_bytes(self.record(loud, length)):
                if not isinstance(action, SendText):
                    self.one(action)
        self.pending_at_takeover = len(plain._waiting)
        self.plain_s = self.heard.length
        self.session, actions = EventSession.taking_over(plain, READY)
        self.pending_at_takeover = len(self.session._waiting)
        self.do(actions)

    # ---- the client

    def record(self, loud: bool, length: int) -> bytes:
        """So much of the noise, loud or quiet, in the format that the client declared."""
        begin = self.heard.length
        samples = NOISE[begin : begin + length]
        samples = samples if loud else (samples // (LOUD // QUIET)).astype(np.int16)
        self.heard.add(samples.astype(np.float32) / 32768, loud)
        if self.format.channels == 2:
            samples = np.repeat(samples, 2)
        if self.format.encoding == "f32le":
            return (samples.astype(np.float32) / 32768).astype("<f4").tobytes()
        return samples.astype("<i2").tobytes()

    @property
    def listening(self) -> bool:
        return not self.closed and self.ended_at is None

    @rule(length=st.integers(2048, 40_000), sizes=st.lists(st.integers(1, 8000), min_size=1, max_size=3))
    def speak(self, length: int, sizes: list[int]) -> None:
        self.send_audio(True, length, sizes)

    @rule(length=st.integers(1, 20_000), sizes=st.lists(st.integers(1, 8000), min_size=1, max_size=3))
    def be_silent(self, length: int, sizes: list[int]) -> None:
        self.send_audio(False, length, sizes)

    def send_audio(self, loud: bool, length: int, sizes: list[int]) -> None:
        if not self.listening:
            self.do(self.session.receive_bytes(bytes(2 * length)))
            return
        for chunk in in_chunks(self.record(loud, length), [size + 640 for size in sizes]):
            self.do(self.session.receive_bytes(chunk))

    def tell(self, kind: str, **fields: object) -> None:
        sent = {name: value for name, value in fields.items() if value is not None}
        self.do(self.session.receive_text(json.dumps({"type": kind, **sent})))

    @rule(
        name=IDS,
        endpointing=st.sampled_from([None, None, "auto", "on", "off"]),
        partials=st.sampled_from([None, True, True, False]),
        language=st.sampled_from([None, None, "ko", "en"]),
        channels=st.sampled_from([None, 1, 2]),
        encoding=st.sampled_from([None, "s16le", "f32le"]),
    )
    def start(
        self,
        name: str | None,
        endpointing: str | None,
        partials: bool | None,
        language: str | None,
        channels: int | None,
        encoding: Encoding | None,
    ) -> None:
        fields = {"id": name, "endpointing": endpointing, "partials": partials, "language": language}
        self.tell("start", **fields, channels=channels, encoding=encoding)
        if self.listening:
            self.format = AudioFormat(16_000, channels or self.format.channels, encoding or self.format.encoding)

    @rule(name=IDS)
    def flush(self, name: str | None) -> None:
        if self.listening:
            # Without a name of its own a flush has the one of the open push-to-talk utterance.
            self.flushed.append(name or self.session._id)
        self.tell("flush", id=name)

    @rule(name=IDS)
    def cancel(self, name: str | None) -> None:
        here = self.heard.length
        names_open = name is None or name == self.session._id
        last = max((end for _, end in self.ranges()), default=0)
        self.tell("cancel", id=name)
        if names_open and self.listening:
            self.cancelled.append((last, here))

    @rule(language=st.sampled_from(["ko", "en", None]), partials=st.sampled_from([None, True]))
    def configure(self, language: str | None, partials: bool | None) -> None:
        self.tell("configure", language=language, partials=partials)

    @rule(
        text=st.sampled_from(['{"type":"keepalive"}', "", "nonsense", '{"type":"flush","id":5}', '{"type":"x"}', "[]"])
    )
    def mean_nothing(self, text: str) -> None:
        before = len(self.said)
        self.do(self.session.receive_text(text))
        assert {"error", "ready"} >= {message.type for message in self.said[before:]}

    @rule()
    def send_nothing(self) -> None:
        before = len(self.said)
        self.do(self.session.receive_bytes(b""))
        assert before == len(self.said)

    @precondition(lambda self: self.session.idle_after_s is not None)
    @rule()
    def pause(self) -> None:
        self.do(self.session.idle())
        assert self.session.idle_after_s is None

    @precondition(lambda self: len(self.heard.samples) > 12)  # or most conversations would be short
    @rule()
    def end(self) -> None:
        if self.ended_at is None:
            self.ended_at = self.heard.length
        self.tell("end")

    # ---- the engine

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), doubt=st.sampled_from([None, None, None, "weak"]), finished=st.booleans())
    def answer(self, data: st.DataObject, doubt: str | None, finished: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.jobs)))
        kind = self.jobs.pop(number)
        words = data.draw(st.lists(st.sampled_from(["문", "문,", "을", "열어"]), max_size=3)) if kind is DRAFT else []
        text = " ".join(words) if kind is DRAFT else f"#{number}" + (" 끝." if finished else "")
        self.do(
            self.session.receive_transcript(
                number, Transcript(text, "ko", doubt=None if kind is DRAFT or number in self.looks else doubt)
            )
        )

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), error=st.sampled_from([Overloaded("the wait is over 30 s"), RuntimeError("CUDA")]))
    def fail(self, data: st.DataObject, error: Exception) -> None:
        number = data.draw(st.sampled_from(sorted(self.jobs)))
        if self.jobs.pop(number) is FINAL:
            self.do(self.session.receive_failure(number, error))
        else:
            self.do(self.session.receive_refusal(number))

    @precondition(lambda self: self.late and not self.closed)
    @rule(data=st.data(), outcome=st.sampled_from(["answer", "answer", "fail", "refuse"]))
    def be_late(self, data: st.DataObject, outcome: str) -> None:
        """What was withdrawn had already been settled."""
        number = data.draw(st.sampled_from(sorted(self.late)))
        del self.late[number]
        before, jobs = len(self.said), {**self.jobs}
        if outcome == "answer":
            self.do(self.session.receive_transcript(number, Transcript("늦은 말", "ko")))
        elif outcome == "fail":
            self.do(self.session.receive_failure(number, Overloaded("late")))
        else:
            self.do(self.session.receive_refusal(number))
        assert (before, jobs) == (len(self.said), self.jobs), "nobody wants it"

    # ---- the books

    def ranges(self) -> list[tuple[int, int]]:
        """Where the audio of each final request lies in what was sent, to the sample."""
        samples = np.concatenate([np.zeros(0, np.float32), *self.heard.samples])
        found = []
        for message in self.said:
            if isinstance(message, Final) and message.text:
                number = int(message.text.split()[0].removeprefix("#"))
                found.append(self.place(samples, self.requests[number], 16 * message.start_ms))
        return found

    @staticmethod
    def place(samples: np.ndarray, part: np.ndarray, near: int) -> tuple[int, int]:
        """The one place at `near` or up to a millisecond after it."""
        length = len(part)
        [begin] = [
            begin for begin in range(near, near + 16) if np.array_equal(samples[begin : begin + length], part)
        ] or [None]
        assert begin is not None, "the engine was given what was not said there"
        return begin, begin + length

    @invariant()
    def every_flush_waits_or_is_answered(self) -> None:
        if hasattr(self, "session") and self.session.settled:
            assert not self.flushed

    @invariant()
    def no_text_is_wrong(self) -> None:
        assert not any(isinstance(m, Final | Partial) and "늦은" in m.text for m in self.said[-5:])

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        if self.ended_at is None:
            self.ended_at = self.heard.length
            self.tell("end")
        for _ in itertools.count():
            if not self.jobs:
                break
            number, kind = self.jobs.popitem()
            if kind is FINAL:
                self.do(self.session.receive_transcript(number, Transcript(f"#{number}", "ko")))
            else:
                self.do(self.session.receive_refusal(number))
        assert self.closed, "every final is answered, so the session is over"
        assert not self.flushed
        self.close_the_books()

    def close_the_books(self) -> None:
        closed, session = self.said[-1], self.session
        assert isinstance(closed, Closed)
        finals = [message for message in self.said if isinstance(message, Final)]
        assert len(finals) == closed.utterances
        assert self.ended_at == session.position
        silence = session.position - session._spoken - session._cancelled - session._dropped
        assert silence >= 0
        sums = closed.speech_ms + closed.silence_ms + closed.cancelled_ms + closed.dropped_ms
        assert 0 <= closed.audio_ms - sums <= 4
        told = [message for message in self.said if isinstance(message, Dropped)]
        assert abs(closed.dropped_ms - sum(message.to_ms - message.from_ms for message in told)) <= len(told) + 1
        if self.plain_s:
            return  # plain lines do not say where their audio lies

        length = self.ended_at
        taken = np.zeros(length, np.int32)
        before = 0
        for begin, end in self.ranges():
            assert begin >= before, "finals are in the order of the audio and do not overlap"
            before = end
            taken[begin:end] += 1
        assert session._spoken == taken.sum()
        for message in told:
            taken[16 * message.from_ms + 16 : 16 * message.to_ms] += 1  # each end is up to a millisecond off
        assert taken.max(initial=0) <= 1, "no sample is told of twice"
        words = np.concatenate([np.zeros(0, bool), *self.heard.loud])[:length]
        assert (words & (taken == 0)).sum() <= session._cancelled + 32 * len(told)  # or rounded away
        emptied = [(16 * f.start_ms, 16 * f.end_ms + 16) for f in finals if not f.text]
        for begin, end in [*self.cancelled, *emptied, *((16 * m.from_ms, 16 * m.to_ms + 16) for m in told)]:
            taken[begin:end] += 1
        assert not (words & (taken == 0)).any(), "no word is lost silently"


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestConversation = Conversation.TestCase

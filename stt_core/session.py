"""The conversation with one client, without sockets, clocks or models.

The adapter (`app.py`) feeds what happens (`receive_bytes`, `receive_text`, `idle`, `receive_transcript`) and
carries out what the session answers: transcribe this, send that, close. Everything is decided here. What all sessions
share is `Session`; `PlainSession` is plain mode, `stt_core.event_session` JSON mode.

Plain mode. The client sends PCM and gets one line of text for each utterance, in the order of the audio:

* A message of a second or more is an utterance of its own and gets exactly one line.
* Shorter messages are a stream. Its utterances end at the VAD's endpoint, at the text message `flush`, or when
  no audio comes for 600 ms while unanswered audio holds speech.
* The first message after such a pause may be all there is: a short command sent whole. So it waits. If another
  message follows within 600 ms it begins a stream; if none does it was an utterance and gets exactly one line.

`endpointing` changes this: "on" makes everything a stream whatever its size, "off" is push-to-talk, where only
`flush` ends an utterance and every `flush` gets exactly one line.

Lines keep the order of the utterances although the engine may finish them in another: an answer waits until
all before it are there.

When the player falls silent the utterance is transcribed on speculation. If silence lasts, or the key is released,
that request becomes the final one (`Promote`) and its text may be there already; if speech goes on, it is withdrawn.
A text that sounds finished ends the utterance sooner. Doubtful text gets a second look (`LookAgain`), which is slow:
that, too, begins while the silence lasts.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal, Protocol, get_args

from stt_core.audio import SAMPLE_RATE, AudioFormat, PcmDecoder, Samples, is_wav, wav_header_bytes
from stt_core.completeness import sounds_finished
from stt_core.diagnosis import Code
from stt_core.endpointing import EndpointingOptions
from stt_core.errors import ProtocolError, SttError
from stt_core.evidence import Evidence, objection
from stt_core.messages import ServerMessage
from stt_core.phrases import PhraseBook
from stt_core.transcription import Decoding, Request, Timing, Transcript
from stt_core.utterances import Paused, Reason, Resumed, Started, Utterance, UtteranceStream, whole_utterance
from stt_core.vad import GatedVad, Vad

Endpointing = Literal["auto", "on", "off"]
ENDPOINTINGS: tuple[Endpointing, ...] = get_args(Endpointing)

WHOLE_MESSAGE_S = 1.0  # a message at least this long is an utterance of its own
IDLE_S = 0.6  # no audio for this long ends what was said
MAX_PUSH_TO_TALK_S = 65.0  # a longer one is split
MAX_MESSAGE_S = 66.0  # 2 MiB, the longest message on the wire, holds 65.5 s of 16 kHz mono
ARRIVALS = 512  # messages whose times of arrival are remembered
# One line must answer these, even if nothing was understood: somebody is waiting for it.
ALWAYS_ANSWERED: tuple[Reason, ...] = ("message", "flush")


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Have this utterance transcribed and hand the result to `receive_transcript` with its number."""

    number: int
    request: Request
    utterance: Utterance
    speculative: bool = False  # nobody waits for it yet


@dataclass(frozen=True, slots=True)
class Draft:
    """Have speech that goes on transcribed. Nothing is lost if it is not."""

    number: int
    request: Request


@dataclass(frozen=True, slots=True)
class Promote:
    """The speculative request with this number is final: somebody waits for its result, if it is not there yet."""

    number: int
    utterance: Utterance  # the samples of the request, and why it ended


@dataclass(frozen=True, slots=True)
class LookAgain:
    """The transcript of this utterance is in doubt: have it looked at again."""

    number: int
    request: Request
    speculative: bool = False  # nobody waits for it yet


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody will want the result of the request with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class SendText:
    """Send this line to the client."""

    text: str
    utterance: Utterance | None = field(default=None, compare=False)  # what it answers
    ttfs_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message to the client."""

    message: ServerMessage


@dataclass(frozen=True, slots=True)
class Close:
    """Everything is said: close the socket with 1000."""


Action = Transcribe | Draft | Promote | LookAgain | Withdraw | SendText | Send | Close


@dataclass(slots=True)
class Asked:
    """An utterance that the engine has been asked about."""

    number: int  # of the request
    utterance: Utterance
    decoding: Decoding
    since_s: float = 0.0  # the adapter's time from which a player waits for the text
    transcript: Transcript | None = None  # the engine's answer
    timing: Timing = field(default_factory=Timing)
    first: Transcript | None = None  # a doubtful one, which gets a second look
    offset: int = 0  # from the stream's positions to the session's
    cancelled: bool = False  # its client has thrown it away
    utterance_number: int = 0  # as JSON clients know it
    id: str | None = None  # the name that its client gave it


class Witness(Protocol):
    """Keeps a record of what came and what was made of it. It is told, and never asked."""

    def decoding(self, position_samples: int, carried_bytes: int) -> None:
        """The oldest message that has not been decoded is: its first sample lies at this position of the session's
        audio, and so many bytes before the message belong to that sample."""
        ...

    def forget(self) -> None:
        """What has come so far belongs to no utterance."""
        ...

    def ended(self, asked: Asked, position_samples: int) -> None:
        """An utterance is over, at this position. What has been decoded by now is what it was cut from."""
        ...

    def answered(self, asked: Asked, transcript: Transcript, now_s: float) -> None:
        """And this is its text."""
        ...


class Mender(Protocol):
    """Undoes faults of a client's bytes before they are decoded. It may hold bytes back until it has seen enough."""

    codes: set[Code]  # the faults that it undoes at present

    @property
    def held_bytes(self) -> int:
        """Bytes that it holds back."""
        ...

    def restart(self, audio_format: AudioFormat) -> None:
        """The next byte begins a sample of this format."""
        ...

    def take(self, data: bytes) -> bytes:
        """A message of a stream. Returns what can be decoded by now."""
        ...

    def rest(self) -> bytes:
        """What is held back: somebody wants to know now what was said."""
        ...

    def whole(self, data: bytes) -> bytes:
        """A message that is an utterance of its own."""
        ...


class Session(ABC):
    """What plain mode and JSON mode share: audio in, requests out, answers in order.

    `now_s` is the adapter's clock. It only measures; nothing is decided by it.

    Args:
        audio_format: what the client says its bytes are.
        vad: the shared detector; the session takes its own streams from it.
        options: when speech begins and ends.
        endpointing: see the module header.
        decoding: language, task and hotwords.
        max_push_to_talk_s: a longer push-to-talk utterance is split.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        vad: Vad,
        options: EndpointingOptions,
        *,
        endpointing: Endpointing,
        decoding: Decoding,
        max_push_to_talk_s: float,
    ) -> None:
        self.now_s = 0.0
        self.witness: Witness | None = None
        self.mender: Mender | None = None
        self.endpointing = endpointing
        self.decoding = decoding
        self._vad = vad
        self._options = options
        self._max_push_to_talk_s = max_push_to_talk_s
        self._decoder = PcmDecoder(audio_format)
        push_to_talk = endpointing == "off"
        self._stream = UtteranceStream(
            GatedVad(vad).stream(), self._options_for(push_to_talk), endpointing=not push_to_talk
        )
        self._numbers = count()
        self._waiting: dict[int, Asked] = {}  # finals that have not been answered, in order
        self._guess: Asked | None = None  # the utterance that is being transcribed on speculation
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=ARRIVALS)  # position after a message, and its time
        self._offset = 0  # samples that did not pass through the stream
        self._spoken = 0  # samples that were answered

    @property
    @abstractmethod
    def idle_after_s(self) -> float | None:
        """Call `idle` when no audio has come for this long. None: it has been called."""

    @abstractmethod
    def receive_bytes(self, data: bytes) -> Iterator[Action]:
        """Take a binary message.

        Raises:
            ProtocolError: the message holds more than an utterance may.
        """

    @abstractmethod
    def receive_text(self, text: str) -> Iterator[Action]:
        """Take a text message.

        Raises:
            ProtocolError: it is none of the protocol's.
        """

    @abstractmethod
    def idle(self) -> Iterator[Action]:
        """No audio has come for `idle_after_s`."""

    @abstractmethod
    def finalise(self) -> Iterator[Action]:
        """The session must end: finish what is open. It is over when it is `settled`."""

    @abstractmethod
    def _answer(self, asked: Asked, transcript: Transcript) -> Iterator[Action]:
        """Tell the client the text of an utterance, in its turn."""

    @abstractmethod
    def _failed(self, asked: Asked, error: Exception) -> Iterator[Action]:
        """An utterance could not be transcribed."""

    @property
    def audio_format(self) -> AudioFormat:
        """What the client's bytes are."""
        return self._decoder.format

    @property
    def position(self) -> int:
        """Samples of audio that the session has received."""
        return self._stream.position_samples + self._offset

    @property
    def holds_speech(self) -> bool:
        """Whether somebody is speaking."""
        return self._stream.holds_speech

    @property
    def settled(self) -> bool:
        """Whether every utterance has been answered."""
        return not self._waiting

    def receive_transcript(self, number: int, transcript: Transcript, timing: Timing | None = None) -> Iterator[Action]:
        """Take the engine's answer; yield what need not wait any longer."""
        asked = self._guess if self._guess is not None and self._guess.number == number else self._awaited(number)
        if asked is None:  # withdrawn while the answer was on its way
            return
        asked.timing += timing or Timing()
        if transcript.doubt:
            asked.first = transcript
            utterance = asked.utterance
            request = asked.decoding.request(utterance.samples, vad_ratio=utterance.vad_ratio, first=transcript)
            yield LookAgain(number, request, speculative=asked is self._guess)
        elif asked is self._guess:
            asked.transcript = transcript
            yield from self._guessed(transcript)
            yield from self._end_if_finished()
        else:
            asked.transcript = transcript
            yield from self._answer_in_order()

    def receive_refusal(self, number: int) -> Iterator[Action]:
        """The speculative request with this number came to nothing: its utterance is asked for if it is final."""
        if self._guess is not None and self._guess.number == number:
            self._guess.transcript = self._guess.first  # only the second look is lost: it is asked for again
            if self._guess.first is None:
                self._guess = None
        elif (asked := self._awaited(number)) is not None:
            yield self._transcribe(asked)

    def receive_failure(self, number: int, error: Exception) -> Iterator[Action]:
        """The final with this number could not be transcribed.

        Raises:
            SttError: the session cannot go on.
        """
        if (asked := self._awaited(number)) is None:
            return
        if asked.first is None:
            yield from self._failed(asked, error)
        else:  # only the second look is lost
            asked.transcript = _believed(asked.first, asked.utterance)
            yield from self._answer_in_order()

    def _awaited(self, number: int) -> Asked | None:
        """The final that waits for the result of this request."""
        asked = self._waiting.get(number)
        return asked if asked is not None and asked.transcript is None else None

    def _options_for(self, push_to_talk: bool) -> EndpointingOptions:
        longest_s = self._max_push_to_talk_s if push_to_talk else self._options.max_speech_duration_s
        return replace(self._options, max_speech_duration_s=longest_s)

    def _answer_in_order(self) -> Iterator[Action]:
        while self._waiting:
            first = next(iter(self._waiting.values()))
            if first.transcript is None:
                return
            del self._waiting[first.number]
            if self.witness is not None:
                self.witness.answered(first, first.transcript, self.now_s)
            yield from self._answer(first, first.transcript)

    def _restart(self, audio_format: AudioFormat | None = None) -> None:
        """The next byte begins a sample: of this format from now on, if one is given."""
        if audio_format is not None:
            self._decoder = PcmDecoder(audio_format)
        self._decoder.reset()
        if self.mender is not None:
            self.mender.restart(self._decoder.format)

    def _tell_witness(self) -> None:
        """The next message is decoded now."""
        if self.witness is not None:
            held_s = self.audio_format.duration_s(self.mender.held_bytes) if self.mender is not None else 0
            self.witness.decoding(self.position + round(held_s * SAMPLE_RATE), self._decoder.carried_bytes)

    def _push(self, data: bytes) -> Iterator[Action]:
        """Take audio of the stream."""
        if is_wav(data):
            self._decoder.reset()
        self._tell_witness()
        if self.mender is not None:
            data = self.mender.take(data)
        yield from self._hear(self._decoder.decode(data))

    def _release(self) -> Iterator[Action]:
        """Hear what the mender holds back."""
        if self.mender is not None and self.mender.held_bytes:
            yield from self._hear(self._decoder.decode(self.mender.rest()))

    def _decode_whole(self, data: bytes) -> Samples:
        """The samples of a message that is an utterance of its own."""
        self._tell_witness()
        if self.mender is not None:
            data = self.mender.whole(data)
        return self._decoder.decode(data)

    def _hear(self, samples: Samples) -> Iterator[Action]:
        """Take samples of the stream."""
        self._arrivals.append((self._stream.position_samples + len(samples), self.now_s))
        for event in self._stream.push(samples):
            match event:
                case Started():
                    yield from self._started(event)
                case Paused(utterance):
                    self._guess = Asked(next(self._numbers), utterance, self.decoding)
                    request = self.decoding.request(utterance.samples, vad_ratio=utterance.vad_ratio, quick=True)
                    yield Transcribe(self._guess.number, request, utterance, speculative=True)
                case Resumed():
                    yield from self._withdraw_guess()
                case Utterance():
                    yield from self._ended(event)
        yield from self._end_if_finished()

    def _started(self, event: Started) -> Iterator[Action]:
        """Speech has begun."""
        yield from ()

    def _guessed(self, transcript: Transcript) -> Iterator[Action]:
        """What was said before the present silence."""
        yield from ()

    def _ended(self, utterance: Utterance) -> Iterator[Action]:
        """Silence or its length ended an utterance."""
        yield from self._finish(utterance, self._arrival_s(utterance.speech_end_samples))

    def _end_if_finished(self) -> Iterator[Action]:
        """End the utterance before silence alone would, if what was said sounds finished."""
        if (
            self.endpointing != "off"
            and self._guess is not None
            and self._guess.transcript is not None
            and self._stream.silence_ms >= self._options.min_silence_duration_ms
            and sounds_finished(self._guess.transcript)
        ):
            yield from self._ended(self._stream.end())

    def _withdraw_guess(self) -> Iterator[Action]:
        if self._guess is not None:
            guess, self._guess = self._guess, None
            yield Withdraw(guess.number)

    def _finish(self, utterance: Utterance, since_s: float | None = None) -> Iterator[Action]:
        """The utterance is over: have it transcribed, unless it is being transcribed already.

        Args:
            since_s: the time from which the player waits for the text; now if not given.
        """
        asked = self._asked(utterance)
        asked.since_s = self.now_s if since_s is None else since_s
        self._waiting[asked.number] = asked
        if self.witness is not None:
            self.witness.ended(asked, self.position)
        if (guess := self._guess) is not None and guess.number == asked.number:
            self._guess = None
            yield Promote(asked.number, utterance)
            if guess.transcript is not None:
                yield from self.receive_transcript(asked.number, guess.transcript)
            return
        yield from self._withdraw_guess()
        if len(utterance.samples):
            yield self._transcribe(asked)
        else:
            yield from self.receive_transcript(asked.number, Transcript("", self.decoding.language))

    def _transcribe(self, asked: Asked) -> Transcribe:
        utterance = asked.utterance
        request = asked.decoding.request(utterance.samples, vad_ratio=utterance.vad_ratio, quick=True)
        return Transcribe(asked.number, request, asked.utterance)

    def _asked(self, utterance: Utterance) -> Asked:
        """The utterance as a request, the one that is under way if there is one."""
        guess = self._guess
        if guess is not None and guess.utterance.samples is utterance.samples:
            return Asked(
                guess.number, utterance, guess.decoding, timing=guess.timing, first=guess.first, offset=self._offset
            )
        return Asked(next(self._numbers), utterance, self.decoding, offset=self._offset)

    def _arrival_s(self, position_samples: int) -> float:
        """When the audio at this position came."""
        for position, arrived_s in self._arrivals:
            if position >= position_samples:
                return arrived_s
        return self.now_s


def _believed(first: Transcript, utterance: Utterance) -> Transcript:
    """A first transcript that must do: the engine keeps back what nobody said only of what it is done with."""
    evidence = Evidence(first.text, first.avg_logprob, first.no_speech_prob, utterance.vad_ratio)
    return replace(first, text="") if objection(evidence) else first


class PlainSession(Session):
    """One plain-mode connection.

    Args:
        failure_text: the line for an utterance in which nothing was understood.
        phrases: answer with the one that was meant, instead of the text.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        vad: Vad,
        options: EndpointingOptions,
        *,
        endpointing: Endpointing = "auto",
        decoding: Decoding | None = None,
        max_push_to_talk_s: float = MAX_PUSH_TO_TALK_S,
        failure_text: str = "인식 실패",
        phrases: PhraseBook | None = None,
    ) -> None:
        super().__init__(
            audio_format,
            vad,
            options,
            endpointing=endpointing,
            decoding=replace(decoding or Decoding(), alternatives=phrases.alternatives if phrases else None),
            max_push_to_talk_s=max_push_to_talk_s,
        )
        self._failure_text = failure_text
        self._phrases = phrases
        self._pausing = True  # no audio has come for a while, or ever
        self._between = True  # the next message may be a whole utterance, however short
        self._held: bytes | None = None  # such a message, until another one follows it
        self._last_message_s = 0.0
        self._unanswered = False  # audio has come since the last line was promised
        self._endpoint_answered = False  # … and what was said in it has been answered by an endpoint

    @property
    def idle_after_s(self) -> float | None:
        if self._pausing:
            return None
        # Clients that send seconds at a time are not idle before their next message is due.
        return IDLE_S + (self._last_message_s if self.endpointing == "on" else 0)

    def receive_bytes(self, data: bytes) -> Iterator[Action]:
        if not data:
            return
        if self._pausing:
            self._pausing = False
            self._restart()  # a stray byte from before the pause would misalign all that follows
        stands_alone, self._between = self._between, False
        self._last_message_s = self._decoder.format.duration_s(len(data))
        self._unanswered = True
        if self.endpointing == "auto" and self._is_whole(data):
            yield from self._receive_whole(data)
        elif self.endpointing == "auto" and stands_alone:
            self._held = data
        else:
            yield from self.release_held()
            yield from self._push(data)

    def receive_text(self, text: str) -> Iterator[Action]:
        if text.strip() != "flush":
            raise ProtocolError(4400, "expected binary PCM or the text 'flush', got another text message")
        yield from self.release_held()
        yield from self._release()
        answered = self._endpoint_answered and not self._stream.holds_speech  # only silence came after it
        if self.endpointing == "off" or (self._unanswered and not answered):
            yield from self._finish(self._stream.flush("flush"))
        self._unanswered = self._endpoint_answered = False

    def idle(self) -> Iterator[Action]:
        self._pausing = self._between = True
        yield from self._release()
        if self._held is not None:
            data, self._held = self._held, None
            yield from self._transcribe_whole(self._decode_whole(data))
        elif self.endpointing == "off":
            return
        elif self._stream.holds_speech:
            utterance = self._stream.flush("idle")
            yield from self._finish(utterance, self._arrival_s(utterance.speech_end_samples))
            self._unanswered = False
        elif self._endpoint_answered:
            self._unanswered = False
        self._endpoint_answered = False

    def finalise(self) -> Iterator[Action]:
        if self._held is not None:
            yield from self.idle()
        yield from self._release()
        if self._stream.holds_speech:
            yield from self._finish(self._stream.flush("end"))

    def release_held(self) -> Iterator[Action]:
        """The held message was the beginning of a stream."""
        if self._held is not None:
            data, self._held = self._held, None
            yield from self._push(data)

    def _ended(self, utterance: Utterance) -> Iterator[Action]:
        self._endpoint_answered = True
        yield from super()._ended(utterance)

    def _answer(self, asked: Asked, transcript: Transcript) -> Iterator[Action]:
        self._spoken += len(asked.utterance.samples)
        must_answer = asked.utterance.reason in ALWAYS_ANSWERED
        text = transcript.text
        if self._phrases is not None:
            match = self._phrases.match(text, transcript.heard)
            text = match.phrase if match is not None and match.accepted else ""
        if text := text or (self._failure_text if must_answer else ""):
            yield SendText(text, asked.utterance, self.now_s - asked.since_s)

    def _failed(self, asked: Asked, error: Exception) -> Iterator[Action]:
        if isinstance(error, SttError):  # in plain mode only a close can say that something is wrong
            raise error
        asked.transcript = Transcript("", asked.decoding.language)
        yield from self._answer_in_order()

    def _is_whole(self, data: bytes) -> bool:
        header = wav_header_bytes(data) or 0
        return self._decoder.format.duration_s(len(data) - header) >= WHOLE_MESSAGE_S

    def _receive_whole(self, data: bytes) -> Iterator[Action]:
        duration_s = self._decoder.format.duration_s(len(data))
        if duration_s > MAX_MESSAGE_S:
            raise ProtocolError(1009, f"a message may hold {MAX_MESSAGE_S:.0f} s of audio, got {duration_s:.1f} s")
        yield from self.release_held()
        yield from self._release()
        if self._stream.holds_speech:  # it was being said when this message came: a line of its own
            yield from self._finish(self._stream.flush("message"))
        self._decoder.align(data)
        yield from self._transcribe_whole(self._decode_whole(data))
        self._between = True

    def _transcribe_whole(self, samples: Samples) -> Iterator[Action]:
        utterance, here = whole_utterance(samples, self._vad, self._options), self._stream.position_samples
        yield from self._finish(
            replace(
                utterance,
                start_samples=here + utterance.start_samples,
                speech_end_samples=here + utterance.speech_end_samples,
            )
        )
        self._offset += len(samples)
        self._unanswered = self._endpoint_answered = False

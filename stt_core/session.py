"""The conversation with one client, without sockets, clocks or models.

The adapter (`app.py`) feeds what happens (`receive_bytes`, `receive_text`, `idle`, `receive_transcript`) and
carries out what the session answers: transcribe this, send that, close. Everything is decided here.

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
A text that sounds finished ends the utterance sooner. Doubtful text gets a second look (`LookAgain`), which is slow,
only once it is final.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal, get_args

from stt_core.audio import AudioFormat, PcmDecoder, Samples, is_wav, wav_header_bytes
from stt_core.completeness import sounds_finished
from stt_core.endpointing import EndpointingOptions
from stt_core.errors import ProtocolError
from stt_core.transcription import Transcript
from stt_core.utterances import Paused, Reason, Resumed, Utterance, UtteranceStream, whole_utterance
from stt_core.vad import GatedVad, Vad

Endpointing = Literal["auto", "on", "off"]
ENDPOINTINGS: tuple[Endpointing, ...] = get_args(Endpointing)

WHOLE_MESSAGE_S = 1.0  # a message at least this long is an utterance of its own
IDLE_S = 0.6  # no audio for this long ends what was said
MAX_PUSH_TO_TALK_S = 65.0  # a longer one is split
MAX_MESSAGE_S = 66.0  # 2 MiB, the longest message on the wire, holds 65.5 s of 16 kHz mono
# One line must answer these, even if nothing was understood: somebody is waiting for it.
ALWAYS_ANSWERED: tuple[Reason, ...] = ("message", "flush")


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Have this utterance transcribed and hand the result to `receive_transcript` with its number."""

    number: int
    utterance: Utterance
    speculative: bool = False  # nobody waits for it yet


@dataclass(frozen=True, slots=True)
class Promote:
    """The speculative request with this number is final: somebody waits for its result, if it is not there yet."""

    number: int
    utterance: Utterance  # the samples of the request, and why it ended


@dataclass(frozen=True, slots=True)
class LookAgain:
    """The transcript of this final is in doubt: have its utterance looked at again."""

    number: int
    utterance: Utterance
    first: Transcript


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody will want the result of the request with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class SendText:
    """Send this line to the client."""

    text: str


Action = Transcribe | Promote | LookAgain | Withdraw | SendText


@dataclass(slots=True)
class _Asked:
    """An utterance that the engine has been asked about."""

    number: int
    utterance: Utterance
    transcript: Transcript | None = None  # its answer


class PlainSession:
    """One plain-mode connection.

    Args:
        audio_format: what the client says its bytes are.
        vad: the shared detector; the session takes its own streams from it.
        options: when speech begins and ends.
        endpointing: see the module header.
        failure_text: the line for an utterance in which nothing was understood.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        vad: Vad,
        options: EndpointingOptions,
        *,
        endpointing: Endpointing = "auto",
        failure_text: str = "인식 실패",
    ) -> None:
        self._vad = vad
        self._options = options
        self._endpointing = endpointing
        self._failure_text = failure_text
        self._decoder = PcmDecoder(audio_format)
        push_to_talk = endpointing == "off"
        self._stream = UtteranceStream(
            GatedVad(vad).stream(),
            replace(options, max_speech_duration_s=MAX_PUSH_TO_TALK_S) if push_to_talk else options,
            endpointing=not push_to_talk,
        )
        self._pausing = True  # no audio has come for a while, or ever
        self._between = True  # the next message may be a whole utterance, however short
        self._held: bytes | None = None  # such a message, until another one follows it
        self._last_message_s = 0.0
        self._unanswered = False  # audio has come since the last line was promised
        self._endpoint_answered = False  # … and what was said in it has been answered by an endpoint
        self._numbers = count()
        self._waiting: dict[int, _Asked] = {}  # finals that have not been answered, in order
        self._guess: _Asked | None = None  # the utterance that is being transcribed on speculation

    @property
    def idle_after_s(self) -> float | None:
        """Call `idle` when no audio has come for this long. None: it has been called."""
        if self._pausing:
            return None
        # Clients that send seconds at a time are not idle before their next message is due.
        return IDLE_S + (self._last_message_s if self._endpointing == "on" else 0)

    def receive_bytes(self, data: bytes) -> Iterator[Action]:
        """Take a binary message.

        Raises:
            ProtocolError: the message holds more than an utterance may.
        """
        if not data:
            return
        if self._pausing:
            self._pausing = False
            self._decoder.reset()  # a stray byte from before the pause would misalign all that follows
        stands_alone, self._between = self._between, False
        self._last_message_s = self._decoder.format.duration_s(len(data))
        self._unanswered = True
        if self._endpointing == "auto" and self._is_whole(data):
            yield from self._receive_whole(data)
        elif self._endpointing == "auto" and stands_alone:
            self._held = data
        else:
            yield from self._release_held()
            yield from self._receive_stream(data)

    def receive_text(self, text: str) -> Iterator[Action]:
        """Take a text message.

        Raises:
            ProtocolError: it is not `flush`.
        """
        if text.strip() != "flush":
            raise ProtocolError(4400, "expected binary PCM or the text 'flush', got another text message")
        yield from self._release_held()
        answered = self._endpoint_answered and not self._stream.holds_speech  # only silence came after it
        if self._endpointing == "off" or (self._unanswered and not answered):
            yield from self._finish(self._stream.flush("flush"))
        self._unanswered = self._endpoint_answered = False

    def idle(self) -> Iterator[Action]:
        """No audio has come for `idle_after_s`."""
        self._pausing = self._between = True
        if self._held is not None:
            data, self._held = self._held, None
            yield from self._transcribe_whole(self._decoder.decode(data))
        elif self._endpointing == "off":
            return
        elif self._stream.holds_speech:
            yield from self._finish(self._stream.flush("idle"))
            self._unanswered = False
        elif self._endpoint_answered:
            self._unanswered = False
        self._endpoint_answered = False

    def receive_transcript(self, number: int, transcript: Transcript) -> Iterator[Action]:
        """Take the engine's answer; yield the lines that need not wait any longer."""
        if self._guess is not None and self._guess.number == number:
            self._guess.transcript = transcript
            yield from self._end_if_finished()
            return
        if number not in self._waiting:  # withdrawn while the answer was on its way
            return
        if transcript.doubt:
            yield LookAgain(number, self._waiting[number].utterance, transcript)
            return
        self._waiting[number].transcript = transcript
        while self._waiting:
            first = next(iter(self._waiting.values()))
            if first.transcript is None:
                return
            del self._waiting[first.number]
            must_answer = first.utterance.reason in ALWAYS_ANSWERED
            if text := first.transcript.text or (self._failure_text if must_answer else ""):
                yield SendText(text)

    def receive_refusal(self, number: int) -> Iterator[Action]:
        """The speculative request with this number came to nothing: its utterance is asked for if it is final."""
        if self._guess is not None and self._guess.number == number:
            self._guess = None
        elif number in self._waiting:
            yield Transcribe(number, self._waiting[number].utterance)

    def _is_whole(self, data: bytes) -> bool:
        header = wav_header_bytes(data) or 0
        return self._decoder.format.duration_s(len(data) - header) >= WHOLE_MESSAGE_S

    def _receive_whole(self, data: bytes) -> Iterator[Action]:
        duration_s = self._decoder.format.duration_s(len(data))
        if duration_s > MAX_MESSAGE_S:
            raise ProtocolError(1009, f"a message may hold {MAX_MESSAGE_S:.0f} s of audio, got {duration_s:.1f} s")
        yield from self._release_held()
        if self._stream.holds_speech:  # it was being said when this message came: a line of its own
            yield from self._finish(self._stream.flush("message"))
        self._decoder.align(data)
        yield from self._transcribe_whole(self._decoder.decode(data))
        self._between = True

    def _transcribe_whole(self, samples: Samples) -> Iterator[Action]:
        yield from self._finish(whole_utterance(samples, self._vad, self._options))
        self._unanswered = self._endpoint_answered = False

    def _release_held(self) -> Iterator[Action]:
        """The held message was the beginning of a stream."""
        if self._held is not None:
            data, self._held = self._held, None
            yield from self._receive_stream(data)

    def _receive_stream(self, data: bytes) -> Iterator[Action]:
        if is_wav(data):
            self._decoder.reset()
        for event in self._stream.push(self._decoder.decode(data)):
            match event:
                case Paused(utterance):
                    self._guess = _Asked(next(self._numbers), utterance)
                    yield Transcribe(self._guess.number, utterance, speculative=True)
                case Resumed():
                    yield from self._withdraw_guess()
                case Utterance():
                    self._endpoint_answered = True
                    yield from self._finish(event)
        yield from self._end_if_finished()

    def _end_if_finished(self) -> Iterator[Action]:
        """End the utterance before silence alone would, if what was said sounds finished."""
        if (
            self._endpointing != "off"
            and self._guess is not None
            and self._guess.transcript is not None
            and self._stream.silence_ms >= self._options.min_silence_duration_ms
            and sounds_finished(self._guess.transcript)
        ):
            self._endpoint_answered = True
            yield from self._finish(self._stream.end())

    def _withdraw_guess(self) -> Iterator[Action]:
        if self._guess is not None:
            guess, self._guess = self._guess, None
            yield Withdraw(guess.number)

    def _finish(self, utterance: Utterance) -> Iterator[Action]:
        """The utterance is over: have it transcribed, unless it is being transcribed already."""
        guess = self._guess
        if guess is not None and guess.utterance.samples is utterance.samples:
            self._guess = None
            self._waiting[guess.number] = _Asked(guess.number, utterance)
            yield Promote(guess.number, utterance)
            if guess.transcript is not None:
                yield from self.receive_transcript(guess.number, guess.transcript)
            return
        yield from self._withdraw_guess()
        number = next(self._numbers)
        self._waiting[number] = _Asked(number, utterance)
        if len(utterance.samples):
            yield Transcribe(number, utterance)
        else:
            yield from self.receive_transcript(number, Transcript("", ""))

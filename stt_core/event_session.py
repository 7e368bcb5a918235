"""JSON mode: the client says what it does, the server says what happens. See `stt_core.messages` for the words.

A session is an open microphone until a `start` has an `id`; from then on it is push-to-talk.

* Open microphone: all audio is listened to. Utterances end at the VAD's endpoint, at `flush`, at `end`, or when no
  audio comes for 600 ms.
* Push-to-talk: an utterance is what comes between `start` and its `flush`, pauses and all. What comes outside is not
  listened to, and the next message says so (`dropped`). `start` with the same `id` changes the format in mid-speech,
  with another one it ends what is open.

Every `flush`, and every push-to-talk utterance that something else ended, gets exactly one `final`. Finals come in the
order of the audio. Each sample is accounted for: it is in a `final`, cancelled, dropped, or silence.

Positions are samples of the session's audio at 16 kHz; the wire has milliseconds of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stt_core.audio import SAMPLE_RATE, AudioFormat, Samples
from stt_core.confidence import confidence
from stt_core.endpointing import EndpointingOptions
from stt_core.errors import ModelError, Overloaded, ProtocolError
from stt_core.messages import (
    Cancel,
    ClientMessage,
    Closed,
    Configure,
    Dropped,
    End,
    Final,
    Flush,
    Keepalive,
    Match,
    MessageError,
    Partial,
    Ready,
    Reason,
    SpeechEnded,
    SpeechStarted,
    Start,
    Vocabulary,
    declared_format,
    error_message,
    parse_client_message,
)
from stt_core.messages import Timing as WireTiming
from stt_core.partials import Partials
from stt_core.phrases import PhraseBook, PhraseError, phrase_book
from stt_core.session import (
    IDLE_S,
    MAX_PUSH_TO_TALK_S,
    Action,
    Asked,
    Close,
    Draft,
    Endpointing,
    PlainSession,
    Send,
    Session,
    Withdraw,
)
from stt_core.transcription import Decoding, Timing, Transcript
from stt_core.utterances import Started, Utterance
from stt_core.vad import Vad

RETRY_AFTER_MS = 2000  # what an overloaded server asks for


@dataclass(slots=True)
class _Named(Asked):
    """A final that the client waits for."""

    book: PhraseBook | None = None
    lost: bool = False


class EventSession(Session):
    """One JSON-mode connection.

    Args:
        ready: the `ready` message; the session fills in language and format.
        endpointing: for every `start` that does not say.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        vad: Vad,
        options: EndpointingOptions,
        *,
        ready: Ready,
        endpointing: Endpointing = "auto",
        decoding: Decoding | None = None,
        max_push_to_talk_s: float = MAX_PUSH_TO_TALK_S,
    ) -> None:
        super().__init__(
            audio_format,
            vad,
            options,
            endpointing=endpointing,
            decoding=decoding or Decoding(),
            max_push_to_talk_s=max_push_to_talk_s,
        )
        self._ready = ready
        self._default_endpointing = endpointing
        self.endpointing = "off" if endpointing == "off" else "on"
        self._book: PhraseBook | None = None
        self._push_to_talk = False
        self._id: str | None = None
        self._listening = True  # push-to-talk: between `start` and `flush`
        self._unheard = 0  # samples that were not listened to, since the client was last told
        self._utterance = 0  # number of the last utterance
        self._speaking = False  # whether it is being said
        self._wants_partials = False
        self._partials: Partials | None = None
        self._draft: int | None = None  # the number of the request for a partial that is under way
        self._pausing = True
        self._last_message_s = 0.0
        self._greeted = False
        self._over = False  # `end` has come
        self._closed = False  # and has been answered
        self._finals = 0
        self._cancelled = self._dropped = 0  # samples

    @classmethod
    def taking_over(cls, plain: PlainSession, ready: Ready) -> tuple["EventSession", list[Action]]:
        """A session that goes on where a plain one was when its client first spoke JSON."""
        actions = list(plain.release_held())
        session = cls(
            plain._decoder.format,
            plain._vad,
            plain._options,
            ready=ready,
            endpointing=plain.endpointing,
            decoding=replace(plain.decoding, alternatives=None),
            max_push_to_talk_s=plain._max_push_to_talk_s,
        )
        session.now_s = plain.now_s
        for name in (
            "_decoder",
            "_stream",
            "_numbers",
            "_guess",
            "_arrivals",
            "_offset",
            "_spoken",
            "witness",
            "mender",
        ):
            setattr(session, name, getattr(plain, name))
        for asked in plain._waiting.values():
            session._utterance += 1
            session._waiting[asked.number] = session._named(asked)
        session._pausing = False
        session._stream.announce_again()
        return session, actions

    @property
    def idle_after_s(self) -> float | None:
        if self._pausing or self._over or self.endpointing == "off":
            return None
        return IDLE_S + self._last_message_s  # whoever sends seconds at a time is not idle before the next is due

    def greet(self) -> Send:
        """`ready`, as things stand."""
        self._greeted = True
        declared = self._decoder.format
        return Send(
            self._ready.model_copy(
                update={
                    "language": self.decoding.language,
                    "sample_rate": declared.sample_rate,
                    "channels": declared.channels,
                    "encoding": declared.encoding,
                }
            )
        )

    def receive_bytes(self, data: bytes) -> Iterator[Action]:
        if not data or self._over:
            return
        if self._pausing:
            self._pausing = False
            self._restart()  # a stray byte from before the pause would misalign all that follows
        self._last_message_s = self._decoder.format.duration_s(len(data))
        yield from self._push(data)
        if self._listening:
            yield from self._ask_for_partial()

    def receive_text(self, text: str) -> Iterator[Action]:
        if self._over:
            return
        try:
            message = parse_client_message(text)
        except MessageError as error:
            if error.code == "unsupported_format":
                raise ProtocolError(4415, str(error)) from None
            if not self._greeted:
                yield self.greet()
            yield Send(error_message(error.code, str(error), close=False))
            return
        yield from self.receive(message)

    def receive(self, message: ClientMessage) -> Iterator[Action]:
        """Take a message of the client.

        Raises:
            ProtocolError: it asks for what the server cannot do.
        """
        if not self._greeted and not isinstance(message, Start):
            yield self.greet()
        if not isinstance(message, Configure | Keepalive):
            yield from self._release()
        match message:
            case Start():
                yield from self._start(message)
            case Flush(id=name):
                yield from self._flush(name)
            case Cancel(id=name):
                yield from self._cancel(name)
            case Configure():
                yield from self._configure(message)
            case Keepalive():
                pass
            case End():
                yield from self.finalise()
                self._over = True
                yield from self._close_when_settled()

    def idle(self) -> Iterator[Action]:
        self._pausing = True
        yield from self._release()
        if self._stream.holds_speech:
            utterance = self._stream.flush("idle")
            yield from self._finish(utterance, self._arrival_s(utterance.speech_end_samples))

    def finalise(self) -> Iterator[Action]:
        yield from self._release()
        yield from self._tell_unheard()
        if self._stream.holds_speech or (self._push_to_talk and self._listening):
            yield from self._finish(self._stream.flush("end"))
        self._listening = not self._push_to_talk
        self._id = None

    def receive_transcript(self, number: int, transcript: Transcript, timing: Timing | None = None) -> Iterator[Action]:
        if number == self._draft:
            self._draft = None
            yield from self._show(transcript)
            return
        yield from super().receive_transcript(number, transcript, timing)
        yield from self._close_when_settled()

    def receive_refusal(self, number: int) -> Iterator[Action]:
        if number != self._draft:
            yield from super().receive_refusal(number)
        else:
            self._draft = None
            if self._partials is not None:
                self._partials.lost(self.position)

    def receive_failure(self, number: int, error: Exception) -> Iterator[Action]:
        yield from super().receive_failure(number, error)
        yield from self._close_when_settled()

    # ---- what the client says

    def _start(self, start: Start) -> Iterator[Action]:
        declared = declared_format(start, self._decoder.format)
        push_to_talk = start.id is not None
        endpointing = start.endpointing or self._default_endpointing
        if endpointing == "auto":
            endpointing = "off" if push_to_talk else "on"
        goes_on = self._listening and (push_to_talk, start.id, endpointing) == (
            self._push_to_talk,
            self._id,
            self.endpointing,
        )
        ended = () if goes_on else list(self.finalise())  # as it was spoken: before anything changes
        yield from self._configure(start)
        if declared != self._decoder.format or not self._greeted:
            self._restart(declared)
            yield self.greet()
        yield from ended
        if not goes_on:
            if self.mender is not None:  # a fault of each utterance's first byte is looked for again
                self._restart()
            if self.witness is not None:
                self.witness.forget()
            self._push_to_talk, self._listening, self._id = push_to_talk, True, start.id
            self.endpointing = endpointing
            self._stream.listen(self._options_for(push_to_talk), endpointing=endpointing != "off")

    def _configure(self, vocabulary: Vocabulary) -> Iterator[Action]:
        changes = {
            name: value for name in ("language", "task", "hotwords") if (value := getattr(vocabulary, name)) is not None
        }
        if vocabulary.partials is not None:
            self._wants_partials = vocabulary.partials
        if vocabulary.phrases is not None:
            try:
                self._book = self._book_of(vocabulary.phrases)
            except PhraseError as error:
                yield Send(error_message("bad_message", str(error), close=False))
        alternatives = self._book.alternatives if self._book is not None else None
        decoding = replace(self.decoding, **changes, alternatives=alternatives)
        if decoding != self.decoding:
            self.decoding = decoding
            yield from self._withdraw_guess()  # it was decoded as before

    def _book_of(self, phrases: Sequence[str]) -> PhraseBook | None:
        """The book of these phrases; the one that is there if it has them, for a guess that asked about it is good."""
        if self._book is not None and self._book.phrases == tuple(dict.fromkeys(phrases)):
            return self._book
        return phrase_book(tuple(phrases)) if phrases else None

    def _flush(self, name: str | None) -> Iterator[Action]:
        yield from self._tell_unheard()
        if name is not None:
            self._id = name
        yield from self._finish(self._stream.flush("flush"))
        self._id = None
        self._listening = not self._push_to_talk

    def _cancel(self, name: str | None) -> Iterator[Action]:
        if name is not None and name != self._id:
            for asked in list(self._waiting.values()):
                if isinstance(asked, _Named) and asked.id == name:
                    asked.cancelled = True
                    asked.transcript = Transcript("", asked.decoding.language)
                    yield Withdraw(asked.number)
            yield from self._answer_in_order()
            return
        yield from self._withdraw_guess()
        if self.witness is not None:
            self.witness.forget()
        begin, end = self._stream.discard()
        self._cancelled += end - begin
        yield from self._stop_speaking(end)
        self._id = None
        self._listening = not self._push_to_talk

    # ---- what happens

    def _hear(self, samples: Samples) -> Iterator[Action]:
        if self._listening:
            yield from super()._hear(samples)
        else:
            self._offset += len(samples)
            self._unheard += len(samples)

    def _started(self, event: Started) -> Iterator[Action]:
        yield from self._speak(event.at_samples)

    def _speak(self, at_samples: int) -> Iterator[Action]:
        self._utterance += 1
        self._speaking = True
        self._partials = Partials(at_samples + self._offset)
        yield Send(SpeechStarted(utterance=self._utterance, at_ms=_ms(at_samples + self._offset)))

    def _stop_speaking(self, at_samples: int) -> Iterator[Action]:
        self._partials = None
        if self._draft is not None:
            yield Withdraw(self._draft)
            self._draft = None
        if self._speaking:
            self._speaking = False
            yield Send(SpeechEnded(utterance=self._utterance, at_ms=_ms(at_samples + self._offset)))

    def _finish(self, utterance: Utterance, since_s: float | None = None) -> Iterator[Action]:
        if not self._speaking and len(utterance.samples):  # so short that it was found only now
            yield from self._speak(utterance.start_samples)
        if not self._speaking:
            self._utterance += 1
        yield from self._stop_speaking(utterance.speech_end_samples)
        yield from super()._finish(utterance, since_s)

    def _asked(self, utterance: Utterance) -> Asked:
        return self._named(super()._asked(utterance))

    def _named(self, asked: Asked) -> _Named:
        return _Named(
            asked.number,
            asked.utterance,
            asked.decoding,
            asked.since_s,
            asked.transcript,
            asked.timing,
            asked.first,
            asked.offset,
            utterance_number=self._utterance,
            id=self._id,
            book=self._book,
        )

    def _answer(self, asked: Asked, transcript: Transcript) -> Iterator[Action]:
        assert isinstance(asked, _Named)
        utterance, heard = asked.utterance, len(asked.utterance.samples)
        self._finals += 1
        if asked.cancelled:
            self._cancelled += heard
        else:
            self._spoken += heard
        reason: Reason = "flush" if utterance.reason == "message" else utterance.reason
        yield Send(
            Final(
                utterance=asked.utterance_number,
                id=asked.id,
                text=transcript.text,
                reason=reason,
                no_speech=not transcript.text and not asked.lost,
                language=transcript.language,
                confidence=round(confidence(transcript), 3),
                start_ms=_ms(utterance.start_samples + asked.offset),
                end_ms=_ms(utterance.end_samples + asked.offset),
                match=_match(asked.book, transcript),
                timing=WireTiming(
                    audio_ms=_ms(heard),
                    queue_ms=round(1000 * asked.timing.queue_s),
                    infer_ms=round(1000 * asked.timing.infer_s),
                    ttfs_ms=max(0, round(1000 * (self.now_s - asked.since_s))),
                ),
            )
        )

    def _failed(self, asked: Asked, error: Exception) -> Iterator[Action]:
        """The utterance is lost, and the client is told so; whoever waits for a `final` gets an empty one."""
        if isinstance(error, ModelError):  # there is no model, and there will be none
            raise error
        assert isinstance(asked, _Named)
        if isinstance(error, Overloaded):
            yield Send(error_message("busy", str(error), close=False, retry_after_ms=RETRY_AFTER_MS))
        else:
            yield Send(error_message("internal", "an utterance could not be transcribed", close=False))
        lost = asked.utterance
        yield Send(Dropped(from_ms=_ms(lost.start_samples + asked.offset), to_ms=_ms(lost.end_samples + asked.offset)))
        self._dropped += len(lost.samples)
        asked.utterance, asked.lost = replace(lost, samples=lost.samples[:0]), True
        asked.transcript = Transcript("", asked.decoding.language)
        yield from self._answer_in_order()

    def _tell_unheard(self) -> Iterator[Action]:
        if self._unheard:
            self._dropped += self._unheard
            here = self.position
            yield Send(Dropped(from_ms=_ms(here - self._unheard), to_ms=_ms(here)))
            self._unheard = 0

    def _close_when_settled(self) -> Iterator[Action]:
        if self._over and self.settled and not self._closed:
            self._closed = True
            silence = self.position - self._spoken - self._cancelled - self._dropped
            yield Send(
                Closed(
                    utterances=self._finals,
                    audio_ms=_ms(self.position),
                    speech_ms=_ms(self._spoken),
                    silence_ms=_ms(max(0, silence)),
                    cancelled_ms=_ms(self._cancelled),
                    dropped_ms=_ms(self._dropped),
                )
            )
            yield Close()

    # ---- partials

    def _ask_for_partial(self) -> Iterator[Action]:
        # In a pause the guess is under way, and its text is the better partial.
        if self._wants_partials and self._partials and self._guess is None and self._partials.is_due(self.position):
            self._draft = next(self._numbers)
            self._partials.asked(self.position)
            samples, ratio = self._stream.draft()
            yield Draft(self._draft, self.decoding.request(samples, vad_ratio=ratio, draft=True, quick=True))

    def _guessed(self, transcript: Transcript) -> Iterator[Action]:
        if self._draft is not None:  # it heard less
            yield Withdraw(self._draft)
            self._draft = None
        if self._wants_partials and not transcript.doubt:
            yield from self._show(transcript)

    def _show(self, transcript: Transcript) -> Iterator[Action]:
        if self._partials is not None and (shown := self._partials.take(transcript.text, self.position)) is not None:
            text, stable = shown
            yield Send(Partial(utterance=self._utterance, text=text, stable=stable))


def _match(book: PhraseBook | None, transcript: Transcript) -> Match | None:
    """What the phrases make of a transcript, for the wire."""
    if book is None or not transcript.text or (found := book.match(transcript.text, transcript.heard)) is None:
        return None
    runner_up, runner_up_score = found.runner_up or (None, None)
    return Match(
        phrase=found.phrase,
        score=round(found.score, 3),
        accepted=found.accepted,
        runner_up=runner_up,
        runner_up_score=None if runner_up_score is None else round(runner_up_score, 3),
        by="audio" if found.by_audio else "text",
    )


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE

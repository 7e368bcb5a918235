"""What one client has sent lately, for debug recordings.

The session tells its tape which messages lie where in its audio, so that an utterance gets its own messages and a
little silence before. A recording begins with a whole sample, and with one `start` that says all that the client's
earlier messages had said. In silence a tape holds ten seconds, however long the microphone stays open, and never more
than `max_bytes`.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from stt_core.audio import SAMPLE_RATE, AudioFormat, wav_header_bytes
from stt_core.messages import MessageError, Start, parse_client_message
from stt_core.recordings import MESSAGE_COST_BYTES, About, Recorder, Recording
from stt_core.session import Asked, Mender
from stt_core.transcription import Transcript
from stt_core.utterances import CLIENTS_REASONS, Utterance
from stt_core.vad import WINDOW_SAMPLES

LEAD_S = 1.0  # of what came before an utterance that the detector began
QUIET_S = 10.0  # of what came while nobody spoke
EVENTS = 256  # that are kept of what the server said
GOES_ON = ("endpoint", "max_length")  # what has come after such an end belongs to the next utterance


@dataclass(slots=True)
class _Entry:
    at_s: float
    payload: bytes | str
    position: int | None = None  # of its first sample in the session's audio; None: not decoded, or text
    carried: int = 0  # bytes of that sample that came in messages before

    @property
    def cost_bytes(self) -> int:
        return len(self.payload) + MESSAGE_COST_BYTES

    def byte_of(self, position: int, audio_format: AudioFormat) -> int:
        """Where in the payload the sample at this position begins, or the first whole one after it."""
        assert self.position is not None
        assert isinstance(self.payload, bytes)
        to_whole_sample = -self.carried % audio_format.frame_bytes
        if position <= self.position:
            return to_whole_sample
        header = wav_header_bytes(self.payload) or to_whole_sample
        frames = (position - self.position) * audio_format.sample_rate // SAMPLE_RATE
        return min(len(self.payload), header + frames * audio_format.frame_bytes)


class Tape:
    """What one client has sent lately: the `Witness` of its session, which says what belongs to which utterance.

    Args:
        about: what the recordings say of the session.
        recorder: with whose other tapes it shares memory.
        max_bytes: what it holds at most.
    """

    def __init__(self, about: About, recorder: Recorder, max_bytes: int) -> None:
        self.mender: Mender | None = None  # that of the session
        self._about = about
        self._recorder = recorder
        self._max_bytes = max_bytes
        self._format = AudioFormat()
        self._entries: deque[_Entry] = deque()
        self._undecoded: deque[_Entry] = deque()  # those that the session holds
        self._opening: dict[str, Any] = {}  # what the messages of JSON mode have said that are here no more
        self._position = 0  # of the last message that was decoded
        self._used = 0  # the position before which audio belongs to what is over
        self._waiting: dict[int, Recording] = {}  # for their texts, by request
        self._answered: list[Recording] = []
        self._events: deque[tuple[float, str]] = deque(maxlen=EVENTS)
        self._bytes = self._accounted_bytes = 0

    def add(self, payload: bytes | str, at_s: float, audio_format: AudioFormat, *, speaking: bool) -> None:
        """Take a message, before the session does.

        Args:
            speaking: somebody is, so that all of it is needed.
        """
        if isinstance(payload, str):
            payload = _without_token(payload)
        elif audio_format != self._format:  # a WAV has one
            self._drop(len(self._entries))
            self._undecoded.clear()
            self._format = audio_format
        if payload:
            self._entries.append(entry := _Entry(at_s, payload))
            self._bytes += entry.cost_bytes
            if isinstance(payload, bytes):
                self._undecoded.append(entry)
        if not speaking:
            self._drop_before(self._position - round(QUIET_S * SAMPLE_RATE))
        self._drop(0)
        room_bytes = min(self._max_bytes, self._accounted_bytes + self._recorder.room_bytes)
        while self._entries and self._bytes > room_bytes:
            if self._undecoded and self._entries[0] is self._undecoded[0]:
                self._undecoded.popleft()
            self._drop(1)
        self._account()

    def said(self, text: str, at_s: float) -> None:
        """The server has sent this."""
        self._events.append((at_s, text))

    def finished(self) -> list[Recording]:
        """The utterances that have got their texts since the last call."""
        answered, self._answered = self._answered, []
        for recording in answered:
            since_s = recording.messages[0][0]
            recording.events = [(at_s, text) for at_s, text in self._events if at_s >= since_s]
        return answered

    def close(self) -> None:
        """The client has gone."""
        self._entries.clear()
        self._undecoded.clear()
        self._waiting.clear()
        self._bytes = 0
        self._account()

    # ---- what the session tells

    def decoding(self, position_samples: int, carried_bytes: int) -> None:
        self._position = position_samples
        if self._undecoded:  # there was no room for it
            entry = self._undecoded.popleft()
            entry.position, entry.carried = position_samples, carried_bytes

    def forget(self) -> None:
        self._drop(len(self._decoded()))
        self._used = self._position

    def ended(self, asked: Asked, position_samples: int) -> None:
        utterance = asked.utterance
        end = utterance.end_samples + asked.offset
        until = {"max_length": end, "endpoint": position_samples + WINDOW_SAMPLES}.get(utterance.reason)
        if (messages := self._messages_of(utterance, asked.offset, until)) is not None:
            first_position, sent = messages
            complete = first_position <= max(self._used, utterance.start_samples + asked.offset)
            repaired = sorted(self.mender.codes) if self.mender is not None else ()
            recording = Recording(self._about, self._format, sent, complete, utterance, asked, repaired)
            waiting_bytes = sum(waiting.sent_bytes for waiting in self._waiting.values())
            if not waiting_bytes or waiting_bytes + recording.sent_bytes <= self._max_bytes:
                self._waiting[asked.number] = recording
        if utterance.reason in GOES_ON:
            self._used = end
            self._drop_before(end)
        else:
            self.forget()

    def answered(self, asked: Asked, transcript: Transcript, now_s: float) -> None:
        recording = self._waiting.pop(asked.number, None)
        if recording is not None and not asked.cancelled:
            recording.asked, recording.transcript, recording.ttfs_s = asked, transcript, now_s - asked.since_s
            self._answered.append(recording)

    def _messages_of(
        self, utterance: Utterance, offset: int, until: int | None
    ) -> tuple[int, list[tuple[float, bytes | str]]] | None:
        """The position of an utterance's first message, and all of them up to a position; None if no audio is here."""
        begin = self._used
        if utterance.reason not in CLIENTS_REASONS:
            begin = max(begin, utterance.start_samples + offset - round(LEAD_S * SAMPLE_RATE))
        entries = self._decoded()
        audio = [(index, entry.position) for index, entry in enumerate(entries) if entry.position is not None]
        if not audio:
            return None
        first = max((index for index, position in audio if position <= begin), default=audio[0][0])
        last = len(entries) - 1
        if until is not None:
            last = max((index for index, position in audio if first <= index and position < until), default=first)
        sent = [(entry.at_s, entry.payload) for entry in entries[first : last + 1]]
        if until is not None:  # the rest of the message is the next utterance's
            at_s, payload = sent[-1]
            sent[-1] = at_s, payload[: entries[last].byte_of(until, self._format)]
        at_s, payload = sent[0]
        sent[0] = at_s, payload[entries[first].byte_of(self._used, self._format) :]
        if opening := _said_in(self._opening, entries[:first]):
            sent.insert(0, (at_s, json.dumps({"type": "start"} | opening, ensure_ascii=False)))
        return dict(audio)[first], sent

    def _decoded(self) -> list[_Entry]:
        """What the session has taken: all but the messages that it holds, and what came after them."""
        if not self._undecoded:
            return list(self._entries)
        held = self._undecoded[0]
        return list(takewhile(lambda entry: entry is not held, self._entries))

    def _drop_before(self, position: int) -> None:
        """Forget the messages that lie before a position."""
        count = 0
        for index, entry in enumerate(self._entries):
            if isinstance(entry.payload, bytes):
                if entry.position is None or entry.position > position:
                    break
                count = index
        self._drop(count)

    def _drop(self, count: int) -> None:
        """Forget the oldest messages, and the texts after them: what those said is kept in one."""
        while self._entries and (count > 0 or isinstance(self._entries[0].payload, str)):
            entry = self._entries.popleft()
            self._bytes -= entry.cost_bytes
            self._opening = _said_in(self._opening, [entry])
            count -= 1

    def _account(self) -> None:
        self._recorder.account(self._bytes - self._accounted_bytes)
        self._accounted_bytes = self._bytes


def _said_in(opening: dict[str, Any], entries: Iterable[_Entry]) -> dict[str, Any]:
    """What `start` and `configure` have declared, these messages included."""
    for entry in entries:
        if isinstance(entry.payload, str) and entry.payload.startswith("{"):
            fields = json.loads(entry.payload)
            kind = fields.pop("type")
            if kind == "start":
                opening = {name: value for name, value in opening.items() if name != "id"} | fields
            elif kind == "configure":
                opening = opening | fields
    return opening


def _without_token(text: str) -> str:
    """A text message as the server understood it: known fields, and never the token. Empty if it is none."""
    if text.strip() == "flush":
        return "flush"
    try:
        message = parse_client_message(text)
    except MessageError:
        return ""
    return (message.model_copy(update={"token": None}) if isinstance(message, Start) else message).to_json()

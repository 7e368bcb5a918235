"""Debug recordings: what a client sent, what the model heard, and what was made of it.

Each utterance becomes three files. `debug_0001.wav` holds the bytes as they came, in the declared format,
`debug_0001.heard.wav` the 16 kHz samples that the model got, and `debug_0001.json` (`Sidecar`) the rest: sizes and
times of the messages, settings, findings, events, text. With the first and the last, `client --replay` is that client
again.

A `Recorder` writes, in one thread of its own. Files are written under a temporary name and renamed, the JSON last: a
JSON means that its WAVs are complete. Names are the server's own, private to its user; nothing that a client sends
becomes part of a path, and no token is written. A disk that is full or too slow costs recordings, and never a session.
"""

import json
import logging
import os
import re
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from stt_core.audio import SAMPLE_BYTES, SAMPLE_RATE, AudioFormat, Encoding, to_s16le, wav_header_bytes
from stt_core.diagnosis import Doctor
from stt_core.errors import AudioError
from stt_core.limits import Limits
from stt_core.session import WHOLE_MESSAGE_S, Asked
from stt_core.transcription import Transcript
from stt_core.utterances import CLIENTS_REASONS, Utterance

MESSAGE_COST_BYTES = 256  # what even an empty message costs in memory
TAPES_BYTES = 256 << 20  # what all tapes hold together
QUEUE_BYTES = 64 << 20  # what waits for the disk
PART_AGE_S = 60.0  # a temporary file older than this was left behind by a server that died
NAME = re.compile(r"debug_(\d{4,})\.(wav|heard\.wav|json)")
PART = re.compile(r"\.debug_\d{4,}\.(wav|heard\.wav|json)\.part")

logger = logging.getLogger(__name__)


Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]


class Audio(BaseModel):
    """What `debug_XXXX.wav` holds."""

    sample_rate: int  # Hz, as declared
    channels: int
    encoding: Encoding
    size_bytes: int
    complete: bool  # whether nothing of the utterance is missing at its beginning


class Spoken(BaseModel):
    """An utterance's place in the session's audio."""

    number: int  # in JSON mode
    id: str | None
    reason: str
    start_ms: int
    speech_end_ms: int
    heard_ms: int


class Sidecar(BaseModel):
    """`debug_XXXX.json`."""

    recording: Literal[1] = 1  # of this format
    text: str
    audio: Audio
    query: dict[str, str]  # with which the client connected; never the token
    utterance: Spoken
    timing: dict[str, int]
    transcript: dict[str, Any]
    findings: list[dict[str, Any]]
    repaired: list[str] = []
    server: dict[str, Any]  # version, model, session
    settings: dict[str, Any]
    recorded_at: str
    events: list[tuple[float, Any]]  # ms since the first message, and what the server said
    messages: list[tuple[Milliseconds, Bytes | str]]  # ms since the first message, and bytes of audio or a text

    def to_json(self) -> str:
        """One line for each field."""
        values = self.model_dump(mode="json")
        lines = (f'  "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in values.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


@dataclass(frozen=True, slots=True)
class About:
    """What all recordings of a session have in common."""

    session_id: str
    version: str
    model: str
    query: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass(slots=True)
class Recording:
    """What is known of an utterance."""

    about: About
    audio_format: AudioFormat
    messages: list[tuple[float, bytes | str]]  # when it came, in seconds, and what
    complete: bool
    utterance: Utterance
    asked: Asked
    repaired: Sequence[str] = ()  # codes of the faults that were undone
    ended_at: float = field(default_factory=time.time)  # seconds since 1970
    transcript: Transcript = field(default_factory=lambda: Transcript("", ""))
    ttfs_s: float = 0.0
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def sent_bytes(self) -> int:
        """What its messages take in memory."""
        return sum(len(payload) + MESSAGE_COST_BYTES for _, payload in self.messages)

    @property
    def cost_bytes(self) -> int:
        """What it takes in memory."""
        return self.sent_bytes + self.utterance.samples.nbytes

    @property
    def raw(self) -> bytes:
        """The audio as it came."""
        return b"".join(payload for _, payload in self.messages if isinstance(payload, bytes))

    def sidecar(self) -> Sidecar:
        """All of it but the audio. Takes about a millisecond for each second: the doctor looks at it."""
        utterance, declared = self.utterance, self.audio_format
        first_s = self.messages[0][0]
        offset, timing = self.asked.offset, self.asked.timing
        return Sidecar(
            text=self.transcript.text,
            audio=Audio(
                sample_rate=declared.sample_rate,
                channels=declared.channels,
                encoding=declared.encoding,
                size_bytes=len(self.raw),
                complete=self.complete,
            ),
            query=dict(self.about.query),
            utterance=Spoken(
                number=self.asked.utterance_number,
                id=self.asked.id,
                reason=utterance.reason,
                start_ms=_ms(utterance.start_samples + offset),
                speech_end_ms=_ms(utterance.speech_end_samples + offset),
                heard_ms=_ms(len(utterance.samples)),
            ),
            timing={
                "queue_ms": round(1000 * timing.queue_s),
                "infer_ms": round(1000 * timing.infer_s),
                "ttfs_ms": max(0, round(1000 * self.ttfs_s)),
            },
            transcript={
                "language": self.transcript.language,
                "task": self.asked.decoding.task,
                "hotwords": self.asked.decoding.hotwords,
                "avg_logprob": round(self.transcript.avg_logprob, 4),
                "no_speech_prob": round(self.transcript.no_speech_prob, 4),
                "second_look": self.transcript.second_look,
            },
            findings=self._findings(),
            repaired=list(self.repaired),
            server={
                "version": self.about.version,
                "model": self.about.model,
                "session_id": self.about.session_id,
            },
            settings=dict(self.about.settings),
            recorded_at=datetime.fromtimestamp(self.ended_at, UTC).isoformat(timespec="milliseconds"),
            events=[(_since_ms(at_s, first_s), _said(text)) for at_s, text in self.events],
            messages=[
                (_since_ms(at_s, first_s), payload if isinstance(payload, str) else len(payload))
                for at_s, payload in self.messages
            ],
        )

    def _findings(self) -> list[dict[str, Any]]:
        """What is wrong with the audio."""
        doctor = Doctor(self.audio_format)
        for at_s, payload in self.messages:
            if isinstance(payload, bytes):  # the arrival of a whole message says nothing
                streamed = self.audio_format.duration_s(len(payload)) < WHOLE_MESSAGE_S
                doctor.push(payload, at_s if streamed else None)
        return [
            {
                "code": finding.code,
                "confidence": round(finding.confidence, 3),
                "evidence": {name: round(value, 3) for name, value in finding.evidence.items()},
                "message": finding.message,
                "hint": finding.hint,
            }
            for finding in doctor.findings(whole=self.utterance.reason in CLIENTS_REASONS)
        ]


def _said(text: str) -> Any:
    """What the server said: a message of JSON mode, or a line."""
    try:
        message = json.loads(text)
    except ValueError:
        return text
    return message if isinstance(message, dict) else text


def _since_ms(at_s: float, since_s: float) -> float:
    return round(1000 * (at_s - since_s), 1)


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


# ---- files


def wav_header(audio_format: AudioFormat, size_bytes: int) -> bytes:
    """The header of a WAV that holds so many bytes in this format, as integers or as IEEE floats."""
    frame_bytes, rate = audio_format.frame_bytes, audio_format.sample_rate
    is_float = audio_format.encoding == "f32le"
    bits = 8 * SAMPLE_BYTES[audio_format.encoding]
    fmt = struct.pack(
        "<HHIIHH", 3 if is_float else 1, audio_format.channels, rate, rate * frame_bytes, frame_bytes, bits
    )
    chunks = _chunk(b"fmt ", fmt + bytes(2 * is_float))
    if is_float:
        chunks += _chunk(b"fact", struct.pack("<I", size_bytes // frame_bytes))
    size = 4 + len(chunks) + 8 + size_bytes + size_bytes % 2
    return b"RIFF" + struct.pack("<I", size) + b"WAVE" + chunks + b"data" + struct.pack("<I", size_bytes)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body


class Recorder:
    """Writes recordings into `folder`, newest kept, in one thread of its own. It never raises, and never waits."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self._folder = folder
        self._limits = limits or Limits()
        self._next = 0  # number; 0: not known yet
        self._complaints: set[str] = set()
        self._thread: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._queued_bytes = 0
        self._tapes_bytes = 0

    @property
    def room_bytes(self) -> int:
        """What tapes may still take in memory."""
        return TAPES_BYTES - self._tapes_bytes

    def account(self, more_bytes: int) -> None:
        """A tape has grown by this."""
        self._tapes_bytes += more_bytes

    # ---- the thread

    def start(self) -> None:
        """Begin to work: delete what is too old."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recordings")
        self._thread.submit(self.tidy)

    def submit(self, recording: Recording) -> None:
        """Have a recording written, if the disk keeps up."""
        if self._thread is None:
            return
        with self._lock:
            busy = self._queued_bytes > QUEUE_BYTES
            self._queued_bytes += 0 if busy else recording.cost_bytes
        if busy:
            self._complain("Debug recordings are left out: the disk of %s is too slow.", self._folder)
        else:
            self._thread.submit(self._work, recording)

    def close(self) -> None:
        """Write what is left, then stop; blocking."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()

    def _work(self, recording: Recording) -> None:
        try:
            self.write(recording)
        except Exception:
            if self._is_news(sentence := "A debug recording could not be made."):
                logger.exception(sentence)
        finally:
            with self._lock:
                self._queued_bytes -= recording.cost_bytes

    # ---- the disk

    def write(self, recording: Recording) -> Path | None:
        """Write one recording; blocking. Returns the path of its WAV, or None if it could not be written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            number, claim = self._claim()
            try:
                with os.fdopen(claim, "wb") as file:
                    self._put(number, "wav", recording.audio_format, recording.raw)
                    if len(recording.utterance.samples):
                        self._put(number, "heard.wav", AudioFormat(), to_s16le(recording.utterance.samples))
                    file.write(recording.sidecar().to_json().encode(errors="replace"))
                self._part(number, "json").replace(self._path(number, "json"))
            except BaseException:
                for kind in ("wav", "heard.wav", "json"):
                    self._part(number, kind).unlink(missing_ok=True)
                    self._path(number, kind).unlink(missing_ok=True)
                raise
        except OSError as error:
            self._complain("Debug recordings cannot be written to %s: %s", self._folder, error)
            return None
        self.tidy()
        return self._path(number, "wav")

    def tidy(self) -> None:
        """Delete the oldest recordings as far as the limits ask for it, and what dead servers left behind."""
        try:
            now_s, recordings = time.time(), self._recordings()
            for part in self._folder.iterdir():
                if PART.fullmatch(part.name) and now_s - part.lstat().st_mtime > PART_AGE_S:
                    part.unlink(missing_ok=True)
            sizes = {number: sum(path.lstat().st_size for path in paths) for number, paths in recordings.items()}
            count, size_bytes = len(sizes), sum(sizes.values())
            for number, paths in sorted(recordings.items()):
                age_s = now_s - max(path.lstat().st_mtime for path in paths)
                if (
                    count <= self._limits.max_recordings
                    and size_bytes <= self._limits.max_recordings_bytes
                    and age_s <= self._limits.max_recordings_age_s
                ):
                    break  # those with greater numbers are newer
                count, size_bytes = count - 1, size_bytes - sizes[number]
                for path in paths:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:  # there is no folder yet, or another server tidies, too
            pass
        except OSError as error:
            self._complain("Debug recordings in %s cannot be deleted: %s", self._folder, error)

    def _recordings(self) -> dict[int, list[Path]]:
        found: defaultdict[int, list[Path]] = defaultdict(list)
        for path in self._folder.iterdir():
            if match := NAME.fullmatch(path.name):
                found[int(match[1])].append(path)
        return found

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"debug_{number:04d}.{kind}"

    def _part(self, number: int, kind: str) -> Path:
        return self._folder / f".debug_{number:04d}.{kind}.part"

    def _claim(self) -> tuple[int, int]:
        """The next number that is nobody's, and the open temporary file that makes it ours."""
        self._next = self._next or max(self._recordings(), default=0) + 1
        while True:
            number, self._next = self._next, self._next + 1
            part = self._part(number, "json")
            try:
                claim = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            except FileExistsError:  # another server was first
                continue
            if not any(os.path.lexists(self._path(number, kind)) for kind in ("wav", "heard.wav", "json")):
                return number, claim
            os.close(claim)
            part.unlink()

    def _put(self, number: int, kind: str, audio_format: AudioFormat, pcm: bytes) -> None:
        """A WAV, readable by its owner only, that is there as a whole or not at all."""
        part = self._part(number, kind)
        part.unlink(missing_ok=True)
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(wav_header(audio_format, len(pcm)))
            file.write(pcm)
            file.write(bytes(len(pcm) % 2))
        part.replace(self._path(number, kind))

    def _complain(self, sentence: str, *values: object) -> None:
        if self._is_news(sentence):
            logger.warning(sentence, *values)

    def _is_news(self, sentence: str) -> bool:
        """Whether it has not been said yet: a log must not fill up as well."""
        known = sentence in self._complaints
        self._complaints.add(sentence)
        return not known


# ---- reading


def read_recording(path: Path) -> tuple[Sidecar, list[tuple[float, bytes | str]]]:
    """A recording by any of its three files: what is known of it, and its messages with their times in seconds.

    Raises:
        AudioError: a file is missing, or they are not those of a recording.
    """
    stem = re.sub(r"(\.heard)?\.(wav|json)$", "", path.name, flags=re.IGNORECASE)
    sidecar_path, wav_path = path.with_name(f"{stem}.json"), path.with_name(f"{stem}.wav")
    for needed in (sidecar_path, wav_path):
        if not needed.is_file():
            raise AudioError(f"There is no {needed}: a replay takes debug_XXXX.wav and the JSON beside it.")
    try:
        sidecar = Sidecar.model_validate_json(sidecar_path.read_bytes())
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        where = ".".join(map(str, first["loc"]))
        raise AudioError(f"{sidecar_path} is not the JSON of a debug recording: {where} {first['msg']}.") from None
    wav = wav_path.read_bytes()
    header = wav_header_bytes(wav) or 0
    raw = wav[header : header + sidecar.audio.size_bytes]
    sizes = sum(what for _, what in sidecar.messages if isinstance(what, int))
    if not header or not len(raw) == sidecar.audio.size_bytes == sizes:
        raise AudioError(f"{wav_path} is not what {sidecar_path.name} tells of: it has {len(raw)} bytes of {sizes}.")
    return sidecar, list(_messages(sidecar, raw))


def _messages(sidecar: Sidecar, raw: bytes) -> Iterator[tuple[float, bytes | str]]:
    position = 0
    for at_ms, what in sidecar.messages:
        if isinstance(what, str):
            yield at_ms / 1000, what
        else:
            yield at_ms / 1000, raw[position : position + what]
            position += what

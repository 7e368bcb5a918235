"""The audio doctor on duty: looks at a connection's audio as it comes, and reports each cause once an utterance.

It looks when an utterance has been answered, and once after the first seconds of a connection, because broken audio
may never sound like speech. Looking costs about a millisecond for each second of audio; pushing costs next to nothing.

Where the server repairs, `Repair` stands before the decoder. A message that is an utterance of its own is looked at as
a whole. Of a stream the first half second that holds sound is kept back until it is full, or until somebody asks for
the text. What is found there holds for the rest of the stream: what slips later is told, and not undone. WAV headers
are taken out of every message.
"""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np

from stt_core.audio import SAMPLE_BYTES, AudioFormat
from stt_core.diagnosis import Code, Doctor, Finding, diagnose, repair
from stt_core.diagnosis.encoding import find_wav_headers, without_headers
from stt_core.session import WHOLE_MESSAGE_S

FIRST_LOOK_S = 3.0
HOLD_S = 0.5  # of a stream, until it is known how its bytes must be read
HOLD_BYTES = 8 * 1024  # and never less than this
SURE = 0.9  # confidence from which a fault is undone
REPAIRED = " The server has undone it. Change the game all the same."
REPAIRED_KO = " 서버가 바로잡아서 들었습니다. 그래도 게임을 고치십시오."


class Checkup:
    """One connection's doctor."""

    def __init__(self) -> None:
        self._doctor: Doctor | None = None
        self._seen_s = 0.0
        self._looked = False
        self._told: set[str] = set()  # in this utterance

    def push(self, data: bytes, audio_format: AudioFormat, at_s: float) -> bool:
        """Take audio; return whether it is time for the first look."""
        if self._doctor is None or self._doctor.format != audio_format:
            self._doctor = Doctor(audio_format)
        seconds = audio_format.duration_s(len(data))
        streamed = seconds < WHOLE_MESSAGE_S  # or its arrival says nothing
        self._doctor.push(data, at_s if streamed else None)
        self._seen_s += seconds
        return streamed and not self._looked and self._seen_s >= FIRST_LOOK_S

    def look(self, *, whole: bool) -> Callable[[], list[Finding]]:
        """What is found in the audio so far: a call that takes a moment, so not for the event loop.

        Args:
            whole: the client chose where the utterance begins and ends.
        """
        self._looked = True
        return partial(copy.deepcopy(self._doctor).findings, whole=whole) if self._doctor else list

    def news(self, findings: list[Finding]) -> list[Finding]:
        """Those that have not been told of this utterance."""
        new = [finding for finding in findings if finding.code not in self._told]
        self._told |= {finding.code for finding in new}
        return new

    def next_utterance(self) -> None:
        """What comes from here on belongs to another utterance."""
        self._told.clear()
        if self._doctor is not None:
            self._doctor.reset()


class Repair:
    """Undoes what is certainly wrong with the bytes of one connection: the `Mender` of its session."""

    def __init__(self) -> None:
        self.codes: set[Code] = set()  # what is undone in the audio that was taken last
        self._undone: set[tuple[Code, float]] = set()  # all that has been, and at which byte
        self.restart(AudioFormat())

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def restart(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._hold_bytes = max(HOLD_BYTES, int(HOLD_S * audio_format.sample_rate) * audio_format.frame_bytes)
        self._held = bytearray()
        self._known = False  # how the bytes must be read
        self._swapped = False
        self._begun = False
        self._of_stream: set[Code] = set()

    def take(self, data: bytes) -> bytes:
        data = self._without_headers(data)
        self.codes = self._of_stream
        self._held += data
        if not self._known and len(self._held) < self._hold_bytes:
            return b""
        return self.rest()

    def rest(self) -> bytes:
        partial = 0 if self._known and not self._swapped else len(self._held) % self._format.frame_bytes
        whole = len(self._held) - partial
        data = bytes(self._held[:whole])
        if not self._known:
            findings = self._certain(data)
            data = self._mended(data, findings, self._of_stream)
            self._swapped = "byte_swapped" in self._of_stream
            self._known = bool(findings) or (whole >= self._hold_bytes and _sounds(data))
        elif self._swapped:
            data = _swapped(data, self._format)
        del self._held[:whole]
        return data

    def mended(self, data: bytes, audio_format: AudioFormat) -> bytes:
        """A recording as a server that repairs hears it, sent in one message."""
        self.restart(audio_format)
        return self.whole(data)

    def whole(self, data: bytes) -> bytes:
        self.codes = set()
        return self._mended(data, self._certain(data), self.codes)

    def undid(self, finding: Finding) -> bool:
        """Whether this has been undone."""
        place = finding.evidence["at_byte"] if finding.code == "misaligned" else 0.0
        return (finding.code, place) in self._undone

    def _certain(self, data: bytes) -> list[Finding]:
        return [it for it in diagnose(data, self._format) if it.repairable and it.confidence >= SURE]

    def _mended(self, data: bytes, findings: list[Finding], codes: set[Code]) -> bytes:
        for finding in findings:
            data = repair(data, finding)
            self._note(finding.code, codes, finding.evidence["at_byte"] if finding.code == "misaligned" else 0.0)
        return data

    def _note(self, code: Code, codes: set[Code], place: float = 0.0) -> None:
        codes.add(code)
        self._undone.add((code, place))

    def _without_headers(self, data: bytes) -> bytes:
        """A message of a stream without headers; one at the very beginning of the stream is the decoder's."""
        begun, self._begun = self._begun, True
        headers = [header for header in find_wav_headers(data) if header.at_byte or begun]
        if headers:
            self._note("wav_header", self._of_stream)
        return without_headers(data, headers)


def _sounds(data: bytes) -> bool:
    """Whether there is enough in it to tell how it must be read."""
    raw = np.frombuffer(data, np.uint8)
    return bool((raw[8:] != raw[:-8]).mean() > 0.5)


def _swapped(data: bytes, audio_format: AudioFormat) -> bytes:
    size = SAMPLE_BYTES[audio_format.encoding]
    return np.frombuffer(data, f">u{size}").astype(f"<u{size}").tobytes()

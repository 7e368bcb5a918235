"""The audio doctor on duty: looks at a connection's audio as it comes, and reports each cause once an utterance.

It looks when an utterance has been answered, and once after the first seconds of a connection, because broken audio
may never sound like speech. Looking costs about a millisecond for each second of audio; pushing costs next to nothing.
"""

import copy
from collections.abc import Callable
from functools import partial

from stt_core.audio import AudioFormat
from stt_core.diagnosis import Doctor, Finding

FIRST_LOOK_S = 3.0
WHOLE_MESSAGE_S = 1.0  # a message this long was not sent as it was spoken: its arrival says nothing


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
        streamed = seconds < WHOLE_MESSAGE_S
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

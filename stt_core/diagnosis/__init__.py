"""The audio doctor: says what is wrong with a client's audio, and which setting of the game to change.

Broken audio is the first thing that happens to every team, and all of it looks the same: nonsense text. So the bytes
are looked at as they came, before the decoder. What is found is undone in thought before the next question is asked,
from the outside in: is it a file or text (`encoding`), what are the samples, how many channels, how fast do they come
(`pacing`), and last what is the sound like (`signal`). A fault that explains another one hides it: floats read as
integers are not reported as clipping as well.

Nothing here knows whether anybody speaks. Ask when an utterance ends, and once after the first seconds of a connection:
broken audio may never sound like speech to the detector.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from stt_core.audio import AudioFormat
from stt_core.diagnosis.encoding import (
    WavHeader,
    decode,
    find_file,
    find_reading,
    find_wav_headers,
    without_headers,
)
from stt_core.diagnosis.findings import CODES, REPAIRABLE, Code, Finding
from stt_core.diagnosis.pacing import Pacing
from stt_core.diagnosis.rate import find_channels, find_rate, nearest_rate
from stt_core.diagnosis.signal import Floats, Signal, examine

__all__ = ["CODES", "REPAIRABLE", "Code", "Doctor", "Finding", "diagnose", "repair"]

KEEP_S = 12.0  # of an utterance: its first and its last half of this
KEEP_BYTES = 2 << 20  # and never more than this
HEAD_BYTES = 4096  # in which a file or text is recognised
FASTER, SLOWER = 1.25, 0.8  # times real time
RATE_TOLERANCE = 0.05


class Doctor:
    """Listens to one connection. `push` only stores; `findings` takes about 1 ms for each second that is kept."""

    def __init__(self, audio_format: AudioFormat, *, keep_s: float = KEEP_S, keep_bytes: int = KEEP_BYTES) -> None:
        self.format = audio_format
        keep = min(keep_bytes, int(keep_s * audio_format.sample_rate) * audio_format.frame_bytes)
        self._half = max(1, keep // 2 // (64 * audio_format.frame_bytes)) * 64 * audio_format.frame_bytes
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next byte begins an utterance."""
        self._head = bytearray()
        self._tail = bytearray()
        self._bytes = 0
        self._pacing = Pacing(self.format.sample_rate * self.format.frame_bytes)

    def push(self, chunk: bytes, at_s: float | None = None) -> None:
        """Take what arrived, as it arrived.

        Args:
            chunk: bytes, cut anywhere.
            at_s: when, on any clock that never goes back; None if that says nothing (a recording sent whole).
        """
        self._bytes += len(chunk)
        if at_s is not None:
            self._pacing.push(len(chunk), at_s)
        room = max(0, self._half - len(self._head))
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * self._half:
            del self._tail[: self._tail_surplus()]

    def _tail_surplus(self) -> int:
        """Bytes to forget so that a half remains and its first byte is one of a sample."""
        surplus = max(0, len(self._tail) - self._half)
        unit = 8 * self.format.frame_bytes
        return -(-surplus // unit) * unit

    def findings(self, *, whole: bool = True) -> list[Finding]:
        """What is wrong with the audio since the last `reset`, most fundamental first, each code once.

        Args:
            whole: the client chose where the audio begins and ends (push-to-talk, a message that is an utterance of
                its own, a file). An endpoint that the server found cuts anywhere, which is no fault.
        """
        tail = bytes(self._tail)
        surplus = self._tail_surplus()
        pieces = [bytes(self._head) + tail] if not surplus else [bytes(self._head), tail[surplus:]]
        found: dict[Code, Finding] = {}
        for finding in self._examine(pieces, whole):
            found.setdefault(finding.code, finding)
        return [finding for finding in found.values() if finding.confidence >= 0.5]

    def _examine(self, pieces: Sequence[bytes], whole: bool) -> Iterator[Finding]:
        file = find_file(pieces[0][:HEAD_BYTES])
        if file:
            yield file
            return
        audio_format, header_bytes = self.format, 0
        headers = [find_wav_headers(piece) for piece in pieces]
        if any(headers):
            first = next(header for found in headers for header in found)
            header_bytes = sum(header.header_bytes for found in headers for header in found)
            pieces = [without_headers(piece, found) for piece, found in zip(pieces, headers, strict=True)]
            if not (first.at_byte == 0 and first.says(audio_format) and sum(map(len, headers)) == 1):
                yield _header_finding(first, sum(map(len, headers)))
            if not first.says(audio_format):
                return  # what follows is explained by the header
        if whole and (self._bytes - header_bytes) % audio_format.frame_bytes:
            left_over = (self._bytes - header_bytes) % audio_format.frame_bytes
            yield Finding("odd_length", 1.0, {"left_over_bytes": float(left_over)})

        reading, wrong = find_reading(pieces[0], audio_format)
        if wrong is None and len(pieces) > 1:
            reading, wrong = find_reading(pieces[1], audio_format)
        if wrong:
            yield wrong
        explained = {"float32_as_int16": 2.0, "int16_as_float32": 0.5}.get(wrong.code if wrong else "", 1.0)
        if wrong and wrong.code == "misaligned" and wrong.evidence["at_byte"]:
            return  # half of it is noise
        samples = [decode(piece, reading) for piece in pieces]

        speed = self._pacing.bytes_per_s()
        speed = None if speed is None else speed / self.format.sample_rate / self.format.frame_bytes
        channels = find_channels(max(samples, key=len)) if audio_format.channels == 1 else audio_format.channels
        if channels > audio_format.channels and (speed is None or speed / explained > 1.5):
            yield Finding("stereo_as_mono", 0.9, {"likely_channels": float(channels)})
            explained *= channels
        else:
            channels = audio_format.channels
        signals = [Signal(_loudest_channel(piece, channels), audio_format.sample_rate) for piece in samples]

        arriving = None if speed is None else speed / explained
        paused = self._pacing.paused and not (speed and speed > FASTER)
        at_the_edges = whole and len(signals) == 1
        heard = [f for s in signals for f in examine(s, whole=at_the_edges, arriving=arriving, paused=paused)]
        gaps = {finding.code for finding in heard} & {"dropped_packets", "noise_gate"}
        steady: set[Code] = set() if paused else {"noise_gate"}  # what never stopped left no pause out
        if speed is None and not {finding.code for finding in heard} - {"cut_start", "cut_end", "noise_gate"}:
            rate = find_rate(max((signal.samples for signal in signals), key=len), audio_format.sample_rate)
            if rate:
                yield rate
                return
        if self._pacing.pauses_missing():
            seconds = sum(signal.seconds for signal in signals)
            yield Finding("noise_gate", 0.9, {"cuts_per_s": self._pacing.pauses / max(0.1, seconds)})
            heard = [finding for finding in heard if finding.code != "dropped_packets"]
        elif not (gaps - steady and arriving is not None and arriving < 1):
            pace = self._pace(arriving)
            if pace:
                yield pace
            if pace and pace.code == "sample_rate":
                heard = [finding for finding in heard if finding.code not in gaps]
        yield from heard

    def _pace(self, speed: float | None) -> Finding | None:
        """A speed that a sample rate explains is that rate; another one is the client's doing."""
        if speed is None or SLOWER <= speed <= FASTER:
            return None
        declared = self.format.sample_rate
        rate = nearest_rate(declared * speed, RATE_TOLERANCE)
        if rate:
            evidence = {
                "declared_sample_rate_hz": float(declared),
                "likely_sample_rate_hz": float(rate),
                "speed": speed,
            }
            return Finding("sample_rate", 0.9, evidence)
        if speed > 1:
            return Finding("faster_than_real_time", 0.9, {"speed": speed})
        evidence = {"speed": speed, "messages_per_s": self._pacing.messages_per_s}
        return Finding("slower_than_real_time", 0.9, evidence)


def _loudest_channel(interleaved: Floats, channels: int) -> Floats:
    framed = interleaved[: len(interleaved) // channels * channels].reshape(-1, channels)
    if channels == 1 or not len(framed):
        return framed.ravel()
    return framed[:, int(framed.std(axis=0).argmax())]


def _header_finding(first: WavHeader, count: int) -> Finding:
    evidence = {
        "headers": count,
        "at_byte": first.at_byte,
        "header_sample_rate_hz": first.sample_rate,
        "header_channels": first.channels,
        "header_bits": first.bits,
    }
    return Finding("wav_header", 1.0, {name: float(value) for name, value in evidence.items()})


def diagnose(
    data: bytes, audio_format: AudioFormat, arrivals: Sequence[tuple[float, int]] | None = None
) -> list[Finding]:
    """What is wrong with a whole recording.

    Args:
        data: bytes as they were sent.
        audio_format: as they were declared.
        arrivals: when (seconds) how many bytes came, in order; None if that is not known.
    """
    doctor = Doctor(audio_format, keep_s=1e5, keep_bytes=1 << 40)
    position = 0
    for at_s, byte_count in arrivals or ():
        doctor.push(data[position : position + byte_count], at_s)
        position += byte_count
    doctor.push(data[position:])
    return doctor.findings()


def repair(data: bytes, finding: Finding) -> bytes:
    """The bytes without a fault that is certain and harmless to undo: `finding.repairable`.

    Args:
        data: from the first byte that the finding is about.

    Raises:
        ValueError: the finding is of another kind.
    """
    if finding.code == "wav_header":
        return without_headers(data, find_wav_headers(data))
    if finding.code == "misaligned":
        at, skip = int(finding.evidence["at_byte"]), int(finding.evidence["skip_bytes"])
        return data[:at] + data[at + skip :]
    if finding.code == "byte_swapped":
        size = int(finding.evidence["sample_bytes"])
        whole = len(data) - len(data) % size
        return np.frombuffer(data[:whole], f">u{size}").astype(f"<u{size}").tobytes() + data[whole:]
    raise ValueError(f"Expected one of {', '.join(sorted(REPAIRABLE))}, got {finding.code}: it cannot be repaired.")

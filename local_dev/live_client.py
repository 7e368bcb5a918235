"""A player, as a server sees one: audio in real time, lines back, all timed by one monotonic clock.

A microphone hands a frame over when it is full, so the frame that ends `t` seconds into the audio is due `t`
seconds after the audio began. Each frame is due by itself, never so long after the one before: lateness does not
add up. A frame that is late is sent at once, and `Lag` keeps how late; where it is more than a few milliseconds,
the figures tell as much about this client as about the server.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np

from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.client import ClientError, PlainClient

SAMPLE_BYTES = 2  # s16le
LATE_S = 0.02  # a send this late is worth telling

clock = time.perf_counter  # seconds


@dataclass(frozen=True, slots=True)
class Line:
    """What the server answered."""

    text: str
    arrived_s: float  # by `clock`


@dataclass(slots=True)
class Lag:
    """How late frames were sent."""

    frames: int = 0
    late: int = 0  # by more than LATE_S
    worst_s: float = 0.0

    def add(self, lateness_s: float) -> None:
        self.frames += 1
        self.late += lateness_s > LATE_S
        self.worst_s = max(self.worst_s, lateness_s)

    def as_dict(self) -> dict[str, float]:
        share = self.late / self.frames if self.frames else 0.0
        return {"frames": self.frames, "late_share": round(share, 4), "worst_ms": round(1000 * self.worst_s, 1)}


def duration_s(pcm: bytes) -> float:
    return len(pcm) / SAMPLE_BYTES / SAMPLE_RATE


def frames(pcm: bytes, frame_s: float) -> Iterator[tuple[bytes, float]]:
    """`pcm` in frames, the last one maybe shorter, each with the second of the audio at which it is full."""
    step = round(frame_s * SAMPLE_RATE) * SAMPLE_BYTES
    for start in range(0, len(pcm), step):
        frame = pcm[start : start + step]
        yield frame, (start + len(frame)) / SAMPLE_BYTES / SAMPLE_RATE


def room_noise(seconds: float, level_dbfs: float, seed: int) -> Samples:
    """Pink noise, as of a quiet room: (n,) samples whose root mean square is at `level_dbfs`."""
    count = round(seconds * SAMPLE_RATE)
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    pink = np.fft.irfft(white / np.sqrt(np.maximum(1, np.arange(len(white)))), count)
    return np.asarray(pink * 10 ** (level_dbfs / 20) / np.sqrt(np.square(pink).mean()), np.float32)


class Player:
    """One connection that speaks in real time. What the server answers goes into `lines`; None: it closed."""

    def __init__(self, client: PlainClient, frame_s: float, lag: Lag) -> None:
        self.lines: asyncio.Queue[Line | None] = asyncio.Queue()
        self._client = client
        self._why: ClientError | None = None  # the server closed
        self._frame_s = frame_s
        self._lag = lag

    async def speak(self, pcm: bytes, start_s: float) -> float:
        """Send PCM whose first sample was spoken at `start_s`; return when its last one was."""
        for frame, full_s in frames(pcm, self._frame_s):
            due_s = start_s + full_s
            await asyncio.sleep(due_s - clock())
            self._lag.add(clock() - due_s)
            await self._client.send(frame)
        return start_s + duration_s(pcm)

    async def flush(self) -> float:
        """Release the key; return when."""
        released_s = clock()
        await self._client.flush()
        return released_s

    async def next_line(self, timeout_s: float) -> Line | None:
        """The next line, or None if none comes in time.

        Raises:
            ClientError: the server closed the connection.
        """
        try:
            line = await asyncio.wait_for(self.lines.get(), timeout_s)
        except TimeoutError:
            return None
        if line is None:
            raise self._why or ClientError("The server ended the session.")
        return line

    async def receive(self) -> None:
        try:
            async for text in self._client:
                self.lines.put_nowait(Line(text, clock()))
        except ClientError as error:
            self._why = error
        self.lines.put_nowait(None)


@asynccontextmanager
async def playing(
    url: str, token: str | None, *, language: str, endpointing: str, frame_s: float, lag: Lag
) -> AsyncIterator[Player]:
    """A connected player.

    Raises:
        ClientError: the server cannot be reached, refuses or closes.
    """
    url += ("&" if "?" in url else "?") + urlencode({"language": language, "endpointing": endpointing})
    async with PlainClient(url, token) as client:
        player = Player(client, frame_s, lag)
        receiver = asyncio.create_task(player.receive())
        try:
            yield player
        finally:
            receiver.cancel()

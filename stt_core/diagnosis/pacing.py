"""How fast the audio arrives, against the clock.

Arrivals are no metronome: a pre-roll comes at once, a network stalls and catches up. So the speed is the median over
many pairs of moments that lie half the time apart (after Theil and Sen), which one stall does not move.
"""

import numpy as np

POINTS = 512  # kept at most; then every other one is forgotten
MIN_ELAPSED_S = 0.35
MIN_POINTS = 5
PAUSE_S = 0.045  # a message that is so much later than its audio is long follows a pause
BEHIND_S = 0.1  # jitter is less
CATCH_UP_S = 0.2  # of audio, in which a network delivers what it held back


class Pacing:
    """Collects when how many bytes had arrived."""

    def __init__(self, declared_bytes_per_s: float) -> None:
        self._declared_bytes_per_s = declared_bytes_per_s
        self._points: list[tuple[float, int]] = []  # (at_s, bytes so far)
        self._apart_s = 0.02
        self._messages = 0
        self._bytes = 0
        self._last_s = 0.0
        self.pauses = 0  # messages that came late
        self.paused_s = 0.0  # by how much, all together
        self._before_pause = 0  # bytes that had come before the last of them
        self._last_pause = (0, 0.0, 0.0)  # what `pauses`, `paused_s` and the delay were before it
        self._late_s = 0.0  # by how much the stream is behind its beginning now
        self._ahead_s = 0.0  # the least it was

    def push(self, byte_count: int, at_s: float) -> None:
        """Note that so many bytes arrived at `at_s`, on any clock that never goes back."""
        if self._messages:
            late_s = at_s - self._last_s - byte_count / self._declared_bytes_per_s
            if late_s > PAUSE_S:
                self._last_pause = (self.pauses, self.paused_s, self._late_s - self._ahead_s)
            self._late_s += late_s
            self._ahead_s = min(self._ahead_s, self._late_s)
            if late_s > PAUSE_S:
                self.pauses += 1
                self.paused_s += late_s
                self._before_pause = self._bytes
        self._messages += 1
        self._bytes += byte_count
        self._last_s = at_s
        if not self._points or at_s - self._points[-1][0] >= self._apart_s:
            self._points.append((at_s, self._bytes))
            if len(self._points) > POINTS:
                self._points = self._points[::2]
                self._apart_s *= 2

    @property
    def messages_per_s(self) -> float:
        elapsed_s = self._last_s - self._points[0][0] if self._points else 0.0
        return self._messages / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def paused(self) -> bool:
        """Whether the stream is behind because it stopped now and then; a slow client is late with every message."""
        pauses, paused_s, behind_s = self._stopped()
        return self._are_rare(pauses) and BEHIND_S < behind_s < 2 * paused_s

    def pauses_missing(self) -> bool:
        """Whether the stream stopped now and then and never caught up, as if pauses were not sent."""
        pauses, paused_s, behind_s = self._stopped()
        return self._are_rare(pauses) and max(BEHIND_S, 0.8 * paused_s) < behind_s < 1.6 * paused_s

    def _stopped(self) -> tuple[int, float, float]:
        """How often it stopped, for how long all together, and by how much it is behind.

        A network that stalls delivers afterwards what it held back, and of the last pause that may be still to come.
        """
        if (self._bytes - self._before_pause) / self._declared_bytes_per_s <= CATCH_UP_S:
            return self._last_pause
        return self.pauses, self.paused_s, self._late_s - self._ahead_s

    def _are_rare(self, pauses: int) -> bool:
        return 1 <= pauses < 0.5 * self._messages

    def bytes_per_s(self) -> float | None:
        """The speed; None where too little arrived to tell."""
        if len(self._points) < MIN_POINTS or self._points[-1][0] - self._points[0][0] < MIN_ELAPSED_S:
            return None
        at_s, so_far = np.array(self._points, np.float64).T
        partner = np.searchsorted(at_s, at_s + (at_s[-1] - at_s[0]) / 2)
        first = np.flatnonzero(partner < len(at_s))
        speeds = (so_far[partner[first]] - so_far[first]) / (at_s[partner[first]] - at_s[first])
        return float(np.median(speeds))

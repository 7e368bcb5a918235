"""Texts of speech that is still going on: when to ask for one, and which part of it will stay.

While somebody speaks, the whole utterance so far is transcribed again and again. The end of such a text is a guess,
because a word may be cut in the middle; its beginning settles. LocalAgreement-2 calls stable what two texts in a row
agree on, word by word, but for the word at which the earlier one ended. What has once been called stable is never
taken back: where a later text disagrees, the client goes on seeing the stable words, and the `final` has the last say.

At most one request is under way. The next one is due when a fixed stretch of audio has come, or twice what the last
one took if that is longer, so that partials slow down on a busy machine before anything else does. While there is
nothing to show yet, the next one follows the last.

Source: Macháček, Dabre, Bojar, "Turning Whisper into Real-Time Transcription System" (2023), after Liu, Spanakis,
Niehues, "Low-Latency Sequence-to-Sequence Speech Recognition" (2020).
"""

import re

from stt_core.audio import SAMPLE_RATE

FIRST_AFTER_S = 0.25  # of speech: enough for a syllable
AGAIN_AFTER_S = 0.25  # while there is nothing to show yet
EVERY_S = 0.5
PATIENCE = 2.0  # times what the last one took


class Partials:
    """The texts of one utterance while it is being said. Positions are samples of the connection's audio."""

    def __init__(self, start_samples: int) -> None:
        self._due = start_samples + round(FIRST_AFTER_S * SAMPLE_RATE)
        self._asked: int | None = None  # where the audio was when the request under way was made
        self._words: list[str] = []  # of the last text
        self._stable: list[str] = []

    def is_due(self, position: int) -> bool:
        """Whether it is time for the next request."""
        return self._asked is None and position >= self._due

    def asked(self, position: int) -> None:
        self._asked = position

    def lost(self, position: int) -> None:
        """The request under way came to nothing."""
        self._wait(position)

    def take(self, text: str, position: int) -> tuple[str, str] | None:
        """The answer: the text to show and its stable beginning; None if there is nothing to show."""
        words = text.split()
        kept = len(self._stable)
        agreed = self._agreed(words)
        if agreed > kept:
            self._stable += words[kept:agreed]
        self._words = words
        shown = [*self._stable, *words[len(self._stable) :]]
        self._wait(position, PATIENCE if shown else 1.0)
        return (" ".join(shown), " ".join(self._stable)) if shown else None

    def _wait(self, position: int, patience: float = PATIENCE) -> None:
        asked = position if self._asked is None else self._asked
        pause_s = EVERY_S if self._words or self._stable else AGAIN_AFTER_S
        self._due = asked + round(max(pause_s * SAMPLE_RATE, patience * (position - asked)))
        self._asked = None

    def _agreed(self, words: list[str]) -> int:
        """How many words this text and the last one begin with alike; 0 if it denies what is stable.

        The last word of the last text does not count: its audio may have ended in the middle of it.
        """
        pairs = list(zip(words, self._words[:-1], strict=False))
        count = next((i for i, (new, old) in enumerate(pairs) if _letters(new) != _letters(old)), len(pairs))
        stable = [_letters(word) for word in self._stable]
        return count if [_letters(word) for word in words[: len(stable)]] == stable else 0


def _letters(word: str) -> str:
    return re.sub(r"\W", "", word).casefold()

"""Debug recordings: each utterance as the model gets it, as debug_0001.wav, debug_0002.wav, …

Names are the server's own and private to its user; nothing that a client sends becomes part of a path.
"""

import logging
import os
import re
import wave
from pathlib import Path
from typing import BinaryIO

from stt_core.audio import SAMPLE_RATE, Samples, to_s16le

KEEP = 500  # newest recordings
NAME = re.compile(r"debug_(\d{4,})\.wav")

logger = logging.getLogger(__name__)


class Recorder:
    """Writes utterances into `folder`. A disk that refuses is reported once and never stops the server."""

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self._folder = folder
        self._keep = keep
        self._complained = False

    def write(self, samples: Samples) -> Path | None:
        """Write one 16 kHz mono s16 WAV; blocking. Returns its path, or None if it could not be written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._create() as file, wave.open(file, "wb") as recording:
                recording.setnchannels(1)
                recording.setsampwidth(2)
                recording.setframerate(SAMPLE_RATE)
                recording.writeframes(to_s16le(samples))
            self._prune()
        except OSError as error:
            if not self._complained:
                logger.warning("Debug recordings cannot be written to %s: %s", self._folder, error)
                self._complained = True
            return None
        return Path(file.name)

    def _numbered(self) -> list[tuple[int, Path]]:
        matches = ((NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _create(self) -> BinaryIO:
        """A new empty file with the next number, readable by its owner only."""
        recordings = self._numbered()
        number = recordings[-1][0] + 1 if recordings else 1
        while True:
            path = self._folder / f"debug_{number:04d}.wav"
            try:
                return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))
            except FileExistsError:  # another server, or another thread, was first
                number += 1

    def _prune(self) -> None:
        for _, path in self._numbered()[: -self._keep]:
            path.unlink(missing_ok=True)

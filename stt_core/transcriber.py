"""The core without a server: audio in, text out, in three lines."""

from pathlib import Path

import numpy as np

from stt_core.audio import Samples, read_audio
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import WhisperEngine
from stt_core.errors import AudioError
from stt_core.settings import Settings
from stt_core.transcription import Request, Transcript
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad


class Transcriber:
    """Transcribes recordings with a Whisper model. Loads it at once; blocking.

    Args:
        model: a directory, a faster-whisper name or a hub id. The embedded `base` needs no network.
        language: a Whisper language code, or `auto`.
        cache_dir: where the embedded model is unpacked; the user's cache folder if None.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        ModelError: the model cannot be found or loaded.
    """

    def __init__(
        self,
        model: str = "base",
        *,
        language: str = "ko",
        cache_dir: Path | None = None,
        device: str = "auto",
    ) -> None:
        self.language = language
        self._engine = WhisperEngine(model, languages=(language,), cache_dir=cache_dir, device=device)
        self._engine.load()
        self._vad = SileroVad()

    def transcribe(self, audio: str | Path | Samples, language: str | None = None) -> Transcript:
        """The text of one recording.

        Args:
            audio: a file (WAV, FLAC, OGG, MP3), or (n,) float32 samples at 16 kHz mono.
            language: instead of the one that the transcriber was made with.

        Raises:
            AudioError: the file is missing or is not audio, or the array is not one of samples.
        """
        samples = read_audio(audio) if isinstance(audio, str | Path) else audio
        if samples.ndim != 1 or not np.isfinite(samples).all():  # NaN costs Whisper a minute of decoding
            raise AudioError(f"Expected (n,) finite samples at 16 kHz mono, got shape {samples.shape}.")
        utterance = whole_utterance(samples, self._vad, EndpointingOptions())
        language = language or self.language
        if not len(utterance.samples):
            return Transcript("", language, no_speech_prob=1.0)
        [transcript] = self._engine.transcribe([Request(utterance.samples, language, vad_ratio=utterance.vad_ratio)])
        return transcript


def build_engine(settings: Settings, *, cores: int = 1) -> WhisperEngine:
    """The engine that the settings ask for, not loaded yet; `cores` are those that it may use."""
    return WhisperEngine(
        settings.model,
        languages=(settings.language,) if settings.cut_vocabulary else (),
        cache_dir=settings.cache_dir,
        device=settings.device,
        compute_type=settings.compute_type,
        workers=settings.workers or (1 if settings.device == "cuda" else cores),
        max_batch_size=settings.max_batch_size,
        beam_size=settings.beam_size,
    )

"""Whole files through the model that live sessions use.

A file is treated like a very long utterance of somebody who can wait. It is decoded piece by piece, the VAD finds the
speech in it, and its utterances go to the model one after the other, behind everything that players wait for: half an
hour of audio never has more than one request in the queue, and never takes the worker that finals need. Pauses of
less than two seconds stay inside an utterance, so a short file is one, and its text is that of
`Transcriber.transcribe`. Times are seconds of the file.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

import anyio
import anyio.to_thread

from stt_core.audio import SAMPLE_RATE
from stt_core.batching import Job, Priority
from stt_core.media import decode_file
from stt_core.metrics import Metrics
from stt_core.settings import Settings
from stt_core.transcription import Request, Segment, Transcript
from stt_core.utterances import Utterance, UtteranceStream
from stt_core.vad import Vad

MAX_PAUSE_MS = 2000  # a longer one parts a file's utterances
MAX_UTTERANCE_S = 27.0  # with its pads it fits into the model's window


class TranscriptionServer(Protocol):
    """What transcribing a file needs of the server."""

    settings: Settings
    metrics: Metrics

    def enqueue(self, request: Request, session: object, priority: Priority) -> Job[Request, Transcript]:
        """Have an utterance transcribed. Raises Overloaded or ModelError."""
        ...

    async def vad(self) -> Vad:
        """The shared detector."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """One utterance of a file, and what was heard in it."""

    duration_s: float  # of the utterance
    language: str
    text: str
    segments: tuple[Segment, ...]  # with their places in the file; only where they were asked for


class FileTranscription:
    """One file on its way through the model.

    Args:
        server: whose model it is.
        file: see `stt_core.media`.
        request: what is asked about each utterance; its samples are replaced.
        decoding: how many files are decoded at a time, so that decoding leaves the processor to the model.
    """

    def __init__(
        self,
        server: TranscriptionServer,
        file: BinaryIO,
        request: Request,
        *,
        decoding: anyio.CapacityLimiter,
    ) -> None:
        self._server = server
        self._file = file
        self._request = request
        self._decoding = decoding
        self._samples = 0
        self.pieces: list[Piece] = []  # what has been heard so far

    @property
    def duration_s(self) -> float:
        """Of the audio that has been decoded; of the file when all of it was."""
        return self._samples / SAMPLE_RATE

    @property
    def text(self) -> str:
        """What has been heard so far."""
        return " ".join(piece.text for piece in self.pieces if piece.text)

    @property
    def segments(self) -> list[Segment]:
        """The same in pieces."""
        return [segment for piece in self.pieces for segment in piece.segments]

    @property
    def language(self) -> str:
        """That of most of the speech."""
        spoken = Counter[str]()
        for piece in self.pieces:
            if piece.text:
                spoken[piece.language] += round(piece.duration_s * SAMPLE_RATE)
        return spoken.most_common(1)[0][0] if spoken else self._request.language

    async def transcribe_all(self) -> None:
        """Transcribe the file; see `transcribe`."""
        async for _ in self.transcribe():
            pass

    async def transcribe(self) -> AsyncGenerator[Piece]:
        """The pieces of the file, each as soon as it is there.

        Raises:
            AudioError: this is no audio, or too much of it.
            Overloaded, ModelError: there is no model, or none for this request in time.
        """
        steps = self._utterances(await self._server.vad())
        with closing(steps):
            while (found := await anyio.to_thread.run_sync(next, steps, None, limiter=self._decoding)) is not None:
                for utterance in found:
                    question = replace(self._request, samples=utterance.samples, vad_ratio=utterance.vad_ratio)
                    job = self._server.enqueue(question, self, Priority.UPLOAD)
                    transcript = await job.result()
                    self._server.metrics.utterance("upload", utterance.duration_s)
                    self.pieces.append(_piece(utterance, transcript))
                    yield self.pieces[-1]

    def _utterances(self, vad: Vad) -> Generator[list[Utterance]]:
        """Decode a little more; the utterances that ended in it. Blocking."""
        options = replace(
            self._server.settings.endpointing_options,
            max_silence_duration_ms=MAX_PAUSE_MS,
            max_speech_duration_s=MAX_UTTERANCE_S,
        )
        stream = UtteranceStream(vad.stream(), options, endpointing=True)
        with closing(decode_file(self._file, max_duration_s=self._server.settings.max_upload_audio_s)) as pieces:
            for samples in pieces:
                self._samples += len(samples)
                yield [event for event in stream.push(samples) if isinstance(event, Utterance)]
        last = stream.flush("message")
        yield [last] if len(last.samples) else []


def _piece(utterance: Utterance, transcript: Transcript) -> Piece:
    begin_s = utterance.start_samples / SAMPLE_RATE

    def place_s(seconds: float) -> float:
        """Where in the file this is, never outside of the utterance."""
        return begin_s + min(max(0.0, seconds), utterance.duration_s)

    return Piece(
        utterance.duration_s,
        transcript.language,
        transcript.text,
        tuple(
            replace(
                segment,
                start_s=place_s(segment.start_s),
                end_s=place_s(segment.end_s),
                words=tuple(
                    replace(word, start_s=place_s(word.start_s), end_s=place_s(word.end_s)) for word in segment.words
                ),
            )
            for segment in transcript.segments
        ),
    )

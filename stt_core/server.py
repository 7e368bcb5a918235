"""What all clients of one app share: the model, its scheduler, the detector, the door, and the way out."""

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Protocol

import anyio
import anyio.to_thread

from stt_core import transcription
from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.batching import Batcher, Job, Priority
from stt_core.errors import ModelError, Overloaded, ProtocolError
from stt_core.metrics import Metrics
from stt_core.recordings import Recorder
from stt_core.settings import Settings
from stt_core.transcription import Engine, Transcript
from stt_core.vad import Probabilities, SileroVad, Vad, VadStream

logger = logging.getLogger(__name__)

MAX_BATCH_S = 40.0  # of speech: nobody's command waits for several people's long recordings
CLIENTS_SHARE = 0.9  # of the time to leave in; the rest is for their goodbyes
WRITE_OUT_S = 5.0  # for debug recordings, when everything else is over
WARM_UP_S = 5.0  # what loading takes, for whoever asks before it is done

TranscriptionJob = Job[transcription.Request, Transcript]


class Client(Protocol):
    """A connection that can be asked to leave."""

    def leave(self, error: ProtocolError, grace_s: float) -> None:
        """Finish what is open, tell the client why, and close within `grace_s`."""
        ...


class Server:
    """The state of one app."""

    def __init__(self, settings: Settings, engine: Engine, vad: Vad | None, metrics: Metrics) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.failure: ModelError | None = None
        self.loaded = False
        self.draining = False
        self._vad = vad
        self._vad_lock = anyio.Lock()
        self._started_s = time.monotonic()
        self._clients: dict[Client, str | None] = {}  # and the token of each
        self._tokens: Counter[str] = Counter()
        self._left = anyio.Event()  # set when the last client has left while draining
        self.recorder = Recorder(settings.debug_audio, settings) if settings.debug_audio else None
        self._batches: Batcher[transcription.Request, Transcript] = Batcher(
            self._transcribe,
            workers=engine.workers,
            size=_work_s,
            max_batch_size=engine.max_batch_size,
            max_batch_work=MAX_BATCH_S,
            max_wait_s=settings.max_queue_wait_s,
            on_batch=self._count,
            hurry=lambda request: replace(request, hurried=True) if request.first is None else request,
        )

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and new clients are let in."""
        return self.loaded and not self.draining

    @property
    def sessions(self) -> int:
        """Clients that were let in and have not left."""
        return len(self._clients)

    @property
    def eta_s(self) -> float:
        """A guess of how long the model still takes."""
        return max(0.5, WARM_UP_S - (time.monotonic() - self._started_s))

    async def run(self, on_load_failed: Callable[[ModelError], None] | None) -> None:
        """Load the model, then work until cancelled."""
        self._started_s = time.monotonic()
        if self.recorder is not None:  # before the model: an utterance in which nothing is heard needs none
            self.recorder.start()
        try:
            await self._serve(on_load_failed)
        finally:
            if self.recorder is not None:
                with anyio.move_on_after(WRITE_OUT_S, shield=True):
                    await anyio.to_thread.run_sync(self.recorder.close, abandon_on_cancel=True)

    async def _serve(self, on_load_failed: Callable[[ModelError], None] | None) -> None:
        try:
            await self.vad()
            await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except ModelError as error:
            self._give_up(error, on_load_failed)
            return
        except Exception as error:  # an engine's bug must not leave the app "loading" for ever
            logger.exception("The model could not be loaded.")
            self._give_up(ModelError(f"The model could not be loaded: {error!r:.200}"), on_load_failed)
            return
        self.loaded = True
        self.metrics.ready(self.ready)
        logger.info("The model %s is ready.", self.engine.model)
        await self._batches.serve()

    @property
    def players_need_all(self) -> bool:
        """Whether all workers are at work, or utterances wait for one: a good moment to leave everything else."""
        return self._batches.players_need_all

    async def vad(self) -> Vad:
        """The detector, loaded once."""
        async with self._vad_lock:
            if self._vad is None:
                self._vad = await anyio.to_thread.run_sync(SileroVad)
            return _CountedVad(self._vad, self.metrics)

    def admit(self, client: Client, token: str | None = None) -> None:
        """Let a client in, by this token if the server wants one; without it the client may only stay to send it.

        Raises:
            ProtocolError: the server is about to stop.
            Overloaded: there are too many already.
        """
        if self.draining:
            raise ProtocolError(1012, "the server restarts; connect again")
        if self.settings.tokens and token is None:  # strangers take nobody's place who has a token
            self._check_room(sum(known is None for known in self._clients.values()))
            self._clients[client] = None
        else:
            self.authorize(client, token)

    def authorize(self, client: Client, token: str | None) -> None:
        """Let a client stay, by this token.

        Raises:
            Overloaded: too many have come, or too many with this token.
        """
        self._check_room(sum(self._tokens.values()) if self.settings.tokens else len(self._clients))
        limit = self.settings.max_sessions_per_token
        if token is not None and self._tokens[token] >= limit:
            raise Overloaded(f"this token has all {limit} connections it may have; try again later")
        self._clients[client] = token
        if token is not None:
            self._tokens[token] += 1

    def _check_room(self, taken: int) -> None:
        if taken >= self.settings.max_sessions:
            raise Overloaded(f"the server has all {self.settings.max_sessions} clients it takes; try again later")

    def dismiss(self, client: Client) -> None:
        """A client has left."""
        token = self._clients.pop(client)
        if token is not None:
            self._tokens[token] -= 1
        if not self._clients:
            self._left.set()

    async def drain(self, grace_s: float) -> None:
        """Let nobody in any more, have every client's open utterance answered, and close all sockets with 1012.

        Returns when the last one has left, or after `grace_s`.
        """
        if self.draining:
            return
        self.draining = True
        self.metrics.ready(False)
        self._left = anyio.Event()
        for client in list(self._clients):
            client.leave(ProtocolError(1012, "the server restarts; connect again"), CLIENTS_SHARE * grace_s)
        if self._clients:
            with anyio.move_on_after(grace_s):
                await self._left.wait()

    def enqueue(self, request: transcription.Request, session: Hashable, priority: Priority) -> TranscriptionJob:
        """Have an utterance transcribed.

        Raises:
            Overloaded: too much is waiting.
            ModelError: there is no model.
        """
        return self._batches.enqueue(request, session=session, priority=priority)

    def _transcribe(self, requests: Sequence[transcription.Request]) -> list[Transcript]:
        with self.metrics.work("model"):
            return self.engine.transcribe(requests)

    def _load(self) -> None:
        from threadpoolctl import threadpool_limits

        self.engine.load()
        # The workers share the cores. numpy's own threads, one a core for every spectrogram, wait there for each other,
        # and waiting costs a processor as much as work does: an utterance took 16 ms of it instead of 2.5.
        threadpool_limits(1, user_api="blas")
        # What is there now stays. To look through all of it for garbage takes the event loop a tenth of a second.
        gc.collect()
        gc.freeze()

    def _give_up(self, error: ModelError, on_load_failed: Callable[[ModelError], None] | None) -> None:
        self.failure = error
        self._batches.fail(error)
        if on_load_failed:
            on_load_failed(error)
        else:
            logger.error("%s", error)

    def _count(self, batch: Sequence[TranscriptionJob]) -> None:
        for job in batch:
            self.metrics.queue_wait(job.priority, job.timing.queue_s)
        audio_s = sum(len(job.request.samples) for job in batch) / SAMPLE_RATE
        self.metrics.batch(len(batch), audio_s=audio_s, infer_s=batch[0].timing.infer_s)


class _CountedVad:
    """A detector whose processor time is counted."""

    def __init__(self, vad: Vad, metrics: Metrics) -> None:
        self._vad = vad
        self._metrics = metrics

    def stream(self) -> VadStream:
        stream, metrics = self._vad.stream(), self._metrics

        def rate(windows: Samples) -> Probabilities:
            with metrics.work("detector"):
                return stream(windows)

        return rate


def _work_s(request: transcription.Request) -> float:
    """Seconds of speech, and a second for what every utterance costs."""
    return 1 + len(request.samples) / SAMPLE_RATE

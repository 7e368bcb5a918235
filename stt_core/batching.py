"""Sessions share one model: a scheduler collects their requests into batches.

While a batch runs, new requests queue up and become the next batch, so there is no waiting time to tune: an
idle model never waits for company. `workers` batches run at the same time, each in a thread of its own.

Finals go before second looks at doubtful ones, those before speculative finals, those before partials, and those
before uploaded files; a batch holds only one kind, because a final must not wait for the decoding of a guess. Within a
kind, sessions take turns: a session's second request queues behind everybody's first. A session has one partial waiting
at most, the latest.

When finals wait for long, or would, they are hurried, and so are guesses, which most often become finals: `hurry` makes
cheaper requests of them. Texts do not depend on who else is in a batch, but on a busy machine they get a little worse
before they get late. Larger batches would not help a CPU: of 46 hurried utterances two workers do 9.2 a second one by
one, 11.7 in twos and in threes, 12.4 in sixes and 9.0 in twelves, and a batch of twelve takes 2.3 s.

Whoever no longer wants a result withdraws it: what has not begun never runs. A batch that fails is tried again
request by request, so that one poisonous utterance fails alone.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

from stt_core.errors import Overloaded
from stt_core.transcription import Timing

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

SECOND_LOOK_PATIENCE_S = 0.3  # after this a second look makes finals wait, for it has waited before
UPLOAD_PATIENCE_S = 10.0  # after this a file goes on before guesses and partials, or it never would
HURRY_AFTER_S = 0.1
SMOOTHING = 0.1  # of the running mean of what work costs


class Priority(IntEnum):
    """Who goes first."""

    FINAL = 0
    SECOND_LOOK = 1  # a final whose first transcript was in doubt: slow, so it makes nobody wait
    SPECULATIVE = 2  # will be final if the player stays silent
    PARTIAL = 3
    UPLOAD = 4  # of a file, whose sender can wait


HURRIED = (Priority.FINAL, Priority.SPECULATIVE)


@dataclass(slots=True, eq=False)
class Job(Generic[RequestT, ResultT]):
    """A request in the scheduler."""

    request: RequestT
    session: Hashable
    priority: Priority
    turn: int  # how many requests of its session and kind waited before it
    future: asyncio.Future[ResultT]
    since_s: float = field(default_factory=time.monotonic)
    began_s: float = 0.0  # when its batch did
    ended_s: float = 0.0

    @property
    def timing(self) -> Timing:
        """What its result took."""
        return Timing(max(0.0, self.began_s - self.since_s), self.ended_s - self.began_s)

    def promote(self) -> None:
        """Somebody waits for this result now."""
        self.priority = Priority.FINAL

    def withdraw(self) -> None:
        """Nobody wants this result any more."""
        self.future.cancel()

    async def result(self) -> ResultT:
        """Wait for the result. Cancelling the wait withdraws the request.

        Raises:
            Overloaded: it waited too long.
            Exception: what the model raised for this request, or what `fail` was given.
        """
        try:
            return await self.future
        finally:
            self.future.cancel()  # nothing happens to a future that is done


class Batcher(Generic[RequestT, ResultT]):
    """Runs requests from all sessions through one model, in batches.

    Args:
        run: the model; blocking, one result for each request, in order. Called from `workers` threads.
        workers: batches that run at the same time.
        size: how much work a request is, in any unit; the same for all if not given.
        max_batch_size: requests in a batch.
        max_batch_work: their sizes together, unless one alone is larger: a batch ends with its last request.
        max_waiting: requests in the queue; one more is refused with Overloaded.
        max_wait_s: a request that would wait longer, or has, is refused with Overloaded.
        on_batch: told of every batch that ran.
        hurry: makes a cheaper request of a final or a guess, for when one of those that wait has waited longer than
            `hurry_after_s`, or the last of them would before its batch begins.
    """

    def __init__(
        self,
        run: Callable[[Sequence[RequestT]], list[ResultT]],
        *,
        workers: int = 1,
        size: Callable[[RequestT], float] = lambda _: 1.0,
        max_batch_size: int = 8,
        max_batch_work: float = float("inf"),
        max_waiting: int = 1000,
        max_wait_s: float = 30.0,
        on_batch: Callable[[Sequence[Job[RequestT, ResultT]]], None] = lambda _: None,
        hurry: Callable[[RequestT], RequestT] | None = None,
        hurry_after_s: float = HURRY_AFTER_S,
    ) -> None:
        self._run = run
        self._workers = workers
        self._size = size
        self._max_batch_size = max_batch_size
        self._max_batch_work = max_batch_work
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._on_batch = on_batch
        self._hurry = hurry
        self._hurry_after_s = hurry_after_s
        self._waiting: list[Job[RequestT, ResultT]] = []
        self._arrived = asyncio.Event()
        self._threads = anyio.CapacityLimiter(workers)
        self._failure: Exception | None = None
        self._aside = 0  # workers that run partials or files
        self._for_players = 0  # workers that run finals or guesses
        self._cost_s = 0.0  # running mean of what a unit of work costs a worker

    def expected_wait_s(self, turn: int) -> float:
        """How long a final in this turn of its session would wait: those in later turns stand behind it."""
        before = (
            job
            for job in self._waiting
            if job.priority is Priority.FINAL and job.turn <= turn and not job.future.done()
        )
        return sum(self._size(job.request) for job in before) * self._cost_s / self._workers

    @property
    def players_need_all(self) -> bool:
        """Whether finals or guesses have all of several workers, or wait for one: a good moment to leave all else."""
        return 1 < self._workers == self._for_players or any(self._of_kind(kind) for kind in HURRIED)

    def enqueue(
        self, request: RequestT, *, session: Hashable = None, priority: Priority = Priority.FINAL
    ) -> Job[RequestT, ResultT]:
        """Put a request in the queue. A session's waiting partial gives way to its next one.

        Raises:
            Overloaded: too many requests are waiting.
            Exception: what `fail` was given.
        """
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # or it would grow with every request
        if priority is Priority.PARTIAL:
            for job in self._peers(session, priority):
                job.withdraw()
        if len(self._waiting) >= self._max_waiting:
            self._forget_withdrawn()
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} utterances are waiting already; try again in a moment")
        turn = len(self._peers(session, priority))
        if self.expected_wait_s(turn) > self._max_wait_s:
            raise Overloaded(f"the wait is over {self._max_wait_s:.0f} s; try again in a moment")
        job = Job(request, session, priority, turn, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return job

    async def submit(self, request: RequestT, *, session: Hashable = None) -> ResultT:
        """Enqueue a final and wait for its result; see `enqueue` and `Job.result`."""
        return await self.enqueue(request, session=session).result()

    async def serve(self) -> None:
        """Run until cancelled."""
        for job in self._waiting:  # what came while the model was loading has not waited for its turn yet
            job.since_s = time.monotonic()
        async with anyio.create_task_group() as group:
            for _ in range(self._workers):
                group.start_soon(self._work)

    def fail(self, error: Exception) -> None:
        """Answer everything that waits, and all that will come, with this error: there is no model."""
        self._failure = error
        while self._waiting:
            _settle(self._waiting.pop(), error)

    def _peers(self, session: Hashable, priority: Priority) -> list[Job[RequestT, ResultT]]:
        """What waits of this kind and session."""
        return [
            job
            for job in self._waiting
            if job.session == session and job.priority is priority and not job.future.done()
        ]

    def _forget_withdrawn(self) -> None:
        self._waiting = [job for job in self._waiting if not job.future.done()]

    async def _work(self) -> None:
        while True:
            if batch := self._next_batch():
                aside = batch[0].priority > Priority.SPECULATIVE
                for_players = batch[0].priority in HURRIED
                self._aside += aside
                self._for_players += for_players
                try:
                    await self._run_batch(batch)
                finally:
                    self._aside -= aside
                    self._for_players -= for_players
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _next_batch(self) -> list[Job[RequestT, ResultT]]:
        """The most urgent requests of one kind: a fair share of them, so that no worker sits idle."""
        for job in self._waiting:
            if time.monotonic() - job.since_s > self._max_wait_s:
                _settle(job, Overloaded(f"no answer within {self._max_wait_s:.0f} s; try again in a moment"))
        self._forget_withdrawn()
        kind = self._next_kind()
        if kind is None:
            return []
        peers = self._of_kind(kind)
        hurried = self._hurry if kind in HURRIED and self._wait_long(peers) else None
        peers = peers[: min(self._max_batch_size, -(-len(peers) // self._workers))]
        works = accumulate(self._size(job.request) for job in peers)
        batch = [job for job, work in zip(peers, works, strict=True) if work <= self._max_batch_work] or peers[:1]
        if hurried:
            for job in batch:
                job.request = hurried(job.request)
        taken = set(map(id, batch))
        self._waiting = [job for job in self._waiting if id(job) not in taken]
        return batch

    def _of_kind(self, kind: Priority) -> list[Job[RequestT, ResultT]]:
        """What waits of this kind, each session's first before anybody's second."""
        jobs = (job for job in self._waiting if job.priority is kind and not job.future.done())
        return sorted(jobs, key=lambda job: job.turn)

    def _wait_long(self, peers: Sequence[Job[RequestT, ResultT]]) -> bool:
        """Whether one of these, that wait in this order, has waited for long, or the last of them would."""
        waited_s = max((time.monotonic() - job.since_s for job in peers), default=0.0)
        before_last = sum(self._size(job.request) for job in peers[:-1])
        return max(waited_s, before_last * self._cost_s / self._workers) > self._hurry_after_s

    def _next_kind(self) -> Priority | None:
        """Whose turn it is; None if nobody's."""
        kinds = {job.priority for job in self._waiting}
        now_s = time.monotonic()
        overdue = (
            job.priority is Priority.SECOND_LOOK and now_s - job.since_s > SECOND_LOOK_PATIENCE_S
            for job in self._waiting
        )
        if any(overdue):
            return Priority.SECOND_LOOK
        # What runs cannot be stopped: one worker is kept free of what nobody waits for. Of guesses, though, most become
        # finals, and an open microphone's players wait for nothing else.
        if self._aside >= max(1, self._workers - 1):
            kinds -= {Priority.PARTIAL, Priority.UPLOAD}
        kind = min(kinds, default=None)
        hungry = (job.priority is Priority.UPLOAD and now_s - job.since_s > UPLOAD_PATIENCE_S for job in self._waiting)
        if Priority.UPLOAD in kinds and kind in (Priority.SPECULATIVE, Priority.PARTIAL) and any(hungry):
            return Priority.UPLOAD
        return kind

    async def _run_batch(self, batch: Sequence[Job[RequestT, ResultT]]) -> None:
        requests = [job.request for job in batch]
        began_s = time.monotonic()
        try:
            results = await anyio.to_thread.run_sync(self._run, requests, limiter=self._threads)
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever the model raises belongs to its requests
            if len(batch) == 1:
                _settle(batch[0], error)
                return
            for job in batch:
                if not job.future.done():
                    await self._run_batch([job])
            return
        ended_s = time.monotonic()
        for job in batch:
            job.began_s, job.ended_s = began_s, ended_s
        self._on_batch(batch)
        cost_s = (ended_s - began_s) / sum(self._size(job.request) for job in batch)
        self._cost_s += (cost_s - self._cost_s) * (SMOOTHING if self._cost_s else 1)
        for job, result in answers:
            if not job.future.done():
                job.future.set_result(result)


def _settle(job: Job[RequestT, ResultT], error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)

"""A simulated server: one container event by event, and a day of the fleet that Modal's autoscaler makes of it.

One container is simulated exactly, with SimPy. Each session speaks and is silent by turns and does not wait for its
answer (open loop). An utterance queues at its end; a free worker takes its fair share of the queue, as
`stt_core.batching` does. A batch takes the time of its longest utterance and, for each further one, `marginal` of that
one's own time: 0 if batching were free, 1 if it gained nothing. With one worker, no batching and constant work this is
M/D/1, with exponential work and several workers M/M/c; the tests hold it against their formulas.

A fleet holds a million players, whose utterances need not be known: its unit is the socket. In steps of 20 s sockets
come (Poisson) and go (binomial, so their lengths are exponential), and each container is told apart, because a socket
stays where it is and only an empty container ends. A fleet of more than 500 containers is simulated by a sample, a
k-th of the players and of every limit, and multiplied by k. A warm-up day comes first.

The autoscaler wants `sockets / target` containers and the buffer. Sockets fill containers up to `target`, and beyond
it up to `max_inputs` while new ones boot; then they wait, a cold-start hit, or are turned away if no container may be
added. Modal does not document which container gets a socket, and this decides what a night costs:

- `packed`: the fullest one that has room, so that the others run empty and end. The floor.
- `spread`: any free slot with equal chance, as when all containers fetch from one queue. Then hardly one is ever empty,
  and the fleet keeps the size of its peak. The ceiling.
"""

import math
import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from local_dev.live_server import extra

Routing = Literal["packed", "spread"]

STEP_S = 20.0
DAY_S = 86_400.0
SAMPLE = 500  # containers simulated one by one


@dataclass(frozen=True, slots=True)
class Cost:
    """What an utterance costs a worker, and how workers share the load."""

    base_s: float
    per_audio_s: float  # for each second of audio
    marginal: float = 1.0
    spread: float = 0.3  # coefficient of variation around that, gamma distributed
    workers: int = 1
    max_batch_size: int = 16
    head_start_s: float = 0.0  # decoding begins so long before the wait does: speculation while the player is silent

    def of(self, audio_s: float) -> float:
        return self.base_s + self.per_audio_s * audio_s


@dataclass(frozen=True, slots=True)
class Talk:
    """How a session speaks."""

    share: float  # of the time
    utterance_s: tuple[float, float] = (2.0, 5.0)  # shortest and longest
    periodic: bool = False  # otherwise silences are exponential

    @property
    def mean_s(self) -> float:
        return sum(self.utterance_s) / 2

    @property
    def period_s(self) -> float:
        return self.mean_s / self.share


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """Modal's settings, as in `modal_app`."""

    target: int  # sockets on a container at which one more is wanted
    max_inputs: int
    min_containers: int = 0
    max_containers: int | None = None  # None: as many as are wanted
    buffer_containers: int = 0
    scaledown_s: float = 180.0
    boot_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who is online over the day: a cosine with its peak in the evening."""

    players: int  # at the peak, each with a socket
    session_s: float = 1800.0  # mean
    trough: float = 0.25  # share of the peak in the morning
    peak_hour: float = 21.0

    def online(self, at_s: float) -> float:
        swing = (1 + math.cos(2 * math.pi * (at_s / DAY_S - self.peak_hour / 24))) / 2
        return self.players * (self.trough + (1 - self.trough) * swing)


@dataclass(frozen=True, slots=True)
class Day:
    """What became of a day; arrays hold one value for each step."""

    online: NDArray[np.float64]
    containers: NDArray[np.float64]
    connected: float  # sockets that came
    cold: float  # of them, had to wait for a container to boot
    turned_away: float  # of them, found the fleet full

    @property
    def container_s(self) -> float:
        return float(self.containers.sum()) * STEP_S

    @property
    def player_s(self) -> float:
        return float(self.online.sum()) * STEP_S


def waits(cost: Cost, talk: Talk, sessions: int, seconds: float, seed: int) -> list[float]:
    """How long every utterance that ends within `seconds` waited for its text, in s."""
    simpy = extra("simpy")
    environment = simpy.Environment()
    queue = simpy.Store(environment)
    drawn = random.Random(seed)
    waited: list[float] = []

    def session() -> Generator[Any, Any, None]:
        begin_s = drawn.uniform(0, talk.period_s)
        while True:
            audio_s = drawn.uniform(*talk.utterance_s)
            if begin_s + audio_s > seconds:
                return
            head_start_s = min(cost.head_start_s, audio_s)
            yield environment.timeout(begin_s + audio_s - head_start_s - environment.now)
            variation = drawn.gammavariate(cost.spread**-2, cost.spread**2) if cost.spread else 1.0
            yield queue.put((begin_s + audio_s, variation * cost.of(audio_s)))
            if talk.periodic:
                begin_s += talk.period_s
            else:
                begin_s += audio_s + drawn.expovariate(1 / (talk.period_s - talk.mean_s))

    def worker() -> Generator[Any, Any, None]:
        while True:
            batch = [(yield queue.get())]
            share = min(cost.max_batch_size, math.ceil((1 + len(queue.items)) / cost.workers))
            while len(batch) < share:
                batch.append((yield queue.get()))
            longest_s = max(work_s for _, work_s in batch)
            rest_s = sum(work_s for _, work_s in batch) - longest_s
            yield environment.timeout(longest_s + cost.marginal * rest_s)
            waited.extend(max(0.0, environment.now - asked_s) for asked_s, _ in batch)

    for _ in range(sessions):
        environment.process(session())
    for _ in range(cost.workers):
        environment.process(worker())
    environment.run()  # until nobody speaks and nothing waits
    return waited


def simulate_day(crowd: Crowd, scaler: Autoscaler, routing: Routing, seed: int) -> Day:
    """A day from midnight to midnight."""
    scale = max(1, math.ceil(crowd.players / scaler.target / SAMPLE))
    drawn = np.random.default_rng(seed)
    least = math.ceil(scaler.min_containers / scale)
    most = math.inf if scaler.max_containers is None else math.ceil(scaler.max_containers / scale)
    sockets = np.zeros(least, np.int64)  # on each container
    boots_s = np.zeros(least)  # until it is up
    idle_s = np.zeros(least)
    waiting = 0
    steps = round(DAY_S / STEP_S)
    online, containers = np.zeros(steps), np.zeros(steps)
    connected = cold = turned_away = 0
    leaves = -math.expm1(-STEP_S / crowd.session_s)
    for step in range(-steps, steps):
        now_s = step * STEP_S
        sockets -= drawn.binomial(sockets, leaves)
        come = int(drawn.poisson(max(0.0, crowd.online(now_s + STEP_S) - crowd.online(now_s) * (1 - leaves)) / scale))
        boots_s = np.maximum(0.0, boots_s - STEP_S)
        unplaced = waiting + come
        for limit in (scaler.target, scaler.max_inputs):
            if unplaced:
                free = np.where(boots_s > 0, 0, np.maximum(0, limit - sockets))
                placed = _place(min(unplaced, int(free.sum())), free, sockets, routing, drawn)
                sockets = sockets + placed
                unplaced -= int(placed.sum())
        new_waiting = min(come, unplaced)
        total = int(sockets.sum()) + unplaced
        wanted = math.ceil(total / scaler.target) + (math.ceil(scaler.buffer_containers / scale) if total else 0)
        more = int(max(0, min(max(wanted, least), most) - len(sockets)))
        refused = 0 if more or (boots_s > 0).any() else unplaced
        idle_s = np.where((sockets == 0) & (boots_s == 0), idle_s + STEP_S, 0.0)
        ended = np.flatnonzero(idle_s > scaler.scaledown_s)[: max(0, len(sockets) - max(wanted, least))]
        waiting = unplaced - refused
        if step >= 0:
            online[step], containers[step] = sockets.sum(), len(sockets)
            connected, cold = connected + come, cold + max(0, new_waiting - refused)
            turned_away += refused
        if more or len(ended):
            sockets = np.append(np.delete(sockets, ended), np.zeros(more, np.int64))
            boots_s = np.append(np.delete(boots_s, ended), np.full(more, scaler.boot_s))
            idle_s = np.append(np.delete(idle_s, ended), np.zeros(more))
    return Day(online * scale, containers * scale, connected * scale, cold * scale, turned_away * scale)


def _place(
    count: int, free: NDArray[np.int64], sockets: NDArray[np.int64], routing: Routing, drawn: np.random.Generator
) -> NDArray[np.int64]:
    """How many of `count` sockets each container gets."""
    if routing == "spread":
        return drawn.multivariate_hypergeometric(free, count, method="marginals")
    order = np.argsort(-sockets, kind="stable")
    before = np.cumsum(free[order]) - free[order]
    placed = np.zeros_like(free)
    placed[order] = np.clip(count - before, 0, free[order])
    return placed

"""`bench load`: how many players one server process holds.

Players live in this process, the server in its own, on the same machine unless `url` says otherwise. Each of them
says an utterance of 2 to 5 s again and again, at times drawn before the step begins: a server that falls behind is
asked no less (open loop).

- `ptt`: every 10 s, with `flush` at its end (`endpointing=off`); nothing is sent in between.
- `open`: an open microphone (`endpointing=on`), of whose audio a tenth is speech: an utterance of 3 s every 30 s. The
  noise of a quiet room is sent all the time, under the speech too.

The phase of each player is drawn with the seed, so at any time so many speak as would in a game. TTFS is that of
`live_ttfs`: from sending `flush`, or from the end of speech by Silero, to the line. An utterance that stays without a
line counts as infinite, so that p95 tells of it. Of several lines for one utterance the last counts.

A step is held if its p95 is within the limit and nobody was turned away. The number grows until two steps in a row are
not held, since a step has few utterances and one of them may fall into another process's busy second; "sessions held"
is the largest number that was. CPU is what the server process used during the step, in cores. Memory is resident memory
at the end of the step, with all sessions still open.

What a session costs is measured before the steps, apart from what larger batches cost: a first crowd speaks, one
session after the other, and stays; memory per session is what a second crowd adds to that, which speaks as well.

The load generator shares the machine: its own CPU is told, and how late it sent its frames. Where frames are late
by tens of milliseconds, the figures are the client's as much as the server's, and the server would hold more.

In the table "lost" are utterances without an answer and sessions turned away, "CPU" the server's and "client" the load
generator's cores, "MiB" the server's resident memory, "late" the client's worst lateness of a frame.

The profile counts by `stt_cpu_seconds` of `/metrics`: "audio" is from bytes to utterances, "model" what surrounds the
network (spectrograms, tokens, text), "network" the rest of the event loop's thread, "decoding" the rest of the process,
most of it CTranslate2. Only Linux tells of the event loop's thread; elsewhere it counts as decoding.
"""

import asyncio
import math
import random
import time
from bisect import bisect_right
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from local_dev.bench import read_manifest
from local_dev.live_client import Lag, Line, Player, clock, duration_s, frames, playing, room_noise
from local_dev.live_report import Sheet, header, ms, new_figure, percentile, write_report
from local_dev.live_server import Server, server_under_test
from local_dev.live_ttfs import find_speech
from stt_core.audio import SAMPLE_RATE, read_audio, to_s16le
from stt_core.client import ClientError, PlainClient
from stt_core.errors import SettingsError
from stt_core.scoring import Score, score
from stt_core.vad import SileroVad

Mode = Literal["ptt", "open"]

SESSIONS = (1, 2, 5, 10, 20, 40, 60, 80, 100)
UTTERANCE_S = (2.0, 5.0)  # shortest and longest
EVERY_S = 10.0  # push-to-talk: from the beginning of one utterance to that of the next
TALKING = 0.1  # open microphone: share of the time
ROOM_DBFS = -60.0
ROOM_S = 30.0  # the room's noise is repeated after this
LIMIT_S = 1.0  # of p95 TTFS
DRAIN_S = 10.0  # after a step, for what is still to come
FIRST_CROWD, CROWD = 20, 80  # sessions, to see what one costs


@dataclass(frozen=True, slots=True)
class Sound:
    """What a player may say."""

    id: str
    language: str
    text: str
    pcm: bytes
    speech_end_s: float

    @property
    def duration_s(self) -> float:
        return duration_s(self.pcm)


@dataclass(frozen=True, slots=True)
class Turn:
    """Something to say, so long after the step began."""

    start_s: float
    sound: Sound


@dataclass(frozen=True, slots=True)
class Answer:
    """How a turn was answered."""

    id: str  # of the clip
    asked_s: float  # when the wait began, by `clock`
    ttfs_s: float  # infinite: never
    errors: int
    length: int


@dataclass(slots=True)
class Heard:
    """What became of all players of a step."""

    answers: list[Answer] = field(default_factory=list)
    turned_away: list[str] = field(default_factory=list)
    lag: Lag = field(default_factory=Lag)


def plan(sounds: Sequence[Sound], mode: Mode, seconds: float, drawn: random.Random) -> list[Turn]:
    """What one player says in a step, all of it ending within the step."""
    turns: list[Turn] = []
    position_s = -math.inf
    while True:
        sound = drawn.choice(sounds)
        period_s = EVERY_S if mode == "ptt" else sound.duration_s / TALKING
        if math.isinf(position_s):
            position_s = drawn.uniform(0, period_s)
        if position_s >= seconds:
            return turns
        if position_s + sound.duration_s <= seconds:
            turns.append(Turn(position_s, sound))
        position_s += period_s


def matched(mode: Mode, asked: Sequence[tuple[Turn, float, float]], lines: Sequence[Line]) -> list[Answer]:
    """Each turn with its line.

    Push-to-talk has one line for each turn, in order. An open microphone may have none or several: a line belongs to
    the last turn that had begun when it came.

    Args:
        asked: turns with when they began and when the wait began, by `clock`.
    """
    own: list[list[Line]] = [[] for _ in asked]
    begun = [began_s for _, began_s, _ in asked]
    for number, line in enumerate(lines):
        index = number if mode == "ptt" else bisect_right(begun, line.arrived_s) - 1
        if 0 <= index < len(own):
            own[index].append(line)
    answers = []
    for (turn, _, asked_s), those in zip(asked, own, strict=True):
        ttfs_s = those[-1].arrived_s - asked_s if those else math.inf
        compared = score(turn.sound.text, " ".join(line.text for line in those), turn.sound.language)
        answers.append(
            Answer(turn.sound.id, asked_s, ttfs_s if ttfs_s > 0 else math.inf, compared.errors, compared.length)
        )
    return answers


class Load:
    """Sends players to one server."""

    def __init__(self, server: Server, token: str | None, mode: Mode, sounds: Sequence[Sound], frame_ms: int) -> None:
        self._server = server
        self._token = token
        self._mode: Mode = mode
        self._sounds = sounds
        self._frame_s = frame_ms / 1000
        self._room = to_s16le(room_noise(ROOM_S, ROOM_DBFS, 0))

    async def visit(self, seconds: float, start_s: float, drawn: random.Random, heard: Heard) -> None:
        """One session: connect, speak from `start_s` on as planned, stay for what is still to come."""
        turns = plan(self._sounds, self._mode, seconds, drawn)
        asked: list[tuple[Turn, float, float]] = []
        lines: list[Line] = []
        try:
            async with playing(
                self._server.url,
                self._token,
                language=self._sounds[0].language,
                endpointing="off" if self._mode == "ptt" else "on",
                frame_s=self._frame_s,
                lag=heard.lag,
            ) as player:
                collector = asyncio.create_task(_collect(player, lines))
                try:
                    if self._mode == "ptt":
                        await self._push_to_talk(player, turns, start_s, asked)
                        await asyncio.sleep(start_s + seconds - clock())
                    else:
                        phase_s = drawn.uniform(0, self._frame_s)  # games do not send in step
                        await self._open_microphone(player, turns, start_s, phase_s, seconds, asked)
                    until_s = clock() + DRAIN_S
                    while clock() < until_s and any(map(math.isinf, self._waits(asked, lines))):
                        if self._mode == "ptt":
                            await asyncio.sleep(0.05)
                        else:
                            await self._room_until(player, clock() + 0.5, clock())
                    if collector.done():
                        await collector  # raises why
                finally:
                    collector.cancel()
                    with suppress(asyncio.CancelledError, ClientError):
                        await collector
        except ClientError as error:
            heard.turned_away.append(str(error))
        heard.answers += matched(self._mode, asked, lines)

    async def crowd_mib(self, first: int, more: int) -> float | None:
        """MiB that each of `more` sessions takes beside the `first`; None if the server cannot be seen."""
        async with AsyncExitStack() as crowd:
            used = []
            for count in (first, more):
                for number in range(count):
                    client = await crowd.enter_async_context(
                        PlainClient(f"{self._server.url}?endpointing=off", self._token)
                    )
                    for frame, _ in frames(self._sounds[number % len(self._sounds)].pcm, self._frame_s):
                        await client.send(frame)
                    await client.flush()
                    await anext(aiter(client))
                used.append(self._server.usage())
        before, after = used
        return round((after.rss_mib - before.rss_mib) / more, 3) if before and after else None

    async def _push_to_talk(
        self, player: Player, turns: Sequence[Turn], start_s: float, asked: list[tuple[Turn, float, float]]
    ) -> None:
        for turn in turns:
            await asyncio.sleep(start_s + turn.start_s - clock())
            await player.speak(turn.sound.pcm, start_s + turn.start_s)
            asked.append((turn, start_s + turn.start_s, clock()))
            await player.flush()

    async def _open_microphone(
        self,
        player: Player,
        turns: Sequence[Turn],
        start_s: float,
        phase_s: float,
        seconds: float,
        asked: list[tuple[Turn, float, float]],
    ) -> None:
        now_s = start_s + phase_s
        for turn in turns:
            now_s = await self._room_until(player, start_s + turn.start_s, now_s)
            asked.append((turn, now_s, now_s + turn.sound.speech_end_s))
            now_s = await player.speak(turn.sound.pcm, now_s)
        await self._room_until(player, start_s + seconds, now_s)

    async def _room_until(self, player: Player, until_s: float, now_s: float) -> float:
        """Send the room's noise from `now_s` on; return the second at which it ends."""
        while (samples := round((until_s - now_s) * SAMPLE_RATE)) > 0:
            now_s = await player.speak(self._room[: 2 * samples], now_s)
        return now_s

    def _waits(self, asked: Sequence[tuple[Turn, float, float]], lines: Sequence[Line]) -> list[float]:
        return [answer.ttfs_s for answer in matched(self._mode, asked, lines)]


async def _collect(player: Player, lines: list[Line]) -> None:
    while True:
        if line := await player.next_line(3600):
            lines.append(line)


def load_sounds(
    data: Path, language: str, kinds: Collection[str], mode: Mode, limit: int | None, drawn: random.Random
) -> list[Sound]:
    """Clips of 2 to 5 s, under an open microphone with the room's noise.

    Raises:
        SettingsError: there is none.
    """
    vad = SileroVad()
    clips = [clip for clip in read_manifest(data) if clip.language == language and clip.text]
    clips = [clip for clip in clips if clip.kind in kinds] or clips
    sounds = []
    for clip in drawn.sample(clips, len(clips)):
        samples = read_audio(clip.path)
        speech = find_speech(samples, vad)
        if speech and UTTERANCE_S[0] <= len(samples) / SAMPLE_RATE <= UTTERANCE_S[1]:
            if mode == "open":
                samples = samples + room_noise(ROOM_S, ROOM_DBFS, 1)[: len(samples)]
            sounds.append(Sound(clip.id, clip.language, clip.text, to_s16le(samples), speech[-1][1]))
        if len(sounds) == limit:
            break
    if not sounds:
        raise SettingsError(f"{data} holds no clip in {language} of {UTTERANCE_S[0]:.0f} to {UTTERANCE_S[1]:.0f} s.")
    return sounds


def run_load_bench(
    data: Path,
    out: Path,
    *,
    sessions: Sequence[int] = SESSIONS,
    mode: Mode = "ptt",
    seconds: float = 30.0,
    language: str = "ko",
    kinds: Collection[str] = ("human",),
    limit: int | None = None,
    url: str | None = None,
    token: str | None = None,
    server_pid: int | None = None,
    server_options: Sequence[str] = (),
    frame_ms: int = 100,
    crowd: tuple[int, int] = (FIRST_CROWD, CROWD),
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Add players until p95 TTFS passes a second; write `load_MODE.json`, `.png`, `.html`; return the exit code.

    Args:
        data: a folder with a `manifest.tsv`.
        out: the folder for the results; it is made.
        sessions: players of each step.
        seconds: how long each step lasts.
        kinds: of clips; all kinds if the folder has none of them.
        limit: so many clips at the most.
        url: of a running server, `server_pid` its process if it runs here; without it one is started, with
            `server_options` as its command line.
        frame_ms: audio in a message.
        crowd: sessions that speak before, and those whose memory is measured.
        seed: of what is said and when.

    Raises:
        SettingsError: there is nothing to say.
        SttError: the server does not start.
    """
    console = console or Console()
    figure, axes = new_figure(2)
    drawn = random.Random(seed)
    sounds = load_sounds(data, language, kinds, mode, limit, drawn)
    settings = load_settings(data, mode, language, sounds, url, server_options, frame_ms, seed)
    result = header(settings | {"sessions": list(sessions), "seconds": seconds, "limit_s": LIMIT_S})
    steps: list[dict[str, Any]] = []
    with (
        server_under_test(url, server_pid, ["--language", language, *server_options]) as server,
        Progress(console=console) as progress,
    ):
        load = Load(server, token, mode, sounds, frame_ms)
        asyncio.run(_step(load, server, token, 1, EVERY_S if mode == "ptt" else 3 * EVERY_S, random.Random(seed)))
        idle = server.usage()
        mib_per_session = asyncio.run(load.crowd_mib(*crowd))
        task = progress.add_task("players", total=len(sessions))
        for count in sessions:
            steps.append(asyncio.run(_step(load, server, token, count, seconds, drawn)))
            progress.advance(task)
            if len(steps) >= 2 and not _is_held(steps[-1]) and not _is_held(steps[-2]):
                break
    held = [step["sessions"] for step in steps if _is_held(step)]
    result |= {
        "sessions_held": max(held, default=0),
        "limit_found": not _is_held(steps[-1]),  # or there were not enough steps to tell
        "idle_rss_mib": round(idle.rss_mib, 1) if idle else None,
        "mib_per_session": mib_per_session,
        "steps": steps,
    }
    _plot_load(axes, steps, mode)
    about = (__doc__ or "").partition("\n\n")[2]
    title = f"Players on one server, {'push-to-talk' if mode == 'ptt' else 'open microphones'}"
    write_report(out, f"load_{mode}", title, about, result, _load_sheets(result, title), figure, console)
    return 0


async def _step(
    load: Load, server: Server, token: str | None, count: int, seconds: float, drawn: random.Random
) -> dict[str, Any]:
    heard = Heard()
    start_s = clock() + min(3.0, 0.5 + count / 50)  # time to connect
    visits = [
        asyncio.create_task(load.visit(seconds, start_s, random.Random(drawn.random()), heard)) for _ in range(count)
    ]
    await asyncio.sleep(start_s - clock())
    before, own_before, since_s = server.usage(), time.process_time(), clock()
    profile_before = await asyncio.to_thread(server.profile, token)
    await asyncio.sleep(start_s + seconds - clock())
    after, own_after, took_s = server.usage(), time.process_time(), clock() - since_s
    profile = await asyncio.to_thread(server.profile, token)
    await asyncio.gather(*visits)
    return {
        "sessions": count,
        "cpu_cores": round((after.cpu_s - before.cpu_s) / took_s, 3) if before and after else None,
        "client_cpu_cores": round((own_after - own_before) / took_s, 3),
        "rss_mib": round(after.rss_mib, 1) if after else None,
        **(profile.since(profile_before, took_s) if profile and profile_before else {}),
        **summary(heard),
        "answers": answers_from(start_s, heard),
    }


def answers_from(start_s: float, heard: Heard) -> list[dict[str, Any]]:
    """Every answer, its time counted from `start_s`."""
    answers = sorted(heard.answers, key=lambda answer: answer.asked_s)
    return [
        asdict(answer) | {"asked_s": round(answer.asked_s - start_s, 2), "ttfs_s": round(answer.ttfs_s, 4)}
        for answer in answers
    ]


def summary(heard: Heard) -> dict[str, Any]:
    waits = [answer.ttfs_s for answer in heard.answers]
    errors = Score(sum(a.errors for a in heard.answers), sum(a.length for a in heard.answers))
    return {
        "utterances": len(waits),
        "unanswered": sum(map(math.isinf, waits)),
        "turned_away": len(heard.turned_away),
        "reasons": sorted(set(heard.turned_away)),
        "p50_s": percentile(waits, 50),
        "p95_s": percentile(waits, 95),
        "error_rate": round(errors.rate, 4),
        "client": heard.lag.as_dict(),
    }


def _is_held(step: dict[str, Any]) -> bool:
    """A step in which nobody happened to speak is."""
    return not step["turned_away"] and not step["p95_s"] > LIMIT_S


def load_settings(
    data: Path,
    mode: Mode,
    language: str,
    sounds: Sequence[Sound],
    url: str | None,
    server_options: Sequence[str],
    frame_ms: int,
    seed: int,
) -> dict[str, Any]:
    return {
        "data": data.name,
        "mode": mode,
        "language": language,
        "clips": len(sounds),
        "mean_utterance_s": round(float(np.mean([sound.duration_s for sound in sounds])), 2),
        "server": "running already" if url else ["python", "-m", "local_dev", *server_options],
        "frame_ms": frame_ms,
        "seed": seed,
    }


def _load_sheets(result: dict[str, Any], title: str) -> list[Sheet]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    rows = [
        [
            str(step["sessions"]),
            str(step["utterances"]),
            ms(step["p50_s"]),
            ms(step["p95_s"]),
            str(step["unanswered"] + step["turned_away"]),
            f"{100 * step['error_rate']:.0f} %",
            number(step["cpu_cores"], ".2f"),
            number(step["rss_mib"], ".0f"),
            f"{step['client_cpu_cores']:.2f}",
            ms(step["client"]["worst_ms"] / 1000),
        ]
        for step in result["steps"]
    ]
    more = "" if result["limit_found"] else " or more"
    per_session = result["mib_per_session"]
    memory = "" if per_session is None else f", {per_session:.2f} MiB per session"
    # Lost: unanswered or turned away. CPU in cores, the client's beside the server's. Late: the client's worst frame.
    columns = ["sessions", "n", "p50", "p95", "lost", "CER", "CPU", "MiB", "client", "late"]
    held = f"{title}: {result['sessions_held']}{more} held at p95 ≤ {LIMIT_S:.0f} s{memory}"
    sheets = [Sheet(held, columns, rows)]
    profiled = [step for step in result["steps"] if "cores" in step]
    if profiled:
        players = [str(step["sessions"]) for step in profiled]
        cores = [[work, *(f"{step['cores'][work]:.2f}" for step in profiled)] for work in profiled[0]["cores"]]
        asked = [[kind, *(str(step["requests"][kind]) for step in profiled)] for kind in profiled[0]["requests"]]
        sheets.append(Sheet("Where the server's processor time went, in cores", ["sessions", *players], cores))
        sheets.append(Sheet("How often the model was asked, by priority", ["sessions", *players], asked))
    return sheets


def _plot_load(axes: Sequence[Any], steps: Sequence[dict[str, Any]], mode: Mode) -> None:
    """Left: waits against sessions. Right: CPU and memory against sessions."""
    count = [step["sessions"] for step in steps]
    kind = "flush" if mode == "ptt" else "endpoint"
    for name, colour in (("p50", "tab:blue"), ("p95", "tab:orange")):
        waits = [step[f"{name}_s"] if math.isfinite(step[f"{name}_s"]) else math.nan for step in steps]
        axes[0].plot(count, waits, "o-", color=colour, label=name)
    axes[0].axhline(LIMIT_S, color="tab:red", lw=1, ls="--")
    axes[0].set(xlabel="sessions", ylabel=f"{kind} TTFS, s", xlim=(0, None), ylim=(0, None))
    axes[0].legend()
    nothing = math.nan
    axes[1].plot(count, [step["cpu_cores"] or nothing for step in steps], "o-", label="server CPU, cores")
    axes[1].plot(count, [step["client_cpu_cores"] for step in steps], "o:", label="client CPU, cores")
    axes[1].set(xlabel="sessions", ylabel="cores", xlim=(0, None), ylim=(0, None))
    memory = axes[1].twinx()
    memory.plot(count, [step["rss_mib"] or nothing for step in steps], "s-", color="tab:green", label="memory, MiB")
    memory.set(ylabel="resident memory, MiB", ylim=(0, None))
    lines = [*axes[1].get_lines(), *memory.get_lines()]
    axes[1].legend(lines, [line.get_label() for line in lines], loc="lower right")

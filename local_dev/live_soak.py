"""`bench soak`: whether a server stays as it is under a load that lasts.

One number of players as in `live_load` is kept up. Each reconnects every minute, so that what a connection leaves
behind adds up. Resident memory is sampled, and its slope after the warm-up fitted by least squares. TTFS of the first
half and of the second tell whether it grows slower.
"""

import asyncio
import math
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from local_dev.live_client import clock
from local_dev.live_load import Heard, Load, Mode, answers_from, load_settings, load_sounds, summary
from local_dev.live_report import Sheet, header, ms, new_figure, percentile, slope, write_report
from local_dev.live_server import Server, server_under_test
from stt_core.errors import SettingsError, SttError

VISIT_S = 60.0  # a session lasts so long
RETRY_S = 1.0  # and then the next one begins
SAMPLE_S = 5.0  # between two looks at the memory


def run_soak_bench(
    data: Path,
    out: Path,
    *,
    minutes: float = 20.0,
    sessions: int = 20,
    mode: Mode = "ptt",
    warm_up_minutes: float | None = None,
    language: str = "ko",
    kinds: Collection[str] = ("human",),
    limit: int | None = None,
    url: str | None = None,
    token: str | None = None,
    server_pid: int | None = None,
    server_options: Sequence[str] = (),
    frame_ms: int = 100,
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Keep the load up and watch the memory; write `soak.json`, `.png`, `.html`; return the exit code.

    Args:
        warm_up_minutes: left out of the slope; a fifth of the time if None.
        others: as in `run_load_bench`.

    Raises:
        SettingsError: there is nothing to say, or the server's process cannot be seen.
        SttError: the server does not start.
    """
    console = console or Console()
    if url and server_pid is None:
        raise SettingsError("A soak watches the server's memory, so it needs the process of a running server.")
    figure, axes = new_figure(2)
    drawn = random.Random(seed)
    sounds = load_sounds(data, language, kinds, mode, limit, drawn)
    settings = load_settings(data, mode, language, sounds, url, server_options, frame_ms, seed)
    warm_up_s = 60 * (minutes / 5 if warm_up_minutes is None else warm_up_minutes)
    result = header(settings | {"sessions": sessions, "minutes": minutes, "warm_up_s": warm_up_s})
    heard = Heard()
    with (
        server_under_test(url, server_pid, ["--language", language, *server_options]) as server,
        Progress(console=console) as progress,
    ):
        load = Load(server, token, mode, sounds, frame_ms)
        task = progress.add_task("soak", total=60 * minutes)
        watched = asyncio.run(
            _soak(load, server, sessions, 60 * minutes, drawn, heard, lambda s: progress.update(task, completed=s))
        )
    started_s, samples = watched
    steady = [(second, mib) for second, mib in samples if second >= warm_up_s]
    half_s = started_s + 30 * minutes
    halves = [
        [answer.ttfs_s for answer in heard.answers if (answer.asked_s >= half_s) == later] for later in (False, True)
    ]
    result |= {
        "mib_per_hour": 3600 * slope([second for second, _ in steady], [mib for _, mib in steady]),
        "rss_mib": {"first": steady[0][1], "last": steady[-1][1], "most": max(m for _, m in samples)} if steady else {},
        "p95_s_by_half": [percentile(half, 95) for half in halves],
        **summary(heard),
        "samples": samples,
        "answers": answers_from(started_s, heard),
    }
    _plot_soak(axes, result, warm_up_s)
    about = (__doc__ or "").partition("\n\n")[2]
    write_report(out, "soak", "Soak", about, result, [_soak_sheet(result)], figure, console)
    return 0


async def _soak(
    load: Load,
    server: Server,
    sessions: int,
    seconds: float,
    drawn: random.Random,
    heard: Heard,
    on_second: Callable[[float], None],
) -> tuple[float, list[tuple[float, float]]]:
    """When it began by `clock`, and (second, resident MiB) ever since."""
    started_s = clock()

    async def stay(own: random.Random) -> None:
        leave_s = started_s + own.uniform(0.5, 1) * VISIT_S  # not all at once
        while (now_s := clock()) < started_s + seconds - 1:
            await load.visit(min(leave_s, started_s + seconds) - now_s, now_s + 0.5, own, heard)
            leave_s = clock() + VISIT_S
            await asyncio.sleep(RETRY_S)

    players = [asyncio.create_task(stay(random.Random(drawn.random()))) for _ in range(sessions)]
    samples = []
    sample_s = min(SAMPLE_S, seconds / 20)
    while (passed_s := clock() - started_s) < seconds:
        usage = server.usage()
        if usage is None:
            raise SttError(f"The server's process ended after {passed_s:.0f} s.")
        samples.append((round(passed_s, 2), round(usage.rss_mib, 2)))
        on_second(passed_s)
        await asyncio.sleep(sample_s)
    await asyncio.gather(*players)
    return started_s, samples


def _soak_sheet(result: dict[str, Any]) -> Sheet:
    rss = result["rss_mib"]
    rows = [
        ["memory slope after warm-up", f"{result['mib_per_hour']:+.1f} MiB/hour"],
        ["resident memory, first / last / most", " / ".join(f"{value:.0f} MiB" for value in rss.values())],
        ["utterances / unanswered", f"{result['utterances']} / {result['unanswered']}"],
        ["turned away", str(result["turned_away"])],
        ["TTFS p50 / p95", f"{ms(result['p50_s'])} / {ms(result['p95_s'])}"],
        ["p95 of the first half / the second", " / ".join(map(ms, result["p95_s_by_half"]))],
        ["CER/WER", f"{100 * result['error_rate']:.1f} %"],
        ["client: worst lateness of a frame", f"{result['client']['worst_ms']:.0f} ms"],
    ]
    return Sheet(
        f"Soak: {result['settings']['sessions']} sessions, {result['settings']['minutes']} minutes", ["", ""], rows
    )


def _plot_soak(axes: Sequence[Any], result: dict[str, Any], warm_up_s: float) -> None:
    """Left: memory over time, with its fit. Right: waits over time."""
    seconds, memory = zip(*result["samples"], strict=True)
    axes[0].plot([second / 60 for second in seconds], memory, label="resident")
    steady = [(second, mib) for second, mib in result["samples"] if second >= warm_up_s]
    if steady and math.isfinite(result["mib_per_hour"]):
        middle_s, level = (float(np.mean(values)) for values in zip(*steady, strict=True))
        ends_s = (steady[0][0], steady[-1][0])
        fit = [level + result["mib_per_hour"] / 3600 * (second - middle_s) for second in ends_s]
        axes[0].plot([second / 60 for second in ends_s], fit, "--", label=f"{result['mib_per_hour']:+.1f} MiB/hour")
    axes[0].set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, None))
    axes[0].legend()
    answered = [answer for answer in result["answers"] if math.isfinite(answer["ttfs_s"])]
    axes[1].plot([a["asked_s"] / 60 for a in answered], [a["ttfs_s"] for a in answered], ".", ms=3)
    axes[1].set(xlabel="minutes", ylabel="TTFS, s", ylim=(0, None))

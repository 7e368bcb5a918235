"""`plan`: containers, waits and cost for so many players on Modal, before a single one is paid for.

The method is that of `local_dev.fleet`: one container event by event, to find how many sessions it holds with a p95
TTFS of a second, then a day of the fleet of such containers under Modal's autoscaler, for both ways in which sockets
may be routed. What an utterance costs comes from a benchmark's file (`calibrate`). Without one it is a roofline
estimate: decoding a token reads the decoder's weights once, so it takes their bytes over the GPU's memory bandwidth,
and a latency for each layer. Every number is labelled in the last table:

- measured: by the benchmark, on the machine that its file names;
- fitted: chosen so that the model repeats something that was measured;
- assumed: nobody measured it; a plan that depends on it should be made again with a measurement;
- price: from the table below; published: a limit in Modal's guides; set: an option here or a setting in `modal_app`.

TTFS is that of push-to-talk, without the network. An open microphone waits for its endpoint silence too, and its
decoding runs meanwhile; it also sends all the time, so that a container's sockets end before its GPU does.

`--check` holds the model against `bench load`: work is what the server's processor spent on an utterance, the head
start makes p50 right where there is least load, and p95 of every step is predicted with the interval that 95 % of 200
simulated steps fall into, since so few utterances say little about a p95. Only a quiet machine can pass: whatever else
runs there takes time from the server that its own processor time does not show.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from local_dev.fleet import STEP_S, Autoscaler, Cost, Crowd, Day, Routing, Talk, simulate_day, waits
from local_dev.live_load import EVERY_S, LIMIT_S, UTTERANCE_S
from local_dev.live_report import Sheet, header, ms, new_figure, percentile, slope, write_report
from stt_core.errors import SettingsError

PRICED = "2026-09, Modal's public pricing page"  # USD for each second; no region, no plan fee, no free credits
CORE, CORES = 0.0000131, 2.0  # as in modal_app
GIB, MEMORY_GIB = 0.00000222, 4.0
GPUS = {  # price; memory bandwidth in GB/s, from NVIDIA's data sheets
    "cpu": (0.0, 0.0),
    "T4": (0.000164, 320.0),
    "L4": (0.000222, 300.0),
    "A10": (0.000306, 600.0),
    "L40S": (0.000542, 864.0),
    "A100-40GB": (0.000583, 1555.0),
    "A100-80GB": (0.000694, 1935.0),
    "H100": (0.001097, 3350.0),
    "H200": (0.001261, 4800.0),
    "B200": (0.001736, 8000.0),
}
MODELS = {  # millions of weights in the encoder and the decoder, 2 bytes each; layers of the decoder
    "tiny": (8, 30, 4),
    "base": (21, 52, 6),
    "small": (88, 153, 12),
    "medium": (307, 457, 24),
    "large-v3": (637, 906, 32),
    "large-v3-turbo": (637, 172, 4),
}
OVERHEAD_S, LAYER_S = 0.03, 0.0003  # of an utterance (mel, copies); of a decoder layer and token (kernel launches)
TOKENS, TOKENS_PER_S = 4, 6  # of an utterance, and for each second of Korean
BASE_SHARE = 0.4  # of an utterance's work that does not grow with it
GPU_MARGINAL, GPU_BATCH, CPU_BATCH = 0.25, 16, 4
SPREAD = 0.5
BOOT_S = 20.0
EDGE_S = 0.004  # of the event loop's core for each message, through Modal's runtime
MESSAGES_PER_S, EDGE_LOAD = 10, 0.7  # 100 ms of audio each; a busier loop delays everybody
MOST_INPUTS = 992  # Modal allows 1000 on a container; a few for health checks
BUCKET, REFILL_PER_S = 1000, 200  # of Modal's gateway: new sockets of a workspace
SIZES = (10, 100, 1000, 10_000, 100_000, 1_000_000)
LIMITS: tuple[tuple[str, Literal["containers", "sockets", "per_s"], float, str], ...] = (
    ("GPUs of a Starter workspace", "containers", 10, "published"),
    ("GPUs of a Team workspace", "containers", 50, "published"),
    ("containers of a Team workspace", "containers", 1000, "published"),
    ("free GPUs of one type", "containers", 200, "assumed"),
    ("everybody connects anew within a minute of a drop", "sockets", BUCKET + 60 * REFILL_PER_S, "burst: assumed"),
    ("sockets of one Function, 25,000 inputs", "sockets", 25_000, "published"),
    ("new sockets a second, token bucket", "per_s", REFILL_PER_S, "published"),
)

FLEET = ("routing", "peak", "mean", "cold starts", "USD/h", "per 1000 h", "audio h")
RUN_S = 600  # of a simulated container
Fact = tuple[str, str, str]  # name, value, where it is from


@dataclass(frozen=True, slots=True)
class Checked:
    """A step of `bench load` and what the model says of it; p95 TTFS in s."""

    sessions: int
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float

    @property
    def fits(self) -> bool:
        return self.low_s <= self.measured_s <= self.high_s


def read_result(path: Path) -> dict[str, Any]:
    """What a benchmark wrote.

    Raises:
        SettingsError: it is not there, or is something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as a benchmark's JSON: {error}.") from None
    if not isinstance(result, dict) or not {"settings", "machine"} <= set(result):
        raise SettingsError(f"{path} is not a benchmark's JSON; take load_ptt.json or engine.json of bench_results.")
    return result


def estimate(gpu: str, model: str) -> Cost:
    """The roofline: what an utterance would cost if only memory and launches counted. Assumed, every number."""
    encoder, decoder, layers = MODELS[model]
    bytes_per_s = GPUS[gpu][1] * 1e9
    token_s = decoder * 2e6 / bytes_per_s + layers * LAYER_S
    base_s = OVERHEAD_S + encoder * 2e6 / bytes_per_s + TOKENS * token_s
    return Cost(base_s, TOKENS_PER_S * token_s, GPU_MARGINAL, SPREAD, 1, GPU_BATCH)


def calibrate(result: dict[str, Any]) -> tuple[Cost, list[Fact]]:
    """What an utterance costs on the machine of a `load_ptt.json` or `engine.json`, and where each number is from.

    Either may also hold `batches`, a list of `size` and `seconds` of equal utterances decoded together, 1 first, and
    `gpu` in its `machine`, by Modal's name.

    Raises:
        SettingsError: it says nothing of it.
    """
    try:
        return _calibrate(result, result["machine"], result["settings"])
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise SettingsError(f"The calibration lacks something that the benchmarks write: {error!r}.") from None


def _calibrate(
    result: Mapping[str, Any], machine: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[Cost, list[Fact]]:
    gpu = machine.get("gpu")
    measured = f"measured on {gpu or machine['processor']}"
    cost = Cost(0, 0, GPU_MARGINAL, SPREAD, 1, GPU_BATCH) if gpu else Cost(0, 0, 1.0, SPREAD, 1, CPU_BATCH)
    sources = ["", "assumed", "assumed", "set", "assumed"]
    steps = [step for step in result.get("steps", ()) if step["utterances"] and step["cpu_cores"]]
    if files := result.get("files"):
        audio_s = np.array([row["audio_s"] for row in files])
        work_s = np.array([row["ours"]["seconds"] for row in files])
        per_audio_s = max(0.0, slope(audio_s.tolist(), work_s.tolist())) if len(set(audio_s)) > 1 else 0.0
        base_s = max(0.0, float(work_s.mean() - per_audio_s * audio_s.mean()))
        spread = float((work_s - base_s - per_audio_s * audio_s).std() / work_s.mean())
        cost = replace(cost, base_s=base_s, per_audio_s=per_audio_s, spread=spread)
        sources[:2] = f"{measured}, least squares over {len(files)} clips", f"{measured}, what that leaves"
    elif steps and settings.get("mode") == "ptt" and not gpu:
        cpu_s = sum(step["cpu_cores"] for step in steps) * settings["seconds"]
        work = cpu_s / sum(step["utterances"] for step in steps)
        cost = replace(
            cost,
            base_s=BASE_SHARE * work,
            per_audio_s=(1 - BASE_SHARE) * work / settings["mean_utterance_s"],
            workers=int(_option(settings, "--workers") or machine["cores"]),
            head_start_s=max(0.0, work - (steps[0]["p50_s"] or math.inf)),
        )
        sources[0], sources[4] = f"{measured}, processor time; its split: assumed", "fitted to p50 of the smallest step"
    else:
        raise SettingsError(
            "Calibrate by an engine.json, or by a load_ptt.json with utterances whose server ran here on a CPU."
        )
    if batches := result.get("batches"):
        more = np.array([row["size"] - 1 for row in batches])
        gain = np.array([row["seconds"] / batches[0]["seconds"] - 1 for row in batches])
        cost = replace(cost, marginal=float(more @ gain / (more @ more)))
        sources[2] = measured
    return cost, _facts(cost, sources)


def _option(settings: Mapping[str, Any], name: str) -> str | None:
    """An option of the server that was measured."""
    words = settings["server"] if isinstance(settings.get("server"), list) else []
    return words[words.index(name) + 1] if name in words[:-1] else None


def _facts(cost: Cost, sources: Sequence[str]) -> list[Fact]:
    numbers = (
        ("work of an utterance", f"{cost.base_s:.3f} s + {cost.per_audio_s:.4f} s for each second"),
        ("its coefficient of variation", f"{cost.spread:.2f}"),
        ("each further one in a batch", f"{cost.marginal:.2f} of its work"),
        ("workers, largest batch", f"{cost.workers}, {cost.max_batch_size}"),
        ("head start before the key's release", ms(cost.head_start_s)),
    )
    return [(name, value, source) for (name, value), source in zip(numbers, sources, strict=True)]


def cost_on(gpu: str, model: str | None, result: dict[str, Any] | None) -> tuple[Cost, str, list[Fact]]:
    """The cost on a GPU, measured there, carried over from another or estimated; the model; where each number is from.

    Raises:
        SettingsError: nothing is known of it.
    """
    if gpu not in GPUS:
        raise SettingsError(f"The GPU should be one of {', '.join(GPUS)}, not {gpu}.")
    if result is None:
        model = model or "large-v3-turbo"
        if gpu == "cpu" or model not in MODELS:
            raise SettingsError(f"Nothing is known of {model} on {gpu}: measure it and give the file (--calibration).")
        cost = estimate(gpu, model)
        roofline = f"assumed: roofline of {model} at {GPUS[gpu][1]:.0f} GB/s"
        return cost, model, _facts(cost, [roofline, "assumed", "assumed", "set", "assumed: none"])
    cost, facts = calibrate(result)
    settings = result["settings"]
    has = str(settings.get("model") or _option(settings, "--model") or "base"), result["machine"].get("gpu") or "cpu"
    wanted = model or has[0], gpu
    if has == wanted:
        return cost, wanted[0], facts
    if "cpu" in (has[1], gpu) or not {has[1]} <= set(GPUS) or not {has[0], wanted[0]} <= set(MODELS):
        raise SettingsError(f"{has[0]} was measured on {has[1]}, which says nothing of {wanted[0]} on {gpu}.")
    ratio = estimate(gpu, wanted[0]).of(3.5) / estimate(has[1], has[0]).of(3.5)
    carried = replace(cost, base_s=cost.base_s * ratio, per_audio_s=cost.per_audio_s * ratio)
    told = f"work of {wanted[0]} on {gpu}", f"{ratio:.2f} times that", "assumed: ratio of the roofline estimates"
    return carried, wanted[0], [*facts, told]


def held(cost: Cost, talk: Talk, most: int, seed: int) -> int:
    """The most sessions that one container holds with a p95 TTFS within the limit, up to `most`."""

    def is_held(sessions: int) -> bool:
        return percentile(waits(cost, talk, sessions, RUN_S, seed), 95) <= LIMIT_S

    low, high = 0, most + 1  # held, not held
    while high - low > 1:
        middle = most if high > most else (low + high) // 2
        low, high = (middle, high) if is_held(middle) else (low, middle)
    return low


def validate(result: dict[str, Any], seed: int = 0, runs: int = 200) -> list[Checked]:
    """Every step of a `load_ptt.json` against the model that it calibrates."""
    cost, _ = calibrate(result)
    mean_s = result["settings"]["mean_utterance_s"]
    half_s = min(mean_s - UTTERANCE_S[0], UTTERANCE_S[1] - mean_s)  # all that the file tells of lengths is their mean
    talk = Talk(mean_s / EVERY_S, (mean_s - half_s, mean_s + half_s), periodic=True)
    checks = []
    for step in result["steps"]:
        drawn = [
            percentile(waits(cost, talk, step["sessions"], result["settings"]["seconds"], seed + run), 95)
            for run in range(runs)
        ]
        finite = [value for value in drawn if math.isfinite(value)]  # in a step of one session nobody may speak
        if finite and step["utterances"]:
            low_s, predicted_s, high_s = np.percentile(finite, [2.5, 50, 97.5])
            measured_s = math.inf if step["p95_s"] is None else step["p95_s"]
            checks.append(Checked(step["sessions"], measured_s, float(predicted_s), float(low_s), float(high_s)))
    return checks


def run_check(path: Path, seed: int = 0, console: Console | None = None) -> int:
    """Print predicted and measured p95 of each step; return 0 if all lie within their intervals.

    Raises:
        SettingsError: the file is no `load_ptt.json`.
    """
    console = console or Console()
    result = read_result(path)
    if "steps" not in result:
        raise SettingsError(f"{path} has no steps of sessions: --check takes load_ptt.json.")
    checks = validate(result, seed)
    for check in checks:
        console.print(
            f"{check.sessions:5d} sessions: p95 {ms(check.measured_s)} measured, {ms(check.predicted_s)} predicted "
            f"({ms(check.low_s)} to {ms(check.high_s)}){'' if check.fits else ', NOT within'}",
            highlight=False,
            soft_wrap=True,
        )
    load, cores = result["machine"].get("load_before"), result["machine"].get("cores")
    if load and cores and load > cores / 2:
        others = f"Others were using the machine (load {load} on {cores} cores): what was measured is theirs too."
        console.print(others, highlight=False, soft_wrap=True)
    return 0 if checks and all(check.fits for check in checks) else 1


def run_plan(
    out: Path,
    *,
    players: int,
    talk_share: float,
    gpu: str = "L4",
    model: str | None = None,
    mode: Literal["ptt", "open"] = "ptt",
    calibration: Path | None = None,
    session_minutes: float = 30.0,
    min_containers: int = 0,
    max_containers: int | None = None,
    buffer_containers: int = 0,
    scaledown_s: float = 180.0,
    sizes: Sequence[int] = SIZES,
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Print the plan; write `plan.json`, `.png`, `.html` to `out`; return the exit code, 0.

    Args:
        players: online at the peak of the day, each with a socket.
        talk_share: of the time that a player talks, over 0 and below 1.
        model: by default the one that was measured, or `large-v3-turbo`.
        calibration: a benchmark's JSON file; see `calibrate`.
        sizes: players in the table of growth.

    Raises:
        SettingsError: a value is out of range, or nothing is known of the GPU and model.
    """
    if not (0 < talk_share < 1 and players >= 0 and session_minutes > 0):
        raise SettingsError("A talk share lies between 0 and 1, players are 0 or more, sessions over 0 minutes.")
    if min(min_containers, buffer_containers, scaledown_s) < 0:
        raise SettingsError("The least containers, the buffer and the scale-down window are 0 or more.")
    if max_containers is not None and min_containers > max_containers:
        raise SettingsError(f"At least {min_containers} and at most {max_containers} containers cannot be had.")
    cost, model, facts = cost_on(gpu, model, read_result(calibration) if calibration else None)
    talk = Talk(talk_share)
    edge = EDGE_LOAD / EDGE_S / MESSAGES_PER_S / (talk_share if mode == "ptt" else 1)
    most = max(1, min(MOST_INPUTS, round(edge)))
    sockets = held(cost, talk, most, seed)
    if not sockets:
        raise SettingsError(f"{model} on {gpu} does not answer even one player within {LIMIT_S:.0f} s (p95).")
    figure, axes = new_figure(3)
    scaler = Autoscaler(
        max(1, sockets * 3 // 4), sockets, min_containers, max_containers, buffer_containers, scaledown_s, BOOT_S
    )
    usd_per_s = GPUS[gpu][0] + CORES * CORE + MEMORY_GIB * GIB
    crowd = Crowd(players, session_minutes * 60)
    routings: tuple[Routing, ...] = ("packed", "spread")
    days = {routing: simulate_day(crowd, scaler, routing, seed) for routing in routings}
    free = replace(scaler, max_containers=None)
    growth = {(n, r): simulate_day(replace(crowd, players=n), free, r, seed) for n in sizes for r in routings}
    breaks = sorted(
        (limit * {"containers": scaler.target, "sockets": 1.0, "per_s": crowd.session_s}[unit], name, source)
        for name, unit, limit, source in LIMITS
        if gpu != "cpu" or "GPU" not in name
    )
    low_s, high_s = talk.utterance_s
    edge_cost = f"{1000 * EDGE_S:.0f} ms of its core for each {1000 / MESSAGES_PER_S:.0f} ms of audio sent"
    container = f"{PRICED}; {gpu}, {CORES:.0f} cores, {MEMORY_GIB:.0f} GiB"
    facts += [
        ("sockets that the event loop carries", f"{edge:.0f}", f"assumed: {edge_cost}"),
        ("an hour of a container", f"${3600 * usd_per_s:.3f}", f"price: {container}"),
        ("its boot", f"{BOOT_S:.0f} s", "assumed"),
        ("a session", f"{session_minutes:.0f} min", "set; exponential: assumed"),
        ("the day's trough and peak", f"{crowd.trough:.0%}, {crowd.peak_hour:.0f}:00", "assumed"),
        (
            "an utterance",
            f"{low_s:.0f} to {high_s:.0f} s, {talk_share:.0%} of the time",
            "set; lengths: assumed",
        ),
    ]
    title = f"{players:,} players at the peak, {model} on {gpu}"
    levels = sorted({max(1, round(sockets * part)) for part in (0.1, 0.25, 0.5, 0.75, 1, 1.25)})
    curve = {n: waits(cost, talk, n, RUN_S, seed) for n in levels}
    turned = max(day.turned_away for day in days.values())
    full = f"; THE FLEET IS FULL, {turned:,.0f} sockets turned away" if turned else ""
    holds = f"a container holds {sockets} (STT_MAX_SESSIONS), p95 TTFS {ms(percentile(curve[sockets], 95))}{full}"
    rows = [_fleet_row(name, day, usd_per_s, talk_share) for name, day in days.items()]
    grown = [[f"{size:,}", *_fleet_row(name, day, usd_per_s, talk_share)] for (size, name), day in growth.items()]
    sheets = [
        Sheet(f"{title}: {holds}", FLEET, rows),
        Sheet("Growth", ["players", *FLEET], grown),
        Sheet("What breaks first", ["limit", "at players", "from"], [[n, f"{at:,.0f}", by] for at, n, by in breaks]),
        Sheet("The numbers behind it", ["number", "value", "from"], facts),
    ]
    asked = {"players": players, "talk_share": talk_share, "gpu": gpu, "model": model, "mode": mode, "seed": seed}
    result = header(asked | {"calibration": str(calibration)}) | {
        "sessions_per_container": sockets,
        "turned_away": turned,
        "ttfs": {str(n): {"p50_s": percentile(w, 50), "p95_s": percentile(w, 95)} for n, w in curve.items()},
        "tables": {sheet.title: [dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows] for sheet in sheets},
    }
    _plot(axes, days, curve, growth, usd_per_s)
    write_report(out, "plan", title, (__doc__ or "").partition("\n\n")[2], result, sheets, figure, console or Console())
    return 0


def _fleet_row(routing: str, day: Day, usd_per_s: float, talk_share: float) -> list[str]:
    """A day in numbers, in the order of FLEET."""
    usd, hours = day.container_s * usd_per_s, day.player_s / 3600
    each = [f"{1000 * usd / hours:.2f}", f"{usd / hours / talk_share:.3f}"] if hours else ["", ""]
    peak, mean = day.containers.max(), day.containers.mean()
    return [routing, f"{peak:,.0f}", f"{mean:,.1f}", f"{day.cold:,.0f}", f"{usd / 24:,.2f}", *each]


def _plot(
    axes: Sequence[Any],
    days: Mapping[Routing, Day],
    curve: Mapping[int, Sequence[float]],
    growth: Mapping[tuple[int, Routing], Day],
    usd_per_s: float,
) -> None:
    """Containers over the day; TTFS against sessions on a container; cost against players."""
    for routing, day in days.items():
        axes[0].plot(np.arange(len(day.containers)) * STEP_S / 3600, day.containers, label=routing)
        points = [(size, own.container_s * usd_per_s / 24) for (size, name), own in growth.items() if name == routing]
        axes[2].loglog(*zip(*points, strict=True), "o-", label=routing)
    for percent in (50, 95):
        axes[1].plot(list(curve), [percentile(w, percent) for w in curve.values()], "o-", label=f"p{percent}")
    axes[1].axhline(LIMIT_S, color="tab:red", lw=1, ls="--")
    axes[0].set(xlabel="hour of the day", ylabel="containers", xlim=(0, 24), ylim=(0, None))
    axes[1].set(xlabel="sessions on a container", ylabel="flush TTFS, s", ylim=(0, None))
    axes[2].set(xlabel="players at the peak", ylabel="USD an hour")
    for axis in axes:
        axis.legend()

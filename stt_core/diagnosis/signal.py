"""What is wrong with samples that were read rightly: levels, clipping, breaks, gates, cut edges.

Breaks. Where a piece of audio is missing, the waveform jumps, and a jump cannot be predicted: the residual of linear
prediction (autocorrelation method, J. Makhoul, 1975) has a spike there. Speech has spikes of its own at every glottal
pulse, but a pulse surprises only who comes from the left, and a jump also who comes from the right, with time reversed:
what counts is the geometric mean of both. And speech does not know the packets that the client sends. So the spikes
are folded by each usual packet length and compared, at packet borders and elsewhere.

Gates. A gate that leaves pauses out jumps only where it is quiet, and where it closes late it hardly jumps at all: what
is left on both sides is background. But no pause is left that is longer than its hold, neither between the words nor
around them, while a message that lacks nothing has one at either end. It opens by speech, so the first moment is loud.
A gate that sends zeros in place of pauses opens with speech right behind them.

Cut edges. Before speech there is background, however short. Where the first 10 ms stand above it, and loud speech
follows within EDGE_S, something is missing. A cut within a pause leaves no trace.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stt_core.diagnosis.findings import Code, Finding

Floats = NDArray[np.float64]

LSB = 1 / 32768
SILENT_PEAK = 2.5 * LSB
PREDICTION_ORDER = 16
SPIKE_CAP = 12.0  # times the residual's median around it: a click must not outvote everything else
LIVELY, FULL_OF_SPIKES = 0.5, 1.5  # standard deviations of the spikes: a beep has less, music with a beat has more
GATE_BLOCK_S = 0.042  # the longest piece by which a gate decides
FAINT_DBFS = -60.0  # softer syllables are lost between the steps of 16 bits
EDGE_S = 0.1  # of an edge, in which there is no loud speech unless it was cut
HOLD_S = 0.12  # a gate may stay open for so long after a word; whoever speaks pauses longer, at least at the edges
PAUSE_DB = 16.0  # below the loudest: softer is a pause, and louder is speech
OPENS_DB = 20.0  # below the loudest syllables, at which a gate may open
PACKETS_MS = (10, 16, 20, 30, 32, 40, 60, 64, 100, 128)
PACKETS_SAMPLES = (160, 256, 480, 512, 960, 1024, 2048, 4096)


def dbfs(value: float) -> float:
    """RMS or peak as dBFS, at least -120."""
    return float(20 * np.log10(max(value, 1e-6)))


@dataclass(frozen=True)
class Signal:
    """One channel, (n,) with full scale 1, and what is computed from it once."""

    samples: Floats
    sample_rate: int  # Hz

    @cached_property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    @cached_property
    def offset(self) -> float:
        return float(np.median(self.samples)) if len(self.samples) else 0.0

    @cached_property
    def centred(self) -> Floats:
        return np.asarray(self.samples - self.samples.mean())

    @cached_property
    def frame(self) -> int:
        """Samples of 10 ms."""
        return max(1, self.sample_rate // 100)

    def by_frame(self, values: Floats) -> Floats:
        count = len(values) // self.frame
        return values[: count * self.frame].reshape(count, self.frame)

    @cached_property
    def levels(self) -> Floats:
        """dBFS of each 10 ms, (n / frame,)."""
        return np.asarray(10 * np.log10(np.square(self.by_frame(self.centred)).mean(axis=1) + 1e-12))

    @cached_property
    def loud(self) -> float:
        """dBFS of the loudest syllables."""
        return float(np.percentile(self.levels, 95))

    @cached_property
    def still(self) -> NDArray[np.bool_]:
        """Which 10 ms hold one constant value."""
        frames = self.by_frame(self.samples)
        return np.asarray(np.ptp(frames, axis=1) == 0)

    @cached_property
    def spikes(self) -> Floats:
        """How surprising the step to each sample is, predicted from both sides, (n,)."""
        body = self.centred[: len(self.centred) // (2 * self.frame) * 2 * self.frame]
        forward, backward = self._surprise(body), self._surprise(body[::-1])[::-1]
        return np.asarray(np.sqrt(forward * np.r_[np.zeros(1), backward[:-1]][: len(body)]))

    def _surprise(self, samples: Floats) -> Floats:
        """How much larger the prediction residual is than its median around it, capped, (n,)."""
        residual = self.by_frame(np.abs(_residual(samples, self.frame * 2)))
        around = np.median(residual, axis=1, keepdims=True) + 2 * LSB
        return np.minimum(residual / around, SPIKE_CAP).ravel()

    @cached_property
    def quiet(self) -> NDArray[np.bool_]:
        """Which samples lie in the quieter half of the 10 ms, as do those before them, (n,) as the spikes."""
        levels = self.levels[: len(self.spikes) // self.frame]
        louder = np.maximum(levels, np.r_[levels[:1], levels[:-1]])
        return np.repeat(louder <= np.median(louder), self.frame)


def _residual(samples: Floats, frame: int) -> Floats:
    """What linear prediction leaves of each sample; (n,) cut to whole frames."""
    count = len(samples) // frame
    if count < 1:
        return np.zeros(0)
    body = samples[: count * frame]
    padded = np.concatenate([np.zeros(frame // 2), body, np.zeros(frame - frame // 2)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * frame)[::frame][:count] * np.hanning(2 * frame)
    size = 2 * frame + -2 * frame % 128 + 128  # circular, but not in the lags that are used
    power = np.square(np.abs(np.fft.rfft(windows, size)))
    correlation = np.fft.irfft(power)[:, : PREDICTION_ORDER + 1]
    correlation[:, 0] = correlation[:, 0] * 1.0001 + 1e-9
    filters = np.zeros((count, PREDICTION_ORDER + 1))
    filters[:, 0] = 1
    error = correlation[:, 0].copy()
    for order in range(1, PREDICTION_ORDER + 1):  # Levinson and Durbin, all frames at once
        reflection = -(filters[:, :order] * correlation[:, order:0:-1]).sum(axis=1) / error
        filters[:, 1 : order + 1] += reflection[:, None] * filters[:, order - 1 :: -1][:, :order]
        error *= 1 - np.square(reflection)
    delayed = np.concatenate([np.zeros(PREDICTION_ORDER), body])
    residual = np.zeros((count, frame))
    for lag in range(PREDICTION_ORDER + 1):
        start = PREDICTION_ORDER - lag
        residual += filters[:, lag, None] * delayed[start : start + len(body)].reshape(count, frame)
    return residual.ravel()


def examine(signal: Signal, *, whole: bool, arriving: float | None = None, paused: bool = False) -> Iterator[Finding]:
    """Everything that is wrong with one channel.

    Args:
        signal: at least 0.2 s, or nothing is found.
        whole: the client chose where it begins and ends.
        arriving: how much of real time arrives, 1 if all of it; None if that is not known.
        paused: whether the stream stopped now and then.
    """
    if signal.seconds < 0.2:
        return
    silence = find_silence(signal)
    if silence:
        yield silence
        return
    distorted = find_clipping(signal) or find_wrap(signal)
    for found in (find_offset(signal), distorted, find_quiet(signal)):
        if found:
            yield found
    gap = find_gaps(signal)
    if not gap and not distorted:
        gap = find_gate(signal, arriving, whole=whole, paused=paused) or find_drops(signal, arriving)
    if gap:
        yield gap
    if whole:
        yield from find_cut(signal)


def find_silence(signal: Signal) -> Finding | None:
    peak = float(np.abs(signal.samples - signal.offset).max())
    if peak > SILENT_PEAK:
        return None
    return Finding("digital_silence", 1.0, {"peak_dbfs": dbfs(peak), "seconds": signal.seconds})


def find_offset(signal: Signal) -> Finding | None:
    mean = float(signal.samples.mean())
    if min(abs(mean), abs(signal.offset)) < 0.03 or mean * signal.offset < 0:
        return None
    return Finding("dc_offset", min(1.0, 0.5 + abs(mean) * 10), {"offset_percent": 100 * mean})


def find_wrap(signal: Signal) -> Finding | None:
    """Jumps by almost full scale that go on smoothly once 2 is added or taken away."""
    x = signal.samples
    jump = np.diff(x)
    at = np.flatnonzero(np.abs(jump[1:]) > 1.2) + 1
    unwrapped = x[at + 1] - 2 * np.sign(jump[at]) - 2 * x[at] + x[at - 1]
    wraps = int((np.abs(unwrapped) < 0.6).sum())
    if wraps < 4 or wraps < 0.6 * len(at) or wraps / signal.seconds < 1:
        return None
    return Finding("wrap_around", min(1.0, 0.7 + wraps / 100), {"wraps_per_s": wraps / signal.seconds})


def find_clipping(signal: Signal) -> Finding | None:
    """Flat tops: runs of the extreme value itself, more of it than of what lies just below it.

    The crest of a slow wave is flat as well, but most of it lies below the extreme.
    """
    x = signal.samples
    if dbfs(float(np.ptp(x)) / 2) < -40:
        return None
    flat = np.r_[False, (x[:-2] == x[1:-1]) & (x[1:-1] == x[2:]), False]
    clipped = 0
    for side in (x - signal.offset, signal.offset - x):
        extreme = float(side.max())
        at_extreme = int((flat & (side == extreme)).sum())
        if at_extreme > ((side >= 0.97 * extreme) & (side < extreme)).sum():
            clipped += at_extreme
    if clipped < max(12, 0.001 * len(x)):
        return None
    share = clipped / len(x)
    return Finding("clipping", min(1.0, 0.6 + 20 * share), {"clipped_percent": 100 * share})


def find_quiet(signal: Signal) -> Finding | None:
    """Speech, but faint: its loudest parts stand out, and are hardly more than the steps of 16 bits."""
    floor = float(np.percentile(signal.levels, 10))
    if signal.loud > FAINT_DBFS or signal.loud - floor < 6:
        return None
    return Finding("too_quiet", min(1.0, 0.5 + (FAINT_DBFS - signal.loud) / 20), {"speech_dbfs": signal.loud})


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and one past the last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False].astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def find_gaps(signal: Signal) -> Finding | None:
    """Digital silence with hard edges: zeros in place of packets, or of what a gate took for silence.

    Packets are short. A gate closes for as long as nobody speaks, and opens with a jump.
    """
    levels, loud = signal.levels, signal.loud
    x = np.abs(signal.centred)
    minimum = max(4, signal.frame // 2)
    flat = _runs(np.r_[True, np.diff(signal.samples) == 0])
    zeros = [(first, last) for first, last in flat if last - first >= minimum]
    hard = []
    for first, last in zeros:
        edges = dbfs(_rms(x[max(0, first - minimum) : max(0, first - 1)])), dbfs(_rms(x[last : last + minimum]))
        if min(edges) > max(loud - 32, -62) or max(edges) > max(loud - OPENS_DB, -62):
            hard.append(last - first)
    rate = len(hard) / signal.seconds
    few = len(hard) < 3 and (rate < 0.8 or signal.spikes.std() < LIVELY)  # a single beep has two edges as well
    long = [(first, last) for first, last in zeros if last - first >= 10 * signal.frame]
    mostly_long = sum(last - first for first, last in long) > 0.5 * sum(last - first for first, last in zeros)
    closed = mostly_long and not (_alike(hard, 8) or _alike([last - first for first, last in long[1:-1]], 4))
    if (len(hard) < 2 or rate < 0.6 or few) and not (closed and _opens_and_closes(signal, long)):
        return None
    if closed:
        sounding = levels[~signal.still]
        lowest = float(np.percentile(sounding, 8)) if len(sounding) else loud
        per_s = max(len(hard), len(long)) / signal.seconds
        return Finding("noise_gate", 0.9, {"range_db": max(0.0, loud - lowest), "cuts_per_s": per_s})
    packet_ms = 1000 * float(np.percentile(hard, 20)) / signal.sample_rate
    return Finding("dropped_packets", 0.9, {"packet_ms": packet_ms, "breaks_per_s": rate})


def _alike(lengths: list[int], least: int) -> bool:
    """Whether so many are nearly all the same: a gate does not close for the same time again and again."""
    return len(lengths) >= least and float(np.mean(np.abs(np.array(lengths) - np.median(lengths)) <= 2)) > 0.9


def _opens_and_closes(signal: Signal, zeros: list[tuple[int, int]]) -> bool:
    """Whether speech sets in right behind the zeros, and sound breaks off before them, almost every time.

    A gate opens by speech alone. A synthesizer, or a device that starts late, has zeros as well, but opens softly.
    """
    x, near = signal.centred, 2 * signal.frame
    opens = [dbfs(_rms(x[last : last + near])) > signal.loud - PAUSE_DB for _, last in zeros if last < len(x)]
    closes = [_rms(x[max(0, first - signal.frame // 2) : first - 1]) > 4 * LSB for first, _ in zeros if first > 0]
    most = all(flags and np.mean(flags) >= 0.8 for flags in (opens, closes))
    return most and float(signal.spikes.std()) >= LIVELY


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.square(values).mean())) if len(values) else 0.0


def packet_score(signal: Signal, among: NDArray[np.bool_] | None = None, longest_s: float = 1.0) -> tuple[float, int]:
    """How many standard errors the spikes at packet borders lie above the rest, and the packet, in samples.

    Of healthy audio it exceeds 4 once in 300 times.

    Args:
        signal: whose spikes are folded.
        among: which samples count, (n,) as the spikes; otherwise all.
        longest_s: packet that is tried.
    """
    chosen = np.ones(len(signal.spikes), bool) if among is None else among
    spikes = np.where(chosen, signal.spikes, 0.0)
    count = max(1, int(chosen.sum()))
    mean = float(spikes.sum()) / count
    spread = max(1e-9, float(np.square(spikes).sum()) / count - mean**2) ** 0.5
    lengths = {round(ms * signal.sample_rate / 1000) for ms in PACKETS_MS} | set(PACKETS_SAMPLES)
    best = (0.0, 0)
    for length in sorted(lengths):
        borders = spikes[length::length][chosen[length::length]]
        if 64 <= length <= longest_s * signal.sample_rate and len(borders) >= 5:
            best = max(best, ((float(borders.mean()) - mean) / spread * len(borders) ** 0.5, length))
    return best


def find_drops(signal: Signal, arriving: float | None = None) -> Finding | None:
    """Breaks at packet borders; fewer of them are enough where less arrives than real time brings."""
    score, length = packet_score(signal)
    if score < (2.8 if arriving is not None and 0.55 < arriving < 0.96 else 4.3):
        return None
    broken = int((signal.spikes[length::length] > 3.5).sum())
    breaks = broken / signal.seconds
    if broken < 2 or breaks < 0.7 or signal.spikes.std() > FULL_OF_SPIKES:
        return None
    evidence = {"packet_ms": 1000 * length / signal.sample_rate, "breaks_per_s": breaks, "score": score}
    return Finding("dropped_packets", min(1.0, 0.5 + score / 40), evidence)


def find_gate(
    signal: Signal, arriving: float | None = None, *, whole: bool = True, paused: bool = False
) -> Finding | None:
    """Pauses left out: none is left, nothing is much quieter than the speech, or what is quiet is full of breaks."""
    levels = signal.levels
    if len(levels) < 30 or not len(signal.spikes) or signal.loud < -50:
        return None
    low = float(np.percentile(levels, 4))
    range_db = signal.loud - low
    speech = int((levels > low + 8).sum())
    if speech < 12:
        return None
    quiet, _ = packet_score(signal, signal.quiet, GATE_BLOCK_S)
    loud, _ = packet_score(signal, ~signal.quiet)
    narrow = 11 < range_db < 16.2 and speech >= 40  # a short word in a noisy room is no more than that
    flat = range_db < 22
    broken = quiet > (2.8 if paused else 3.4 if flat else 4.3) and loud < (quiet - 1 if flat else 3.2)
    in_time = arriving is None or arriving > (0.4 if paused else 0.8)  # at a wrong rate, pauses have a wrong length
    if not (narrow or broken or (range_db > 17 and in_time and _lacks_pauses(signal, whole=whole))):
        return None
    per_s = max(1.0, float((signal.spikes[signal.quiet] > 4).sum())) / signal.seconds
    return Finding("noise_gate", 0.8 if broken else 0.6, {"range_db": range_db, "cuts_per_s": per_s})


def _lacks_pauses(signal: Signal, *, whole: bool) -> bool:
    """Whether there is no pause longer than a gate's hold, neither between the words nor around them.

    Where the client did not choose the edges, there may be none around a few words.
    """
    levels = signal.levels
    if len(levels) < (40 if whole else 300) or (whole and levels[:3].max() < signal.loud - 22):
        return False  # a gate opens by a sound
    pauses = _runs(levels < float(np.percentile(levels, 98)) - PAUSE_DB)
    return max((last - first for first, last in pauses), default=0) <= round(HOLD_S * 100)


def find_cut(signal: Signal) -> Iterator[Finding]:
    """Loud speech within EDGE_S of an edge, and not even a moment of the background before or behind it."""
    floor = float(np.percentile(signal.levels, 5)) if len(signal.levels) else 0.0
    if len(signal.levels) < 16 or signal.loud < -50 or signal.loud - floor < 10:
        return
    near = round(EDGE_S * 100) * signal.frame
    edges: dict[Code, Floats] = {"cut_start": signal.centred[:near], "cut_end": signal.centred[-near:][::-1]}
    for code, inwards in edges.items():
        levels = 10 * np.log10(np.square(signal.by_frame(inwards)).mean(axis=1) + 1e-12)
        loudest = float(levels.max())
        if loudest > max(signal.loud - 14, floor + 10) and levels[0] > floor + 4:
            yield Finding(code, 0.7, {"edge_db": max(0.0, signal.loud - loudest)})

"""What the server counts, for Prometheus.

Each app has a registry of its own, so two apps in a process do not add up. Every label is one of a closed set, and
nearly all of its values are there from the start, at zero: whatever clients send, the number of time series is bounded,
and a rate is not missing until the first time. A value outside of its set counts as `other`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, TypeVar, get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from stt_core.batching import Priority
from stt_core.messages import ErrorCode

CONTENT_TYPE = CONTENT_TYPE_LATEST
OTHER = "other"

Mode = Literal["plain", "json"]
EndReason = Literal["endpoint", "flush", "idle", "max_length", "message", "end", "upload"]
EndedBy = Literal["flush", "endpoint"]
Fallback = Literal["looped", "weak", "sparse", "whole_model"]
Refusal = Literal[ErrorCode, "forbidden_origin", "forbidden_host"]
Work = Literal["audio", "detector", "doctor", "model"]
PRIORITIES = tuple(priority.name.lower() for priority in Priority)
STATUSES = ("200", "400", "401", "403", "404", "405", "408", "413", "415", "429", "500", "503")

TTFS_BUCKETS_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
WAIT_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
INFERENCE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
RATIO_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)

MetricT = TypeVar("MetricT", Counter, Histogram)


class _Closed(dict[str, MetricT]):
    """A metric's children by the value of their label."""

    def __missing__(self, value: str) -> MetricT:
        return self[OTHER]


class _Within(threading.local):
    """Processor time of this thread that has been counted already."""

    counted_s = 0.0


class _Watch:
    """Runs a few thousand times a second: a generator would cost thrice as much."""

    __slots__ = ("_before_s", "_counter", "_since_s", "_within")

    def __init__(self, counter: Counter, within: _Within) -> None:
        self._counter = counter
        self._within = within

    def __enter__(self) -> None:
        self._before_s, self._within.counted_s = self._within.counted_s, 0.0
        self._since_s = time.thread_time()

    def __exit__(self, *_: object) -> None:
        took_s = time.thread_time() - self._since_s
        self._counter.inc(max(0.0, took_s - self._within.counted_s))
        self._within.counted_s = self._before_s + took_s


class _Fallbacks(Collector):
    """What the engine counts itself."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts()
        family = CounterMetricFamily(
            "stt_fallbacks",
            "Second looks, by what was wrong with the first, and answers that needed the whole model.",
            labels=["kind"],
        )
        for kind in get_args(Fallback):
            family.add_metric([kind], counts.get(kind, 0))
        yield family


class Metrics:
    """The metrics of one app.

    Args:
        warning_codes: what the audio doctor may say.
        fallbacks: how often the engine had to do more for an answer, by why; it is asked at every scrape.
    """

    def __init__(self, *, warning_codes: Iterable[str] = (), fallbacks: Callable[[], Mapping[str, int]] = dict) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU and open files, where the system tells
        self._info = Info("stt", "What runs here: version, model, language.", registry=registry)
        self._ready = Gauge("stt_ready", "1 while the model is loaded and clients are admitted.", registry=registry)
        self._sessions = Gauge("stt_sessions", "Clients that are connected and were let in.", registry=registry)
        self._started = self._counters("stt_sessions_started", "Sessions that were let in.", mode=get_args(Mode))
        self._refused = self._counters(
            "stt_connections_refused", "Connections that were not let in.", code=get_args(Refusal)
        )
        self._received = Counter("stt_received_audio_seconds", "Audio that clients sent.", registry=registry)
        self._dropped = Counter("stt_dropped_audio_seconds", "Audio that was never transcribed.", registry=registry)
        self._utterances = self._counters(
            "stt_utterances", "Utterances, by what ended them.", reason=get_args(EndReason)
        )
        self._spoken = self._counters("stt_utterance_audio_seconds", "Audio in them.", reason=get_args(EndReason))
        self._ttfs = self._histograms(
            "stt_ttfs_seconds",
            "From the end of speech, or the flush, until the final text was sent.",
            TTFS_BUCKETS_S,
            ended_by=get_args(EndedBy),
        )
        self._queue_wait = self._histograms(
            "stt_queue_wait_seconds", "How long requests waited for the model.", WAIT_BUCKETS_S, priority=PRIORITIES
        )
        self._batch_size = Histogram(
            "stt_batch_size", "Requests that ran in one batch.", buckets=BATCH_BUCKETS, registry=registry
        )
        self._inference = Histogram(
            "stt_inference_seconds", "How long batches ran.", buckets=INFERENCE_BUCKETS_S, registry=registry
        )
        self._transcribed = Counter(
            "stt_transcribed_audio_seconds", "Audio in batches, each time that it ran.", registry=registry
        )
        self._real_time_factor = Histogram(
            "stt_real_time_factor_ratio",
            "How long a batch ran, divided by the audio in it.",
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        registry.register(_Fallbacks(fallbacks))
        self._work = self._counters(
            "stt_cpu_seconds",
            "Processor time: of bytes until they are utterances, without the detector; of the detector; of the audio "
            "doctor; of the model's input and output. What remains of the process is the model itself and the network.",
            work=get_args(Work),
        )
        self._within = _Within()
        self._errors = self._counters("stt_errors", "Errors that clients were told.", code=get_args(ErrorCode))
        self._warnings = self._counters("stt_warnings", "Warnings about broken audio.", code=tuple(warning_codes))
        self._http_requests = Counter(
            "stt_http_requests", "HTTP requests that were answered.", ["route", "status"], registry=registry
        )
        self._http_requests.labels(OTHER, OTHER)

    def info(self, *, version: str, model: str, language: str) -> None:
        """Say what runs here."""
        self._info.info({"version": version, "model": model, "language": language})

    def ready(self, ready: bool) -> None:
        """The model is loaded and clients are admitted, or no longer."""
        self._ready.set(ready)

    def session_started(self, mode: Mode) -> None:
        """A client was let in; `session_ended` must follow."""
        self._started[mode].inc()
        self._sessions.inc()

    def session_ended(self) -> None:
        """That client is gone."""
        self._sessions.dec()

    def refused(self, code: Refusal) -> None:
        """A connection was not let in."""
        self._refused[code].inc()

    def received(self, audio_s: float) -> None:
        """A client sent audio."""
        self._received.inc(audio_s)

    def dropped(self, audio_s: float) -> None:
        """Audio will not be transcribed."""
        self._dropped.inc(audio_s)

    def utterance(self, reason: EndReason, audio_s: float) -> None:
        """An utterance ended."""
        self._utterances[reason].inc()
        self._spoken[reason].inc(audio_s)

    def ttfs(self, ended_by: EndedBy, seconds: float) -> None:
        """A final was sent, so long after the speech ended or the flush came."""
        self._ttfs[ended_by].observe(seconds)

    def queue_wait(self, priority: Priority, seconds: float) -> None:
        """A request's batch began."""
        self._queue_wait[priority.name.lower()].observe(seconds)

    def batch(self, size: int, *, audio_s: float, infer_s: float) -> None:
        """A batch of `size` requests with so much audio ran for so long."""
        self._batch_size.observe(size)
        self._inference.observe(infer_s)
        self._transcribed.inc(audio_s)
        if audio_s > 0:
            self._real_time_factor.observe(infer_s / audio_s)

    def work(self, work: Work) -> "_Watch":
        """Count the processor time that this thread spends in a `with` block, without other work within it."""
        return _Watch(self._work[work], self._within)

    def error(self, code: ErrorCode) -> None:
        """A client was told of an error."""
        self._errors[code].inc()

    def warning(self, code: str) -> None:
        """A client was told what is wrong with its audio."""
        self._warnings[code].inc()

    def http_request(self, route: str, status: int) -> None:
        """A request was answered. `route` is the path in the schema that it matched, or `other`; never the URL."""
        self._http_requests.labels(route, str(status) if str(status) in STATUSES else OTHER).inc()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format, whose media type is `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def _counters(self, name: str, text: str, **label: tuple[str, ...]) -> _Closed[Counter]:
        [(label_name, values)] = label.items()
        counter = Counter(name, text, [label_name], registry=self.registry)
        return _Closed({value: counter.labels(value) for value in (*values, OTHER)})

    def _histograms(
        self, name: str, text: str, buckets: tuple[float, ...], **label: tuple[str, ...]
    ) -> _Closed[Histogram]:
        [(label_name, values)] = label.items()
        histogram = Histogram(name, text, [label_name], buckets=buckets, registry=self.registry)
        return _Closed({value: histogram.labels(value) for value in (*values, OTHER)})


def describe(metrics: Metrics) -> str:
    """A Markdown table of the metrics, with the values that their labels have now."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in metrics.registry.collect():
        if not family.name.startswith("stt"):
            continue
        labels: dict[str, list[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le" and value not in labels.setdefault(label, []):
                    labels[label].append(value)
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        values = "; ".join(f"`{label}`: {', '.join(f'`{value}`' for value in labels[label])}" for label in labels)
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {values} | {family.documentation} |")
    return "\n".join(rows) + "\n"

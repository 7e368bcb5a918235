"""Metrics: what is counted shows, what is not known is `other`, and every metric is described."""

import re
import threading
import time
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stt_core.batching import Priority
from stt_core.messages import ErrorCode
from stt_core.metrics import EndReason, Fallback, Metrics, describe


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("count", "name", "labels", "expected"),
    [
        (lambda m: m.info(version="1", model="base", language="ko"), "stt_info", "version model language", 1),
        (lambda m: m.ready(True), "stt_ready", "", 1),
        (lambda m: m.session_started("json"), "stt_sessions", "", 1),
        (lambda m: m.session_started("json"), "stt_sessions_started_total", "mode=json", 1),
        (lambda m: m.refused("unauthorized"), "stt_connections_refused_total", "code=unauthorized", 1),
        (lambda m: m.received(2.5), "stt_received_audio_seconds_total", "", 2.5),
        (lambda m: m.dropped(0.5), "stt_dropped_audio_seconds_total", "", 0.5),
        (lambda m: m.utterance("flush", 2.0), "stt_utterances_total", "reason=flush", 1),
        (lambda m: m.utterance("flush", 2.0), "stt_utterance_audio_seconds_total", "reason=flush", 2.0),
        (lambda m: m.ttfs("endpoint", 0.7), "stt_ttfs_seconds_sum", "ended_by=endpoint", 0.7),
        (lambda m: m.queue_wait(Priority.FINAL, 0.2), "stt_queue_wait_seconds_sum", "priority=final", 0.2),
        (lambda m: m.batch(3, audio_s=6.0, infer_s=1.5), "stt_batch_size_sum", "", 3),
        (lambda m: m.batch(3, audio_s=6.0, infer_s=1.5), "stt_inference_seconds_sum", "", 1.5),
        (lambda m: m.batch(3, audio_s=6.0, infer_s=1.5), "stt_transcribed_audio_seconds_total", "", 6.0),
        (lambda m: m.batch(3, audio_s=6.0, infer_s=1.5), "stt_real_time_factor_ratio_sum", "", 0.25),
        (lambda m: m.batch(1, audio_s=0.0, infer_s=1.5), "stt_real_time_factor_ratio_count", "", 0),
        (lambda m: m.error("busy"), "stt_errors_total", "code=busy", 1),
        (lambda m: m.warning("clipping"), "stt_warnings_total", "code=clipping", 1),
        (lambda m: m.http_request("/healthz", 200), "stt_http_requests_total", "route=/healthz status=200", 1),
    ],
)
def test_what_happened_shows(count, name, labels, expected):
    metrics = Metrics(warning_codes=["clipping"])
    info = {"version": "1", "model": "base", "language": "ko"}

    count(metrics)

    pairs = [label.split("=") for label in labels.split()]
    assert expected == value(metrics, name, **(info if name == "stt_info" else dict(pairs)))


def burn(seconds: float) -> None:
    """Use so much of the processor."""
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass


def test_processor_time_is_counted_once():
    metrics = Metrics()
    since_s = time.thread_time()
    with metrics.work("audio"):
        burn(0.05)
        for _ in range(2):
            with metrics.work("detector"):
                burn(0.1)
        time.sleep(0.05)
    took_s = time.thread_time() - since_s  # more than was burnt where another machine had this one's processor

    audio_s, detector_s = (value(metrics, "stt_cpu_seconds_total", work=work) for work in ("audio", "detector"))
    assert 0.04 <= audio_s and 0.18 <= detector_s
    assert audio_s + detector_s <= took_s + 1e-6


def test_processor_time_is_that_of_the_thread():
    metrics = Metrics()
    took_s = []

    def work() -> None:
        since_s = time.thread_time()
        with metrics.work("doctor"):
            burn(0.1)
        took_s.append(time.thread_time() - since_s)

    others = threading.Thread(target=work)
    since_s = time.thread_time()
    with metrics.work("audio"):
        others.start()
        others.join()
    took_s.append(time.thread_time() - since_s)

    doctor_s, audio_s = (value(metrics, "stt_cpu_seconds_total", work=work) for work in ("doctor", "audio"))
    assert 0.09 <= doctor_s <= took_s[0] + 1e-6
    assert audio_s <= took_s[1] + 1e-6


def test_a_session_that_ended_is_no_longer_there():
    metrics = Metrics()
    metrics.session_started("plain")
    metrics.session_ended()

    assert (0, 1) == (value(metrics, "stt_sessions"), value(metrics, "stt_sessions_started_total", mode="plain"))


def test_what_the_engine_counts_is_asked_at_every_scrape():
    counts = {"sparse": 1, "invented": 5}
    metrics = Metrics(fallbacks=lambda: counts)
    before = value(metrics, "stt_fallbacks_total", kind="sparse")
    counts["sparse"] = 4

    assert (1, 4) == (before, value(metrics, "stt_fallbacks_total", kind="sparse"))
    assert "invented" not in metrics.exposition().decode()


def test_two_apps_do_not_add_up():
    first, second = Metrics(), Metrics()
    first.error("busy")

    assert (1, 0) == tuple(value(metrics, "stt_errors_total", code="busy") for metrics in (first, second))


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("stt_errors_total", "code", get_args(ErrorCode)),
        ("stt_utterances_total", "reason", get_args(EndReason)),
        ("stt_fallbacks_total", "kind", get_args(Fallback)),
        ("stt_queue_wait_seconds_count", "priority", [priority.name.lower() for priority in Priority]),
        ("stt_warnings_total", "code", ["clipping", "other"]),
    ],
)
def test_every_value_of_a_label_is_there_from_the_start(name, label, values):
    metrics = Metrics(warning_codes=["clipping"])

    assert [0.0] * len(values) == [value(metrics, name, **{label: one}) for one in values]


def test_whatever_clients_do_the_number_of_series_stays_bounded():
    metrics = Metrics(warning_codes=["clipping"])
    before = metrics.exposition().count(b"\n")

    for number in range(100):
        metrics.warning(f"invented-{number}")
        metrics.error(f"invented-{number}")
        metrics.http_request("other", 1000 + number)

    assert before == metrics.exposition().count(b"\n")
    assert 100 == value(metrics, "stt_warnings_total", code="other") == value(metrics, "stt_errors_total", code="other")


def test_the_page_is_one_that_prometheus_reads():
    families = {family.name for family in text_string_to_metric_families(Metrics().exposition().decode())}

    assert {"stt_ttfs_seconds", "stt_sessions", "stt_errors"} <= families


def test_every_metric_is_described_with_its_unit():
    metrics = Metrics(warning_codes=["clipping"])
    exposed = {
        re.sub(r"_(bucket|sum|count|created)$", "", line.split("{")[0].split()[0])
        for line in metrics.exposition().decode().splitlines()
        if line.startswith("stt")
    }
    exposed = {name for name in exposed if name + "_total" not in exposed} - {"stt"} | {"stt_info"}
    metrics.info(version="1", model="base", language="ko")

    rows = [row.strip("|").split("|") for row in describe(metrics).splitlines()[2:]]

    assert exposed == {row[0].strip(" `") for row in rows}
    assert all(row[3].strip().endswith(".") for row in rows)
    assert "`code`: `clipping`, `other`" in describe(metrics)
    timed = [row[0] for row in rows if "How long" in row[3] or "Audio" in row[3] or row[3].startswith(" From")]
    assert [] == [name for name in timed if not re.search(r"_(seconds|ratio)", name)]

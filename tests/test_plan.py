"""The plan: the simulation against formulas and against what was measured, and what the operator is told."""

import json
import math
import re
from io import StringIO

import pytest
from rich.console import Console

from local_dev.fleet import STEP_S, Autoscaler, Cost, Crowd, Talk, simulate_day, waits
from local_dev.plan import calibrate, cost_on, run_check, run_plan, validate
from stt_core.errors import SettingsError

HOUR_STEPS = 3600 / STEP_S


def load_result(steps, seconds, mean_utterance_s, load_before):
    """A `load_ptt.json`, of which each step is sessions, utterances, cores, p50 and p95."""
    names = ("sessions", "utterances", "cpu_cores", "p50_s", "p95_s")
    return {
        "machine": {"processor": "AMD EPYC", "cores": 2, "load_before": load_before},
        "settings": {"mode": "ptt", "seconds": seconds, "mean_utterance_s": mean_utterance_s, "server": ["python"]},
        "steps": [dict(zip(names, step, strict=True)) for step in steps],
    }


# The table of docs/latency.md: human speakers on a quiet machine. It does not tell the number of utterances: of one
# every 10 s, 2.15 of each player end within 25 s.
QUIET = load_result(
    [
        (10, 22, 0.38, 0.201, 0.541),
        (20, 43, 0.78, 0.377, 0.663),
        (30, 64, 1.16, 0.367, 0.828),
        (40, 86, 1.43, 0.522, 1.121),
        (60, 129, 1.62, 3.281, 4.970),
    ],
    25.0,
    3.5,
    0.3,
)
# Recorded by `bench load test_audio --sessions 1,5,10 --seconds 15` under `nice -n 5`, while others used both cores.
BUSY = load_result(
    [(1, 1, 0.019, 0.2698, 0.2698), (5, 7, 0.197, 0.4005, 1.3775), (10, 14, 0.309, 1.1997, 3.6540)], 15.0, 2.89, 2.86
)


def engine_result(gpu=None, **more):
    clips = [{"audio_s": audio_s, "ours": {"seconds": 0.1 + 0.05 * audio_s}} for audio_s in (1.0, 2.0, 4.0)]
    machine = {"processor": "AMD EPYC"} | ({"gpu": gpu} if gpu else {})
    return {"machine": machine, "settings": {"model": "large-v3-turbo"}, "files": clips} | more


def written(tmp_path, result):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    return path


def plan(tmp_path, **options):
    """What the plan printed and wrote."""
    console = Console(file=StringIO(), width=200)
    run_plan(tmp_path, **({"players": 100, "talk_share": 0.1, "sizes": (10,), "console": console} | options))
    return console.file.getvalue(), json.loads((tmp_path / "plan.json").read_text())


def test_constant_work_waits_as_in_m_d_1():
    cost = Cost(base_s=0.5, per_audio_s=0, spread=0, max_batch_size=1)
    load = 140 * 0.01 * 0.5  # 140 sessions, each a second of every hundred
    found = waits(cost, Talk(0.01, (1, 1)), 140, 20_000, seed=1)

    assert pytest.approx(load * 0.5 / (2 * (1 - load)), rel=0.08) == sum(found) / len(found) - 0.5


def test_exponential_work_of_two_workers_waits_as_in_m_m_2():
    cost = Cost(base_s=1, per_audio_s=0, spread=1, workers=2, max_batch_size=1)
    offered = 1.4
    queued = offered**2 / 2 / (1 - offered / 2)
    erlang_c = queued / (1 + offered + queued)
    found = waits(cost, Talk(0.01, (1, 1)), 140, 40_000, seed=1)

    assert pytest.approx(erlang_c / (2 - offered), rel=0.08) == sum(found) / len(found) - 1


def test_a_lone_player_waits_for_the_work_less_the_head_start():
    cost = Cost(base_s=0.1, per_audio_s=0.1, spread=0, head_start_s=0.25)

    assert pytest.approx(0.15) == max(waits(cost, Talk(0.1, (3, 3)), 1, 600, seed=0))


def test_free_batching_holds_what_one_by_one_does_not():
    talk = Talk(0.5, (2, 5))
    alone, together = (waits(Cost(1, 0, marginal=m, spread=0), talk, 20, 300, 0) for m in (1.0, 0.0))

    assert max(together) <= 2 < max(alone)


def test_the_same_seed_gives_the_same_numbers():
    first, again, other = (waits(Cost(0.2, 0.05), Talk(0.2), 20, 100, seed) for seed in (1, 1, 2))
    day, same = (simulate_day(Crowd(500), Autoscaler(24, 32), "spread", 3) for _ in range(2))

    assert first == again != other
    assert day.containers.tolist() == same.containers.tolist()


@pytest.mark.parametrize("least", [0, 2])
def test_without_players_only_the_least_containers_are_paid_for(least):
    day = simulate_day(Crowd(0), Autoscaler(24, 32, min_containers=least), "packed", 0)

    assert least * 24 * 3600 == day.container_s
    assert (0, 0, 0) == (day.connected, day.cold, day.turned_away)


@pytest.mark.parametrize("routing", ["packed", "spread"])
def test_more_players_never_cost_less(routing):
    paid = [simulate_day(Crowd(n), Autoscaler(24, 32), routing, 0).container_s for n in (1, 30, 1000)]

    assert sorted(paid) == paid


def test_sockets_that_are_packed_let_the_fleet_shrink_at_night():
    packed, spread = (simulate_day(Crowd(2000), Autoscaler(24, 32), routing, 0) for routing in ("packed", "spread"))
    morning, evening = slice(int(8 * HOUR_STEPS), int(10 * HOUR_STEPS)), slice(int(20 * HOUR_STEPS), None)

    assert packed.containers[morning].mean() < 0.5 * packed.containers[evening].mean()
    assert spread.containers[morning].mean() > 0.9 * spread.containers[evening].mean()


def test_a_sampled_fleet_is_like_the_whole_one():
    whole, sampled = (simulate_day(Crowd(n), Autoscaler(24, 32), "packed", 0) for n in (10_000, 100_000))

    assert pytest.approx(10, rel=0.03) == sampled.container_s / whole.container_s
    assert pytest.approx(10, rel=0.03) == sampled.player_s / whole.player_s


def test_whoever_comes_to_an_empty_fleet_is_a_cold_start():
    cold, warm = (simulate_day(Crowd(3), Autoscaler(24, 32, min_containers=n), "packed", 0) for n in (0, 1))

    assert 0 < cold.cold < cold.connected
    assert 0 == warm.cold


@pytest.fixture(scope="module")
def too_small(tmp_path_factory):
    """A plan for a thousand players on one container: what it printed, its JSON, its folder."""
    folder = tmp_path_factory.mktemp("plan")
    return *plan(folder, players=1000, max_containers=1), folder


def test_a_full_fleet_is_said(too_small):
    printed, result, _ = too_small

    assert result["turned_away"] > 0
    assert "THE FLEET IS FULL" in printed


def test_every_number_says_where_it_is_from(too_small):
    printed, result, folder = too_small
    facts = result["tables"]["The numbers behind it"]

    assert {"assumed", "set", "price"} == {re.split("[:;]", fact["from"])[0] for fact in facts}
    assert "2026-09, Modal's public pricing page" in printed
    assert {"plan.html", "plan.json", "plan.png"} == {path.name for path in folder.iterdir()}


def test_an_open_microphone_takes_the_event_loop_long_before_the_gpu(too_small, tmp_path):
    _, open_microphone = plan(tmp_path, mode="open")

    assert 175 == too_small[1]["sessions_per_container"]
    assert 17 == open_microphone["sessions_per_container"]


def test_an_engine_benchmark_gives_base_and_slope():
    cost, facts = calibrate(engine_result(batches=[{"size": 1, "seconds": 0.2}, {"size": 8, "seconds": 0.48}]))

    assert pytest.approx((0.1, 0.05, 0.2)) == (cost.base_s, cost.per_audio_s, cost.marginal)
    assert ["measured"] * 3 == [source.split()[0] for _, _, source in facts[:3]]


def test_what_another_gpu_did_is_carried_over_and_said_to_be_assumed():
    cost, model, facts = cost_on("L4", None, engine_result("H200"))

    assert "large-v3-turbo" == model
    assert cost.base_s > 0.1
    assert facts[-1][2].startswith("assumed")


def test_the_model_repeats_what_was_measured_on_a_quiet_machine():
    checks = validate(QUIET, runs=100)

    assert [10, 20, 30, 40, 60] == [check.sessions for check in checks]
    assert all(check.fits for check in checks)
    assert all(math.isclose(check.predicted_s, check.measured_s, rel_tol=0.15) for check in checks)


def test_a_busy_machine_fails_the_check_and_is_named(tmp_path, capsys):
    assert 1 == run_check(written(tmp_path, BUSY))
    printed = capsys.readouterr().out
    assert "NOT within" in printed
    assert "Others were using the machine (load 2.86 on 2 cores)" in printed


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"talk_share": 1.5}, "between 0 and 1"),
        ({"players": -1}, "0 or more"),
        ({"min_containers": 3, "max_containers": 2}, "At least 3 and at most 2"),
        ({"min_containers": -1}, "0 or more"),
        ({"gpu": "RTX"}, "should be one of cpu, T4, L4"),
        ({"model": "mine"}, "Nothing is known of mine"),
        ({"gpu": "cpu"}, "Nothing is known of large-v3-turbo on cpu"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(tmp_path, options, told):
    with pytest.raises(SettingsError, match=told):
        plan(tmp_path, **options)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (QUIET, "base was measured on cpu"),
        ({"machine": {}, "settings": {}}, "lacks something"),
        ([], "not a benchmark's JSON"),
        (engine_result() | {"files": []}, "Calibrate by"),
    ],
)
def test_a_calibration_that_says_nothing_is_refused(tmp_path, result, told):
    with pytest.raises(SettingsError, match=told):
        plan(tmp_path, gpu="L4", calibration=written(tmp_path, result))

"""The studies behind the engine's defaults: their own arithmetic, and small runs with the real model."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from local_dev.bench import run_engine_bench, select_clips
from local_dev.study import Cell, Look, pooled, run_study, summarise
from local_dev.study_serving import compare_cuts, sheets_of
from stt_core.errors import SettingsError
from stt_core.scoring import Score

TEST_AUDIO = Path(__file__).resolve().parent.parent / "test_audio"
CELL = Cell(0.5, 1000, 5)


def look(clip, cell, *, seconds=1.0, speech_s=3.0, errors=0, length=10):
    return Look(clip, "ko", speech_s, cell, seconds, Score(errors, length))


def test_pooled_errors_weigh_long_clips_more():
    assert 0.1 == pooled([look("a", CELL, errors=2, length=10), look("b", CELL, errors=1, length=20)])


def test_time_is_the_median_of_the_clips_own_ratios_to_stock():
    looks = [
        *(look(clip, None, seconds=seconds) for clip, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0))),
        *(look(clip, CELL, seconds=seconds) for clip, seconds in (("a", 0.1), ("b", 0.4), ("c", 2.0))),
    ]

    [row, _] = summarise(looks)

    assert (0.2, 3) == (row["time"], row["clips"])


def test_a_clip_counts_in_the_bucket_of_its_speech_and_in_all_of_them():
    looks = [
        look("short", None, speech_s=1.0),
        look("long", None, speech_s=12.0, errors=5),
        look("short", CELL, speech_s=1.0, errors=1),
        look("long", CELL, speech_s=12.0),
    ]

    rows = {row["from_s"]: row for row in summarise(looks)}

    assert {None: 2, 0.0: 1, 10.0: 1} == {from_s: row["clips"] for from_s, row in rows.items()}
    assert (0.1, 0.0) == (rows[0.0]["errors"], rows[0.0]["stock_errors"])
    assert (0.0, 0.5) == (rows[10.0]["errors"], rows[10.0]["stock_errors"])


def test_the_tables_say_what_was_measured():
    cuts, batches, workers = sheets_of(
        [
            {"languages": ["ko", "en"], "texts": 5}
            | {"equal_whole_greedy": 4, "equal_whole_beam": 3, "equal_told_greedy": 5, "equal_told_beam": 2}
        ],
        [{"size": 2, "seconds": 0.5}],
        [{"workers": 2, "threads": 1, "compute_type": "int8", "utterances_per_s": 8.0, "median_s": 0.25}],
    )

    assert [["ko+en", "5", "4", "3", "5", "2"]] == cuts.rows
    assert [["2", "500 ms", "250 ms"]] == batches.rows
    assert [["2 x 1", "int8", "8.00", "250 ms"]] == workers.rows


def test_a_folder_without_a_manifest_is_a_sentence(tmp_path):
    with pytest.raises(SettingsError, match="has no manifest"):
        select_clips(tmp_path, "ko")


@pytest.mark.model
def test_the_study_writes_its_curves_and_its_profile(tmp_path):
    cells = [CELL, Cell(0.5, 1500, 1)]

    assert 0 == run_study(TEST_AUDIO, tmp_path, language="ko", limit=2, cells=cells, console=Console(file=StringIO()))

    result = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert 2 * (1 + len(cells)) == len(result["looks"])
    assert {"ko"} == set(result["curves"]) == set(result["profile"])
    assert (tmp_path / "study.png").is_file()
    assert "<img" in (tmp_path / "study.html").read_text(encoding="utf-8")


@pytest.mark.model
def test_the_bench_compares_the_engine_with_stock_the_cut_with_the_whole_and_batches_with_each_other(tmp_path):
    assert 0 == run_engine_bench(TEST_AUDIO, tmp_path, language="ko", limit=2, console=Console(file=StringIO()))

    result = json.loads((tmp_path / "engine.json").read_text(encoding="utf-8"))
    assert 2 == result["languages"]["ko"]["files"] == len(result["files"])
    assert [(["ko"], 2)] == [(row["languages"], row["texts"]) for row in result["cuts"]]
    assert [1, 2, 4, 8] == [row["size"] for row in result["batches"]]
    assert [(1, 1, "int8"), (2, 1, "int8"), (1, 2, "int8"), (1, 1, "float32"), (2, 1, "float32")] == [
        (row["workers"], row["threads"], row["compute_type"]) for row in result["workers"]
    ]
    assert (tmp_path / "engine.html").is_file()


@pytest.mark.model
def test_a_cut_loses_nothing_but_the_tokens_that_were_left_out():
    clips = [clip for language in ("ko", "en") for clip in select_clips(TEST_AUDIO, language)[:3]]
    with Progress(disable=True) as progress:
        rows = compare_cuts(clips, "base", None, 5, progress)

    assert [["ko"], ["en"], ["ko", "en"]] == [row["languages"] for row in rows]
    assert [(row["texts"], row["texts"]) for row in rows] == [
        (row["equal_told_greedy"], row["equal_told_beam"]) for row in rows
    ]

"""How hotwords are chosen and counted, and a small run with the real model."""

import json
import random
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local_dev.bench_hotwords import (
    CELLS,
    MAX_CHARS,
    Line,
    holds,
    joined,
    lists_of,
    rarest,
    run_hotwords_bench,
    said,
    summarise,
    words_of,
)
from stt_core.errors import SettingsError
from stt_core.scoring import Score

TEST_AUDIO = Path(__file__).resolve().parent.parent / "test_audio"


def line(id, cell, *, missed=True, written=False, errors=0, inserted=False, seconds=1.0):
    return Line(id, "ko", missed, cell, written, False, False, inserted, Score(errors, 10), seconds, 0, True)


def test_words_are_bare_and_long_enough():
    assert ["청개구리", "왔다"] == words_of("청개구리, 왔다! 왔다 아 3번", "ko")
    assert ["Attack", "dragon"] == words_of("Attack the dragon!", "en")


@pytest.mark.parametrize(
    ("text", "word", "language", "held"),
    [
        ("정답은 청 개구리입니다", "청개구리", "ko", True),  # where the spaces stand is a matter of taste
        ("정답은 창개구리입니다", "청개구리", "ko", False),
        ("Open the Gate.", "gate", "en", True),
        ("We are investigating.", "gate", "en", False),
    ],
)
def test_a_word_is_held_letter_by_letter_in_korean_and_as_a_word_in_english(text, word, language, held):
    assert held is holds(text, word, language)


def test_the_rarest_word_is_the_longest_that_was_missed():
    assert ("청개구리", True) == rarest("정답은 청개구리 맞지", "정답은 창개구리 맏지", "ko")
    assert ("청개구리", False) == rarest("정답은 청개구리 맞지", "정답은 청개구리 맞지", "ko")
    assert None is rarest("음 3", "음", "ko")


def test_a_word_with_another_particle_is_said_as_well():
    assert said("생각을 가지고", "생각은", "ko")
    assert not said("생각을 가지고", "마법은", "ko")


def test_the_lists_hold_the_word_once_or_never():
    others = [f"말{number:02}" for number in range(60)]

    lists = lists_of("청개구리", others, random.Random(0))

    assert [0, 1, 10, 50, 10, 50] == [len(lists[cell]) for cell in CELLS]
    assert [0, 1, 1, 1, 0, 0] == [lists[cell].count("청개구리") for cell in CELLS]


def test_a_list_is_no_longer_than_the_wire_takes():
    assert MAX_CHARS == len(joined(["청개구리"] * 100))
    assert "문, 칼" == joined(["문", "칼"])


def test_figures_are_told_against_the_same_lines_without_hotwords():
    lines = [line(id, cell) for cell in CELLS[2:] for id in "abcd"]
    lines += [line(id, "none", missed=id in "ab", written=id not in "ab", errors=2) for id in "abcd"]
    lines += [line("a", "alone", written=True, errors=1), line("b", "alone", errors=3, seconds=3.0)]
    lines += [line(id, "alone", missed=False, written=True, inserted=id == "c", errors=2) for id in "cd"]

    rows = {row["cell"]: row for row in summarise(lines)}

    alone = rows["alone"]
    assert (4, 2) == (alone["lines"], alone["missed"])
    assert (0.5, 1.0) == (alone["written_of_missed"], alone["written_of_heard"])
    assert (0.2, 0.0) == (alone["errors"], alone["difference"])
    assert alone["low"] < 0 < alone["high"]
    assert (0.25, 0.25, 1.0) == (alone["inserted"], alone["worse"], alone["time"])


def test_a_condition_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(SettingsError, match=r"under water: no such condition; there are as recorded, noise 20 dB"):
        run_hotwords_bench(TEST_AUDIO, tmp_path, conditions=("under water",))


@pytest.mark.model
def test_every_recording_is_heard_in_every_cell_and_no_text_is_kept(tmp_path):
    console = Console(file=StringIO(), width=200)

    assert 0 == run_hotwords_bench(
        TEST_AUDIO, tmp_path, languages=("ko",), conditions=("as recorded",), limit=3, console=console
    )

    kept = (tmp_path / "hotwords.json").read_text(encoding="utf-8")
    result = json.loads(kept)
    assert sorted(CELLS * 3) == sorted(line["cell"] for line in result["lines"])
    assert list(CELLS) == [row["cell"] for row in result["ko"]]
    assert "개구리" not in kept
    assert (tmp_path / "hotwords.png").is_file()

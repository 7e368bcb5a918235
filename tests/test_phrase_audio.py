"""How deciding by the text is compared with asking the audio as well, and what the real model says to both."""

from pathlib import Path

import pytest
from rich.console import Console

from local_dev.bench import read_manifest
from local_dev.bench_confidence import Recordings
from local_dev.bench_phrases import NEAR, alike_lists, phrase_lists, run_phrases_bench
from local_dev.cli import build_parser
from local_dev.phrase_audio import (
    THRESHOLDS,
    Hearing,
    List,
    accept,
    figures,
    interval,
    listen,
    summarise,
)
from stt_core.engine import WhisperEngine
from stt_core.errors import SettingsError
from stt_core.phrases import SURE, Match, PhraseBook

TEST_AUDIO = Path(__file__).resolve().parent.parent / "test_audio"


def match(phrase, score, rival=None):
    return Match(phrase, score, ("", rival) if rival else None, accepted=score >= 0.78 and score - (rival or 0) >= 0.03)


def hearing(clip, expected, text=None, both=None):
    return Hearing(clip, "as recorded", "drawn", expected, text, both, asked=True)


@pytest.mark.parametrize(
    ("score", "rival", "threshold", "accepted"),
    [
        (0.8, None, 0.78, "문"),
        (0.8, None, 0.84, ""),
        (0.7, None, 0.65, "문"),
        (0.7, 0.69, 0.65, ""),  # too near
        (0.8, 0.79, 0.65, ""),
    ],
)
def test_a_client_may_have_a_threshold_of_its_own(score, rival, threshold, accepted):
    assert accepted == accept(match("문", score, rival), threshold)


def test_no_match_is_never_accepted():
    assert "" == accept(None, 0.0)


def test_figures_count_lists_with_and_without_what_was_said_apart():
    lists = [hearing("a", "문"), hearing("b", "칼"), hearing("c", ""), hearing("d", "창"), hearing("e", "")]

    found = figures(lists, ["문", "활", "활", "", ""])

    assert (3, 1, 3, 1, 2) == (found.accepted, found.right, found.possible, found.false, found.impossible)
    assert (1 / 3, 1 / 3, 0.5) == (found.precision, found.recall, found.false_share)


def test_the_interval_holds_the_change():
    lists = [hearing(clip, "문") for clip in "abcdefgh"]
    low, high = interval(lists, ["문"] * 4 + [""] * 4, [""] * 8, seed=0)

    assert 0 < low < 0.5 < high < 1


def test_both_ways_have_a_row_for_each_threshold():
    lists = [hearing(clip, "문", match("문", 0.7), match("문", 0.9)) for clip in "abcd"]
    rows = {row["way"]: row for row in summarise(lists, seed=0)}

    assert {f"{way}, {threshold}" for way in ("text", "text and audio") for threshold in THRESHOLDS} == set(rows)
    assert (0.0, 1.0) == (rows["text, 0.78"]["recall"], rows["text, 0.7"]["recall"])
    assert (1.0, 1.0) == (rows["text and audio, 0.78"]["recall"], rows["text and audio, 0.78"]["change"])


def test_every_list_with_what_was_said_has_one_without():
    clips = [clip for clip in read_manifest(TEST_AUDIO) if clip.language == "ko"]

    lists = phrase_lists(clips, seed=0)

    for clip in clips:
        for (phrases, said), (others, nothing) in zip(lists[clip.id][::2], lists[clip.id][1::2], strict=True):
            assert (10, 10, "") == (len(set(phrases)), len(set(others)), nothing)
            assert said in phrases and said in clip.text
            assert said not in others


def test_lists_of_what_sounds_alike_hold_nothing_else_that_was_said():
    clips = [clip for clip in read_manifest(TEST_AUDIO) if clip.language == "ko"]

    lists = alike_lists(clips, seed=0)

    assert sum(map(len, lists.values())) > len(clips)
    for clip in clips:
        for (phrases, said), (others, nothing) in zip(lists[clip.id][::2], lists[clip.id][1::2], strict=True):
            assert (NEAR, NEAR, "") == (len(set(phrases)), len(set(others)), nothing)
            assert said in phrases and said in clip.text
            assert all(PhraseBook([other]).match(clip.text).score < SURE for other in others)


def test_audio_without_recordings_is_a_sentence(tmp_path):
    with pytest.raises(SettingsError, match="--by-audio needs recordings"):
        run_phrases_bench(tmp_path, audio=True)


def test_the_option_is_no_beginning_of_a_setting():
    options = vars(build_parser().parse_args(["bench", "phrases", "test_audio", "--by-audio"]))

    assert (True, Path("test_audio")) == (options["audio"], options["data"])


@pytest.mark.model
def test_the_audio_tells_what_the_text_leaves_open():
    engine = WhisperEngine(languages=("ko",), device="cpu")
    engine.load()
    recordings = Recordings(TEST_AUDIO, "ko", seed=0)
    commands = List("alike", ("오른쪽으로 가자", "왼쪽으로 가지", "왼쪽으로 가면"), "")
    frogs = List("alike", ("청개구리", "참개구리", "황소개구리"), "청개구리")

    hearings, shares = listen(
        engine,
        recordings,
        {"go_left": [commands], "answer_tree_frog": [frogs]},
        Console(quiet=True),
        conditions=["as recorded"],
    )

    by_text = {one.clip: accept(one.text, 0.78) for one in hearings}
    both = {one.clip: accept(one.both, 0.78) for one in hearings}
    assert {"answer_tree_frog": "청개구리", "go_left": "왼쪽으로 가지"} == by_text
    assert {"answer_tree_frog": "청개구리", "go_left": ""} == both
    assert {"answer_tree_frog": False, "go_left": True} == {one.clip: one.asked for one in hearings}
    assert 1 == len(shares)

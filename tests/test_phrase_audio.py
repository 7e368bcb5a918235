"""How phrases are put into a transcript, how ways of deciding are compared, and what the real model says to both."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_dev.bench import read_manifest
from local_dev.bench_phrases import phrase_lists, run_phrases_bench
from local_dev.cli import build_parser
from local_dev.phrase_audio import (
    UNSCORED,
    WAYS,
    Hearing,
    Listener,
    Scored,
    accept,
    best_by,
    by_default,
    by_matcher,
    crossed,
    figures,
    first,
    halves,
    interval,
    matcher_then_audio,
    most_recall,
    place,
    put_in_place,
    summarise,
)
from stt_core.audio import read_audio
from stt_core.engine import WhisperEngine
from stt_core.errors import SettingsError

TEST_AUDIO = Path(__file__).resolve().parent.parent / "test_audio"


def hearing(clip, expected, matched, score, *phrases, condition="as recorded"):
    return Hearing(clip, condition, expected, matched, score, phrases)


def scored(phrase, match=0.0, in_place=UNSCORED, alone=UNSCORED):
    return Scored(phrase, match, alone, in_place)


@pytest.mark.parametrize(
    ("phrase", "text", "there"),
    [
        ("청개구리", "정답은 청우 개구리입니다.", "청우 개구리"),
        ("청개구리", "정답은 창개부리입니다.", "창개부리"),
        ("the gate", "Open the Gate.", "the Gate"),
        ("castle", "Follow me to the cassel", "cassel"),
        ("xyz", "네 네", "네 네"),  # nothing alike: all of it
        ("문", "", ""),
    ],
)
def test_a_phrase_has_its_place_where_the_text_resembles_it_most(phrase, text, there):
    start, end = place(phrase, text)

    assert there == text[start:end]


@pytest.mark.parametrize(
    ("phrase", "text", "together"),
    [
        ("청개구리", "정답은 창개부리입니다.", "정답은 청개구리입니다."),
        ("청개구리", "정답은 청 개구리입니다.", "정답은 청 개구리입니다."),  # it stands there already
        ("open the door", "Open the gate.", "Open the door."),
        ("청개구리", "", "청개구리"),
    ],
)
def test_the_phrase_stands_for_what_resembles_it(phrase, text, together):
    assert together == put_in_place(phrase, text)


@given(
    st.text("가나다 ab.", max_size=12), st.text("가나다 ab.", max_size=12), st.text("가나다ab", min_size=1, max_size=6)
)
def test_a_phrase_that_is_said_is_found_wherever_it_stands(before, after, phrase):
    start, end = place(phrase, before + phrase + after)

    assert phrase in put_in_place(phrase, before + phrase + after)
    assert 0 <= start <= end <= len(before + phrase + after)


def test_the_matcher_decides_first_and_the_audio_among_its_first_three():
    phrases = scored("문", 0.5, -2.0), scored("칼", 0.6, -0.5), scored("활", 0.4, -1.0), scored("창", 0.3, -0.1)

    assert ["칼", "문", "활"] == [one.phrase for one in first(hearing("a", "문", "", 0.0, *phrases))]
    assert ("칼", -0.5) == matcher_then_audio(hearing("a", "문", "", 0.0, *phrases))
    assert ("칼", -0.5) == matcher_then_audio(hearing("a", "문", "문", 0.77, *phrases))
    assert ("문", math.inf) == matcher_then_audio(hearing("a", "문", "문", 0.78, *phrases))


def test_what_the_model_cannot_write_is_never_the_best():
    assert "문" == best_by([scored("quest"), scored("문", in_place=-9.0)], lambda one: one.in_place)[0]
    assert [""] == accept([hearing("a", "quest", "", 0.0, scored("quest"))], WAYS["in place"], -99.0)


def test_figures_count_lists_with_and_without_what_was_said_apart():
    lists = [hearing("a", "문", "문", 0.9), hearing("b", "칼", "활", 0.9), hearing("c", "", "활", 0.8)]
    lists += [hearing("d", "창", "", 0.0), hearing("e", "", "활", 0.7)]

    found = figures(lists, by_default(lists))

    assert (3, 1, 3, 1, 2) == (found.accepted, found.right, found.possible, found.false, found.impossible)
    assert (1 / 3, 1 / 3, 0.5) == (found.precision, found.recall, found.false_share)


@pytest.mark.parametrize(("mistakes", "threshold"), [(0, 0.8), (1, 0.5), (2, 0.3)])
def test_the_threshold_has_the_most_recall_that_so_many_mistakes_allow(mistakes, threshold):
    lists = [hearing(str(score), "문", "문", score) for score in (0.9, 0.8, 0.5)]
    lists += [hearing("x", "", "문", 0.7), hearing("y", "", "문", 0.3)]

    assert threshold == most_recall(lists, by_matcher, mistakes)


def test_no_threshold_separates_what_scores_alike():
    assert math.inf == most_recall([hearing("a", "문", "문", 0.9), hearing("b", "", "칼", 0.9)], by_matcher, 0)


def test_a_half_is_decided_by_the_threshold_of_the_other():
    one = [hearing("a", "문", "문", 0.9), hearing("a", "", "칼", 0.6)]
    other = [hearing("b", "문", "문", 0.65), hearing("b", "", "칼", 0.5)]

    assert ["문", "", "", ""] == crossed((one, other), by_matcher)


def test_all_lists_of_a_recording_are_in_one_half():
    lists = [hearing(clip, "", "", 0.0, condition=condition) for clip in "abcd" for condition in ("quiet", "noise")]

    halved = halves(lists, seed=0)

    assert [2, 2] == [len({one.clip for one in half}) for half in halved]
    assert not {one.clip for one in halved[0]} & {one.clip for one in halved[1]}


def test_the_interval_holds_the_change():
    lists = [hearing(clip, "문", "", 0.0) for clip in "abcdefgh"]
    low, high = interval(lists, ["문"] * 4 + [""] * 4, [""] * 8, seed=0)

    assert 0 < low < 0.5 < high < 1


def test_every_way_has_a_row_against_the_matcher_as_it_is():
    lists = [
        hearing(clip, said, "", 0.0, scored("문", 0.6, -0.1 if said else -3.0, -1.0), scored("칼", 0.1, -4.0, -5.0))
        for clip in "abcd"
        for said in ("문", "")
    ]
    rows = {row["way"]: row for row in summarise(lists, seed=0)}

    assert {"matcher, 0.78", *WAYS} == set(rows)
    assert (0.0, 1.0, 1.0) == (rows["matcher"]["recall"], rows["in place"]["recall"], rows["in place"]["precision"])
    assert (1.0, 0.0) == (rows["in place"]["change"], rows["in place"]["false acceptances"])


def test_every_list_with_what_was_said_has_one_without():
    clips = [clip for clip in read_manifest(TEST_AUDIO) if clip.language == "ko"]

    lists = phrase_lists(clips, seed=0)

    for clip in clips:
        for (phrases, said), (others, nothing) in zip(lists[clip.id][::2], lists[clip.id][1::2], strict=True):
            assert (10, 10, "") == (len(set(phrases)), len(set(others)), nothing)
            assert said in phrases and said in clip.text
            assert said not in others


def test_audio_without_recordings_is_a_sentence(tmp_path):
    with pytest.raises(SettingsError, match="--by-audio needs recordings"):
        run_phrases_bench(tmp_path, audio=True)


def test_the_option_is_no_beginning_of_a_setting():
    options = vars(build_parser().parse_args(["bench", "phrases", "test_audio", "--by-audio"]))

    assert (True, Path("test_audio")) == (options["audio"], options["data"])


@pytest.mark.model
def test_the_model_believes_what_was_said_and_not_what_sounds_like_it():
    engine = WhisperEngine(languages=("ko",), device="cpu")
    engine.load()
    listener = Listener(engine, "ko")
    for name, said, other in (
        ("answer_tree_frog", "정답은 청개구리입니다", "정답은 황소개구리입니다"),
        ("go_left", "왼쪽으로 가자", "오른쪽으로 가자"),
        ("open_the_door", "문을 열어 줘", "문을 닫아 줘"),
    ):
        samples = read_audio(TEST_AUDIO / f"{name}.wav")
        for memory in listener.memories(samples).values():
            right, wrong, nothing, foreign = listener.log_probs(memory, [said, other, "", "龍"])
            assert right > wrong + 3
            assert (0.0, UNSCORED) == (nothing, foreign)

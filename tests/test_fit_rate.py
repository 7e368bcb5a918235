"""The fit behind the rate that is told by the sound: it finds weights that are known, and judges clips it left out."""

import io

import numpy as np
import pytest
from rich.console import Console
from servers import TEST_AUDIO

from local_dev.fit_rate import copy_of, fit, run_rate_fit
from stt_core.errors import SettingsError

MANIFEST = "id\tfile\tlanguage\tkind\ttext\n"


def synthetic(clips: int, noise: float):
    """Copies whose slowness is a known function of what is measured."""
    random = np.random.default_rng(0)
    features = random.normal(6, [2, 1, 3], (20 * clips, 3))
    slowed = features @ [0.05, -0.2, 0.01] + 0.7 + noise * random.standard_normal(20 * clips)
    return features, slowed, [index // 20 for index in range(20 * clips)]


def test_the_weights_that_made_the_data_are_found():
    found = fit(*synthetic(100, noise=0.01))

    assert [0.05, -0.2, 0.01] == pytest.approx(found.weights.tolist(), abs=0.005)
    assert 0.7 == pytest.approx(found.bias, abs=0.03)


def test_the_error_is_that_of_the_noise():
    assert 0.3 == pytest.approx(fit(*synthetic(100, noise=0.3)).error, rel=0.1)


def test_a_clip_is_left_out_with_all_its_copies():
    random = np.random.default_rng(0)
    who = np.repeat(np.eye(20), 20, axis=0)  # what only tells the clips apart
    slowed = np.repeat(random.standard_normal(20), 20)

    assert fit(who, slowed, np.repeat(np.arange(20), 20).tolist()).error > 0.8 * slowed.std()


@pytest.mark.parametrize("slowed", [-1.0, 0.0, 1.0])
def test_a_copy_is_as_much_longer_as_it_is_slower(slowed):
    samples = np.random.default_rng(0).standard_normal(16_000)
    factor, copied = copy_of(samples, slowed, np.random.default_rng(1))

    assert slowed == factor
    assert np.exp(slowed) == pytest.approx(len(copied) / len(samples), rel=0.001)


def test_the_fit_prints_what_stands_in_the_module(tmp_path):
    names = ["go_left", "answer_tree_frog", "how_much_health", "two_sentences", "cast_the_fire_spell"]
    lines = [f"{name}\t{TEST_AUDIO / name}.wav\tko\ttts\t{name}\n" for name in names]
    (tmp_path / "manifest.tsv").write_text(MANIFEST + "".join(lines))
    console = Console(file=io.StringIO(), width=400)

    assert 0 == run_rate_fit(tmp_path, copies=4, console=console)
    for name in ("RANGE_WEIGHTS = (", "STEP_WEIGHTS = (", "BIAS = ", "20 copies of 5 clips"):
        assert name in console.file.getvalue()


def test_the_fit_wants_clips(tmp_path):
    (tmp_path / "manifest.tsv").write_text(MANIFEST)

    with pytest.raises(SettingsError, match="at least 5 clips with a text"):
        run_rate_fit(tmp_path)

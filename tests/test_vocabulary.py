"""The vocabulary cut, on a toy model in CTranslate2's format: three variables and thirteen tokens."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from stt_core import vocabulary
from stt_core.vocabulary import can_cut, cut_vocabulary, kept_tokens

# In the alphabet of byte-level BPE: Ġ is a space, ìķ half a Hangul letter, ìķĦ one, æĺ¯ a Han letter, âĢĻ a quote.
TOKENS = ["a", "Ġthe", "ìķ", "ìķĦ", "æĺ¯", "âĢĻ", "Ġrare", "<|endoftext|>", "<|ko|>", "<|nospeech|>"]
ROWS = np.arange(len(TOKENS) * 2, dtype=np.float32).reshape(-1, 2)
BIAS = np.arange(len(TOKENS), dtype=np.float32)
OTHER = np.ones((3, 2), np.float32)


def variable(name: str, array: np.ndarray) -> bytes:
    encoded = name.encode() + b"\0"
    header = struct.pack("<H", len(encoded)) + encoded + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return header + struct.pack("<BI", 0, array.nbytes) + array.tobytes()


def model_bin(rows: np.ndarray, bias: np.ndarray) -> bytes:
    variables = [variable("decoder/weight", rows), variable("decoder/bias", bias), variable("encoder/weight", OTHER)]
    return struct.pack("<IH4sII", 6, 4, b"spe\0", 3, len(variables)) + b"".join(variables) + b"aliases"


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(vocabulary, "MULTILINGUAL_TOKENS", len(TOKENS))
    monkeypatch.setattr(vocabulary, "FREQUENT_ASCII_TOKENS", 5)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.bin").write_bytes(model_bin(ROWS, BIAS))
    (folder / "vocabulary.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [1, 4, 9], "lang_ids": [8], "other": [1]}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("languages", "dropped"),
    [({"ko"}, ["æĺ¯", "Ġrare"]), ({"en"}, ["ìķĦ", "æĺ¯"]), ({"ko", "en"}, ["æĺ¯"])],
)
def test_a_language_keeps_its_letters_every_fragment_and_the_special_tokens(model, languages, dropped):
    kept = [TOKENS[i] for i in kept_tokens(TOKENS, languages)]

    assert [token for token in TOKENS if token not in dropped] == kept


def test_only_proven_sets_can_be_cut():
    assert can_cut(["ko"]) and can_cut(("en", "ko"))
    assert not can_cut([]) and not can_cut(["ja"]) and not can_cut(["ko", "ja"]) and not can_cut(["auto"])


def test_the_copy_holds_the_kept_rows_and_everything_else(model, tmp_path):
    cut = cut_vocabulary(model, ["ko"], tmp_path / "cache")

    kept = [0, 1, 2, 3, 5, 7, 8, 9]
    assert kept == cut.kept.tolist()
    assert model_bin(ROWS[kept], BIAS[kept]) == (cut.folder / "model.bin").read_bytes()
    assert [TOKENS[i] for i in kept] == json.loads((cut.folder / "vocabulary.json").read_text(encoding="utf-8"))
    expected = {"suppress_ids": [1, 7], "lang_ids": [6], "other": [1]}
    assert expected == json.loads((cut.folder / "config.json").read_text())
    assert "{}" == (cut.folder / "tokenizer.json").read_text()


def test_a_cut_is_made_once_and_again_when_the_model_changes(model, tmp_path):
    cache = tmp_path / "cache"
    first = cut_vocabulary(model, ["ko"], cache)
    (first.folder / "mark").touch()

    assert (cut_vocabulary(model, ["ko"], cache).folder / "mark").is_file()
    (model / "model.bin").write_bytes(model_bin(ROWS + 1, BIAS) + b"!")
    assert not (cut_vocabulary(model, ["ko"], cache).folder / "mark").exists()
    assert [] == list(cache.glob("cutting-*"))


def test_a_format_of_the_future_is_refused_and_leaves_nothing_behind(model, tmp_path):
    (model / "model.bin").write_bytes(struct.pack("<I", 7))

    with pytest.raises(ValueError, match="format 7"):
        cut_vocabulary(model, ["ko"], tmp_path / "cache")
    assert [] == list((tmp_path / "cache").iterdir())


def test_an_english_only_model_is_left_alone(model, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "MULTILINGUAL_TOKENS", len(TOKENS) + 1)

    with pytest.raises(ValueError, match="English-only"):
        cut_vocabulary(model, ["en"], tmp_path / "cache")

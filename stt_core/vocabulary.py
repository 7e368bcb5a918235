"""Cut a Whisper model's vocabulary to the languages that a server serves.

Every decoding step multiplies by one row for each of 51,865 tokens and then masks, normalises and ranks as many
scores: half of the time of `base` on a CPU, most of it for words of languages that nobody here speaks. So the
rows that the served languages cannot need are left out of a copy of the model, once, in the cache:

    kept     = tokens worth keeping, ascending                    (n,) ids of the whole vocabulary
    weights  = every decoder variable with a row for each token, its rows `kept`
    prompt   = searchsorted(kept, prompt)                         on the way in
    text     = decode(kept[ids])                                  on the way out

A text may be spelled with any fragment of a UTF-8 character, so every fragment stays: leaving out a few hundred
changed 40 % of the Korean texts. Korean needs Hangul and the first 5,000 ASCII tokens (a game's Latin words are
spelled from those), English every ASCII token; both keep digits, punctuation and all special tokens.

Cutting itself loses nothing: told to leave the same tokens out (`suppress_tokens`), the whole model writes the very
texts of the cut one, greedy and with the beam. What changes texts is that the tokens left out no longer take their
share of the probability: a few percent, half of it spread over more than ten thousand tokens, so that no small set
brings it back. Greedy that changes no choice: of 73 texts of Korean people one differs that was spelled in Han, and
two that are believed only now, because what is left is likelier. With a beam, hypotheses that were close change
places (`base`, beam 5; texts equal to the whole model's, as it is and told to leave the others out):

    cut to      tokens    texts    as it is    told    time
    ko           9,051       73          67      73    0.76
    en          41,887       47          47      47    0.92
    ko and en   43,500      120         117     120

CER of the Korean texts is 11.7 %, pooled, and 11.6 % with the whole model (stock faster-whisper: 11.7 %), WER of the
English ones 4.7 % with both. That is up to a quarter of the time for a loss that so few recordings cannot tell from
chance, and a Korean model without Han or kana cannot print them: so a CPU server cuts, unless `cut_vocabulary` is off.
Ranking the beam anew by the whole model would take a second model in memory and a second computation of the memory's
keys and values, and could not bring back what the search never kept.

`python -m local_dev bench engine DATA` measures it again.

The tokenizer stays whole, so the ids of a cut model mean nothing outside the engine that maps them. Some versions
of CTranslate2 take a cut model for an English-only one; there the whole model detects languages.

File format: `ModelSpec._serialize` in OpenNMT/CTranslate2, `python/ctranslate2/specs/model_spec.py`.
"""

import hashlib
import json
import shutil
import struct
import tempfile
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

# The sets of languages for which it is known what to keep.
CUTTABLE = frozenset({frozenset({"ko"}), frozenset({"en"}), frozenset({"ko", "en"})})
# The first merges of the tokenizer are its most frequent: what Korean speech holds of other words.
FREQUENT_ASCII_TOKENS = 5000
RULES = 1  # part of the cache's key: count it up when other tokens are kept
UNCHANGED_FILES = ("tokenizer.json", "preprocessor_config.json")
FIRST_SPECIAL = "<|endoftext|>"
MULTILINGUAL_TOKENS = 51_865  # an English-only model has one less
NEWEST_FORMAT = 6

Ids = NDArray[np.int64]  # (n,)


@dataclass(frozen=True, slots=True)
class CutModel:
    """A copy of a model that knows only some of its tokens."""

    folder: Path
    kept: Ids  # (n,) the ids that the copy's tokens 0 … n - 1 have in the whole model, ascending


def can_cut(languages: Collection[str]) -> bool:
    """Whether it is known what to keep for these languages."""
    return frozenset(languages) in CUTTABLE


def cut_vocabulary(folder: Path, languages: Collection[str], cache_dir: Path) -> CutModel:
    """The model in `folder`, cut to `languages`; taken from `cache_dir` if it was cut before.

    Raises:
        OSError: the model cannot be read or the copy cannot be written.
        ValueError: the model is English-only, or has a format that is not known here.
    """
    target = cache_dir / _name(folder, languages)
    if not target.is_dir():
        cache_dir.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="cutting-", dir=cache_dir))
        try:
            _write_cut(folder, languages, scratch)
            _publish(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return CutModel(target, np.load(target / "kept.npy"))


def _name(folder: Path, languages: Collection[str]) -> str:
    """What the cut of this very model is called, for these languages, by these rules."""
    model = (folder / "model.bin").resolve()
    status = model.stat()
    identity = f"{RULES} {model} {status.st_size} {status.st_mtime_ns}"
    return f"cut-{'-'.join(sorted(languages))}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _publish(scratch: Path, target: Path) -> None:
    """Rename the finished folder into place in one step. Whoever comes second uses the first one's."""
    scratch.chmod(0o755)
    try:
        scratch.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _write_cut(folder: Path, languages: Collection[str], scratch: Path) -> None:
    tokens = _tokens(folder)
    if len(tokens) < MULTILINGUAL_TOKENS:
        raise ValueError("the model is English-only")
    kept = kept_tokens(tokens, languages)
    with (folder / "model.bin").open("rb") as source, (scratch / "model.bin").open("wb") as output:
        _cut_weights(source, output, len(tokens), kept)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("suppress_ids", "suppress_ids_begin", "lang_ids"):
        if config.get(key):
            config[key] = np.searchsorted(kept, np.intersect1d(config[key], kept)).tolist()
    (scratch / "config.json").write_text(json.dumps(config), encoding="utf-8")
    vocabulary = json.dumps([tokens[i] for i in kept], ensure_ascii=False)
    (scratch / "vocabulary.json").write_text(vocabulary, encoding="utf-8")
    np.save(scratch / "kept.npy", kept)
    for name in UNCHANGED_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, scratch / name)


def _tokens(folder: Path) -> list[str]:
    """The tokens of a model in the order of their ids, in the alphabet of byte-level BPE."""
    if (folder / "vocabulary.json").is_file():
        return list(json.loads((folder / "vocabulary.json").read_text(encoding="utf-8")))
    return (folder / "vocabulary.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def kept_tokens(tokens: Sequence[str], languages: Collection[str]) -> Ids:
    """The ids of the tokens, ascending, that texts in these languages are made of.

    Args:
        tokens: the whole vocabulary in the alphabet of byte-level BPE.
        languages: of `ko` and `en`, one or both.
    """
    byte_of = _bytes_by_character()
    first_special = tokens.index(FIRST_SPECIAL)
    frequent = len(tokens) if "en" in languages else FREQUENT_ASCII_TOKENS
    hangul = "ko" in languages

    def is_kept(number: int, token: str) -> bool:
        if number >= first_special:  # and the languages, the tasks and the timestamps behind it
            return True
        try:
            text = bytes(byte_of[character] for character in token).decode()
        except UnicodeDecodeError:
            return True  # a fragment of a character
        if text.isascii():
            return number < frequent or len(text) <= 1
        return all(_is_common(character) or (hangul and _is_hangul(character)) for character in text)

    return np.array([i for i, token in enumerate(tokens) if is_kept(i, token)], np.int64)


def _is_common(character: str) -> bool:
    """Whether a character belongs to no script: a digit, a dash, a quote, a currency."""
    return not unicodedata.category(character).startswith("L")


def _is_hangul(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3" or "\u1100" <= character <= "\u11ff" or "\u3130" <= character <= "\u318f"


def _bytes_by_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: every byte is a printable character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _cut_weights(source: BinaryIO, output: BinaryIO, rows: int, kept: Ids) -> None:
    """Copy a `model.bin`; of variables that have `rows` rows, one for each token, copy those in `kept`."""

    def copy(count: int) -> bytes:
        data = source.read(count)
        output.write(data)
        return data

    def copy_number(kind: str) -> int:
        return int(struct.unpack(kind, copy(struct.calcsize(kind)))[0])

    def copy_text() -> bytes:
        return copy(copy_number("<H"))

    cut = 0
    if (version := copy_number("<I")) > NEWEST_FORMAT:
        raise ValueError(f"model.bin has format {version}, and only formats up to {NEWEST_FORMAT} are known")
    copy_text()  # the specification's name
    copy_number("<I")  # and revision
    for _ in range(copy_number("<I")):
        name = copy_text()
        rank = copy_number("<B")
        shape = list(struct.unpack(f"<{rank}I", source.read(4 * rank)))
        kind, size = struct.unpack("<BI", source.read(5))
        data = source.read(size)
        if name.startswith(b"decoder/") and shape[:1] == [rows]:
            data = np.frombuffer(data, np.uint8).reshape(rows, -1)[kept].tobytes()
            shape[0] = len(kept)
            cut += 1
        output.write(struct.pack(f"<{rank}IBI", *shape, kind, len(data)))
        output.write(data)
    if not cut:
        raise ValueError(f"model.bin has no weights for its {rows} tokens")
    shutil.copyfileobj(source, output)  # the aliases

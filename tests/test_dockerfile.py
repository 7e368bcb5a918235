"""The Dockerfile, without Docker: its lock, its promises, and its steps, one by one, in a scratch folder.

The image itself is not built here. What is run are its own commands, with its own environment, on the files that it
copies and the distributions that its lock names; only the paths are moved.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from modal_stand_in.container import link
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from servers import REPOSITORY, Address, environment, free_port, wait_until

TEXT = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
LOCK = (REPOSITORY / "locks" / "container.txt").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """(`RUN`, what follows), in order, comments and line ends gone."""
    lines = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", lines)
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for instruction in instructions():
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def of(kind: str, stage: list[tuple[str, str]]) -> list[str]:
    return [rest for name, rest in stage if name == kind]


def variables(stage: list[tuple[str, str]]) -> dict[str, str]:
    """What ENV sets, with the defaults of ARG in it."""
    arguments = dict(rest.split("=", 1) for rest in of("ARG", stage))
    pairs = [word.split("=", 1) for rest in of("ENV", stage) for word in shlex.split(rest)]
    return {name: re.sub(r"^\$(\w+)$", lambda found: arguments[found[1]], value) for name, value in pairs}


PACKAGES, MODEL, SERVER = stages()


# Its promises


def test_every_base_is_pinned():
    for stage in (PACKAGES, SERVER):
        assert re.fullmatch(r"python:3\.12\.\d+-slim-bookworm( AS \w+)?", of("FROM", stage)[0])


def test_it_is_not_root_and_root_does_nothing_after():
    names = [name for name, _ in SERVER]
    assert ["10001:10001"] == of("USER", SERVER)
    assert {"EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"} == set(names[names.index("USER") + 1 :])


def test_nothing_is_downloaded_or_compiled_at_run_time():
    assert "1" == variables(SERVER)["HF_HUB_OFFLINE"]
    assert "1" == variables(SERVER)["PYTHONDONTWRITEBYTECODE"]


def test_all_that_it_copies_is_there_and_let_through():
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split("\n")
    for stage in (PACKAGES, MODEL, SERVER):
        for source, _ in (rest.split() for rest in of("COPY", stage) if not rest.startswith("--from")):
            assert (REPOSITORY / source).exists()
            assert f"!{source}" in ignored
    assert "*" in ignored


def test_it_stops_and_is_looked_after_as_the_server_expects():
    assert ["SIGTERM"] == of("STOPSIGNAL", SERVER)
    [check] = of("HEALTHCHECK", SERVER)
    assert "/readyz" in check


# Its lock


def test_the_lock_fits_the_project_and_has_hashes_and_no_address():
    pins = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE)}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [Requirement(line) for line in project["dependencies"] + extras["gpu"] + extras["local"]]

    assert [] == [str(need) for need in needed if pins.get(canonicalize_name(need.name), "") not in need.specifier]
    assert len(pins) == len(re.findall(r"^[\w.-]+==\S+ \\\n +--hash=sha256:", LOCK, re.MULTILINE))
    assert "://" not in LOCK


# Its steps

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="folders of links, and signals")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """What the image would hold, but for Python: the packages of the lock, the model, the copied folders."""
    folder = tmp_path_factory.mktemp("image")
    link(re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE), folder / "site")
    (folder / "app").mkdir()
    for name in ("stt_core", "local_dev"):
        shutil.copytree(REPOSITORY / name, folder / "app" / name, ignore=shutil.ignore_patterns("__pycache__"))
    [step] = of("RUN", MODEL)
    here = shlex.split(moved(step, folder))
    make, prepare = here[: here.index("&&")], here[here.index("&&") + 1 :]
    run(make, folder, variables(MODEL))
    run(prepare, folder, variables(MODEL))
    return folder


def moved(text: str, folder: Path) -> str:
    """The image's paths, in the scratch folder."""
    return text.replace("/venv/bin/python", f"{sys.executable} -S").replace("/model", f"{folder}/model")


def settings(folder: Path, given: dict[str, str], **more: str) -> dict[str, str]:
    kept = {name: value for name, value in environment().items() if not name.startswith(("STT_", "HF_", "PYTHON"))}
    here = {name: moved(value, folder) for name, value in given.items() if name != "PATH"}
    return kept | here | {"PYTHONPATH": str(folder / "site"), "HOME": "/nonexistent"} | more


def run(command: list[str], folder: Path, given: dict[str, str]) -> None:
    subprocess.run(command, cwd=folder / "app", env=settings(folder, given), check=True, timeout=180)


def listing(folder: Path) -> set[tuple[str, int, int]]:
    return {
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns)
        for parent, _, files in os.walk(folder)
        for path in (Path(parent) / name for name in files)
    }


@POSIX
@pytest.mark.model
def test_the_model_is_in_the_image_and_prepared(root):
    made = [path.relative_to(root / "model") for path in (root / "model").rglob("model.bin")]
    assert 2 == len(made)  # the whole one, and one that a CPU decodes faster


@POSIX
@pytest.mark.model
def test_the_server_starts_is_healthy_stops_and_has_written_nothing(root, tmp_path):
    before = listing(root)
    port = str(free_port())
    given = settings(root, variables(SERVER), STT_PORT=port, STT_HOST="127.0.0.1", STT_TOKEN="swordfish")
    words = json.loads(moved_words(of("CMD", SERVER)[0]))
    check = json.loads(moved_words(of("HEALTHCHECK", SERVER)[0].partition("CMD ")[2]))
    address = Address(int(port))
    assert 0 != subprocess.run(check, env=given, capture_output=True, timeout=30).returncode  # nobody is there yet
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(words, cwd=root / "app", env=given, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: address.status("/readyz") == 200 or process.poll() is not None, "the server", 120)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert 0 == subprocess.run(check, env=given, capture_output=True, timeout=30).returncode
        process.terminate()
        assert 0 == process.wait(30)
    finally:
        process.kill()
        process.wait()
    assert before == listing(root)
    assert "not cut" not in log.read_text(encoding="utf-8")


def moved_words(words: str) -> str:
    """An exec form, with this Python in place of the image's."""
    return words.replace('"/venv/bin/python"', f'"{sys.executable}", "-S"')


@POSIX
@pytest.mark.model
def test_without_a_token_it_says_what_to_do(root):
    given = settings(root, variables(SERVER))
    words = json.loads(moved_words(of("CMD", SERVER)[0]))

    result = subprocess.run(words, cwd=root / "app", env=given, capture_output=True, text=True, timeout=60)

    assert 1 == result.returncode
    assert "needs a token" in result.stderr
    assert "Traceback" not in result.stderr

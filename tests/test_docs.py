"""The documents say what the code does, in both languages."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from local_dev import serve
from stt_core.messages import CLOSE_CODES
from stt_core.settings import ENVIRONMENT_PREFIX, Settings

REPOSITORY = Path(__file__).parent.parent
READMES = [REPOSITORY / "README.md", REPOSITORY / "README.ko.md"]
ENGLISH, KOREAN = (path.read_text(encoding="utf-8") for path in READMES)


def code_blocks(text: str, language: str | None = None) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if language in (None, name)]


def table_keys(text: str) -> list[str]:
    """The first cell of every table row, where it is code."""
    return re.findall(r"^\| (`[^|]*?`) \|", text, re.MULTILINE)


def test_both_readmes_have_the_same_code() -> None:
    assert code_blocks(ENGLISH) == code_blocks(KOREAN)


def test_the_readme_shows_what_the_server_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "console", Console(width=200))
    monkeypatch.setattr(serve, "this_python", lambda: ".venv/bin/python")
    serve.greet(Settings(debug_audio=serve.RECORDINGS), "127.0.0.1", 8018)

    [shown] = [block for block in code_blocks(ENGLISH, "text") if "stop       Ctrl+C" in block]
    assert shown.partition("\n")[2] == capsys.readouterr().out.replace("\\", "/")


def test_both_readmes_have_the_same_shape() -> None:
    assert re.findall(r"^#+", ENGLISH, re.MULTILINE) == re.findall(r"^#+", KOREAN, re.MULTILINE)
    assert table_keys(ENGLISH) == table_keys(KOREAN)
    assert ENGLISH.count("\n| ") == KOREAN.count("\n| ")
    assert ENGLISH.count("\n- ") == KOREAN.count("\n- ")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_settings_in_the_table_are_settings(readme: Path) -> None:
    rows = re.findall(r"^\| `--([a-z-]+)` \| `(\w+)` \| (.*?) \|", readme.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(rows) > 5
    for option, variable, default in rows:
        name = option.replace("-", "_")
        value = Settings.model_fields[name].default
        assert ENVIRONMENT_PREFIX + name.upper() == variable
        assert value is None or isinstance(value, bool) or f"`{value}`" == default


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_extra_is_named(readme: Path) -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in project["optional-dependencies"]:
        assert f"| `{extra}` |" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_close_code_is_explained(readme: Path) -> None:
    sources = [(REPOSITORY / "stt_core" / name).read_text() for name in ("connection.py", "server.py", "session.py")]
    codes = {code for source in sources for code in re.findall(r"\bProtocolError\(\s*(\d{4})", source)}
    codes |= {str(code) for code in CLOSE_CODES.values()}

    assert codes
    for code in codes:
        assert f"| {code} |" in readme.read_text(encoding="utf-8")


def test_the_links_lead_somewhere() -> None:
    for text in (ENGLISH, KOREAN):
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (REPOSITORY / target).exists(), target


@pytest.mark.model
def test_the_http_examples_run() -> None:
    """The line for curl and the one for OpenAI's client, as they stand in docs/http.md."""
    from servers import running_server

    page = (REPOSITORY / "docs" / "http.md").read_text(encoding="utf-8")
    [python] = code_blocks(page, "python")
    [curl] = code_blocks(page, "sh")
    [printed] = code_blocks(page, "text")
    assert {python, curl, printed} <= {*code_blocks((REPOSITORY / "docs" / "http.ko.md").read_text(encoding="utf-8"))}
    with running_server() as server:
        example = python.replace("http://127.0.0.1:8018", server.http)
        answer = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", example],
            cwd=REPOSITORY,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert answer.stdout.startswith("엄마 [('엄마', "), answer.stderr
        if shutil.which("curl"):
            command = shlex.split(curl.replace("http://127.0.0.1:8018", server.http))
            answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", timeout=120)
            assert printed == answer.stdout + "\n"


@pytest.mark.model
def test_the_library_example_runs() -> None:
    [example] = [block for block in code_blocks(ENGLISH, "python") if "Transcriber" in block]
    printed = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", example],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )

    assert "엄마\n" == printed.stdout, printed.stderr


@pytest.mark.model
def test_the_client_examples_run() -> None:
    from servers import running_server

    examples = {"connect(": "정답은청개구리입니다", "Client(": "엄마"}
    with running_server() as server:
        for part, text in examples.items():
            [example] = [block for block in code_blocks(ENGLISH, "python") if part in block]
            printed = subprocess.run(
                [sys.executable, "-X", "utf8", "-c", example.replace("ws://127.0.0.1:8018/ws/audio", server.url)],
                cwd=REPOSITORY,
                capture_output=True,
                encoding="utf-8",
                timeout=120,
            )
            assert text == re.sub(r"\W", "", printed.stdout), printed.stderr

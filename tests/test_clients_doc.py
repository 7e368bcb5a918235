"""The clients of docs/clients.md do what they say: their very text runs against a real server."""

import asyncio
import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import ANSWER_S, REPOSITORY, STOP_S, TEST_AUDIO, ServerProcess, environment, letters, running_server
from websockets.asyncio.client import connect

from local_dev.cli import build_parser
from stt_core.client_socket import HOPELESS_CLOSES

DOCUMENTS = [REPOSITORY / "docs" / name for name in ("clients.md", "clients.ko.md")]
ENGLISH, KOREAN = (path.read_text(encoding="utf-8") for path in DOCUMENTS)
TESTS = Path(__file__).parent
ADDRESS = "ws://127.0.0.1:8018/ws/audio"
TOKEN = "sesame"
MOM = TEST_AUDIO / "mom.wav"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def block(language: str, holding: str) -> str:
    """The only code of this language that holds these words."""
    [found] = [code for code in blocks(ENGLISH, language) if holding in code]
    return found


def pcm_of(path: Path) -> bytes:
    with wave.open(str(path)) as recording:
        return recording.readframes(recording.getnframes())


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server() as process:
        yield process


# -- the document


def test_both_languages_have_the_same_code() -> None:
    assert re.findall(r"^```.*?^```", ENGLISH, re.MULTILINE | re.DOTALL) == re.findall(
        r"^```.*?^```", KOREAN, re.MULTILINE | re.DOTALL
    )


def test_both_languages_have_the_same_shape() -> None:
    for pattern in (r"^#+", r"^\| ?`[^|]*`", r"^\|", r"^- "):
        assert len(re.findall(pattern, ENGLISH, re.MULTILINE)) == len(re.findall(pattern, KOREAN, re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    headings = {
        "#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        assert target in headings or (path.parent / target).exists(), target


def test_the_commands_are_understood() -> None:
    commands = [line.partition("#")[0].split()[3:] for line in blocks(ENGLISH, "sh")[0].splitlines()]
    assert 6 == len(commands)
    for words in commands:
        assert "client" == build_parser().parse_args(words).command


def test_every_client_stops_where_trying_again_is_hopeless() -> None:
    for code in (block("html", "hopeless"), block("csharp", "Converse"), block("cpp", "bHopeless = Code")):
        named = {int(number) for number in re.findall(r"\b(?:1009|44\d\d)\b", code)}
        assert {1009, 4400, 4401, 4415} == named
        assert named <= HOPELESS_CLOSES


# -- Python


def run_python(code: str, server: ServerProcess, **variables: str) -> str:
    """What the code prints when the server is where it says."""
    assert ADDRESS in code
    finished = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code.replace(ADDRESS, server.url)],
        cwd=REPOSITORY,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=ANSWER_S,
        check=False,
    )
    assert "" == finished.stderr
    return finished.stdout


@pytest.mark.model
def test_the_ten_lines_of_python_run(server: ServerProcess) -> None:
    code = block("python", "websockets.sync")
    assert 10 >= len([line for line in code.splitlines() if line])
    assert "엄마\n" == run_python(code, server)


@pytest.mark.model
def test_the_library_runs_push_to_talk(server: ServerProcess) -> None:
    assert re.fullmatch(r"엄마 \d+ ms\n", run_python(block("python", "question-1"), server))


def test_the_library_says_in_a_sentence_what_is_wrong() -> None:
    code = block("python", "question-1").replace(":8018", ":1")
    finished = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=False
    )
    assert ("", 0) == (finished.stderr, finished.returncode)
    assert finished.stdout.startswith("No server answers at ws://127.0.0.1:1/ws/audio")


SOUNDDEVICE = f"""
import threading, time, wave

def query_devices(kind):
    return {{"default_samplerate": 16000.0}}

class RawInputStream:
    def __init__(self, rate, blocksize, channels, dtype, callback):
        assert (16000, 1, "int16") == (rate, channels, dtype)
        self.hear, self.blocksize = callback, blocksize

    def __enter__(self):
        threading.Thread(target=self.play, daemon=True).start()

    def play(self):
        with wave.open({str(MOM)!r}) as recording:
            pcm = recording.readframes(recording.getnframes()) + bytes(2 * 32000)
        while True:  # a busy machine may put a pause into the word
            for begin in range(0, len(pcm), 2 * self.blocksize):
                time.sleep(self.blocksize / 16000)
                self.hear(pcm[begin : begin + 2 * self.blocksize], None, None, None)

    def __exit__(self, *_):
        pass
"""


@pytest.mark.model
def test_the_library_runs_an_open_microphone(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(SOUNDDEVICE)
    code = block("python", "import sounddevice").replace(ADDRESS, server.url)
    shown = []
    with subprocess.Popen(
        [sys.executable, "-X", "utf8", "-c", code],
        cwd=REPOSITORY,
        env=environment(PYTHONPATH=f"{tmp_path}:{REPOSITORY}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    ) as process:
        try:
            for line in process.stdout:
                shown.append(line.rsplit("\r")[-1].strip())
                if "엄마" == shown[-1]:
                    break
        finally:
            process.kill()
    assert ["connected", "엄마"] == [shown[0], shown[-1]]


# -- JavaScript


@contextmanager
def web_page(folder: Path) -> Iterator[str]:
    """A web server for this folder; yields its origin."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_address[1]}"
        finally:
            web.shutdown()
            thread.join(STOP_S)


@pytest.mark.browser
@pytest.mark.model
def test_the_page_shows_what_the_microphone_hears(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install Chromium to run this test"
    microphone = tmp_path / "microphone.wav"
    with wave.open(str(microphone), "wb") as target:
        target.setparams((1, 2, 16_000, 0, "NONE", ""))
        target.writeframes(pcm_of(MOM) + bytes(2 * 32_000))
    code = block("html", "AudioWorkletProcessor")
    with (
        web_page(tmp_path) as origin,
        running_server("--allowed-origins", origin) as server,
        sync_playwright() as playwright,
    ):
        assert ADDRESS in code
        (tmp_path / "speech.html").write_text(code.replace(ADDRESS, server.url), encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--disable-component-update",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{origin}/speech.html")
        page.click("#talk")
        page.wait_for_function("document.querySelector('#partial').textContent !== ''", timeout=30_000)
        # The microphone plays for ever, and whoever opens it in the middle of the word hears half of it first.
        said = "[...document.querySelectorAll('#finals li')].some(li => /^엄마[^가-힣]*$/.test(li.textContent))"
        page.wait_for_function(said, timeout=60_000)
        # A word that was opened in its middle may be called cut, which is right.
        assert ([], False) == (wrong, "closed" in (page.text_content("#status") or ""))
        browser.close()


# -- C#


@pytest.fixture
def unity(tmp_path: Path) -> list[str]:
    """A program that holds the client for Unity and our stand-ins for Unity itself."""
    if not (shutil.which("mcs") and shutil.which("mono")):
        pytest.skip("needs Mono's compiler and runtime: apt install mono-mcs mono-runtime libmono-system-core4.0-cil")
    (tmp_path / "Speech.cs").write_text(block("csharp", "MonoBehaviour"), encoding="utf-8")
    program = tmp_path / "harness.exe"
    sources = [tmp_path / "Speech.cs", TESTS / "unity_harness.cs"]
    compiled = subprocess.run(
        ["mcs", "-langversion:7", "-warnaserror", *map(str, sources), f"-out:{program}"], capture_output=True, text=True
    )
    assert 0 == compiled.returncode, compiled.stderr
    return ["mono", str(program)]


def run_unity(program: list[str], tmp_path: Path, url: str, token: str = "") -> list[str]:
    (tmp_path / "mom.pcm").write_bytes(pcm_of(MOM))
    finished = subprocess.run(
        [*program, url, token, str(tmp_path / "mom.pcm")], capture_output=True, encoding="utf-8", timeout=ANSWER_S
    )
    assert (0, "") == (finished.returncode, finished.stderr)
    return finished.stdout.splitlines()


@pytest.mark.model
def test_the_client_for_unity_gets_its_line(server: ServerProcess, unity: list[str], tmp_path: Path) -> None:
    assert "line 엄마" == run_unity(unity, tmp_path, server.url)[0]


@pytest.mark.model
def test_the_client_for_unity_sends_its_token(unity: list[str], tmp_path: Path) -> None:
    with running_server("--token", TOKEN) as guarded:
        assert "line 엄마" == run_unity(unity, tmp_path, guarded.url, TOKEN)[0]
        assert "closed 4401" == run_unity(unity, tmp_path, guarded.url, "wrong")[0]


# -- C++


@pytest.fixture(scope="module")
def unreal(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the client for Unreal does with its socket while somebody says mom.wav, a line for each act."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("unreal")
    header, source = block("cpp", "// Speech.h."), block("cpp", "// Speech.cpp")
    (folder / "Speech.h").write_text(header, encoding="utf-8")
    (folder / "Speech.cpp").write_text(source, encoding="utf-8")
    for name in re.findall(r'#include "(.*?)"', header + source):
        if name != "Speech.h":
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text('#include "unreal_declarations.h"\n')
    sources = [folder / "Speech.cpp", TESTS / "unreal_harness.cpp"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    compiled = subprocess.run(
        ["g++", "-std=c++20", *warnings, f"-I{folder}", f"-I{TESTS}", *map(str, sources), "-o", str(folder / "speech")],
        capture_output=True,
        text=True,
    )
    assert 0 == compiled.returncode, compiled.stderr
    played = subprocess.run([str(folder / "speech")], input=pcm_of(MOM), capture_output=True, check=True, timeout=60)
    return played.stdout.decode().splitlines()


def test_the_client_for_unreal_listens_before_it_connects(unreal: list[str]) -> None:
    created = "create ws://server/ws/audio?endpointing=off&sample_rate=16000 protocol= Authorization: Bearer sesame"
    assert [created, "connect listening=1"] == unreal[:2]


def test_the_client_for_unreal_comes_back_but_not_to_a_wrong_token(unreal: list[str]) -> None:
    after = unreal[unreal.index("text flush") + 1 :]
    assert ["line heard", "closed 1012 restarting"] == after[:2]
    assert [unreal[0], "connect listening=1", "closed 4401 wrong token"] == after[2:]


def test_the_client_for_unreal_sends_binary_messages_and_then_flush(unreal: list[str]) -> None:
    kinds = [line.partition(" ")[0] for line in unreal if line.startswith(("binary", "text"))]
    assert 10 < kinds.count("binary") < 20  # 1.3 s and what came before the key, 100 ms each
    assert ["text"] == kinds[kinds.count("binary") :]


@pytest.mark.model
def test_what_the_client_for_unreal_sends_is_understood(server: ServerProcess, unreal: list[str]) -> None:
    async def replay() -> str:
        async with connect(server.url + "?endpointing=off&sample_rate=16000") as socket:
            for line in unreal:
                kind, _, content = line.partition(" ")
                if kind in ("binary", "text"):
                    await socket.send(bytes.fromhex(content) if kind == "binary" else content)
            return str(await asyncio.wait_for(socket.recv(), ANSWER_S))

    assert "엄마" == letters(asyncio.run(replay()))

"""The page in a real Chromium, whose microphone plays a WAV file."""

import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
pytestmark = [pytest.mark.browser, pytest.mark.model]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A real server's page."""
    from servers import running_server

    with running_server() as server:
        yield server.http


@pytest.fixture
def looping_microphone(tmp_path: Path) -> Path:
    """mom.wav with two seconds of silence behind it, which Chromium plays again and again."""
    path = tmp_path / "microphone.wav"
    with wave.open(str(REPOSITORY / "test_audio" / "mom.wav")) as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(source.getnframes()) + bytes(2 * 16_000 * 2))
    return path


def test_the_microphone_button_shows_what_was_said(address: str, looping_microphone: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install Chromium to run this test"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--disable-component-update",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={looping_microphone}",
            ],
        )
        page = browser.new_page()
        page.goto(address)
        assert page.text_content("#address") == address.replace("http", "ws") + "/ws/audio"
        page.click("#microphone")
        # The microphone plays for ever, and whoever opens it in the middle of the word hears half of it first.
        said = "[...document.querySelectorAll('#lines li')].some(li => li.textContent === '엄마')"
        page.wait_for_function(said, timeout=60_000)
        page.screenshot(path=str(tmp_path / "page.png"))
        page.click("#microphone")
        assert page.get_attribute("#microphone", "aria-pressed") == "false"
        browser.close()

"""The real thing: deploy, talk, hold a socket past Modal's default of five minutes, tear down. It costs some cents.

    MODAL_TOKEN_ID=ak-… MODAL_TOKEN_SECRET=as-… pytest -m live -s

Runs only where those are set. It deploys into a Modal environment of its own, which is deleted with all that is in
it. `STT_*` variables of the shell choose GPU, region and model, as for any deployment. The first contact is a cold
start; the table shows what it took, and what a warm container takes.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.request import Request, urlopen

import pytest
from servers import REPOSITORY

from local_dev.smoke import run_smoke

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif("MODAL_TOKEN_ID" not in os.environ, reason="needs MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"),
]

SECRET = "game-stt"
BUILD_S = 1800  # the image, with its weights
HOLD_S = 6 * 60.0


@dataclass(frozen=True, slots=True)
class Deployed:
    url: str
    token: str
    environment: str


def modal(*words: str, timeout_s: float = 120, **variables: str) -> str:
    """Run the CLI, which must succeed; return what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "modal", *words],
        cwd=REPOSITORY,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert 0 == result.returncode, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    environment, token = f"game-stt-{secrets.token_hex(3)}", secrets.token_urlsafe()
    modal("environment", "create", environment)
    try:
        modal("secret", "create", "--env", environment, SECRET, f"STT_TOKEN={token}")
        printed = modal("deploy", "--env", environment, "modal_app.py", timeout_s=BUILD_S, STT_SECRET=SECRET)
        found = re.search(r"https://\S+\.modal\.run", printed)
        assert found, printed
        yield Deployed(found[0], token, environment)
    finally:
        modal("environment", "delete", "--yes", environment)


def test_a_player_is_answered_cold_and_warm_and_for_longer_than_five_minutes(deployed):
    assert 0 == run_smoke(deployed.url, deployed.token, HOLD_S)


def test_it_says_that_it_is_ready_and_counts(deployed):
    with urlopen(f"{deployed.url}/readyz", timeout=300) as response:
        assert "ready" == json.load(response)["status"]
    asked = Request(f"{deployed.url}/metrics", headers={"Authorization": f"Bearer {deployed.token}"})
    with urlopen(asked, timeout=60) as response:
        assert b"stt_utterances_total" in response.read()


def test_modal_run_prints_what_was_said(deployed):
    printed = modal(
        "run", "--env", deployed.environment, "modal_app.py", "--wav", "test_audio/mom.wav", timeout_s=BUILD_S
    )
    assert re.search(r"^엄마\W*$", printed, re.MULTILINE), printed

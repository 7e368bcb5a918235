"""`python -m local_dev smoke`, against servers of this machine."""

import pytest
from servers import fake_server, free_port

from local_dev.smoke import SmokeError, duration_s, run_smoke, socket_address
from stt_core.fakes import FakeEngine
from stt_core.settings import Settings

TOKEN = "swordfish"


def rows(output: str) -> list[str]:
    """The table's lines, without its head."""
    return [" ".join(line.split()) for line in output.splitlines() if line.lstrip().startswith(("✓", "✗"))]


@pytest.fixture(scope="module")
def server():
    with fake_server(FakeEngine(lambda _: "yes"), Settings(token=TOKEN)) as address:
        yield address


def test_a_server_that_does_everything_right(server, capsys):
    assert 0 == run_smoke(server.url, TOKEN, hold_s=0.1)

    first, warm, wrong, nonsense, held = rows(capsys.readouterr().out)
    for line, name in ((first, "first contact"), (warm, "JSON, warm"), (held, "held for")):
        assert line.startswith(f"✓ {name}")
        assert line.endswith("ms yes 1000")
    assert wrong.startswith("✓ wrong token")
    assert " 4401 wrong token" in wrong
    assert nonsense.startswith("✓ nonsense")
    assert " 4400 " in nonsense


def test_without_a_token_where_one_is_needed(server, capsys):
    assert 1 == run_smoke(server.http, None)

    output = capsys.readouterr().out
    assert all(line.startswith("✗") for line in rows(output))
    assert " 4401 " in rows(output)[0]
    assert "first contact: the server closed the connection" in " ".join(output.split())


def test_a_server_that_hears_nothing_fails(capsys):
    with fake_server(FakeEngine(lambda _: "")) as address:
        assert 1 == run_smoke(address.url)

    assert "JSON, warm: nothing was understood" in " ".join(capsys.readouterr().out.split())


def test_nobody_there_is_one_line(capsys):
    assert 1 == run_smoke(f"ws://127.0.0.1:{free_port()}/ws/audio", TOKEN)

    output = capsys.readouterr().out
    assert 1 == len(rows(output))
    assert "nobody answers there" in output


def test_a_path_that_is_none(server, capsys):
    assert 1 == run_smoke(f"{server.http}/ws/nothing", TOKEN)

    assert "instead of a WebSocket; is the path /ws/audio?" in " ".join(capsys.readouterr().out.split())


def test_the_token_is_never_shown(server, capsys):
    run_smoke(server.url, "tell-nobody-of-this")
    run_smoke(f"{server.url}?token=tell-nobody-of-this")

    shown = capsys.readouterr()
    assert "tell-nobody" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("address", "socket"),
    [
        ("https://me--game-stt.modal.run", "wss://me--game-stt.modal.run/ws/audio"),
        ("https://me--game-stt.modal.run/", "wss://me--game-stt.modal.run/ws/audio"),
        ("wss://me--game-stt.modal.run/ws/audio?token=x", "wss://me--game-stt.modal.run/ws/audio?token=x"),
        ("http://127.0.0.1:8018", "ws://127.0.0.1:8018/ws/audio"),
    ],
)
def test_the_address_that_a_deployment_prints_will_do(address, socket):
    assert socket == socket_address(address)


@pytest.mark.parametrize("address", ["game-stt.modal.run", "ftp://x/y", "wss://", ""])
def test_what_is_no_address_is_a_sentence(address):
    with pytest.raises(SmokeError, match="one looks like wss://"):
        run_smoke(address)


def test_a_token_that_cannot_travel_is_a_sentence():
    with pytest.raises(SmokeError, match="letters, digits and signs"):
        run_smoke("wss://example.org", "한글")


def test_times_have_units():
    assert [90.0, 360.0, 3600.0, 5.0] == [duration_s(text) for text in ("90s", "6m", "1h", "5")]
    for text in ("soon", "6 m", "-1m", ""):
        with pytest.raises(SmokeError, match="such as 90s, 6m or 1h"):
            duration_s(text)

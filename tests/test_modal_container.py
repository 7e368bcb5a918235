"""What was deployed, run: Modal's own container runtime serves our class, and clients cannot tell it from uvicorn.

One container with the embedded model serves the whole suite. Others show what a container goes through: a cold start,
a snapshot, an interruption, a file or a package that the image lacks.
"""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import Address, running_server, wait_until

pytest.register_assert_rewrite("contract")

from contract import (  # noqa: E402  # after the line that makes its asserts tell what came
    MOM,
    SETTINGS,
    TOKEN,
    Contract,
    closed,
    connected,
    line,
    message,
    pcm,
    stream,
    wait_for_sessions,
)
from modal_stand_in import Container, StandIn  # noqa: E402
from modal_stand_in.container import REVISION  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402

from local_dev.smoke import run_smoke  # noqa: E402

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="a container's process is looked into by /proc"),
]

SECRET = "game-stt"
# The embedded model, as the hub has it, on a CPU: what else is deployed is what is always deployed.
DEPLOYED = {
    "STT_MODEL": f"base@{REVISION}",
    "STT_DEVICE": "cpu",
    "STT_SECRET": SECRET,
    "STT_MAX_SESSIONS": SETTINGS["STT_MAX_SESSIONS"],
}


@pytest.fixture(scope="module")
def modal(tmp_path_factory) -> Iterator[StandIn]:
    """Modal, with the app deployed to it."""
    with StandIn(tmp_path_factory.mktemp("modal")) as stand_in:
        stand_in.control_plane.secret_values[SECRET] = {"STT_TOKEN": SETTINGS["STT_TOKEN"]}
        deployed = stand_in.cli("deploy", "modal_app.py", **DEPLOYED)
        assert 0 == deployed.returncode, deployed.stdout
        yield stand_in


def first_words(address: Address) -> str:
    """What a player hears who came when there was no container."""
    with connected(address) as socket:
        stream(socket, pcm("mom"))
        socket.send("flush")
        return line(socket)


@pytest.fixture(scope="module")
def container(modal: StandIn) -> Iterator[Container]:
    """A container that a waiting player has woken up."""
    with ThreadPoolExecutor(1) as player:
        words = player.submit(first_words, modal.address)
        wait_until(lambda: not modal.control_plane.inputs.empty(), "the player's handshake")
        with modal.container() as running:
            assert MOM == words.result()
            yield running
            assert "Traceback" not in running.output, running.output


@pytest.fixture(scope="module", params=["uvicorn", "modal"])
def service(request) -> Iterator[Address]:
    if request.param == "modal":
        request.getfixturevalue("container")
        yield request.getfixturevalue("modal").address
    else:
        with running_server(**SETTINGS) as server:
            yield server
            assert "Traceback" not in server.output, server.output


class TestEverywhere(Contract):
    """The whole suite, on each."""


# -- only on Modal


def test_the_client_is_somebody_of_the_internet_to_the_app(modal, container):
    """Behind a proxy that the app takes for this machine, nobody would have an audio budget."""
    with connected(modal.address, "?events=json&endpointing=off") as socket:
        limit_s = message(socket, "ready")["limits"]["audio_burst_s"]
        for _ in range(int(limit_s) // 60 + 1):
            socket.send(bytes(60 * 32_000))
        assert "rate_limited" == message(socket, "error")["code"]
        assert 4429 == closed(socket)[0]


def test_the_smoke_test_finds_nothing_wrong(modal, container, capsys):
    assert 0 == run_smoke(modal.address.http, TOKEN), capsys.readouterr().out


def test_a_cancelled_session_is_released_with_all_that_was_pending(modal, container):
    """A time-out or a preemption cancels the input: the handler gets CancelledError, and no disconnect."""
    wait_for_sessions(modal.address, 0)
    with connected(modal.address, "?endpointing=off") as speaking, connected(modal.address) as listening:
        for _ in range(6):  # enough for some of it to be waiting still
            speaking.send(pcm("two_sentences"))
            speaking.send("flush")
        wait_for_sessions(modal.address, 2)

        modal.cancel_sockets()

        for socket in (speaking, listening):
            with pytest.raises(ConnectionClosed):
                while True:
                    line(socket)
    wait_for_sessions(modal.address, 0)
    with connected(modal.address) as socket:
        socket.send(pcm("mom"))
        assert MOM == line(socket)
    assert "never retrieved" not in container.output


def test_a_container_that_is_to_go_serves_its_open_sockets_to_their_end(modal, container):
    """A new deployment, or fewer players. Runs last: the container ends."""
    with connected(modal.address) as socket:
        wait_for_sessions(modal.address, 1)
        modal.scale_down()
        for _ in range(2):
            socket.send(pcm("mom"))
            assert MOM == line(socket)
        assert container.process.poll() is None
    assert 0 == container.wait()
    assert container.output.rstrip().endswith("This container ends, with 0 sessions open.")


# -- other containers


@pytest.fixture
def fresh(modal) -> Iterator[Container]:
    """One that is not started yet."""
    container = modal.new_container()
    yield container
    container.kill()


def test_a_snapshot_holds_the_imports_and_not_the_model_and_an_interruption_ends_in_order(modal, fresh):
    fresh.start(snapshot=True)

    loaded = fresh.loaded_libraries()
    assert {"_ext", "onnxruntime_pybind11_state"} <= loaded  # CTranslate2, and what the detector runs on
    assert set() == {library for library in loaded if library.startswith(("libcuda", "libcublas"))}
    assert "is ready" not in fresh.output
    fresh.restore()
    with connected(modal.address) as socket:
        socket.send(pcm("mom"))
        assert MOM == line(socket)
        fresh.process.send_signal(signal.SIGINT)
        with pytest.raises(ConnectionClosed):  # Modal cancels the inputs before any hook may say goodbye
            line(socket)
    assert 0 == fresh.wait()
    assert fresh.output.rstrip().endswith("This container ends, with 0 sessions open.")
    assert "Traceback" not in fresh.output


def test_without_its_weights_a_container_says_so_to_everybody_and_stays_up(modal, fresh):
    """A container that ended would be started over and over, at the price of a GPU, and players would wait."""
    fresh.start(weights=False)

    with connected(modal.address, "?events=json") as socket:
        error = message(socket, "ready", "error")
        assert ("internal", 1011) == (error["code"], error["close"])
        assert 1011 == closed(socket)[0]
    assert 503 == modal.address.status("/readyz")
    assert f"ERROR stt_core.server: The model '{DEPLOYED['STT_MODEL']}' is not here" in fresh.output
    assert "Traceback" not in fresh.output


def test_a_source_file_that_was_not_uploaded_is_noticed(modal, fresh):
    del fresh.files["/root/stt_core/connection.py"]

    fresh.start()

    fresh.wait()
    assert "No module named 'stt_core.connection'" in modal.results()[-1].exception


def test_a_package_that_the_image_lacks_is_noticed(modal, fresh):
    fresh.distributions.remove("prometheus-client")

    fresh.start()

    fresh.wait()
    assert "No module named 'prometheus_client'" in modal.results()[-1].exception


def test_modal_run_prints_what_was_said(tmp_path):
    with StandIn(tmp_path) as modal:
        variables = {name: value for name, value in DEPLOYED.items() if name != "STT_SECRET"}
        with modal.started_cli("run", "modal_app.py", "--wav", "test_audio/mom.wav", **variables) as cli:
            wait_until(lambda: modal.control_plane.published or cli.poll() is not None, "the app to be there", 60)
            assert cli.poll() is None, cli.communicate()[0]
            with modal.container():
                output, _ = cli.communicate(timeout=120)

    assert 0 == cli.returncode, output
    assert MOM in output.splitlines()

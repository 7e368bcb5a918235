"""The deployment without the service: what `modal_app.py` asks of Modal, and its class run right here."""

import ast
import asyncio
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType, SimpleNamespace

import modal
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import stt_core
from stt_core.audio import read_audio
from stt_core.errors import SettingsError

ROOT = Path(__file__).parent.parent
MOM = ROOT / "test_audio" / "mom.wav"
SILENCE = ROOT / "test_audio" / "silence.wav"


def imported(monkeypatch: pytest.MonkeyPatch, **settings: str) -> ModuleType:
    """`modal_app.py` anew, as a deploy or a container with these settings would import it."""
    for name in [name for name in os.environ if name.startswith("STT_")]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("modal_app", ROOT / "modal_app.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "modal_app", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def import_app(monkeypatch):
    return partial(imported, monkeypatch)


@pytest.fixture
def asked(monkeypatch):
    """What the file asks of Modal: each call's keyword arguments (and `positional`), by the function's name."""
    calls = {}

    def record(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def recorded(*args, **kwargs):
            calls.setdefault(name, {}).update(kwargs, positional=args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    record(modal.App, "cls")
    record(modal, "concurrent")
    record(modal, "asgi_app")
    record(modal.Secret, "from_name")
    record(modal.Image, "add_local_python_source")
    record(modal.Image, "uv_pip_install")
    record(modal.Image, "run_function")
    return calls


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code where there is no account, no network and no setting."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("STT_", "MODAL_"))}
    environment["MODAL_CONFIG_PATH"] = str(folder / "none.toml")
    no_network = "import socket\ndef refuse(*_): raise OSError('no network')\nsocket.socket.connect = refuse\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", no_network + code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# Importing


def test_importing_needs_no_account_and_no_network(tmp_path):
    result = run_python(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import modal_app", tmp_path)

    assert ("", "", 0) == (result.stdout, result.stderr, result.returncode)
    assert [] == list(tmp_path.iterdir())


def test_the_image_is_built_from_the_file_alone(tmp_path):
    """Where Modal runs `download` there is neither the core nor the lock yet."""
    shutil.copy(ROOT / "modal_app.py", tmp_path)
    code = "import sys, modal; sys.modules['stt_core'] = None; modal.is_local = lambda: False; import modal_app"

    result = run_python("import sys; sys.path.insert(0, '.')\n" + code, tmp_path)

    assert ("", 0) == (result.stderr, result.returncode)


def test_a_wrong_setting_stops_the_deploy(import_app):
    with pytest.raises(SettingsError, match="STT_LANGUAGE"):
        import_app(STT_LANGUAGE="Korean")


# What it asks of Modal


def test_defaults(import_app, asked):
    import_app()

    cls = asked["cls"]
    assert "L4" == cls["gpu"]
    assert 3600 == cls["timeout"]  # Modal's 300 s would cut every socket
    assert 600 == cls["startup_timeout"]
    assert (0, 4, 180) == (cls["min_containers"], cls["max_containers"], cls["scaledown_window"])
    assert cls["enable_memory_snapshot"]
    assert "experimental_options" not in cls  # no GPU snapshot
    assert {"STT_MODEL": "large-v3-turbo", "STT_DEVICE": "cuda", "STT_MAX_BATCH_SIZE": "16"} == cls["env"]
    assert (32, 24) == (asked["concurrent"]["max_inputs"], asked["concurrent"]["target_inputs"])
    assert ("large-v3-turbo",) == asked["run_function"]["args"]
    assert "game-stt" == asked["asgi_app"]["label"]


def test_settings_shape_the_class_and_reach_the_container(import_app, asked):
    settings = {
        "STT_MODEL": "small",
        "STT_LANGUAGE": "en",
        "STT_GPU": "L4, A10",
        "STT_MIN_CONTAINERS": "1",
        "STT_MAX_CONTAINERS": "20",
        "STT_SCALEDOWN_WINDOW_S": "60",
        "STT_MAX_SOCKETS": "8",
        "STT_DEVICE": "",  # empty is unset
    }

    import_app(**settings)

    cls = asked["cls"]
    assert ["L4", "A10"] == cls["gpu"]
    assert (1, 20, 60) == (cls["min_containers"], cls["max_containers"], cls["scaledown_window"])
    assert (8, 6) == (asked["concurrent"]["max_inputs"], asked["concurrent"]["target_inputs"])
    assert settings | {"STT_DEVICE": "cuda", "STT_MAX_BATCH_SIZE": "16"} == cls["env"]


def test_in_the_container_the_class_looks_the_same(import_app, asked):
    """Modal imports the file there with the environment that the deploy sent, and the token."""
    import_app(STT_GPU="T4", STT_SECRET="my-secret", STT_MAX_SOCKETS="1")
    deployed = {k: v for k, v in asked["cls"].items() if k not in ("positional", "image", "secrets")}
    concurrent = dict(asked["concurrent"])

    import_app(**deployed["env"], STT_TOKEN="swordfish")

    assert deployed == {k: v for k, v in asked["cls"].items() if k not in ("positional", "image", "secrets")}
    assert concurrent == asked["concurrent"]
    assert 1 == len(asked["cls"]["secrets"])


def test_the_token_comes_from_a_secret_and_never_as_plain_environment(import_app, asked):
    import_app(STT_SECRET="my-secret", STT_TOKEN="swordfish")

    assert ("my-secret",) == asked["from_name"]["positional"]
    assert ["STT_TOKEN"] == asked["from_name"]["required_keys"]
    assert 1 == len(asked["cls"]["secrets"])
    assert "swordfish" not in str(asked["cls"]["env"])


def test_without_a_secret_none_is_asked_for(import_app, asked):
    import_app()

    assert [] == asked["cls"]["secrets"]
    assert "from_name" not in asked


def test_every_file_of_the_core_rides_along(import_app, asked):
    import_app()
    # The one look inside Modal: which files a mount of these modules, with this `ignore`, holds.
    mount = modal.mount._Mount._from_local_python_packages(
        *asked["add_local_python_source"]["positional"][1:], ignore=asked["add_local_python_source"]["ignore"]
    )
    sent = {str(target) for entry in mount.entries for _, target in entry.get_files_to_upload()}

    folder = Path(stt_core.__file__).parent
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {f"/root/stt_core/{file.as_posix()}" for file in files if not file.name.startswith(".")} == sent
    assert {"/root/stt_core/web/index.html", "/root/stt_core/py.typed"} <= sent


# The image's lock


def pins() -> dict[str, str]:
    """Version by distribution, from the lock."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "locks" / "modal.txt").read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def test_the_image_installs_the_lock(import_app, asked):
    import_app()

    assert [str(ROOT / "locks" / "modal.txt")] == asked["uv_pip_install"]["requirements"]


def test_the_lock_holds_everything_that_the_core_imports():
    imported = set()
    for path in Path(stt_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"stt_core"}
    distributions = packages_distributions()

    missing = {
        package
        for package in third_party
        if not {canonicalize_name(name) for name in distributions[package]} & set(pins())
    }

    assert {"fastapi", "faster_whisper", "ctranslate2", "numpy"} <= third_party
    assert set() == missing


def test_the_lock_fits_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["gpu"]]

    unmet = [str(r) for r in requirements if pins().get(canonicalize_name(r.name), "") not in r.specifier]

    assert [] == unmet


def test_every_pin_has_hashes_and_no_address():
    text = (ROOT / "locks" / "modal.txt").read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]

    assert len(pins()) == len(entries)
    assert [] == [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in text


# The class, run here


def test_a_missing_recording_is_one_sentence(import_app):
    with pytest.raises(SystemExit, match=r"^error: There is no audio file at no\.wav\.$"):
        import_app().main("no.wav")


def container(monkeypatch: pytest.MonkeyPatch, **settings: str):
    """The class as in a container with the embedded model. The first use of a method runs its enter hooks."""
    return imported(monkeypatch, STT_MODEL="base", STT_DEVICE="cpu", **settings).SpeechToText()


@pytest.fixture(scope="module")
def stt():
    with pytest.MonkeyPatch.context() as monkeypatch:
        instance = container(monkeypatch, STT_TOKEN="swordfish")
        instance.web.local()
    return instance


def answer(client: TestClient, token: str | None = None) -> str | int:
    """The line that the server answers a recording with, or its close code."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    try:
        with client.websocket_connect("/ws/audio", headers=headers) as socket:
            socket.send_bytes(MOM.read_bytes())
            return socket.receive_text()
    except WebSocketDisconnect as closed:
        return closed.code


@pytest.mark.model
def test_the_right_token_is_served_and_a_wrong_one_is_not(stt):
    with TestClient(stt.web.local()) as client:
        assert "엄마" == answer(client, "swordfish")
        assert 4401 == answer(client, "marlin")
        assert 4401 == answer(client)


@pytest.mark.model
def test_without_a_token_nobody_is_let_in(monkeypatch, caplog):
    with TestClient(container(monkeypatch).web.local()) as client:
        assert {4401} == {answer(client, token) for token in (None, "", "None", "swordfish")}

    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "STT_SECRET" in record.getMessage()


@pytest.mark.model
def test_insecure_lets_everybody_in(monkeypatch, caplog):
    with TestClient(container(monkeypatch, STT_INSECURE="1").web.local()) as client:
        assert "엄마" == answer(client)

    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.model
def test_the_method_answers_as_the_socket_would(stt):
    assert "엄마" == stt.transcribe.local(read_audio(MOM))
    assert "인식 실패" == stt.transcribe.local(read_audio(SILENCE))


@pytest.mark.model
def test_modals_own_runtime_drives_the_app(stt):
    """One socket through the ASGI adapter of Modal's containers, each message by way of its protobuf."""
    from modal._runtime.asgi import asgi_app_wrapper
    from modal._runtime.execution_context import _set_current_context_ids
    from modal._serialization import deserialize_data_format, serialize_data_format
    from modal_proto.api_pb2 import DATA_FORMAT_ASGI

    def travelled(message: dict) -> dict:
        return deserialize_data_format(serialize_data_format(message, DATA_FORMAT_ASGI), DATA_FORMAT_ASGI, None)

    async def one_socket() -> list[dict]:
        inbox: asyncio.Queue[dict] = asyncio.Queue()

        async def messages(_call, _token):
            while True:
                yield travelled(await inbox.get())

        _set_current_context_ids(["in-1"], ["fc-1"], ["token-1"])
        serve, lifespan = asgi_app_wrapper(stt.web.local(), SimpleNamespace(get_data_in=SimpleNamespace(aio=messages)))
        background = asyncio.create_task(lifespan.background_task())
        await lifespan.lifespan_startup()
        inbox.put_nowait({"type": "websocket.connect"})
        inbox.put_nowait({"type": "websocket.receive", "bytes": MOM.read_bytes()})
        scope = {
            "type": "websocket",
            "path": "/ws/audio",
            "query_string": b"token=swordfish",
            "headers": [(b"host", b"example.org")],
            "client": ("203.0.113.4", 5),
        }
        sent = []
        async for message in serve(travelled(scope)):
            sent.append(travelled(message))
            if message["type"] == "websocket.send":
                inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await lifespan.lifespan_shutdown()
        background.cancel()
        return sent

    accepted, answered = asyncio.run(one_socket())

    assert "websocket.accept" == accepted["type"]
    assert "엄마" == answered["text"]

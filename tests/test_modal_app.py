"""The deployment without the service: what `modal_app.py` asks of Modal, and its class run right here."""

import ast
import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import ctranslate2
import modal
import pytest
from modal._partial_function import _find_callables_for_obj, _PartialFunctionFlags
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from test_architecture import MODULES, packages, reachable
from test_architecture import imported as imported_names

import stt_core
from stt_core.audio import read_audio
from stt_core.errors import ModelError
from stt_core.models import check_model_name, split_revision
from stt_core.settings import Settings

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
        shown = f"{owner.__name__}.{name}" if name == "from_name" else name

        def recorded(*args, **kwargs):
            calls.setdefault(shown, {}).update(kwargs, positional=args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    record(modal.App, "cls")
    record(modal, "concurrent")
    record(modal, "asgi_app")
    record(modal.Secret, "from_name")
    record(modal.Volume, "from_name")
    record(modal.Image, "add_local_python_source")
    record(modal.Image, "uv_pip_install")
    record(modal.Image, "run_commands")
    return calls


def run_python(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code where there is no account, no network and no setting."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("STT_", "MODAL_"))} | variables
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


# What it asks of Modal

TURBO = "large-v3-turbo@0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf"


def test_defaults(import_app, asked):
    deployment = import_app().deployment

    cls = asked["cls"]
    assert "L4" == cls["gpu"]
    assert None is cls["region"]
    assert 3600 == cls["timeout"]  # Modal's 300 s would cut every socket
    assert 600 == cls["startup_timeout"]
    assert (0, 0, 4, 180) == (
        cls["min_containers"],
        cls["buffer_containers"],
        cls["max_containers"],
        cls["scaledown_window"],
    )
    assert cls["enable_memory_snapshot"]
    assert {} == cls["experimental_options"]  # no GPU snapshot
    assert {} == cls["env"]
    assert {} == cls["volumes"]
    assert (TURBO, "cuda", 16) == (deployment.model, deployment.device, deployment.max_batch_size)
    assert "game-stt" == asked["asgi_app"]["label"]


def test_the_app_ends_a_session_before_modal_does_and_says_so_before(import_app, asked):
    deployment = import_app().deployment

    assert deployment.session_timeout_s + 60 <= asked["cls"]["timeout"]
    assert 0 < deployment.going_away_s < deployment.session_timeout_s


def test_a_full_container_has_inputs_left_to_say_that_it_is_full(import_app, asked):
    deployment = import_app().deployment

    assert (32, 40, 24) == (
        deployment.max_sessions,
        asked["concurrent"]["max_inputs"],
        asked["concurrent"]["target_inputs"],
    )


def test_settings_shape_the_class_and_reach_the_container(import_app, asked):
    settings = {
        "STT_MODEL": "small",
        "STT_LANGUAGE": "en",
        "STT_GPU": "L4, A10",
        "STT_REGION": "eu, us-east",
        "STT_MIN_CONTAINERS": "1",
        "STT_BUFFER_CONTAINERS": "2",
        "STT_MAX_CONTAINERS": "20",
        "STT_SCALEDOWN_WINDOW_S": "60",
        "STT_MAX_SESSIONS": "8",
        "STT_GPU_SNAPSHOT": "1",
        "STT_DEVICE": "",  # empty is unset
    }

    import_app(**settings)

    cls = asked["cls"]
    assert ["L4", "A10"] == cls["gpu"]
    assert ["eu", "us-east"] == cls["region"]
    assert (1, 2, 20) == (cls["min_containers"], cls["buffer_containers"], cls["max_containers"])
    assert 60 == cls["scaledown_window"]
    assert {"enable_gpu_snapshot": True} == cls["experimental_options"]
    assert (16, 6) == (asked["concurrent"]["max_inputs"], asked["concurrent"]["target_inputs"])
    assert settings == cls["env"]


def test_in_the_container_the_class_looks_the_same(import_app, asked):
    """Modal imports the file there with the environment that the deploy sent, and the token."""

    def shape() -> dict:
        return {k: v for k, v in asked["cls"].items() if k not in ("positional", "image", "secrets", "volumes")}

    import_app(STT_GPU="T4", STT_SECRET="my-secret", STT_MAX_SESSIONS="1", STT_MODEL_VOLUME="v", STT_MODEL="/models/a")
    deployed, concurrent = shape(), dict(asked["concurrent"])

    import_app(**deployed["env"], STT_TOKEN="swordfish")

    assert deployed == shape()
    assert concurrent == asked["concurrent"]
    assert (1, 1) == (len(asked["cls"]["secrets"]), len(asked["cls"]["volumes"]))


def test_the_token_comes_from_a_secret_and_never_as_plain_environment(import_app, asked):
    import_app(STT_SECRET="my-secret", STT_TOKEN="swordfish")

    assert ("my-secret",) == asked["Secret.from_name"]["positional"]
    assert ["STT_TOKEN"] == asked["Secret.from_name"]["required_keys"]
    assert 1 == len(asked["cls"]["secrets"])
    assert "swordfish" not in str(asked["cls"]["env"])


def test_without_a_secret_none_is_asked_for(import_app, asked):
    import_app()

    assert [] == asked["cls"]["secrets"]
    assert "Secret.from_name" not in asked


def test_weights_of_the_hub_are_fetched_at_one_revision_while_the_image_is_built(import_app, asked):
    import_app()

    [_, command] = asked["run_commands"]["positional"]
    python, option, code = shlex.split(command)
    assert ("python", "-c") == (python, option)
    assert code.endswith("download_model('large-v3-turbo', revision='0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf')")


def test_weights_of_a_volume_are_not_fetched(import_app, asked):
    import_app(STT_MODEL_VOLUME="my-models", STT_MODEL="/models/dragon")

    assert "run_commands" not in asked
    assert ("my-models",) == asked["Volume.from_name"]["positional"]
    assert ["/models"] == list(asked["cls"]["volumes"])


# Bad input, at the deploy


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"STT_LANGUAGE": "Korean"}, "STT_LANGUAGE .* such as ko or en, not 'Korean'"),
        ({"STT_MAX_CONTAINERS": "many"}, "STT_MAX_CONTAINERS .* valid integer.*, not 'many'"),
        ({"STT_MAX_CONTAINERS": "0"}, "STT_MAX_CONTAINERS .* greater than or equal to 1, not '0'"),
        ({"STT_MIN_CONTAINERS": "9"}, "STT_MAX_CONTAINERS .* not be below .* together, 9, not 4"),
        ({"STT_SCALEDOWN_WINDOW_S": "1"}, "STT_SCALEDOWN_WINDOW_S .* greater than or equal to 2"),
        ({"STT_MAX_SESSIONS": "1000"}, "STT_MAX_SESSIONS .* less than or equal to 992"),
        ({"STT_SESSION_TIMEOUT_S": "7200"}, "STT_SESSION_TIMEOUT_S .* less than or equal to 3540"),
        ({"STT_GPU": "an L4"}, "STT_GPU .* name of a GPU, such as L4, or several: L4,A10, not 'an L4'"),
        ({"STT_GPU": "L4:two"}, "STT_GPU"),
        ({"STT_MODEL": "larg-v3"}, "There is no model called 'larg-v3'.*large-v3-turbo"),
        ({"STT_MODEL": "/models/dragon"}, "STT_MODEL_VOLUME .* should name a Volume"),
        ({"STT_MODEL_VOLUME": "my-models"}, "STT_MODEL_VOLUME .* only if, STT_MODEL is a directory"),
        ({"STT_GPU_SNAPSHOT": "perhaps"}, "STT_GPU_SNAPSHOT .* valid boolean"),
    ],
)
def test_a_wrong_setting_stops_the_deploy_with_one_sentence(import_app, settings, sentence):
    with pytest.raises(SystemExit, match=rf"\Aerror: .*{sentence}[^\n]*\Z"):
        import_app(**settings)


def test_a_wrong_token_is_not_shown(import_app):
    with pytest.raises(SystemExit, match="STT_TOKEN") as stopped:
        import_app(STT_TOKEN="sword fish")

    assert "sword" not in str(stopped.value)


@pytest.mark.parametrize("page", ["deploy-modal.md", "deploy-modal.ko.md"])
def test_the_page_names_every_setting_with_its_default(import_app, page):
    """Those that only a deployment has, and those of the server whose default is another one here."""
    fields = type(import_app().deployment).model_fields
    changed = {
        name: field.default
        for name, field in fields.items()
        if name not in Settings.model_fields or field.default != Settings.model_fields[name].default
    } | {"session_timeout_s": fields["session_timeout_s"].default}
    del changed["allowed_hosts"]  # of no use to anybody there
    rows = re.findall(
        r"^\| `STT_(\w+)` \| (?:`([^`]*)`)?", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE
    )

    assert {name.lower() for name, _ in rows} == set(changed)
    for name, default in rows:
        assert str(changed[name.lower()]).replace("False", "0").removesuffix(".0").startswith(default.rstrip("…"))


# A model's name


def test_a_name_may_carry_a_revision():
    assert ("owner/model", "0a363e91") == split_revision("owner/model@0a363e91")
    assert ("small", None) == split_revision("small")
    for name in ("small", "small@main", "owner/model", "owner/model@v1.0", TURBO):
        check_model_name(name)


@pytest.mark.parametrize("name", ["larg-v3", "@main", "owner/", "owner/model/more", "a b/c", ""])
def test_a_name_that_no_model_can_have_is_a_sentence(name):
    with pytest.raises(ModelError, match=r"There is no model called .*\.|is no hub id; .*\."):
        check_model_name(name)


def test_a_revision_that_is_not_in_the_cache_of_an_offline_machine_is_a_sentence(tmp_path):
    code = "from stt_core.models import resolve_model; resolve_model('owner/model@no-such-revision')"

    result = run_python(code, tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))

    assert "stt_core.errors.ModelError: The model 'owner/model@no-such-revision' is not here" in result.stderr


# The image


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


def test_the_lock_holds_everything_that_a_container_imports():
    """All that `modal_app.py` reaches, lazily or not. The Python client of the core is not among it."""
    names = imported_names(ast.parse((ROOT / "modal_app.py").read_text(encoding="utf-8")))
    entered = {name.removeprefix("stt_core.") for name in names} & set(MODULES)
    modules = set().union(*map(reachable, entered))
    third_party = set().union(*map(packages, modules)) - set(sys.stdlib_module_names) - {"stt_core"}
    distributions = packages_distributions()

    missing = {
        package
        for package in third_party
        if not {canonicalize_name(name) for name in distributions[package]} & set(pins())
    }

    assert {"app", "engine", "transcriber", "vad"} <= modules
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


# cuBLAS, from its pip package


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("packages", [("cublas", "cuda_nvrtc"), ("cublas",)])
def test_cublas_is_loaded_before_anybody_asks_for_it_by_name(tmp_path, packages):
    """With other libraries in its place, which is all that a machine without a GPU can show."""
    library = importlib.import_module("pydantic_core._pydantic_core").__file__
    names = {"cublas": ("libcublasLt.so.12", "libcublas.so.12"), "cuda_nvrtc": ("libnvrtc.so.12",)}
    for package in packages:
        folder = tmp_path / "nvidia" / package / "lib"
        folder.mkdir(parents=True)
        for name in names[package]:
            shutil.copy(library, folder / name)
    code = f"import sys; sys.path.append({str(tmp_path)!r}); from stt_core.cuda import preload_cublas\n"
    code += "print(preload_cublas())\nprint(open('/proc/self/maps').read())"

    result = run_python(code, tmp_path)

    assert result.stdout.startswith("True\n"), result.stderr
    loaded = {Path(path).name for path in re.findall(rf"{tmp_path}/\S+", result.stdout)}
    assert {name for package in packages for name in names[package]} == loaded


def test_without_its_package_cublas_is_left_to_the_system(tmp_path):
    assert "False\n" == run_python("from stt_core.cuda import preload_cublas; print(preload_cublas())", tmp_path).stdout


# The class, run here


def test_a_missing_recording_is_one_sentence(import_app):
    with pytest.raises(SystemExit, match=r"^error: There is no audio file at no\.wav\.$"):
        import_app().main("no.wav")


@pytest.fixture(scope="module")
def stt():
    """The class as in a container with the embedded model. The first use of a method runs its enter hooks."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        instance = imported(monkeypatch, STT_MODEL="base", STT_DEVICE="cpu").SpeechToText()
        instance.web.local()
        yield instance


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
def test_the_right_token_is_served_and_a_wrong_one_is_not(stt, monkeypatch):
    monkeypatch.setenv("STT_TOKEN", "swordfish")
    with TestClient(stt.web.local()) as client:
        assert "엄마" == answer(client, "swordfish")
        assert 4401 == answer(client, "marlin")
        assert 4401 == answer(client)


@pytest.mark.model
def test_the_token_is_the_one_of_today_and_not_of_the_snapshot(stt, monkeypatch):
    """`web` runs when a container starts from the snapshot; the Secret may have changed since it was taken."""
    monkeypatch.setenv("STT_TOKEN", "old")
    stt.web.local()
    monkeypatch.setenv("STT_TOKEN", "new")
    with TestClient(stt.web.local()) as client:
        assert "엄마" == answer(client, "new")
        assert 4401 == answer(client, "old")


@pytest.mark.model
def test_without_a_token_nobody_is_let_in(stt, caplog):
    with TestClient(stt.web.local()) as client:
        assert {4401} == {answer(client, token) for token in (None, "", "None", "swordfish")}

    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "STT_SECRET" in record.getMessage()


@pytest.mark.model
def test_insecure_lets_everybody_in(stt, monkeypatch, caplog):
    monkeypatch.setenv("STT_INSECURE", "1")
    with TestClient(stt.web.local()) as client:
        assert "엄마" == answer(client)

    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.model
def test_the_method_answers_as_the_socket_would(stt):
    assert "엄마" == stt.transcribe.local(read_audio(MOM))
    assert "인식 실패" == stt.transcribe.local(read_audio(SILENCE))


# The snapshot


def before_the_snapshot(module: ModuleType) -> dict[str, Callable[[], None]]:
    """The hooks that Modal's runtime would run then, by its own reckoning."""
    return _find_callables_for_obj(module.SpeechToText._get_user_cls()(), _PartialFunctionFlags.ENTER_PRE_SNAPSHOT)


def test_what_comes_before_the_snapshot_looks_for_no_gpu(import_app, monkeypatch):
    """CUDA does not work in a process that has looked for it before it was frozen."""
    looked = []
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: looked.append("count") or 0)
    monkeypatch.setattr(ctranslate2.models, "Whisper", lambda *_, **__: looked.append("model"))

    hooks = before_the_snapshot(import_app())
    hooks["preload"]()

    assert ["preload"] == list(hooks)
    assert [] == looked


def test_a_snapshot_of_the_gpu_holds_the_model_too(import_app):
    assert {"preload", "load"} == set(before_the_snapshot(import_app(STT_GPU_SNAPSHOT="1")))

"""What `modal deploy` sends: the real CLI against a stand-in that keeps every request."""

import shlex
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest
from modal_stand_in import StandIn
from modal_stand_in.container import required
from packaging.utils import canonicalize_name
from servers import REPOSITORY

SECRET = "game-stt"
NOT_HERE = {"nvidia-cublas-cu12"}  # of the image's distributions: what only a GPU needs


@pytest.fixture(scope="module")
def modal(tmp_path_factory) -> Iterator[StandIn]:
    with StandIn(tmp_path_factory.mktemp("modal")) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def deployed(modal):
    """The GPU class, as the service was asked to create it."""
    result = modal.cli("deploy", "--tag", "v1.2.3", "modal_app.py", STT_SECRET=SECRET, STT_TOKEN="of-this-shell")
    assert 0 == result.returncode, result.stdout
    [function] = [function for function in modal.control_plane.functions.values() if function.is_class]
    return function


@pytest.fixture(scope="module")
def layers(modal, deployed):
    """The image, from the base up."""
    return modal.new_container().layers()


def commands(layers) -> list[str]:
    return [command for layer in layers for command in layer.dockerfile_commands]


# The class


def test_a_gpu_and_what_goes_with_it(deployed):
    assert (1, "L4") == (deployed.resources.gpu_config.count, deployed.resources.gpu_config.gpu_type)
    assert (2000, 4096) == (deployed.resources.milli_cpu, deployed.resources.memory_mb)


def test_timeouts_scaling_and_concurrency(deployed):
    assert (3600, 600) == (deployed.timeout_secs, deployed.startup_timeout_secs)
    scaling = deployed.autoscaler_settings
    assert (0, 0, 4, 180) == (
        scaling.min_containers,
        scaling.buffer_containers,
        scaling.max_containers,
        scaling.scaledown_window,
    )
    assert (40, 24) == (deployed.max_concurrent_inputs, deployed.target_concurrent_inputs)


def test_a_snapshot_of_memory_and_not_of_the_gpu(deployed):
    assert deployed.checkpointing_enabled
    assert not deployed._experimental_enable_gpu_snapshot


def test_the_web_endpoint_and_the_method(deployed):
    methods = deployed.method_definitions
    assert {"web", "transcribe"} == set(methods)
    assert "game-stt" == methods["web"].webhook_config.requested_suffix
    assert not methods["web"].webhook_config.requires_proxy_auth  # games bring a token of ours


def test_the_app_is_published_by_name_and_tag(modal, deployed):
    assert "game-stt" == modal.control_plane.published.name
    assert "v1.2.3" == modal.control_plane.published.deployment_tag


def test_the_secret_must_hold_the_token_and_settings_travel_without_it(modal, deployed):
    asked = modal.control_plane.requests("SecretGetOrCreate")
    [named] = [request for request in asked if request.deployment_name]
    assert (SECRET, ["STT_TOKEN"]) == (named.deployment_name, list(named.required_keys))
    [plain] = [request for request in asked if not request.deployment_name]
    assert {"STT_SECRET": SECRET} == dict(plain.env_dict)
    assert not [request for _, request in modal.control_plane.calls if b"of-this-shell" in request.SerializeToString()]


# The image


def test_the_image_is_pinned_and_needs_no_cuda_base(layers):
    lines = commands(layers)
    assert lines[0].startswith("FROM python:3.12.")
    assert not [line for line in lines if "nvidia/cuda" in line]
    [lock] = [file for layer in layers for file in layer.context_files]
    assert (REPOSITORY / "locks" / "modal.txt").read_bytes() == lock.data


def test_weights_come_last_and_from_then_on_the_hub_is_not_asked(layers):
    lines = commands(layers)
    [_, _, fetch, _, offline] = lines[lines.index("ENV HF_HOME=/hub") :]
    assert "ENV HF_HUB_OFFLINE=1" == offline
    code = shlex.split(fetch.removeprefix("RUN "))[2]
    assert "download_model('large-v3-turbo', revision='0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf')" in code


def test_every_distribution_that_the_core_imports_is_in_the_image(modal, deployed):
    """The lock's own test says which packages; this one, that the CLI sends them, and all that they require."""
    installed = modal.new_container().distributions
    distributions = packages_distributions()
    for package in ("fastapi", "faster_whisper", "ctranslate2", "onnxruntime", "prometheus_client", "soundfile"):
        [name] = map(canonicalize_name, distributions[package])
        assert set() == required(name) - installed
    assert installed >= NOT_HERE


# What goes along


def test_the_uploaded_files_are_this_one_and_the_core(modal, deployed):
    folder = REPOSITORY / "stt_core"
    core = {
        f"/root/stt_core/{path.relative_to(folder).as_posix()}": path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    expected = core | {"/root/modal_app.py": REPOSITORY / "modal_app.py"}

    uploaded = modal.new_container().files

    assert set(expected) == set(uploaded)
    assert {name: path.read_bytes() for name, path in expected.items()} == uploaded
    assert "/root/stt_core/web/index.html" in uploaded


# Bad input: one sentence, no traceback


def refused(modal: StandIn, *words: str, **variables: str) -> str:
    """What the CLI says when it gives up, in one line."""
    result = modal.cli(*words, **variables)
    assert 0 != result.returncode, result.stdout
    assert "Traceback" not in result.stdout
    return " ".join(result.stdout.replace("│", " ").split())


def test_a_wrong_setting(modal):
    assert refused(modal, "deploy", "modal_app.py", STT_MAX_CONTAINERS="many").startswith("error: STT_MAX_CONTAINERS")


def test_no_account(modal):
    said = refused(modal, "deploy", "modal_app.py", MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="")
    assert "modal token new" in said or "modal setup" in said


def test_a_secret_that_is_not_there(tmp_path):
    with StandIn(tmp_path) as modal:
        modal.control_plane.refusals["SecretGetOrCreate"] = "Secret 'gone' not found in environment 'main'"
        assert "Secret 'gone' not found" in refused(modal, "deploy", "modal_app.py", STT_SECRET="gone")


def test_a_gpu_that_modal_does_not_have(tmp_path):
    with StandIn(tmp_path) as modal:
        modal.control_plane.refusals["FunctionCreate"] = "Unknown GPU type L5"
        assert "Unknown GPU type L5" in refused(modal, "deploy", "modal_app.py", STT_GPU="L5")


def test_a_recording_that_is_not_there(tmp_path):
    with StandIn(tmp_path) as modal:
        assert "error: There is no audio file at no.wav." in refused(modal, "run", "modal_app.py", "--wav", "no.wav")

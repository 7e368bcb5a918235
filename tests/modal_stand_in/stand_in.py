"""The parts together, with an event loop of their own, so that plain tests can use them."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from aiohttp import web
from grpclib.server import Server
from modal_proto import api_pb2
from servers import REPOSITORY, Address, environment, free_port

from modal_stand_in.container import Container
from modal_stand_in.control_plane import ControlPlane
from modal_stand_in.gateway import Gateway

ResultT = TypeVar("ResultT")
CALL_S = 30.0
CLI_S = 180.0


class StandIn:
    """Modal, for one test or one module's.

    Args:
        folder: where containers live, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._containers = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.address = Address(free_port())  # of the gateway
        self.control_plane = ControlPlane(self.address.http)
        self._gateway = Gateway()
        self._gateway.control_plane = self.control_plane

    def __enter__(self) -> "StandIn":
        self._thread.start()
        self.url = self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()

    async def _start(self) -> str:
        self._server = Server([self.control_plane])
        port = free_port()
        await self._server.start("127.0.0.1", port)
        self._runner = web.AppRunner(self._gateway.app, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.address.port).start()
        return f"http://127.0.0.1:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        self._server.close()
        await self._server.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    # ---- what a person does

    @contextmanager
    def started_cli(self, *words: str, **variables: str) -> "Iterator[subprocess.Popen[str]]":
        """The real CLI, running in the repository with these variables."""
        plain = {name: value for name, value in environment().items() if not name.startswith(("MODAL_", "STT_"))}
        plain |= {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": "ak-none",
            "MODAL_TOKEN_SECRET": "as-none",
            "MODAL_CONFIG_PATH": str(self._folder / "none.toml"),
            "COLUMNS": "200",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "modal", *words],
            cwd=REPOSITORY,
            env=plain | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def cli(self, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run the real CLI to its end."""
        with self.started_cli(*words, **variables) as process:
            output, _ = process.communicate(timeout=CLI_S)
            return subprocess.CompletedProcess(words, process.returncode, output)

    # ---- what Modal does

    def new_container(self) -> Container:
        """One of what was deployed last, not started yet."""
        self._containers += 1
        folder = self._folder / f"container-{self._containers}"
        folder.mkdir()
        return Container(self.control_plane, self.url, folder)

    @contextmanager
    def container(self) -> Iterator[Container]:
        """A running one."""
        container = self.new_container()
        try:
            container.start()
            yield container
        finally:
            container.kill()

    @property
    def sockets(self) -> int:
        """How many are open."""
        return len(self._gateway.sockets)

    def cancel_sockets(self) -> None:
        """Cancel the input of each open socket: what a time-out does."""
        for input_id in list(self._gateway.sockets):
            self._loop.call_soon_threadsafe(self.control_plane.cancelled.put_nowait, input_id)

    def scale_down(self) -> None:
        """Tell the container to take no more inputs, and to end when the open ones have: also a new deployment."""
        item = api_pb2.FunctionGetInputsItem(kill_switch=True)
        self._loop.call_soon_threadsafe(self.control_plane.inputs.put_nowait, item)

    def results(self) -> list[api_pb2.GenericResult]:
        """Why containers could not start."""
        return [request.result for request in self.control_plane.requests("TaskResult")]

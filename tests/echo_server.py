"""An app behind the edge that does as little as can be seen, and a program that serves it, to be hurt by test_edge.py.

It echoes: the length of each binary message, and each text. `lines N` makes it send N long lines, `bye` close.

    python tests/echo_server.py [WAY_TO_DRAIN [MAX_OPEN_FILES [PATIENCE]]]
"""

import asyncio
import logging
import socket
import sys
import threading
import time
from pathlib import Path

LINE = "x" * 1000


async def echo(scope, receive, send):
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
    elif scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
    else:
        await receive()
        if scope["path"] == "/refused":
            await send({"type": "websocket.http.response.start", "status": 429, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"not now"})
            return
        if scope["path"] != "/ws/audio":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text == "bye":
                await send({"type": "websocket.close", "code": 4400, "reason": "bye"})
            elif text and text.startswith("lines "):
                for _ in range(int(text.split()[1])):
                    await send({"type": "websocket.send", "text": LINE})
            else:
                await send({"type": "websocket.send", "text": text or str(len(message["bytes"]))})


async def end_at_once(_limit_s: float) -> None:
    pass


async def never_end(_limit_s: float) -> None:
    print("draining", flush=True)
    await asyncio.Event().wait()


async def block_the_loop(_limit_s: float) -> None:
    print("draining", flush=True)
    time.sleep(60)


async def fail(_limit_s: float) -> None:
    raise RuntimeError("a bug")


async def leave_a_thread(_limit_s: float) -> None:
    """One that Python waits for, such as one that loads a model."""
    threading.Thread(target=time.sleep, args=(60,)).start()


def main(drain: str = "end_at_once", max_open_files: str = "", patience: str = "1") -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from local_dev.edge import Config, EdgeLimits, Server, be_sparing_with_lines

    if max_open_files:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (int(max_open_files), int(max_open_files)))
    logging.basicConfig(level="DEBUG")
    be_sparing_with_lines()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    limits = EdgeLimits(drain_timeout_s=0.5 * int(patience), shutdown_timeout_s=1, exit_timeout_s=4 * int(patience))
    Server(Config(echo, limits), globals()[drain]).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])

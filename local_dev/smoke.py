"""Whether a deployed server does what a game needs: connect as Unreal would, speak, and show what came back.

    step             handshake     TTFS   text                      close
    first contact      12.4 s    412 ms   엄마                      1000
    JSON, warm         180 ms    388 ms   정답은 청개구리입니다     1000
    wrong token        175 ms                                       4401 wrong token: …
    nonsense           177 ms                                       4400 expected binary PCM, …
    held for 6m        181 ms    395 ms   엄마                      1000

The first handshake tells how long a cold fleet lets a player wait, the others what a warm one takes. TTFS is the
player's: from the release of the key to the text, network included. Audio goes out at the speed of speech, 100 ms in a
message, and without compression. Holding a socket shows that nothing on the way cuts it off.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import websockets
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect

from stt_core.audio import SAMPLE_RATE, read_audio, to_s16le
from stt_core.errors import SttError
from stt_core.settings import is_header_value

TEST_AUDIO = Path(__file__).parent.parent / "test_audio"
SHORT, LONG = TEST_AUDIO / "mom.wav", TEST_AUDIO / "answer_tree_frog.wav"
LANGUAGE = "ko"  # of both
FRAME_S = 0.1
HANDSHAKE_S = 300.0  # an image that was never pulled, a GPU that is not free
ANSWER_S = 60.0
KEEPALIVE_S = 20.0
UNITS_S = {"s": 1, "m": 60, "h": 3600}


class SmokeError(SttError):
    """The command was given something that cannot be."""


class _Failed(Exception):
    """A step did not go as it should."""


@dataclass(slots=True)
class Step:
    """What one connection has shown."""

    name: str
    handshake_s: float | None = None
    ttfs_s: float | None = None
    text: str = ""
    close: str = ""
    problem: str = ""


Talk = Callable[[ClientConnection, Step], Awaitable[None]]


def duration_s(text: str) -> float:
    """`90s`, `6m` or `1h` in seconds.

    Raises:
        SmokeError: it is no time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise SmokeError(f"--hold takes a time such as 90s, 6m or 1h, not {text!r:.40}.")
    return float(match[1]) * UNITS_S[match[2] or "s"]


def run_smoke(url: str, token: str | None = None, hold_s: float = 0.0) -> int:
    """Try a server out and print a table; return 0 if everything was as it should be, otherwise 1.

    Args:
        url: `wss://HOST/ws/audio`, or the `https://` address that a deployment prints.
        token: one that the server lets in; None if it lets everybody in.
        hold_s: how long to hold a socket open before the last words; 0: not at all.

    Raises:
        SmokeError: the address or the token cannot be one.
        AudioError: the test recordings are missing.
    """
    if token is not None and not is_header_value(token):
        raise SmokeError("No server has a token like this one: tokens are letters, digits and signs of ASCII.")
    steps = asyncio.run(_try_out(socket_address(url), token, hold_s, *map(_pcm, (SHORT, LONG))))
    console = Console(highlight=False)
    console.print(table(steps))
    problems = [step for step in steps if step.problem]
    for step in problems:
        console.print(f"{step.name}: {step.problem}", markup=False)
    return int(bool(problems))


def socket_address(url: str) -> str:
    """The WebSocket of the server whose address this is.

    Raises:
        SmokeError: it is no address.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise SmokeError(f"{url!r} is no address of a server; one looks like wss://you--game-stt.modal.run/ws/audio.")
    path = parts.path if parts.path.strip("/") else "/ws/audio"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def table(steps: list[Step]) -> Table:
    """The steps, for the terminal."""
    shown = Table("", "step", "handshake", "TTFS", "text", "close", box=None, pad_edge=False)
    for step in steps:
        shown.add_row(
            "[red]✗[/]" if step.problem else "[green]✓[/]",
            step.name,
            _time(step.handshake_s),
            _time(step.ttfs_s),
            step.text,
            step.close,
        )
    return shown


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds >= 10 else f"{1000 * seconds:.0f} ms"


def _pcm(path: Path) -> bytes:
    return to_s16le(read_audio(path))


async def _try_out(url: str, token: str | None, hold_s: float, short: bytes, long: bytes) -> list[Step]:
    async def in_plain_mode(socket: ClientConnection, step: Step) -> None:
        await _send(socket, short)
        released_s = perf_counter()
        await socket.send("flush")
        step.text = str(await _receive(socket))
        step.ttfs_s = perf_counter() - released_s

    async def in_json_mode(socket: ClientConnection, step: Step) -> None:
        await _greeted(socket)
        await _speak_json(socket, step, long)
        await _end(socket, step)

    async def held(socket: ClientConnection, step: Step) -> None:
        await _greeted(socket)
        until_s = perf_counter() + hold_s
        while (left_s := until_s - perf_counter()) > 0:
            await asyncio.sleep(min(KEEPALIVE_S, left_s))
            await socket.send('{"type":"keepalive"}')
        await _speak_json(socket, step, short)
        await _end(socket, step)

    async def nonsense(socket: ClientConnection, step: Step) -> None:
        await socket.send("nonsense")
        await _closed_with(socket, 4400)

    async def refused(socket: ClientConnection, step: Step) -> None:
        await _closed_with(socket, 4401)

    plain = _with_query(url, f"language={LANGUAGE}&endpointing=off")
    events = _with_query(url, f"language={LANGUAGE}&events=json")
    steps = [await _step("first contact", plain, token, in_plain_mode)]
    if steps[0].handshake_s is None:  # nobody is there
        return steps
    steps.append(await _step("JSON, warm", events, token, in_json_mode))
    if token is not None:
        steps.append(await _step("wrong token", plain, "wrong-" + token[::-1][:8], refused))
    steps.append(await _step("nonsense", plain, token, nonsense))
    if hold_s:
        steps.append(await _step(f"held for {hold_s / 60:g}m", events, token, held))
    return steps


async def _step(name: str, url: str, token: str | None, talk: Talk) -> Step:
    """Connect, talk and close; never raises for what a server or a network can do."""
    step = Step(name)
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    asked_s = perf_counter()
    socket: ClientConnection | None = None
    try:
        async with connect(url, additional_headers=headers, compression=None, open_timeout=HANDSHAKE_S) as socket:
            step.handshake_s = perf_counter() - asked_s
            await talk(socket, step)
    except websockets.exceptions.ConnectionClosed:
        step.problem = f"the server closed the connection after {perf_counter() - asked_s:.0f} s"
    except websockets.exceptions.InvalidStatus as error:
        step.problem = f"HTTP {error.response.status_code} instead of a WebSocket; is the path /ws/audio?"
    except (websockets.exceptions.InvalidHandshake, websockets.exceptions.InvalidURI) as error:
        step.problem = f"it answered, but not as a WebSocket server: {error}"
    except TimeoutError:
        waited_s = ANSWER_S if step.handshake_s is not None else HANDSHAKE_S
        step.problem = f"no answer within {waited_s:.0f} s"
    except OSError as error:
        step.problem = f"nobody answers there ({error.strerror or error})"
    except _Failed as error:
        step.problem = str(error)
    if socket is not None:
        step.close = f"{socket.close_code or ''} {socket.close_reason or ''}".strip()
    return step


async def _send(socket: ClientConnection, pcm: bytes) -> None:
    """At the speed of speech."""
    size = round(FRAME_S * SAMPLE_RATE) * 2
    began_s = perf_counter()
    for number, start in enumerate(range(0, len(pcm), size), start=1):
        await asyncio.sleep(began_s + number * FRAME_S - perf_counter())  # a frame is full before it is sent
        await socket.send(pcm[start : start + size])


async def _speak_json(socket: ClientConnection, step: Step, pcm: bytes) -> None:
    """Push-to-talk, once."""
    await socket.send('{"type":"start","id":"smoke"}')
    await _send(socket, pcm)
    released_s = perf_counter()
    await socket.send('{"type":"flush","id":"smoke"}')
    final = await _next(socket, "final")
    step.ttfs_s, step.text = perf_counter() - released_s, final["text"]
    if final["no_speech"]:
        raise _Failed("nothing was understood; was the audio harmed on its way?")


async def _end(socket: ClientConnection, step: Step) -> None:
    await socket.send('{"type":"end"}')
    await _next(socket, "closed")
    await _closed_with(socket, 1000)


async def _greeted(socket: ClientConnection) -> None:
    await _next(socket, "ready")


async def _next(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of this type; an error in its place fails the step."""
    while True:
        received = await _receive(socket)
        try:
            message = json.loads(received)
        except ValueError:
            raise _Failed(f"expected JSON, got {received!r:.60}") from None
        if message.get("type") == "error":
            raise _Failed(f"the server says {message.get('code')}: {message.get('message')}")
        if message.get("type") == kind:
            return dict(message)


async def _receive(socket: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(socket.recv(), ANSWER_S)


async def _closed_with(socket: ClientConnection, expected: int) -> None:
    """Wait for the server's close."""
    try:
        received = await _receive(socket)
    except websockets.exceptions.ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else 1006
        if code != expected:
            raise _Failed(f"closed with {code}, not {expected}") from None
    else:
        raise _Failed(f"expected a close with {expected}, got {received!r:.60}")


def _with_query(url: str, query: str) -> str:
    return url + ("&" if urlsplit(url).query else "?") + query

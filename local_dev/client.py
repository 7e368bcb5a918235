"""Send a recording to a server and print what it heard."""

import asyncio
import re
from pathlib import Path
from urllib.parse import urlencode

import websockets
from websockets.asyncio.client import ClientConnection, connect

from stt_core.audio import SAMPLE_RATE, read_audio, to_s16le
from stt_core.errors import AudioError, SttError
from stt_core.settings import is_header_value

FRAME_S = 0.02  # what a microphone delivers at a time
UTTERANCE_S = 60.0  # longer recordings go in pieces; the server takes up to 65 s
ANSWER_S = 120.0


class ClientError(SttError):
    """The server could not be reached, or closed the connection."""


def run_client(file: Path, url: str, token: str | None, language: str | None, realtime: bool) -> int:
    """Print the text of `file`, one line for each utterance; return the exit code.

    Raises:
        AudioError: the file cannot be read.
        ClientError: the server cannot be reached or refused.
    """
    if token and not is_header_value(token):
        raise ClientError("No server has a token like this one: tokens are letters, digits and signs of ASCII.")
    samples = read_audio(file)
    if not len(samples):
        raise AudioError(f"{file} holds no audio.")
    for line in asyncio.run(transcribe(to_s16le(samples), url, token, language, realtime)):
        print(line)
    return 0


async def transcribe(
    pcm: bytes, url: str, token: str | None = None, language: str | None = None, realtime: bool = False
) -> list[str]:
    """The server's lines for 16-bit 16 kHz mono PCM.

    Args:
        realtime: send small frames at the speed of speech, then `flush`, as push-to-talk does; otherwise
            send it in one message.

    Raises:
        ClientError: the server cannot be reached or refused.
    """
    query = {"language": language} if language else {}
    if realtime:
        query["endpointing"] = "off"
    if query:
        url += ("&" if "?" in url else "?") + urlencode(query)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    shown = re.sub(r"token=[^&]*", "token=…", url)
    try:
        async with connect(url, additional_headers=headers, compression=None, open_timeout=10) as socket:
            step = int(UTTERANCE_S * SAMPLE_RATE) * 2
            return [await _send(socket, pcm[start : start + step], realtime) for start in range(0, len(pcm), step)]
    except websockets.exceptions.ConnectionClosed as error:
        closed = error.rcvd
        reason = f"{closed.code} {closed.reason}".strip() if closed else "the connection broke"
        raise ClientError(f"The server closed the connection: {reason}.") from None
    except (websockets.exceptions.InvalidURI, ValueError):  # ValueError: a port or a host that cannot be
        raise ClientError(
            f"{shown} is not a WebSocket address; it should look like ws://127.0.0.1:8018/ws/audio."
        ) from None
    except websockets.exceptions.InvalidHandshake as error:
        raise ClientError(f"{shown} answered, but not as this server would: {error}.") from None
    except TimeoutError:
        raise ClientError(f"The server at {shown} did not answer in time.") from None
    except OSError as error:
        raise ClientError(
            f"No server answers at {shown} ({error.strerror or 'connection refused'}). Start one: python -m local_dev"
        ) from None


async def _send(socket: ClientConnection, pcm: bytes, realtime: bool) -> str:
    """Send one utterance and return its line: exactly one comes, because whatever is unanswered is flushed."""
    if not realtime:
        await socket.send(pcm)
    else:
        now = asyncio.get_running_loop().time
        step = int(FRAME_S * SAMPLE_RATE) * 2
        started = now()
        for number, start in enumerate(range(0, len(pcm), step)):
            await asyncio.sleep(started + number * FRAME_S - now())
            await socket.send(pcm[start : start + step])
    await socket.send("flush")
    return str(await asyncio.wait_for(socket.recv(), ANSWER_S))

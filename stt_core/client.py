"""A client of the server, for asyncio: `Client` speaks JSON mode and has typed messages, `PlainClient` has lines.

    async with Client("ws://127.0.0.1:8018/ws/audio") as client:
        await client.start("question-1", language="ko")
        await client.send(pcm)
        print((await client.flush()).text)

One task reads the socket, so that a message is taken whether or not anybody waits for it. `async for` sees each message
once; `flush` and `end` return theirs as well. What nobody fetches is forgotten after a thousand messages.

With `reconnect`, a connection that breaks is made again until the server says that it never will. The server forgets a
session with its socket, so the client repeats its options and, audio included, each push-to-talk utterance that has no
final yet: its `flush` only takes longer. An open microphone's audio would come too late; what is sent while there is no
connection is dropped, and `send` says so. A new `Ready` tells that the connection is back.
"""

import asyncio
import json
import logging
from typing import Any, TypedDict, Unpack

from stt_core.audio import Encoding
from stt_core.client_socket import ClientError, ClientSocket
from stt_core.messages import (
    Closed,
    Endpointing,
    Error,
    Final,
    MessageError,
    Ready,
    ServerMessage,
    parse_client_message,
    parse_server_message,
)
from stt_core.transcription import Task

__all__ = ["Client", "ClientError", "PlainClient"]

logger = logging.getLogger(__name__)


class Vocabulary(TypedDict, total=False):
    """What `configure` changes, as in `stt_core.messages.Configure`."""

    language: str
    task: Task
    partials: bool
    phrases: list[str]
    hotwords: str


class Options(Vocabulary, total=False):
    """What `start` changes, as in `stt_core.messages.Start`."""

    sample_rate: int
    channels: int
    encoding: Encoding
    endpointing: Endpointing


class PlainClient(ClientSocket[str]):
    """Plain mode: audio in, lines out. `async for line in client`, or `await anext(client)` for the next one."""

    async def flush(self) -> bool:
        """Ask for the line of what was said so far; return whether the server was asked."""
        return await self._say("flush")

    def _take(self, text: str) -> None:
        self._publish(text)


class Client(ClientSocket[ServerMessage]):
    """JSON mode: `async for message in client` yields the classes of `stt_core.messages`.

    `ready` is the server's last `Ready`: accepted format, model, limits. A value that is none of the protocol's raises
    `MessageError`, which names the field.
    """

    ready: Ready

    def __init__(self, url: str, token: str | None = None, *, reconnect: bool = False) -> None:
        super().__init__(url, token, reconnect=reconnect)
        self._url += ("&" if "?" in url else "?") + "events=json"
        self._options: dict[str, Any] = {}  # all that `start` and `configure` have said
        self._push_to_talk = False
        self._open: str | None = None  # the push-to-talk utterance that is being said
        self._unanswered: dict[str | None, list[bytes | str]] = {}  # what was sent for utterances without a final
        self._flushed: dict[asyncio.Future[Final], str | None] = {}  # who waits, for the final of which utterance
        self._closed: Closed | None = None
        self._greeted = False  # whether this connection's `Ready` has come

    async def start(self, id: str | None = None, **options: Unpack[Options]) -> None:
        """Begin a push-to-talk utterance (with `id`) or an open microphone. What is not named stays as it is."""
        everything = self._options | options
        message = _message("start", id=id, **everything)
        self._push_to_talk, self._open, self._options = id is not None, id, everything
        if id is not None and self._reconnect:
            self._unanswered.setdefault(id, [])
        await self._say(message)

    async def flush(self, id: str | None = None) -> Final:
        """Push-to-talk released: the final of what was said, its text empty if nothing was. The connection stays."""
        name = self._open if id is None else id
        message = _message("flush", id=name)
        answer: asyncio.Future[Final] = asyncio.get_running_loop().create_future()
        self._flushed[answer] = name
        if self._open in self._unanswered:
            self._unanswered[name] = self._unanswered.pop(self._open)
            self._open = name
        if not await self._say(message):
            self._flushed.pop(answer, None)
            raise ClientError("There is no connection at present, and what was said is lost.")
        self._open = None if self._open == name else self._open
        return await answer

    async def cancel(self, id: str | None = None) -> None:
        """Throw away what was said: the utterance with this id, or the one that is being said."""
        message = _message("cancel", id=id)
        self._unanswered.pop(self._open if id is None else id, None)
        self._open = None if id in (None, self._open) else self._open
        await self._say(message)

    async def configure(self, **vocabulary: Unpack[Vocabulary]) -> None:
        """Change language, task, phrases, hotwords or partials from now on."""
        message = _message("configure", **vocabulary)
        self._options = self._options | vocabulary
        await self._say(message)

    async def keepalive(self) -> None:
        """Tell the server that the silence is meant."""
        await self._say(_message("keepalive"))

    async def end(self) -> Closed:
        """Finish what is open, then close. Returns the session's totals; what came before them can still be read."""
        async with self._turn:
            reconnect, self._reconnect = self._reconnect, False  # whatever ends this connection is the end
            if not await super()._write(_message("end")):
                self._reconnect = reconnect
                raise ClientError("There is no connection at present that could be ended.")
        outcome = await self._outcome()
        if self._closed is None:
            raise outcome
        return self._closed

    async def _write(self, payload: bytes | str) -> bool:
        kept = self._unanswered.get(self._open)
        if kept is not None:
            kept.append(payload)
        return await super()._write(payload) or kept is not None

    async def _greet(self, socket: Any) -> None:
        self._greeted = False
        while not self._greeted:
            self._take(await self._receive(socket))

    async def _restore(self) -> None:
        for answer in [answer for answer, name in self._flushed.items() if name not in self._unanswered]:
            del self._flushed[answer]
            _fail(answer, ClientError("The connection broke, and what was said is lost: say it again."))
        for kept in [*self._unanswered.values()]:
            for payload in [*kept]:
                await super()._write(payload)
        if not self._push_to_talk and self._options:
            await super()._write(_message("start", **self._options))

    def _take(self, text: str) -> None:
        try:
            message = parse_server_message(text)
        except MessageError:
            logger.debug("A message of a newer server's was left out.")
            return
        match message:
            case Ready():
                self.ready, self._greeted = message, True
            case Error(close=int()):
                self._complaint = message
            case Final():
                self._answered(message)
            case Closed():
                self._closed = message
        self._publish(message)

    def _answered(self, final: Final) -> None:
        if final.reason == "max_length":  # the utterance goes on
            kept = self._unanswered.get(final.id, [])
            kept[:] = [payload for payload in kept if isinstance(payload, str)]
            return
        self._unanswered.pop(final.id, None)
        answer = next((answer for answer, name in self._flushed.items() if name == final.id), None)
        if answer is not None and final.reason == "flush":
            del self._flushed[answer]
            if not answer.done():  # its caller may have stopped waiting
                answer.set_result(final)

    def _give_up(self, error: ClientError) -> None:
        for answer in self._flushed:
            _fail(answer, error)


def _fail(answer: asyncio.Future[Final], error: ClientError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # or asyncio complains, if nobody waits any more


def _message(kind: str, **fields: Any) -> str:
    """The text of a client's message.

    Raises:
        MessageError: a value is none of the protocol's; the sentence names the field.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    return parse_client_message(json.dumps({"type": kind, **given})).to_json()

"""One socket after the other: connecting, reading in a task of its own, and coming back when a connection breaks."""

import asyncio
import logging
import random
import re
from abc import ABC, abstractmethod
from collections import deque
from types import ModuleType
from typing import Any, Generic, Self, TypeVar

from stt_core.errors import SttError
from stt_core.messages import CLOSE_CODES, Error, ErrorCode
from stt_core.settings import is_header_value

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
FIRST_DELAY_S = 0.5  # before the first attempt to connect again; doubles
LONGEST_DELAY_S = 30.0
KEPT_MESSAGES = 1000
ORDERLY_CLOSE = 1000
# Trying again would end the same way: the protocol is not kept, the token is wrong, a message is too long.
HOPELESS_CLOSES = frozenset({1002, 1003, 1007, 1009, 4400, 4401, 4415})
CODE_OF_CLOSE = {close: code for code, close in CLOSE_CODES.items()}

MessageT = TypeVar("MessageT")


class ClientError(SttError):
    """The server cannot be reached, refused, or ended the session. `str(error)` is a sentence without the token.

    Attributes:
        close: the code that the WebSocket closed with, if it did.
        code: the protocol's name for it, if it has one.
        retry_after_s: how long the server asks to wait.
    """

    def __init__(self, sentence: str, close: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.close = close
        self.code: ErrorCode | None = CODE_OF_CLOSE.get(close or 0)
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether another connection may do better."""
        return self.close not in {ORDERLY_CLOSE, *HOPELESS_CLOSES}


def backoff_s(attempt: int) -> float:
    """How long to wait before this attempt, counted from 0. Half of it is chance, so that clients do not come at once.

    Source: "equal jitter", AWS Architecture Blog, Exponential Backoff and Jitter (2015).
    """
    longest_s: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt, 16))
    return longest_s * random.uniform(0.5, 1.0)


class ClientSocket(ABC, Generic[MessageT]):
    """What both modes share: one socket after the other, and the messages that came.

    Args:
        url: such as ws://127.0.0.1:8018/ws/audio; its query may declare format, language and endpointing.
        token: the server's, if it wants one.
        reconnect: whether to connect again when the connection breaks. The first connection must succeed.

    Raises:
        ClientError: from `async with`: the server cannot be reached or refuses. From everything else: the connection
            has ended for good. After an orderly end the iteration just stops.
    """

    def __init__(self, url: str, token: str | None = None, *, reconnect: bool = False) -> None:
        if token and not is_header_value(token):
            raise ClientError("No server has a token like this one: tokens are letters, digits and signs of ASCII.")
        self._url = url
        self._shown = re.sub(r"(token=)[^&]*", r"\1…", url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._reconnect = reconnect
        self._attempts = 0
        self._socket: Any = None  # none while there is no connection
        self._complaint: Error | None = None  # with which the server announced that it closes
        self._turn = asyncio.Lock()  # who sends: what is repeated after a break comes first
        self._messages: deque[MessageT] = deque(maxlen=KEPT_MESSAGES)
        self._news = asyncio.Event()
        self._over: ClientError | None = ClientError("The client is not connected: async with Client(…) as client.")

    async def __aenter__(self) -> Self:
        self._socket = await self._connect()
        self._over = None
        self._reader = asyncio.create_task(self._read(), name="stt client")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        if self._socket is not None:
            await self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MessageT:
        while not self._messages:
            if self._over is not None:
                raise StopAsyncIteration if self._over.close == ORDERLY_CLOSE else self._over
            self._news.clear()
            await self._news.wait()
        return self._messages.popleft()

    async def send(self, audio: bytes) -> bool:
        """Send audio in the declared format, cut anywhere; return whether it will be heard."""
        return await self._say(audio)

    async def _say(self, payload: bytes | str) -> bool:
        async with self._turn:
            return await self._write(payload)

    async def _write(self, payload: bytes | str) -> bool:
        if self._over is not None:
            raise self._over
        if self._socket is None:
            return False
        try:
            await self._socket.send(payload)
        except _websockets().exceptions.ConnectionClosed:
            if self._reconnect or asyncio.current_task() is self._reader:
                return False
            raise await self._outcome() from None
        return True

    async def _outcome(self) -> ClientError:
        """Why the last connection ended, once it has."""
        await asyncio.wait([self._reader])
        assert self._over is not None
        return self._over

    def _publish(self, message: MessageT) -> None:
        self._messages.append(message)
        self._news.set()

    async def _read(self) -> None:
        """Take messages until the last connection ends."""
        over = ClientError("The client was closed.", ORDERLY_CLOSE)
        try:
            while True:
                try:
                    self._take(await self._receive(self._socket))
                except ClientError as error:
                    if not (self._reconnect and error.retryable):
                        raise
                    await self._come_back(error)
        except ClientError as error:
            over = error
        finally:
            self._over = over
            self._news.set()
            self._give_up(over)

    async def _come_back(self, error: ClientError) -> None:
        """Connect again, however often it takes.

        Raises:
            ClientError: the server does not want this client.
        """
        self._socket, now = None, asyncio.get_running_loop().time
        if now() - self._since_s > LONGEST_DELAY_S:  # that was a good connection
            self._attempts = 0
        while self._socket is None:
            delay_s = max(backoff_s(self._attempts), error.retry_after_s or 0.0)
            self._attempts += 1
            logger.info("%s Connecting again in %.1f s.", error, delay_s)
            await asyncio.sleep(delay_s)
            try:
                socket = await self._connect()
            except ClientError as again:
                if not again.retryable:
                    raise
                error = again
            else:
                async with self._turn:
                    self._socket = socket
                    await self._restore()

    async def _connect(self) -> Any:
        """A connection on which the server has said what it says first.

        Raises:
            ClientError: there is none.
        """
        websockets, shown = _websockets(), self._shown
        self._complaint = None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                socket = await websockets.connect(self._url, additional_headers=self._headers, compression=None)
                try:
                    await self._greet(socket)
                except BaseException:
                    socket.transport.abort()
                    raise
        except (websockets.exceptions.InvalidURI, ValueError):  # ValueError: a port or a host that cannot be
            sentence = f"{shown} is not a WebSocket address; it should look like ws://127.0.0.1:8018/ws/audio."
            raise ClientError(sentence) from None
        except websockets.exceptions.InvalidHandshake as error:
            raise ClientError(f"{shown} answered, but not as this server would: {error}.") from None
        except TimeoutError:
            raise ClientError(f"The server at {shown} did not answer in time.") from None
        except OSError as error:
            why = error.strerror or "connection refused"
            raise ClientError(f"No server answers at {shown} ({why}). Start one: python -m local_dev") from None
        self._since_s = asyncio.get_running_loop().time()
        return socket

    async def _receive(self, socket: Any) -> str:
        try:
            return str(await socket.recv())
        except _websockets().exceptions.ConnectionClosed as closed:
            if closed.rcvd is None:
                raise ClientError("The server closed the connection: it broke.") from None
            said, close = self._complaint, closed.rcvd.code
            reason = f"{close} {said.message if said else closed.rcvd.reason}".strip().rstrip(".")
            retry_after_s = said.retry_after_ms / 1000 if said and said.retry_after_ms is not None else None
            raise ClientError(f"The server closed the connection: {reason}.", close, retry_after_s) from None

    async def _greet(self, socket: Any) -> None:
        """Wait for what the server says first."""

    async def _restore(self) -> None:
        """Repeat what the server of the last connection knew."""

    def _give_up(self, error: ClientError) -> None:
        """Tell those who wait for an answer that none will come."""

    @abstractmethod
    def _take(self, text: str) -> None:
        """The server said this."""


def _websockets() -> ModuleType:
    """The package, which only clients need.

    Raises:
        ClientError: it is not installed.
    """
    try:
        import websockets.exceptions
    except ModuleNotFoundError:
        sentence = 'The client needs the package websockets, which is not installed here: pip install -e ".[local]"'
        raise ClientError(sentence) from None
    return websockets

"""Recordings or a microphone, sent to a server in JSON mode. Texts go to stdout, everything else to stderr.

On a terminal partials are drawn in place, and the time from the end of speech to the text stands behind it.

`--replay` is the client of a debug recording once more: the same address, the same messages, the same pauses.

Exit codes: 0, everything has its text; 1, a recording could not be read or nothing intelligible was said in it, or the
server could not be reached, refused or closed; 2, the command line is wrong; 130, Ctrl+C.
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stt_core.audio import SAMPLE_RATE, AudioFormat, Samples, read_audio, to_s16le
from stt_core.client import Client, ClientError, Vocabulary
from stt_core.client_socket import ClientSocket
from stt_core.engine import quietest
from stt_core.errors import AudioError, SettingsError
from stt_core.limits import TokenBucket
from stt_core.messages import (
    Error,
    Final,
    MessageError,
    Partial,
    ServerMessage,
    Status,
    Timing,
    Warning,
    parse_server_message,
)
from stt_core.recordings import Sidecar, read_recording
from stt_core.session import ALWAYS_ANSWERED, IDLE_S
from stt_core.settings import is_loopback

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
PIECE_S = 60.0  # a longer recording goes in pieces; the server takes up to 65 s
FRAME_S = 0.02  # what --realtime sends at a time
BUDGET_SHARE = 0.9  # of the audio that the server allows: clocks differ
MICROPHONE_FRAME_S = 0.05
FRAMES_BEFORE = 6  # the key: a first syllable often comes early
REPLAY_GRACE_S = 1.0  # after a replayed microphone fell silent, beyond what the server waits
END = '{"type":"end"}'

OPEN_MICROPHONE_HELP = "Speak. Enter: the text of what was said so far, now. Ctrl+D (Windows: Ctrl+Z, Enter): end."
PUSH_TO_TALK_HELP = "Enter: begin to speak. Enter again: done. Ctrl+D (Windows: Ctrl+Z, Enter): end."

Recording = tuple[Path, Samples | AudioError]
Heard = bytes | Literal["enter", "end"]  # audio of the microphone, or a key


def run_client(
    file: Path | None,
    *,
    url: str,
    token: str | None = None,
    language: str | None = None,
    push_to_talk: bool = False,
    realtime: bool = False,
    as_json: bool = False,
    replay: Path | None = None,
) -> int:
    """Print what is said in a recording, in each recording of a folder, or, without a file, into the microphone.

    Args:
        replay: a debug recording, to send as its client did.

    Returns:
        The exit code.

    Raises:
        SttError: the recording cannot be read, there is no microphone, or the server cannot be reached, refuses or
            closes.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]  # Windows prefers another
    if replay is not None:
        if language or realtime:
            raise SettingsError("--replay sends what was recorded: leave --language and --realtime out.")
        return asyncio.run(run_replay(replay, Screen(as_json=as_json), url, token))
    screen = Screen(as_json=as_json, finals=file is None, timed=realtime or file is None or file.is_dir())
    vocabulary: Vocabulary = {"partials": (realtime or file is None) and (as_json or screen.draws)}
    if language:
        vocabulary["language"] = language
    client = Client(url, token, reconnect=file is None)
    if file is None:
        speaking = talk(client, screen, push_to_talk)
    elif file.is_dir():
        speaking = play(client, screen, read_folder(file), realtime=realtime, unlimited=is_local(url), labelled=True)
    else:
        speaking = play(client, screen, [(file, read(file))], realtime=realtime, unlimited=is_local(url))
    try:
        asyncio.run(converse(client, vocabulary, screen, speaking))
    except ExceptionGroup as failures:  # of the task group; what failed first is why
        raise failures.exceptions[0] from None
    finally:
        speaking.close()
    return int(screen.failed)


async def converse(
    client: Client, vocabulary: Vocabulary, screen: "Screen", speaking: Coroutine[Any, Any, None]
) -> None:
    """Speak and show what the server says, until both are done."""
    with screen:
        async with client, asyncio.TaskGroup() as group:
            group.create_task(screen.show(client))
            await client.configure(**vocabulary)
            await speaking
            await client.end()


def is_local(url: str) -> bool:
    """Whether the server is on this machine, where no audio budget holds."""
    with suppress(ValueError):  # no address at all, as whoever connects will say
        return is_loopback(urlsplit(url).hostname or "")
    return False


class Screen:
    """Where texts and everything else are shown.

    Args:
        as_json: print each message as it travels, and no texts.
        finals: print the text of each `final` that is shown.
        timed: on a terminal, say how long a text took.
    """

    def __init__(self, *, as_json: bool = False, finals: bool = False, timed: bool = False) -> None:
        self.failed = False
        self.as_json = as_json
        self._finals = finals
        self._timed = timed
        self._out = Console(highlight=False, soft_wrap=True)
        self._drawing = self._out if self._out.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True)
        self.draws = self._drawing.is_terminal and not as_json
        self._live = Live(
            console=self._drawing, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> "Screen":
        if self.draws:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    async def show(self, messages: AsyncIterator[ServerMessage]) -> None:
        """Show all of these."""
        async for message in messages:
            if self.as_json:
                print(message.to_json(), flush=True)
                continue
            match message:
                case Partial(text=text, stable=stable):
                    self.draw(Text.assemble(stable, (text[len(stable) :], "dim")))
                case Final(text=text, timing=timing) if self._finals and text:
                    self.line(text, timing)
                case Warning(message=sentence, hint=hint):
                    self.say(f"warning: {sentence} {hint}")
                case Error(message=sentence, close=None):
                    self.say(f"warning: {sentence}")
                case Status(eta_ms=eta_ms) if self.draws:
                    self.say(f"The model is being loaded; about {eta_ms / 1000:.0f} s.")

    def draw(self, text: Text | str) -> None:
        """Show this in place of what was drawn before."""
        if self.draws:
            self._live.update(Text.assemble(text), refresh=True)

    def line(self, text: str, timing: Timing) -> None:
        """Print a text."""
        if self.as_json:
            return
        self.draw("")
        if self._out.is_terminal:
            self._out.print(Text.assemble(text, (f"  {timing.ttfs_ms} ms" * self._timed, "dim")))
        else:
            print(text, flush=True)

    def say(self, sentence: str) -> None:
        """Tell the person something that is no text."""
        if self.draws:
            self._drawing.print(Text(sentence, "dim"))
        else:
            print(sentence, file=sys.stderr, flush=True)

    def fail(self, sentence: str) -> None:
        """A recording has no text; the others go on."""
        self.failed = True
        self.say(f"error: {sentence}")


# ---- recordings


def read(path: Path) -> Samples:
    """The samples of a recording.

    Raises:
        AudioError: it cannot be read, or is empty.
    """
    samples = read_audio(path)
    if not len(samples):
        raise AudioError(f"{path} holds no audio.")
    return samples


def read_folder(folder: Path) -> Iterator[Recording]:
    """The folder's recordings by name, each with why it cannot be read if it cannot.

    Raises:
        AudioError: there are none.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise AudioError(f"There is no WAV, FLAC, OGG or MP3 file in {folder}.")
    for path in paths:
        try:
            yield path, read(path)
        except AudioError as error:
            yield path, error


async def play(
    client: Client,
    screen: Screen,
    recordings: Iterable[Recording],
    *,
    realtime: bool,
    unlimited: bool,
    labelled: bool = False,
) -> None:
    """Send recordings and print their texts: a line for each piece, or labelled, one for each recording.

    Args:
        unlimited: the server takes audio as fast as it comes.
    """
    limits = client.ready.limits
    rate = 0.0 if unlimited else BUDGET_SHARE * limits["audio_rate"]
    budget = TokenBucket(rate, BUDGET_SHARE * limits["audio_burst_s"])
    piece_s = min(PIECE_S, BUDGET_SHARE * limits["max_push_to_talk_s"])
    number = 0
    for path, samples in recordings:
        if isinstance(samples, AudioError):
            screen.fail(str(samples))
            continue
        texts: list[str] = []
        for piece in pieces(samples, piece_s):
            number += 1
            screen.draw(f"{path.name} …")
            while not budget.take(len(piece) / SAMPLE_RATE, time.monotonic()):
                await asyncio.sleep(budget.wait_s(len(piece) / SAMPLE_RATE))
            await client.start(str(number))
            await send(client, to_s16le(piece), realtime)
            final = await client.flush()
            texts += [final.text] if final.text else []
            if final.text and not labelled:
                screen.line(final.text, final.timing)
        if labelled:
            screen.line(f"{path.name}\t{' '.join(texts)}", final.timing)
        if not texts:
            screen.fail(f"Nothing intelligible is said in {path}.")


def pieces(samples: Samples, longest_s: float) -> Iterator[Samples]:
    """The samples, cut where it is quiet if they are longer than this."""
    longest = round(longest_s * SAMPLE_RATE)
    while len(samples) > longest:
        cut = quietest(samples, longest * 3 // 4, longest)
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


async def send(client: Client, pcm: bytes, realtime: bool) -> None:
    """Send 16-bit 16 kHz PCM, at the speed of speech or as fast as it goes."""
    now = asyncio.get_running_loop().time
    frame_s = FRAME_S if realtime else 1.0
    step, started_s = round(frame_s * SAMPLE_RATE) * 2, now()
    for number, begin in enumerate(range(0, len(pcm), step)):
        if realtime:
            await asyncio.sleep(started_s + number * frame_s - now())
        await client.send(pcm[begin : begin + step])


# ---- debug recordings


class Replayer(ClientSocket[str]):
    """A client that says what another one said; texts and JSON alike come as they travel."""

    async def say(self, payload: bytes | str) -> None:
        """Send a message."""
        await self._say(payload)

    def _take(self, text: str) -> None:
        self._publish(text)


async def run_replay(path: Path, screen: Screen, url: str, token: str | None) -> int:
    """Send a debug recording again and print its texts; return the exit code.

    Raises:
        SttError: the recording cannot be read, or the server cannot be reached, refuses or closes.
    """
    sidecar, messages = read_recording(path)
    if not sidecar.audio.complete:
        screen.say("The beginning of this utterance was not recorded, so its text may be another one.")
    address = url + ("&" if "?" in url else "?") + urlencode(sidecar.query)
    async with Replayer(address, token) as client:
        await send_again(client.say, messages)
        texts = [text async for text in answers(client, sidecar, messages, screen)]
    if texts != [sidecar.text or sidecar.settings.get("failure_text")]:
        screen.say(f"When it was recorded, the text was: {sidecar.text}")
    if not texts:
        screen.fail(f"Nothing intelligible is said in {path}.")
    return int(screen.failed)


async def send_again(
    say: Callable[[bytes | str], Awaitable[None]],
    messages: Sequence[tuple[float, bytes | str]],
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Send messages at their times, which are seconds since the first one."""
    began_s = now()
    for at_s, payload in messages:
        if (wait_s := began_s + at_s - now()) > 0:
            await sleep(wait_s)
        await say(payload)


async def answers(
    client: Replayer, sidecar: Sidecar, messages: Sequence[tuple[float, bytes | str]], screen: "Screen"
) -> AsyncIterator[str]:
    """The texts that the server sends until everything is said, each printed as it comes.

    An utterance that its client ended has an answer, which is waited for. Another one ends with the silence that
    follows, as it did when the microphone was closed.
    """
    audio = sidecar.audio
    bytes_per_s = audio.sample_rate * AudioFormat(audio.sample_rate, audio.channels, audio.encoding).frame_bytes
    last_s = next((len(it) / bytes_per_s for _, it in reversed(messages) if isinstance(it, bytes)), 0.0)
    patience_s = None if sidecar.utterance.reason in ALWAYS_ANSWERED else IDLE_S + last_s + REPLAY_GRACE_S
    ended = bool(messages) and messages[-1][1] == END
    while True:
        try:
            async with asyncio.timeout(None if ended else patience_s):
                said = await anext(client)
        except StopAsyncIteration:
            return
        except TimeoutError:
            ended = await end(client)
            continue
        if screen.as_json:
            print(said, flush=True)
        text = text_of(said)
        if text is not None:
            if text and not screen.as_json:
                print(text, flush=True)
            if text:
                yield text
            ended = ended or await end(client)


async def end(client: Replayer) -> bool:
    """Say that nothing more will come: the server finishes what is open, and closes."""
    await client.say(END)
    return True


def text_of(said: str) -> str | None:
    """The text of an utterance, if this is one; plain mode has lines, JSON mode has finals."""
    try:
        message = parse_server_message(said)
    except MessageError as error:
        return said if not error.is_json else None
    return message.text if isinstance(message, Final) else None


# ---- microphone


async def talk(client: Client, screen: Screen, push_to_talk: bool) -> None:
    """Send what the microphone hears, until the keyboard says that it is over."""
    heard: asyncio.Queue[Heard] = asyncio.Queue()
    before: deque[bytes] = deque(maxlen=FRAMES_BEFORE)  # the key was pressed
    presses = 0
    talking = not push_to_talk
    with microphone(heard) as sample_rate, notices(screen):
        read_keys(heard)
        screen.say(PUSH_TO_TALK_HELP if push_to_talk else OPEN_MICROPHONE_HELP)
        if talking:
            await client.start(sample_rate=sample_rate)
        while (event := await heard.get()) != "end":
            if isinstance(event, bytes):
                if talking:
                    await client.send(event)
                else:
                    before.append(event)
            elif talking:
                talking = not push_to_talk
                try:
                    await client.flush()
                except ClientError as error:
                    if not error.retryable:
                        raise
                    screen.say(str(error))
            else:
                talking, presses = True, presses + 1
                await client.start(str(presses), sample_rate=sample_rate)
                await client.send(b"".join(before))
                before.clear()


@contextmanager
def microphone(heard: asyncio.Queue[Heard]) -> Iterator[int]:
    """Put what the default microphone hears into `heard`, 16-bit mono; yields its sample rate in Hz.

    Raises:
        AudioError: there is none, or it cannot be opened.
    """
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise AudioError(
            'The microphone needs the package sounddevice, which is not installed here: pip install -e ".[mic]"'
        ) from None
    except OSError:  # it is only a binding
        raise AudioError(
            "The microphone needs the library PortAudio, which is not installed here. "
            "Debian and Ubuntu: apt install libportaudio2"
        ) from None
    loop = asyncio.get_running_loop()

    def hear(data: Any, *_: Any) -> None:
        loop.call_soon_threadsafe(heard.put_nowait, bytes(data))

    try:
        sample_rate = round(sounddevice.query_devices(kind="input")["default_samplerate"])
        stream = sounddevice.RawInputStream(
            samplerate=sample_rate,
            blocksize=round(sample_rate * MICROPHONE_FRAME_S),
            channels=1,
            dtype="int16",
            callback=hear,
        )
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(
            f"No microphone can be opened ({error}). Plug one in, allow this program to use it, and make it the "
            "system's default."
        ) from None
    try:
        yield sample_rate
    finally:
        stream.close()


def read_keys(heard: asyncio.Queue[Heard]) -> None:
    """Put the keys that a person presses into `heard`, from a thread that nobody waits for."""
    loop = asyncio.get_running_loop()

    def read_lines() -> None:
        with suppress(RuntimeError):  # the loop is closed
            for _ in sys.stdin:
                loop.call_soon_threadsafe(heard.put_nowait, "enter")
            loop.call_soon_threadsafe(heard.put_nowait, "end")

    threading.Thread(target=read_lines, name="keys", daemon=True).start()


@contextmanager
def notices(screen: Screen) -> Iterator[None]:
    """Tell the person when the connection breaks and is made again."""
    logger, handler = logging.getLogger("stt_core.client_socket"), logging.Handler()
    handler.emit = lambda record: screen.say(record.getMessage())  # type: ignore[method-assign]
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate

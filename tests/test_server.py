"""The real server in a process of its own, the real model, real sockets, and what people said in test_audio."""

import csv
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import websockets.sync.client
from conftest import in_chunks
from servers import (
    ANSWER_S,
    REPOSITORY,
    START_S,
    STOP_S,
    TEST_AUDIO,
    Address,
    ServerProcess,
    environment,
    free_port,
    letters,
    running_server,
    wait_until,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from stt_core.phrases import PhraseBook

pytestmark = pytest.mark.model

FAILURE = "인식 실패"
FRAME_BYTES = 640  # 20 ms
FRAME_S = 0.02
TREE_FROG = "정답은청개구리입니다"
SPOKEN_KOREAN = [
    "mom",
    "answer_tree_frog",
    "open_the_door",
    "go_left",
    "turn_right",
    "start_again",
    "help_me",
    "use_magic",
    "how_much_health",
    "wait_here",
]

with (TEST_AUDIO / "manifest.tsv").open(encoding="utf-8", newline="") as _manifest:
    TEXTS = {row["id"]: row["text"] for row in csv.DictReader(_manifest, delimiter="\t")}


def pcm(name: str) -> bytes:
    with wave.open(str(TEST_AUDIO / f"{name}.wav")) as file:
        return file.readframes(file.getnframes())


def pause(duration_s: float) -> bytes:
    return bytes(round(duration_s * 16_000) * 2)


def line(socket: ClientConnection) -> str:
    text = socket.recv(timeout=ANSWER_S)
    assert isinstance(text, str)
    return text


def nothing_comes(socket: ClientConnection, for_s: float = 2.0) -> bool:
    """Whether the server stays silent. Long enough for any pause it waits for, and for the model, which is idle."""
    try:
        socket.recv(timeout=for_s)
    except TimeoutError:
        return True
    return False


def speak(socket: ClientConnection, audio: bytes) -> bool:
    """Send it as a microphone does: 20 ms every 20 ms. False: this machine was too busy, so that it paused in between,
    which may end an utterance."""
    started = last = time.monotonic()
    longest_s = 0.0
    for number, chunk in enumerate(in_chunks(audio, [FRAME_BYTES])):
        time.sleep(max(0.0, started + number * FRAME_S - time.monotonic()))
        socket.send(chunk)
        longest_s, last = max(longest_s, time.monotonic() - last), time.monotonic()
    return longest_s < 0.4


def spoken_line(server: Address, query: str, audio: bytes, rest: bytes = b"", flush: bool = False) -> str:
    """The first line of what is spoken, and then sent at once, without a pause."""
    for _ in range(10):
        with connect(server, query) as socket:
            if speak(socket, audio):
                for chunk in in_chunks(rest, [FRAME_BYTES]):
                    socket.send(chunk)
                if flush:
                    socket.send("flush")
                return line(socket)
    pytest.fail("this machine is too busy to speak without a pause")


def close_code(socket: ClientConnection) -> int:
    """The code of the server's close, which must come next."""
    with pytest.raises(ConnectionClosed) as caught:
        socket.recv(timeout=ANSWER_S)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server() as process:
        yield process
        assert "Traceback" not in process.output, process.output


def connect(server: Address, query: str = "") -> ClientConnection:
    return websockets.sync.client.connect(server.url + query, compression=None)


# -- utterances sent whole


@pytest.mark.parametrize("name", ["mom", "answer_tree_frog"])
def test_a_recording_in_one_message_is_one_line(server: ServerProcess, name: str) -> None:
    with connect(server) as socket:
        socket.send(pcm(name))
        assert letters(TEXTS[name]) == letters(line(socket))


def test_the_clients_of_the_seed_still_work(server: ServerProcess) -> None:
    with wave.open(str(TEST_AUDIO / "mom.wav"), "rb") as wav:
        audio = wav.readframes(wav.getnframes())
    with websockets.sync.client.connect(server.url) as socket:
        socket.send(audio)
        assert "엄마" == socket.recv(timeout=ANSWER_S)


def test_english_is_understood_when_asked_for(server: ServerProcess) -> None:
    with connect(server, "?language=en") as socket:
        socket.send(pcm("open_the_gate"))
        assert letters("Open the gate") == letters(line(socket))


def test_a_wav_file_may_be_sent_as_it_is(server: ServerProcess) -> None:
    with connect(server) as socket:
        socket.send((TEST_AUDIO / "mom.wav").read_bytes())
        assert "엄마" == line(socket)
        socket.send((TEST_AUDIO / "answer_tree_frog.wav").read_bytes())
        assert TREE_FROG == letters(line(socket))


def test_a_stray_byte_spoils_neither_its_message_nor_the_next(server: ServerProcess) -> None:
    with connect(server) as socket:
        socket.send(pcm("mom") + b"\x7f")
        socket.send(pcm("answer_tree_frog"))
        assert ["엄마", TREE_FROG] == [line(socket), letters(line(socket))]


def test_silence_and_noise_sent_whole_are_answered_all_the_same(server: ServerProcess) -> None:
    with connect(server) as socket:
        socket.send(pcm("silence"))
        assert FAILURE == line(socket)
        socket.send(pcm("noise"))
        assert FAILURE == line(socket)
        socket.send(pcm("mom"))
        assert "엄마" == line(socket)


def test_an_empty_message_is_ignored(server: ServerProcess) -> None:
    with connect(server) as socket:
        socket.send(b"")
        socket.send(pcm("mom"))
        socket.send(b"")
        assert "엄마" == line(socket)


def test_65_seconds_in_one_message_are_one_line(server: ServerProcess) -> None:
    audio = pcm("go_left") + pause(61) + pcm("use_magic")
    audio = audio[: 65 * 16_000 * 2]
    with connect(server) as socket:
        socket.send(audio)
        text = letters(line(socket))
        assert letters("왼쪽으로 가자") in text
        assert letters("마법을 사용해") in text
        socket.send(pcm("mom"))
        assert "엄마" == line(socket)  # and so it was the only line


def test_a_message_over_2_mib_closes_with_1009(server: ServerProcess) -> None:
    with connect(server) as socket:
        with suppress(websockets.exceptions.ConnectionClosed):  # the server may close before all is sent
            socket.send(bytes(2 * 1024 * 1024 + 2))
        assert 1009 == close_code(socket)


def test_text_nonsense_closes_with_4400(server: ServerProcess) -> None:
    with connect(server) as socket:
        socket.send("hello")
        assert 4400 == close_code(socket)


# -- streams


def test_an_open_microphone_is_answered_when_the_speaker_pauses(server: ServerProcess) -> None:
    assert TREE_FROG == letters(spoken_line(server, "?endpointing=on", pcm("answer_tree_frog") + pause(0.8)))


def test_push_to_talk_is_answered_when_it_is_released(server: ServerProcess) -> None:
    with connect(server, "?endpointing=off") as socket:
        speak(socket, pcm("mom"))
        socket.send("flush")
        assert "엄마" == line(socket)


def test_small_messages_and_a_flush_need_no_setting(server: ServerProcess) -> None:
    first_second, rest = pcm("mom")[: 2 * 16_000], pcm("mom")[2 * 16_000 :]
    assert "엄마" == spoken_line(server, "", first_second, rest, flush=True)


def test_two_sentences_with_a_pause_are_two_lines(server: ServerProcess) -> None:
    with connect(server, "?endpointing=on") as socket:
        for chunk in in_chunks(pcm("two_sentences") + pause(0.8), [FRAME_BYTES]):
            socket.send(chunk)
        assert [letters("왼쪽으로 가자"), letters("마법을 사용해")] == [letters(line(socket)), letters(line(socket))]


@pytest.mark.parametrize("chunk_bytes", [1, 641, 6399])
def test_frames_may_be_cut_anywhere(server: ServerProcess, chunk_bytes: int) -> None:
    audio = (TEST_AUDIO / "mom.wav").read_bytes()
    sizes = [chunk_bytes] if chunk_bytes > 1 else [1] * 50 + [6399]  # also inside the header, byte by byte
    with connect(server, "?endpointing=off") as socket:
        for chunk in in_chunks(audio, sizes):
            socket.send(chunk)
        socket.send("flush")
        assert "엄마" == line(socket)


def test_a_microphone_that_hears_only_silence_gets_no_line(server: ServerProcess) -> None:
    with connect(server, "?endpointing=on") as socket:
        for chunk in in_chunks(pcm("silence"), [FRAME_BYTES]):
            socket.send(chunk)
        assert nothing_comes(socket)


# -- many


def ask(server: Address, name: str) -> list[str]:
    """What one client hears that sends the same words whole, twice, and then in small messages."""
    with connect(server) as socket:
        heard = []
        for _ in range(2):
            socket.send(pcm(name))
            heard.append(letters(line(socket)))
        for chunk in in_chunks(pcm(name), [FRAME_BYTES]):
            socket.send(chunk)
        socket.send("flush")
        return [*heard, letters(line(socket))]


def test_the_texts_of_ten_clients_at_once_do_not_mix(server: ServerProcess) -> None:
    with ThreadPoolExecutor(len(SPOKEN_KOREAN)) as clients:
        heard = dict(zip(SPOKEN_KOREAN, clients.map(lambda name: ask(server, name), SPOKEN_KOREAN), strict=True))
    # Ten at once are hurried, which costs a syllable here and there: each text is still nearest to its own line.
    book = PhraseBook(TEXTS[name] for name in SPOKEN_KOREAN)
    nearest = {name: [match.phrase for text in texts if (match := book.match(text))] for name, texts in heard.items()}
    assert {name: [TEXTS[name]] * 3 for name in SPOKEN_KOREAN} == nearest


def test_lines_keep_the_order_of_the_messages(server: ServerProcess) -> None:
    names = ["how_much_health", "mom", "answer_tree_frog", "help_me", "go_left", "mom"]
    with connect(server) as socket:
        for name in names:
            socket.send(pcm(name))
        assert [letters(TEXTS[name]) for name in names] == [letters(line(socket)) for _ in names]


@pytest.mark.parametrize("politely", [True, False])
def test_a_client_that_goes_while_its_words_are_decoded_harms_nobody(server: ServerProcess, politely: bool) -> None:
    with connect(server) as socket:
        for _ in range(20):
            socket.send(pcm("answer_tree_frog"))
        if not politely:
            socket.socket.close()
    with connect(server) as socket:
        socket.send(pcm("mom"))
        assert "엄마" == line(socket)
    assert 200 == server.status("/readyz")
    assert "Traceback" not in server.output


# -- the process


def test_the_command_line_client_prints_the_words_and_nothing_else(server: ServerProcess) -> None:
    for options in ([], ["--realtime"]):
        finished = subprocess.run(
            [sys.executable, "-m", "local_dev", "client", "test_audio/mom.wav", "--url", server.url, *options],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert (0, "엄마\n", "") == (finished.returncode, finished.stdout, finished.stderr)


def test_it_says_where_it_is_and_what_to_try(server: ServerProcess) -> None:
    for words in [
        f"http://127.0.0.1:{server.port}/",
        f"ws://127.0.0.1:{server.port}/ws/audio",
        "model base",
        f"-m local_dev client test_audio/mom.wav --url {server.url}",
        "Ctrl+C",
    ]:
        assert words in server.output


def lines_with(output: str, words: Iterable[str]) -> list[str]:
    return [text for text in output.splitlines() if re.search("|".join(words), text)]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to another process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_when_its_clients_have_their_answers(number: signal.Signals) -> None:
    with running_server("--token", "sesame") as server, connect(server, "?token=sesame") as socket:
        socket.send(pcm("mom"))
        assert "엄마" == line(socket)
        socket.send(pcm("answer_tree_frog"))  # it is at work when the signal comes
        assert socket.ping().wait(ANSWER_S)  # what was sent before it has arrived
        server.process.send_signal(number)
        assert TREE_FROG == letters(line(socket))
        assert 1012 == close_code(socket)
        assert 0 == server.process.wait(STOP_S)
        assert [] == lines_with(server.output, ["Traceback", "ERROR", "WARNING", "sesame"])


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to another process")
def test_a_signal_ends_the_server_while_the_model_loads() -> None:
    server = Address(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "local_dev", "--port", str(server.port)],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    wait_until(lambda: server.status("/healthz") == 200, "the server to listen", START_S)
    process.terminate()
    output, _ = process.communicate(timeout=STOP_S)
    assert 0 == process.returncode
    assert [] == lines_with(output, ["Traceback", "ERROR", "WARNING"])

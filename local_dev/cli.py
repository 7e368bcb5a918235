"""The commands and their options. Every setting of the server is an option with the same name."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from stt_core import __version__
from stt_core.errors import SttError
from stt_core.settings import ENVIRONMENT_PREFIX, Settings

DEFAULT_URL = "ws://127.0.0.1:8018/ws/audio"

EXAMPLES = """\
examples:
  python -m local_dev                                    serve on http://127.0.0.1:8018
  python -m local_dev client test_audio/mom.wav          in a second terminal: print the text
  python -m local_dev --model large-v3-turbo             a bigger model, from the Hugging Face hub
  python -m local_dev --device cuda                      a local GPU: pip install -e ".[local,gpu]" first
  python -m local_dev --host 0.0.0.0 --token SECRET      for a game on another PC of the LAN

extras, as in pip install -e ".[local]":
  local   this server and the embedded Whisper base      gpu   cuBLAS for a local NVIDIA GPU
  modal   modal deploy modal_app.py                      dev   tests and checks
  bench   plots for the benchmarks                       browser   the page's test in a real browser
  mic     the client's microphone
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in a line; the usage of a server with forty settings would hide it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def serve_options() -> Parser:
    """One option for each setting, with its description and its variable."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("server settings")
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None or isinstance(field.default, bool) else f" Default: {field.default}."
        help_text = f"{field.description}{default} [{ENVIRONMENT_PREFIX}{name.upper()}]".replace("%", "%%")
        option = "--" + name.replace("_", "-")
        if field.annotation is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            metavar = "DIR" if field.annotation == Path | None else name.rpartition("_")[2].upper()
            group.add_argument(option, metavar=metavar, help=help_text)
    return parser


def build_parser() -> Parser:
    options = serve_options()
    parser = Parser(
        prog="python -m local_dev",
        description="Real-time speech to text for games. Without a command: serve.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options],
    )
    parser.add_argument("--version", action="version", version=f"game-stt {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands.add_parser("serve", parents=[options], help="run the server (the default)")

    client = commands.add_parser(
        "client",
        help="send recordings or the microphone to a server and print the text",
        epilog="exit codes: 0 every recording has its text; 1 one cannot be read or holds no speech, there is no "
        "microphone, or the server is not there, refuses or closes; 2 wrong usage; 130 Ctrl+C",
    )
    source = client.add_mutually_exclusive_group(required=True)
    source.add_argument("file", type=Path, nargs="?", help="WAV, FLAC, OGG or MP3, or a folder of them")
    source.add_argument("--mic", action="store_true", help='the microphone, open (pip install -e ".[mic]")')
    source.add_argument("--replay", type=Path, metavar="FILE", help="a debug recording, sent again as it came")
    source.add_argument("--push-to-talk", action="store_true", help="the microphone; Enter is the key")
    client.add_argument("--url", default=DEFAULT_URL, help="default: %(default)s")
    client.add_argument("--token", default=os.environ.get("STT_TOKEN"), help="the server's token [STT_TOKEN]")
    client.add_argument("--language", help="instead of the server's own")
    client.add_argument("--realtime", action="store_true", help="send 20 ms at a time, as a microphone would")
    client.add_argument("--json", action="store_true", dest="as_json", help="print the server's messages")

    plan = commands.add_parser(
        "plan", argument_default=argparse.SUPPRESS, help="what so many players take and cost on Modal, simulated"
    )
    plan.add_argument("--players", type=int, default=1000, help="online at the peak; default: %(default)s")
    plan.add_argument("--talk-share", type=float, default=0.1, help="of the time that one talks; default: %(default)s")
    plan.add_argument("--gpu", help="Modal's name, or cpu; default: L4")
    plan.add_argument("--model", help="default: the one that was measured, or large-v3-turbo")
    plan.add_argument("--mode", choices=("ptt", "open"), help="push-to-talk or open microphones; default: ptt")
    plan.add_argument("--calibration", type=Path, help="engine.json or load_ptt.json of a benchmark")
    plan.add_argument("--check", type=Path, help="load_ptt.json: only compare what it measured with the model")
    plan.add_argument("--session-minutes", type=float, help="mean length of a session; default: 30")
    plan.add_argument("--min-containers", type=int, help="default: 0")
    plan.add_argument("--max-containers", type=int, help="default: as many as are needed")
    plan.add_argument("--buffer-containers", type=int, help="idle ones beyond the need; default: 0")
    plan.add_argument("--scaledown-s", type=float, help="an empty container ends after this; default: 180")
    plan.add_argument("--seed", type=int, help="default: 0")
    plan.add_argument("--out", type=Path, default=Path("bench_results"), help="default: %(default)s")

    smoke = commands.add_parser("smoke", help="whether a deployed server does what a game needs")
    smoke.add_argument("url", help="wss://HOST/ws/audio, or the address that modal deploy prints")
    smoke.add_argument("--token", default=os.environ.get("STT_TOKEN"), help="the server's token [STT_TOKEN]")
    smoke.add_argument("--hold", metavar="TIME", default="0s", help="also hold a socket open so long: 90s, 6m, 1h")

    doctor = commands.add_parser(
        "doctor", help="say what is wrong with a recording", argument_default=argparse.SUPPRESS
    )
    doctor.add_argument("file", type=Path, help="a WAV, or raw PCM (.pcm, .raw)")
    doctor.add_argument("--sample-rate", type=int, help="declared, in Hz; default: the header's, or 16000")
    doctor.add_argument("--channels", type=int, help="declared; default: the header's, or 1")
    doctor.add_argument("--encoding", choices=("s16le", "f32le"), help="declared; default: the header's, or s16le")
    doctor.add_argument("--out", type=Path, help="the picture; default: FILE.doctor.png")
    doctor.add_argument("--no-picture", dest="picture", action="store_false")
    doctor.add_argument("--korean", action="store_true", help="Korean texts")
    doctor.add_argument("--transcript", action="store_true", help="what the model hears, without and with the repair")
    doctor.add_argument("--language", help="of the transcript; default: the server's own")
    doctor.add_argument("--repair", dest="repair_to", type=Path, metavar="FILE", help="write the repaired bytes")

    bench = commands.add_parser("bench", help="measure speed and accuracy")
    add_benches(bench.add_subparsers(dest="bench", metavar="WHAT", required=True))
    return parser


def add_benches(benches: "argparse._SubParsersAction[Parser]") -> None:
    """What can be measured. Each writes its results into a folder."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "data",
        type=Path,
        nargs="?",
        default=Path("test_audio"),
        help="folder with a manifest.tsv; default: %(default)s",
    )
    common.add_argument("--out", type=Path, default=Path("bench_results"), help="default: %(default)s")
    common.add_argument("--limit", type=int, help="only the first N clips")
    common.add_argument("--seed", type=int, help="of everything random; default: 0")

    engine = benches.add_parser(
        "engine",
        parents=[common],
        argument_default=argparse.SUPPRESS,
        help="CER and time against stock faster-whisper, on the same clips",
    )
    engine.add_argument("--model", default="base", help="default: %(default)s")
    engine.add_argument("--language", default=None, help="only clips of this language")
    engine.add_argument("--beam-size", type=int, help="of both systems; default: 5")
    engine.add_argument(
        "--study", action="store_true", help="the curves behind the engine's defaults, and where its time goes"
    )

    live = Parser(add_help=False, argument_default=argparse.SUPPRESS, parents=[common])
    live.add_argument("--url", help="a running server; otherwise one is started")
    live.add_argument("--token", help="its token")
    live.add_argument("--frame-ms", type=int, help="audio in one message")
    live.add_argument("--server-options", type=str.split, help="options of the server that is started, in one string")
    ttfs = benches.add_parser(
        "ttfs",
        parents=[live],
        argument_default=argparse.SUPPRESS,
        help="time from the end of speech to the text, and cut-offs",
    )
    ttfs.add_argument("--languages", type=lambda text: text.split(","), help="as in ko,en; default: ko")
    ttfs.add_argument("--noise-dbfs", type=float, help="level of a room's noise around the clips")
    ttfs.add_argument("--release-ms", type=int, help="push-to-talk: flush this long after the speech ended")
    ttfs.add_argument("--pause-trials", type=int, help="pairs of clips for each known pause; default: 5")
    endpoints = benches.add_parser(
        "endpoints",
        parents=[common],
        argument_default=argparse.SUPPRESS,
        help="how soon utterances end, and whom that cuts off; faster than real time",
    )
    endpoints.add_argument("--languages", type=lambda text: text.split(","), help="as in ko,en; default: ko")
    endpoints.add_argument("--pause-trials", type=int, help="pairs of clips for each known pause; default: 50")
    endpoints.add_argument("--infer-ms", type=float, help="what a transcription takes; default: what it takes")
    endpoints.add_argument("--min-silence-duration-ms", type=int, help="instead of the server's default")
    endpoints.add_argument("--max-silence-duration-ms", type=int, help="instead of the server's default")
    audio = benches.add_parser(
        "doctor", parents=[common], argument_default=argparse.SUPPRESS, help="what the audio doctor finds and misses"
    )
    audio.add_argument("--cer", action="store_true", help="measure each fault's CER with the model (half an hour)")
    audio.add_argument("--fit-rate", action="store_true", help="instead, fit the rate by its sound again")
    phrases = benches.add_parser(
        "phrases", argument_default=argparse.SUPPRESS, help="precision, recall and time of matching phrases"
    )
    phrases.add_argument("data", type=Path, nargs="?", default=None, help="recordings to match as well")
    phrases.add_argument("--out", type=Path, default=Path("bench_results"), help="default: %(default)s")
    phrases.add_argument("--language", help="of the recordings; default: ko")
    phrases.add_argument(
        "--by-audio", action="store_true", dest="audio", help="score the phrases against the recordings, too"
    )
    phrases.add_argument("--seed", type=int, help="default: 0")
    quiet = benches.add_parser(
        "silence",
        parents=[common],
        argument_default=argparse.SUPPRESS,
        help="texts where nobody spoke, and what the guards against them cost",
    )
    quiet.add_argument("--minutes", type=float, help="of made sounds; default: 30")
    quiet.add_argument("--ungated", action="store_true", help="also the engine alone, without a detector")
    quiet.add_argument("--model", help="default: base")
    for name, help_text in (
        ("confidence", "whether the confidence of a final means what it says"),
        ("hotwords", "what hotwords do to lines with rare words, and to others"),
    ):
        command = benches.add_parser(name, parents=[common], argument_default=argparse.SUPPRESS, help=help_text)
        command.add_argument("--model", help="default: base")
        command.add_argument("--languages", type=lambda text: text.split(","), help="default: ko,en")
        if name == "hotwords":
            command.add_argument("--conditions", type=lambda text: text.split(","), help='default: "as recorded"')
    for name, help_text in (
        ("load", "how many players a server holds"),
        ("soak", "whether its memory stays flat under lasting load"),
    ):
        command = benches.add_parser(name, parents=[live], argument_default=argparse.SUPPRESS, help=help_text)
        command.add_argument("--mode", choices=("ptt", "open"), help="push-to-talk or open microphones; default: ptt")
        command.add_argument("--language", help="of the clips; default: ko")
        command.add_argument("--server-pid", type=int, help="with --url: the server's process, to measure it")
        if name == "load":
            command.add_argument(
                "--sessions", type=lambda text: [int(n) for n in text.split(",")], help="players of each step: 1,2,5"
            )
            command.add_argument("--seconds", type=float, help="length of a step; default: 30")
        else:
            command.add_argument("--sessions", type=int, help="players; default: 20")
            command.add_argument("--minutes", type=float, help="default: 20")


def run_bench(what: str, **options: Any) -> int:
    """Run one of the benchmarks; return its exit code."""
    data, out = options.pop("data"), options.pop("out")
    if what == "engine":
        from local_dev.bench import run_engine_bench

        return run_engine_bench(data, out, **options)
    if what == "ttfs":
        from local_dev.live_ttfs import run_ttfs_bench

        return run_ttfs_bench(data, out, **options)
    if what == "load":
        from local_dev.live_load import run_load_bench

        return run_load_bench(data, out, **options)
    if what == "doctor":
        if options.pop("fit_rate", False):
            from local_dev.fit_rate import run_rate_fit

            return run_rate_fit(data, seed=options.get("seed", 0))
        from local_dev.bench_doctor import run_doctor_bench

        return run_doctor_bench(data, out, **options)
    if what == "phrases":
        from local_dev.bench_phrases import run_phrases_bench

        return run_phrases_bench(out, data=data, **options)
    if what == "silence":
        from local_dev.bench_silence import run_silence_bench

        return run_silence_bench(data, out, **options)
    if what == "confidence":
        from local_dev.bench_confidence import run_confidence_bench

        return run_confidence_bench(data, out, **options)
    if what == "hotwords":
        from local_dev.bench_hotwords import run_hotwords_bench

        return run_hotwords_bench(data, out, **options)
    if what == "endpoints":
        from local_dev.bench_endpoints import run_endpoint_bench

        return run_endpoint_bench(data, out, **options)
    from local_dev.live_soak import run_soak_bench

    return run_soak_bench(data, out, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. What a person can act on is one line on stderr, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "serve")
    arguments = vars(build_parser().parse_args(words))
    command = arguments.pop("command")
    try:
        if command == "client":
            from local_dev.client import run_client

            del arguments["mic"]  # it is what a client without a file does
            return run_client(**arguments)
        if command == "bench":
            return run_bench(arguments.pop("bench"), **arguments)
        if command == "smoke":
            from local_dev.smoke import duration_s, run_smoke

            return run_smoke(arguments["url"], arguments["token"], duration_s(arguments["hold"]))
        if command == "doctor":
            from local_dev.doctor import run_doctor

            return run_doctor(**arguments)
        if command == "plan":
            from local_dev.plan import run_check, run_plan

            check = arguments.pop("check", None)
            return run_check(check, arguments.get("seed", 0)) if check else run_plan(**arguments)
        from local_dev.serve import serve

        return serve(Settings.from_environment(os.environ, **arguments))
    except SttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130

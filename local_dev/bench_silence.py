"""`bench silence`: what is heard where nobody spoke, and what the guards against it cost those who did.

Nobody speaks in the noise files of DATA and in half an hour of sounds made for this (`local_dev.noises`). All of it
goes through what the server runs, without the sockets: the session cuts utterances out of it with the detector, as an
open microphone and as push-to-talk held for as long as the sound lasts, and the engine transcribes them in Korean, in
English and in whatever language it takes them for. Each text is one too many. "ungated" is the engine alone, if that
is asked for: the whole sound, with no detector before it, which no server does.

In the speech of DATA nothing may be suppressed. Each clip goes through as push-to-talk, as it is and in pink noise
5 dB below it, and beside it whoever says in `test_audio` what Whisper likes to hear in noise.

Each utterance is decoded once, with no guard; which of `stt_core.evidence` would have kept its text back is found
afterwards. So the lines of the ablation differ in nothing but the guards. The guard of the script is another matter:
it decodes anew, and only the whole vocabulary has anything for it to do, so it has a table of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from local_dev.bench import Clip, bench_progress, read_manifest
from local_dev.live_report import Sheet, header, new_figure, write_report
from local_dev.noises import coloured, make_noises
from stt_core.audio import SAMPLE_RATE, AudioFormat, Samples, read_audio, to_s16le
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import LONGEST_SPEECH_S, WhisperEngine
from stt_core.errors import SettingsError
from stt_core.evidence import BELIEF, GHOSTS, GUARDS, OBJECTIONS, Evidence, Guard, letters, objection, other_script
from stt_core.scoring import score
from stt_core.session import Endpointing, PlainSession, Promote, Transcribe, Withdraw
from stt_core.transcription import Decoding, Request
from stt_core.vad import SileroVad

LANGUAGES = ("ko", "en", "auto")
PATHS = ("open", "push-to-talk", "ungated")
SPOKEN_LANGUAGES = ("ko", "en")
FRAME_BYTES = 640  # 20 ms
SILENCE_S = 2.0  # after each sound: the open microphone's last utterance ends
SNR_DB = 5.0
BATCH = 8


@dataclass(frozen=True, slots=True)
class Sound:
    """Something to listen to."""

    id: str
    samples: Samples
    language: str = ""  # of what is said
    said: str = ""  # empty: nobody speaks
    in_noise: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model wrote for one utterance, with no guard."""

    sound: str
    said: str
    in_noise: bool
    path: str
    asked: str  # the language that was asked for
    language: str
    text: str
    avg_logprob: float
    no_speech_prob: float
    vad_ratio: float | None

    def is_told(self, guards: Iterable[Guard]) -> bool:
        """Whether these guards let it through."""
        evidence = Evidence(self.text, self.avg_logprob, self.no_speech_prob, self.vad_ratio)
        return bool(self.text) and objection(evidence, frozenset(guards)) is None


def run_silence_bench(
    data: Path,
    out: Path,
    *,
    minutes: float = 30.0,
    ungated: bool = False,
    limit: int | None = None,
    model: str = "base",
    cache_dir: Path | None = None,
    lines: Path = Path("test_audio"),
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Measure, print and write `silence.json`, `.png` and `.html`; return the exit code: 1 if there was any text.

    Args:
        data: a folder with a `manifest.tsv`.
        minutes: of sounds that are made.
        ungated: also give the engine the sounds without asking the detector, which takes three times as long.
        limit: so many noise files, and so many clips of each language.
        model: as in `WhisperEngine`.
        cache_dir: likewise.
        lines: the folder in which somebody says thanks.
        seed: of the sounds.

    Raises:
        SettingsError: there is nothing to measure.
    """
    console = console or Console()
    figure, axes = new_figure(2)
    clips = read_manifest(data)
    spoken = [clip for clip in clips if clip.kind == "human" and clip.text]
    spoken = [clip for code in SPOKEN_LANGUAGES for clip in [c for c in spoken if c.language == code][:limit]]
    thanks = [clip for clip in read_manifest(lines) if clip.text and _sounds_like_a_ghost(clip.text)]
    if not spoken and not thanks:
        raise SettingsError(f"{data} holds no clip in {' or '.join(SPOKEN_LANGUAGES)} whose text is known.")
    noises = [Sound(clip.id, read_audio(clip.path)) for clip in clips if clip.kind == "noise"][:limit]
    noises += [Sound(noise.id, noise.samples) for noise in make_noises(minutes, seed)]
    said = [_spoken(clip) for clip in [*spoken, *thanks]]
    said = [one for one in said if len(one.samples) <= LONGEST_SPEECH_S * SAMPLE_RATE]
    said += [_in_noise(one, np.random.default_rng([seed, number])) for number, one in enumerate(said)]
    result = header({"data": data.name, "minutes": minutes, "limit": limit, "model": model, "seed": seed})
    paths = PATHS if ungated else PATHS[:2]
    with bench_progress(console) as progress:
        listener = Listener(model, cache_dir, progress)
        heard = listener.listen(noises, said, paths)
        script = listener.scripts([one for one in said if one.language == "ko" and not one.in_noise])
    ghosts = [one for one in heard if not one.said]
    voices = [one for one in heard if one.said]
    result |= {
        "noise": {"sounds": len(noises), "minutes": sum(len(one.samples) for one in noises) / SAMPLE_RATE / 60},
        "utterances": {path: sum(one.path == path for one in ghosts) // len(LANGUAGES) for path in paths},
        "ablation": [_ablation(name, guards, ghosts, voices) for name, guards in _sets().items()],
        "script": script,
        "thanks": [asdict(one) | {"told": one.is_told(GUARDS)} for one in voices if _sounds_like_a_ghost(one.said)],
        "heard": [asdict(one) for one in heard],
    }
    _plot(axes, ghosts, voices)
    about = (__doc__ or "").partition("\n\n")[2]
    write_report(out, "silence", "Nothing where nothing was said", about, result, _sheets(result), figure, console)
    return int(any(one.is_told(GUARDS) for one in ghosts if one.path != "ungated"))


class Listener:
    """The server's way from samples to text, without guards."""

    def __init__(self, model: str, cache_dir: Path | None, progress: Progress) -> None:
        self._model = model
        self._cache_dir = cache_dir
        self._progress = progress
        self._vad = SileroVad()

    def listen(self, noises: Sequence[Sound], said: Sequence[Sound], paths: Sequence[str]) -> list[Heard]:
        """Noises in every way and language, speech as push-to-talk in its own."""
        asked = []
        for one in self._progress.track(noises, description="noise, detector"):
            requests = [("open", request) for request in self.requests(one.samples, "on")]
            requests += [("push-to-talk", request) for request in self.requests(one.samples, "off")]
            if "ungated" in paths:
                requests += [("ungated", Request(one.samples[: round(LONGEST_SPEECH_S * SAMPLE_RATE)], "auto"))]
            asked += [(one, path, replace(request, language=code)) for code in LANGUAGES for path, request in requests]
        for one in self._progress.track(said, description="speech, detector"):
            asked += [
                (one, "push-to-talk", replace(request, language=one.language))
                for request in self.requests(one.samples, "off")
            ]
        asked.sort(key=lambda item: (item[2].language, len(item[2].samples)))
        engine = self._engine(("ko",), ())
        batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
        return [
            Heard(
                sound.id,
                sound.said,
                sound.in_noise,
                path,
                request.language,
                transcript.language,
                transcript.text,
                round(transcript.avg_logprob, 3),
                round(transcript.no_speech_prob, 3),
                None if request.vad_ratio is None else round(request.vad_ratio, 3),
            )
            for batch in self._progress.track(batches, description="model")
            for (sound, path, request), transcript in zip(
                batch, engine.transcribe([request for _, _, request in batch]), strict=True
            )
        ]

    def requests(self, samples: Samples, endpointing: Endpointing) -> list[Request]:
        """What a session asks for in the end, once this has come from a microphone (`on`) or a held key (`off`)."""
        session = PlainSession(
            AudioFormat(), self._vad, EndpointingOptions(), endpointing=endpointing, decoding=Decoding("auto")
        )
        silence = np.zeros(round(SILENCE_S * SAMPLE_RATE) if endpointing == "on" else 0, np.float32)
        pcm = to_s16le(np.concatenate([samples, silence]))
        frames = [pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm), FRAME_BYTES)]
        waiting: dict[int, Request] = {}
        final = set()
        for actions in (*(session.receive_bytes(frame) for frame in frames), session.receive_text("flush")):
            for action in actions:
                match action:
                    case Transcribe(number, request):
                        waiting[number] = replace(request, quick=False)
                        if not action.speculative:
                            final.add(number)
                    case Promote(number):
                        final.add(number)
                    case Withdraw(number):
                        waiting.pop(number, None)
        return [request for number, request in waiting.items() if number in final]

    def scripts(self, said: Sequence[Sound]) -> dict[str, int]:
        """How many Korean texts of the whole vocabulary hold other letters, without the guard and with it."""
        requests = [replace(one, language="ko") for sound in said for one in self.requests(sound.samples, "off")]
        bare, guarded = self._engine((), ()), self._engine((), ("script",))
        foreign = [
            request
            for request in self._progress.track(requests, description="script")
            if other_script(bare.transcribe([request])[0].text, "ko")
        ]
        left = sum(other_script(text.text, "ko") for text in guarded.transcribe(foreign))
        return {"texts": len(requests), "without": len(foreign), "with": left}

    def _engine(self, languages: Sequence[str], guards: Sequence[Guard]) -> WhisperEngine:
        engine = WhisperEngine(self._model, languages=languages, cache_dir=self._cache_dir, guards=guards)
        engine.load()
        return engine


def _spoken(clip: Clip) -> Sound:
    return Sound(clip.id, read_audio(clip.path), clip.language, clip.text)


def _in_noise(sound: Sound, chance: np.random.Generator) -> Sound:
    noise = coloured(chance, len(sound.samples), 1)
    noise *= sound.samples.std() / noise.std() * 10 ** (-SNR_DB / 20)
    return replace(sound, samples=np.clip(sound.samples + noise, -1, 1).astype(np.float32), in_noise=True)


def _sounds_like_a_ghost(text: str) -> bool:
    return GHOSTS.fullmatch(letters(text).lower()) is not None


def _sets() -> dict[str, frozenset[Guard]]:
    """The guards of each line of the ablation."""
    every = frozenset(OBJECTIONS)
    return {"all": every, **{f"without {guard}": every - {guard} for guard in OBJECTIONS}, "none": frozenset()}


def _ablation(name: str, guards: frozenset[Guard], ghosts: Sequence[Heard], voices: Sequence[Heard]) -> dict[str, Any]:
    """What these guards let through, and what they cost."""
    row: dict[str, Any] = {"guards": name}
    for path in PATHS:
        for code in LANGUAGES:
            row[f"{path}, {code}"] = sum(one.is_told(guards) for one in ghosts if (one.path, one.asked) == (path, code))
    for in_noise in (False, True):
        own = [one for one in voices if one.in_noise is in_noise and one.text]
        where = "noisy" if in_noise else "clear"
        row[f"suppressed, {where}"] = [one.sound for one in own if not one.is_told(guards)]
        for code in SPOKEN_LANGUAGES:
            scores = [
                score(one.said, one.text if one.is_told(guards) else "", code) for one in own if one.asked == code
            ]
            row[f"errors, {where}, {code}"] = sum(s.errors for s in scores) / max(1, sum(s.length for s in scores))
    return row


def _sheets(result: dict[str, Any]) -> list[Sheet]:
    def ghosts(row: dict[str, Any], path: str) -> str:
        return " / ".join(str(row[f"{path}, {code}"]) for code in LANGUAGES)

    ablation = [
        [
            row["guards"],
            *(ghosts(row, path) for path in result["utterances"]),
            *(str(len(row[f"suppressed, {where}"])) for where in ("clear", "noisy")),
            *(
                f"{100 * row[f'errors, {where}, ko']:.1f} / {100 * row[f'errors, {where}, en']:.1f} %"
                for where in ("clear", "noisy")
            ),
        ]
        for row in result["ablation"]
    ]
    thanks = [
        [
            row["sound"] + (", noisy" if row["in_noise"] else ""),
            row["said"],
            row["text"],
            f"{row['avg_logprob']:.2f}",
            f"{row['no_speech_prob']:.2f}",
            "" if row["vad_ratio"] is None else f"{row['vad_ratio']:.2f}",
            "yes" if row["told"] else "no",
        ]
        for row in result["thanks"]
    ]
    script = result["script"]
    noise = result["noise"]
    utterances = ", ".join(f"{count} {path}" for path, count in result["utterances"].items())
    return [
        Sheet(
            f"Texts in {noise['minutes']:.0f} minutes of {noise['sounds']} sounds without speech ({utterances}), "
            "asked in ko / en / auto; speech that was suppressed, and its CER ko / WER en, as it is and in noise",
            ["guards", *result["utterances"], "suppressed", "in noise", "errors", "in noise"],
            ablation,
        ),
        Sheet(
            "Korean with Han or kana, whole vocabulary",
            ["texts", "without the guard", "with it"],
            [[str(script[key]) for key in ("texts", "without", "with")]],
        ),
        Sheet("Said, and like a ghost", ["clip", "said", "heard", "logprob", "no speech", "VAD", "told"], thanks),
    ]


def _plot(axes: Sequence[Any], ghosts: Sequence[Heard], voices: Sequence[Heard]) -> None:
    """Left: all the evidence. Right: the model's alone."""
    groups = {
        "nobody speaks": [one for one in ghosts if one.text and one.path != "ungated"],
        "speech in noise": [one for one in voices if one.text and one.in_noise],
        "speech": [one for one in voices if one.text and not one.in_noise],
    }
    for (name, group), mark in zip(groups.items(), ("x", ".", "o"), strict=True):
        rated = [one for one in group if one.vad_ratio is not None]
        logprobs = [one.avg_logprob for one in group]
        senses = [(one.vad_ratio or 0.0) - one.no_speech_prob for one in rated]
        axes[0].plot(senses, [one.avg_logprob for one in rated], mark, label=name, ms=4)
        axes[1].plot([one.no_speech_prob for one in group], logprobs, mark, label=name, ms=4)
    axes[0].plot([-1, 1], [BELIEF + 1, BELIEF - 1], "--", color="grey", label="the guard `detector`")
    xlabel = "VAD ratio - no-speech probability"
    axes[0].set(xlabel=xlabel, ylabel="average log probability", xlim=(-1, 1), ylim=(-2.6, 0))
    axes[1].set(xlabel="no-speech probability", ylabel="average log probability", xlim=(0, 1), ylim=(-2.6, 0))
    axes[0].legend()

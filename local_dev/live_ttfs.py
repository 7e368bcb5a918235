"""`bench ttfs`: how long players wait for their text, one player at a time, against a real server process.

Every clip is spoken three times over real sockets, in frames paced in real time.

Flush TTFS. Push-to-talk (`endpointing=off`): the clip, then `flush`, as the player releases the key at the end of
the clip. From sending `flush` to the arrival of the line. Silence at the end of the clip is sent like the rest
("held after speech" tells how much of it there is): a player too releases the key a moment after the last word,
and the server may use that moment. With `release_ms` the key is released so long after the end of speech instead.

Endpoint TTFS. Open microphone (`endpointing=on`): the clip, then digital silence, or the noise of a quiet room under
all of it. From the end of speech to the arrival of the last line, the endpoint's silence included.

End of speech is the end of the last speech window by Silero VAD, computed offline on the clip with the thresholds of
its own `get_speech_timestamps` (begins at 0.5, lasts down to 0.35). It is a moment of the audio: the microphone's
frame that holds it is handed over up to a frame later, and that wait counts. TTFS, time to final segment, is what
pipecat's stt-benchmark calls it (from the end of speech to the last final segment; it takes the end from its live
Silero VAD less the VAD's `stop_secs`), and "time to final transcript" in Artificial Analysis' AA-WER Streaming
(from Silero's end of speech to the first final after it). Where a clip gives one line after its end of speech, all
three are the same.

Partials. JSON mode, an open microphone, the clip once more. First partial: from the start of speech (Silero, offline)
to the first partial with a text. Revisions: words that a partial took back from the one before, and the final from the
last partial, for each word of the final. Broken promises: words that were called stable and do not stand in the final
at their place, for each word of the final. Lag: how long after it was spoken a word was called stable, or final if
that came first; where a word was spoken is not known, so words are taken to be spread evenly over the speech.

An answer that does not come within 30 s counts as infinite: percentiles are by nearest rank over all clips. A clip
in which Silero finds no speech is left out. CER and WER are those of `stt_core.scoring`, pooled over the clips; the
server's line for "nothing understood" counts as it stands.

Cut-off rate. Whoever pauses for less than `allowed_pause_ms` (500 ms, whatever the server's settings are) has not
finished: an open microphone that answers such speech with more than one line has cut the speaker off. Two kinds of
trial, each counted as cut off or not:
- as recorded: the clips of the endpoint measurement whose own longest pause (Silero, offline) is shorter than that;
- with a known pause: two such clips as one utterance, joined so that the end of speech of the first and the start of
  speech of the second lie 200, 300 or 400 ms apart (half of that is the clips' own decay and onset, as far as they
  have any, and the rest digital silence). Pairs are drawn with the seed. A detector with a memory may hear a pause
  that is longer: a speaker whom that cuts off is cut off all the same. So is one whose first clip was a whole sentence.
The rate is cut-offs over trials whose pause is allowed. A longer pause may be asked for as a control: it should be
split, and does not count.
"""

import asyncio
import math
import random
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from local_dev.bench import Clip, read_manifest
from local_dev.live_client import Lag, Player, clock, frames, playing, room_noise
from local_dev.live_report import Sheet, header, ms, new_figure, percentile, write_report
from local_dev.live_server import server_under_test
from stt_core.audio import SAMPLE_RATE, Samples, read_audio, to_s16le
from stt_core.client import Client
from stt_core.endpointing import HYSTERESIS
from stt_core.errors import SettingsError
from stt_core.messages import Final, Partial
from stt_core.scoring import Score, score
from stt_core.vad import WINDOW_SAMPLES, Probabilities, SileroVad

ANSWER_S = 30.0
SILENCE_S = 2.0  # at least, after the clip
SETTLED_S = 1.0  # no line for so long: there will be no other
MAX_CLIP_S = 28.0  # an open microphone's utterance is split at 30 s
PAUSES_MS = (200, 300, 400)
ALLOWED_PAUSE_MS = 500
SHORT_S = 5.0  # the goals are for utterances up to this
BUCKETS_S = ((0.0, SHORT_S), (0.0, 2.0), (2.0, SHORT_S), (SHORT_S, 10.0), (10.0, math.inf), (0.0, math.inf))
PERCENTILES = (50, 95, 99)

Spans = list[tuple[float, float]]  # stretches of speech, (start_s, end_s) in the audio


@dataclass(frozen=True, slots=True)
class Spoken:
    """A clip, and when somebody speaks in it."""

    clip: Clip
    samples: Samples
    speech: Spans

    @property
    def audio_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing said, and what came back."""

    id: str
    mode: str  # flush or endpoint
    audio_s: float
    after_speech_s: float  # flush: from the end of speech to the release of the key
    pause_ms: float  # the longest within the speech
    ttfs_s: float
    lines: list[str]
    errors: int
    length: int


@dataclass(frozen=True, slots=True)
class PartialTrial:
    """The partials of one clip."""

    id: str
    audio_s: float
    first_s: float  # from the start of speech; infinite if none came
    partials: int
    words: int  # of the finals
    revised: int
    broken: int
    lag_s: float  # mean over the words


def speech_spans(probabilities: Probabilities, threshold: float = 0.5) -> Spans:
    """Where somebody speaks, from the probabilities of 32 ms windows, with Silero's two thresholds."""
    window_s = WINDOW_SAMPLES / SAMPLE_RATE
    spans: list[tuple[float, float]] = []
    start: int | None = None
    for number, probability in enumerate([*probabilities, 0.0]):
        if start is None and probability >= threshold:
            start = number
        elif start is not None and probability < threshold - HYSTERESIS:
            spans.append((start * window_s, number * window_s))
            start = None
    return spans


def find_speech(samples: Samples, vad: SileroVad) -> Spans:
    windows = np.pad(samples, (0, -len(samples) % WINDOW_SAMPLES)).reshape(-1, WINDOW_SAMPLES)
    return speech_spans(vad.stream()(windows))


def longest_pause_ms(speech: Spans) -> float:
    """The longest silence between two stretches of speech."""
    return max((1000 * (later[0] - earlier[1]) for earlier, later in pairwise(speech)), default=0)


def joined(first: Spoken, second: Spoken, pause_ms: int) -> tuple[Samples, Spans]:
    """Two clips as one utterance with a pause of this length between their speech."""
    pause = round(pause_ms * SAMPLE_RATE / 1000)
    end, start = (round(s * SAMPLE_RATE) for s in (first.speech[-1][1], second.speech[0][0]))
    decay = first.samples[end : end + pause // 2]
    onset = second.samples[max(0, start - pause // 2) : start]
    gap = np.zeros(pause - len(decay) - len(onset), np.float32)
    samples = np.concatenate([first.samples[:end], decay, gap, onset, second.samples[start:]])
    shift_s = (end + pause - start) / SAMPLE_RATE
    return samples, first.speech + [(since_s + shift_s, until_s + shift_s) for since_s, until_s in second.speech]


def is_cut_off(trial: Trial, allowed_pause_ms: float) -> bool | None:
    """Whether the speaker was cut off; None: the pause was long enough to end an utterance."""
    return None if trial.pause_ms >= allowed_pause_ms else len(trial.lines) > 1


def run_ttfs_bench(
    data: Path,
    out: Path,
    *,
    languages: Sequence[str] = ("ko",),
    kinds: Collection[str] = ("human",),
    max_s: float = MAX_CLIP_S,
    limit: int | None = None,
    repeats: int = 1,
    url: str | None = None,
    token: str | None = None,
    server_options: Sequence[str] = (),
    frame_ms: int = 20,
    noise_dbfs: float | None = None,
    release_ms: int | None = None,
    pauses_ms: Sequence[int] = PAUSES_MS,
    pause_trials: int = 5,
    allowed_pause_ms: int = ALLOWED_PAUSE_MS,
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Measure, print and write `ttfs.json`, `.png` and `.html`; return the exit code.

    Args:
        data: a folder with a `manifest.tsv`.
        out: the folder for the results; it is made.
        languages: clips in these languages; the session asks for each clip's own.
        kinds: of these kinds; all kinds if the folder has none of them.
        max_s: clips up to this long.
        limit: so many clips of each language, drawn with the seed.
        repeats: how often every clip is spoken in each way.
        url: of a running server; without it one is started, with `server_options` as its command line.
        frame_ms: audio in a message.
        noise_dbfs: level of the room's noise under an open microphone, -60 for a quiet room; None: silence.
        release_ms: see the module header.
        pauses_ms: known pauses to try, each on `pause_trials` pairs; none: no such trials.
        allowed_pause_ms: a shorter pause must not end an utterance.
        seed: of the order, the pairs and the noise.

    Raises:
        SettingsError: there is nothing to measure.
        SttError: the server does not start, or closes a connection.
    """
    console = console or Console()
    figure, axes = new_figure(2)  # first of all: without matplotlib it is better not to begin
    drawn = random.Random(seed)
    clips = choose_clips(data, languages, kinds, limit, max_s, drawn)
    vad = SileroVad()
    spoken = [Spoken(clip, samples := read_audio(clip.path), find_speech(samples, vad)) for clip in clips]
    unheard = [each.clip.id for each in spoken if not each.speech]
    spoken = [each for each in spoken if each.speech and each.audio_s <= max_s]
    if not spoken:
        raise SettingsError(
            f"{data} holds no clip in {', '.join(languages)} of up to {max_s:.0f} s in which one speaks."
        )

    settings = {
        "data": data.name,
        "languages": list(languages),
        "kinds": sorted({each.clip.kind for each in spoken}),
        "clips": len(spoken),
        "repeats": repeats,
        "server": "running already" if url else ["python", "-m", "local_dev", *server_options],
        "frame_ms": frame_ms,
        "noise_dbfs": noise_dbfs,
        "release_ms": release_ms,
        "pauses_ms": list(pauses_ms),
        "allowed_pause_ms": allowed_pause_ms,
        "seed": seed,
    }
    result = header(settings)
    options = ["--language", languages[0], *server_options]
    with server_under_test(url, None, options) as server, Progress(console=console) as progress:
        bench = _Bench(server.url, token, frame_ms / 1000, noise_dbfs, seed)
        for each in spoken[:2]:
            asyncio.run(bench.push_to_talk(each, release_ms))  # warm up
        trials, pauses, partials = [], [], []
        pairs = joined_pairs(spoken, pauses_ms, pause_trials, allowed_pause_ms, drawn)
        task = progress.add_task("one player", total=repeats * 3 * len(spoken) + len(pairs))
        for _ in range(repeats):
            for each in drawn.sample(spoken, len(spoken)):
                trials.append(asyncio.run(bench.push_to_talk(each, release_ms)))
                progress.advance(task)
                trials.append(asyncio.run(bench.open_microphone(each)))
                progress.advance(task)
                partials.append(asyncio.run(bench.partials(each)))
                progress.advance(task)
        for pair, pause_ms in pairs:
            pauses.append((pause_ms, asyncio.run(bench.open_microphone(pair))))
            progress.advance(task)

    result |= {
        "flush": _summary([trial for trial in trials if trial.mode == "flush"]),
        "endpoint": _summary([trial for trial in trials if trial.mode == "endpoint"]),
        "partials": _partials_summary(partials),
        "cut_off": _cut_offs(trials, pauses, allowed_pause_ms),
        "held_after_speech_s": _median([trial.after_speech_s for trial in trials if trial.mode == "flush"]),
        "no_speech": unheard,
        "client": bench.lag.as_dict(),
        "trials": [asdict(trial) for trial in trials] + [asdict(trial) for _, trial in pauses],
        "partial_trials": [asdict(trial) for trial in partials],
    }
    _plot(axes, trials)
    about = (__doc__ or "").partition("\n\n")[2]
    write_report(out, "ttfs", "Time to final segment", about, result, _sheets(result), figure, console)
    return 0


class _Bench:
    """Speaks to one server."""

    def __init__(self, url: str, token: str | None, frame_s: float, noise_dbfs: float | None, seed: int) -> None:
        self.lag = Lag()
        self._url = url
        self._token = token
        self._frame_s = frame_s
        loop_s = 60.0
        self._room = np.zeros(round(loop_s * SAMPLE_RATE), np.float32)
        if noise_dbfs is not None:
            self._room = room_noise(loop_s, noise_dbfs, seed)

    async def push_to_talk(self, spoken: Spoken, release_ms: int | None) -> Trial:
        samples, end_s = spoken.samples, spoken.speech[-1][1]
        if release_ms is not None:
            held = round((end_s + release_ms / 1000) * SAMPLE_RATE)
            samples = np.pad(samples, (0, max(0, held - len(samples))))[:held]
        language = spoken.clip.language
        async with self._playing(language, "off") as player:
            await player.speak(to_s16le(samples), clock())
            released_s = await player.flush()
            line = await player.next_line(ANSWER_S)
        lines, ttfs_s = ([line.text], line.arrived_s - released_s) if line else ([], math.inf)
        return _trial(spoken, "flush", len(samples) / SAMPLE_RATE - end_s, ttfs_s, lines)

    async def open_microphone(self, spoken: Spoken) -> Trial:
        async with self._playing(spoken.clip.language, "on") as player:
            started_s = clock()
            speaker = asyncio.create_task(self._speak_on(player, spoken.samples, started_s))
            lines = []
            try:
                deadline_s = started_s + spoken.audio_s + ANSWER_S
                earliest_s = started_s + spoken.audio_s + SILENCE_S
                while (wait_s := deadline_s - clock()) > 0 and (line := await player.next_line(wait_s)):
                    lines.append(line)
                    deadline_s = max(earliest_s, line.arrived_s + SETTLED_S)
            finally:
                speaker.cancel()
                with suppress(asyncio.CancelledError):
                    await speaker
        ttfs_s = lines[-1].arrived_s - (started_s + spoken.speech[-1][1]) if lines else math.inf
        return _trial(spoken, "endpoint", 0.0, ttfs_s if ttfs_s > 0 else math.inf, [line.text for line in lines])

    async def partials(self, spoken: Spoken) -> PartialTrial:
        heard: list[tuple[float, Partial | Final]] = []
        pcm = to_s16le(np.concatenate([spoken.samples, self._room[: round(SILENCE_S * SAMPLE_RATE)]]))
        async with Client(self._url, self._token) as client:
            await client.start(language=spoken.clip.language, partials=True)
            started_s = clock()
            speaker = asyncio.create_task(self._speak(client, pcm, started_s))
            async for message in client:
                if isinstance(message, Partial | Final):
                    heard.append((clock() - started_s, message))
            await speaker
        return partial_trial(spoken, heard)

    async def _speak(self, client: Client, pcm: bytes, started_s: float) -> None:
        for frame, full_s in frames(pcm, self._frame_s):
            await asyncio.sleep(started_s + full_s - clock())
            await client.send(frame)
        await client.end()

    async def _speak_on(self, player: Player, samples: Samples, started_s: float) -> None:
        """The clip and then the room, until cancelled."""
        sound = self._room.copy()
        sound[: len(samples)] += samples
        while True:
            started_s = await player.speak(to_s16le(sound), started_s)
            sound = self._room

    def _playing(self, language: str, endpointing: str) -> Any:
        return playing(
            self._url,
            self._token,
            language=language,
            endpointing=endpointing,
            frame_s=self._frame_s,
            lag=self.lag,
        )


def choose_clips(
    data: Path,
    languages: Sequence[str],
    kinds: Collection[str],
    limit: int | None,
    max_s: float,
    drawn: random.Random,
) -> list[Clip]:
    clips = [clip for clip in read_manifest(data) if clip.language in languages and clip.text]
    clips = [clip for clip in clips if clip.kind in kinds] or clips
    chosen = []
    for language in languages:
        those = [clip for clip in clips if clip.language == language]
        if limit is not None and limit < len(those):
            short = [clip for clip in those if len(read_audio(clip.path)) <= max_s * SAMPLE_RATE]
            those = drawn.sample(short, min(limit, len(short)))
        chosen += those
    return chosen


def joined_pairs(
    spoken: Sequence[Spoken], pauses_ms: Sequence[int], trials: int, allowed_pause_ms: int, drawn: random.Random
) -> list[tuple[Spoken, int]]:
    """Clips joined with each of the pauses, and the pause."""
    fit = [each for each in spoken if longest_pause_ms(each.speech) < allowed_pause_ms and each.audio_s <= SHORT_S]
    pairs = []
    for pause_ms in pauses_ms if fit else ():
        for _ in range(trials):
            first = drawn.choice(fit)
            second = drawn.choice([each for each in fit if each.clip.language == first.clip.language])
            samples, speech = joined(first, second, pause_ms)
            text = f"{first.clip.text} {second.clip.text}"
            name = f"{first.clip.id}+{pause_ms}+{second.clip.id}"
            clip = Clip(name, first.clip.path, first.clip.language, first.clip.kind, text)
            pairs.append((Spoken(clip, samples, speech), pause_ms))
    return pairs


def _trial(spoken: Spoken, mode: str, after_speech_s: float, ttfs_s: float, lines: list[str]) -> Trial:
    compared = score(spoken.clip.text, " ".join(lines), spoken.clip.language)
    return Trial(
        id=spoken.clip.id,
        mode=mode,
        audio_s=round(spoken.audio_s, 3),
        after_speech_s=round(after_speech_s, 3),
        pause_ms=round(longest_pause_ms(spoken.speech)),
        ttfs_s=round(ttfs_s, 4),
        lines=lines,
        errors=compared.errors,
        length=compared.length,
    )


def partial_trial(spoken: Spoken, heard: Sequence[tuple[float, Partial | Final]]) -> PartialTrial:
    """What the module header says of these messages; times are seconds since the clip began."""
    begin_s, end_s = spoken.speech[0][0], spoken.speech[-1][1]
    final_words = sum(len(message.text.split()) for _, message in heard if isinstance(message, Final))
    shown: list[str] = []
    stable: list[str] = []
    settled_s: list[float] = []  # of every word, in order
    revised = broken = before = 0
    for at_s, message in heard:
        words = message.text.split()
        revised += len(shown) - _same(shown, words)
        shown = words
        if isinstance(message, Partial):
            stable = message.stable.split()
        else:
            broken += len(stable) - _same(stable, words)
            shown, stable = [], []
        settled = before + len(words if isinstance(message, Final) else stable)
        settled_s += [at_s] * (settled - len(settled_s))
        before += len(words) if isinstance(message, Final) else 0
    spoken_s = [begin_s + (end_s - begin_s) * (i + 1) / max(1, final_words) for i in range(final_words)]
    lags = [max(0.0, at_s - said_s) for at_s, said_s in zip(settled_s, spoken_s, strict=False)]
    firsts = [at_s - begin_s for at_s, message in heard if isinstance(message, Partial) and message.text]
    return PartialTrial(
        id=spoken.clip.id,
        audio_s=round(spoken.audio_s, 3),
        first_s=round(min(firsts, default=math.inf), 3),
        partials=sum(isinstance(message, Partial) for _, message in heard),
        words=final_words,
        revised=revised,
        broken=broken,
        lag_s=round(float(np.mean(lags)), 3) if lags else 0.0,
    )


def _same(before: Sequence[str], after: Sequence[str]) -> int:
    """How many words both begin with, whatever their punctuation."""
    bare = [[re.sub(r"\W", "", word).casefold() for word in words] for words in (before, after)]
    return next((i for i, (a, b) in enumerate(zip(*bare, strict=False)) if a != b), min(map(len, bare)))


def _partials_summary(trials: Sequence[PartialTrial]) -> dict[str, Any]:
    words = max(1, sum(trial.words for trial in trials))
    firsts = [trial.first_s for trial in trials]
    return {
        "n": len(trials),
        "none": sum(math.isinf(first_s) for first_s in firsts),
        **{f"first_p{percent}_s": percentile(firsts, percent) for percent in (50, 95)},
        "partials_per_clip": round(sum(trial.partials for trial in trials) / max(1, len(trials)), 2),
        "revised_per_word": round(sum(trial.revised for trial in trials) / words, 3),
        "broken_per_word": round(sum(trial.broken for trial in trials) / words, 3),
        "lag_s": round(sum(trial.lag_s * trial.words for trial in trials) / words, 3),
    }


def _summary(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Of each bucket of lengths that holds any."""
    return [
        {
            "from_s": low,
            "to_s": high,
            "n": len(members),
            "unanswered": sum(math.isinf(trial.ttfs_s) for trial in members),
            **{f"p{percent}_s": percentile([t.ttfs_s for t in members], percent) for percent in PERCENTILES},
            "error_rate": round(Score(sum(t.errors for t in members), sum(t.length for t in members)).rate, 4),
        }
        for low, high in BUCKETS_S
        if (members := [trial for trial in trials if low < trial.audio_s <= high])
    ]


def _cut_offs(trials: Sequence[Trial], pauses: Sequence[tuple[int, Trial]], allowed_pause_ms: int) -> dict[str, Any]:
    """Trials and cut-offs of each kind, and of all whose pause was too short to end an utterance."""
    kinds: dict[str, list[Trial]] = {"as recorded": [trial for trial in trials if trial.mode == "endpoint"]}
    for pause_ms, trial in pauses:
        kinds.setdefault(f"{pause_ms} ms pause", []).append(trial)
    rows: list[dict[str, Any]] = []
    for kind, members in kinds.items():
        verdicts = [verdict for trial in members if (verdict := is_cut_off(trial, allowed_pause_ms)) is not None]
        split = sum(len(trial.lines) > 1 for trial in members)
        rows.append(
            {"kind": kind, "trials": len(members), "split": split, "counted": len(verdicts), "cut": sum(verdicts)}
        )
    counted, cut = (sum(row[key] for row in rows) for key in ("counted", "cut"))
    return {"kinds": rows, "counted": counted, "cut": cut, "rate": cut / counted if counted else math.nan}


def _range(low_s: float, high_s: float) -> str:
    if math.isinf(high_s):
        return f"over {low_s:.0f} s" if low_s else "all"
    return f"{low_s:.0f} … {high_s:.0f} s" if low_s else f"up to {high_s:.0f} s"


def _median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def _sheets(result: dict[str, Any]) -> list[Sheet]:
    sheets = []
    names = {"flush": "Flush TTFS (push-to-talk)", "endpoint": "Endpoint TTFS (open microphone)"}
    for mode, name in names.items():
        rows = [
            [
                _range(row["from_s"], row["to_s"]),
                str(row["n"]),
                *(ms(row[f"p{percent}_s"]) for percent in PERCENTILES),
                str(row["unanswered"]),
                f"{100 * row['error_rate']:.1f} %",
            ]
            for row in result[mode]
        ]
        columns = ["length", "n", *(f"p{percent}" for percent in PERCENTILES), "unanswered", "CER/WER"]
        sheets.append(Sheet(name, columns, rows))
    said = result["partials"]
    sheets.append(
        Sheet(
            "Partials (JSON mode)",
            ["n", "without", "first p50", "first p95", "a clip", "revised / word", "broken / word", "lag"],
            [
                [
                    str(said["n"]),
                    str(said["none"]),
                    ms(said["first_p50_s"]),
                    ms(said["first_p95_s"]),
                    str(said["partials_per_clip"]),
                    f"{said['revised_per_word']:.2f}",
                    f"{said['broken_per_word']:.3f}",
                    f"{said['lag_s']:.2f} s",
                ]
            ],
        )
    )
    cut = result["cut_off"]
    rows = [[row["kind"], *(str(row[key]) for key in ("trials", "split", "counted", "cut"))] for row in cut["kinds"]]
    rate = (
        f"Cut-off rate {100 * cut['rate']:.1f} % ({cut['cut']} of {cut['counted']})" if cut["counted"] else "Cut-offs"
    )
    sheets.append(Sheet(rate, ["trial", "n", "more than one line", "counted", "cut off"], rows))
    client = result["client"]
    facts = [
        ["held after speech, median", ms(result["held_after_speech_s"])],
        ["client: worst lateness of a frame", f"{client['worst_ms']:.0f} ms"],
        ["client: frames over 20 ms late", f"{100 * client['late_share']:.1f} %"],
        ["clips without speech, left out", str(len(result["no_speech"]))],
    ]
    return [*sheets, Sheet("Conditions", ["", ""], facts)]


def _plot(axes: Sequence[Any], trials: Sequence[Trial]) -> None:
    """Left: how many waited how long. Right: the wait against the length."""
    for mode, colour in (("flush", "tab:blue"), ("endpoint", "tab:orange")):
        those = [trial for trial in trials if trial.mode == mode and math.isfinite(trial.ttfs_s)]
        waits = sorted(trial.ttfs_s for trial in those)
        total = sum(trial.mode == mode for trial in trials)
        axes[0].step(
            waits, [(n + 1) / total for n in range(len(waits))], where="post", color=colour, label=f"{mode} TTFS"
        )
        axes[1].plot(
            [t.audio_s for t in those], [t.ttfs_s for t in those], "o", color=colour, ms=4, alpha=0.6, label=mode
        )
    axes[0].set(xlabel="seconds", ylabel="share of utterances answered", xlim=(0, None), ylim=(0, 1))
    axes[1].set(xlabel="length of the clip, s", ylabel="TTFS, s", xlim=(0, None), ylim=(0, None))
    for axis in axes:
        axis.legend()

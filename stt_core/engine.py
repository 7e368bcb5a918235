"""The Whisper engine, and the two ideas that make it fast.

**The silence tail.** Whisper's encoder always eats 30 s of audio. A command of 3 s pays for 27 s of nothing, and
on a CPU that is most of its cost. CTranslate2 accepts shorter input, but a decoder that sees no long
silence forgets when to stop. So we encode the speech and a short margin only, and put the states of pure silence,
computed once at load, behind them: the decoder sees its silence, and the encoder did a tenth of the work.

    states   = encode(louder(mel(speech + margin)))               (1, n, d_model), n = 50 a second
    memory   = concatenate(states, silence[n:1000])               (1, 1000, d_model)
    text     = generate(memory)

Utterances then have the same memory length, so those of different sessions decode in one batch. Twenty seconds
are enough for speech up to 17 s, and spare the decoder a third of the keys and values it would compute once and
look through for every token; longer speech gets the whole window, and so do the shortest commands: a cut-off 엄마
came back four times behind 20 s, and once behind 30 s.

**The vocabulary cut.** What is left is decoding, and much of that is choosing among 51,865 tokens. An engine that
is told which languages it serves decodes with fewer; see `stt_core.vocabulary` for what that costs. Other
languages, translation, and hotwords with letters that were cut away are answered by the whole model, which is
loaded when the first of them comes.

Decoding is live decoding: temperature 0, no timestamps, and a token budget that grows with the audio. Where the
result looks doubtful (it repeats itself, ran out of budget, or the model hardly believes it), the utterance is
decoded once more with far more real silence encoded behind it. Where it holds little text for its length, a
sentence may be lost: it is decoded again in two halves. Speech too long for the window is split where it is
quietest, and its pieces are decoded like utterances of their own. A draft is none of that: one greedy look. Nor is
what is hurried because many wait: greedy batches are cheap, and whoever waits would rather have a point or two more of
errors than another second. It gets a shorter memory of less encoded silence, too: greedy, that is a tenth cheaper and
no worse.

What the model writes where nobody spoke is held back by `stt_core.evidence`. A text in a script that its language
does not use (Han in Korean) is decoded again without the tokens of that script.

**Times** are asked of the finished text: the decoder reads it once more, and its attention to the speech is aligned
with the tokens (openai/whisper's word timestamps). So asking for them changes no text, whatever way it was
found. The silence that such an alignment counts to the words beside it is taken off by loudness. Timestamp tokens
were worse behind a silence tail: of 14 pairs of Korean clips with 1.2 s of silence between them, 6 texts changed,
and the end of the first clip was missed by 0.75 s (median; aligned: 0.15 s).

**Alternatives.** A request may tell what could stand for its transcript. One more pass, over the speech without the
silence, says how likely the model finds what is different (`stt_core.alternatives`). That changes no text either. All
of a batch wait for it: it is left out of what is hurried, and where the speech would have to be encoded for it alone.

**Bias.** Hotwords and prompt stand before the transcript, as openai/whisper has it, and give way to the text where
the decoder's 448 positions run out. Requests with other ones never share a batch.

Why these defaults (`base` int8, vocabulary cut to Korean, 73 Korean human recordings; CER pooled / mean, and the
median over the recordings of the time against the first line; stock faster-whisper: 11.7 / 14.8 %). Of each line
only what it names was changed, and the recordings went through all of them in turns:

    1500 states, beam 5                    11.3 / 13.4 %    1
    1100 states                            11.9 / 13.2      0.90
    1000 states                            11.8 / 13.3      0.87
    900 states                             11.8 / 13.8      0.84
    750 states                             12.0 / 13.2      0.80
    600 states                             14.2 / 17.1      0.77
    a patience of 0.6                      11.4 / 13.4      0.97
    0.3 s of margin instead of 0.5         11.2 / 13.3      1.00
    3 s of encoder input at least, not 4   12.4 / 16.1      0.98
    beam 4 / 3 / 2                         11.4 / 13.8, 12.0 / 14.2, 12.3 / 14.3
    greedy                                 13.1 / 17.0      0.92

Hurried, with speech cut out as in the server (73 Korean and 47 English recordings, CER and WER, pooled / mean):

    1000 states, 4 s of encoder input      14.5 / 19.9 %     4.5 / 14.3 %      1
    750 states                             13.9 / 19.3       4.7 / 14.8        0.93
    750 states, 3.5 s                      12.8 / 16.2       4.7 / 14.8        0.91
    750 states, 3 s                        13.5 / 18.0       5.2 / 19.4        0.95

The curve is not smooth, so a length between these has to be measured: with 1250 states two of 24 recordings
turn into something else (17.0 % of errors, pooled, where 1000 states make 12.0 and 1500 make 11.8). A narrow
beam saves little, because all hypotheses share each reading of the weights; what costs is what every utterance
pays once. Less patience saves less still, and loses sentences: the whole text is often the last of the beam to
end (of three recordings of twelve lines each, one line was lost at 0.6 and none at 1).

`python -m local_dev bench engine DATA` measures this against stock faster-whisper, and with `--study` the curves
over margin, states, beam and length of speech.
"""

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stt_core.alternatives import avg_logprob
from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.cuda import preload_cublas
from stt_core.errors import ModelError
from stt_core.evidence import (
    GUARDS,
    INVENTED_LOGPROB,
    LOGPROB_THRESHOLD,
    Evidence,
    Guard,
    in_own_script,
    letters,
    objection,
    other_script,
    repeats_itself,
)
from stt_core.models import Progress, default_cache_dir, resolve_model
from stt_core.transcription import Doubt, Request, Segment, Task, Transcript, Word
from stt_core.vocabulary import Ids, can_cut, cut_vocabulary

logger = logging.getLogger(__name__)

FRAMES_PER_S = 100  # mel frames; the encoder makes one state of two
WINDOW_FRAMES = 3000  # the 30 s that Whisper was trained on
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_S
WINDOW_STATES = WINDOW_FRAMES // 2
LEAST_TAIL_STATES = 150  # speech that leaves less than this of a shorter memory gets the whole one
SHORT_S = 1.6  # a word or two, pads included, which the model says again sooner than it ends: the whole memory, too
SECOND_LOOK_FRAMES = 1500  # what is doubtful gets this much
# Whisper's mel is clamped 80 dB below its loudest point, and silence lies on that floor. Every utterance is made
# as loud as to have its floor here, which is where most have it, so that one silence tail fits all.
MEL_FLOOR = -0.7
BUCKET_FRAMES = 50  # encoder inputs are rounded up to this, so that utterances of like length share a batch

# Longer speech leaves no room for a margin. It is split at its quietest moment between the two.
LONGEST_SPEECH_S = 28.0
SHORTEST_PIECE_S = 10.0
PAUSE_SAMPLES = SAMPLE_RATE // 5  # what has to be quiet is this long

TOKENS_PER_S = 12  # Korean speech has been seen to need 10
EXTRA_TOKENS = 8
POSITIONS = 448  # of the decoder, the prompt included
MAX_BIAS_TOKENS = POSITIONS // 2 - 1  # openai/whisper's bound for what stands before the transcript

DOUBTFUL_LOGPROB = -0.9  # below this a second look is worth its price

# Speech that holds so little text may have lost a sentence: it is heard again in two halves.
SPARSE_TOKENS_PER_S = {"ko": 3.9}  # Korean takes more tokens than other languages
SPARSE_TOKENS_PER_S_ELSEWHERE = 2.7
SPARSE_SPEECH_S = 1.6  # shorter speech is left alone
PADS_S = 0.6  # what surrounds the speech in a request
HALVES_LETTERS = 1.3  # times as many, and the halves are believed

# How much longer, and how much less likely, a hypothesis may be that completes the best one.
MORE_LETTERS = 3
MORE_LOGPROB = 0.1
SAID_TWICE = re.compile(r"(.{4,}).*\1")

ALIGNED_FRAMES = 16  # whoever asks how likely a text is gets its times as well: as few as it takes

# Words and sentences in time.
STATES_PER_S = 50
SAMPLES_PER_STATE = SAMPLE_RATE // STATES_PER_S
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
SENTENCE_ENDS = tuple(".?!。？！…")
LONGEST_SEGMENT_S = 10.0
PAUSE_STATES = 12  # what is quiet for so long belongs to no word
SOUND_LEVEL = 0.35  # of the way from the quiet parts to the loud ones, in decibels, sound begins

COUNTS = ("looped", "weak", "sparse", "whole_model")

States = NDArray[np.float32]  # (batch, n, d_model)
KeyT = TypeVar("KeyT", bound=Any)


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    text: str
    tokens: int
    avg_logprob: float
    no_speech_prob: float
    looped: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """How much silence the decoder is given behind the speech."""

    margin_s: float = 0.5  # what is really encoded, at least
    least_frames: int = 400  # a word by itself needs more of that to be understood, and to end
    states: int = 1000  # speech and silence together, where so many hold both


HURRIED_MEMORY = Memory(least_frames=350, states=750)  # at the most, for what is hurried


@dataclass(frozen=True, slots=True, order=True)
class _Manner:
    """How to decode: what the requests of a batch must share."""

    language: str
    task: Task
    bias: tuple[int, ...]  # tokens before <|startoftranscript|>, in the whole vocabulary's ids
    beam_size: int


@dataclass(frozen=True, slots=True)
class _Model:
    """A loaded model. Token ids outside of it are those of the whole vocabulary."""

    whisper: Any  # faster_whisper.WhisperModel: the weights, the tokenizer, the mel filters
    kept: Ids | None = None  # (n,) the whole vocabulary's ids of a cut model's tokens

    def knows(self, ids: Sequence[int]) -> bool:
        return self.kept is None or bool(np.isin(ids, self.kept).all())

    def into(self, ids: Sequence[int]) -> list[int]:
        return list(ids) if self.kept is None else [int(i) for i in np.searchsorted(self.kept, ids)]

    def out_of(self, ids: Sequence[int]) -> list[int]:
        return list(ids) if self.kept is None else [int(self.kept[i]) for i in ids]


class WhisperEngine:
    """A Whisper model that answers batches of requests. Thread-safe once loaded.

    Args:
        model: a directory, a faster-whisper name or a hub id; see `stt_core.models`.
        languages: cut the vocabulary to these (`ko`, `en` or both), which decodes a quarter faster but not
            quite to the same texts; see `stt_core.vocabulary`. Any other language is answered too, at the price
            of loading the whole model when it is first asked for. None: nothing is cut.
        cache_dir: where the embedded model is unpacked and cut models are kept.
        device: `cpu`, `cuda` or `auto`.
        compute_type: CTranslate2's name of it; `auto` is int8 on a CPU and float16 on a GPU.
        workers: batches that run in parallel. One thread decodes faster than two, so on a CPU every core should
            have a worker of its own.
        threads: of each worker.
        beam_size: 1 is greedy.
        memory: how much silence the decoder is given.
        guards: what keeps texts back that nobody said; see `stt_core.evidence`.
    """

    def __init__(
        self,
        model: str = "base",
        *,
        languages: Iterable[str] = (),
        cache_dir: Path | None = None,
        device: str = "auto",
        compute_type: str = "auto",
        workers: int = 1,
        threads: int = 1,
        max_batch_size: int = 8,
        beam_size: int = 5,
        memory: Memory = Memory(),
        guards: Collection[Guard] = GUARDS,
    ) -> None:
        self.model = Path(model).name if Path(model).is_dir() else model
        self.languages = tuple(languages)
        self.workers = workers
        self.max_batch_size = max_batch_size
        self._source = model
        self._cache_dir = cache_dir
        self._device = device
        self._compute_type = compute_type
        self._threads = threads
        self.beam_size = beam_size
        self.memory = memory
        self.guards = frozenset(guards)
        self._loading = threading.Lock()
        self._counting = threading.Lock()
        self._counts = Counter(dict.fromkeys(COUNTS, 0))
        self._main: _Model | None = None  # encodes, and decodes what is served
        self._whole: _Model | None = None  # the same one if nothing was cut

    @property
    def counts(self) -> dict[str, int]:
        """How often, since it was made, the engine looked twice because of each doubt (`looped`, `weak`, `sparse`)
        and how many answers the whole model gave beside a cut one (`whole_model`)."""
        with self._counting:
            return dict(self._counts)

    def _count(self, name: str, times: int = 1) -> None:
        with self._counting:
            self._counts[name] += times

    def fetch(self, on_progress: Progress | None = None) -> Path:
        """Make the model's files be here, without loading them; return their folder."""
        return resolve_model(self._source, self._cache_dir, on_progress)

    def load(self) -> None:
        """Load the model and compute the silence tail; blocking, a second or two. Again is free."""
        with self._loading:
            if self._main is not None:
                return
            self._folder = self.fetch()
            model = self._load_cut()
            if model is None:
                model = self._whole = self._load(self._folder)
            self._main = model
            # A cut model may not know that it is; only multilingual ones are cut.
            self._is_multilingual = model.kept is not None or bool(model.whisper.model.is_multilingual)
            self._silence = self._encode([np.zeros(0, np.float32)], WINDOW_FRAMES)

    def _load_cut(self) -> _Model | None:
        """The model without the tokens that nobody needs, or None where there is none."""
        if not can_cut(self.languages) or self._resolved_device() != "cpu":  # a GPU hardly notices them
            return None
        try:
            cut = cut_vocabulary(self._folder, self.languages, self._cache_dir or default_cache_dir())
            return self._load(cut.folder, cut.kept)
        except (OSError, ValueError, ModelError) as error:
            logger.warning("The vocabulary was not cut, which only makes decoding slower: %s", error)
            return None

    def _resolved_device(self) -> str:
        """`auto` is a GPU where there is one."""
        preload_cublas()
        import ctranslate2

        if self._device != "auto":
            return self._device
        return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"

    def _load(self, folder: Path, kept: Ids | None = None) -> _Model:
        from faster_whisper import WhisperModel

        device = self._resolved_device()
        compute_type = self._compute_type
        if compute_type == "auto":
            compute_type = "float16" if device == "cuda" else "int8"
        try:
            whisper = WhisperModel(
                str(folder),
                device=device,
                compute_type=compute_type,
                cpu_threads=self._threads,
                num_workers=self.workers,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(
                f"The model in {folder} cannot be loaded on {device} as {compute_type}: {error}"
            ) from error
        return _Model(whisper, kept)

    def _whole_model(self) -> _Model:
        with self._loading:
            if self._whole is None:
                self._whole = self._load(self._folder)
            return self._whole

    def _model_for(self, language: str, task: Task, ids: Sequence[int]) -> _Model:
        """The model that is served if it can do this with these tokens, otherwise the whole one."""
        main = self._loaded
        if main.kept is None or (language in self.languages and task == "transcribe" and main.knows(ids)):
            return main
        return self._whole_model()

    @property
    def _loaded(self) -> _Model:
        assert self._main is not None, "load() comes first"
        return self._main

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        """One transcript for each request, in order. A text does not depend on the others in the batch.

        Raises:
            ModelError: the model cannot do what a request asks for: it knows one language only, or not this one.
        """
        pieces = [_pieces(request) for request in requests]
        transcripts = iter(self._transcribe_pieces([piece for own in pieces for piece in own]))
        return [_joined([(piece, next(transcripts)) for piece in own]) for own in pieces]

    def _transcribe_pieces(self, requests: Sequence[Request]) -> list[Transcript]:
        """The same for requests that fit into the window."""
        transcripts: dict[int, Transcript] = {}
        memories: dict[int, States] = {}
        for i, request in enumerate(requests):
            if request.first is not None:
                transcripts[i], memory = self._look_again(request, request.first)
                if memory is not None:
                    memories[i] = memory
        numbers = [i for i in range(len(requests)) if i not in transcripts]
        memories |= zip(numbers, self._memories([requests[i] for i in numbers]), strict=True)
        manners = {i: self._manner(requests[i], self._language(requests[i], memories[i])) for i in numbers}
        for (_, manner), members in _grouped(numbers, lambda i: (memories[i].shape[1], manners[i])):
            members.sort(key=lambda i: len(requests[i].samples))  # a batch takes as long as its longest text
            size = max(1, self.max_batch_size * self.beam_size // manner.beam_size)  # the rows, and so the memory
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                hypotheses = self._generate(
                    np.concatenate([memories[i] for i in batch]), manner, [_token_budget(requests[i]) for i in batch]
                )
                for i, hypothesis in zip(batch, hypotheses, strict=True):
                    transcripts[i] = self._settle(requests[i], manner.language, hypothesis)
        for i, request in enumerate(requests):
            if i in memories and (others := _alternatives(request, transcripts[i])):
                heard = self._heard(request, transcripts[i], others, memories[i])
                transcripts[i] = replace(transcripts[i], heard=heard)
            if request.timestamps and transcripts[i].text:
                [memory] = [memories[i]] if i in memories else self._memories([request])
                transcripts[i] = replace(transcripts[i], segments=self._segments(request, transcripts[i], memory))
        return [transcripts[i] for i in range(len(requests))]

    def _settle(self, request: Request, language: str, hypothesis: _Hypothesis) -> Transcript:
        if request.draft:
            # Nobody should see a circle or a ghost, and the next draft comes soon. A word that is cut in its middle is
            # never likely: what else was speech is decided when it has ended.
            is_likely = not hypothesis.looped and hypothesis.avg_logprob >= INVENTED_LOGPROB
            is_shown = is_likely and not objection(_evidence(request, hypothesis), self.guards & {"ghost"})
            text = hypothesis.text if is_shown else ""
            return Transcript(text, language, hypothesis.avg_logprob, hypothesis.no_speech_prob)
        doubt = _doubt(request, language, hypothesis)
        if doubt is None or (request.hurried and doubt != "looped"):
            return self._transcript(request, hypothesis, language)
        first = Transcript(hypothesis.text, language, hypothesis.avg_logprob, hypothesis.no_speech_prob, doubt=doubt)
        return first if request.quick else self._look_again(request, first)[0]

    def _look_again(self, request: Request, first: Transcript) -> tuple[Transcript, States | None]:
        """Decode what is in doubt once more in another way, and take the better one; also what the decoder attended to,
        where it was all of the speech."""
        assert first.doubt is not None
        self._count(first.doubt)
        manner = self._manner(request, first.language)
        hypothesis = _Hypothesis(first.text, 0, first.avg_logprob, first.no_speech_prob, looped=first.doubt == "looped")
        if first.doubt == "sparse":
            return self._transcript(request, self._in_halves(request, manner, hypothesis), first.language), None
        if hypothesis.looped:
            manner = replace(manner, bias=())  # it may be what led in circles
        [memory] = self._memories([request], at_least=SECOND_LOOK_FRAMES)
        [second] = self._generate(memory, manner, [_token_budget(request)])
        # What ran into its budget in a batch might have been cut elsewhere alone: the second run decides.
        if hypothesis.looped or (not second.looped and second.avg_logprob > hypothesis.avg_logprob):
            hypothesis = second
        return self._transcript(request, hypothesis, first.language, second_look=True), memory

    def _transcript(
        self, request: Request, hypothesis: _Hypothesis, language: str, *, second_look: bool = False
    ) -> Transcript:
        """What is told: the text, if it was said."""
        return Transcript(
            text="" if objection(_evidence(request, hypothesis), self.guards) else hypothesis.text,
            language=language,
            avg_logprob=hypothesis.avg_logprob,
            no_speech_prob=hypothesis.no_speech_prob,
            second_look=second_look,
        )

    def _in_halves(self, request: Request, manner: _Manner, hypothesis: _Hypothesis) -> _Hypothesis:
        """Decode each half by itself; if that credibly tells far more, take it.

        Of two sentences with a short pause between them Whisper may drop either, and be sure of the other.
        """
        samples = request.samples
        middle = quietest(samples, len(samples) // 5, len(samples) * 4 // 5)
        halves = [replace(request, samples=half) for half in (samples[:middle], samples[middle:])]
        heard = [
            hypothesis
            for half, memory in zip(halves, self._memories(halves), strict=True)
            for hypothesis in self._generate(memory, manner, [_token_budget(half)])
        ]
        text = " ".join(half.text for half in heard)
        credible = all(not half.looped and half.avg_logprob >= LOGPROB_THRESHOLD for half in heard)
        if not credible or len(letters(text)) < HALVES_LETTERS * len(letters(hypothesis.text)):
            return hypothesis
        return _Hypothesis(
            text=text,
            tokens=sum(half.tokens for half in heard),
            avg_logprob=float(np.mean([half.avg_logprob for half in heard])),
            no_speech_prob=min(half.no_speech_prob for half in heard),
            looped=False,
        )

    def _memories(self, requests: Sequence[Request], at_least: int = 0) -> list[States]:
        """What the decoder attends to, (1, n, d_model) for each request: speech states, then silence.

        `at_least` so many frames are really encoded.
        """
        memories: dict[int, States] = {}
        frames = [max(at_least, self._encoder_frames(request)) for request in requests]
        for length, members in _grouped(range(len(requests)), lambda i: frames[i]):
            encoded = self._encode([requests[i].samples for i in members], length)
            for i, own in zip(members, encoded, strict=True):
                tail = self._silence[:, len(own) : self._states(requests[i], len(own))]
                memories[i] = np.concatenate([own[None], tail], axis=1)
        return [memories[i] for i in range(len(requests))]

    def _states(self, request: Request, speech_states: int) -> int:
        """How many states the decoder gets."""
        if _duration_s(request) > SHORT_S or request.draft:
            for states in ((HURRIED_MEMORY.states,) if request.hurried else ()) + (self.memory.states,):
                if speech_states + LEAST_TAIL_STATES <= states <= self.memory.states:
                    return states
        return WINDOW_STATES

    def _encoder_frames(self, request: Request) -> int:
        frames = (_duration_s(request) + self.memory.margin_s) * FRAMES_PER_S
        least = self.memory.least_frames
        if request.hurried:
            least = min(least, HURRIED_MEMORY.least_frames)
        return min(WINDOW_FRAMES, max(least, int(-(-frames // BUCKET_FRAMES)) * BUCKET_FRAMES))

    def _encode(self, batch: Sequence[Samples], frames: int) -> States:
        """Encoder states, (batch, frames / 2, d_model), of samples padded with silence to `frames`."""
        import ctranslate2

        features = np.stack([self._mel(samples, frames) for samples in batch])
        states = self._loaded.whisper.model.encode(_view(features), to_cpu=True)
        return np.array(states.to(ctranslate2.DataType.float32))  # numpy knows no bfloat16

    def _mel(self, samples: Samples, frames: int) -> NDArray[np.float32]:
        """Log-mel spectrogram, (n_mels, frames), as loud as to have its floor at MEL_FLOOR."""
        padded = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
        padded[: len(samples)] = samples[: len(padded)]
        mel = np.asarray(self._loaded.whisper.feature_extractor(padded, padding=0)[:, :frames], np.float32)
        return mel + np.float32(MEL_FLOOR - mel.min())

    def _language(self, request: Request, memory: States) -> str:
        if not self._is_multilingual:
            return "en"
        if request.language != "auto":
            return request.language
        main = self._loaded.whisper.model
        detector = main if main.is_multilingual else self._whole_model().whisper.model
        [ranked] = detector.detect_language(_view(memory))
        return str(ranked[0][0]).strip("<|>")

    def _manner(self, request: Request, language: str) -> _Manner:
        if request.task == "translate" and not self._is_multilingual:
            raise ModelError(f"{self.model} knows English only and cannot translate; a multilingual model can: base.")
        tokenizer = self._tokenizer(language, request.task)
        if self._is_multilingual and tokenizer.language is None:
            raise ModelError(f"{self.model} does not know the language {language}.")
        # What stands before the transcript takes positions from it: the bias gives way.
        prompt_tokens = len(tokenizer.sot_sequence) + 2
        room = min(MAX_BIAS_TOKENS, POSITIONS - prompt_tokens - _token_budget(request))
        hotwords, prompt = self._encoded(request.hotwords)[:room], self._encoded(request.prompt)
        bias = hotwords + prompt[max(0, len(prompt) - (room - len(hotwords))) :]
        return _Manner(
            language,
            request.task,
            (tokenizer.sot_prev, *bias) if bias else (),
            beam_size=1 if request.draft or request.hurried else self.beam_size,
        )

    def _encoded(self, text: str) -> list[int]:
        """Text as the decoder writes it. No special token stands in it, whatever the text says."""
        text = " ".join(text.split())
        return list(self._encoder.encode(f" {text}", add_special_tokens=False).ids) if text else []

    @cached_property
    def _encoder(self) -> Any:
        """The model's tokenizer for what people wrote: "<|endoftext|>" is text like any other.

        Conversions of Whisper have been seen without their first merge, of which every " the" is made.
        """
        own = self._loaded.whisper.hf_tokenizer
        data = json.loads(own.to_str())
        merges = data["model"]["merges"]
        first = ["\u0120", "t"] if isinstance(merges[0], list) else "\u0120 t"
        if first not in merges:
            merges.insert(0, first)
        encoder = type(own).from_str(json.dumps(data))
        encoder.encode_special_tokens = True
        return encoder

    def _tokenizer(self, language: str, task: Task) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._loaded.whisper.hf_tokenizer, self._is_multilingual, task=task, language=language)

    def _generate(self, memories: States, manner: _Manner, budgets: Sequence[int]) -> list[_Hypothesis]:
        """Decode a batch. `budgets`: the most tokens that each may take."""
        heard = self._decode(memories, manner, budgets)
        if manner.task == "translate" or "script" not in self.guards:
            return heard
        for i, hypothesis in enumerate(heard):
            if other_script(hypothesis.text, manner.language):
                [again] = self._decode(memories[i : i + 1], manner, budgets[i : i + 1], own_script=True)
                heard[i] = replace(again, text=in_own_script(again.text, manner.language))  # spelled byte by byte
        return heard

    def _decode(
        self, memories: States, manner: _Manner, budgets: Sequence[int], *, own_script: bool = False
    ) -> list[_Hypothesis]:
        """The same. `own_script`: without the tokens of other scripts than the language's."""
        model = self._model_for(manner.language, manner.task, manner.bias)
        if model is not self._main:
            self._count("whole_model", len(budgets))
        tokenizer = self._tokenizer(manner.language, manner.task)
        prompt = model.into([*manner.bias, *tokenizer.sot_sequence, tokenizer.no_timestamps])
        results = model.whisper.model.generate(
            _view(memories),
            [prompt] * len(budgets),
            beam_size=manner.beam_size,
            max_length=max(budgets) + max(*budgets, len(prompt)),  # CTranslate2 lets text take half, and no prompt's
            num_hypotheses=manner.beam_size,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=[-1, *model.into(self._foreign_tokens(manner.language, model))] if own_script else [-1],
        )
        return [
            _most_complete(
                [
                    _hypothesis(tokenizer, model.out_of(tokens), score, result.no_speech_prob, budget)
                    for tokens, score in zip(result.sequences_ids, result.scores, strict=True)
                ]
            )
            for result, budget in zip(results, budgets, strict=True)
        ]

    def _foreign_tokens(self, language: str, model: _Model) -> list[int]:
        """The tokens that write in another script than the language's, of those that the model knows."""
        tokenizer = self._loaded.whisper.hf_tokenizer
        texts = tokenizer.decode_batch([[i] for i in range(tokenizer.get_vocab_size())])
        return [i for i, text in enumerate(texts) if other_script(text, language) and model.knows([i])]

    def _heard(
        self, request: Request, transcript: Transcript, others: Mapping[str, str], memory: States
    ) -> dict[str, float]:
        """The avg_logprob, given the audio, of what each alternative has in another way than the transcript; without
        those that the vocabulary, which may be cut, cannot write."""
        tokenizer = self._tokenizer(transcript.language, request.task)
        tokens = self._encoded(transcript.text)
        model = self._model_for(transcript.language, request.task, ())
        room = POSITIONS - len(tokenizer.sot_sequence) - 2
        written = {name: self._encoded(text) for name, text in others.items()}
        written = {name: own for name, own in written.items() if 0 < len(own) <= room and model.knows(own)}
        if not written:
            return {}
        # The silence is there to make the decoder end, which it need not do here.
        speech = np.repeat(memory[:, : self._encoder_frames(request) // 2], len(written), axis=0)
        try:
            alignments = model.whisper.model.align(
                _view(speech),
                model.into(tokenizer.sot_sequence),
                [model.into(own) for own in written.values()],
                [ALIGNED_FRAMES] * len(written),
            )
        except (RuntimeError, ValueError) as error:
            logger.warning("The audio was not asked about phrases, which leaves them to the text: %s", error)
            return {}
        heard = {
            name: avg_logprob(tokens, own, alignment.text_token_probs)
            for (name, own), alignment in zip(written.items(), alignments, strict=True)
        }
        return {name: logprob for name, logprob in heard.items() if logprob is not None}

    def _segments(self, request: Request, transcript: Transcript, memory: States) -> tuple[Segment, ...]:
        """The sentences of a transcript with their times, which the decoder's attention tells."""
        tokenizer = self._tokenizer(transcript.language, request.task)
        tokens = self._encoded(transcript.text)
        model = self._model_for(transcript.language, request.task, tokens)
        duration_s = _duration_s(request)
        [alignment] = model.whisper.model.align(
            _view(memory),
            model.into(tokenizer.sot_sequence),
            [model.into(tokens)],
            min(WINDOW_FRAMES, max(2, int(duration_s * FRAMES_PER_S))),
        )
        pairs = np.array(alignment.alignments)  # (steps, 2): of a path through tokens and states
        begins = pairs[np.diff(pairs[:, 0], prepend=-1) > 0, 1] / STATES_PER_S  # (tokens + 1,), the end of text last
        spaced = request.task == "translate" or transcript.language not in UNSPACED_LANGUAGES
        words = _words(tokenizer, tokens, np.clip(begins, 0.0, duration_s), alignment.text_token_probs, spaced=spaced)
        return tuple(
            Segment(
                "".join(word.text for word in sentence).strip(),
                sentence[0].start_s,
                sentence[-1].end_s,
                transcript.avg_logprob,
                transcript.no_speech_prob,
                tuple(sentence) if request.timestamps == "word" else (),
            )
            for sentence in _sentences(_without_silence(words, request.samples))
        )


def _evidence(request: Request, hypothesis: _Hypothesis) -> Evidence:
    return Evidence(hypothesis.text, hypothesis.avg_logprob, hypothesis.no_speech_prob, request.vad_ratio)


def _alternatives(request: Request, transcript: Transcript) -> Mapping[str, str]:
    """What the transcript may be instead, where that is asked for: of what is final, and while nobody waits."""
    if request.alternatives is None or request.draft or request.hurried or transcript.doubt or not transcript.text:
        return {}
    return request.alternatives(transcript.text)


def _view(array: NDArray[np.float32]) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))


def _grouped(numbers: Iterable[int], key: Callable[[int], KeyT]) -> Iterator[tuple[KeyT, list[int]]]:
    """The numbers in groups that share their key."""
    for value, members in groupby(sorted(numbers, key=key), key=key):
        yield value, list(members)


def _hypothesis(tokenizer: Any, tokens: list[int], score: float, no_speech_prob: float, budget: int) -> _Hypothesis:
    text = tokenizer.decode(tokens).strip()
    return _Hypothesis(
        text=text,
        tokens=len(tokens),
        # CTranslate2's score is a mean over the tokens; Whisper's also counts the end of text.
        avg_logprob=score * len(tokens) / (len(tokens) + 1),
        no_speech_prob=no_speech_prob,
        looped=len(tokens) >= budget or repeats_itself(text),
    )


def _most_complete(beam: Sequence[_Hypothesis]) -> _Hypothesis:
    """The best hypothesis, or a longer one that says the same and goes on almost as credibly.

    Without timestamps Whisper is tempted to stop after the first of two sentences, and the mean over the
    tokens favours the short text: the whole one then stands in the same beam, a few hundredths behind.
    """
    best = beam[0]
    for other in beam[1:]:
        goes_on = (
            other.text.startswith(best.text.rstrip(".?!"))
            and len(other.text) >= len(best.text) + MORE_LETTERS
            and not SAID_TWICE.search(letters(other.text))
        )
        if goes_on and not other.looped and other.avg_logprob >= best.avg_logprob - MORE_LOGPROB:
            best = other
    return best


def split_at_pauses(samples: Samples) -> list[Samples]:
    """The samples in pieces that fit into the window, cut where it is quietest; together they are all of it."""
    pieces = []
    longest, shortest = (round(seconds * SAMPLE_RATE) for seconds in (LONGEST_SPEECH_S, SHORTEST_PIECE_S))
    while len(samples) > longest:
        cut = quietest(samples, shortest, min(longest, len(samples) - shortest))
        pieces.append(samples[:cut])
        samples = samples[cut:]
    return [*pieces, samples]


def quietest(samples: Samples, first: int, last: int) -> int:
    """The middle of the quietest pause between two positions."""
    energy = np.cumsum(np.square(samples[first:last], dtype=np.float64))
    return first + PAUSE_SAMPLES // 2 + int(np.argmin(energy[PAUSE_SAMPLES:] - energy[:-PAUSE_SAMPLES]))


def _doubt(request: Request, language: str, hypothesis: _Hypothesis) -> Doubt | None:
    """Why this deserves a second look, if it does."""
    if hypothesis.looped:
        return "looped"
    if hypothesis.avg_logprob < DOUBTFUL_LOGPROB:
        return "weak"
    speech_s = _duration_s(request) - PADS_S
    least = SPARSE_TOKENS_PER_S.get(language, SPARSE_TOKENS_PER_S_ELSEWHERE)
    return "sparse" if speech_s >= SPARSE_SPEECH_S and hypothesis.tokens < least * speech_s else None


def _pieces(request: Request) -> list[Request]:
    """The request, or where its speech is too long for the window, one for each piece of it."""
    pieces = split_at_pauses(request.samples)
    if len(pieces) == 1:
        return [request]
    return [replace(request, samples=own, quick=False, first=None, alternatives=None) for own in pieces]


def _joined(pieces: Sequence[tuple[Request, Transcript]]) -> Transcript:
    """One transcript of speech that was decoded in pieces."""
    transcripts = [transcript for _, transcript in pieces]
    if len(pieces) == 1:
        return transcripts[0]
    offsets = accumulate((_duration_s(request) for request, _ in pieces), initial=0.0)
    return Transcript(
        text=" ".join(piece.text for piece in transcripts if piece.text),
        language=transcripts[0].language,
        avg_logprob=float(np.mean([piece.avg_logprob for piece in transcripts])),
        no_speech_prob=min(piece.no_speech_prob for piece in transcripts),
        second_look=any(piece.second_look for piece in transcripts),
        segments=tuple(
            _later(segment, offset)
            for piece, offset in zip(transcripts, offsets, strict=False)
            for segment in piece.segments
        ),
    )


def _later(segment: Segment, by_s: float) -> Segment:
    words = [replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s) for word in segment.words]
    return replace(segment, start_s=segment.start_s + by_s, end_s=segment.end_s + by_s, words=tuple(words))


def _words(
    tokenizer: Any, tokens: Sequence[int], begins: Sequence[float], probabilities: Sequence[float], *, spaced: bool
) -> list[Word]:
    """The words of a text with their times, in openai/whisper's spelling: the space before a word is its own.

    Args:
        begins: when each token begins, and last when the text ends.
    """
    places: list[tuple[str, int, int]] = []  # each word's text, its first token and the one after its last
    first = 0
    for text, own in zip(*tokenizer.split_tokens_on_unicode(list(tokens)), strict=True):
        last = first + len(own)
        if not places or (text.startswith(" ") if spaced else letters(text)):
            places.append((text, first, last))
        else:
            places[-1] = places[-1][0] + text, places[-1][1], last
        first = last
    return [
        Word(text, float(begins[first]), float(begins[last]), float(np.mean(probabilities[first:last])))
        for text, first, last in places
    ]


def _without_silence(words: Sequence[Word], samples: Samples) -> list[Word]:
    """The words without the silence around them, of which the alignment gives every moment to some word.

    Of a word with a pause in it only the longest part is believed.
    """
    count = len(samples) // SAMPLES_PER_STATE
    power = np.square(samples[: count * SAMPLES_PER_STATE]).reshape(count, SAMPLES_PER_STATE).mean(axis=1)
    level_db = 10 * np.log10(power + 1e-10)
    quiet_db, loud_db = np.percentile(level_db, [5, 90]) if count else (0.0, 0.0)
    loud = np.flatnonzero(level_db >= quiet_db + SOUND_LEVEL * (loud_db - quiet_db))  # states that hold sound
    trimmed = []
    for word in words:
        own = loud[(loud >= word.start_s * STATES_PER_S - 0.5) & (loud < word.end_s * STATES_PER_S - 0.5)]
        if len(own):
            parts = np.split(own, np.flatnonzero(np.diff(own) > PAUSE_STATES) + 1)
            longest = max(parts, key=len)
            start_s, end_s = longest[0] / STATES_PER_S, (longest[-1] + 1) / STATES_PER_S
            word = replace(word, start_s=max(word.start_s, float(start_s)), end_s=min(word.end_s, float(end_s)))
        trimmed.append(word)
    return trimmed


def _sentences(words: Sequence[Word]) -> Iterator[list[Word]]:
    """The words in sentences, none of which lasts too long to be read."""
    sentence: list[Word] = []
    for word in words:
        if sentence and word.end_s - sentence[0].start_s > LONGEST_SEGMENT_S:
            yield sentence
            sentence = []
        sentence.append(word)
        if word.text.endswith(SENTENCE_ENDS):
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _duration_s(request: Request) -> float:
    return len(request.samples) / SAMPLE_RATE


def _token_budget(request: Request) -> int:
    return EXTRA_TOKENS + int(_duration_s(request) * TOKENS_PER_S)

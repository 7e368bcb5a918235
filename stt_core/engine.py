"""The Whisper engine, and the two ideas that make it fast.

**The silence tail.** Whisper's encoder always eats 30 s of audio. A command of 3 s pays for 27 s of nothing, and
on a CPU that is most of its cost. CTranslate2 accepts shorter input, but a decoder that sees fewer than 1500
encoder states forgets when to stop. So we encode the speech and a short margin only, and put the states of pure
silence, computed once at load, behind them: the decoder sees its thirty seconds, and the encoder did a tenth of
the work.

    states   = encode(louder(mel(speech + margin)))               (1, n, d_model), n = 50 a second
    memory   = concatenate(states, silence[n:1500])               (1, 1500, d_model)
    text     = generate(memory)

Every utterance then has the same memory length, so utterances of different sessions decode in one batch.

**The vocabulary cut.** What is left is decoding, and much of that is choosing among 51,865 tokens. An engine that
is told which languages it serves decodes with fewer; see `stt_core.vocabulary` for what that costs. Other
languages are answered by the whole model, which is loaded when the first of them comes.

Decoding is live decoding: temperature 0, no timestamps, and a token budget that grows with the audio. Where the
result looks doubtful (it repeats itself, ran out of budget, or the model hardly believes it), the utterance is
decoded once more with far more real silence encoded behind it. Where it holds little text for its length, a
sentence may be lost: it is decoded again in two halves. Speech too long for the window is split where it is
quietest, and its pieces are decoded like utterances of their own.

Why these defaults (`base` int8, beam 5, whole vocabulary, 73 Korean human recordings; CER pooled / mean; stock
faster-whisper 11.7 / 14.8 %). Of each line only what it names was changed, and all before the halves:

    margin 0.5 s, digital silence as tail, doubt below -0.8                  12.0 / 15.0 %, 9 second looks
    margin 1 s                                                               11.9 / 14.4 %, 8
    the tail at the floor of each utterance's own mel, margin 0.5 s          11.0 / 12.2 %, 8
    the same, at least 4 s of encoder input, doubt below -0.9                10.5 / 11.5 %, 6
    one tail for all, every mel moved to its floor, at least 4 s             10.4 / 10.9 %, 5
    the same with 250 ms of audio around the speech instead of 500 ms        12.7 / 14.3 %, 4

How much silence the second look encodes (35 doubtful Korean and English clips, half of them with 15 dB of noise;
errors in Korean letters and English words, and its own median time, the second looks in halves included):

    first look    51 of 289    18 of 70
    30 s          45            8            0.93 s
    15 s          39            8            0.35 s
    10 s          49            8            0.32 s

Two sentences with a pause of 0.15 to 0.5 s, 24 Korean pairs cut together from those recordings: stock 18.0 %,
without the second look in halves 22.7 %, with it 13.1 % (both with the vocabulary cut to Korean).

`python -m local_dev bench engine DATA` measures this against stock faster-whisper.
"""

import logging
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.cuda import preload_cublas
from stt_core.errors import ModelError
from stt_core.models import Progress, default_cache_dir, resolve_model
from stt_core.transcription import Doubt, Request, Transcript
from stt_core.vocabulary import Ids, can_cut, cut_vocabulary

logger = logging.getLogger(__name__)

FRAMES_PER_S = 100  # mel frames; the encoder makes one state of two
WINDOW_FRAMES = 3000  # the 30 s that Whisper was trained on
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_S
MARGIN_S = 0.5  # silence that is really encoded behind the speech, at least
LEAST_FRAMES = 400  # a word by itself needs more silence to be understood, and to end
SECOND_LOOK_FRAMES = 1500  # what is doubtful gets this much
# Whisper's mel is clamped 80 dB below its loudest point, and silence lies on that floor. Every utterance is made
# as loud as to have its floor here, which is where most have it, so that one silence tail fits all.
MEL_FLOOR = -0.7
BUCKET_FRAMES = 50  # encoder inputs are rounded up to this, so that utterances of like length share a batch

# Longer speech leaves no room for a margin. It is split at its quietest moment between the two.
LONGEST_SPEECH_S = 28.0
SHORTEST_PIECE_S = 10.0
PAUSE_SAMPLES = SAMPLE_RATE // 5  # what has to be quiet is this long

TOKENS_PER_S = 14  # Korean speech has been seen to need 10
EXTRA_TOKENS = 8
MAX_TOKENS = 440  # Whisper's decoder has 448 positions, the prompt included

# Evidence, with the names of openai/whisper's `transcribe`.
COMPRESSION_RATIO_THRESHOLD = 2.4
LOGPROB_THRESHOLD = -1.0
NO_SPEECH_THRESHOLD = 0.6
DOUBTFUL_LOGPROB = -0.9  # below this a second look is worth its price
INVENTED_LOGPROB = -1.5  # below this, after the second look, nothing of the text was said

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

States = NDArray[np.float32]  # (batch, n, d_model)
KeyT = TypeVar("KeyT", int, str)


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    text: str
    tokens: int
    avg_logprob: float
    no_speech_prob: float
    looped: bool

    @property
    def is_speech(self) -> bool:
        likely_silence = self.no_speech_prob > NO_SPEECH_THRESHOLD and self.avg_logprob < LOGPROB_THRESHOLD
        return not likely_silence and self.avg_logprob >= INVENTED_LOGPROB


@dataclass(frozen=True, slots=True)
class _Model:
    """A loaded model. Token ids outside of it are those of the whole vocabulary."""

    whisper: Any  # faster_whisper.WhisperModel: the weights, the tokenizer, the mel filters
    kept: Ids | None = None  # (n,) the whole vocabulary's ids of a cut model's tokens

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
        workers: batches that run in parallel, each on one thread. One thread decodes faster than two, so on a
            CPU every core should have a worker of its own.
        beam_size: 1 is greedy.
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
        max_batch_size: int = 8,
        beam_size: int = 5,
    ) -> None:
        self.model = Path(model).name if Path(model).is_dir() else model
        self.languages = tuple(languages)
        self.workers = workers
        self.max_batch_size = max_batch_size
        self._source = model
        self._cache_dir = cache_dir
        self._device = device
        self._compute_type = compute_type
        self._beam_size = beam_size
        self._loading = threading.Lock()
        self._main: _Model | None = None  # encodes, and decodes what is served
        self._whole: _Model | None = None  # the same one if nothing was cut

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
                cpu_threads=1,
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

    def _model_for(self, language: str) -> _Model:
        assert self._main is not None, "load() comes first"
        return self._main if self._main.kept is None or language in self.languages else self._whole_model()

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        """One transcript for each request, in order. A text does not depend on the others in the batch."""
        pieces: list[list[Request]] = []
        for request in requests:
            own = split_at_pauses(request.samples)
            whole = len(own) == 1
            pieces.append([request] if whole else [Request(piece, request.language) for piece in own])
        transcripts = iter(self._transcribe_pieces([piece for own in pieces for piece in own]))
        return [_joined([next(transcripts) for _ in own]) for own in pieces]

    def _transcribe_pieces(self, requests: Sequence[Request]) -> list[Transcript]:
        """The same for requests that fit into the window."""
        transcripts = {i: self._look_again(r, r.first) for i, r in enumerate(requests) if r.first is not None}
        numbers = [i for i in range(len(requests)) if i not in transcripts]
        memories = dict(zip(numbers, self._memories([requests[i] for i in numbers]), strict=True))
        languages = {i: self._language(requests[i], memories[i]) for i in numbers}
        for language, members in _grouped(numbers, lambda i: languages[i]):
            members.sort(key=lambda i: len(requests[i].samples))  # a batch takes as long as its longest text
            for start in range(0, len(members), self.max_batch_size):
                batch = members[start : start + self.max_batch_size]
                hypotheses = self._generate(
                    np.concatenate([memories[i] for i in batch]),
                    language,
                    [_token_budget(requests[i]) for i in batch],
                )
                for i, hypothesis in zip(batch, hypotheses, strict=True):
                    transcripts[i] = self._settle(requests[i], language, hypothesis)
        return [transcripts[i] for i in range(len(requests))]

    def _settle(self, request: Request, language: str, hypothesis: _Hypothesis) -> Transcript:
        doubt = _doubt(request, language, hypothesis)
        if doubt is None:
            return _transcript(hypothesis, language)
        first = Transcript(hypothesis.text, language, hypothesis.avg_logprob, hypothesis.no_speech_prob, doubt=doubt)
        return first if request.quick else self._look_again(request, first)

    def _look_again(self, request: Request, first: Transcript) -> Transcript:
        """Decode what is in doubt once more in another way, and take the better one."""
        hypothesis = _Hypothesis(first.text, 0, first.avg_logprob, first.no_speech_prob, looped=first.doubt == "looped")
        if first.doubt == "sparse":
            return _transcript(self._in_halves(request, first.language, hypothesis), first.language)
        [memory] = self._memories([request], at_least=SECOND_LOOK_FRAMES)
        [second] = self._generate(memory, first.language, [_token_budget(request)])
        # What ran into its budget in a batch might have been cut elsewhere alone: the second run decides.
        if hypothesis.looped or (not second.looped and second.avg_logprob > hypothesis.avg_logprob):
            hypothesis = second
        return _transcript(hypothesis, first.language, second_look=True)

    def _in_halves(self, request: Request, language: str, hypothesis: _Hypothesis) -> _Hypothesis:
        """Decode each half by itself; if that credibly tells far more, take it.

        Of two sentences with a short pause between them Whisper may drop either, and be sure of the other.
        """
        samples = request.samples
        middle = quietest(samples, len(samples) // 5, len(samples) * 4 // 5)
        halves = [Request(half, language) for half in (samples[:middle], samples[middle:])]
        heard = self._generate(
            np.concatenate(self._memories(halves)), language, [_token_budget(half) for half in halves]
        )
        text = " ".join(half.text for half in heard)
        credible = all(not half.looped and half.avg_logprob >= LOGPROB_THRESHOLD for half in heard)
        if not credible or len(_letters(text)) < HALVES_LETTERS * len(_letters(hypothesis.text)):
            return hypothesis
        return _Hypothesis(
            text=text,
            tokens=sum(half.tokens for half in heard),
            avg_logprob=float(np.mean([half.avg_logprob for half in heard])),
            no_speech_prob=min(half.no_speech_prob for half in heard),
            looped=False,
        )

    def _memories(self, requests: Sequence[Request], at_least: int = LEAST_FRAMES) -> list[States]:
        """What the decoder attends to, (1, 1500, d_model) for each request: speech states, then silence.

        `at_least` so many frames are really encoded.
        """
        memories: dict[int, States] = {}
        for frames, members in _grouped(range(len(requests)), lambda i: max(at_least, _encoder_frames(requests[i]))):
            states = self._encode([requests[i].samples for i in members], frames)
            tail = self._silence[:, states.shape[1] :]
            for i, own in zip(members, states, strict=True):
                memories[i] = np.concatenate([own[None], tail], axis=1)
        return [memories[i] for i in range(len(requests))]

    def _encode(self, batch: Sequence[Samples], frames: int) -> States:
        """Encoder states, (batch, frames / 2, d_model), of samples padded with silence to `frames`."""
        assert self._main is not None, "load() comes first"
        features = np.stack([self._mel(samples, frames) for samples in batch])
        return np.array(self._main.whisper.model.encode(_view(features), to_cpu=True), np.float32)

    def _mel(self, samples: Samples, frames: int) -> NDArray[np.float32]:
        """Log-mel spectrogram, (n_mels, frames), as loud as to have its floor at MEL_FLOOR."""
        assert self._main is not None, "load() comes first"
        padded = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
        padded[: len(samples)] = samples[: len(padded)]
        mel = np.asarray(self._main.whisper.feature_extractor(padded, padding=0)[:, :frames], np.float32)
        return mel + np.float32(MEL_FLOOR - mel.min())

    def _language(self, request: Request, memory: States) -> str:
        assert self._main is not None, "load() comes first"
        if not self._is_multilingual:
            return "en"
        if request.language != "auto":
            return request.language
        main = self._main.whisper.model
        detector = main if main.is_multilingual else self._whole_model().whisper.model
        [ranked] = detector.detect_language(_view(memory))
        return str(ranked[0][0]).strip("<|>")

    def _generate(self, memories: States, language: str, budgets: Sequence[int]) -> list[_Hypothesis]:
        """Decode a batch that shares its language. `budgets`: the most tokens that each may take."""
        from faster_whisper.tokenizer import Tokenizer

        model = self._model_for(language)
        tokenizer = Tokenizer(model.whisper.hf_tokenizer, self._is_multilingual, task="transcribe", language=language)
        prompt = model.into([*tokenizer.sot_sequence, tokenizer.no_timestamps])
        results = model.whisper.model.generate(
            _view(memories),
            [prompt] * len(budgets),
            beam_size=self._beam_size,
            max_length=min(MAX_TOKENS, len(prompt) + max(budgets)),
            num_hypotheses=self._beam_size,
            return_scores=True,
            return_no_speech_prob=True,
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
            and not SAID_TWICE.search(_letters(other.text))
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


def _transcript(hypothesis: _Hypothesis, language: str, *, second_look: bool = False) -> Transcript:
    return Transcript(
        text=hypothesis.text if hypothesis.is_speech else "",
        language=language,
        avg_logprob=hypothesis.avg_logprob,
        no_speech_prob=hypothesis.no_speech_prob,
        second_look=second_look,
    )


def _joined(pieces: Sequence[Transcript]) -> Transcript:
    """One transcript of speech that was decoded in pieces."""
    if len(pieces) == 1:
        return pieces[0]
    return Transcript(
        text=" ".join(piece.text for piece in pieces if piece.text),
        language=pieces[0].language,
        avg_logprob=float(np.mean([piece.avg_logprob for piece in pieces])),
        no_speech_prob=min(piece.no_speech_prob for piece in pieces),
        second_look=any(piece.second_look for piece in pieces),
    )


def _duration_s(request: Request) -> float:
    return len(request.samples) / SAMPLE_RATE


def _encoder_frames(request: Request) -> int:
    frames = (_duration_s(request) + MARGIN_S) * FRAMES_PER_S
    return min(WINDOW_FRAMES, max(LEAST_FRAMES, int(-(-frames // BUCKET_FRAMES)) * BUCKET_FRAMES))


def _token_budget(request: Request) -> int:
    return EXTRA_TOKENS + int(_duration_s(request) * TOKENS_PER_S)


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text)


def repeats_itself(text: str) -> bool:
    """Whether a text shows the model running in a circle: a run of four or more letters said three times
    in a row, or a text that compresses as only repetition does (openai/whisper's `compression_ratio`)."""
    letters = _letters(text)
    if re.search(r"(.{4,}?)\1\1", letters) or re.search(r"(.{1,3}?)\1{7,}", letters):
        return True
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded)) > COMPRESSION_RATIO_THRESHOLD if encoded else False

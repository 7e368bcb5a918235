"""The Whisper engine, and the silence tail that makes it fast.

Whisper's encoder always eats 30 s of audio. A command of 3 s pays for 27 s of nothing, and on a CPU that is
most of its cost. CTranslate2 accepts shorter input, but a decoder that sees fewer than 1500 encoder states
forgets when to stop. So we encode the speech and a short margin only, and put the states of pure silence,
computed once at load, behind them: the decoder sees its thirty seconds, and the encoder did a tenth of the work.

    states   = encode(mel(speech + margin))                       (1, n, d_model), n = 50 a second
    memory   = concatenate(states, silence[n:1500])               (1, 1500, d_model)
    text     = generate(memory)

Every utterance then has the same memory length, so utterances of different sessions decode in one batch.
`python -m local_dev bench engine DATA` measures this against stock faster-whisper.

Decoding is live decoding: temperature 0, no timestamps, and a token budget that grows with the audio. Where the
result looks doubtful (it repeats itself, ran out of budget, or the model hardly believes it), the utterance is
decoded again with the full window, once.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stt_core.audio import SAMPLE_RATE, Samples
from stt_core.cuda import preload_cublas
from stt_core.errors import ModelError
from stt_core.models import Progress, resolve_model
from stt_core.transcription import Request, Transcript

FRAMES_PER_S = 100  # mel frames; the encoder makes one state of two
WINDOW_FRAMES = 3000  # the 30 s that Whisper was trained on
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_S
# Speech this long leaves no room for a margin, and goes to faster-whisper's own long-form decoding.
LONGEST_SPEECH_S = 28.0
MARGIN_S = 0.5  # silence that is really encoded behind the speech, at least
BUCKET_FRAMES = 50  # encoder inputs are rounded up to this, so that utterances of like length share a batch

TOKENS_PER_S = 14  # Korean speech has been seen to need 10
EXTRA_TOKENS = 8
MAX_TOKENS = 440  # Whisper's decoder has 448 positions, the prompt included

# Evidence, with the names and values of openai/whisper's `transcribe`.
COMPRESSION_RATIO_THRESHOLD = 2.4
LOGPROB_THRESHOLD = -1.0
NO_SPEECH_THRESHOLD = 0.6

# How much longer, and how much less likely, a hypothesis may be that completes the best one.
MORE_LETTERS = 3
MORE_LOGPROB = 0.1

States = NDArray[np.float32]  # (batch, n, d_model)


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    text: str
    avg_logprob: float
    no_speech_prob: float
    looped: bool

    @property
    def is_doubtful(self) -> bool:
        return self.looped or self.avg_logprob < LOGPROB_THRESHOLD

    @property
    def is_speech(self) -> bool:
        return not (self.no_speech_prob > NO_SPEECH_THRESHOLD and self.avg_logprob < LOGPROB_THRESHOLD)


class WhisperEngine:
    """A Whisper model that answers batches of requests. Thread-safe once loaded.

    Args:
        model: a directory, a faster-whisper name or a hub id; see `stt_core.models`.
        cache_dir: where the embedded model is unpacked.
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
        cache_dir: Path | None = None,
        device: str = "auto",
        compute_type: str = "auto",
        workers: int = 1,
        max_batch_size: int = 8,
        beam_size: int = 5,
    ) -> None:
        self.model = Path(model).name if Path(model).is_dir() else model
        self.workers = workers
        self.max_batch_size = max_batch_size
        self._source = model
        self._cache_dir = cache_dir
        self._device = device
        self._compute_type = compute_type
        self._beam_size = beam_size
        self._whisper: Any = None

    def fetch(self, on_progress: Progress | None = None) -> Path:
        """Make the model's files be here, without loading them; return their folder."""
        return resolve_model(self._source, self._cache_dir, on_progress)

    def load(self) -> None:
        """Load the model and compute the silence tail; blocking, a second or two. Again is free."""
        if self._whisper is not None:
            return
        folder = self.fetch()
        preload_cublas()
        import ctranslate2
        from faster_whisper import WhisperModel

        device = self._device
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
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
        self._whisper = whisper
        self._silence = self._encode([np.zeros(0, np.float32)], WINDOW_FRAMES)

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        """One transcript for each request, in order. A text does not depend on the others in the batch."""
        short = [i for i, request in enumerate(requests) if _duration_s(request) <= LONGEST_SPEECH_S]
        transcripts = {i: self._transcribe_long(requests[i]) for i in range(len(requests)) if i not in short}
        memories = self._memories([requests[i] for i in short])
        languages = [self._language(requests[i], memory) for i, memory in zip(short, memories, strict=True)]
        order = sorted(range(len(short)), key=lambda k: languages[k])
        for language, group in groupby(
            order, key=lambda k: languages[k]
        ):  # a batch needs prompts of one length
            members = list(group)
            hypotheses = self._generate(
                np.concatenate([memories[k] for k in members]),
                language,
                [_token_budget(requests[short[k]]) for k in members],
            )
            for k, hypothesis in zip(members, hypotheses, strict=True):
                transcripts[short[k]] = self._settle(requests[short[k]], language, hypothesis)
        return [transcripts[i] for i in range(len(requests))]

    def _settle(self, request: Request, language: str, hypothesis: _Hypothesis) -> Transcript:
        """Accept the hypothesis, or decode with the full window and take the better one."""
        full_window = hypothesis.is_doubtful
        if full_window:
            states = self._encode([request.samples], WINDOW_FRAMES)
            [second] = self._generate(states, language, [_token_budget(request)])
            hypothesis = max(hypothesis, second, key=lambda h: (not h.looped, h.avg_logprob))
        return Transcript(
            text=hypothesis.text if hypothesis.is_speech else "",
            language=language,
            avg_logprob=hypothesis.avg_logprob,
            no_speech_prob=hypothesis.no_speech_prob,
            full_window=full_window,
        )

    def _memories(self, requests: Sequence[Request]) -> list[States]:
        """What the decoder attends to, (1, 1500, d_model) for each request: speech states, then silence."""
        memories: dict[int, States] = {}
        order = sorted(range(len(requests)), key=lambda i: _encoder_frames(requests[i]))
        for frames, group in groupby(order, key=lambda i: _encoder_frames(requests[i])):
            members = list(group)
            states = self._encode([requests[i].samples for i in members], frames)
            tail = self._silence[:, states.shape[1] :]
            for i, own in zip(members, states, strict=True):
                memories[i] = np.concatenate([own[None], tail], axis=1)
        return [memories[i] for i in range(len(requests))]

    def _encode(self, batch: Sequence[Samples], frames: int) -> States:
        """Encoder states, (batch, frames / 2, d_model), of samples padded with silence to `frames`."""
        import ctranslate2

        features = np.stack([self._mel(samples, frames) for samples in batch])
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(features))
        return np.array(self._whisper.model.encode(view, to_cpu=True), np.float32)

    def _mel(self, samples: Samples, frames: int) -> NDArray[np.float32]:
        """Log-mel spectrogram, (n_mels, frames)."""
        padded = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
        padded[: len(samples)] = samples[: len(padded)]
        return np.asarray(self._whisper.feature_extractor(padded, padding=0)[:, :frames], np.float32)

    def _language(self, request: Request, memory: States) -> str:
        if not self._whisper.model.is_multilingual:
            return "en"
        if request.language != "auto":
            return request.language
        import ctranslate2

        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(memory))
        [ranked] = self._whisper.model.detect_language(view)
        return str(ranked[0][0]).strip("<|>")

    def _generate(self, memories: States, language: str, budgets: Sequence[int]) -> list[_Hypothesis]:
        """Decode a batch that shares its language. `budgets`: the most tokens that each may take."""
        import ctranslate2
        from faster_whisper.tokenizer import Tokenizer

        multilingual = self._whisper.model.is_multilingual
        tokenizer = Tokenizer(self._whisper.hf_tokenizer, multilingual, task="transcribe", language=language)
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        results = self._whisper.model.generate(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(memories)),
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
                    _hypothesis(tokenizer, tokens, score, result.no_speech_prob, budget)
                    for tokens, score in zip(result.sequences_ids, result.scores, strict=True)
                ]
            )
            for result, budget in zip(results, budgets, strict=True)
        ]

    def _transcribe_long(self, request: Request) -> Transcript:
        """Speech longer than the window, by faster-whisper's sliding window."""
        segments, info = self._whisper.transcribe(
            request.samples,
            language=None if request.language == "auto" else request.language,
            beam_size=self._beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        found = list(segments)
        return Transcript(
            text=" ".join(segment.text.strip() for segment in found),
            language=info.language,
            avg_logprob=float(np.mean([segment.avg_logprob for segment in found])) if found else 0.0,
            no_speech_prob=float(np.mean([segment.no_speech_prob for segment in found])) if found else 1.0,
            full_window=True,
        )


def _hypothesis(
    tokenizer: Any, tokens: list[int], score: float, no_speech_prob: float, budget: int
) -> _Hypothesis:
    text = tokenizer.decode(tokens).strip()
    return _Hypothesis(
        text=text,
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
        )
        if goes_on and not other.looped and other.avg_logprob >= best.avg_logprob - MORE_LOGPROB:
            best = other
    return best


def _duration_s(request: Request) -> float:
    return len(request.samples) / SAMPLE_RATE


def _encoder_frames(request: Request) -> int:
    frames = (_duration_s(request) + MARGIN_S) * FRAMES_PER_S
    return min(WINDOW_FRAMES, int(-(-frames // BUCKET_FRAMES)) * BUCKET_FRAMES)


def _token_budget(request: Request) -> int:
    return EXTRA_TOKENS + int(_duration_s(request) * TOKENS_PER_S)


def repeats_itself(text: str) -> bool:
    """Whether a text shows the model running in a circle: a run of four or more letters said three times
    in a row, or a text that compresses as only repetition does (openai/whisper's `compression_ratio`)."""
    letters = re.sub(r"\W", "", text)
    if re.search(r"(.{4,}?)\1\1", letters) or re.search(r"(.{1,3}?)\1{7,}", letters):
        return True
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded)) > COMPRESSION_RATIO_THRESHOLD if encoded else False

"""What `bench engine` asks besides accuracy: what a cut vocabulary changes, and what batches, workers, threads and
compute types cost.

Second looks are left out everywhere, so that one doubtful clip does not decide.

A cut is held against the whole model twice. *As it is*, tokens that were cut away take their share of the probability,
and beams that are close may change places. *Told to leave them out* (`suppress_tokens`, CTranslate2's own way of
forbidding tokens), it chooses among the same tokens as the cut one: here every text must be equal, or the cut lost
something.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from local_dev.bench import Clip
from local_dev.live_report import Sheet
from stt_core.audio import read_audio
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import WhisperEngine
from stt_core.transcription import Request
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad
from stt_core.vocabulary import Ids

CUTS = (("ko",), ("en",), ("ko", "en"))
BATCH_SIZES = (1, 2, 4, 8)
WORKERS_THREADS_TYPES = ((1, 1, "int8"), (2, 1, "int8"), (1, 2, "int8"), (1, 1, "float32"), (2, 1, "float32"))
TIMED_CLIPS = 24  # so many of the first language; more say no more


def requests_of(clips: Sequence[Clip]) -> list[Request]:
    """The clips' speech, as a quick look's requests."""
    vad = SileroVad()
    found = [(c.language, whole_utterance(read_audio(c.path), vad, EndpointingOptions()).samples) for c in clips]
    return [Request(samples, language, quick=True) for language, samples in found if len(samples)]


def _loaded(model: str, cache_dir: Path | None, **options: Any) -> WhisperEngine:
    engine = WhisperEngine(model, cache_dir=cache_dir, device="cpu", **options)
    engine.load()
    return engine


def compare_cuts(
    clips: Sequence[Clip], model: str, cache_dir: Path | None, beam_size: int, progress: Progress
) -> list[dict[str, Any]]:
    """For each set of languages and each beam: the texts, and how many of them are those of the whole model, as it is
    and told to leave out what the cut left out."""
    requests = requests_of(clips)
    spoken = {request.language for request in requests}
    cuts = [cut for cut in CUTS if set(cut) <= spoken]
    own = {cut: [request for request in requests if request.language in cut] for cut in cuts}
    task = progress.add_task("cut vocabularies", total=6 * sum(map(len, own.values())))

    def texts(engine: WhisperEngine, requests: Sequence[Request]) -> list[tuple[str, str]]:
        """Greedy and with the beam."""
        found = []
        for request in requests:
            ways = replace(request, draft=True), request
            found.append((engine.transcribe([ways[0]])[0].text, engine.transcribe([ways[1]])[0].text))
            progress.advance(task, 2)
        return found

    rows = []
    for cut in cuts:
        engine = _loaded(model, cache_dir, languages=cut, beam_size=beam_size)
        whole = _loaded(model, cache_dir, beam_size=beam_size)
        given = texts(engine, own[cut])
        row: dict[str, Any] = {"languages": list(cut), "texts": len(given)}
        for name in ("whole", "told"):
            if name == "told":
                _leave_out(whole, kept_by(engine))
            pairs = list(zip(given, texts(whole, own[cut]), strict=True))
            for way, beam in enumerate(("greedy", "beam")):
                row[f"equal_{name}_{beam}"] = sum(one[way] == other[way] for one, other in pairs)
        rows.append(row)
    return rows


class _Told:
    """A CTranslate2 model that is told to leave tokens out."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        self._model = model
        self._ids = ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, *arguments: Any, suppress_tokens: Sequence[int] = (-1,), **options: Any) -> Any:
        return self._model.generate(*arguments, suppress_tokens=[*suppress_tokens, *self._ids], **options)


def kept_by(engine: WhisperEngine) -> Ids:
    """The whole vocabulary's ids of the tokens that a cut engine knows."""
    assert engine._main is not None and engine._main.kept is not None, "the vocabulary was not cut"
    return engine._main.kept


def _leave_out(engine: WhisperEngine, kept: Ids) -> None:
    """Let an engine with the whole vocabulary use these tokens only."""
    whisper = engine._loaded.whisper
    every = np.arange(whisper.hf_tokenizer.get_vocab_size())
    whisper.model = _Told(whisper.model, np.setdiff1d(every, kept).tolist())


def time_batches(
    clips: Sequence[Clip], model: str, cache_dir: Path | None, beam_size: int, progress: Progress
) -> list[dict[str, float]]:
    """Seconds of one worker for a batch, by its size."""
    requests, languages = _timed_requests(clips)
    engine = _loaded(model, cache_dir, languages=languages, beam_size=beam_size, max_batch_size=max(BATCH_SIZES))
    engine.transcribe(requests[:1])
    rows = []
    for size in progress.track(BATCH_SIZES, description="batch sizes"):
        began = time.perf_counter()
        for start in range(0, len(requests), size):
            engine.transcribe(requests[start : start + size])
        rows.append({"size": size, "seconds": round((time.perf_counter() - began) / len(requests) * size, 4)})
    return rows


def time_workers(
    clips: Sequence[Clip], model: str, cache_dir: Path | None, beam_size: int, progress: Progress
) -> list[dict[str, Any]]:
    """Utterances a second, and the median time of one, while as many callers as workers always want one."""
    requests, languages = _timed_requests(clips)

    def timed(engine: WhisperEngine, request: Request) -> float:
        began = time.perf_counter()
        engine.transcribe([request])
        return time.perf_counter() - began

    rows = []
    for workers, threads, compute_type in progress.track(WORKERS_THREADS_TYPES, description="workers and threads"):
        options = {"workers": workers, "threads": threads, "compute_type": compute_type}
        engine = _loaded(model, cache_dir, languages=languages, beam_size=beam_size, **options)
        with ThreadPoolExecutor(workers) as callers:
            list(callers.map(engine.transcribe, [requests[:1]] * workers))
            began = time.perf_counter()
            own = list(callers.map(lambda request, engine=engine: timed(engine, request), requests))
            whole = time.perf_counter() - began
        rows.append(
            {
                **options,
                "utterances_per_s": round(len(requests) / whole, 2),
                "median_s": round(float(np.median(own)), 4),
            }
        )
    return rows


def _timed_requests(clips: Sequence[Clip]) -> tuple[list[Request], tuple[str, ...]]:
    """Some utterances of the first language, and that language."""
    language = clips[0].language
    return requests_of([clip for clip in clips if clip.language == language][:TIMED_CLIPS]), (language,)


def sheets_of(
    cuts: Sequence[Mapping[str, Any]], batches: Sequence[Mapping[str, float]], workers: Sequence[Mapping[str, Any]]
) -> list[Sheet]:
    """The tables of all three."""
    return [
        Sheet(
            "texts of a cut vocabulary that are equal to the whole one's",
            ["cut to", "texts", "as it is: greedy", "beam", "told to leave the others out: greedy", "beam"],
            [
                [
                    "+".join(row["languages"]),
                    str(row["texts"]),
                    *(str(row[f"equal_{name}_{beam}"]) for name in ("whole", "told") for beam in ("greedy", "beam")),
                ]
                for row in cuts
            ],
        ),
        Sheet(
            "batches, one worker, one thread",
            ["utterances in a batch", "time", "for each"],
            [
                [f"{row['size']}", f"{1000 * row['seconds']:.0f} ms", f"{1000 * row['seconds'] / row['size']:.0f} ms"]
                for row in batches
            ],
        ),
        Sheet(
            "workers and threads, one utterance at a time each",
            ["workers x threads", "compute type", "utterances a second", "median time of one"],
            [
                [
                    f"{row['workers']} x {row['threads']}",
                    row["compute_type"],
                    f"{row['utterances_per_s']:.2f}",
                    f"{1000 * row['median_s']:.0f} ms",
                ]
                for row in workers
            ],
        ),
    ]

"""What sessions and engines say to each other. Pure data; neither side knows the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stt_core.audio import Samples

# Why a transcript deserves a second look: the model went in circles, hardly believes itself, or found little.
Doubt = Literal["looped", "weak", "sparse"]
Task = Literal["transcribe", "translate"]  # translate: into English, where the model can
Timestamps = Literal["segment", "word"]
Alternatives = Callable[[str], Mapping[str, str]]  # of a transcript, by a name for each; pure


@dataclass(frozen=True, slots=True)
class Request:
    """One utterance to transcribe.

    A second look costs several times the first. Whoever is `quick` gets a doubtful first transcript as it is and
    may come back with it as `first` to have the second look alone.
    """

    samples: Samples  # (n,) float32 at 16 kHz, trimmed to the speech
    language: str  # a Whisper code (`ko`, `en`, …) or `auto`
    quick: bool = False
    first: "Transcript | None" = None
    hurried: bool = False  # many wait: a greedy look, and a second one only at what is plainly wrong
    draft: bool = False  # the utterance is still being said: a greedy look, never a second one
    task: Task = "transcribe"
    hotwords: str = ""  # words to expect, which bias the decoder
    prompt: str = ""  # text to go on from, which biases the decoder as well
    timestamps: Timestamps | None = None  # word: segments with their words
    vad_ratio: float | None = None  # how sure the voice detector is (`stt_core.evidence`); None: it was not asked
    alternatives: Alternatives | None = None  # what the text may be instead: `Transcript.heard` answers


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a session wants its utterances decoded."""

    language: str = "auto"  # a Whisper code or `auto`
    task: Task = "transcribe"
    hotwords: str = ""
    alternatives: Alternatives | None = None

    def request(
        self,
        samples: Samples,
        *,
        vad_ratio: float | None = None,
        quick: bool = False,
        first: "Transcript | None" = None,
        draft: bool = False,
    ) -> Request:
        return Request(
            samples,
            self.language,
            quick=quick,
            first=first,
            draft=draft,
            task=self.task,
            hotwords=self.hotwords,
            vad_ratio=vad_ratio,
            alternatives=None if draft else self.alternatives,
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """What a transcript took."""

    queue_s: float = 0.0  # waiting for the model
    infer_s: float = 0.0  # in the model

    def __add__(self, other: "Timing") -> "Timing":
        return Timing(self.queue_s + other.queue_s, self.infer_s + other.infer_s)


@dataclass(frozen=True, slots=True)
class Word:
    """A word as Whisper writes it, with its place in the request's samples."""

    text: str
    start_s: float
    end_s: float
    probability: float  # mean of its tokens


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence, or as much of one as can be read at once, with its place in the request's samples."""

    text: str
    start_s: float
    end_s: float
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] = ()  # only where words were asked for


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the model heard. `text` is empty where nothing intelligible was said."""

    text: str
    language: str
    avg_logprob: float = 0.0  # mean log probability of a token
    no_speech_prob: float = 0.0  # how much the model believes that this is not speech
    second_look: bool = False  # the first was in doubt; this is the better of two
    doubt: Doubt | None = None  # only for quick requests: the second look is still to come
    segments: tuple[Segment, ...] = ()  # only where timestamps were asked for
    heard: Mapping[str, float] = field(default_factory=dict)  # of each alternative: the avg_logprob of its own tokens


class Engine(Protocol):
    """A model that several threads may call at once."""

    model: str  # what it is called on the wire
    workers: int  # calls of `transcribe` that run in parallel
    max_batch_size: int

    @property
    def counts(self) -> Mapping[str, int]:
        """How often it had to do more for an answer: by each `Doubt`, and `whole_model`."""
        ...

    def load(self) -> None:
        """Load the model; blocking. Raises ModelError with a sentence for the operator."""
        ...

    def transcribe(self, requests: Sequence[Request]) -> list[Transcript]:
        """One transcript for each request, in order; blocking."""
        ...
